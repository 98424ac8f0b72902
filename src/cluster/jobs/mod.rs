//! Kubernetes Jobs with an image of the user's own: creating one, waiting for its end, deleting it.
//!
//! The operator needs `create`, `list`, `watch` and `delete` on `jobs`, `list` and `watch` on `pods`, and `get` on `pods/log`.

mod failure;
mod manifest;
mod template;
mod wait;

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

pub use failure::Failure;
pub use manifest::{Identity, RESERVED, complete, name};
pub use template::parse;
pub use wait::{Ended, wait, wait_gone};

use super::{CallError, ClusterError, FIELD_MANAGER, call};

/// Label of every pod of a Job.
pub(super) const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

fn failed(action: &'static str, namespace: &str, name: &str) -> impl FnOnce(CallError) -> ClusterError {
    let object = format!("Job {namespace}/{name}");
    move |cause| ClusterError::Call { action, object, cause }
}

/// Creates a Job, unless one of its name exists. `dry_run`: everything is checked, and nothing is stored.
///
/// # Errors
/// When the API server refuses it or does not answer.
pub async fn create(client: &Client, namespace: &str, job: &Job, dry_run: bool) -> Result<(), ClusterError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()) };
    match call(|| api.create(&params, job)).await {
        // An earlier attempt of this request has come through, perhaps one of a process that was killed.
        Err(CallError::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(()),
        result => result.map(drop).map_err(failed("create", namespace, job.metadata.name.as_deref().unwrap_or_default())),
    }
}

/// Whether there is a Job of this name.
///
/// # Errors
/// When the API server refuses to say or does not answer.
pub async fn exists(client: &Client, namespace: &str, name: &str) -> Result<bool, ClusterError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    call(|| api.list(&params)).await.map(|found| !found.items.is_empty()).map_err(failed("find", namespace, name))
}

/// Deletes a Job; it is gone once its pods are. Nothing to do when there is none.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn delete(client: &Client, namespace: &str, name: &str) -> Result<(), ClusterError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams::foreground();
    match call(|| api.delete(name, &params)).await {
        Err(cause) if cause.is_not_found() => Ok(()),
        result => result.map(drop).map_err(failed("delete", namespace, name)),
    }
}
