//! The next step of a release, decided from what was observed.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    Blocker, LockView, Observed, RunKind, RunRecord,
    observed::Refusal,
    phase::{Undo, backoff, facts},
    plan::{imports_again, plan},
    written::accepted,
};
use crate::api::{PhaseName, PhaseState, ReleaseState};

/// What to do next. Each is one effect; after it everything is observed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something changes.
    Rest,
    /// Nothing to do until somebody changes something: an impossible wish.
    Refuse(Refusal),
    /// Wait until a task, another release or the clock moves on.
    Wait {
        /// Look again after this long, if nothing else happens first.
        again: Option<Duration>,
    },
    /// Wait for another release of the portal.
    Queue(Blocker),
    /// Stop at this safe point until `suspend` is false.
    Hold,
    /// Tell the running task to stop: at once, or at its next safe point.
    StopTask {
        /// Cut off the running statement.
        now: bool,
    },
    /// Open a run.
    Open(RunKind),
    /// Open the latest run again and go on where it stopped.
    Reopen,
    /// Take the label's finished row of another object for this one's.
    Adopt,
    /// Wind up the open run: it will end in this state.
    End {
        /// The state.
        state: ReleaseState,
        /// Why.
        message: String,
    },
    /// Wind up the run of a release whose object is gone.
    Reap(i64),
    /// Take the advisory lock and a new epoch.
    Acquire,
    /// Run a phase.
    Run(PhaseName),
    /// Take a phase back.
    Undo(PhaseName),
    /// Close the run, and the release is in this state.
    Close {
        /// The state.
        state: ReleaseState,
        /// Why.
        message: String,
    },
    /// A failed rollback or roll forward that is no longer wanted: the release is live, or rolled back, as before.
    Settle,
    /// Let the deleted object go.
    Finalize,
}

/// Decides the next step.
pub fn next(observed: &Observed) -> Step {
    let open = observed.run.as_ref().filter(|run| run.open && is_ours(observed));
    if let Some(task) = &observed.task {
        if task.stopping {
            return Step::Wait { again: None };
        }
        let ending = open.is_some_and(|run| run.ending.is_some());
        let cut = !ending && (observed.deleting || wants_abort(observed));
        return match (cut, observed.spec.suspend && !in_freeze(observed)) {
            (true, _) => Step::StopTask { now: true },
            (false, true) => Step::StopTask { now: false },
            (false, false) => Step::Wait { again: None },
        };
    }
    match open {
        Some(run) => in_run(observed, run),
        // What a stopped release left behind goes with it: its run is opened once more, only to be wound up.
        None if observed.deleting && leaves_staging(observed) && observed.portal.is_ok() => match &observed.blocker {
            Some(Blocker::Running { .. } | Blocker::Orphan { .. }) => Step::Finalize,
            _ => Step::Reopen,
        },
        None if observed.deleting => Step::Finalize,
        None => at_rest(observed),
    }
}

/// The ledger's row belongs to this very object, not to a former one of the same label.
pub fn is_ours(observed: &Observed) -> bool {
    observed.release.as_ref().is_some_and(|release| release.uid == observed.uid)
}

/// The data of the open run has been swapped: there is no way back but a rollback.
fn has_swapped(run: &RunRecord) -> bool {
    run.is_done(PhaseName::FinaliseSwap)
}

/// `spec.retry` was raised since the last run.
fn wants_retry(observed: &Observed) -> bool {
    observed.spec.retry > observed.release.as_ref().map_or(0, |release| release.retry_seen)
}

/// An abort that no retry has overruled. It is a latch and stays in the spec: a retry after it runs the release all the same, and
/// another reason is another abort.
pub fn is_aborted(observed: &Observed) -> bool {
    let seen = observed.release.as_ref().filter(|_| is_ours(observed)).and_then(|release| release.abort_seen.as_ref());
    observed.spec.abort.as_ref().is_some_and(|abort| Some(&abort.reason) != seen)
}

/// An abort that is to be obeyed: only before the swap, only of a run that goes live.
fn wants_abort(observed: &Observed) -> bool {
    is_aborted(observed) && observed.run.as_ref().is_some_and(|run| run.kind == RunKind::Release && !has_swapped(run))
}

/// Workers are stopped: no suspension until they are back.
fn in_freeze(observed: &Observed) -> bool {
    observed.workers_frozen || observed.run.as_ref().is_some_and(|run| run.state_of(PhaseName::Freeze) == Some(PhaseState::Running))
}

