//! Acting: one step, one effect.

use std::{sync::Arc, time::Duration};

use kube::{Resource, ResourceExt, runtime::controller::Action};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    finalizer::{ReconcileError, set_finalizer},
    observe::{ObserveError, Snapshot},
    settled::portal_of,
};
use crate::{
    api::{FrozenWorkload, PhaseName, PortalRelease, ReleaseState},
    cluster::{self, EventType, workers},
    database::{
        ledger::{
            phases::{Attempt, begin},
            runs::{self, NewRun, Reopening},
        },
        lock::{Fenced, LockError},
    },
    notify::{Audience, Notice},
    release::{
        Direction, LockView, RunKind, RunRecord, Step,
        definition::Sources,
        phases::{Needs, facts},
        plan::{Again, plan, replan, starts},
        written::accepted,
    },
    work::{Context, Control, Progress, Subject, Tools},
};

/// The interval at which to check again for what no watch reports, such as a busy lock.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a deleted object waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What comes after a step.
pub(super) enum Flow {
    /// Observe again at once.
    Again,
    /// Wait for a change.
    Wait(Action),
}

/// Takes one step.
pub(super) async fn act(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot, step: Step) -> Result<Flow, ReconcileError> {
    let rest = || Ok(Flow::Wait(Action::await_change()));
    match step {
        Step::Rest | Step::Refuse(_) | Step::Queue(_) => {
            // The lock of a run that has ended, or that has no owner any more, is not kept.
            if snapshot.observed.lock == LockView::Held && snapshot.ledger.open.is_none() {
                snapshot.database.release().await;
            }
            rest()
        }
        Step::Hold => rest(),
        Step::Wait { again } => Ok(Flow::Wait(again.map_or_else(Action::await_change, Action::requeue))),
        Step::StopTask { now } => {
            shared.runner.stop(&snapshot.observed.uid, now);
            rest()
        }
        Step::Open(kind) => open(shared, snapshot, kind, None).await,
        Step::RollBack { message } => open(shared, snapshot, RunKind::Rollback, Some(&message)).await,
        Step::Reopen => reopen(shared, snapshot).await,
        Step::Adopt => {
            if let Some(record) = &snapshot.observed.release {
                let mut connection = snapshot.database.pool().acquire().await?;
                runs::adopt(&mut connection, record.id, &snapshot.owner.name, &snapshot.observed.uid).await?;
            }
            Ok(Flow::Again)
        }
        Step::Confirm => {
            let (record, run) = (&snapshot.observed.release, &snapshot.observed.run);
            if let (Some(record), Some(run), Some(rollback)) = (record, run, &snapshot.observed.spec.rollback) {
                let mut connection = snapshot.database.pool().acquire().await?;
                runs::confirm(&mut connection, record.id, run.id, &rollback.to).await?;
            }
            Ok(Flow::Again)
        }
        Step::Settle => {
            if let Some(record) = &snapshot.observed.release {
                let mut connection = snapshot.database.pool().acquire().await?;
                runs::settle(&mut connection, record.id).await?;
            }
            Ok(Flow::Again)
        }
        Step::End { state, message } => {
            if let Some(run) = &snapshot.observed.run {
                let mut connection = snapshot.database.pool().acquire().await?;
                runs::end(&mut connection, run.id, state, snapshot.observed.spec.retry, &message).await?;
            }
            Ok(Flow::Again)
        }
        Step::Reap(_) => {
            // The Portal's reconcile cleans up, and wakes who waits for it.
            shared.wake_portal(portal_of(release));
            Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)))
        }
        Step::Acquire => acquire(snapshot).await,
        Step::Run(phase) => start(shared, snapshot, phase, false).await,
        Step::Undo(phase) => start(shared, snapshot, phase, true).await,
        Step::Close { state, message } => close(shared, snapshot, state, &message).await,
        Step::Finalize => {
            set_finalizer(shared, release, false).await?;
            shared.wake_siblings(&release.namespace().unwrap_or_default(), release.spec.portal_ref.name.as_str());
            rest()
        }
    }
}

