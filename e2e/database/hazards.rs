//! Hazards of a rename swap apart from structure: plans kept by sessions, long names, drift while staging exists.

use std::collections::BTreeSet;

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::{Generation, MAX_NAME_BYTES, Relations};
use portal_release_operator::database::{backups, catalog, staging, swap};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;

use crate::harness::{Portal, order, same, until_true, with_portal};

fn backup(stamp: &str) -> Generation {
    Generation::Backup(stamp.parse().unwrap())
}

/// Tables, materialized views, views, functions over row types: whatever the session keeps a plan of.
const PREPARED: [(&str, &str); 6] = [
    ("by_key", "SELECT release FROM protected_areas WHERE site_id = 7"),
    ("all_columns", "SELECT * FROM sources ORDER BY id LIMIT 1"),
    ("totals", "SELECT * FROM area_totals"),
    ("by_view", "SELECT * FROM report_of_reports LIMIT 1"),
    ("by_row_type", "SELECT s.release, label(s) FROM sources s LIMIT 1"),
    ("by_rows", "SELECT release, count(*) FROM largest() GROUP BY release"),
];

/// Else COMMIT makes the next segment of the write-ahead log while readers wait for it.
#[test]
fn a_swap_finds_room_in_the_log() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let log = "FROM (SELECT pg_current_wal_insert_lsn() AS position, setting::bigint AS size FROM pg_settings WHERE name = 'wal_segment_size') l,
                        LATERAL (SELECT size - (position - '0/0') % size AS room) r";
        // A megabyte is left: more than this swap needs, and less than what it sees to.
        let fill =
            format!("SELECT pg_logical_emit_message(false, 'test', repeat(' ', (room - 1048576)::integer)) {log} WHERE room > 1048576");
        let full = format!("SELECT pg_walfile_name(position) {log} WHERE room < 2097152");
        let mut segment: Option<String> = None;
        until_true("a segment that is nearly full, whatever the other tests write", async || {
            portal.run(&fill).await;
            segment = sqlx::query_scalar(AssertSqlSafe(full.clone())).fetch_optional(&portal.pool).await.unwrap();
            segment.is_some()
        })
        .await;
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        assert_ne!(Some(portal.get::<String>("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await), segment);
    });
}

#[test]
fn prepared_statements_of_one_session_read_every_release() {
    with_portal(async |portal| {
        portal.run("CREATE FUNCTION in_plpgsql() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT min(release) FROM public.sources); END $$").await;
        let mut session = PgConnection::connect_with(portal.pool.connect_options().as_ref()).await.unwrap();
        sqlx::raw_sql("SET plan_cache_mode = force_generic_plan").execute(&mut session).await.unwrap();
        for (name, query) in PREPARED {
            sqlx::raw_sql(AssertSqlSafe(format!("PREPARE {name} AS {query}"))).execute(&mut session).await.unwrap();
        }
        all_read(&mut session, "first").await;
        portal.stage("second").await;
        for round in 0..3 {
            portal.exchange(&Generation::Staging, &backup("2607011200")).await;
            all_read(&mut session, "second").await;
            portal.exchange(&backup("2607011200"), &Generation::Staging).await;
            all_read(&mut session, "first").await;
            let sql = "INSERT INTO sources (title, release) VALUES ($1, 'first') RETURNING id";
            let id: i32 = sqlx::query_scalar(sql).bind(format!("round {round}")).fetch_one(&mut session).await.unwrap();
            assert_eq!(id, 150 + round * 10);
        }
    });
}

/// A function is looked up before it is called, and no lock is held in between: here for as long as a cursor is open.
#[test]
fn a_call_that_was_under_way_finds_its_function() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut under_way = portal.pool.begin().await.unwrap();
        for (name, query) in [("a", "SELECT release FROM largest()"), ("b", "SELECT largest_count()::text")] {
            let declare = format!("DECLARE {name} CURSOR FOR {query}");
            sqlx::raw_sql(AssertSqlSafe(declare)).execute(&mut *under_way).await.unwrap();
        }
        swap_of(&portal, &portal.relations, &Generation::Staging, &backup("2607011200")).await;
        let rows: Vec<String> = sqlx::query_scalar("FETCH ALL FROM a").fetch_all(&mut *under_way).await.unwrap();
        assert_eq!(rows, ["second"; 3]);
        let counts: Vec<String> = sqlx::query_scalar("FETCH ALL FROM b").fetch_all(&mut *under_way).await.unwrap();
        assert_eq!(counts, ["3"]);
        under_way.rollback().await.unwrap();
        // They are gone with the next swap, or with the backup.
        let kept = "SELECT count(*) FROM pg_proc WHERE proname ~ '^replaced_'";
        assert_eq!(portal.get::<i64>(kept).await, 4);
        swap_of(&portal, &portal.relations, &backup("2607011200"), &Generation::Staging).await;
        assert_eq!(portal.get::<i64>(kept).await, 4);
        let mut conn = portal.pool.acquire().await.unwrap();
        staging::drop_all(&mut conn, &portal.relations).await.unwrap();
        assert_eq!(portal.get::<i64>(kept).await, 0);
    });
}