fn in_run(observed: &Observed, run: &RunRecord) -> Step {
    if let Some(state) = run.ending {
        return wind_up(observed, run, state);
    }
    if observed.deleting {
        let state = match (run.kind, has_swapped(run)) {
            (RunKind::Release | RunKind::RollForward, true) | (RunKind::Rollback, false) => ReleaseState::Live,
            (RunKind::Rollback, true) | (RunKind::RollForward, false) => ReleaseState::RolledBack,
            (RunKind::Release, false) => ReleaseState::Aborted,
        };
        return Step::End { state, message: "the PortalRelease was deleted".to_owned() };
    }
    if wants_abort(observed) {
        let reason = observed.spec.abort.as_ref().map(|abort| abort.reason.as_str()).unwrap_or_default();
        return Step::End { state: ReleaseState::Aborted, message: format!("aborted: {reason}") };
    }
    if let Err(refusal) = &observed.portal {
        return Step::Refuse(refusal.clone());
    }
    if let Some(failed) = run.phases.iter().find(|phase| phase.state == PhaseState::Failed) {
        let allowed = facts(failed.name).attempts;
        if failed.failures >= allowed {
            return Step::End { state: ReleaseState::Failed, message: format!("{} failed: {}", failed.name, failed.message) };
        }
    }
    if observed.spec.suspend && !in_freeze(observed) {
        return Step::Hold;
    }
    let Some(pending) = run
        .phases
        .iter()
        .find(|phase| matches!(phase.state, PhaseState::Pending | PhaseState::Running | PhaseState::Failed | PhaseState::Undone))
    else {
        return finished(observed, run);
    };
    // Once ReleaseLock is done the lock is not taken again for what follows: it touches only the ledger.
    if observed.lock != LockView::Held && !run.is_done(PhaseName::ReleaseLock) {
        return Step::Acquire;
    }
    if let (PhaseState::Failed, Some(ended)) = (pending.state, pending.completed_at) {
        let due = ended.saturating_add(SignedDuration::try_from(backoff(pending.failures)).unwrap_or_default()).unwrap_or(ended);
        if observed.now < due {
            let again = Duration::try_from(due.duration_since(observed.now)).unwrap_or(Duration::from_secs(1));
            return Step::Wait { again: Some(again) };
        }
    }
    Step::Run(pending.name)
}

/// Every phase is done or skipped.
fn finished(observed: &Observed, run: &RunRecord) -> Step {
    let (state, message) = match run.kind {
        RunKind::Rollback => {
            (ReleaseState::RolledBack, "rolled back; clear spec.rollback to roll forward from the kept staging".to_owned())
        }
        RunKind::RollForward => (ReleaseState::Live, "rolled forward: the data is live again".to_owned()),
        RunKind::Release if has_swapped(run) || observed.current => (ReleaseState::Live, "the data is live".to_owned()),
        RunKind::Release if observed.spec.dry_run && run.is_done(PhaseName::ValidateAndManifest) => {
            (ReleaseState::DryRunComplete, "staging is built and validated; set dryRun to false to go live with it".to_owned())
        }
        RunKind::Release => (
            ReleaseState::Suspended,
            "the selected phases are done and nothing went live; change spec.phases to go on from here".to_owned(),
        ),
    };
    Step::Close { state, message }
}

/// The run has failed or was given up: take back what must be taken back, last phase first, then close.
fn wind_up(observed: &Observed, run: &RunRecord, state: ReleaseState) -> Step {
    let touched = |phase: &&super::PhaseRecord| matches!(phase.state, PhaseState::Running | PhaseState::Succeeded | PhaseState::Failed);
    let to_undo = run.phases.iter().rev().filter(touched).find(|phase| match facts(phase.name).undo {
        Undo::Never => false,
        Undo::WhenAborted => state == ReleaseState::Aborted,
        Undo::AlwaysUnless(by) => !run.is_done(by),
    });
    match to_undo {
        Some(_) if observed.lock != LockView::Held => Step::Acquire,
        Some(phase) => Step::Undo(phase.name),
        None => Step::Close { state, message: run.message.clone() },
    }
}

