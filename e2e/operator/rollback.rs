//! Back to the former data by editing the spec, and forward again by taking the edit back.

use portal_release_operator::api::ReleaseState;

use crate::support::{Stage, stage::condition};

/// Which relation is which: the OIDs, names and grants of everything live, tables, views, indexes and sequences.
async fn identities(stage: &Stage) -> String {
    stage
        .text(
            "SELECT string_agg(format('%s %s %s %s', relkind, relname, oid, coalesce(relacl::text, '-')), E'\\n' ORDER BY relkind, relname) FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relname !~ '^(staging_|bk[0-9]{10}_)' AND relkind IN ('r', 'm', 'v', 'i', 'S')",
        )
        .await
}

/// A row goes in with an id of the table's own sequence; it is taken back at once.
async fn a_row_can_be_inserted(stage: &Stage) {
    stage
        .execute(
            "BEGIN;
             INSERT INTO pame_sources (metadataid, title, responsible_party, year, language, release_month)
             SELECT -1, title, responsible_party, year, language, release_month FROM pame_sources LIMIT 1;
             ROLLBACK",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_release_is_rolled_back_and_forward() {
    let stage = Stage::new("rollback").await;
    let _operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "retention: {keepBackups: 3}").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = identities(&stage).await;
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "retention: {keepBackups: 3}").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    let august = identities(&stage).await;
    assert_eq!(stage.live_month().await, "2");
    assert_ne!(july, august);

    // Back: the very same relations, not copies.
    stage.edit("aug2026", "{\"rollback\":{\"to\":\"Previous\",\"reason\":\"Wrong marine areas for Fiji\"}}").await;
    let back = stage.wait_state("aug2026", ReleaseState::RolledBack).await;
    assert_eq!(stage.live_month().await, "1", "tables, views and what stands on them");
    assert_eq!(identities(&stage).await, july, "the former relations with their names, grants, indexes and sequences");
    a_row_can_be_inserted(&stage).await;
    assert!(!back.current);
    assert_eq!(condition(&back, "Ready"), "True", "a rollback on request is no failure");
    let current = stage.wait("jul2026", "current again", |status| status.current && status.state == Some(ReleaseState::Live)).await;
    assert_eq!(condition(&current, "DataSwapped"), "True");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_eq!(
        stage.text("SELECT message FROM portal_release.release_events WHERE event = 'RollbackStarted'").await,
        "Wrong marine areas for Fiji"
    );

    // Forward: taking the field out is enough.
    stage.edit("aug2026", "{\"rollback\":null}").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "2");
    assert_eq!(identities(&stage).await, august);
    stage.wait_state("jul2026", ReleaseState::Superseded).await;

    // To a named backup: the data from before the operator, which belongs to no release.
    let oldest = stage.text("SELECT min(backup) FROM portal_release.backups WHERE gone_at IS NULL AND holds_release IS NULL").await;
    stage.edit("aug2026", &format!("{{\"rollback\":{{\"to\":\"{oldest}\"}}}}")).await;
    stage.wait_state("aug2026", ReleaseState::RolledBack).await;
    assert_eq!(stage.live_month().await, "0");
    assert_eq!(stage.text("SELECT current_release FROM portal_release.portals").await, "", "no release of ours is current");
    assert!(!stage.status("jul2026").await.current);
    stage.edit("aug2026", "{\"rollback\":null}").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_nowhere_changes_nothing() {
    let stage = Stage::new("nowhere").await;
    let _operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "retention: {keepBackups: 0}").await;
    let live = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(condition(&live, "RollbackAvailable"), "False");
    let before = identities(&stage).await;

    stage.edit("jul2026", "{\"rollback\":{\"to\":\"Previous\"}}").await;
    let refused = stage.wait("jul2026", "refused", |status| condition(status, "Stalled") == "True").await;
    assert!(refused.message.contains("no backup to roll back to"), "{}", refused.message);
    assert!(refused.current);
    stage.edit("jul2026", "{\"rollback\":{\"to\":\"2601010000\"}}").await;
    let refused =
        stage.wait("jul2026", "refused", |status| status.message.contains("2601010000") && condition(status, "Stalled") == "True").await;
    assert!(refused.current, "{}", refused.message);
    assert_eq!(identities(&stage).await, before, "live is untouched");
    assert_eq!(stage.workers().await, Stage::WORKERS);

    stage.edit("jul2026", "{\"rollback\":null}").await;
    let live = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(condition(&live, "Ready"), "True");
}
