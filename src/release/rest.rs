//! The next step of a release that has no open run.

use super::{
    Blocker, Observed, RunKind, RunRecord, Step,
    observed::Refusal,
    phases::{Redo, facts},
    plan::{imports_again, plan},
};
use crate::api::{PhaseState, ReleaseState};

pub(super) fn at_rest(observed: &Observed) -> Step {
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
    let retry = observed.wants_retry();
    let kind = observed.run.as_ref().map_or(RunKind::Release, |run| run.kind);
    let is_automatic = observed.run.as_ref().is_some_and(RunRecord::is_automatic);
    match release.state {
        ReleaseState::Pending => start(observed, Step::Open(RunKind::Release)),
        ReleaseState::Failed | ReleaseState::Live if observed.spec.rollback.is_some() && observed.current && !observed.has_failed_so() => {
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
        // The rollback was automatic, so nobody has withdrawn it: the release stays Failed.
        ReleaseState::Failed if is_automatic && observed.current && retry => start(observed, Step::Open(RunKind::Release)),
        ReleaseState::Failed if is_automatic && observed.current => Step::Rest,
        ReleaseState::Failed if kind == RunKind::Rollback && observed.current && observed.spec.rollback.is_none() => Step::Settle,
        ReleaseState::Failed if kind == RunKind::RollForward && !observed.current && observed.spec.rollback.is_some() => Step::Settle,
        ReleaseState::Failed if kind == RunKind::RollForward && !observed.current && !observed.has_failed_so() => {
            start(observed, Step::Open(RunKind::RollForward))
        }
        ReleaseState::DryRunComplete | ReleaseState::Suspended | ReleaseState::Failed
            if !retry && observed.wants_abort() && !release.swapped =>
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
        ReleaseState::RolledBack if is_automatic && observed.spec.rollback.is_some() => Step::Confirm,
        // A spec from Git is applied again and again: only a new request rolls forward.
        ReleaseState::RolledBack if is_automatic && !retry => Step::Rest,
        ReleaseState::RolledBack if observed.spec.rollback.is_none() => {
            if release.parked.is_some() {
                start(observed, Step::Open(RunKind::RollForward))
            } else {
                Step::Refuse(Refusal {
                    reason: "RollForwardUnavailable",
                    message: "the rolled back data no longer exists: a later release has used the staging; create a new release".to_owned(),
                })
            }
        }
        _ => Step::Rest,
    }
}

/// Its run was ended by a phase that other sessions blocked.
fn has_stopped(observed: &Observed) -> bool {
    observed.run.as_ref().is_some_and(|run| run.phases.iter().any(|phase| phase.state == PhaseState::Failed))
}

/// The ledger says that this label has been through.
fn is_finished(state: ReleaseState) -> bool {
    matches!(state, ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack)
}

/// Starts a run, unless something blocks it.
fn start(observed: &Observed, step: Step) -> Step {
    if let Err(refusal) = &observed.portal {
        return Step::Refuse(refusal.clone());
    }
    let aborted = observed.is_aborted() && !observed.wants_retry();
    if aborted && step == Step::Open(RunKind::Release) {
        return Step::Refuse(Refusal {
            reason: "Aborted",
            message: format!(
                "aborted before it started: {}; raise spec.retry to run it",
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

/// An edited plan holds a phase that the stopped run has not done.
fn has_more_to_do(observed: &Observed) -> bool {
    let (Ok(portal), Some(run)) = (&observed.portal, &observed.run) else { return false };
    plan(run.kind, portal, &observed.spec).iter().any(|planned| {
        planned.skipped.is_none() && facts(planned.phase).redo != Redo::Again && run.state_of(planned.phase) != Some(PhaseState::Succeeded)
    })
}
