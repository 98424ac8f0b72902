//! What `portal_release.current_release()` says, and to whom: the recipes of docs/consistent-pages.md.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::release::RunKind;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::harness::{Portal, until_true, with_portal};

/// Label of the release and the rows' own mark, in one statement.
const PAGE: &str = "SELECT coalesce(r.label, 'first') || '=' || d.releases FROM portal_release.current_release() r,
                    (SELECT string_agg(DISTINCT release, '+') AS releases FROM protected_areas) d";

fn backup(minute: usize) -> Generation {
    Generation::Backup(format!("26070112{minute:02}").parse().unwrap())
}

/// A role that may read the portal's tables and has no right on the ledger's.
async fn reader(portal: &Portal) -> PgPool {
    let role = portal.owner.replace("_owner", "_reader");
    PgPoolOptions::new()
        .max_connections(8)
        .connect_with((*portal.pool.connect_options()).clone().username(&role).password("test"))
        .await
        .unwrap()
}

async fn text(conn: &mut PgConnection, sql: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(conn).await
}

/// A label that is the mark of its rows.
async fn swap_to(portal: &Portal, label: &str, minute: usize) -> i64 {
    portal.stage(label).await;
    let release = portal.release_row(label).await;
    portal.recorded_exchange(release, RunKind::Release, &Generation::Staging, &backup(minute)).await;
    release
}

#[test]
fn one_statement_never_names_another_release_than_it_reads() {
    with_portal(async |portal| {
        portal.with_ledger().await;
        let pool = reader(&portal).await;
        let (stop, pages) = (AtomicBool::new(false), AtomicUsize::new(0));
        let read = async |prepared: bool| {
            let mut conn = pool.acquire().await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let page: String =
                    sqlx::query_scalar(AssertSqlSafe(PAGE.to_owned())).persistent(prepared).fetch_one(&mut *conn).await.unwrap();
                let (label, rows) = page.split_once('=').unwrap();
                assert_eq!(label, rows, "one statement, two releases");
                pages.fetch_add(1, Ordering::Relaxed);
            }
        };
        let swaps = async {
            let mut last = 0;
            for minute in 0..12 {
                let release = swap_to(&portal, &format!("Label{minute}"), minute).await;
                let seen = pages.load(Ordering::Relaxed);
                until_true("readers after the swap", async || pages.load(Ordering::Relaxed) > seen + 3).await;
                last = release;
            }
            for minute in 12..16 {
                portal
                    .recorded_exchange(last, RunKind::Rollback, &backup(if minute == 12 { 11 } else { minute - 1 }), &Generation::Staging)
                    .await;
                let seen = pages.load(Ordering::Relaxed);
                until_true("readers after the rollback", async || pages.load(Ordering::Relaxed) > seen + 3).await;
                portal.recorded_exchange(last, RunKind::RollForward, &Generation::Staging, &backup(minute)).await;
            }
            stop.store(true, Ordering::Relaxed);
        };
        futures::join!(read(true), read(false), read(true), swaps);
        pool.close().await;
    });
}

#[test]
fn a_transaction_that_holds_a_table_reads_one_release() {
    with_portal(async |portal| {
        portal.with_ledger().await;
        swap_to(&portal, "Label0", 0).await;
        let pool = reader(&portal).await;
        for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
            let label = portal.get::<String>("SELECT label FROM portal_release.current_release()").await;
            let next = format!("{label}x");
            let mut page = pool.acquire().await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(format!("{begin}; LOCK TABLE protected_areas IN ACCESS SHARE MODE")))
                .execute(&mut *page)
                .await
                .unwrap();
            let swap = async {
                let minute = next.len();
                swap_to(&portal, &next, minute).await;
            };
            let read = async {
                // The swap has come as far as it can: it waits for this very transaction.
                until_true("a swap that waits", async || {
                    portal
                        .get::<bool>("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))")
                        .await
                })
                .await;
                assert_eq!(text(&mut page, PAGE).await.unwrap(), format!("{label}={label}"), "{begin}");
                assert_eq!(text(&mut page, "SELECT string_agg(DISTINCT release, '+') FROM area_totals").await.unwrap(), label, "{begin}");
                sqlx::raw_sql("COMMIT").execute(&mut *page).await.unwrap();
            };
            futures::join!(swap, read);
            assert_eq!(text(&mut page, PAGE).await.unwrap(), format!("{next}={next}"));
        }
        pool.close().await;
    });
}

#[test]
fn every_role_may_call_it_and_sees_no_more() {
    with_portal(async |portal| {
        portal.with_ledger().await;
        let pool = reader(&portal).await;
        let mut conn = pool.acquire().await.unwrap();
        let ask = "SELECT format('%s|%s|%s|%s', portal, release_id IS NOT NULL, label, live_since IS NOT NULL) FROM portal_release.current_release()";
        assert_eq!(text(&mut conn, ask).await.unwrap(), "test/portal|f||f", "before the first release");
        let release = swap_to(&portal, "Jul2026", 0).await;
        assert_eq!(text(&mut conn, ask).await.unwrap(), "test/portal|t|Jul2026|t");
        portal.recorded_exchange(release, RunKind::Rollback, &backup(0), &Generation::Staging).await;
        assert_eq!(text(&mut conn, ask).await.unwrap(), "test/portal|f||t", "data from before the operator");

        let error = text(&mut conn, "SELECT portal FROM portal_release.portals").await.unwrap_err().to_string();
        assert!(error.contains("permission denied for table portals"), "{error}");
        // The function runs as its owner: nothing that a reader brings may come between it and the ledger.
        sqlx::raw_sql(
            "CREATE TEMPORARY TABLE portals (portal text, current_release bigint, live_since timestamptz);
             INSERT INTO portals VALUES ('forged', 1, now()); SET search_path = pg_temp, public",
        )
        .execute(&mut *conn)
        .await
        .unwrap();
        assert_eq!(text(&mut conn, ask).await.unwrap(), "test/portal|f||t");

        let named = "SELECT coalesce(label, '-') FROM portal_release.current_release('test/portal')";
        let unknown = text(&mut conn, "SELECT label FROM portal_release.current_release('test/other')").await.unwrap_err().to_string();
        assert!(unknown.contains("no portal test/other"), "{unknown}");
        portal.run("INSERT INTO portal_release.portals (portal) VALUES ('test/second')").await;
        let several = text(&mut conn, ask).await.unwrap_err().to_string();
        assert!(several.contains("several portals: test/portal, test/second"), "{several}");
        assert_eq!(text(&mut conn, named).await.unwrap(), "-");
        drop(conn);
        pool.close().await;
    });
}
