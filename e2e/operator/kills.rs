//! The operator is killed wherever it hurts, and started again: everything ends as if nothing had happened.
//!
//! `Phase:begin` is right after the phase began; `Phase:end` is right before the transaction commits that does it, or the last
//! part of it, and says that it is done. One release is killed at all of them in turn, so each phase is run up to three times.

use portal_release_operator::api::ReleaseState;

use crate::support::{Stage, settled::points, snapshot};

/// A killed leader leaves a Lease that others respect for a while; leaders.rs is about that.
const ALONE: &str = "--leader-election=false";

/// Kills an operator at each of these points, one after another.
async fn kill_at(stage: &Stage, points: &[String]) {
    for point in points {
        let operator = stage.operator_with("killed", &[ALONE, "--halt-at", point]).await;
        operator.logs("halted at").await;
        operator.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_killed_at_the_begin_and_the_end_of_every_phase_ends_as_an_undisturbed_one() {
    let (stage, reference) = tokio::join!(Stage::new("kill"), Stage::new("calm"));
    let calm = reference.operator_with("operator", &[ALONE]).await;
    reference.make_release("jul2026", "Jul2026", "views: {refresh: true}").await;
    let undisturbed = reference.wait_state("jul2026", ReleaseState::Live).await;
    let points = points(&undisturbed);
    assert_eq!(points.len(), 32, "every phase there is: {points:?}");

    stage.make_release("jul2026", "Jul2026", "views: {refresh: true}").await;
    kill_at(&stage, &points).await;
    let operator = stage.operator_with("operator", &[ALONE]).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;

    snapshot::assert_same("the release that was killed", &snapshot::of(&stage).await, &snapshot::of(&reference).await);
    assert_eq!(stage.account().await, reference.account().await, "every import's rows count once");
    assert_eq!(stage.swaps().await, "1");
    assert_eq!(stage.text("SELECT count(DISTINCT backup) FROM portal_release.backups").await, "1");
    assert_eq!(stage.staging().await, reference.staging().await, "no staging is left");
    assert_eq!(stage.staging().await, "");
    stage.assert_settled().await;
    assert!(status.current);
    let attempts: Vec<i32> = status.phases.iter().map(|phase| phase.attempts).collect();
    assert!(attempts.iter().all(|&attempts| attempts == 3), "each phase was run three times, without a failure: {attempts:?}");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'PhaseFailed'").await, "0");
    drop((operator, calm));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_a_roll_forward_killed_at_every_phase_end_as_undisturbed_ones() {
    let stage = Stage::new("killback").await;
    let operator = stage.operator_with("operator", &[ALONE]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    stage.edit("jul2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    let back = snapshot::of(&stage).await;
    assert_eq!(stage.live_month().await, "0");
    stage.edit("jul2026", r#"{"rollback": null}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let forward = snapshot::of(&stage).await;
    operator.kill().await;
    let points = points(&status);
    assert_eq!(points.len(), 14, "every phase of a roll forward, which are those of a rollback: {points:?}");
    assert_eq!(stage.swaps().await, "3");

    stage.edit("jul2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    kill_at(&stage, &points).await;
    let operator = stage.operator_with("operator", &[ALONE]).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    operator.kill().await;
    snapshot::assert_same("the rollback that was killed", &snapshot::of(&stage).await, &back);
    assert_eq!(stage.swaps().await, "4");
    stage.assert_settled().await;

    stage.edit("jul2026", r#"{"rollback": null}"#).await;
    kill_at(&stage, &points).await;
    let _operator = stage.operator_with("operator", &[ALONE]).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    snapshot::assert_same("the roll forward that was killed", &snapshot::of(&stage).await, &forward);
    assert_eq!(stage.swaps().await, "5");
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_killed_while_each_phase_is_undone_leaves_nothing_behind() {
    let stage = Stage::new("killundo").await;
    let operator = stage.operator_with("first", &[ALONE, "--halt-at", "FinaliseSwap:begin"]).await;
    let before = snapshot::of(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    operator.logs("halted at").await;
    operator.kill().await;
    assert_eq!(stage.workers().await, Stage::FROZEN);

    stage.edit("jul2026", r#"{"abort": {"reason": "not today"}}"#).await;
    // Last phase first.
    let undone = ["Freeze", "ValidateAndManifest", "ImportRelated", "ImportCore", "BuildStaging", "Preflight", "CreateStagingViews"];
    let points: Vec<String> = undone.iter().flat_map(|phase| [format!("{phase}:undo"), format!("{phase}:undone")]).collect();
    kill_at(&stage, &points).await;
    let _operator = stage.operator_with("operator", &[ALONE]).await;
    let status = stage.wait_state("jul2026", ReleaseState::Aborted).await;

    assert!(status.message.contains("not today"), "{}", status.message);
    snapshot::assert_same("the aborted release", &snapshot::of(&stage).await, &before);
    assert_eq!(stage.swaps().await, "0");
    stage.assert_settled().await;
}
