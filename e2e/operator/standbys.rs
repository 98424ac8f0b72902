//! A standby that is behind: the swap waits for it, by name, or does not care, as the Portal says.

use portal_release_operator::api::{PhaseName, ReleaseState};
use sqlx::PgPool;

use crate::{
    server::Server,
    support::{Stage, until},
};

/// Lets a standby fall behind by more than the swap puts up with.
async fn falls_behind(stage: &Stage, standby: &PgPool) {
    sqlx::query("SELECT pg_wal_replay_pause()").execute(standby).await.expect("the replay pauses");
    stage
        .execute(
            "DROP TABLE IF EXISTS e2e_ballast;
             CREATE TABLE e2e_ballast AS SELECT repeat('x', 1000) FROM generate_series(1, 25000)",
        )
        .await;
    let behind = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > 17000000 FROM pg_stat_replication";
    until("the standby is behind", || async { (stage.text(behind).await == "true").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_is_waited_for_or_ignored() {
    let primary = Server::start(&[]).await;
    let stage = Stage::on("standbys", &primary.url("postgres", "postgres")).await;
    stage.execute("GRANT pg_read_all_stats TO portal_owner").await;
    let replica = primary.standby("replica", None, &["wal_receiver_status_interval=1s"]).await;
    let there = replica.pool("postgres", &stage.env["STAGE_DATABASE"]).await;
    let month_there = async || {
        let sql = "SELECT string_agg(DISTINCT release_month::text, ',') FROM protected_areas";
        sqlx::query_scalar::<_, Option<String>>(sql).fetch_one(&there).await.expect("the standby reads").unwrap_or_default()
    };
    stage.edit_portal(r#"{"database": {"lockTimeout": "10m"}}"#).await;
    let _operator = stage.operator().await;

    falls_behind(&stage, &there).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage
        .wait("jul2026", "waiting for the standby", |status| {
            status.phase == Some(PhaseName::FinaliseSwap) && status.message.contains("standby replica is")
        })
        .await;
    assert!(status.message.contains("bytes of WAL behind; wait for it, or set database.standbys"), "{}", status.message);
    assert_eq!(stage.live_month().await, "0");
    sqlx::query("SELECT pg_wal_replay_resume()").execute(&there).await.expect("the replay continues");
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
    until("the standby has the release", || async { (month_there().await == "1").then_some(()) }).await;

    stage.month(2).await;
    stage.edit_portal(r#"{"database": {"standbys": "Ignore"}}"#).await;
    falls_behind(&stage, &there).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!((stage.live_month().await, month_there().await), ("2".to_owned(), "1".to_owned()));
}
