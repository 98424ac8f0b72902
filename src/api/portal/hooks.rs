//! What is called after the swap.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::HttpRequest;
use crate::api::{ItemName, JobSource};

/// Something to call after the swap, exactly one of `http` and `job`. One that succeeded is not called again in the same run, also when a
/// later one fails; it may be called more than once when the operator is killed in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.http) != has(self.job)").message("a postSwap hook needs exactly one of http and job"))]
pub struct Hook {
    /// Its name in messages.
    pub name: ItemName,
    /// An HTTP request. While its answer is not as expected it is retried a few times; then the release fails, as `onFailure` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRequest>,
    /// A Kubernetes Job. If it fails, the release fails, as `onFailure` says; the Job runs again once `retry` is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
}
