//! Checks of the contract and of backups, on a real server.

use portal_release_operator::{
    api::{BackupCheck, Contract},
    checks::{Answer, ask_backup, ask_contract},
};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{assert_says, in_database, run};

async fn contract(conn: &mut PgConnection, contract: Value) -> Answer {
    let contract: Contract = serde_json::from_value(contract).unwrap();
    ask_contract(conn, "gate contract", &contract).await
}

#[track_caller]
fn assert_failed(answer: &Answer, says: &[&str]) {
    let Answer::Failed(finding) = answer else { panic!("{answer:?}") };
    assert_says(finding, says);
}

const SCHEMA: &str = "
    CREATE SCHEMA ops;
    CREATE TABLE ops.jobs (id bigint, name varchar(40), done timestamptz);
    CREATE FUNCTION ops.claim(text, integer) RETURNS SETOF ops.jobs LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
        AS 'SELECT * FROM ops.jobs';
    CREATE FUNCTION ops.count_jobs() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM ops.jobs';
    REVOKE EXECUTE ON FUNCTION ops.count_jobs() FROM PUBLIC;";

#[tokio::test]
async fn a_contract_names_every_difference() {
    in_database(|db| async move {
        let mut conn = db.with(SCHEMA).await;
        let good = json!({
            "functions": [
                {"schema": "ops", "name": "claim", "arguments": "text, int", "returns": "SETOF ops.jobs", "volatility": "Stable",
                 "securityDefiner": true, "searchPath": "Empty", "execute": ["pg_monitor"]},
                {"schema": "ops", "name": "count_jobs", "returns": "int8", "securityDefiner": false},
            ],
            "tables": [{"schema": "ops", "name": "jobs", "columns": [{"name": "id", "type": "int8"}, {"name": "name", "type": "character varying(40)"}, {"name": "done"}]}],
        });
        let answer = contract(&mut conn, good).await;
        assert_eq!(answer, Answer::Passed("2 functions and 1 table are as described".to_owned()));
        let bad = json!({
            "functions": [
                {"schema": "ops", "name": "claim", "arguments": "text"},
                {"schema": "ops", "name": "claim", "arguments": "text, integer", "returns": "bigint", "volatility": "Volatile",
                 "securityDefiner": false},
                {"schema": "ops", "name": "count_jobs", "searchPath": "Fixed", "execute": ["pg_monitor", "nobody_at_all"]},
            ],
            "tables": [
                {"schema": "ops", "name": "runs"},
                {"schema": "ops", "name": "jobs", "columns": [{"name": "id", "type": "text"}, {"name": "state"}]},
            ],
        });
        let answer = contract(&mut conn, bad).await;
        let says = [
            "gate contract failed: function ops.claim(text) does not exist",
            "returns SETOF ops.jobs, expected bigint",
            "is Stable, expected Volatile",
            "is SECURITY DEFINER, expected SECURITY INVOKER",
            "function ops.count_jobs() does not set its search_path",
            "may not be executed by pg_monitor",
            "may not be executed by nobody_at_all",
            "table ops.runs does not exist",
            "And 2 more",
            "change the database, or correct the contract",
        ];
        assert_failed(&answer, &says);
        // A type that does not exist is the contract's fault; an empty contract has nothing to judge.
        let answer = contract(&mut conn, json!({"functions": [{"schema": "ops", "name": "claim", "arguments": "nowhere.at_all"}]})).await;
        assert_failed(&answer, &["gate contract failed"]);
        let answer = contract(&mut conn, json!({})).await;
        assert!(matches!(answer, Answer::NoData(_)), "{answer:?}");
        // Cut off while it waits, nothing is known; once nothing blocks it, the answer comes.
        let mut other = db.connect().await;
        run(&mut other, "BEGIN; LOCK TABLE ops.jobs IN ACCESS EXCLUSIVE MODE; LOCK TABLE pg_attribute IN ACCESS EXCLUSIVE MODE").await;
        run(&mut conn, "SET lock_timeout = '50ms'").await;
        let table = json!({"tables": [{"schema": "ops", "name": "jobs", "columns": [{"name": "id"}]}]});
        let answer = contract(&mut conn, table.clone()).await;
        let Answer::Error(finding) = answer else { panic!("{answer:?}") };
        assert_says(finding, &["gate contract could not be evaluated"]);
        run(&mut other, "ROLLBACK").await;
        let answer = contract(&mut conn, table).await;
        assert!(matches!(answer, Answer::Passed(_)), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn the_newest_backup_must_be_recent() {
    in_database(|db| async move {
        let mut conn = db.with("CREATE TABLE backups (ended timestamptz)").await;
        let check = |sql: &str| BackupCheck { max_age: "24h".into(), sql: sql.into() };
        let newest = check("SELECT max(ended) FROM backups");
        let answer = ask_backup(&mut conn, "gate backup", &newest).await;
        let Answer::NoData(finding) = answer else { panic!("{answer:?}") };
        assert_says(finding, &["gate backup failed: there is no backup", "take a base backup"]);
        run(&mut conn, "INSERT INTO backups VALUES (now() - interval '3 hours'), (now() - interval '30 hours')").await;
        let answer = ask_backup(&mut conn, "gate backup", &newest).await;
        assert_eq!(answer, Answer::Passed("the newest backup is 3h00m old".to_owned()));
        let answer = ask_backup(&mut conn, "gate backup", &check("SELECT min(ended) FROM backups")).await;
        assert_failed(&answer, &["gate backup failed: the newest backup is 30h00m old, more than 24h"]);
        assert_failed(&ask_backup(&mut conn, "gate backup", &check("SELECT ended FROM backups")).await, &["more than one row"]);
        assert_failed(&ask_backup(&mut conn, "gate backup", &check("SELECT nonsense")).await, &["correct its backup.sql"]);
        // As copied from psql.
        assert_eq!(
            ask_backup(&mut conn, "gate backup", &check("SELECT max(ended) FROM backups; \n;")).await,
            Answer::Passed("the newest backup is 3h00m old".to_owned())
        );
        // A time without its zone, read as UTC, makes an old backup look new.
        for (query, kind) in [
            ("SELECT max(ended) AT TIME ZONE 'Asia/Kolkata' FROM backups", "timestamp without time zone"),
            ("SELECT max(ended)::text FROM backups", "text"),
            ("SELECT current_date", "date"),
            ("SELECT 1", "integer"),
        ] {
            let answer = ask_backup(&mut conn, "gate backup", &check(query)).await;
            let Answer::Refused(finding) = answer else { panic!("{query}: {answer:?}") };
            assert_says(finding, &["gate backup was not evaluated", kind, "expected timestamptz"]);
        }
        for (query, says) in [
            ("SELECT now() + interval '5 hours 30 minutes'", "the newest backup ends 5h"),
            ("SELECT 'infinity'::timestamptz", "returned infinity"),
            ("SELECT '-infinity'::timestamptz", "returned infinity"),
        ] {
            assert_failed(&ask_backup(&mut conn, "gate backup", &check(query)).await, &["gate backup failed", says]);
        }
        let ahead = ask_backup(&mut conn, "gate backup", &check("SELECT now() + interval '20 seconds'")).await;
        assert!(matches!(ahead, Answer::Passed(_)), "a clock that is a little ahead: {ahead:?}");
        let none = ask_backup(&mut conn, "gate backup", &check("SELECT max(ended) FROM backups WHERE false")).await;
        assert!(matches!(none, Answer::NoData(_)), "{none:?}");
        run(&mut conn, "SET statement_timeout = '50ms'").await;
        let slow = check("SELECT now() FROM (SELECT count(*) FROM generate_series(1, 1000000000)) AS slow");
        let answer = ask_backup(&mut conn, "gate backup", &slow).await;
        let Answer::Error(finding) = answer else { panic!("{answer:?}") };
        assert_says(finding, &["gate backup could not be evaluated"]);
        run(&mut conn, "SET statement_timeout = 0").await;
        assert!(matches!(ask_backup(&mut conn, "gate backup", &newest).await, Answer::Passed(_)));
    })
    .await;
}
