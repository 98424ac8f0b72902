//! Autovacuum at work on a table that is to be swapped: it yields only to a session that has waited for `deadlock_timeout`.

use crate::portal::{OWNER, Portal, backup, run, until};
use crate::server::Server;

/// It sleeps after each page, so it would outlast the swap's whole time for waiting.
const THROTTLED: &str = "ALTER TABLE areas SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                             autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0);
                         INSERT INTO areas (source_id, release) SELECT min(id), 'first' FROM sources, generate_series(1, 50000) n GROUP BY n";

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_autovacuum_is_cancelled() {
    let server = Server::start(&["autovacuum_naptime=1s"]).await;
    let portal = Portal::create(&server, "pg_default").await;
    run(&portal.admin, &format!("GRANT SET ON PARAMETER deadlock_timeout TO {OWNER}")).await;
    portal.run(THROTTLED).await;
    let release = portal.stage("second").await;
    portal.run("UPDATE areas SET release = release").await;
    let at_work = "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'areas'::regclass)";
    until("autovacuum is at work", async || portal.text(at_work).await == "true").await;

    assert!(portal.swap_unless_done(release, &backup("2607011200")).await);
    assert_eq!(portal.live().await, "second");
    assert!(server.log().contains("canceling autovacuum task"), "{}", server.log());
}
