//! The status: a projection of what was observed and decided, with every condition, in one place.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    Blocker, LockView, Observed, RunKind, RunRecord, Step,
    phases::{PHASES, Undo, facts},
    plan::plan,
    size::fit,
};
use crate::{
    api::{Conditions, FrozenWorkload, ImportStatus, ManifestRef, PhaseName, PhaseState, PhaseStatus, PortalReleaseStatus, ReleaseState},
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
    /// Where the manifest is served.
    pub manifest: Option<ManifestRef>,
    /// The status before.
    pub before: PortalReleaseStatus,
}

/// Kstatus in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    InProgress,
    Stalled,
    Healthy,
}

/// Projects the status.
pub fn project(observed: &Observed, step: &Step, extras: Extras) -> PortalReleaseStatus {
    let state = state(observed, step);
    let message = bounded(message(observed, step, state), 2048);
    let phases = phases(observed);
    let release = observed.release.as_ref().filter(|_| observed.is_ours());
    let started_at = release.and_then(|release| release.started_at);
    let completed_at = release.and_then(|release| release.completed_at).filter(|_| !is_open(observed));
    let mut status = PortalReleaseStatus {
        observed_generation: extras.generation,
        state: Some(state),
        phase: phase(observed, &phases).filter(|_| !is_over(state)),
        progress: progress(&phases, &extras.imports, state),
        message: message.clone(),
        current: observed.current && release.is_some(),
        started_at: started_at.map(Time),
        completed_at: completed_at.map(Time),
        duration: started_at.zip(completed_at).map(|(start, end)| span(end.duration_since(start))),
        phases,
        imports: extras.imports,
        frozen_workloads: extras.frozen_workloads,
        backup: release.and_then(|release| release.backup.clone()),
        manifest: extras.manifest,
        conditions: Vec::new(),
    };
    status.conditions = conditions(observed, step, state, &message, extras.generation, &extras.before.conditions);
    fit(status)
}

/// The status of an object about which nothing could be observed: what is known stays, and the reason is said.
pub fn blind(
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

fn is_open(observed: &Observed) -> bool {
    observed.is_ours() && observed.run.as_ref().is_some_and(|run| run.open)
}

fn state(observed: &Observed, step: &Step) -> ReleaseState {
    match (step, &observed.release) {
        (Step::Hold, _) => ReleaseState::Suspended,
        (Step::Queue(_) | Step::Reap(_), Some(release)) if observed.is_ours() && release.state != ReleaseState::Pending => release.state,
        (Step::Queue(_) | Step::Reap(_), _) => ReleaseState::Queued,
        (Step::Refuse(refusal), _) if refusal.reason == "LabelInUse" => ReleaseState::Failed,
        (Step::Refuse(refusal), _) if refusal.reason == "Aborted" => ReleaseState::Aborted,
        (_, Some(release)) if is_open(observed) && release.state == ReleaseState::Pending => ReleaseState::Running,
        (_, Some(_)) if is_open(observed) => match observed.run.as_ref().map(|run| run.kind) {
            Some(RunKind::Rollback) => ReleaseState::RollingBack,
            _ => ReleaseState::Running,
        },
        (_, Some(release)) => release.state,
        (_, None) => ReleaseState::Pending,
    }
}

fn message(observed: &Observed, step: &Step, state: ReleaseState) -> String {
    if let Some(task) = &observed.task {
        let what = task.phase.map_or("winding up a release whose object is gone".to_owned(), |phase| phase.to_string());
        let what = if task.message.is_empty() { what } else { format!("{what}: {}", task.message) };
        let what = task.blocked.as_ref().map_or(what.clone(), |by| format!("{what}: {by}"));
        return what + refused_abort(observed);
    }
    match step {
        Step::Acquire if let LockView::Busy(holder) = &observed.lock => holder.clone(),
        Step::Refuse(refusal) => refusal.message.clone(),
        Step::Queue(blocker) => waits_for(blocker),
        Step::Reap(_) => observed.blocker.as_ref().map_or_else(String::new, waits_for),
        Step::Hold if is_open(observed) => "suspended at a safe point; set suspend to false to go on".to_owned(),
        Step::Hold => "suspended before it started; set suspend to false to start it".to_owned(),
        Step::End { message, .. } | Step::Close { message, .. } => message.clone(),
        Step::Wait { again: Some(_) } => observed
            .run
            .as_ref()
            .and_then(|run| run.phases.iter().find(|phase| phase.state == PhaseState::Failed))
            .map_or_else(String::new, |phase| format!("{} will be tried again: {}", phase.name, phase.message)),
        _ => match &observed.release {
            Some(release) if !observed.is_ours() => format!(
                "label {} has been released by PortalRelease {} and is {state}; nothing was run; choose a new label for a new release",
                observed.spec.label, release.name
            ),
            Some(release) if is_open(observed) => {
                observed.run.as_ref().map_or_else(|| release.message.clone(), |run| run_message(observed, run))
            }
            Some(release) if observed.is_aborted() && release.swapped && matches!(state, ReleaseState::Live | ReleaseState::Failed) => {
                format!("{}; abort is refused: the data is live already; use spec.rollback instead", release.message)
            }
            Some(release) => release.message.clone(),
            None => "seen, not started".to_owned(),
        },
    }
}

fn run_message(observed: &Observed, run: &RunRecord) -> String {
    let what = run
        .phases
        .iter()
        .find(|phase| matches!(phase.state, PhaseState::Running | PhaseState::Pending))
        .map_or_else(|| run.message.clone(), |phase| phase.name.to_string());
    what + refused_abort(observed)
}

/// What is said of an abort that comes too late, while the run goes on.
fn refused_abort(observed: &Observed) -> &'static str {
    if observed.is_aborted() && observed.run.as_ref().is_some_and(RunRecord::has_swapped) {
        "; abort is refused: the data is live already; use spec.rollback once this run has ended"
    } else {
        ""
    }
}