/// Opens a run. `failed`: why the open one has failed, which is closed for it.
async fn open(shared: &Shared, snapshot: &Snapshot, kind: RunKind, failed: Option<&str>) -> Result<Flow, ReconcileError> {
    let (spec, owner) = (&snapshot.observed.spec, &snapshot.owner);
    let Ok(portal) = &snapshot.observed.portal else { return Ok(Flow::Wait(Action::await_change())) };
    let has_failed = snapshot.observed.release.as_ref().is_some_and(|record| record.state == ReleaseState::Failed);
    let is_live = kind == RunKind::Release && has_failed && snapshot.observed.current;
    let phases = starts(plan(kind, portal, spec), is_live);
    let rollback = spec.rollback.as_ref();
    let reason = match kind {
        RunKind::Rollback => rollback.and_then(|rollback| rollback.reason.as_deref()),
        RunKind::Release | RunKind::RollForward => spec.reason.as_deref(),
    };
    let new = NewRun {
        portal: snapshot.database.key(),
        label: spec.label.as_str(),
        name: &owner.name,
        uid: &snapshot.observed.uid,
        reason,
        kind,
        target: rollback.map(|rollback| rollback.to.as_str()),
        accept_data_loss: accepted(kind.incoming(), spec),
        retry: spec.retry,
        abort: spec.abort.as_ref().map(|abort| abort.reason.as_str()),
        cause: failed,
        phases: &phases,
    };
    let mut connection = snapshot.database.pool().acquire().await?;
    let opened = match (failed, &snapshot.observed.run) {
        (Some(_), Some(run)) => runs::roll_back(&mut connection, run.id, &new).await?,
        _ => runs::open(&mut connection, &new).await?,
    };
    drop(connection);
    if !opened {
        // Another process was faster; the next reconcile shows what blocks this one.
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    if let Some(message) = failed {
        closed(shared, snapshot, ReleaseState::Failed, message).await;
    }
    let (reason, note) = match kind {
        RunKind::Release => ("ReleaseStarted", format!("release {} has started", spec.label)),
        RunKind::Rollback if failed.is_some() => ("RollbackStarted", format!("rolling {} back, as onFailure is Rollback", spec.label)),
        RunKind::Rollback => ("RollbackStarted", format!("rolling {} back", spec.label)),
        RunKind::RollForward => ("RollForwardStarted", format!("rolling {} forward", spec.label)),
    };
    tracing::info!(release = owner.name, label = %spec.label, "{note}");
    shared.services.event(owner.object.clone(), EventType::Normal, reason, note);
    if kind == RunKind::Release {
        shared.services.notify(audience(snapshot), Notice::Started { dry_run: spec.dry_run });
    }
    Ok(Flow::Again)
}

async fn reopen(shared: &Shared, snapshot: &Snapshot) -> Result<Flow, ReconcileError> {
    let (spec, owner) = (&snapshot.observed.spec, &snapshot.owner);
    let (Ok(portal), Some(run), Some(record)) = (&snapshot.observed.portal, &snapshot.observed.run, &snapshot.observed.release) else {
        return Ok(Flow::Wait(Action::await_change()));
    };
    let again = snapshot.observed.again();
    let reimport = again == Again::Resume { reimport: true };
    let phases = replan(&run.phases, plan(run.kind, portal, spec), again);
    let imports: Vec<&str> = spec.imports.only.iter().filter(|_| reimport).map(|import| import.as_str()).collect();
    let why = match record.state {
        _ if again == Again::CleanUp => "cleaning up",
        _ if reimport => "importing again",
        ReleaseState::DryRunComplete => "going live from the dry run",
        ReleaseState::Suspended => "the selected phases have changed",
        _ => "retry",
    };
    let how = Reopening {
        release: record.id,
        run: run.id,
        retry: spec.retry,
        abort: spec.abort.as_ref().map(|abort| abort.reason.as_str()),
        phases: &phases,
        fresh: again == Again::Fresh,
        again: &imports,
        recheck: matches!(again, Again::Resume { .. }) && run.builds() && !run.has_swapped(),
        why,
    };
    let mut connection = snapshot.database.pool().acquire().await?;
    if !runs::reopen(&mut connection, &how).await? {
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    tracing::info!(release = owner.name, label = %spec.label, "{} resumes: {why}", spec.label);
    shared.services.event(owner.object.clone(), EventType::Normal, "Resumed", why.to_owned());
    Ok(Flow::Again)
}

async fn acquire(snapshot: &Snapshot) -> Result<Flow, ReconcileError> {
    let lock_key = snapshot.portal.spec.database.lock_key;
    match snapshot.database.acquire(lock_key).await {
        Ok(()) => Ok(Flow::Again),
        Err(error @ LockError::Busy { .. }) => {
            tracing::info!(release = snapshot.owner.name, "{}: {error}", snapshot.owner.name);
            Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)))
        }
        Err(LockError::Over) => Ok(Flow::Wait(Action::requeue(LOOK_AGAIN))),
        Err(LockError::Database(error)) => Err(error.into()),
    }
}

