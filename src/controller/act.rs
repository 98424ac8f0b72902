//! Acting: one step, one effect.

use std::{sync::Arc, time::Duration};

use kube::{
    Resource, ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    finalizer::{ReconcileError, set_finalizer},
    observe::{ObserveError, Snapshot},
};
use crate::{
    api::{FrozenWorkload, PhaseName, PhaseState, PortalRelease, ReleaseState},
    cluster::{self, EventType, workers},
    database::{
        ledger::{
            exchange,
            former_states::{self, Purpose},
            phases::{Attempt, begin},
            runs::{self, NewRun, Reopening},
        },
        lock::{Fenced, LockError},
    },
    notify::{Audience, Notice},
    release::{
        Direction, LockView, PlannedPhase, RunKind, Step,
        plan::{imports_again, plan, replan},
        written::accepted,
    },
    work::{Context, Control, Progress, Subject, Tools},
};

/// While the lock is busy, or another thing is waited for that nobody tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a deleted object waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What comes after a step.
pub(super) enum Flow {
    /// Observe anew at once.
    Again,
    /// Wait for a change.
    Wait(Action),
}

/// Takes one step.
pub(super) async fn act(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot, step: Step) -> Result<Flow, ReconcileError> {
    let rest = || Ok(Flow::Wait(Action::await_change()));
    match step {
        Step::Rest | Step::Refuse(_) | Step::Queue(_) => {
            // A lock of a run that is over, or that belongs to nobody any more, is not kept.
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
        Step::Open(kind) => open(shared, release, snapshot, kind).await,
        Step::Reopen => reopen(shared, release, snapshot).await,
        Step::Adopt => {
            if let Some(record) = &snapshot.observed.release {
                let mut connection = snapshot.database.pool().acquire().await?;
                runs::adopt(&mut connection, record.id, &release.name_any(), &snapshot.observed.uid).await?;
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
                runs::end(&mut connection, run.id, state, release.spec.retry, &message).await?;
            }
            Ok(Flow::Again)
        }
        Step::Reap(run) => reap(shared, release, snapshot, run).await,
        Step::Acquire => acquire(release, snapshot).await,
        Step::Run(phase) => start(shared, release, snapshot, phase, Direction::Do).await,
        Step::Undo(phase) => start(shared, release, snapshot, phase, Direction::Undo).await,
        Step::Close { state, message } => close(shared, release, snapshot, state, &message).await,
        Step::Finalize => {
            set_finalizer(shared, release, false).await?;
            shared.wake_siblings(&release.namespace().unwrap_or_default(), release.spec.portal_ref.name.as_str());
            rest()
        }
    }
}

async fn open(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot, kind: RunKind) -> Result<Flow, ReconcileError> {
    let Ok(portal) = &snapshot.observed.portal else { return Ok(Flow::Wait(Action::await_change())) };
    let planned: Vec<PlannedPhase> = plan(kind, portal, &release.spec);
    let rollback = release.spec.rollback.as_ref();
    let reason = match kind {
        RunKind::Rollback => rollback.and_then(|rollback| rollback.reason.as_deref()),
        RunKind::Release | RunKind::RollForward => release.spec.reason.as_deref(),
    };
    let new = NewRun {
        portal: snapshot.database.key(),
        label: release.spec.label.as_str(),
        name: &release.name_any(),
        uid: &snapshot.observed.uid,
        reason,
        kind,
        target: rollback.map(|rollback| rollback.to.as_str()),
        accept_data_loss: accepted(kind, &release.spec),
        retry: release.spec.retry,
        abort: release.spec.abort.as_ref().map(|abort| abort.reason.as_str()),
        plan: &planned,
    };
    let mut connection = snapshot.database.pool().acquire().await?;
    if !runs::open(&mut connection, &new).await? {
        // Somebody was faster; what stands in the way is seen at the next look.
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    let (reason, note) = match kind {
        RunKind::Release => ("ReleaseStarted", format!("release {} has started", release.spec.label)),
        RunKind::Rollback => ("RollbackStarted", format!("rolling {} back", release.spec.label)),
        RunKind::RollForward => ("RollForwardStarted", format!("rolling {} forward", release.spec.label)),
    };
    tracing::info!(release = release.name_any(), label = %release.spec.label, "{note}");
    shared.services.event(release.object_ref(&()), EventType::Normal, reason, note);
    if kind == RunKind::Release {
        shared.services.tell(audience(release, snapshot), Notice::Started { dry_run: release.spec.dry_run });
    }
    Ok(Flow::Again)
}

async fn reopen(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot) -> Result<Flow, ReconcileError> {
    let (Ok(portal), Some(run), Some(record)) = (&snapshot.observed.portal, &snapshot.observed.run, &snapshot.observed.release) else {
        return Ok(Flow::Wait(Action::await_change()));
    };
    let swapped = run.is_done(PhaseName::FinaliseSwap);
    let fresh = !swapped && run.kind == RunKind::Release && (record.state == ReleaseState::Aborted || !snapshot.observed.owns_staging);
    let reimport =
        !fresh && !swapped && run.kind == RunKind::Release && release.spec.retry > record.retry_seen && imports_again(&release.spec);
    let phases = replan(&run.phases, plan(run.kind, portal, &release.spec), fresh, reimport);
    let again: Vec<&str> = release.spec.imports.only.iter().filter(|_| reimport).map(|import| import.as_str()).collect();
    let why = match record.state {
        _ if reimport => "importing again",
        ReleaseState::DryRunComplete => "going live from the dry run",
        ReleaseState::Suspended => "the selected phases have changed",
        _ => "retry",
    };
    let how = Reopening {
        release: record.id,
        run: run.id,
        retry: release.spec.retry,
        abort: release.spec.abort.as_ref().map(|abort| abort.reason.as_str()),
        phases: &phases,
        fresh,
        again: &again,
        recheck: !fresh && !swapped && run.kind == RunKind::Release,
        why,
    };
    let mut connection = snapshot.database.pool().acquire().await?;
    if !runs::reopen(&mut connection, &how).await? {
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    tracing::info!(release = release.name_any(), label = %release.spec.label, "{} goes on: {why}", release.spec.label);
    shared.services.event(release.object_ref(&()), EventType::Normal, "Resumed", why.to_owned());
    Ok(Flow::Again)
}

async fn acquire(release: &PortalRelease, snapshot: &Snapshot) -> Result<Flow, ReconcileError> {
    let lock_key = snapshot.portal.spec.database.lock_key;
    match snapshot.database.acquire(lock_key).await {
        Ok(()) => Ok(Flow::Again),
        Err(error @ LockError::Busy { .. }) => {
            tracing::info!(release = release.name_any(), "{}: {error}", release.name_any());
            Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)))
        }
        Err(LockError::Over) => Ok(Flow::Wait(Action::requeue(LOOK_AGAIN))),
        Err(LockError::Database(error)) => Err(error.into()),
    }
}

