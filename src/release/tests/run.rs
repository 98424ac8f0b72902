//! A release with an open run.

use super::*;

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
            assert_eq!(step, Step::Run(name), "{name}: not suspended while workers are stopped");
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
    assert_eq!(next(&Observed { task: task(true), deleting: true, ..importing() }), Step::Wait { again: None }, "stopped already");
    let mut suspended = importing();
    suspended.spec.suspend = true;
    assert_eq!(next(&suspended), Step::StopTask { now: false });
    let undoing = with_run(Observed { deleting: true, ..importing() }, |run| run.ending = Some(ReleaseState::Aborted));
    assert_eq!(next(&undoing), Step::Wait { again: None }, "an undo is not cut off");
}

#[test]
fn a_failed_run_brings_the_workers_back_and_keeps_the_staging() {
    let failed = with_run(at(PhaseName::FinaliseSwap, PhaseState::Failed), |run| run.ending = Some(ReleaseState::Failed));
    assert_eq!(next(&failed), Step::Undo(PhaseName::Freeze));
    let thawed = with_run(failed, |run| set(run, PhaseName::Freeze, PhaseState::Undone));
    assert!(matches!(next(&thawed), Step::Close { state: ReleaseState::Failed, .. }));
}

#[test]
fn an_aborted_run_is_undone_from_its_end() {
    let mut observed = with_run(at(PhaseName::FinaliseSwap, PhaseState::Pending), |run| run.ending = Some(ReleaseState::Aborted));
    for expected in [
        PhaseName::Freeze,
        PhaseName::ValidateAndManifest,
        PhaseName::ImportRelated,
        PhaseName::ImportCore,
        PhaseName::BuildStaging,
        PhaseName::Preflight,
        PhaseName::CreateStagingViews,
    ] {
        assert_eq!(next(&observed), Step::Undo(expected));
        observed = with_run(observed, |run| set(run, expected, PhaseState::Undone));
    }
    assert!(matches!(next(&observed), Step::Close { state: ReleaseState::Aborted, .. }));
}

#[test]
fn nobody_waits_for_a_rebuilt_staging_with_workers_at_zero() {
    let stale = with_run(at(PhaseName::FinaliseSwap, PhaseState::Pending), |run| set(run, PhaseName::BuildStaging, PhaseState::Pending));
    assert!(stale.workers_frozen);
    assert_eq!(next(&stale), Step::Undo(PhaseName::Freeze));
    let thawed = with_run(Observed { workers_frozen: false, ..stale }, |run| set(run, PhaseName::Freeze, PhaseState::Undone));
    assert_eq!(next(&thawed), Step::Run(PhaseName::BuildStaging));
}

#[test]
fn a_run_that_cannot_continue_brings_the_workers_back_before_it_waits_for_a_person() {
    let gone = || Err(Refusal { reason: "PortalNotFound", message: "Portal p does not exist".to_owned() });
    let frozen = Observed { portal: gone(), ..at(PhaseName::FinaliseSwap, PhaseState::Pending) };
    assert!(matches!(next(&frozen), Step::End { state: ReleaseState::Failed, message } if message == "Portal p does not exist"));
    let importing = Observed { portal: gone(), ..at(PhaseName::ImportCore, PhaseState::Pending) };
    assert!(matches!(next(&importing), Step::Refuse(_)), "the import resumes when the Portal is back");
}
