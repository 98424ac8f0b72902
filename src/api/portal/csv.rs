//! CSV files.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigMapKeyRef, SecretKeyRef, yes};
use crate::api::{Identifier, ItemName, named_enum};

/// A CSV file from an object store, a URL or a ConfigMap. Its header names the target's columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.objectStoreRef), has(self.url), has(self.configMapKeyRef)].filter(x, x).size() == 1").message("csv needs exactly one of objectStoreRef (with path), url and configMapKeyRef"))]
#[x_kube(validation = Rule::new("has(self.objectStoreRef) == has(self.path)").message("csv.objectStoreRef and csv.path go together"))]
#[x_kube(validation = Rule::new("!has(self.path) || (!self.path.startsWith('/') && !self.path.split('/').exists(p, p == '..'))").message("csv.path must be relative to the object store and must not contain '..'"))]
#[x_kube(validation = Rule::new("!has(self.url) || self.url.matches('^https?://[^/@?#]+(/[^@]*)?$')").message("csv.url must begin with http:// or https:// and a host, without user, password and '@'; a secret goes into csv.requestHeader"))]
#[x_kube(validation = Rule::new("!has(self.requestHeader) || has(self.url)").message("csv.requestHeader goes with csv.url"))]
#[x_kube(validation = Rule::new("!has(self.header) || self.header").message("csv.header must be true: the header names the columns"))]
#[x_kube(validation = Rule::new("!has(self.nullString) || !self.nullString.contains(has(self.delimiter) ? self.delimiter : ',')").message("csv.nullString must not contain the delimiter"))]
#[x_kube(validation = Rule::new("!has(self.columns) || self.columns.all(a, self.columns.exists_one(b, self.columns[a] == self.columns[b]))").message("csv.columns must not put two columns of the file into one column of the table"))]
pub struct Csv {
    /// Name of one of the Portal's `objectStores`. It needs `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store_ref: Option<ItemName>,
    /// Template of the object's key, relative to the object store's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub path: Option<String>,
    /// Template of an `http://` or `https://` URL. Redirects are not followed; addresses of the operator's own host and of metadata
    /// services are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048))]
    pub url: Option<String>,
    /// A header that is sent with the request to `url`, with its value from a Secret. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header: Option<RequestHeader>,
    /// A key of a ConfigMap in the same namespace, in `data` or `binaryData`, that holds the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
    /// How the file is compressed. `Auto` goes by its name: `.gz` is gzip, `.zst` is Zstandard, anything else is not compressed.
    #[serde(default)]
    pub compression: FileCompression,
    /// The first line names the columns. Must be `true`.
    #[serde(default = "yes")]
    pub header: bool,
    /// Columns of the table by columns of the file. A column of the file that is not listed goes into the table's column of the same name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub columns: BTreeMap<String, Identifier>,
    /// The character between two fields, such as `;` or a tab.
    #[serde(default = "default_delimiter")]
    #[schemars(length(min = 1, max = 1), regex(pattern = r"^[\t -!#-~]$"))]
    pub delimiter: String,
    /// The unquoted text that means NULL. Default: an empty field.
    #[serde(default)]
    #[schemars(length(max = 32), regex(pattern = r#"^[^"\r\n]*$"#))]
    pub null_string: String,
    /// The file's encoding by Postgres' name, such as `UTF8`, `LATIN1` or `WIN1252`.
    #[serde(default = "default_encoding")]
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub encoding: String,
}

fn default_delimiter() -> String {
    ",".to_owned()
}

fn default_encoding() -> String {
    "UTF8".to_owned()
}

/// A header of an HTTP request, with its value from a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestHeader {
    /// Its name, such as `Authorization`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// Secret key with its value, such as `Bearer ...`.
    pub value_secret_ref: SecretKeyRef,
}

named_enum! {
    /// How a file is compressed.
    #[derive(Default)]
    pub enum FileCompression {
        /// By its name: `.gz` is gzip, `.zst` is Zstandard, anything else is not compressed.
        #[default]
        Auto,
        /// Not compressed.
        None,
        /// gzip.
        Gzip,
        /// Zstandard, with a window of at most 8 MiB (levels up to 19, without `--long`).
        Zstd,
    }
}
