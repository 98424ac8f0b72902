//! The pure core: plan and next step.

#![cfg(test)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::{
    Blocker, KeptBackup, LockView, Observed, PhaseRecord, PlannedPhase, ReleaseRecord, RunKind, RunRecord, Step, TableWrites, TaskView,
    Written, next,
    phase::{Undo, facts},
    plan,
    plan::replan,
    status::{Extras, project},
};
use crate::api::{Abort, PhaseName, PhaseState, PortalReleaseSpec, PortalSpec, ReleaseState, RollForward, Rollback};

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

/// A release that has never been seen.
fn fresh() -> Observed {
    Observed {
        now: now(),
        spec: spec(),
        deleting: false,
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
    PhaseRecord { name, state, attempts: 1, failures: 0, started_at: Some(now()), completed_at: None, message: String::new() }
}

/// An open run in which everything before `at` is done and `at` is in `state`.
fn run_at(kind: RunKind, at: PhaseName, state: PhaseState) -> RunRecord {
    let planned = plan(kind, &portal(), &spec());
    let position = planned.iter().position(|planned| planned.name == at).unwrap();
    let phases = planned
        .iter()
        .enumerate()
        .map(|(index, planned)| {
            let state = match index.cmp(&position) {
                std::cmp::Ordering::Less => PhaseState::Succeeded,
                std::cmp::Ordering::Equal => state,
                std::cmp::Ordering::Greater => PhaseState::Pending,
            };
            phase(planned.name, if planned.skipped.is_some() { PhaseState::Skipped } else { state })
        })
        .collect();
    RunRecord {
        id: 1,
        kind,
        target: None,
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

fn names(planned: &[PlannedPhase]) -> Vec<PhaseName> {
    planned.iter().map(|planned| planned.name).collect()
}

fn runs(planned: &[PlannedPhase]) -> Vec<PhaseName> {
    planned.iter().filter(|planned| planned.skipped.is_none()).map(|planned| planned.name).collect()
}

#[test]
fn the_plan_holds_every_phase_in_order() {
    assert_eq!(names(&plan(RunKind::Release, &portal(), &spec())), PhaseName::ALL);
    assert_eq!(runs(&plan(RunKind::Release, &portal(), &spec())), PhaseName::ALL);
}

#[test]
fn the_golden_sequence_freezes_before_the_preflight() {
    let mut golden = portal();
    golden.freeze.before = crate::api::FreezeBefore::Preflight;
    let planned = names(&plan(RunKind::Release, &golden, &spec()));
    let position = |wanted: PhaseName| planned.iter().position(|&name| name == wanted).unwrap();
    assert_eq!(position(PhaseName::Freeze) + 1, position(PhaseName::Preflight));
    assert_eq!(planned.len(), PhaseName::ALL.len());
}

#[test]
fn what_a_portal_does_not_have_is_skipped_with_the_reason() {
    let bare: PortalSpec =
        serde_json::from_value(json!({"database": {"connectionSecretRef": {"name": "db", "key": "url"}}, "tables": {"main": ["areas"]}}))
            .unwrap();
    for planned in plan(RunKind::Release, &bare, &spec()) {
        let expected = matches!(
            planned.name,
            PhaseName::RefreshViews
                | PhaseName::CreateStagingViews
                | PhaseName::ImportCore
                | PhaseName::ImportRelated
                | PhaseName::Freeze
                | PhaseName::CreateDownloadsView
                | PhaseName::Scale
        );
        assert_eq!(planned.skipped.is_some(), expected, "{planned:?}");
    }
}

#[test]
fn a_dry_run_ends_with_the_manifest_and_a_free_lock() {
    let dry = PortalReleaseSpec { dry_run: true, ..spec() };
    let planned = runs(&plan(RunKind::Release, &portal(), &dry));
    assert_eq!(planned.last(), Some(&PhaseName::ReleaseLock));
    assert!(planned.contains(&PhaseName::ValidateAndManifest));
    assert!(!planned.contains(&PhaseName::Freeze) && !planned.contains(&PhaseName::FinaliseSwap));
}

#[test]
fn a_swap_brings_its_validation_its_freeze_and_its_thaw() {
    let mut only = spec();
    only.phases.only = vec![PhaseName::FinaliseSwap];
    assert_eq!(
        runs(&plan(RunKind::Release, &portal(), &only)),
        [
            PhaseName::AcquireLock,
            PhaseName::ValidateAndManifest,
            PhaseName::Freeze,
            PhaseName::FinaliseSwap,
            PhaseName::Scale,
            PhaseName::ReleaseLock
        ]
    );
}

/// Every phase in every situation that the rules of a run distinguish.
#[test]
fn each_phase_in_each_situation() {
    for name in PhaseName::ALL {
        let before_swap = name <= PhaseName::FinaliseSwap;
        let lock_needed = name <= PhaseName::ReleaseLock;

        assert_eq!(next(&at(name, PhaseState::Pending)), Step::Run(name), "{name} pending");
        assert_eq!(next(&at(name, PhaseState::Running)), Step::Run(name), "{name} resumed after a crash");
        let lost = Observed { lock: LockView::Free, ..at(name, PhaseState::Pending) };
        assert_eq!(next(&lost), if lock_needed { Step::Acquire } else { Step::Run(name) }, "{name} without the lock");

        let due = fail(at(name, PhaseState::Running), name, 1, 60);
        assert_eq!(next(&due), Step::Run(name), "{name} failed and due");
        let early = fail(at(name, PhaseState::Running), name, 2, 0);
        assert_eq!(next(&early), Step::Wait { again: Some(Duration::from_secs(2)) }, "{name} failed just now");
        if facts(name).attempts < i32::MAX {
            let over = fail(at(name, PhaseState::Running), name, facts(name).attempts, 60);
            assert!(matches!(next(&over), Step::End { state: ReleaseState::Failed, .. }), "{name} failed for good");
        }

        let mut aborted = at(name, PhaseState::Running);
        aborted.spec.abort = Some(Abort { reason: "no".to_owned() });
        let step = next(&aborted);
        if before_swap {
            assert!(matches!(step, Step::End { state: ReleaseState::Aborted, .. }), "{name} aborted: {step:?}");
        } else {
            assert_eq!(step, Step::Run(name), "{name}: an abort after the swap is refused");
        }

        let mut suspended = at(name, PhaseState::Pending);
        suspended.spec.suspend = true;
        let step = next(&suspended);
        if suspended.workers_frozen {
            assert_eq!(step, Step::Run(name), "{name}: not suspended while workers rest");
        } else {
            assert_eq!(step, Step::Hold, "{name} suspended");
        }

        let deleted = Observed { deleting: true, ..at(name, PhaseState::Running) };
        let expected = if before_swap { ReleaseState::Aborted } else { ReleaseState::Live };
        assert!(matches!(next(&deleted), Step::End { state, .. } if state == expected), "{name} deleted");
    }
}

#[test]
fn a_running_task_is_waited_for_paused_or_cut_off() {
    let task = |stopping| Some(TaskView { phase: Some(PhaseName::ImportCore), message: String::new(), blocked: None, stopping });
    let importing = || Observed { task: task(false), ..at(PhaseName::ImportCore, PhaseState::Running) };
    assert_eq!(next(&importing()), Step::Wait { again: None });
    let mut aborted = importing();
    aborted.spec.abort = Some(Abort { reason: "no".to_owned() });
    assert_eq!(next(&aborted), Step::StopTask { now: true });
    assert_eq!(next(&Observed { deleting: true, ..importing() }), Step::StopTask { now: true });
    assert_eq!(next(&Observed { task: task(true), deleting: true, ..importing() }), Step::Wait { again: None }, "told already");
    let mut suspended = importing();
    suspended.spec.suspend = true;
    assert_eq!(next(&suspended), Step::StopTask { now: false });
    let undoing = with_run(Observed { deleting: true, ..importing() }, |run| run.ending = Some(ReleaseState::Aborted));
    assert_eq!(next(&undoing), Step::Wait { again: None }, "what takes back is not cut off");
}

#[test]
fn a_failed_run_brings_the_workers_back_and_keeps_the_staging() {
    let failed = with_run(at(PhaseName::FinaliseSwap, PhaseState::Failed), |run| run.ending = Some(ReleaseState::Failed));
    assert_eq!(next(&failed), Step::Undo(PhaseName::Freeze));
    let thawed = with_run(failed, |run| set(run, PhaseName::Freeze, PhaseState::Undone));
    assert!(matches!(next(&thawed), Step::Close { state: ReleaseState::Failed, .. }));
}

#[test]
fn an_aborted_run_is_taken_back_from_its_end() {
    let mut observed = with_run(at(PhaseName::FinaliseSwap, PhaseState::Pending), |run| run.ending = Some(ReleaseState::Aborted));
    for expected in
        [PhaseName::Freeze, PhaseName::ImportRelated, PhaseName::ImportCore, PhaseName::BuildStaging, PhaseName::CreateStagingViews]
    {
        assert_eq!(next(&observed), Step::Undo(expected));
        observed = with_run(observed, |run| set(run, expected, PhaseState::Undone));
    }
    assert!(matches!(next(&observed), Step::Close { state: ReleaseState::Aborted, .. }));
}

fn set(run: &mut RunRecord, name: PhaseName, state: PhaseState) {
    for phase in run.phases.iter_mut().filter(|phase| phase.name == name) {
        phase.state = state;
    }
}

#[test]
fn a_release_waits_for_whoever_is_before_it() {
    assert_eq!(next(&fresh()), Step::Open(RunKind::Release));
    let running = Blocker::Running { name: "other".to_owned() };
    assert_eq!(next(&Observed { blocker: Some(running.clone()), ..fresh() }), Step::Queue(running));
    let orphan = Blocker::Orphan { run: 7, name: "gone".to_owned() };
    assert_eq!(next(&Observed { blocker: Some(orphan), ..fresh() }), Step::Reap(7));
}

#[test]
fn a_stopped_release_goes_on_only_when_asked() {
    let resting = |state| {
        with_run(Observed { release: Some(record(state)), ..at(PhaseName::ReleaseLock, PhaseState::Succeeded) }, |run| run.open = false)
    };
    for state in [ReleaseState::Failed, ReleaseState::Aborted, ReleaseState::Live, ReleaseState::Superseded] {
        assert_eq!(next(&resting(state)), Step::Rest, "{state}");
    }
    for state in [ReleaseState::Failed, ReleaseState::Aborted] {
        let mut again = resting(state);
        again.spec.retry = 1;
        assert_eq!(next(&again), Step::Reopen, "{state} and retry raised");
    }
    let mut dry = resting(ReleaseState::DryRunComplete);
    dry.spec.dry_run = true;
    assert_eq!(next(&dry), Step::Rest);
    dry.spec.dry_run = false;
    assert_eq!(next(&dry), Step::Reopen);
}

#[test]
fn a_live_release_rolls_back_and_forward() {
    let live = |state| {
        let mut observed = with_run(at(PhaseName::ResetCheckpoints, PhaseState::Succeeded), |run| run.open = false);
        observed.release = Some(ReleaseRecord { swapped: true, ..record(state) });
        observed
    };
    let mut wanted = live(ReleaseState::Live);
    wanted.spec.rollback = Some(Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: false });
    assert!(matches!(next(&wanted), Step::Refuse(refusal) if refusal.reason == "RollbackUnavailable"));
    wanted.backups = vec![backup()];
    assert_eq!(next(&wanted), Step::Open(RunKind::Rollback));
    let mut busy = wanted.clone();
    busy.blocker = Some(Blocker::Running { name: "other".to_owned() });
    assert!(matches!(next(&busy), Step::Queue(_)));
    let mut kept = wanted;
    kept.blocker = Some(Blocker::Kept { name: "other".to_owned() });
    assert_eq!(next(&kept), Step::Open(RunKind::Rollback), "a kept dry run does not hold up a rollback");

    // A rollback that failed is not tried again by itself; one to another backup is another wish.
    let mut failed = live(ReleaseState::Failed);
    failed.backups = vec![backup()];
    failed.spec.rollback = Some(Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: false });
    let run = RunRecord {
        open: false,
        target: Some("Previous".to_owned()),
        ..run_at(RunKind::Rollback, PhaseName::Preflight, PhaseState::Failed)
    };
    failed.run = Some(run);
    assert_eq!(next(&failed), Step::Rest);
    failed.spec.rollback = Some(Rollback { to: "2607011200".to_owned(), reason: None, accept_data_loss: false });
    assert_eq!(next(&failed), Step::Open(RunKind::Rollback));
    failed.spec.rollback = Some(Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: true });
    assert_eq!(next(&failed), Step::Open(RunKind::Rollback), "a loss that is accepted by now is another wish");
    failed.spec.rollback = None;
    assert_eq!(next(&failed), Step::Settle);

    let mut back = live(ReleaseState::RolledBack);
    back.current = false;
    back.spec.rollback = Some(Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: false });
    assert_eq!(next(&back), Step::Rest, "a second rollback is a no-op");
    back.spec.rollback = None;
    assert!(matches!(next(&back), Step::Refuse(_)), "nothing is kept");
    back.release = Some(ReleaseRecord { parked: Some("staging".to_owned()), swapped: true, ..record(ReleaseState::RolledBack) });
    assert_eq!(next(&back), Step::Open(RunKind::RollForward));

    // So it is with a roll forward.
    back.release = Some(ReleaseRecord { parked: Some("staging".to_owned()), swapped: true, ..record(ReleaseState::Failed) });
    back.run = Some(RunRecord { open: false, ..run_at(RunKind::RollForward, PhaseName::Preflight, PhaseState::Failed) });
    assert_eq!(next(&back), Step::Rest);
    back.spec.roll_forward = Some(RollForward { accept_data_loss: true });
    assert_eq!(next(&back), Step::Open(RunKind::RollForward));
    back.spec.rollback = Some(Rollback { to: "Previous".to_owned(), reason: None, accept_data_loss: false });
    assert_eq!(next(&back), Step::Settle);
}

