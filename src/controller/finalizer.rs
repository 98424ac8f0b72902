//! The finalizer of a `PortalRelease`, and why a reconcile failed.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use thiserror::Error;

use super::Shared;
use crate::{
    api::{FINALIZER, PortalRelease},
    cluster::{self, ClusterError, FIELD_MANAGER},
};

/// Why a reconcile failed.
#[derive(Debug, Error)]
pub(super) enum ReconcileError {
    /// A request to the API server failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The ledger could not be written.
    #[error("the ledger could not be written: {0}")]
    Ledger(#[from] sqlx::Error),
}

/// Puts the finalizer on the object, or takes it off.
pub(super) async fn set_finalizer(shared: &Shared, release: &PortalRelease, held: bool) -> Result<(), ReconcileError> {
    let (namespace, name) = (release.namespace().unwrap_or_default(), release.name_any());
    let api: Api<PortalRelease> = Api::namespaced(shared.client.clone(), &namespace);
    let finalizers: &[&str] = if held { &[FINALIZER] } else { &[] };
    let patch = json!({
        "apiVersion": PortalRelease::api_version(&()),
        "kind": PortalRelease::kind(&()),
        "metadata": { "name": name, "namespace": namespace, "uid": release.uid(), "finalizers": finalizers },
    });
    let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&patch));
    match cluster::call(|| api.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(cause) => {
            Err(ClusterError::Call { action: "write the finalizer of", object: format!("PortalRelease {namespace}/{name}"), cause }.into())
        }
    }
}
