//! The reconcile of a `PortalRelease`: observe, decide, project, act; and again until there is something to wait for.

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, runtime::controller::Action};

use super::{
    Shared,
    act::{Flow, act, remove_finalizer_unobserved},
    definition,
    finalizer::{ReconcileError, set_finalizer},
    observe::{ObserveError, Snapshot, extras, observe},
    settled::{Finished, is_slim},
};
use crate::{
    api::{FINALIZER, PortalRelease, PortalReleaseStatus, ReleaseState},
    cluster::{self, ClusterError},
    release::{Step, next, status},
};

/// Steps of one reconcile; the next one continues from there.
const STEPS: usize = 24;
/// Pause after a failure of the cluster or the database.
const PAUSE: Duration = Duration::from_secs(3);

/// One reconcile.
pub(super) async fn reconcile(release: Arc<PortalRelease>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let started = std::time::Instant::now();
    let result = steps(&release, &shared).await;
    shared.services.metrics.reconciled(result.is_ok(), started.elapsed());
    result
}

/// What to do after a failure.
pub(super) fn failed(release: Arc<PortalRelease>, error: &ReconcileError, _: Arc<Shared>) -> Action {
    tracing::warn!(release = release.name_any(), namespace = release.namespace(), %error, "reconcile of {} failed: {error}", release.name_any());
    Action::requeue(PAUSE)
}

async fn steps(release: &PortalRelease, shared: &Shared) -> Result<Action, ReconcileError> {
    if !shared.all_known().await {
        return Ok(Action::requeue(PAUSE));
    }
    let held = release.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let deleting = release.metadata.deletion_timestamp.is_some();
    match (held, deleting) {
        (false, true) => return Ok(Action::await_change()),
        (false, false) => {
            set_finalizer(shared, release, true).await?;
            return Ok(Action::await_change());
        }
        _ => {}
    }
    if shared.settled.of(shared, release) != Finished::No {
        return Ok(Action::await_change());
    }
    let Some(mut before) = shown(shared, release).await? else { return Ok(Action::await_change()) };
    for _ in 0..STEPS {
        if shared.services.term.is_over() {
            // Another operator may lead already; this one will notice in a moment.
            return Ok(Action::requeue(PAUSE));
        }
        let look = shared.settled.look_number(release);
        let snapshot = match observe(shared, release).await {
            Ok(snapshot) => snapshot,
            Err(error) => return unobserved(shared, release, before, error).await,
        };
        let step = next(&snapshot.observed);
        tracing::debug!(release = release.name_any(), ?step, "{}: {step:?}", release.name_any());
        let edited = definition::compare(shared, release, &snapshot, &step).await?;
        before = project(shared, release, &snapshot, &step, edited, before).await?;
        if step == Step::Rest {
            shared.settled.agree(release, &before, look);
        }
        match act(shared, release, &snapshot, step).await? {
            Flow::Again => {}
            Flow::Wait(action) => return Ok(action),
        }
    }
    Ok(Action::requeue(Duration::from_millis(100)))
}

/// The status that the object shows. Of a finished release the watch keeps only a part; `None`: the object is gone.
async fn shown(shared: &Shared, release: &PortalRelease) -> Result<Option<PortalReleaseStatus>, ReconcileError> {
    let status = release.status.clone().unwrap_or_default();
    if !is_slim(&status) {
        return Ok(Some(status));
    }
    let (namespace, name) = (release.namespace().unwrap_or_default(), release.name_any());
    let api: Api<PortalRelease> = Api::namespaced(shared.client.clone(), &namespace);
    let found = cluster::call(|| api.get_opt(&name)).await.map_err(|cause| ClusterError::Call {
        action: "read",
        object: format!("PortalRelease {namespace}/{name}"),
        cause,
    })?;
    Ok(found.filter(|found| found.uid() == release.uid()).map(|found| found.status.unwrap_or_default()))
}

/// Writes the status, if it has changed.
async fn project(
    shared: &Shared,
    release: &PortalRelease,
    snapshot: &Snapshot,
    step: &Step,
    edited: bool,
    before: PortalReleaseStatus,
) -> Result<PortalReleaseStatus, ReconcileError> {
    let facts = status::Extras { edited, ..extras(shared, release, &snapshot.ledger, before.clone()) };
    let status = status::project(&snapshot.observed, step, facts);
    if status.state == Some(ReleaseState::Running) {
        shared.services.metrics.importing(&status.imports);
    }
    write_status(shared, release, before, status).await
}

async fn write_status(
    shared: &Shared,
    release: &PortalRelease,
    before: PortalReleaseStatus,
    status: PortalReleaseStatus,
) -> Result<PortalReleaseStatus, ReconcileError> {
    if status == before {
        return Ok(status);
    }
    match cluster::patch_status(&shared.client, release, &status).await {
        Ok(_) => Ok(status),
        // Deleted meanwhile: the status has no reader any more.
        Err(error) if error.call().is_some_and(cluster::CallError::is_not_found) => Ok(status),
        Err(error) => Err(error.into()),
    }
}

/// Without the ledger nothing is decided. The object says why, and a deleted one is not held for ever.
async fn unobserved(
    shared: &Shared,
    release: &PortalRelease,
    before: PortalReleaseStatus,
    error: ObserveError,
) -> Result<Action, ReconcileError> {
    let generation = release.metadata.generation.unwrap_or_default();
    if release.metadata.deletion_timestamp.is_some() && remove_finalizer_unobserved(shared, release, &error).await? {
        return Ok(Action::await_change());
    }
    let status = match &error {
        ObserveError::Refused(refusal) => {
            status::unobserved(&before, generation, jiff::Timestamp::now(), refusal.reason, &refusal.message, true)
        }
        ObserveError::Unreachable(message) => {
            tracing::warn!(release = release.name_any(), "{}: {message}", release.name_any());
            status::unobserved(&before, generation, jiff::Timestamp::now(), "DatabaseUnreachable", message, false)
        }
    };
    write_status(shared, release, before, status).await?;
    Ok(match error {
        // A Secret is not watched.
        ObserveError::Refused(refusal) if refusal.reason == "PortalNotFound" => Action::await_change(),
        _ => Action::requeue(PAUSE),
    })
}
