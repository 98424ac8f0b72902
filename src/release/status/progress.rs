//! How far the phases and imports got.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::{Observed, RunKind, phases::facts, plan as planned};
use crate::{
    api::{ImportStatus, PhaseName, PhaseState, PhaseStatus, ReleaseState},
    text::bounded,
};

pub(super) fn phases(observed: &Observed) -> Vec<PhaseStatus> {
    if let Some(run) = observed.run.as_ref().filter(|_| observed.is_ours()) {
        return run
            .phases
            .iter()
            .map(|phase| PhaseStatus {
                name: phase.name,
                state: phase.state,
                started_at: phase.started_at.map(Time),
                completed_at: phase.completed_at.map(Time),
                attempts: phase.attempts,
                message: bounded(phase.message.clone(), 1024),
            })
            .collect();
    }
    let Ok(portal) = &observed.portal else { return Vec::new() };
    if observed.release.is_some() {
        // A finished label of another object: nothing of this object will run.
        return Vec::new();
    }
    planned(RunKind::Release, portal, &observed.spec)
        .into_iter()
        .map(|planned| PhaseStatus {
            name: planned.phase,
            state: if planned.skipped.is_some() { PhaseState::Skipped } else { PhaseState::Pending },
            started_at: None,
            completed_at: None,
            attempts: 0,
            message: planned.skipped.unwrap_or_default(),
        })
        .collect()
}

/// The phase that runs, or failed, or comes next; at the end the last one that was done.
pub(super) fn phase(observed: &Observed, phases: &[PhaseStatus]) -> Option<PhaseName> {
    let with = |state: PhaseState| phases.iter().find(|phase| phase.state == state).map(|phase| phase.name);
    let last_done = || phases.iter().rev().find(|phase| phase.state == PhaseState::Succeeded).map(|phase| phase.name);
    observed
        .task
        .as_ref()
        .and_then(|task| task.phase)
        .or_else(|| with(PhaseState::Failed))
        .or_else(|| with(PhaseState::Running))
        .or_else(|| if observed.open_run().is_some() { with(PhaseState::Pending) } else { None })
        .or_else(last_done)
}

/// The share of the plan that is done; a running import counts for the share of its rows.
pub(super) fn percent(phases: &[PhaseStatus], imports: &[ImportStatus], state: ReleaseState) -> i32 {
    if matches!(state, ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack | ReleaseState::DryRunComplete) {
        return 100;
    }
    let planned: Vec<&PhaseStatus> = phases.iter().filter(|phase| phase.state != PhaseState::Skipped).collect();
    if planned.is_empty() {
        return 0;
    }
    let done = planned.iter().filter(|phase| phase.state == PhaseState::Succeeded).count() as f64;
    let importing = planned.iter().any(|phase| phase.state == PhaseState::Running && facts(phase.name).imports);
    let (rows, total) =
        imports.iter().fold((0, 0), |(rows, total), import| (rows + import.rows, total + import.rows_total.unwrap_or(import.rows)));
    let part = if importing && total > 0 { (rows as f64 / total as f64).min(1.0) } else { 0.0 };
    (((done + part) / planned.len() as f64) * 100.0).floor().min(99.0) as i32
}
