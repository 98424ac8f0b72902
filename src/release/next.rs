//! The next step of a release, decided from what was observed.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    Blocker, LockView, Observed, RunKind, RunRecord, Step,
    phases::{Needs, backoff, facts},
    plan::{Why, unwind},
    rest::at_rest,
};
use crate::api::{OnFailure, PhaseName, PhaseState, ReleaseState};

/// Decides the next step.
pub fn next(observed: &Observed) -> Step {
    let open = observed.open_run();
    if let Some(task) = &observed.task {
        if task.stopping {
            return Step::Wait { again: None };
        }
        let ending = open.is_some_and(|run| run.ending.is_some());
        let cut = !ending && (observed.deleting || observed.wants_abort());
        // Workers are stopped: no suspension until they are back.
        return match (cut, observed.spec.suspend && !observed.workers_frozen) {
            (true, _) => Step::StopTask { now: true },
            (false, true) => Step::StopTask { now: false },
            (false, false) => Step::Wait { again: None },
        };
    }
    match open {
        Some(run) => in_run(observed, run),
        // A stopped release takes its staging with it: its run is reopened once more, only to be cleaned up.
        None if observed.deleting && observed.leaves_staging() => match &observed.blocker {
            Some(Blocker::Running { .. } | Blocker::Orphan { .. }) => Step::Finalize,
            _ => Step::Reopen,
        },
        None if observed.deleting => Step::Finalize,
        None => at_rest(observed),
    }
}

fn in_run(observed: &Observed, run: &RunRecord) -> Step {
    if let Some(state) = run.ending {
        return clean_up(observed, run, state);
    }
    if observed.deleting {
        let state = match (run.kind, run.has_swapped()) {
            (RunKind::Release | RunKind::RollForward, true) | (RunKind::Rollback, false) => ReleaseState::Live,
            (RunKind::Rollback, true) | (RunKind::RollForward, false) => ReleaseState::RolledBack,
            (RunKind::Release, false) => ReleaseState::Aborted,
        };
        let message = if observed.orphan {
            "the PortalRelease was deleted while the operator was down; its run has been cleaned up"
        } else {
            "the PortalRelease was deleted"
        };
        return Step::End { state, message: message.to_owned() };
    }
    if observed.wants_abort() {
        let reason = observed.spec.abort.as_ref().map(|abort| abort.reason.as_str()).unwrap_or_default();
        return Step::End { state: ReleaseState::Aborted, message: format!("aborted: {reason}") };
    }
    if let Err(refusal) = &observed.portal {
        // Nobody may wait for a person with workers at zero.
        return match stands_frozen(observed, run) {
            true => Step::End { state: ReleaseState::Failed, message: refusal.message.clone() },
            false => Step::Refuse(refusal.clone()),
        };
    }
    if let Some(failed) = run.failed().filter(|failed| failed.failures >= facts(failed.name).attempts) {
        let cause = format!("{} failed: {}", failed.name, failed.message);
        let message = match &run.cause {
            Some(failure) if run.is_automatic() && run.has_swapped() => {
                format!(
                    "{failure}. onFailure is Rollback: the former data is live again, but {cause}. Raise spec.retry to finish the rollback"
                )
            }
            Some(failure) if run.is_automatic() => {
                format!(
                    "{failure}. onFailure is Rollback, but the rollback failed, too: {cause}. Raise spec.retry to run the release again"
                )
            }
            _ => cause,
        };
        return Step::End { state: ReleaseState::Failed, message };
    }
    if observed.spec.suspend && !observed.workers_frozen {
        return Step::Hold;
    }
    let Some(pending) = run.pending(observed.spec.dry_run) else { return finished(observed, run) };
    if observed.lock != LockView::Held && facts(pending.name).needs == Needs::Lock {
        return Step::Acquire;
    }
    if let (PhaseState::Failed, Some(ended)) = (pending.state, pending.completed_at) {
        let due = ended.saturating_add(SignedDuration::try_from(backoff(pending.failures)).unwrap_or_default()).unwrap_or(ended);
        if observed.now < due {
            let again = Duration::try_from(due.duration_since(observed.now)).unwrap_or(Duration::from_secs(1));
            return Step::Wait { again: Some(again) };
        }
    }
    if let Some(early) = too_early(observed, run, pending.name) {
        return Step::Undo(early);
    }
    Step::Run(pending.name)
}

