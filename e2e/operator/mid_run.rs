//! The plan, the Portal or the tables are changed in the middle of a run: no worker stays at zero for it, and nothing goes live that
//! nobody wants any more.

use portal_release_operator::api::{PhaseName, PortalReleaseStatus, ReleaseState};
use serde_json::json;
use sqlx::Executor;

use crate::support::{Stage, looks::stopped, stage::stalled, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_selection_of_phases_takes_effect_with_the_end_of_a_suspension() {
    let stage = Stage::new("replan").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = stage.halted_at("ImportRelated:begin").await;
    stage.edit("jul2026", r#"{"suspend": true}"#).await;
    operator.kill().await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    stage.edit("jul2026", r#"{"phases": {"stopAfter": "ValidateAndManifest"}}"#).await;
    stage.edit("jul2026", r#"{"suspend": false}"#).await;
    let ended = "the selected phases are done and nothing went live";
    let stopped = |status: &PortalReleaseStatus| status.state == Some(ReleaseState::Suspended) && status.message.contains(ended);
    stage.wait("jul2026", "stopped before the swap", stopped).await;
    assert_eq!(stage.live_month().await, "0");
    assert_eq!(stage.workers().await, Stage::WORKERS);

    stage.edit("jul2026", r#"{"phases": null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_changes_or_goes_leaves_no_worker_at_zero() {
    let stage = Stage::new("portalgone").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = stage.halted_at("FinaliseSwap:begin").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.edit_portal(r#"{"labelPattern": "^Never$"}"#).await;
    operator.kill().await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "the pattern decides what may start, not what has started");

    stage.edit_portal(r#"{"labelPattern": null}"#).await;
    stage.month(2).await;
    let mut reader = stage.database.begin().await.expect("a reader");
    reader.execute("SELECT count(*) FROM protected_areas").await.expect("it reads");
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait("aug2026", "waiting for the reader", |status| status.phase == Some(PhaseName::FinaliseSwap)).await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    let portal = stage.kubectl(&["get", "portal", "protected-planet", "-o", "json"], "").await.expect("the Portal");
    stage.kubectl(&["delete", "portal", "protected-planet", "--wait=false"], "").await.expect("deleted");
    until("it is gone", || async { stage.portals().get_opt("protected-planet").await.unwrap().is_none().then_some(()) }).await;
    drop(reader);
    let status = stage.wait("aug2026", "failed", |status| stalled(status) && status.frozen_workloads.is_empty()).await;
    assert!(status.message.contains("Portal protected-planet does not exist"), "{}", status.message);
    assert_eq!(stage.workers().await, Stage::WORKERS);

    let mut portal: serde_json::Value = serde_json::from_str(&portal).expect("JSON");
    portal["metadata"] = json!({"name": "protected-planet"});
    stage.apply(&portal.to_string()).await;
    stage.edit("aug2026", r#"{"retry": 1}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_while_a_gate_of_freeze_is_evaluated_stops_no_worker() {
    let stage = Stage::new("gatesuspend").await;
    let _operator = stage.operator_alone().await;
    let gate = json!({"name": "slow", "phase": "Freeze", "hard": true, "sql": "SELECT pg_sleep(8) IS NOT NULL"});
    stage.edit_portal(&json!({ "gates": [gate] }).to_string()).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait("jul2026", "at its gate", |status| status.phase == Some(PhaseName::Freeze)).await;
    stage.edit("jul2026", r#"{"suspend": true}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert_eq!((stopped(&status).as_str(), stage.recorded().await.as_str()), ("", ""));
    assert_eq!(stage.workers().await, Stage::WORKERS);
    stage.edit("jul2026", r#"{"suspend": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_that_is_rebuilt_after_the_freeze_is_rebuilt_with_the_workers_back() {
    let stage = Stage::new("latestale").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.halted_at("FinaliseSwap:begin").await.kill().await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.execute("ALTER TABLE protected_areas ADD COLUMN reviewed boolean").await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    let order = stage
        .text(
            "SELECT string_agg(event || ' ' || coalesce(phase, ''), ', ' ORDER BY id) FROM portal_release.release_events
             WHERE id >= (SELECT min(id) FROM portal_release.release_events WHERE event = 'StagingRebuilt')
               AND (event = 'PhaseUndone' OR event = 'PhaseStarted' AND phase IN ('BuildStaging', 'Freeze', 'FinaliseSwap'))",
        )
        .await;
    assert_eq!(order, "PhaseUndone Freeze, PhaseStarted BuildStaging, PhaseStarted Freeze, PhaseStarted FinaliseSwap");
    assert_eq!(stage.text("SELECT count(reviewed) FROM protected_areas").await, "0", "the new column is there");
}
