//! The manifest: what a release consists of, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    database::{
        checksum::Content,
        ledger::{imports::Account, staging::FileRead},
    },
    imports::snapshot::SourceOfData,
    work::PhaseError,
};

/// The manifest of one release, as JSON.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// Name of the Portal.
    pub portal: String,
    /// Its namespace.
    pub namespace: String,
    /// The release's label.
    pub label: String,
    /// When the release started, RFC 3339.
    pub started_at: String,
    /// When its staging was validated, RFC 3339.
    pub validated_at: String,
    /// Hash of the Portal's views, tables and imports.
    pub definition: Option<String>,
    /// Fingerprint of the tables' structure.
    pub structure: Option<String>,
    /// Whether everything comes from one moment of the source.
    pub source: SourceOfData,
    /// Tables by their live names.
    pub tables: BTreeMap<String, Part>,
    /// Materialized views by their live names.
    pub views: BTreeMap<String, Part>,
    /// What became of the rows of each import.
    pub imports: BTreeMap<String, Rows>,
}

/// What became of an import's rows: `read = imported + rejected + collapsed`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rows {
    /// Rows of the source.
    pub read: i64,
    /// Rows in the staged table.
    pub imported: i64,
    /// Rows in `portal_release.rejected_rows`.
    pub rejected: i64,
    /// Rows that the query folded into others, or that the look-up table knew already.
    pub collapsed: i64,
    /// The file that they are from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
}

/// A file that an import read.
#[derive(Clone, Debug, Serialize)]
pub(super) struct File {
    /// Where it was.
    pub name: String,
    /// How many bytes it had as it was stored; absent when only a sample was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Their SHA-256, hexadecimal; absent when only a sample was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl From<FileRead> for File {
    fn from(read: FileRead) -> Self {
        Self { name: read.name, bytes: read.bytes, sha256: read.sha256 }
    }
}

impl Rows {
    /// The account of an import, and the file that it read, if it read one.
    pub(super) fn new(account: &Account, file: Option<FileRead>) -> Self {
        let (rejected, collapsed) = (account.rejected, account.collapsed());
        Self { read: account.read, imported: account.imported, rejected, collapsed, file: file.map(File::from) }
    }
}

/// The content of one relation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    /// How many rows.
    pub rows: i64,
    /// Independent of their order.
    pub checksum: String,
}

impl From<Content> for Part {
    fn from(content: Content) -> Self {
        Self { rows: content.rows, checksum: content.checksum }
    }
}

impl Manifest {
    /// The bytes that are kept and served.
    pub(super) fn text(&self) -> Result<String, PhaseError> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| PhaseError::Refused(format!("the manifest cannot be written: {error}")))?;
        text.push('\n');
        Ok(text)
    }
}
