//! What people see.

use super::*;

#[test]
fn kstatus_never_says_both_and_unobserved_is_never_healthy() {
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

#[test]
fn the_plan_says_what_undoes_each_step_before_anything_runs() {
    let observed = fresh();
    let status = project(&observed, &next(&observed), Extras::default());
    let steps = status.plan.unwrap().steps;
    let step = |phase: &str| steps.iter().find(|step| step.phase == phase).unwrap();
    assert_eq!(steps.len(), PhaseName::ALL.len());
    assert_eq!((step("FinaliseSwap").undo.as_str(), step("FinaliseSwap").direction.as_str()), ("Possible", "Do"));
    assert_eq!(step("AcquireLock").undo, "NotNeeded");
    assert_eq!(step("CleanupAndRetention").undo, "Impossible");
    assert!(steps.iter().all(|step| (step.undo == "NotNeeded") == step.undone_by.is_empty()));
    let live = with_run(at(PhaseName::ResetCheckpoints, PhaseState::Succeeded), |run| run.open = false);
    let live = Observed { release: Some(record(ReleaseState::Live)), ..live };
    assert!(project(&live, &next(&live), Extras::default()).plan.is_none(), "a release that is over has no plan");
}