#[test]
fn whether_a_rollback_would_lose_data_is_said() {
    let mut observed =
        Observed { current: true, ..with_run(at(PhaseName::ResetCheckpoints, PhaseState::Succeeded), |run| run.open = false) };
    observed.release = Some(ReleaseRecord { swapped: true, backup: Some("2607011200".to_owned()), ..record(ReleaseState::Live) });
    let said = |observed: &Observed| {
        let status = project(observed, &Step::Rest, Extras::default());
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == "RollbackAvailable").unwrap();
        (condition.status, condition.reason, condition.message)
    };
    let is = |observed: &Observed, status: &str, reason: &str, words: &[&str]| {
        let (is, because, message) = said(observed);
        assert_eq!((is.as_str(), because.as_str()), (status, reason), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    is(&observed, "False", "NoBackup", &[]);
    observed.backups = vec![KeptBackup { stamp: "2608011200".to_owned(), label: None }, backup()];
    is(&observed, "True", "BackupKept", &["backup 2607011200, the data of Jun2026"]);
    let mut written = Written { at: now(), since: Some(now()), tables: Vec::new(), unknown: Vec::new() };
    observed.written = Some(written.clone());
    is(&observed, "True", "BackupKept", &["nothing was written since 2027-01-15T08:00:00Z, as of 2027-01-15T08:00:00Z"]);
    written.unknown = vec!["areas".to_owned()];
    observed.written = Some(written.clone());
    is(&observed, "Unknown", "WritesUnknown", &["areas is not known", "rollback.acceptDataLoss"]);
    written.tables = vec![TableWrites { table: "areas".to_owned(), new: 12, gone: 0 }];
    observed.written = Some(written);
    is(&observed, "False", "WouldLoseData", &["as of 2027-01-15T08:00:00Z", "12 rows inserted in areas", "rollback.acceptDataLoss: true"]);
    observed.current = false;
    is(&observed, "False", "NotLive", &[]);
}

fn backup() -> KeptBackup {
    KeptBackup { stamp: "2607011200".to_owned(), label: Some("Jun2026".to_owned()) }
}

#[test]
fn a_label_that_is_done_is_not_run_again() {
    for state in [ReleaseState::Live, ReleaseState::Superseded, ReleaseState::RolledBack] {
        let other = Observed { release: Some(ReleaseRecord { uid: "another".to_owned(), ..record(state) }), ..fresh() };
        assert_eq!(next(&other), Step::Rest, "{state}");
    }
    let mut used = Observed { release: Some(ReleaseRecord { uid: "another".to_owned(), ..record(ReleaseState::Running) }), ..fresh() };
    used.blocker = Some(Blocker::LabelInUse { name: "other".to_owned() });
    assert!(matches!(next(&used), Step::Refuse(refusal) if refusal.reason == "LabelInUse"));
    let abandoned = Observed { release: Some(ReleaseRecord { uid: "another".to_owned(), ..record(ReleaseState::Aborted) }), ..fresh() };
    assert_eq!(next(&abandoned), Step::Adopt);
}

#[test]
fn a_retry_keeps_what_still_holds() {
    let failed = fail(at(PhaseName::ImportRelated, PhaseState::Running), PhaseName::ImportRelated, 99, 60);
    let before = failed.run.unwrap().phases;
    let states = |fresh| -> Vec<PhaseName> {
        replan(&before, plan(RunKind::Release, &portal(), &spec()), fresh, false)
            .into_iter()
            .filter(|(_, state, _)| *state == PhaseState::Succeeded)
            .map(|(name, ..)| name)
            .collect()
    };
    assert_eq!(
        states(false),
        [PhaseName::RefreshViews, PhaseName::CreateStagingViews, PhaseName::Preflight, PhaseName::BuildStaging, PhaseName::ImportCore]
    );
    assert!(states(true).is_empty());
}

#[test]
fn kstatus_never_says_both_and_unseen_is_never_healthy() {
    let observations = [fresh(), at(PhaseName::ImportCore, PhaseState::Running), at(PhaseName::ResetCheckpoints, PhaseState::Succeeded)];
    for observed in observations {
        let status = project(&observed, &next(&observed), Extras { generation: 3, ..Extras::default() });
        let word = |type_: &str| {
            status.conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.clone()).unwrap()
        };
        assert!(!(word("Reconciling") == "True" && word("Stalled") == "True"));
        assert!(word("Ready") != "True" || (word("Reconciling") == "False" && word("Stalled") == "False"));
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
    }
    let spec = serde_json::to_value(crate::api::crds()).unwrap();
    for crd in spec.as_array().unwrap() {
        let default = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").unwrap();
        assert_eq!(default, &json!({"observedGeneration": -1}));
    }
}