async fn all_read(session: &mut PgConnection, release: &str) {
    for (name, query) in PREPARED {
        // Prepared in SQL, and by the driver, which keeps the statement and the types of its columns.
        let execute = format!("EXECUTE {name}");
        let rows = sqlx::raw_sql(AssertSqlSafe(execute)).fetch_all(&mut *session).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rows.len(), 1, "{name}");
        assert_eq!(rows[0].get::<String, _>("release"), release, "{name}");
        let row = sqlx::query(query).fetch_one(&mut *session).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(row.get::<String, _>("release"), release, "{query}");
    }
    let cached: String = sqlx::query_scalar("SELECT in_plpgsql()").fetch_one(&mut *session).await.unwrap();
    assert_eq!(cached, release);
}

#[test]
fn names_at_the_limit_survive_two_swaps_in_one_minute() {
    with_portal(async |portal| {
        // One beginning, in characters of two bytes.
        let tables = ["é".repeat(26), format!("{}xy", "é".repeat(30)), format!("{}xyz", "é".repeat(30))];
        assert_eq!(tables.each_ref().map(String::len), [52, MAX_NAME_BYTES - 1, MAX_NAME_BYTES]);
        for table in &tables {
            portal.run(&format!("CREATE TABLE \"{table}\" (id serial PRIMARY KEY, release text UNIQUE); INSERT INTO \"{table}\" (release) VALUES ('first')")).await;
        }
        let relations = Relations { schema: "public".into(), tables: tables.to_vec(), ..Relations::default() };
        let mut conn = portal.pool.acquire().await.unwrap();
        let before = portal.catalogue().await;
        let now = "2026-07-01T12:00:30Z".parse().unwrap();
        let mut stamps = Vec::new();
        for release in ["second", "third"] {
            staging::build(&mut conn, &relations, true).await.unwrap();
            for name in relations.names(&Generation::Staging) {
                portal.run(&format!("INSERT INTO \"{name}\" (release) VALUES ('{release}')")).await;
            }
            staging::complete(&mut conn, &relations).await.unwrap();
            assert_eq!(catalog::diff(&mut conn, &relations, &Generation::Staging).await.unwrap(), []);
            let stamp = backups::free_stamp(&mut conn, "public", now, &BTreeSet::new()).await.unwrap();
            swap_of(&portal, &relations, &Generation::Staging, &Generation::Backup(stamp)).await;
            stamps.push(stamp);
            same(&before, &portal.catalogue().await);
        }
        assert_eq!(stamps.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2607011200", "2607011201"]);
        swap_of(&portal, &relations, &Generation::Backup(stamps[0]), &Generation::Staging).await;
        for (generation, release) in
            [(Generation::Live, "first"), (Generation::Staging, "third"), (Generation::Backup(stamps[1]), "second")]
        {
            for name in relations.names(&generation) {
                assert_eq!(portal.get::<String>(&format!("SELECT string_agg(release, ' ') FROM \"{name}\"")).await, release, "{name}");
            }
        }
        same(&before, &portal.catalogue().await);
    });
}

async fn swap_of(portal: &Portal, relations: &Relations, incoming: &Generation, outgoing: &Generation) {
    let (tx, _) =
        swap::exchange(&portal.pool, &order(relations, incoming, outgoing), &portal.pool, &CancellationToken::new()).await.unwrap();
    commit(tx).await.unwrap();
}

#[test]
fn what_comes_to_live_while_staging_stands_is_missed_by_nobody() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut conn = portal.pool.acquire().await.unwrap();
        let built = catalog::fingerprint(&mut conn, &portal.relations).await.unwrap();
        let reader = portal.owner.replace("_owner", "_reader");
        // What belongs to a table is a difference until staging has it too.
        for (sql, what) in [
            ("CREATE INDEX later ON sources (touched)", "index later"),
            ("CREATE RULE later AS ON DELETE TO sources DO ALSO NOTHING", "rule later"),
            ("COMMENT ON RULE later ON sources IS 'came later'", "rule later"),
            (&format!("GRANT DELETE ON protected_areas TO {reader}"), "grant protected_areas to"),
            ("CREATE STATISTICS later ON id, title FROM sources", "statistics later"),
            ("ALTER TABLE sources ALTER COLUMN title SET STATISTICS 77", "statistics target title"),
        ] {
            portal.run(sql).await;
            let found = catalog::diff(&mut conn, &portal.relations, &Generation::Staging).await.unwrap();
            assert!(found.len() == 1 && found[0].to_string().contains(what), "{sql}: {found:#?}");
            assert_ne!(catalog::fingerprint(&mut conn, &portal.relations).await.unwrap(), built, "{sql}");
            staging::complete(&mut conn, &portal.relations).await.unwrap();
            assert_eq!(catalog::diff(&mut conn, &portal.relations, &Generation::Staging).await.unwrap(), [], "{sql}");
        }
        // Dependent objects of a table are looked up under the lock.
        portal
            .run(
                "CREATE VIEW late AS SELECT release FROM sources; CREATE FUNCTION late(area_totals) RETURNS text LANGUAGE sql AS 'SELECT $1.release';
                 CREATE RULE late AS ON INSERT TO history DO ALSO DELETE FROM countries_pas;
                 CREATE TABLE latecomers (area bigint REFERENCES protected_areas); ALTER PUBLICATION chosen ADD TABLE protected_areas",
            )
            .await;
        let before = portal.catalogue().await;
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        same(&before, &portal.catalogue().await);
        assert_eq!(
            portal.get::<String>("SELECT DISTINCT release || late(t) FROM late JOIN area_totals t USING (release)").await,
            "secondsecond"
        );
    });
}