fn at_rest(observed: &Observed) -> Step {
    let Some(release) = &observed.release else {
        return start(observed, Step::Open(RunKind::Release));
    };
    if release.uid != observed.uid {
        return match (release.state, &observed.blocker) {
            (_, Some(Blocker::LabelInUse { name })) if !is_finished(release.state) => Step::Refuse(Refusal {
                reason: "LabelInUse",
                message: format!("label {} is used by PortalRelease {name}; choose another label or delete that one", observed.spec.label),
            }),
            (state, _) if is_finished(state) => Step::Rest,
            (_, Some(Blocker::Orphan { run, .. })) => Step::Reap(*run),
            _ => Step::Adopt,
        };
    }
    let retry = wants_retry(observed);
    let kind = observed.run.as_ref().map_or(RunKind::Release, |run| run.kind);
    match release.state {
        ReleaseState::Pending => start(observed, Step::Open(RunKind::Release)),
        ReleaseState::Failed | ReleaseState::Live if observed.spec.rollback.is_some() && observed.current && !has_failed_so(observed) => {
            if !observed.backups.is_empty() {
                start(observed, Step::Open(RunKind::Rollback))
            } else {
                Step::Refuse(Refusal {
                    reason: "RollbackUnavailable",
                    message: format!(
                        "there is no backup to roll back to ({}); the live data is unchanged; remove spec.rollback",
                        observed.spec.rollback.as_ref().map(|rollback| rollback.to.as_str()).unwrap_or_default()
                    ),
                })
            }
        }
        ReleaseState::Failed if kind == RunKind::Rollback && observed.current && observed.spec.rollback.is_none() => Step::Settle,
        ReleaseState::Failed if kind == RunKind::RollForward && !observed.current && observed.spec.rollback.is_some() => Step::Settle,
        ReleaseState::Failed if kind == RunKind::RollForward && !observed.current && !has_failed_so(observed) => {
            start(observed, Step::Open(RunKind::RollForward))
        }
        ReleaseState::DryRunComplete | ReleaseState::Suspended | ReleaseState::Failed
            if !retry && wants_abort(observed) && !release.swapped =>
        {
            start(observed, Step::Reopen)
        }
        ReleaseState::Failed | ReleaseState::Aborted if retry => start(observed, Step::Reopen),
        ReleaseState::DryRunComplete | ReleaseState::Suspended if retry && imports_again(&observed.spec) && observed.owns_staging => {
            start(observed, Step::Reopen)
        }
        ReleaseState::Suspended if has_stopped(observed) => {
            if retry {
                start(observed, Step::Reopen)
            } else {
                Step::Rest
            }
        }
        ReleaseState::DryRunComplete if !observed.spec.dry_run => start(observed, Step::Reopen),
        ReleaseState::Suspended if has_more_to_do(observed) => start(observed, Step::Reopen),
        ReleaseState::RolledBack if observed.spec.rollback.is_none() => {
            if release.parked.is_some() {
                start(observed, Step::Open(RunKind::RollForward))
            } else {
                Step::Refuse(Refusal {
                    reason: "RollForwardUnavailable",
                    message: "the rolled back data is gone: a later release has used the staging; make a new release".to_owned(),
                })
            }
        }
        _ => Step::Rest,
    }
}

/// The very rollback, or roll forward, that is asked for has failed; another destination is another wish, and so is a loss that is
/// accepted by now.
fn has_failed_so(observed: &Observed) -> bool {
    let wanted = observed.spec.rollback.as_ref().map(|rollback| rollback.to.as_str());
    let kind = if wanted.is_some() { RunKind::Rollback } else { RunKind::RollForward };
    observed.release.as_ref().is_some_and(|release| release.state == ReleaseState::Failed)
        && observed.run.as_ref().is_some_and(|run| {
            run.kind == kind && run.target.as_deref() == wanted && run.accept_data_loss == accepted(kind, &observed.spec)
        })
}

/// Its run was ended by a phase that others stood in the way of.
fn has_stopped(observed: &Observed) -> bool {
    observed.run.as_ref().is_some_and(|run| run.phases.iter().any(|phase| phase.state == PhaseState::Failed))
}

/// The ledger says that this label has been through.
fn is_finished(state: ReleaseState) -> bool {
    matches!(state, ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack)
}

/// Starts a run, unless something stands in its way.
fn start(observed: &Observed, step: Step) -> Step {
    if let Err(refusal) = &observed.portal {
        return Step::Refuse(refusal.clone());
    }
    let aborted = is_aborted(observed) && !wants_retry(observed);
    if aborted && step == Step::Open(RunKind::Release) {
        return Step::Refuse(Refusal {
            reason: "Aborted",
            message: format!(
                "aborted before it started: {}; raise retry to run it",
                observed.spec.abort.as_ref().map(|abort| abort.reason.as_str()).unwrap_or_default()
            ),
        });
    }
    if observed.spec.suspend && !aborted {
        return Step::Hold;
    }
    match &observed.blocker {
        Some(Blocker::Orphan { run, .. }) => Step::Reap(*run),
        // A rollback does not wait for staging that it need not touch.
        Some(Blocker::Kept { .. } | Blocker::Older { .. }) if matches!(step, Step::Open(RunKind::Rollback | RunKind::RollForward)) => step,
        Some(Blocker::LabelInUse { .. }) | None => step,
        Some(blocker) => Step::Queue(blocker.clone()),
    }
}

/// The release stands still before its swap with staging of its own.
fn leaves_staging(observed: &Observed) -> bool {
    is_ours(observed)
        && observed.owns_staging
        && observed.release.as_ref().is_some_and(|release| {
            !release.swapped && matches!(release.state, ReleaseState::DryRunComplete | ReleaseState::Suspended | ReleaseState::Failed)
        })
}

/// An edited plan holds a phase that the stopped run has not done.
fn has_more_to_do(observed: &Observed) -> bool {
    let (Ok(portal), Some(run)) = (&observed.portal, &observed.run) else { return false };
    plan(run.kind, portal, &observed.spec).iter().any(|planned| {
        planned.skipped.is_none()
            && !matches!(planned.name, PhaseName::AcquireLock | PhaseName::ReleaseLock | PhaseName::ResetCheckpoints)
            && run.state_of(planned.name) != Some(PhaseState::Succeeded)
    })
}
