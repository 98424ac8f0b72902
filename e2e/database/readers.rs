//! What readers notice of a swap: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::swap::{self, Limits, SwapError, SwapRequest};
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::harness::{Portal, order, with_portal};

const BACKUP: &str = "2607011200";

fn backup() -> Generation {
    Generation::Backup(BACKUP.parse().unwrap())
}

/// Joins in different orders, through views and materialized views. Each returns the releases that it saw.
const QUERIES: [&str; 6] = [
    "SELECT DISTINCT concat_ws(' ', a.release, s.release) FROM protected_areas a JOIN countries_pas j ON j.protected_area_id = a.id JOIN sources s ON s.id = j.source_id",
    "SELECT DISTINCT concat_ws(' ', s.release, a.release) FROM sources s JOIN countries_pas j ON j.source_id = s.id JOIN protected_areas a ON a.id = j.protected_area_id",
    "SELECT DISTINCT concat_ws(' ', t.release, a.release) FROM area_totals t, protected_areas a",
    "SELECT DISTINCT concat_ws(' ', a.release, t.release) FROM protected_areas a, area_report t",
    "SELECT DISTINCT concat_ws(' ', n.release, r.release) FROM area_names n, report r",
    "SELECT DISTINCT concat_ws(' ', r.release, n.release) FROM report_of_reports r, area_names n, sources s",
];

/// Transactions of several statements, which hold the first relation while they read the next, in both orders.
const TRANSACTIONS: [&[&str]; 2] = [&["sources", "area_names", "area_report"], &["report_of_reports", "protected_areas", "sources"]];

#[test]
fn statements_see_no_error_and_no_mix_during_fifty_swaps() {
    swaps_under_load(&QUERIES, &[], 50);
}

#[test]
fn transactions_see_no_error_and_no_mix_during_fifteen_swaps() {
    swaps_under_load(&[], &TRANSACTIONS, 15);
}

fn swaps_under_load(queries: &'static [&'static str], transactions: &'static [&'static [&'static str]], swaps: usize) {
    with_portal(async |portal| {
        portal.stage("second").await;
        let stop = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicUsize::new(0));
        let mut readers = Vec::new();
        for &query in queries {
            let (pool, stop, reads) = (portal.pool.clone(), stop.clone(), reads.clone());
            readers.push(tokio::spawn(async move {
                let mut conn = pool.acquire().await.unwrap();
                let mut worst = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let seen: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut *conn).await.expect(query);
                    worst = worst.max(began.elapsed());
                    reads.fetch_add(1, Ordering::Relaxed);
                    assert!(seen == ["first first"] || seen == ["second second"], "{query} saw {seen:?}");
                }
                worst
            }));
        }
        for &tables in transactions {
            let (pool, stop, reads) = (portal.pool.clone(), stop.clone(), reads.clone());
            readers.push(tokio::spawn(async move {
                let mut worst = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let mut tx = pool.begin().await.unwrap();
                    let mut seen = Vec::new();
                    for &table in tables {
                        let sql = format!("SELECT DISTINCT release FROM {table}");
                        let release: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *tx).await.expect(table);
                        seen.push(release);
                    }
                    tx.commit().await.unwrap();
                    worst = worst.max(began.elapsed());
                    reads.fetch_add(1, Ordering::Relaxed);
                    assert!(seen.iter().all(|release| *release == seen[0]), "{tables:?} saw {seen:?}");
                }
                worst
            }));
        }
        let (mut incoming, mut outgoing) = (Generation::Staging, backup());
        // On a slow machine transactions may leave no gap for the 30 s of the default.
        let limits = Limits { budget: Duration::from_secs(270), ..Limits::default() };
        let mut worst_lock = Duration::ZERO;
        for _ in 0..swaps {
            let order = SwapRequest { limits, ..order(&portal.relations, &incoming, &outgoing) };
            let (tx, exchanged) = swap::exchange(&portal.pool, &order, &portal.pool, &CancellationToken::new()).await.unwrap();
            commit(tx).await.unwrap();
            worst_lock = worst_lock.max(exchanged.locked.elapsed());
            std::mem::swap(&mut incoming, &mut outgoing);
        }
        stop.store(true, Ordering::Relaxed);
        let mut worst = Duration::ZERO;
        for reader in readers {
            worst = worst.max(reader.await.unwrap());
        }
        #[allow(clippy::print_stdout)]
        {
            println!("{} reads, slowest {worst:?}, longest hold {worst_lock:?}", reads.load(Ordering::Relaxed));
        }
        assert_eq!(portal.release().await, if swaps.is_multiple_of(2) { "first" } else { "second" });
    });
}