/// Starts a phase as a task: as its entry in the run says, or the other way round where the run is being cleaned up.
async fn start(shared: &Shared, snapshot: &Snapshot, phase: PhaseName, unwinding: bool) -> Result<Flow, ReconcileError> {
    let (Some(run), Some(record)) = (&snapshot.observed.run, &snapshot.observed.release) else {
        return Ok(Flow::Wait(Action::await_change()));
    };
    let (portal, owner, spec) = (&snapshot.portal, &snapshot.owner, &snapshot.observed.spec);
    let fence = match snapshot.database.fence().await {
        None if facts(phase).needs == Needs::Lock || unwinding => return Ok(Flow::Again),
        fence => fence,
    };
    let attempt = if unwinding {
        let epoch = fence.as_ref().map_or(0, |fence| fence.epoch);
        Attempt { release: record.id, run: run.id, phase, direction: Direction::Undo, unwinding, number: 0, epoch }
    } else {
        let direction = run.record(phase).map_or(Direction::Do, |record| record.direction);
        let mut connection = snapshot.database.pool().acquire().await?;
        match begin(&mut connection, record.id, run.id, phase, direction, fence.as_ref()).await {
            Ok(attempt) => attempt,
            Err(Fenced::Database(error)) => return Err(error.into()),
            Err(fenced) => {
                tracing::warn!(release = owner.name, "{}: {fenced}", owner.name);
                snapshot.database.forget().await;
                return Ok(Flow::Again);
            }
        }
    };
    let terminating = snapshot.observed.deleting && cluster::is_terminating(&shared.client, &owner.namespace).await;
    let progress = Arc::new(Progress::new(shared.waker.clone(), owner.wake.clone()));
    let context = Context {
        subject: Subject {
            namespace: owner.namespace.clone(),
            name: owner.name.clone(),
            object: owner.object.clone(),
            portal_name: portal.name_any(),
            portal: portal.spec.clone(),
            spec: spec.clone(),
            sources: Sources::new(),
            release_id: record.id,
            parked: record.parked.clone(),
            backup: record.backup.clone(),
            started_at: record.started_at.unwrap_or_else(jiff::Timestamp::now),
            run: run.clone(),
            attempt,
            namespace_terminating: terminating,
        },
        tools: Tools { client: shared.client.clone(), database: snapshot.database.clone(), services: shared.services.clone() },
        control: Control { fence, cancel: shared.runner.token(), pause: CancellationToken::new(), progress, backends: Arc::default() },
    };
    let what = if unwinding { "is being undone" } else { "begins" };
    tracing::info!(release = owner.name, label = %spec.label, phase = phase.as_str(), attempt = attempt.number, "{}: {phase} {what}", spec.label);
    shared.runner.start(&snapshot.observed.uid, context);
    Ok(Flow::Again)
}

/// Closes the run.
async fn close(shared: &Shared, snapshot: &Snapshot, state: ReleaseState, message: &str) -> Result<Flow, ReconcileError> {
    let Some(run) = &snapshot.observed.run else { return Ok(Flow::Wait(Action::await_change())) };
    let mut connection = snapshot.database.pool().acquire().await?;
    runs::close(&mut connection, run.id, state, message).await?;
    drop(connection);
    closed(shared, snapshot, state, message).await;
    Ok(Flow::Again)
}