/// Starts a phase, or its taking back, as a task.
async fn start(
    shared: &Shared,
    release: &PortalRelease,
    snapshot: &Snapshot,
    phase: PhaseName,
    direction: Direction,
) -> Result<Flow, ReconcileError> {
    let (Some(run), Some(record)) = (&snapshot.observed.run, &snapshot.observed.release) else {
        return Ok(Flow::Wait(Action::await_change()));
    };
    let portal = &snapshot.portal;
    // After ReleaseLock the fence is not needed any more; nothing but this release's own rows is touched.
    let Some(fence) = snapshot.database.fence().await.or_else(|| run.is_done(PhaseName::ReleaseLock).then(Default::default)) else {
        return Ok(Flow::Again);
    };
    let mut connection = snapshot.database.pool().acquire().await?;
    let attempt = match direction {
        Direction::Do => match begin(&mut connection, record.id, run.id, phase, &fence).await {
            Ok(attempt) => attempt,
            Err(Fenced::Database(error)) => return Err(error.into()),
            Err(fenced) => {
                tracing::warn!(release = release.name_any(), "{}: {fenced}", release.name_any());
                snapshot.database.forget().await;
                return Ok(Flow::Again);
            }
        },
        Direction::Undo => Attempt { release: record.id, run: run.id, phase, number: 0, epoch: fence.epoch },
    };
    drop(connection);
    if phase == PhaseName::ReleaseLock {
        tracing::debug!("the lock is released once ReleaseLock is done");
    }
    let namespace = release.namespace().unwrap_or_default();
    let terminating = snapshot.observed.deleting && cluster::is_terminating(&shared.client, &namespace).await;
    let progress = Arc::new(Progress::new(shared.waker.clone(), ObjectRef::from_obj(release)));
    let context = Context {
        subject: Subject {
            namespace,
            name: release.name_any(),
            object: release.object_ref(&()),
            portal_name: portal.name_any(),
            portal: portal.spec.clone(),
            spec: release.spec.clone(),
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
    tracing::info!(release = release.name_any(), label = %release.spec.label, phase = phase.as_str(), attempt = attempt.number, "{}: {phase} {}", release.spec.label, if direction == Direction::Do { "begins" } else { "is being taken back" });
    shared.runner.start(&snapshot.observed.uid, context, direction);
    Ok(Flow::Again)
}

/// Closes the run: the lock is let go, people are told, and who waits may go on.
async fn close(
    shared: &Shared,
    release: &PortalRelease,
    snapshot: &Snapshot,
    state: ReleaseState,
    message: &str,
) -> Result<Flow, ReconcileError> {
    let Some(run) = &snapshot.observed.run else { return Ok(Flow::Wait(Action::await_change())) };
    let mut connection = snapshot.database.pool().acquire().await?;
    runs::close(&mut connection, run.id, state, message).await?;
    drop(connection);
    snapshot.database.release().await;

    let took = snapshot
        .observed
        .release
        .as_ref()
        .and_then(|record| record.started_at)
        .map_or(Duration::ZERO, |started| Duration::try_from(snapshot.observed.now.duration_since(started)).unwrap_or_default());
    let services = &shared.services;
    services.metrics.release_ended(state, took);
    tracing::info!(release = release.name_any(), label = %release.spec.label, state = state.as_str(), "{} is {state}: {message}", release.spec.label);
    let (type_, reason) = match state {
        ReleaseState::Failed => (EventType::Warning, "Failed"),
        ReleaseState::Aborted => (EventType::Warning, "Aborted"),
        ReleaseState::RolledBack => (EventType::Normal, "RolledBack"),
        ReleaseState::DryRunComplete => (EventType::Normal, "DryRunComplete"),
        ReleaseState::Suspended => (EventType::Normal, "Stopped"),
        _ => (EventType::Normal, "Live"),
    };
    services.event(release.object_ref(&()), type_, reason, message.to_owned());
    let failed_in = run.phases.iter().find(|phase| phase.state == PhaseState::Failed).map(|phase| phase.name);
    match state {
        ReleaseState::Live => {
            let rows = snapshot.ledger.imports.iter().map(|import| import.rows).sum();
            services.tell(audience(release, snapshot), Notice::Live { took, rows });
        }
        ReleaseState::Failed | ReleaseState::Aborted => {
            services.tell(audience(release, snapshot), Notice::Failed { phase: failed_in, cause: message.to_owned() })
        }
        _ => {}
    }
    shared.wake_siblings(&release.namespace().unwrap_or_default(), release.spec.portal_ref.name.as_str());
    Ok(Flow::Again)
}

fn audience(release: &PortalRelease, snapshot: &Snapshot) -> Audience {
    Audience {
        namespace: release.namespace().unwrap_or_default(),
        portal: release.spec.portal_ref.name.0.clone(),
        label: release.spec.label.0.clone(),
        notifications: snapshot.portal.spec.notifications.clone(),
    }
}

/// Winds up the run of a release whose object is gone: its workers come back, its run is closed.
async fn reap(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot, run: i64) -> Result<Flow, ReconcileError> {
    // Its task may still be at work in this very process.
    if let Some(open) = &snapshot.ledger.open
        && shared.runner.view(&open.uid).is_some()
    {
        shared.runner.stop(&open.uid, true);
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    let lock_key = snapshot.portal.spec.database.lock_key;
    match snapshot.database.acquire(lock_key).await {
        Ok(()) => {}
        Err(LockError::Busy { .. } | LockError::Over) => return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN))),
        Err(LockError::Database(error)) => return Err(error.into()),
    }
    let mut connection = snapshot.database.pool().acquire().await?;
    let frozen = former_states::frozen(&mut connection, snapshot.database.key()).await?;
    let namespace = release.namespace().unwrap_or_default();
    if let Err(error) = workers::thaw(&shared.client, &namespace, &snapshot.portal.name_any(), &frozen).await {
        tracing::warn!(%error, "the workers of a release whose object is gone are not back yet: {error}");
        return Ok(Flow::Wait(Action::requeue(LOOK_AGAIN)));
    }
    former_states::forget(&mut connection, snapshot.database.key(), Purpose::Freeze).await?;
    let state = if exchange::run_has_swapped(&mut connection, run).await? { ReleaseState::Live } else { ReleaseState::Aborted };
    runs::close(&mut connection, run, state, "the PortalRelease was removed without the operator; its run was wound up").await?;
    drop(connection);
    snapshot.database.release().await;
    tracing::info!(run, "the run of a release whose object is gone was wound up");
    Ok(Flow::Again)
}

