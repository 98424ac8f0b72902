//! HTTP requests that a Portal names.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigMapKeyRef, RequestHeader, SecretKeyRef};
use crate::api::{Duration, named_enum};

/// An HTTP request, and the answer that is expected. Redirects are not followed; addresses of the operator's own host and of metadata
/// services are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.url.matches('^https?://[^/@?#]+([/?][^@]*)?$')").message("http.url must begin with http:// or https:// and a host, without user, password and '@'; a secret goes into http.headers"))]
#[x_kube(validation = Rule::new("!has(self.caFrom) || self.url.startsWith('https://')").message("http.caFrom goes with https://"))]
#[x_kube(validation = Rule::new("!has(self.timeout) || (duration(self.timeout) > duration('0s') && duration(self.timeout) <= duration('1h'))").message("http.timeout must be more than 0s and at most 1h"))]
pub struct HttpRequest {
    /// An `http://` or `https://` URL without user and password. No template.
    #[schemars(length(min = 8, max = 2048))]
    pub url: String,
    /// The method. Default: `GET` for a gate, `POST` for a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// The status that the answer must have. Default: any in the 200s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub expect_status: Option<u16>,
    /// A text that must occur in the first 64 KiB of the answer's body, which must not be compressed. Default: the body is not checked. No
    /// message repeats the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expect_body: Option<String>,
    /// Headers that are sent, with their values from Secrets. Default: none. A body that is JSON is sent with
    /// `Content-Type: application/json`, unless a header says otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub headers: Vec<RequestHeader>,
    /// The body that is sent. No template. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
    /// How long one request may take. Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How often the request is repeated, each time 1 s later, while the answer is not as expected. Default: `0`. A request that is
    /// refused before it is sent, such as one to a local address, is not repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60))]
    pub retries: Option<u8>,
    /// A CA certificate (PEM) that is trusted in addition to the system's; only for `https://`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSource>,
}

/// Where a CA certificate is, in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message("caFrom needs exactly one of secretKeyRef and configMapKeyRef"))]
pub struct CaSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
}

named_enum! {
    /// HTTP methods.
    #[allow(clippy::upper_case_acronyms)]
    pub enum HttpMethod {
        /// GET
        GET,
        /// POST
        POST,
        /// PUT
        PUT,
        /// DELETE
        DELETE,
    }
}