/// Plays a run against a world that fails, crashes and is interfered with at will, and collects what was done.
fn play(choices: &[u8], spec: PortalReleaseSpec) -> Vec<Step> {
    let mut observed = fresh();
    observed.spec = spec;
    let mut steps = Vec::new();
    for &choice in choices.iter().chain(&[0; 80]) {
        let step = next(&observed);
        observed.now += SignedDuration::from_secs(60);
        match &step {
            Step::Open(kind) => {
                let planned = plan(*kind, &portal(), &observed.spec);
                let phases = planned
                    .into_iter()
                    .map(|planned| phase(planned.name, if planned.skipped.is_some() { PhaseState::Skipped } else { PhaseState::Pending }))
                    .collect();
                observed.release = Some(record(ReleaseState::Running));
                observed.run = Some(RunRecord {
                    id: 1,
                    kind: *kind,
                    target: None,
                    open: true,
                    ending: None,
                    message: String::new(),
                    recheck: false,
                    accept_data_loss: false,
                    phases,
                });
            }
            Step::Acquire => observed.lock = LockView::Held,
            Step::Run(name) => {
                let run = observed.run.as_mut().unwrap();
                match choice % 64 {
                    // Mostly well, so that runs get far before something happens.
                    0..=55 => {
                        set(run, *name, PhaseState::Succeeded);
                        match name {
                            PhaseName::Freeze => observed.workers_frozen = true,
                            PhaseName::Scale => observed.workers_frozen = false,
                            PhaseName::FinaliseSwap => observed.current = true,
                            PhaseName::ReleaseLock => observed.lock = LockView::Free,
                            _ => {}
                        }
                    }
                    56 | 57 => observed.lock = LockView::Free,
                    58..=60 => {
                        let refused = if choice >= 64 { i32::MAX / 2 } else { 1 };
                        let at = observed.now;
                        for phase in run.phases.iter_mut().filter(|phase| phase.name == *name) {
                            phase.state = PhaseState::Failed;
                            phase.failures += refused;
                            phase.completed_at = Some(at - SignedDuration::from_secs(120));
                        }
                        // Freeze may have stopped workers before it failed.
                        observed.workers_frozen |= *name == PhaseName::Freeze;
                    }
                    61 => observed.spec.abort = Some(Abort { reason: "no".to_owned() }),
                    _ => observed.deleting = true,
                }
            }
            Step::Undo(name) => {
                set(observed.run.as_mut().unwrap(), *name, PhaseState::Undone);
                observed.workers_frozen &= *name != PhaseName::Freeze;
            }
            Step::End { state, message } => {
                let run = observed.run.as_mut().unwrap();
                run.ending = Some(*state);
                run.message = message.clone();
            }
            Step::Close { state, .. } => {
                let swapped = observed.run.as_ref().unwrap().is_done(PhaseName::FinaliseSwap);
                observed.run.as_mut().unwrap().open = false;
                observed.lock = LockView::Free;
                let record = observed.release.as_mut().unwrap();
                record.state = *state;
                record.swapped = swapped;
                steps.push(step);
                break;
            }
            _ => {}
        }
        steps.push(step);
    }
    assert!(!observed.workers_frozen, "workers are left frozen after {steps:?}");
    assert!(observed.run.as_ref().is_none_or(|run| !run.open), "the run never ends: {steps:?}");
    steps
}

