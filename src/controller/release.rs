//! The reconcile of a `PortalRelease`: observe, decide, project, act; and again until there is something to wait for.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;
use thiserror::Error;

use super::{
    Shared,
    act::{Flow, act, let_go_blindly},
    observe::{Blind, Scene, observe},
};
use crate::{
    api::{FINALIZER, PortalRelease, PortalReleaseStatus, ReleaseState},
    cluster::{self, ClusterError, FIELD_MANAGER},
    release::{next, status},
};

/// Steps of one reconcile; the next one goes on from there.
const STEPS: usize = 24;
/// Pause after a failure of the cluster or the database.
const PAUSE: Duration = Duration::from_secs(3);

/// Why a reconcile did not come to its end.
#[derive(Debug, Error)]
pub(super) enum ReconcileError {
    /// A request to the API server failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The ledger could not be written.
    #[error("the ledger could not be written: {0}")]
    Ledger(#[from] sqlx::Error),
}

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
    let mut before = release.status.clone().unwrap_or_default();
    for _ in 0..STEPS {
        if shared.services.term.is_over() {
            // Another operator may lead by now; this one hears of it in a moment.
            return Ok(Action::requeue(PAUSE));
        }
        let scene = match observe(shared, release).await {
            Ok(scene) => scene,
            Err(blind) => return without_sight(shared, release, before, blind).await,
        };
        let step = next(&scene.observed);
        tracing::debug!(release = release.name_any(), ?step, "{}: {step:?}", release.name_any());
        before = project(shared, release, &scene, &step, before).await?;
        match act(shared, release, &scene, step).await? {
            Flow::Again => {}
            Flow::Wait(action) => return Ok(action),
        }
    }
    Ok(Action::requeue(Duration::from_millis(100)))
}

/// Writes the status, if it has changed.
async fn project(
    shared: &Shared,
    release: &PortalRelease,
    scene: &Scene,
    step: &crate::release::Step,
    before: PortalReleaseStatus,
) -> Result<PortalReleaseStatus, ReconcileError> {
    let namespace = release.namespace().unwrap_or_default();
    let sha256 = scene.observed.release.as_ref().and_then(|record| record.manifest_sha256.clone());
    let facts = status::Facts {
        generation: release.metadata.generation.unwrap_or_default(),
        imports: scene.ledger.imports.iter().cloned().map(Into::into).collect(),
        frozen_workloads: scene.ledger.frozen.clone(),
        manifest: sha256
            .map(|sha256| shared.services.manifest(&namespace, release.spec.portal_ref.name.as_str(), release.spec.label.as_str(), sha256)),
        before: before.clone(),
    };
    let status = status::project(&scene.observed, step, facts);
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
        // Gone in between: nobody is left to read it.
        Err(error) if error.call().is_some_and(cluster::CallError::is_not_found) => Ok(status),
        Err(error) => Err(error.into()),
    }
}

/// Without the ledger nothing is decided. The object says why, and a deleted one is not held for ever.
async fn without_sight(
    shared: &Shared,
    release: &PortalRelease,
    before: PortalReleaseStatus,
    blind: Blind,
) -> Result<Action, ReconcileError> {
    let generation = release.metadata.generation.unwrap_or_default();
    if release.metadata.deletion_timestamp.is_some() && let_go_blindly(shared, release, &blind).await? {
        return Ok(Action::await_change());
    }
    let status = match &blind {
        Blind::Refused(refusal) => status::blind(&before, generation, jiff::Timestamp::now(), refusal.reason, &refusal.message, true),
        Blind::Unreachable(message) => {
            tracing::warn!(release = release.name_any(), "{}: {message}", release.name_any());
            status::blind(&before, generation, jiff::Timestamp::now(), "DatabaseUnreachable", message, false)
        }
    };
    write_status(shared, release, before, status).await?;
    Ok(match blind {
        // A Secret is not watched.
        Blind::Refused(refusal) if refusal.reason == "PortalNotFound" => Action::await_change(),
        _ => Action::requeue(PAUSE),
    })
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