/// A deleted object whose ledger cannot be read: the workers come back from what the status says. Gives `true` once it is let go.
pub(super) async fn let_go_blindly(shared: &Shared, release: &PortalRelease, blind: &ObserveError) -> Result<bool, ReconcileError> {
    let namespace = release.namespace().unwrap_or_default();
    let waited = release
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(Duration::ZERO, |since| Duration::try_from(jiff::Timestamp::now().duration_since(since.0)).unwrap_or_default());
    let cause = match blind {
        ObserveError::Refused(refusal) => refusal.message.clone(),
        ObserveError::Unreachable(message) if waited > PATIENCE => message.clone(),
        ObserveError::Unreachable(_) => return Ok(false),
    };
    if !cluster::is_terminating(&shared.client, &namespace).await {
        let frozen: Vec<FrozenWorkload> = release.status.as_ref().map(|status| status.frozen_workloads.clone()).unwrap_or_default();
        if let Err(error) = workers::start(&shared.client, &namespace, &frozen).await {
            tracing::warn!(release = release.name_any(), %error, "{}: the workers are not back yet: {error}", release.name_any());
            return Ok(false);
        }
        let note =
            format!("the object was let go although its database could not be tidied up: {cause}; the next release of this portal does it");
        shared.services.event(release.object_ref(&()), EventType::Warning, "LetGo", note);
    }
    tracing::warn!(release = release.name_any(), cause, "{}: let go without its ledger: {cause}", release.name_any());
    set_finalizer(shared, release, false).await?;
    Ok(true)
}
