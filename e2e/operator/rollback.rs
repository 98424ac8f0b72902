//! A release is rolled back and forward again: the former data come back as they were, down to the OIDs.

use portal_release_operator::api::ReleaseState;

use crate::support::{
    Stage,
    looks::assert_same,
    stage::{condition, release_yaml, stalled},
};

const APPLY_AUGUST: &str = include_str!("../sample/releases/aug2026.yaml");
const APPLY_JULY: &str = include_str!("../sample/releases/jul2026.yaml");
const APPLY_ROLLBACK: &str = include_str!("../sample/releases/rollback.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_the_former_data_back_and_clearing_it_rolls_forward() {
    let stage = Stage::new("rollback").await;
    let _operator = stage.operator_alone().await;
    let june = stage.live().await;

    // The first release replaces data of which the operator knows no release.
    stage.apply(APPLY_JULY).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = stage.live().await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous","reason":"look at June"}}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert!(!status.current);
    assert_eq!(condition(&status, "Ready"), "True");
    assert_same(&stage.live().await, &june, "June is live again");
    assert_eq!(current(&stage).await, "", "June was no release of the operator's");
    stage.inserts_get_fresh_ids().await;
    stage.apply(APPLY_JULY).await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_same(&stage.live().await, &july, "July is live again");

    stage.month(2).await;
    stage.apply(APPLY_AUGUST).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    stage.wait_state("jul2026", ReleaseState::Superseded).await;
    let august = stage.live().await;
    assert_eq!(stage.live_month().await, "2");

    for round in ["first", "second"] {
        stage.apply(APPLY_ROLLBACK).await;
        let status = stage.wait_state("aug2026", ReleaseState::RolledBack).await;
        assert!(!status.current, "{round}");
        assert_eq!(condition(&status, "DataSwapped"), "False", "{round}");
        let status = stage.wait("jul2026", "live and current", |status| status.current && status.state == Some(ReleaseState::Live)).await;
        assert_eq!(condition(&status, "DataSwapped"), "True", "{round}");
        assert_same(&stage.live().await, &july, "July is live again");
        assert_eq!((stage.live_month().await, current(&stage).await), ("1".to_owned(), "Jul2026".to_owned()), "{round}");
        assert_eq!(stage.workers().await, Stage::WORKERS, "{round}");
        assert!(!stage.is_locked().await, "{round}");
        stage.inserts_get_fresh_ids().await;
        assert!(stage.audit("Aug2026", "RollbackStarted").await.contains("Wrong marine areas for Fiji"), "{round}");

        stage.apply(APPLY_AUGUST).await;
        let status = stage.wait_state("aug2026", ReleaseState::Live).await;
        assert!(status.current, "{round}");
        assert_same(&stage.live().await, &august, "August is live again");
        assert_eq!(current(&stage).await, "Aug2026", "{round}");
        stage.inserts_get_fresh_ids().await;
        stage.wait_state("jul2026", ReleaseState::Superseded).await;
    }
    assert_eq!(stage.import_attempts("Aug2026").await, "1", "nothing was imported again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_goes_to_a_named_backup_and_nowhere_else() {
    let stage = Stage::new("named").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "retention: {keepBackups: 2}").await;
    let june = stage.wait_state("jul2026", ReleaseState::Live).await.backup.expect("June's backup");
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "retention: {keepBackups: 2}").await;
    let july = stage.wait_state("aug2026", ReleaseState::Live).await.backup.expect("July's backup");
    let august = stage.live().await;

    // There is no such backup: the message names those that there are.
    stage.edit("aug2026", r#"{"rollback":{"to":"2001010000"}}"#).await;
    let status = stage.wait("aug2026", "refused", stalled).await;
    assert!(status.message.contains("there is no backup 2001010000") && status.current, "{}", status.message);
    assert!(status.message.contains(&format!("{july}, {june}")), "{}", status.message);
    assert_same(&stage.live().await, &august, "nothing has changed");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert!(!stage.is_locked().await);
    stage.edit("aug2026", r#"{"rollback":null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;

    // Corrected instead of removed, it goes where it says; the name alone identifies a backup, whoever made it.
    stage.execute("DELETE FROM portal_release.backups").await;
    stage.edit("aug2026", r#"{"rollback":{"to":"2001010000"}}"#).await;
    stage.wait("aug2026", "refused", stalled).await;
    stage.edit("aug2026", &format!(r#"{{"rollback":{{"to":"{june}"}}}}"#)).await;
    stage.wait("aug2026", "rolled back", |status| status.state == Some(ReleaseState::RolledBack)).await;
    assert_eq!(stage.live_month().await, "0", "past July to June");
    assert_eq!(current(&stage).await, "");
    stage.edit("aug2026", r#"{"rollback":null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_same(&stage.live().await, &august, "August is live again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_for_the_release_that_runs_and_needs_a_backup() {
    let stage = Stage::new("waits").await;
    let operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    operator.kill().await;

    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    let operator = stage.halted_at("ImportCore:begin").await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    let status = stage.wait("jul2026", "waiting", |status| condition(status, "Reconciling") == "True").await;
    assert_eq!(status.message, "waiting for PortalRelease aug2026 to finish");
    assert!(status.current && stage.live_month().await == "1");
    stage.edit("aug2026", r#"{"abort":{"reason":"July is wrong already"}}"#).await;
    stage.wait_state("aug2026", ReleaseState::Aborted).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert_eq!(stage.live_month().await, "0");
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    operator.kill().await;

    // No backup, no rollback.
    let _operator = stage.operator_alone().await;
    stage.apply(&release_yaml("sep2026", "Sep2026", "retention: {keepBackups: 0}")).await;
    let status = stage.wait_state("sep2026", ReleaseState::Live).await;
    assert_eq!((condition(&status, "RollbackAvailable").as_str(), status.backup), ("False", None));
    let live = stage.live().await;
    stage.edit("sep2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    let status = stage.wait("sep2026", "refused", stalled).await;
    assert_eq!(status.state, Some(ReleaseState::Live));
    assert!(status.message.starts_with("there is no backup to roll back to"), "{}", status.message);
    assert_same(&stage.live().await, &live, "nothing has changed");
    stage.edit("sep2026", r#"{"rollback":null}"#).await;
    let status = stage.wait("sep2026", "healthy", |status| condition(status, "Ready") == "True").await;
    assert_eq!(status.state, Some(ReleaseState::Live));
}

/// Label of the release that readers see; empty when their data is from before the operator.
async fn current(stage: &Stage) -> String {
    stage.text("SELECT r.label FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.current_release").await
}
