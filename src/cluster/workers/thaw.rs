//! Bringing the workers back after a release, from its record: the one way, whoever does it and whatever became of the release.

use kube::{Api, Client};

use super::{WorkerError, start};
use crate::{
    api::{FrozenWorkload, Portal},
    cluster::call,
};

/// What became of the workers of a record. In each case the record is no longer needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thaw {
    /// Nothing was recorded.
    Nothing,
    /// The emergency freeze keeps them stopped, and has their numbers.
    Held,
    /// They are set to what was recorded; with a sentence about each one that no longer exists.
    Started(Vec<String>),
}

/// Brings back the workers that releases of a portal have stopped, unless the emergency freeze holds them. Does not wait until they are
/// available; doing it again changes nothing. After it, and not before, the record may be forgotten.
///
/// # Errors
/// When the Portal cannot be read, a workload cannot be changed, or the emergency freeze does not know all of them yet.
pub async fn thaw(client: &Client, namespace: &str, portal: &str, recorded: &[FrozenWorkload]) -> Result<Thaw, WorkerError> {
    if recorded.is_empty() {
        return Ok(Thaw::Nothing);
    }
    let api: Api<Portal> = Api::namespaced(client.clone(), namespace);
    let found = call(|| api.get_opt(portal)).await;
    let found = found.map_err(|cause| WorkerError::Call { action: "read", workload: format!("Portal {namespace}/{portal}"), cause })?;
    let Some(held) = found.filter(|portal| portal.spec.frozen) else {
        return start(client, namespace, recorded).await.map(Thaw::Started);
    };
    let held = held.status.map(|status| status.frozen_workloads).unwrap_or_default();
    let is_held = |workload: &FrozenWorkload| held.iter().any(|other| other.kind == workload.kind && other.name == workload.name);
    if recorded.iter().all(is_held) { Ok(Thaw::Held) } else { Err(WorkerError::NotHeld { portal: portal.to_owned() }) }
}
