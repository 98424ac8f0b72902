//! What is called after the swap.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{ItemName, named_enum};

/// An HTTP request to send after the swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// Its name in messages.
    pub name: ItemName,
    /// The request.
    pub http: HttpRequest,
}

/// An HTTP request that must be answered with a status in the 200s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.url.startsWith('http://') || self.url.startsWith('https://')").message("http.url must begin with http:// or https://"))]
pub struct HttpRequest {
    /// The URL. Redirects are not followed.
    #[schemars(length(min = 8, max = 2048))]
    pub url: String,
    /// The method.
    #[serde(default)]
    pub method: HttpMethod,
}

named_enum! {
    /// Methods of a hook.
    #[derive(Default)]
    #[allow(clippy::upper_case_acronyms)]
    pub enum HttpMethod {
        /// GET
        GET,
        /// POST with an empty body.
        #[default]
        POST,
        /// PUT with an empty body.
        PUT,
        /// DELETE
        DELETE,
    }
}