proptest! {
    #[test]
    fn whatever_happens_workers_come_back_and_nothing_unvalidated_goes_live(choices in proptest::collection::vec(any::<u8>(), 0..60), dry_run: bool, stop in 0usize..20) {
        let mut wanted = PortalReleaseSpec { dry_run, ..spec() };
        wanted.phases.stop_after = PhaseName::ALL.get(stop).copied();
        let steps = play(&choices, wanted);
        let position = |wanted: &Step| steps.iter().position(|step| step == wanted);
        if let Some(swap) = position(&Step::Run(PhaseName::FinaliseSwap)) {
            prop_assert!(position(&Step::Run(PhaseName::ValidateAndManifest)).is_some_and(|validated| validated < swap));
            prop_assert!(position(&Step::Run(PhaseName::Freeze)).is_some_and(|frozen| frozen < swap));
            prop_assert!(!dry_run);
        }
    }

    #[test]
    fn a_plan_never_swaps_without_validation_and_freeze_and_always_thaws(only in proptest::collection::vec(0usize..16, 0..6), skip in proptest::collection::vec(0usize..16, 0..4), start in 0usize..20, stop in 0usize..20) {
        let pick = |indexes: &[usize]| indexes.iter().map(|&index| PhaseName::ALL[index]).collect::<Vec<_>>();
        let mut wanted = spec();
        wanted.phases.only = pick(&only);
        wanted.phases.skip = pick(&skip);
        wanted.phases.start_at = PhaseName::ALL.get(start).copied();
        wanted.phases.stop_after = PhaseName::ALL.get(stop).copied();
        let planned = runs(&plan(RunKind::Release, &portal(), &wanted));
        prop_assert!(planned.contains(&PhaseName::AcquireLock) && planned.contains(&PhaseName::ReleaseLock));
        if planned.contains(&PhaseName::FinaliseSwap) {
            prop_assert!(planned.contains(&PhaseName::ValidateAndManifest) && planned.contains(&PhaseName::Freeze));
        }
        if planned.contains(&PhaseName::Freeze) {
            prop_assert!(planned.contains(&PhaseName::Scale));
        }
    }
}

