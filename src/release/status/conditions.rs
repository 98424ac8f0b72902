//! Every condition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::super::{
    Observed, RunRecord, Step,
    phases::{PHASES, Undo, facts},
};
use crate::api::{Conditions, PhaseState, ReleaseState};

/// Kstatus in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    InProgress,
    Stalled,
    Healthy,
}

pub(super) fn of(
    observed: &Observed,
    step: &Step,
    state: ReleaseState,
    message: &str,
    generation: i64,
    before: &[Condition],
) -> Vec<Condition> {
    let health = match (state, step) {
        (_, Step::Refuse(_)) => Health::Stalled,
        (ReleaseState::Failed | ReleaseState::Aborted, Step::Rest) => Health::Stalled,
        // It was automatic: what the spec asks for is not live.
        (ReleaseState::RolledBack, Step::Rest) if observed.run.as_ref().is_some_and(RunRecord::is_automatic) => Health::Stalled,
        (ReleaseState::Live | ReleaseState::DryRunComplete | ReleaseState::Superseded | ReleaseState::RolledBack, Step::Rest) => {
            Health::Healthy
        }
        _ => Health::InProgress,
    };
    let reason = match step {
        Step::Refuse(refusal) => refusal.reason.to_owned(),
        _ => state.as_str().to_owned(),
    };
    let mut list = Conditions::new(observed.now, generation, before);
    let flag = |when: bool| if when { "True" } else { "False" };
    list.push(
        "Ready",
        if health == Health::Healthy {
            "True"
        } else if health == Health::Stalled {
            "False"
        } else {
            "Unknown"
        },
        &reason,
        message,
    );
    list.push("Reconciling", flag(health == Health::InProgress), &reason, message);
    list.push("Stalled", flag(health == Health::Stalled), &reason, message);

    let run = observed.run.as_ref().filter(|_| observed.is_ours());
    list.push(
        "WorkersFrozen",
        flag(observed.workers_frozen),
        if observed.workers_frozen { "Frozen" } else { "NotFrozen" },
        if observed.workers_frozen {
            "workers are stopped and will come back to their recorded replica counts"
        } else {
            "no worker is stopped by this release"
        },
    );
    for row in PHASES.iter().filter_map(|facts| facts.condition.map(|condition| (facts.phase, condition))) {
        let (phase, condition) = row;
        let (word, (reason, text)) = match run.and_then(|run| run.state_of(phase)) {
            Some(PhaseState::Succeeded) => ("True", condition.done),
            Some(PhaseState::Failed) => ("False", (condition.failed, message)),
            _ => ("Unknown", condition.pending),
        };
        list.push(condition.type_, word, reason, text);
    }
    let swapped = observed.release.as_ref().is_some_and(|release| observed.is_ours() && release.swapped);
    let swapping = |phase| facts(phase).undo == Undo::ByRollback;
    let blocked = observed.task.as_ref().filter(|task| task.phase.is_some_and(swapping)).and_then(|task| task.blocked.as_deref());
    let (status, reason, text) = match (swapped, observed.current) {
        (true, true) => ("True", "Swapped", "readers see this release"),
        (false, _) if let Some(by) = blocked => ("False", "Blocked", by),
        (true, false) => ("False", "Replaced", "the data was live; another release is live now"),
        (false, _) => ("False", "NotSwapped", "the data has not gone live"),
    };
    list.push("DataSwapped", status, reason, text);
    let restored = run.is_some_and(RunRecord::has_restored_workers);
    list.push(
        "WorkersRestored",
        if restored { "True" } else { "Unknown" },
        if restored { "Restored" } else { "NothingToRestore" },
        if restored { "workers are back at their recorded replica counts" } else { "no worker has been restored yet" },
    );
    let (status, reason, text) = crate::release::verdict::rollback_available(observed);
    list.push("RollbackAvailable", status, reason, &text);
    list.finish()
}