#[test]
fn a_reader_that_does_not_end_makes_the_swap_give_up_and_is_named() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let before = portal.named("true").await;
        let mut options = portal.pool.connect_options().as_ref().clone();
        options = options.application_name("slow-report");
        let mut reader = sqlx::PgConnection::connect_with(&options).await.unwrap();
        let mut reading = reader.begin().await.unwrap();
        sqlx::query("SELECT count(*) FROM area_totals").execute(&mut *reading).await.unwrap();
        let limits = Limits { budget: Duration::from_millis(1500), ..Limits::default() };
        let began = Instant::now();
        let error = try_exchange(&portal, limits, &CancellationToken::new()).await.unwrap_err();
        let took = began.elapsed();
        assert!(took < Limits::default().budget, "it kept to its own budget: {took:?}");
        assert!(error.is_busy());
        assert!(error.to_string().contains("slow-report") && error.to_string().contains("idle in transaction"), "{error}");
        let SwapError::Blocked { attempts, blockers, .. } = error else { panic!("{error}") };
        assert!(attempts > 1);
        assert!(blockers.iter().any(|it| it.relation.as_deref() == Some("area_totals")), "{blockers:?}");
        assert_eq!(portal.named("true").await, before);
        // Others are not held up behind the swap, and afterwards it goes through.
        assert_eq!(portal.release().await, "first");
        reading.rollback().await.unwrap();
        portal.exchange(&Generation::Staging, &backup()).await;
        assert_eq!(portal.release().await, "second");
    });
}

#[test]
fn a_session_that_holds_a_view_exclusively_is_not_waited_for_longer_than_allowed() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut holding = portal.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE area_names IN ACCESS EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
        let limits = Limits { budget: Duration::from_millis(800), ..Limits::default() };
        let cancel = CancellationToken::new();
        let locking = try_exchange(&portal, limits, &cancel);
        let error = tokio::time::timeout(Duration::from_secs(10), locking).await.expect("gives up").unwrap_err();
        assert!(matches!(&error, SwapError::Blocked { blockers, .. } if !blockers.is_empty()), "{error}");
        holding.rollback().await.unwrap();
    });
}

#[test]
fn waiting_for_locks_can_be_cancelled() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut reading = portal.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE sources IN ACCESS SHARE MODE").execute(&mut *reading).await.unwrap();
        let cancel = CancellationToken::new();
        let limits = Limits::default();
        let waiting = try_exchange(&portal, limits, &cancel);
        let cancelling = async {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            while portal.get::<i64>(waits).await == 0 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(waiting, cancelling);
        assert!(matches!(outcome.unwrap_err(), SwapError::Cancelled));
        reading.rollback().await.unwrap();
    });
}

#[test]
fn a_swap_that_hangs_with_its_locks_is_ended_by_the_server() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
        let tx = try_exchange(&portal, limits, &CancellationToken::new()).await.unwrap();
        // Waits behind the lock until the server ends the idle session.
        assert_eq!(portal.release().await, "first");
        let error = commit(tx).await.unwrap_err();
        assert!(error.as_database_error().is_some(), "the server says why it ended the session: {error}");
        portal.exchange(&Generation::Staging, &backup()).await;
    });
}

#[test]
fn a_snapshot_older_than_the_load_is_reported() {
    with_portal(async |portal| {
        let mut conn = portal.pool.acquire().await.unwrap();
        let mut old = portal.pool.begin().await.unwrap();
        sqlx::raw_sql(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL application_name = 'old-dump'; SELECT count(*) FROM sources",
        )
        .execute(&mut *old)
        .await
        .unwrap();
        portal.stage("second").await;
        let horizon = swap::horizon(&mut conn).await.unwrap();
        let mut new = portal.pool.begin().await.unwrap();
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sources").execute(&mut *new).await.unwrap();
        let found = swap::old_snapshots(&mut conn, &horizon).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().contains("old-dump"), "{found:?}");
        old.rollback().await.unwrap();
        assert_eq!(swap::old_snapshots(&mut conn, &horizon).await.unwrap(), []);
        new.rollback().await.unwrap();
    });
}

/// A swap that is not committed.
async fn try_exchange(
    portal: &Portal,
    limits: Limits,
    cancel: &CancellationToken,
) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, SwapError> {
    let outgoing = backup();
    let order = SwapRequest { limits, ..order(&portal.relations, &Generation::Staging, &outgoing) };
    swap::exchange(&portal.pool, &order, &portal.pool, cancel).await.map(|(tx, _)| tx)
}