/// Workers are at zero, and ending the run would bring them back.
fn stands_frozen(observed: &Observed, run: &RunRecord) -> bool {
    observed.workers_frozen && unwind(run, Why::Failed).is_some()
}

/// What is undone whatever ends the run, such as a freeze, and was done for a phase that comes after the pending one: the staging is
/// rebuilt, and nobody stops workers for that long.
fn too_early(observed: &Observed, run: &RunRecord, pending: PhaseName) -> Option<PhaseName> {
    let position = |phase| run.phases.iter().position(|record| record.name == phase);
    unwind(run, Why::Failed).filter(|&early| observed.workers_frozen && position(pending) < position(early))
}

/// Every phase is done or skipped.
fn finished(observed: &Observed, run: &RunRecord) -> Step {
    let (state, message) = match run.kind {
        RunKind::Rollback if run.is_automatic() => (
            ReleaseState::RolledBack,
            format!(
                "rolled back, as onFailure is Rollback: {}; raise spec.retry to roll forward from the kept staging",
                run.cause.as_deref().unwrap_or_default()
            ),
        ),
        RunKind::Rollback => {
            (ReleaseState::RolledBack, "rolled back; clear spec.rollback to roll forward from the kept staging".to_owned())
        }
        RunKind::RollForward => (ReleaseState::Live, "rolled forward: the data is live again".to_owned()),
        RunKind::Release if run.has_swapped() || observed.current => (ReleaseState::Live, "the data is live".to_owned()),
        RunKind::Release if observed.spec.dry_run && run.is_validated() => {
            (ReleaseState::DryRunComplete, "staging is built and validated; set dryRun to false to go live with it".to_owned())
        }
        RunKind::Release => (
            ReleaseState::Suspended,
            "the selected phases are done and nothing went live; change spec.phases to resume from here".to_owned(),
        ),
    };
    // A release that became a dry run during its freeze restores the workers first.
    if stands_frozen(observed, run) { Step::End { state, message } } else { Step::Close { state, message } }
}

/// The run has failed or was given up: undo what must be undone, then close.
fn clean_up(observed: &Observed, run: &RunRecord, state: ReleaseState) -> Step {
    let why = if state == ReleaseState::Aborted { Why::GivenUp } else { Why::Failed };
    match unwind(run, why) {
        Some(_) if observed.lock != LockView::Held => Step::Acquire,
        Some(phase) => Step::Undo(phase),
        None if state == ReleaseState::Failed && rolls_back(observed, run) => on_failure(observed, run),
        None => Step::Close { state, message: run.message.clone() },
    }
}

/// The run has failed after its swap, and `onFailure` is `Rollback`. What the user requests meanwhile takes precedence.
fn rolls_back(observed: &Observed, run: &RunRecord) -> bool {
    observed.spec.on_failure == Some(OnFailure::Rollback)
        && observed.spec.rollback.is_none()
        && !observed.wants_retry()
        && !observed.deleting
        && observed.current
        && run.kind != RunKind::Rollback
        && run.has_swapped()
        && run.failed().is_some_and(|failed| facts(failed.name).condemns)
}

fn on_failure(observed: &Observed, run: &RunRecord) -> Step {
    if observed.backups.is_empty() {
        let message = format!("{}; onFailure is Rollback, but there is no backup to roll back to: the data stays live", run.message);
        return Step::Close { state: ReleaseState::Failed, message };
    }
    Step::RollBack { message: run.message.clone() }
}
