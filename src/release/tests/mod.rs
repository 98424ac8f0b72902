//! The pure core: plan, next step, status. Fixtures here, the tests beside it.

#![cfg(test)]

mod plan;
mod rest;
mod run;
mod status;
mod world;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{
    Blocker, Direction, Entry, KeptBackup, LockView, Observed, PhaseRecord, ReleaseRecord, RunKind, RunRecord, Step, TableWrites, TaskView,
    UndoneBy, Written, next,
    observed::Refusal,
    phases::{DryRun, PHASES, Selection, Undo, facts},
    plan as planned_run,
    plan::{Again, Start, replan, starts},
    status::{Extras, project},
};
use crate::api::{
    Abort, FreezeBefore, OnFailure, PhaseName, PhaseState, PortalReleaseSpec, PortalSpec, ReleaseState, RollForward, Rollback,
};

const NOW: i64 = 1_800_000_000;

const UID: &str = "uid-1";

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn portal() -> PortalSpec {
    serde_json::from_value(json!({
        "database": {"connectionSecretRef": {"name": "db", "key": "url"}},
        "tables": {"main": ["areas"]},
        "materializedViews": [{"name": "v", "query": "SELECT 1"}],
        "imports": {"core": [{"name": "a", "into": "areas", "query": "SELECT 1"}], "related": [{"name": "b", "into": "areas", "query": "SELECT 1"}]},
        "workers": [{"kind": "Deployment", "name": "w"}],
        "downloadsView": {"name": "d", "query": "SELECT 1"},
        "views": {"refresh": true}
    }))
    .unwrap()
}

fn spec() -> PortalReleaseSpec {
    serde_json::from_value(json!({"portalRef": {"name": "p"}, "label": "Jul2026"})).unwrap()
}

/// A release that has never been observed.
fn fresh() -> Observed {
    Observed {
        now: now(),
        spec: spec(),
        deleting: false,
        orphan: false,
        uid: UID.to_owned(),
        portal: Ok(portal()),
        release: None,
        run: None,
        blocker: None,
        lock: LockView::Free,
        task: None,
        workers_frozen: false,
        current: false,
        owns_staging: false,
        backups: Vec::new(),
        written: None,
    }
}

fn record(state: ReleaseState) -> ReleaseRecord {
    ReleaseRecord {
        id: 1,
        uid: UID.to_owned(),
        name: "jul2026".to_owned(),
        state,
        message: String::new(),
        retry_seen: 0,
        abort_seen: None,
        swapped: false,
        parked: None,
        backup: None,
        manifest_sha256: None,
        started_at: Some(now()),
        completed_at: None,
    }
}

fn phase(name: PhaseName, state: PhaseState) -> PhaseRecord {
    PhaseRecord {
        name,
        direction: Direction::Do,
        state,
        attempts: i32::from(!matches!(state, PhaseState::Pending | PhaseState::Skipped)),
        failures: 0,
        started_at: Some(now()),
        completed_at: None,
        message: String::new(),
    }
}

/// An open run in which everything before `at` is done and `at` is in `state`.
fn run_at(kind: RunKind, at: PhaseName, state: PhaseState) -> RunRecord {
    let planned = planned_run(kind, &portal(), &spec());
    let position = planned.iter().position(|planned| planned.phase == at).unwrap();
    let phases = planned
        .iter()
        .enumerate()
        .map(|(index, planned)| {
            let state = match index.cmp(&position) {
                std::cmp::Ordering::Less => PhaseState::Succeeded,
                std::cmp::Ordering::Equal => state,
                std::cmp::Ordering::Greater => PhaseState::Pending,
            };
            PhaseRecord {
                direction: planned.direction,
                ..phase(planned.phase, if planned.skipped.is_some() { PhaseState::Skipped } else { state })
            }
        })
        .collect();
    RunRecord {
        id: 1,
        kind,
        target: None,
        cause: None,
        open: true,
        ending: None,
        message: String::new(),
        recheck: false,
        accept_data_loss: false,
        phases,
    }
}

/// A release whose open run is at a phase, with the lock held.
fn at(at: PhaseName, state: PhaseState) -> Observed {
    let run = run_at(RunKind::Release, at, state);
    let swapped = run.is_done(PhaseName::FinaliseSwap);
    let frozen = run.is_done(PhaseName::Freeze) && !run.is_done(PhaseName::Scale);
    Observed {
        release: Some(ReleaseRecord { swapped, ..record(ReleaseState::Running) }),
        run: Some(run),
        lock: LockView::Held,
        current: swapped,
        owns_staging: true,
        workers_frozen: frozen,
        ..fresh()
    }
}

fn with_run(mut observed: Observed, change: impl FnOnce(&mut RunRecord)) -> Observed {
    if let Some(run) = &mut observed.run {
        change(run);
    }
    observed
}

fn fail(observed: Observed, name: PhaseName, failures: i32, ago: i64) -> Observed {
    with_run(observed, |run| {
        for phase in run.phases.iter_mut().filter(|phase| phase.name == name) {
            phase.state = PhaseState::Failed;
            phase.failures = failures;
            phase.completed_at = Some(now() - SignedDuration::from_secs(ago));
        }
    })
}

fn names(planned: &[Entry]) -> Vec<PhaseName> {
    planned.iter().map(|planned| planned.phase).collect()
}

fn runs(planned: &[Entry]) -> Vec<PhaseName> {
    planned.iter().filter(|planned| planned.skipped.is_none()).map(|planned| planned.phase).collect()
}

fn set(run: &mut RunRecord, name: PhaseName, state: PhaseState) {
    for phase in run.phases.iter_mut().filter(|phase| phase.name == name) {
        phase.state = state;
    }
}

fn backup() -> KeptBackup {
    KeptBackup { stamp: "2607011200".to_owned(), label: Some("Jun2026".to_owned()) }
}

/// A rollback to the previous data.
fn rolling_back() -> Rollback {
    Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: false }
}

/// Decisions can be tested without a cluster only as long as nothing here can reach one.
#[test]
fn the_core_is_pure() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/release");
    let entries = [directory.to_owned(), format!("{directory}/tests")].into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        // The needles are put together so that this file does not hold them.
        let forbidden =
            [["kube", "::"], ["sqlx", "::"], ["tokio", "::"], ["Timestamp::", "now"], ["SystemTime::", "now"]].map(|parts| parts.concat());
        for line in code {
            assert!(forbidden.iter().all(|word| !line.contains(word)), "{}: {line}", entry.path().display());
        }
    }
}
