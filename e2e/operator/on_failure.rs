//! A failure after the swap, and what `onFailure` makes of it.

use portal_release_operator::api::{PhaseName, ReleaseState};
use serde_json::json;

use crate::support::{
    Stage,
    looks::assert_same,
    receiver::Mood,
    stage::{condition, release_yaml, stalled},
    until,
};

impl Stage {
    /// The Portal's hook is refused at once, and not only after a while.
    async fn broken_hook(&self) {
        self.receiver.set(Mood::Broken);
        let hook = json!({"name": "cache", "http": {"method": "DELETE", "url": self.receiver.url("/cache")}});
        self.edit_portal(&json!({ "postSwap": [hook] }).to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_swap_rolls_back_where_the_release_says_so() {
    let stage = Stage::new("goesback").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = stage.live().await;

    stage.month(2).await;
    stage.broken_hook().await;
    let august = release_yaml("aug2026", "Aug2026", "onFailure: Rollback");
    stage.apply(&august).await;
    stage.wait("aug2026", "rolling back", |status| status.state == Some(ReleaseState::RollingBack)).await;
    // A rollback calls the hooks, too.
    stage.receiver.set(Mood::Fine);
    let status = stage.wait("aug2026", "rolled back", |status| status.state == Some(ReleaseState::RolledBack)).await;
    for words in ["rolled back, as onFailure is Rollback: PostSwap failed: ", "hook cache", "raise spec.retry to roll forward"] {
        assert!(status.message.contains(words), "{words:?} is missing: {}", status.message);
    }
    assert!(!status.current);
    let status = stage.wait("aug2026", "at rest", |status| condition(status, "Reconciling") == "False").await;
    assert_eq!((condition(&status, "Ready").as_str(), condition(&status, "Stalled").as_str()), ("False", "True"));
    assert_same(&stage.live().await, &july, "July is live again");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    stage.wait("jul2026", "current", |status| status.current && status.state == Some(ReleaseState::Live)).await;

    // The same spec comes again and again from Git, and nothing runs.
    let runs = stage.text("SELECT count(*) FROM portal_release.runs").await;
    for _ in 0..3 {
        stage.apply(&august).await;
        stage
            .kubectl(&["annotate", "portalrelease", "aug2026", "--overwrite", &format!("applied={}", jiff::Timestamp::now())], "")
            .await
            .unwrap();
    }
    stage.receiver.set(Mood::Fine);
    stage.wait("aug2026", "still rolled back", |status| status.state == Some(ReleaseState::RolledBack) && stalled(status)).await;
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.runs").await, runs);

    // A retry rolls forward; a failure on the way leads back again.
    stage.receiver.set(Mood::Broken);
    stage.edit("aug2026", r#"{"retry": 1}"#).await;
    let closed = "SELECT count(*) FROM portal_release.runs WHERE closed_at IS NOT NULL";
    until("it has gone forward and back", || async { (stage.text(closed).await == "5").then_some(()) }).await;
    let status = stage.wait("aug2026", "failed, as the hook fails for the rollback, too", stalled).await;
    assert!(status.message.contains("the former data is live again, but PostSwap failed: hook cache"), "{}", status.message);
    assert_eq!((status.state, status.current), (Some(ReleaseState::Failed), false));
    assert_eq!(stage.workers().await, Stage::WORKERS);
    stage.receiver.set(Mood::Fine);
    stage.edit("aug2026", r#"{"retry": 2}"#).await;
    stage.wait("aug2026", "rolled back", |status| status.state == Some(ReleaseState::RolledBack) && stalled(status)).await;
    assert_same(&stage.live().await, &july, "July is live again");

    // Git asks for what has happened, and then for the opposite.
    stage.edit("aug2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    let status = stage.wait("aug2026", "confirmed", |status| condition(status, "Ready") == "True").await;
    assert_eq!(status.message, "rolled back; clear spec.rollback to roll forward from the kept staging");
    stage.receiver.set(Mood::Fine);
    stage.edit("aug2026", r#"{"rollback": null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_nobody_asked_for_never_discards_a_row() {
    let stage = Stage::new("keepsrows").await;
    stage.broken_hook().await;
    stage.make_release("jul2026", "Jul2026", "onFailure: Rollback").await;
    stage.halted_at("PostSwap:begin").await.kill().await;
    stage.execute("UPDATE protected_areas SET name = name || ' (corrected)' WHERE id IN (SELECT id FROM protected_areas LIMIT 2)").await;
    let july = stage.live().await;

    let _operator = stage.operator_alone().await;
    let status = stage.wait("jul2026", "failed", stalled).await;
    let words = [
        "PostSwap failed: hook cache",
        "onFailure is Rollback, but the rollback failed, too: Preflight failed: 2 rows inserted or updated, and 2 existing rows updated or deleted, in protected_areas since 20",
        "Raise spec.retry to run the release again",
    ];
    for words in words {
        assert!(status.message.contains(words), "{words:?} is missing: {}", status.message);
    }
    assert_eq!((status.state, status.current), (Some(ReleaseState::Failed), true));
    assert_same(&stage.live().await, &july, "July stays live");
    assert_eq!(stage.workers().await, Stage::WORKERS);

    // What follows the swap is run again, and nothing else.
    stage.receiver.set(Mood::Fine);
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.swaps().await, "1");
    let ran = |name| status.phases.iter().any(|phase| phase.name == name && phase.attempts > 0);
    assert!(ran(PhaseName::PostSwap) && !ran(PhaseName::BuildStaging) && !ran(PhaseName::Freeze));
    assert_same(&stage.live().await, &july, "July stays live");
}