#[test]
fn every_phase_that_stops_workers_names_what_brings_them_back() {
    assert_eq!(facts(PhaseName::Freeze).undo, Undo::AlwaysUnless(PhaseName::Scale));
}

/// Decisions can be tested without a cluster only as long as nothing here can reach one.
#[test]
fn the_core_is_pure() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/release");
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
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

#[test]
fn a_retry_overrules_the_abort_before_it_and_another_reason_aborts_again() {
    let abort = |reason: &str| Some(Abort { reason: reason.to_owned() });
    let mut unborn = fresh();
    unborn.spec.abort = abort("no");
    assert!(matches!(next(&unborn), Step::Refuse(refusal) if refusal.reason == "Aborted"));
    unborn.spec.suspend = true;
    assert!(matches!(next(&unborn), Step::Refuse(refusal) if refusal.reason == "Aborted"), "an abort needs no resumption");
    unborn.spec.suspend = false;
    unborn.spec.retry = 1;
    assert_eq!(next(&unborn), Step::Open(RunKind::Release));

    let mut running = at(PhaseName::ImportCore, PhaseState::Running);
    running.spec.abort = abort("no");
    running.spec.retry = 1;
    assert!(matches!(next(&running), Step::End { state: ReleaseState::Aborted, .. }), "a retry raised before does not stop an abort");
    running.release = Some(ReleaseRecord { retry_seen: 1, abort_seen: Some("no".to_owned()), ..record(ReleaseState::Running) });
    assert_eq!(next(&running), Step::Run(PhaseName::ImportCore));
    running.spec.abort = abort("still no");
    assert!(matches!(next(&running), Step::End { state: ReleaseState::Aborted, .. }));

    let mut held = with_run(at(PhaseName::ReleaseLock, PhaseState::Succeeded), |run| run.open = false);
    held.release = Some(record(ReleaseState::DryRunComplete));
    held.spec.suspend = true;
    held.spec.abort = abort("no");
    held.run
        .as_mut()
        .unwrap()
        .phases
        .iter_mut()
        .filter(|phase| phase.name >= PhaseName::Freeze)
        .for_each(|phase| phase.state = PhaseState::Skipped);
    assert_eq!(next(&held), Step::Reopen, "to be wound up");
}