/// After a run was closed: the lock is released, people are notified, and releases that wait are woken.
async fn closed(shared: &Shared, snapshot: &Snapshot, state: ReleaseState, message: &str) {
    let (spec, owner) = (&snapshot.observed.spec, &snapshot.owner);
    snapshot.database.release().await;
    let took = snapshot
        .observed
        .release
        .as_ref()
        .and_then(|record| record.started_at)
        .map_or(Duration::ZERO, |started| Duration::try_from(snapshot.observed.now.duration_since(started)).unwrap_or_default());
    let services = &shared.services;
    services.metrics.release_ended(state, took);
    tracing::info!(release = owner.name, label = %spec.label, state = state.as_str(), "{} is {state}: {message}", spec.label);
    let (type_, reason) = match state {
        ReleaseState::Failed => (EventType::Warning, "Failed"),
        ReleaseState::Aborted => (EventType::Warning, "Aborted"),
        ReleaseState::RolledBack => (EventType::Normal, "RolledBack"),
        ReleaseState::DryRunComplete => (EventType::Normal, "DryRunComplete"),
        ReleaseState::Suspended => (EventType::Normal, "Suspended"),
        _ => (EventType::Normal, "Live"),
    };
    services.event(owner.object.clone(), type_, reason, message.to_owned());
    let failed_in = snapshot.observed.run.as_ref().and_then(RunRecord::failed).map(|failed| failed.name);
    match state {
        ReleaseState::Live => {
            let rows = snapshot.ledger.imports.iter().map(|import| import.rows).sum();
            services.notify(audience(snapshot), Notice::Live { took, rows });
        }
        ReleaseState::Failed => services.notify(audience(snapshot), Notice::Failed { phase: failed_in, cause: message.to_owned() }),
        ReleaseState::Aborted => services.notify(audience(snapshot), Notice::Aborted { cause: message.to_owned() }),
        _ => {}
    }
    shared.wake_siblings(&owner.namespace, spec.portal_ref.name.as_str());
}

fn audience(snapshot: &Snapshot) -> Audience {
    Audience {
        namespace: snapshot.owner.namespace.clone(),
        portal: snapshot.observed.spec.portal_ref.name.0.clone(),
        label: snapshot.observed.spec.label.0.clone(),
        notifications: snapshot.portal.spec.notifications.clone(),
    }
}

/// A deleted object whose ledger cannot be read: the workers come back from what the status says. Returns `true` once the finalizer is removed.
pub(super) async fn remove_finalizer_unobserved(
    shared: &Shared,
    release: &PortalRelease,
    error: &ObserveError,
) -> Result<bool, ReconcileError> {
    let namespace = release.namespace().unwrap_or_default();
    let waited = release
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(Duration::ZERO, |since| Duration::try_from(jiff::Timestamp::now().duration_since(since.0)).unwrap_or_default());
    let cause = match error {
        ObserveError::Refused(refusal) => refusal.message.clone(),
        ObserveError::Unreachable(message) if waited > PATIENCE => message.clone(),
        ObserveError::Unreachable(_) => return Ok(false),
    };
    if !cluster::is_terminating(&shared.client, &namespace).await {
        let frozen: Vec<FrozenWorkload> = release.status.as_ref().map(|status| status.frozen_workloads.clone()).unwrap_or_default();
        if let Err(error) = workers::start(&shared.client, &namespace, &frozen).await {
            tracing::warn!(release = release.name_any(), %error, "{}: the workers are not restored yet: {error}", release.name_any());
            return Ok(false);
        }
        let note = format!("finalizer removed without cleaning up the database: {cause}; that is done once its database answers");
        shared.services.event(release.object_ref(&()), EventType::Warning, "CleanupSkipped", note);
    }
    tracing::warn!(
        release = release.name_any(),
        cause,
        "{}: finalizer removed without cleaning up the database: {cause}",
        release.name_any()
    );
    set_finalizer(shared, release, false).await?;
    Ok(true)
}