fn waits_for(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Running { name } => format!("waits for PortalRelease {name}, which runs"),
        Blocker::Older { name } => format!("waits for PortalRelease {name}, which was created earlier"),
        Blocker::Kept { name } => {
            format!("waits for PortalRelease {name}: the staging that it keeps would be lost; let it go on, abort it or delete it")
        }
        Blocker::Orphan { name, .. } => format!("waits until the run of the deleted PortalRelease {name} is wound up"),
        Blocker::LabelInUse { name } => format!("the label is used by PortalRelease {name}"),
    }
}

fn phases(observed: &Observed) -> Vec<PhaseStatus> {
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
    plan(RunKind::Release, portal, &observed.spec)
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

/// No phase of it will run again by itself, nor is there one to look at.
fn is_over(state: ReleaseState) -> bool {
    matches!(state, ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack)
}

/// The phase that runs, or failed, or comes next; at the end the last one that was done.
fn phase(observed: &Observed, phases: &[PhaseStatus]) -> Option<PhaseName> {
    let with = |state: PhaseState| phases.iter().find(|phase| phase.state == state).map(|phase| phase.name);
    let last_done = || phases.iter().rev().find(|phase| phase.state == PhaseState::Succeeded).map(|phase| phase.name);
    observed
        .task
        .as_ref()
        .and_then(|task| task.phase)
        .or_else(|| with(PhaseState::Failed))
        .or_else(|| with(PhaseState::Running))
        .or_else(|| if is_open(observed) { with(PhaseState::Pending) } else { None })
        .or_else(last_done)
}

/// The share of the plan that is done; a running import counts for the share of its rows.
fn progress(phases: &[PhaseStatus], imports: &[ImportStatus], state: ReleaseState) -> i32 {
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

fn conditions(
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
        (true, false) => ("False", "Replaced", "the data was live; readers see another release now"),
        (false, _) => ("False", "NotSwapped", "the data has not been live"),
    };
    list.push("DataSwapped", status, reason, text);
    let restored = run.is_some_and(RunRecord::has_restored_workers);
    list.push(
        "WorkersRestored",
        if restored { "True" } else { "Unknown" },
        if restored { "Restored" } else { "NothingToRestore" },
        if restored { "workers are back at their recorded replica counts" } else { "no worker had to be restored yet" },
    );
    let (status, reason, text) = super::verdict::rollback_available(observed);
    list.push("RollbackAvailable", status, reason, &text);
    list.finish()
}
