//! The reconcile of a `Portal`: the emergency freeze, and the status.

use std::{sync::Arc, time::Duration};

use kube::{ResourceExt, runtime::controller::Action};

use super::{Shared, emergency_freeze::emergency_freeze, finalizer::ReconcileError, orphan, settled};
use crate::{
    api::{Conditions, Label, Portal, PortalStatus},
    cluster,
    database::{inventory::human, ledger, portal::PortalDatabase},
};

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How often the clean-up of a release that is gone is looked at: its tasks wake nobody.
const CLEANING_UP: Duration = Duration::from_secs(1);
/// How often an idle portal is observed: its ledger may have been changed or restored.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

pub(super) async fn reconcile(portal: Arc<Portal>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let (namespace, name) = (portal.namespace().unwrap_or_default(), portal.name_any());
    if portal.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if !shared.all_known().await || shared.services.term.is_over() {
        return Ok(Action::requeue(PAUSE));
    }
    let before = portal.status.clone().unwrap_or_default();
    let freeze = emergency_freeze(&shared, &portal, &before).await?;
    // What cannot be read stays as it was.
    let mut status = PortalStatus { frozen_workloads: freeze.record, conditions: Vec::new(), ..before.clone() };
    let ready = observe(&shared, &portal, &mut status).await;
    let retry = match &ready {
        Ok(orphan) => orphan.as_ref().map(|_| CLEANING_UP),
        Err(_) => Some(PAUSE),
    };
    let generation = portal.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    let mut conditions = Conditions::new(jiff::Timestamp::now(), generation, &before.conditions);
    let reason = match &ready {
        Ok(orphan) => {
            conditions.push("Ready", "True", "Connected", "the database is reachable and the ledger is up to date");
            match orphan {
                Some(name) => {
                    let message = format!("cleaning up after PortalRelease {name}, which was deleted without its finalizer");
                    conditions.push("Reconciling", "True", "CleaningUp", &message);
                }
                None => conditions.push("Reconciling", "False", "Connected", "nothing to do"),
            }
            "Connected"
        }
        Err(message) => {
            conditions.push("Ready", "Unknown", "DatabaseUnreachable", message);
            conditions.push("Reconciling", "True", "DatabaseUnreachable", message);
            "DatabaseUnreachable"
        }
    };
    conditions.push("Stalled", "False", reason, "the operator continues by itself");
    conditions.push("WorkersFrozen", freeze.frozen, freeze.reason, &freeze.message);
    status.conditions = conditions.finish();
    if status != before {
        match cluster::patch_status(&shared.client, portal.as_ref(), &status).await {
            Ok(_) => {}
            Err(error) if error.call().is_some_and(cluster::CallError::is_not_found) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tracing::debug!(namespace, portal = name, "{name}: status is up to date");
    Ok(match (freeze.again, retry) {
        (Some(again), Some(retry)) => Action::requeue(again.min(retry)),
        (Some(again), None) | (None, Some(again)) => Action::requeue(again),
        (None, None) => Action::requeue(LOOK_AGAIN),
    })
}

pub(super) fn failed(portal: Arc<Portal>, error: &ReconcileError, _: Arc<Shared>) -> Action {
    tracing::warn!(portal = portal.name_any(), namespace = portal.namespace(), %error, "reconcile of Portal {} failed: {error}", portal.name_any());
    Action::requeue(PAUSE)
}

/// Connects, cleans up after a release that is gone, and reads the states of finished releases, which release readers see and which backups
/// exist. Returns the name of a release that is gone and whose run is still open.
async fn observe(shared: &Shared, portal: &Arc<Portal>, status: &mut PortalStatus) -> Result<Option<String>, String> {
    let database = shared.portals.database(portal).await.map_err(|error| error.to_string())?;
    let looked = look_into(shared, portal, &database, status).await;
    database.rest().await;
    looked
}

async fn look_into(
    shared: &Shared,
    portal: &Arc<Portal>,
    database: &Arc<PortalDatabase>,
    status: &mut PortalStatus,
) -> Result<Option<String>, String> {
    let orphan = orphan::reap(shared, portal, database).await.map_err(|error| error.to_string())?;
    settled::look(shared, portal, database).await.map_err(|error| format!("the ledger cannot be read: {error}"))?;
    let read = async {
        let mut connection = database.pool().acquire().await?;
        ledger::exchange::current_label(&mut connection, database.key()).await
    };
    let label = read.await.map_err(|error| format!("the ledger cannot be read: {error}"))?;
    status.current_label = label.map(Label);
    let (count, backups) = super::portal_backups::list(database, &portal.spec, &status.backups).await?;
    status.backup_count = i32::try_from(count).unwrap_or(i32::MAX);
    status.backup_size = (count > 0).then(|| human(backups.iter().map(|backup| backup.bytes).sum()));
    status.backups = backups;
    Ok(orphan)
}
