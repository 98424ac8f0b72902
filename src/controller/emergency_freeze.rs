//! The emergency freeze: `frozen` of a Portal stops its workers and holds them, with and without a release, and without the database.
//!
//! Its record is the Portal's status, as no database may be needed; it is written before the first workload is touched.

use std::time::Duration;

use kube::{Api, Resource, ResourceExt, api::ListParams};

use super::{Shared, finalizer::ReconcileError};
use crate::{
    api::{FrozenWorkload, Portal, PortalRelease, PortalStatus},
    cluster::{
        self, ClusterError, EventType,
        workers::{self, WorkerError, corrected},
    },
};

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// While workers stop.
const STOPPING: Duration = Duration::from_secs(2);
/// While workers are held at zero: another controller may start them.
const HOLDING: Duration = Duration::from_secs(15);

/// The state of the emergency freeze.
pub(super) struct Freeze {
    /// The workloads that it holds, as they were before.
    pub record: Vec<FrozenWorkload>,
    /// When to check again.
    pub again: Option<Duration>,
    /// Status of the condition `WorkersFrozen`.
    pub frozen: &'static str,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Freeze {
    fn failed(record: Vec<FrozenWorkload>, reason: &'static str, error: &WorkerError) -> Self {
        Self { record, again: Some(PAUSE), frozen: "Unknown", reason, message: error.to_string() }
    }
}

/// Stops the workers, holds them, or brings them back.
pub(super) async fn emergency_freeze(shared: &Shared, portal: &Portal, before: &PortalStatus) -> Result<Freeze, ReconcileError> {
    if portal.spec.frozen { hold(shared, portal, before).await } else { end(shared, portal, &before.frozen_workloads).await }
}

async fn hold(shared: &Shared, portal: &Portal, before: &PortalStatus) -> Result<Freeze, ReconcileError> {
    let namespace = portal.namespace().unwrap_or_default();
    let known = &before.frozen_workloads;
    let now = match workers::record(&shared.client, &namespace, &portal.spec.workers, known).await {
        Ok(now) => now,
        Err(error) => return Ok(Freeze::failed(known.clone(), "FreezeFailed", &error)),
    };
    let record = corrected(corrected(now, &frozen_by_releases(shared, portal).await?), known);
    if record != before.frozen_workloads {
        let status = PortalStatus { frozen_workloads: record.clone(), ..before.clone() };
        cluster::patch_status(&shared.client, portal, &status).await?;
        let note = format!("stopping {} workloads", record.len());
        shared.services.event(portal.object_ref(&()), EventType::Warning, "EmergencyFreeze", note);
    }
    let stopped = match workers::stop(&shared.client, &namespace, &record).await {
        Ok(()) => workers::remaining(&shared.client, &namespace, &portal.spec.workers).await,
        Err(error) => Err(error),
    };
    Ok(match stopped {
        Ok(remaining) if remaining.is_empty() => {
            let message = "workers are stopped because spec.frozen is true".to_owned();
            Freeze { record, again: Some(HOLDING), frozen: "True", reason: "EmergencyFreeze", message }
        }
        Ok(remaining) => Freeze { record, again: Some(STOPPING), frozen: "Unknown", reason: "Stopping", message: remaining.join("; ") },
        Err(error) => Freeze::failed(record, "FreezeFailed", &error),
    })
}

async fn end(shared: &Shared, portal: &Portal, known: &[FrozenWorkload]) -> Result<Freeze, ReconcileError> {
    let ended = || {
        let message = "spec.frozen is false".to_owned();
        Freeze { record: Vec::new(), again: None, frozen: "False", reason: "NotFrozen", message }
    };
    if known.is_empty() {
        return Ok(ended());
    }
    if !frozen_by_releases(shared, portal).await?.is_empty() {
        // It may still see spec.frozen as it was and leave them stopped: the numbers are kept until it is through.
        let message = "spec.frozen is false; a release has stopped the workers and will restart them".to_owned();
        return Ok(Freeze { record: known.to_vec(), again: None, frozen: "True", reason: "ReleaseRuns", message });
    }
    let namespace = portal.namespace().unwrap_or_default();
    Ok(match workers::start(&shared.client, &namespace, known).await {
        Ok(_) => {
            let note = "workers are back at their recorded replica counts".to_owned();
            shared.services.event(portal.object_ref(&()), EventType::Normal, "EmergencyFreezeEnded", note);
            ended()
        }
        Err(error) => Freeze::failed(known.to_vec(), "ThawFailed", &error),
    })
}

/// What the statuses of the portal's releases say at this moment: a release has its record there before it stops anything.
async fn frozen_by_releases(shared: &Shared, portal: &Portal) -> Result<Vec<FrozenWorkload>, ReconcileError> {
    let (namespace, name) = (portal.namespace().unwrap_or_default(), portal.name_any());
    let api: Api<PortalRelease> = Api::namespaced(shared.client.clone(), &namespace);
    let params = ListParams::default().fields(&format!("spec.portalRef.name={name}"));
    let releases = cluster::call(|| api.list(&params)).await.map_err(|cause| ClusterError::Call {
        action: "list the releases of",
        object: format!("Portal {namespace}/{name}"),
        cause,
    })?;
    Ok(releases.items.into_iter().filter_map(|release| release.status).flat_map(|status| status.frozen_workloads).collect())
}
