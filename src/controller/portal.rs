//! The reconcile of a `Portal`: its status, and the emergency freeze, which works without the database.

use std::{sync::Arc, time::Duration};

use kube::{Api, Resource, ResourceExt, api::ListParams, runtime::controller::Action};

use super::{Shared, finalizer::ReconcileError};
use crate::{
    api::{Conditions, FrozenWorkload, Label, Portal, PortalRelease, PortalStatus},
    cluster::workers::corrected,
    cluster::{self, ClusterError, EventType, workers},
    database::{inventory::human, ledger},
};

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// While workers stop.
const STOPPING: Duration = Duration::from_secs(2);
/// While workers are held at zero: somebody else may wake them.
const HOLDING: Duration = Duration::from_secs(15);

pub(super) async fn reconcile(portal: Arc<Portal>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let (namespace, name) = (portal.namespace().unwrap_or_default(), portal.name_any());
    if portal.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if !shared.all_known().await || shared.services.term.is_over() {
        return Ok(Action::requeue(PAUSE));
    }
    let before = portal.status.clone().unwrap_or_default();
    let (frozen, again, freeze) = emergency_freeze(&shared, &portal, &before).await?;
    // What cannot be read stays as it was.
    let mut status = PortalStatus { frozen_workloads: frozen, conditions: Vec::new(), ..before.clone() };
    let ready = look(&shared, &portal, &mut status).await;
    let retry = ready.is_err().then_some(PAUSE);
    let generation = portal.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    let mut conditions = Conditions::new(jiff::Timestamp::now(), generation, &before.conditions);
    let reason = match &ready {
        Ok(()) => {
            conditions.push("Ready", "True", "Connected", "the database is reachable and the ledger is in place");
            conditions.push("Reconciling", "False", "Connected", "nothing to do");
            "Connected"
        }
        Err(message) => {
            conditions.push("Ready", "Unknown", "DatabaseUnreachable", message);
            conditions.push("Reconciling", "True", "DatabaseUnreachable", message);
            "DatabaseUnreachable"
        }
    };
    conditions.push("Stalled", "False", reason, "the operator continues by itself");
    let (word, reason, message) = &freeze;
    conditions.push("WorkersFrozen", word, reason, message);
    status.conditions = conditions.finish();
    if status != before {
        match cluster::patch_status(&shared.client, portal.as_ref(), &status).await {
            Ok(_) => {}
            Err(error) if error.call().is_some_and(cluster::CallError::is_not_found) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::debug!(namespace, portal = name, "{name}: status is up to date");
    Ok(match (again, retry) {
        (Some(again), Some(retry)) => Action::requeue(again.min(retry)),
        (Some(again), None) | (None, Some(again)) => Action::requeue(again),
        (None, None) => Action::await_change(),
    })
}

pub(super) fn failed(portal: Arc<Portal>, error: &ReconcileError, _: Arc<Shared>) -> Action {
    tracing::warn!(portal = portal.name_any(), namespace = portal.namespace(), %error, "reconcile of Portal {} failed: {error}", portal.name_any());
    Action::requeue(PAUSE)
}

/// Connects, and asks which release readers see and which backups there are.
async fn look(shared: &Shared, portal: &Arc<Portal>, status: &mut PortalStatus) -> Result<(), String> {
    let database = shared.portals.database(portal).await.map_err(|error| error.to_string())?;
    let read = async {
        let mut connection = database.pool().acquire().await?;
        ledger::exchange::current_label(&mut connection, database.key()).await
    };
    let label = read.await.map_err(|error| format!("the ledger cannot be read: {error}"))?;
    status.current_label = label.map(Label);
    let (count, backups) = super::portal_backups::list(&database, &portal.spec, &status.backups).await?;
    status.backup_count = i32::try_from(count).unwrap_or(i32::MAX);
    status.backup_size = (count > 0).then(|| human(backups.iter().map(|backup| backup.bytes).sum()));
    status.backups = backups;
    Ok(())
}

/// What the condition says: status, reason, message.
type Said = (&'static str, &'static str, String);

/// Stops the workers, holds them, or brings them back. The record is written to the status before the first workload is touched.
async fn emergency_freeze(
    shared: &Shared,
    portal: &Portal,
    before: &PortalStatus,
) -> Result<(Vec<FrozenWorkload>, Option<Duration>, Said), ReconcileError> {
    let namespace = portal.namespace().unwrap_or_default();
    let known = &before.frozen_workloads;
    if portal.spec.frozen {
        let now = match workers::record(&shared.client, &namespace, &portal.spec.workers, known).await {
            Ok(now) => now,
            Err(error) => return Ok((known.clone(), Some(PAUSE), ("Unknown", "FreezeFailed", error.to_string()))),
        };
        let record = corrected(corrected(now, &frozen_by_releases(shared, portal).await?), known);
        if record != before.frozen_workloads {
            let status = PortalStatus { frozen_workloads: record.clone(), ..before.clone() };
            cluster::patch_status(&shared.client, portal, &status).await?;
            shared.services.event(
                portal.object_ref(&()),
                EventType::Warning,
                "EmergencyFreeze",
                format!("stopping {} workloads", record.len()),
            );
        }
        let stopped = match workers::stop(&shared.client, &namespace, &record).await {
            Ok(()) => workers::remaining(&shared.client, &namespace, &portal.spec.workers).await,
            Err(error) => Err(error),
        };
        return Ok(match stopped {
            Ok(remaining) if remaining.is_empty() => {
                (record, Some(HOLDING), ("True", "EmergencyFreeze", "workers are stopped because spec.frozen is true".to_owned()))
            }
            Ok(remaining) => (record, Some(STOPPING), ("Unknown", "Stopping", remaining.join("; "))),
            Err(error) => (record, Some(PAUSE), ("Unknown", "FreezeFailed", error.to_string())),
        });
    }
    let not_frozen = || ("False", "NotFrozen", "spec.frozen is false".to_owned());
    if known.is_empty() {
        return Ok((Vec::new(), None, not_frozen()));
    }
    if !frozen_by_releases(shared, portal).await?.is_empty() {
        // It may still see spec.frozen as it was and leave them stopped: the numbers are kept until it is through.
        let message = "spec.frozen is false; a release has stopped the workers and will restart them".to_owned();
        return Ok((known.clone(), None, ("True", "ReleaseRuns", message)));
    }
    match workers::start(&shared.client, &namespace, known).await {
        Ok(_) => {
            shared.services.event(
                portal.object_ref(&()),
                EventType::Normal,
                "EmergencyFreezeEnded",
                "workers are back at their recorded replica counts".to_owned(),
            );
            Ok((Vec::new(), None, not_frozen()))
        }
        Err(error) => Ok((known.clone(), Some(PAUSE), ("Unknown", "ThawFailed", error.to_string()))),
    }
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
