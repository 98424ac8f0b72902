//! Real hot standbys: the primary sees who reads there and how far they are behind, and a swap arrives there as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portal_release_operator::database::swap;
use sqlx::{PgPool, Row};

use crate::portal::{LIVE, OWNER, Portal, backup, run, text, until};
use crate::server::{Server, Settings};

/// Feedback once a second, instead of every 10.
const FEEDBACK: Settings<'static> = &["hot_standby_feedback=on", "wal_receiver_status_interval=1s"];

async fn old_snapshots(portal: &Portal, horizon: &swap::Horizon) -> Vec<String> {
    let mut conn = portal.owner.acquire().await.unwrap();
    swap::old_snapshots(&mut conn, horizon).await.unwrap().iter().map(ToString::to_string).collect()
}

/// With a replication slot the snapshots of a standby are kept with the slot, without one with the walsender.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_on_a_standby_is_named_until_it_ends() {
    let primary = Server::start(&[]).await;
    let portal = Portal::create(&primary, "pg_default").await;
    let direct = primary.standby("direct", None, FEEDBACK).await;
    let slotted = primary.standby("slotted", Some("its_slot"), FEEDBACK).await;
    run(&portal.admin, &format!("GRANT pg_read_all_stats TO {OWNER}")).await;
    let mut readers = Vec::new();
    for server in [&direct, &slotted] {
        let mut reader = server.pool(OWNER, "portal").await.begin().await.unwrap();
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM areas").execute(&mut *reader).await.unwrap();
        readers.push(reader);
    }
    portal.stage("second").await;
    let horizon = swap::horizon(&mut portal.owner.acquire().await.unwrap()).await.unwrap();
    // Both have replayed the load, and have said since then what their readers need.
    let feedback = "SELECT count(*) = 2 FROM pg_stat_replication LEFT JOIN pg_replication_slots ON active_pid = pid
                WHERE replay_lsn >= $1::pg_lsn AND age(coalesce(xmin, backend_xmin)) > 0";
    let load = portal.text("SELECT pg_current_wal_lsn()").await;
    until("feedback of both", async || portal.text(&feedback.replace("$1", &format!("'{load}'"))).await == "true").await;

    let found = old_snapshots(&portal, &horizon).await;
    assert_eq!(found.len(), 2, "{found:?}");
    for (name, reader) in ["direct", "slotted"].into_iter().zip(readers) {
        let wanted = format!("application {name}");
        let is_named = async || {
            let found = old_snapshots(&portal, &horizon).await;
            found.iter().any(|who| who.contains(&wanted) && who.starts_with("a reader on the standby with pid"))
        };
        assert!(is_named().await, "{name}: {:?}", old_snapshots(&portal, &horizon).await);
        reader.rollback().await.unwrap();
        until(&format!("nobody reads on {name}"), async || !is_named().await).await;
    }
    assert_eq!(old_snapshots(&portal, &horizon).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_says_how_far() {
    let primary = Server::start(&[]).await;
    let portal = Portal::create(&primary, "pg_default").await;
    let replica = primary.standby("replica", None, &["wal_receiver_status_interval=1s"]).await;
    // It takes WAL for an archive and has no readers, so it delays nothing.
    let _archive = primary.program("pg_receivewal", &[]);
    until("both follow", async || portal.text("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await == "2").await;
    let behind = async |pool: &PgPool| {
        let standbys = swap::standbys(pool).await.unwrap();
        standbys.into_iter().map(|standby| (standby.name, standby.behind)).collect::<Vec<_>>()
    };

    let there = replica.pool("postgres", "portal").await;
    run(&there, "SELECT pg_wal_replay_pause()").await;
    portal.run("CREATE TABLE more AS SELECT repeat('x', 100) FROM generate_series(1, 20000)").await;
    until("it is behind", async || matches!(behind(&portal.admin).await.as_slice(), [(name, Some(2_000_000..))] if name == "replica"))
        .await;
    let standbys = swap::standbys(&portal.admin).await.unwrap();
    assert!(standbys[0].to_string().contains("standby replica is "), "{}", standbys[0]);

    // A role without the right learns that it lacks it.
    let hidden = swap::standbys(&portal.owner).await.unwrap();
    assert!(!hidden.is_empty() && hidden.iter().all(|standby| standby.behind.is_none()), "{hidden:?}");
    assert!(hidden[0].to_string().contains("pg_read_all_stats"), "{}", hidden[0]);

    run(&there, "SELECT pg_wal_replay_resume()").await;
    until("it has caught up", async || behind(&portal.admin).await == [("replica".to_owned(), Some(0))]).await;
}

/// What one reader of the standby has met.
#[derive(Default)]
struct Seen {
    reads: BTreeMap<String, u32>,
    errors: BTreeMap<String, u32>,
}

/// Reads until it is stopped: every statement over all relations, joined in one order or the other.
async fn read(pool: PgPool, sql: String, stop: &AtomicBool, reads: &AtomicU32) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        match sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).fetch_one(&pool).await {
            Ok(row) => *seen.reads.entry(row.get::<Option<String>, _>(0).unwrap_or_default()).or_default() += 1,
            Err(error) => {
                let code = error.as_database_error().and_then(|it| it.code()).map_or_else(|| error.to_string(), |code| code.into_owned());
                *seen.errors.entry(code).or_default() += 1;
            }
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_standby_see_one_release_or_the_other() {
    let primary = Server::start(&[]).await;
    let portal = Portal::create(&primary, "pg_default").await;
    // A query that the replay waits for is cancelled after 2 s, instead of 30.
    let settings = [FEEDBACK, &["max_standby_streaming_delay=2s"]].concat();
    let replica = primary.standby("replica", None, &settings).await;
    let there = replica.pool(OWNER, "portal").await;
    let (stop, reads) = (AtomicBool::new(false), AtomicU32::new(0));
    let joined = |first: &str, second: &str| {
        format!("SELECT string_agg(DISTINCT concat_ws(' and ', l.release, r.release), ',') FROM {first} l, {second} r")
    };
    let queries = [LIVE.to_owned(), joined("sources", "totals"), joined("totals", "sources"), joined("areas", "sources")];
    let read_on = async || {
        let before = reads.load(Ordering::Relaxed);
        until("readers read on", async || reads.load(Ordering::Relaxed) >= before + 20).await;
    };
    let swaps = async {
        for turn in 1..=10_u32 {
            read_on().await;
            let release = portal.stage(&format!("release{turn}")).await;
            let outgoing = backup(&format!("26080112{turn:02}"));
            assert!(portal.swap_unless_done(release, &outgoing).await);
            let lsn = portal.text("SELECT pg_current_wal_lsn()").await;
            until("the swap is replayed", async || text(&there, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")).await == "true")
                .await;
            assert_eq!(text(&there, LIVE).await, format!("release{turn}"));
        }
        read_on().await;
        stop.store(true, Ordering::Relaxed);
    };
    let readers = futures::future::join_all(queries.into_iter().map(|sql| read(there.clone(), sql, &stop, &reads)));
    let ((), seen) = tokio::join!(swaps, readers);

    let mut releases = std::collections::BTreeSet::new();
    for seen in &seen {
        for answer in seen.reads.keys() {
            let mut names: Vec<&str> = answer.split(',').flat_map(|part| part.split(" and ")).collect();
            names.dedup();
            assert_eq!(names.len(), 1, "one statement saw a mix: {answer}");
            releases.insert(names[0].to_owned());
        }
        // A query that blocks the replay for too long, or locks in another order than it, is cancelled by the standby.
        let others: Vec<_> = seen.errors.iter().filter(|(code, _)| !["40001", "40P01"].contains(&code.as_str())).collect();
        assert!(others.is_empty(), "{others:?}");
    }
    assert!(releases.contains("first") && releases.contains("release10"), "{releases:?}");
    let total: u32 = seen.iter().flat_map(|seen| seen.reads.values()).sum();
    let errors: Vec<_> = seen.iter().map(|seen| &seen.errors).collect();
    println!("{total} reads on the standby around 10 swaps, {} releases seen, errors by SQLSTATE: {errors:?}", releases.len());
}
