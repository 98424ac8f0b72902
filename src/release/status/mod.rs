//! The status: a projection of what was observed and decided, in one place.

mod conditions;
mod message;
mod progress;
mod state;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Direction, Observed, RunKind, Step, UndoneBy,
    plan::{plan as planned, undone_by},
    size::fit,
};
use crate::{
    api::{
        Conditions, FrozenWorkload, ImportStatus, ManifestRef, PhaseName, PhaseState, PlanStatus, PlanStep, PortalReleaseStatus,
        ReleaseState,
    },
    text::{bounded, span},
};

/// What the status shows beside the decision: facts that no decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// The object's generation.
    pub generation: i64,
    /// The imports so far.
    pub imports: Vec<ImportStatus>,
    /// Workloads stopped on behalf of this release.
    pub frozen_workloads: Vec<FrozenWorkload>,
    /// The Portal or the release was edited since the open run was defined.
    pub edited: bool,
    /// SHA-256 of what the open run works from.
    pub definition: Option<String>,
    /// Where the manifest is served.
    pub manifest: Option<ManifestRef>,
    /// The status before.
    pub before: PortalReleaseStatus,
}

/// What is added to the message of a run whose definition was edited.
const EDITED: &str = "; an edit of the Portal or of this release takes effect at the next retry or release";

/// Projects the status.
pub fn project(observed: &Observed, step: &Step, extras: Extras) -> PortalReleaseStatus {
    let state = state::of(observed, step);
    let edited = if extras.edited { EDITED } else { "" };
    let message = bounded(message::of(observed, step, state) + edited, 2048);
    let phases = progress::phases(observed);
    let release = observed.release.as_ref().filter(|_| observed.is_ours());
    let started_at = release.and_then(|release| release.started_at);
    let completed_at = release.and_then(|release| release.completed_at).filter(|_| observed.open_run().is_none());
    let mut status = PortalReleaseStatus {
        observed_generation: extras.generation,
        state: Some(state),
        phase: progress::phase(observed, &phases).filter(|_| !state::is_over(state)),
        progress: progress::percent(&phases, &extras.imports, state),
        message: message.clone(),
        current: observed.current && release.is_some(),
        started_at: started_at.map(Time),
        completed_at: completed_at.map(Time),
        duration: started_at.zip(completed_at).map(|(start, end)| span(end.duration_since(start))),
        phases,
        plan: plan(observed, extras.definition),
        imports: extras.imports,
        frozen_workloads: extras.frozen_workloads,
        backup: release.and_then(|release| release.backup.clone()),
        manifest: extras.manifest,
        conditions: Vec::new(),
    };
    status.conditions = conditions::of(observed, step, state, &message, extras.generation, &extras.before.conditions);
    fit(status)
}

/// The steps of the run that is open, or comes next. A release that is over has none.
fn plan(observed: &Observed, hash: Option<String>) -> Option<PlanStatus> {
    let (Ok(portal), true) = (&observed.portal, observed.release.is_none() || observed.is_ours()) else { return None };
    let phases: Vec<(PhaseName, Direction)> = match observed.open_run() {
        Some(run) => {
            run.phases.iter().filter(|record| record.state != PhaseState::Skipped).map(|record| (record.name, record.direction)).collect()
        }
        None if observed.release.as_ref().is_some_and(|release| state::is_over(release.state)) => return None,
        None => {
            let kind = observed.run.as_ref().map_or(RunKind::Release, |run| run.kind);
            let entries = planned(kind, portal, &observed.spec).into_iter();
            entries.filter(|entry| entry.skipped.is_none()).map(|entry| (entry.phase, entry.direction)).collect()
        }
    };
    let step = |(phase, direction): (PhaseName, Direction)| {
        let (undo, undone_by) = match undone_by(phase, direction, portal, &observed.spec) {
            UndoneBy::By(what) => ("Possible", what),
            UndoneBy::Nothing => ("NotNeeded", ""),
            UndoneBy::Impossible(why) => ("Impossible", why),
        };
        PlanStep {
            phase: phase.as_str().to_owned(),
            direction: direction.as_str().to_owned(),
            undo: undo.to_owned(),
            undone_by: undone_by.to_owned(),
        }
    };
    Some(PlanStatus { hash, steps: phases.into_iter().map(step).collect() })
}

/// The status of an object about which nothing could be observed: what is known stays, and the reason is said.
pub fn unobserved(
    before: &PortalReleaseStatus,
    generation: i64,
    now: Timestamp,
    reason: &str,
    message: &str,
    stalled: bool,
) -> PortalReleaseStatus {
    let mut status = PortalReleaseStatus { observed_generation: generation, message: bounded(message.to_owned(), 2048), ..before.clone() };
    status.state = status.state.or(Some(ReleaseState::Pending));
    let words = [
        ("Ready", if stalled { "False" } else { "Unknown" }),
        ("Reconciling", if stalled { "False" } else { "True" }),
        ("Stalled", if stalled { "True" } else { "False" }),
    ];
    let mut conditions = Conditions::new(now, generation, &before.conditions);
    for (type_, word) in words {
        conditions.push(type_, word, reason, message);
    }
    status.conditions = conditions.and_the_former();
    fit(status)
}
