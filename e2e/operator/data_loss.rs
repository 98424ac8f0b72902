//! A rollback takes from readers what was written since the swap: so it is counted, and refused until that is accepted.

use portal_release_operator::api::{PhaseName, PhaseState, PortalReleaseStatus, ReleaseState};
use sqlx::Executor;

use crate::support::{
    Stage,
    looks::assert_same,
    stage::{condition, stalled},
};

/// A row that no month has, written as the site would.
const CORRECTION: &str = "INSERT INTO green_list_statuses (gl_status, gl_expiry, gl_link, release_month) VALUES ('a correction', '2030-01-01', 'https://example.org', 1)";
const CORRECTIONS: &str = "SELECT count(*) FROM {} WHERE gl_status = 'a correction'";

fn verdict(status: &PortalReleaseStatus) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == "RollbackAvailable").expect("the condition").clone();
    (found.status, found.reason, found.message)
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "'{word}' is missing: {message}");
    }
}

fn freeze_of(status: &PortalReleaseStatus) -> Option<PhaseState> {
    status.phases.iter().find(|phase| phase.name == PhaseName::Freeze).map(|phase| phase.state)
}

async fn corrections(stage: &Stage, table: &str) -> String {
    stage.text(&CORRECTIONS.replace("{}", table)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_since_the_swap_are_named_and_lost_only_when_that_is_accepted() {
    let stage = Stage::new("loss").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let (word, reason, message) = verdict(&status);
    assert_eq!((word.as_str(), reason.as_str()), ("True", "BackupKept"), "{message}");
    assert_says(&message, &[status.backup.as_deref().expect("its backup"), "nothing was written since 20", "as of 20"]);

    stage.execute(CORRECTION).await;
    stage.execute("UPDATE protected_areas SET name = name || ' (corrected)' WHERE id IN (SELECT id FROM protected_areas LIMIT 2)").await;
    let july = stage.live().await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    let status = stage.wait("jul2026", "refused", stalled).await;
    let words = [
        "Preflight failed: 1 row inserted in green_list_statuses, 2 rows inserted or updated, and 2 existing rows updated or deleted, in protected_areas since 20",
        "a rollback would discard these rows (kept in staging_* until the next release builds its staging). Nothing was changed.",
        "Set rollback.acceptDataLoss: true to roll back anyway, or remove spec.rollback",
    ];
    assert_says(&status.message, &words);
    assert!(status.current);
    let (word, reason, message) = verdict(&status);
    assert_eq!((word.as_str(), reason.as_str()), ("False", "WouldLoseData"), "{message}");
    assert_says(&message, &["1 row inserted in green_list_statuses", "as of 20", "rollback.acceptDataLoss: true"]);
    assert_eq!(freeze_of(&status), Some(PhaseState::Pending), "the workers were never stopped");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_same(&stage.live().await, &july, "nothing has changed");
    assert!(!stage.is_locked().await);

    // Given up, it is live as before; accepted, it continues by itself, and the discarded rows are in staging.
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage.wait("jul2026", "refused again", stalled).await;
    stage.edit("jul2026", r#"{"rollback":{"acceptDataLoss":true}}"#).await;
    let status = stage.wait("jul2026", "rolled back", |status| status.state == Some(ReleaseState::RolledBack)).await;
    let preflight = status.phases.iter().find(|phase| phase.name == PhaseName::Preflight).expect("Preflight");
    assert_says(&preflight.message, &["accepted: ", "1 row inserted in green_list_statuses", "these rows will be in staging_*"]);
    assert_eq!(
        (corrections(&stage, "green_list_statuses").await, corrections(&stage, "staging_green_list_statuses").await),
        ("0".into(), "1".into())
    );

    // The way forward is guarded in the same way.
    stage.execute("DELETE FROM story_map_links WHERE id = (SELECT min(id) FROM story_map_links)").await;
    let june = stage.live().await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    let status = stage.wait("jul2026", "refused", stalled).await;
    assert_says(
        &status.message,
        &[
            "1 row deleted in story_map_links since 20",
            "Set rollForward.acceptDataLoss: true to roll forward anyway, or set spec.rollback again",
        ],
    );
    assert_same(&stage.live().await, &june, "nothing has changed");
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage
        .wait("jul2026", "given up", |status| status.state == Some(ReleaseState::RolledBack) && condition(status, "Ready") == "True")
        .await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait("jul2026", "refused again", stalled).await;
    stage.edit("jul2026", r#"{"rollForward":{"acceptDataLoss":true}}"#).await;
    stage.wait("jul2026", "live", |status| status.state == Some(ReleaseState::Live)).await;
    assert_same(&stage.live().await, &july, "with its corrections");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_at_the_last_moment_are_not_lost_either() {
    let stage = Stage::new("late").await;
    let operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    operator.kill().await;

    // After the preflight, when the workers are stopped already.
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    let operator = stage.halted_at("FinaliseSwap:begin").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.execute(CORRECTION).await;
    operator.kill().await;
    let operator = stage.operator_alone().await;
    let status = stage.wait("jul2026", "refused", stalled).await;
    assert_says(&status.message, &["FinaliseSwap failed: 1 row inserted in green_list_statuses since 20", "rollback.acceptDataLoss: true"]);
    assert_eq!(verdict(&status).1, "WouldLoseData");
    assert_eq!(stage.workers().await, Stage::WORKERS, "they are back");
    stage.execute("DELETE FROM green_list_statuses WHERE gl_status = 'a correction'").await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;

    // While the swap waits for its locks: no session sees the row before its writer commits, and then the swap gets its locks.
    let mut writer = stage.database.begin().await.expect("a transaction");
    writer.execute(CORRECTION).await.expect("a row");
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    operator.logs("waiting for the swap's locks").await;
    writer.commit().await.expect("COMMIT");
    let status = stage.wait("jul2026", "refused", stalled).await;
    assert_says(&status.message, &["FinaliseSwap failed: 1 row inserted in green_list_statuses since 20"]);
    assert!(status.current);
    assert_eq!(verdict(&status).1, "WouldLoseData");
    assert_eq!(corrections(&stage, "green_list_statuses").await, "1");
    assert_eq!(stage.workers().await, Stage::WORKERS, "they are back");
}
