//! A release without an open run.

use super::*;

#[test]
fn a_release_waits_for_whoever_is_before_it() {
    assert_eq!(next(&fresh()), Step::Open(RunKind::Release));
    let running = Blocker::Running { name: "other".to_owned() };
    assert_eq!(next(&Observed { blocker: Some(running.clone()), ..fresh() }), Step::Queue(running));
    let orphan = Blocker::Orphan { run: 7, name: "gone".to_owned() };
    assert_eq!(next(&Observed { blocker: Some(orphan), ..fresh() }), Step::Reap(7));
}

#[test]
fn a_stopped_release_resumes_only_on_request() {
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
    wanted.spec.rollback = Some(rolling_back());
    assert!(matches!(next(&wanted), Step::Refuse(refusal) if refusal.reason == "RollbackUnavailable"));
    wanted.backups = vec![backup()];
    assert_eq!(next(&wanted), Step::Open(RunKind::Rollback));
    let mut busy = wanted.clone();
    busy.blocker = Some(Blocker::Running { name: "other".to_owned() });
    assert!(matches!(next(&busy), Step::Queue(_)));
    let mut kept = wanted;
    kept.blocker = Some(Blocker::Kept { name: "other".to_owned() });
    assert_eq!(next(&kept), Step::Open(RunKind::Rollback), "a kept dry run does not hold up a rollback");

    // A rollback that failed is not retried by itself; one to another backup is another request.
    let mut failed = live(ReleaseState::Failed);
    failed.backups = vec![backup()];
    failed.spec.rollback = Some(rolling_back());
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
    assert_eq!(next(&failed), Step::Open(RunKind::Rollback), "a loss that is accepted since is another request");
    failed.spec.rollback = None;
    assert_eq!(next(&failed), Step::Settle);

    let mut back = live(ReleaseState::RolledBack);
    back.current = false;
    back.spec.rollback = Some(rolling_back());
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
    back.spec.rollback = Some(rolling_back());
    assert_eq!(next(&back), Step::Settle);
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
    assert_eq!(next(&held), Step::Reopen, "to be cleaned up");
}

#[test]
fn a_failure_after_the_swap_leads_to_what_on_failure_says() {
    let failed = |phase: PhaseName, on_failure| {
        let mut observed = fail(at(phase, PhaseState::Failed), phase, i32::MAX, 0);
        observed.spec.on_failure = on_failure;
        observed.backups = vec![backup()];
        with_run(observed, |run| (run.ending, run.message) = (Some(ReleaseState::Failed), "PostSwap failed: 500".to_owned()))
    };
    let halts = |observed: &Observed| matches!(next(observed), Step::Close { state: ReleaseState::Failed, .. });
    let back = failed(PhaseName::PostSwap, Some(OnFailure::Rollback));
    assert!(matches!(next(&back), Step::RollBack { message } if message == "PostSwap failed: 500"));
    for on_failure in [None, Some(OnFailure::Halt)] {
        assert!(halts(&failed(PhaseName::PostSwap, on_failure)));
    }
    assert!(halts(&failed(PhaseName::CleanupAndRetention, Some(OnFailure::Rollback))), "housekeeping takes nothing from readers");
    let before = next(&failed(PhaseName::FinaliseSwap, Some(OnFailure::Rollback)));
    assert_eq!(before, Step::Undo(PhaseName::Freeze), "nothing is live yet, and workers come back first");

    let mut asked = back.clone();
    asked.spec.retry = 1;
    assert!(halts(&asked), "a retry is another wish");
    asked = back.clone();
    asked.spec.rollback = Some(rolling_back());
    assert!(halts(&asked), "so is a rollback, which is opened as such");
    asked = Observed { backups: Vec::new(), ..back };
    assert!(matches!(next(&asked), Step::Close { message, .. } if message.contains("there is no backup to roll back to")));
}

#[test]
fn a_rollback_that_nobody_asked_for_stays_until_somebody_asks_for_something() {
    let ended = |state, current: bool, at| {
        let swapped = ReleaseRecord { swapped: true, parked: (!current).then(|| "staging".to_owned()), ..record(state) };
        let run =
            RunRecord { open: false, cause: Some("PostSwap failed: 500".to_owned()), ..run_at(RunKind::Rollback, at, PhaseState::Failed) };
        Observed { release: Some(swapped), run: Some(run), current, backups: vec![backup()], ..fresh() }
    };
    let rolled_back = ended(ReleaseState::RolledBack, false, PhaseName::ReleaseLock);
    assert_eq!(next(&rolled_back), Step::Rest, "the same spec, applied again from Git, goes nowhere");
    let status = project(&rolled_back, &Step::Rest, Extras::default());
    let is = |type_: &str, wanted: &str| status.conditions.iter().any(|found| found.type_ == type_ && found.status == wanted);
    assert!(is("Ready", "False") && is("Stalled", "True"), "what the spec asks for is not so");

    let mut retried = rolled_back.clone();
    retried.spec.retry = 1;
    assert_eq!(next(&retried), Step::Open(RunKind::RollForward));
    let mut confirmed = rolled_back;
    confirmed.spec.rollback = Some(rolling_back());
    assert_eq!(next(&confirmed), Step::Confirm);

    let mut refused = ended(ReleaseState::Failed, true, PhaseName::Preflight);
    assert_eq!(next(&refused), Step::Rest, "the failure of the release stands");
    refused.spec.rollback = Some(Rollback { accept_data_loss: true, ..rolling_back() });
    assert_eq!(next(&refused), Step::Open(RunKind::Rollback));
    refused.spec.rollback = None;
    refused.spec.retry = 1;
    assert_eq!(next(&refused), Step::Open(RunKind::Release));
    let left = starts(planned_run(RunKind::Release, &portal(), &spec()), true);
    let pending: Vec<PhaseName> = left.iter().filter(|start| start.state == PhaseState::Pending).map(|start| start.phase).collect();
    assert!(pending.contains(&PhaseName::PostSwap) && !pending.contains(&PhaseName::FinaliseSwap) && !pending.contains(&PhaseName::Freeze));
}
