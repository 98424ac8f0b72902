//! What was written to the live tables since they became live is counted, and nothing else is.

use std::time::Duration;

use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::written::{Count, count, is_still_so, limit_statements};
use portal_release_operator::release::{RunKind, TableWrites};
use sqlx::Connection;

use crate::harness::{Portal, with_portal};
use crate::ledger::KEY;

fn backup(minute: u8) -> Generation {
    Generation::Backup(format!("26070112{minute:02}").parse().unwrap())
}

async fn counted(portal: &Portal) -> Count {
    count(&mut portal.pool.acquire().await.unwrap(), KEY, &portal.relations).await.unwrap()
}

/// Such as `sources +1 -0`; unknown tables with a question mark.
async fn written(portal: &Portal) -> Vec<String> {
    let written = counted(portal).await.written;
    let described = |TableWrites { table, new, gone }: &TableWrites| format!("{table} +{new} -{gone}");
    written.tables.iter().map(described).chain(written.unknown.iter().map(|table| format!("{table} ?"))).collect()
}

/// A release that is live, with writers that began before its swap: one with a savepoint.
async fn live(portal: &Portal) -> i64 {
    portal.with_ledger().await;
    portal.stage("second").await;
    let release = portal.release_row("Jul2026").await;
    portal.recorded_exchange(release, RunKind::Release, &Generation::Staging, &backup(0)).await;
    release
}

#[test]
fn every_write_since_the_swap_is_counted() {
    with_portal(async |portal| {
        portal.with_ledger().await;
        assert_eq!(written(&portal).await, ["sources ?", "protected_areas ?", "countries_pas ?"], "from before the operator");
        portal.run("ALTER TABLE countries_pas SET (autovacuum_enabled = false)").await;
        portal.stage("second").await;
        let release = portal.release_row("Jul2026").await;

        // Two writers have their transaction ids before the swap and write after it; a third transaction moves the ids on meanwhile.
        let mut early = portal.pool.acquire().await.unwrap();
        let mut early = early.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO tags VALUES ('before the swap')").execute(&mut *early).await.unwrap();
        let mut nested = portal.pool.acquire().await.unwrap();
        let mut nested = nested.begin().await.unwrap();
        let mut savepoint = nested.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO tags VALUES ('in a savepoint')").execute(&mut *savepoint).await.unwrap();
        portal.run("INSERT INTO tags VALUES ('later')").await;
        portal.recorded_exchange(release, RunKind::Release, &Generation::Staging, &backup(0)).await;
        assert_eq!(written(&portal).await, Vec::<String>::new());

        sqlx::raw_sql("INSERT INTO sources (title, release) VALUES ('early', 'second')").execute(&mut *early).await.unwrap();
        assert_eq!(written(&portal).await, Vec::<String>::new(), "not committed");
        sqlx::raw_sql("DELETE FROM sources WHERE title = 'source 5'").execute(&mut *early).await.unwrap();
        early.commit().await.unwrap();
        assert_eq!(written(&portal).await, ["sources +1 -1"], "a transaction from before the swap");
        let nested_write = "INSERT INTO countries_pas SELECT 2, min(id) FROM protected_areas";
        sqlx::raw_sql(nested_write).execute(&mut *savepoint).await.unwrap();
        savepoint.commit().await.unwrap();
        nested.commit().await.unwrap();
        assert_eq!(written(&portal).await, ["sources +1 -1", "countries_pas +1 -0"], "a subtransaction from before the swap");

        portal.run("DELETE FROM sources WHERE title IN ('source 2', 'source 3', 'source 4')").await;
        portal.run("UPDATE protected_areas SET notes = 'corrected' WHERE site_id <= 4").await;
        let expected = ["sources +1 -4", "protected_areas +4 -4", "countries_pas +1 -0"];
        assert_eq!(written(&portal).await, expected);
        // Neither locks nor upkeep are writes.
        portal.run("SELECT * FROM protected_areas FOR UPDATE").await;
        portal.run("VACUUM (FREEZE, ANALYZE) sources").await;
        portal.run("VACUUM (FULL, FREEZE) protected_areas").await;
        assert_eq!(written(&portal).await, expected, "after VACUUM");
        let sentence = counted(&portal).await.written.sentence();
        assert!(sentence.starts_with("1 row inserted or updated, and 4 existing rows updated or deleted, in sources, 4 rows inserted or updated, and 4 existing rows updated or deleted, in protected_areas, 1 row inserted in countries_pas since 20"), "{sentence}");

        // Back and forward: what was written there meanwhile counts again.
        portal.recorded_exchange(release, RunKind::Rollback, &backup(0), &Generation::Staging).await;
        assert_eq!(written(&portal).await, Vec::<String>::new());
        portal.run("INSERT INTO sources (title, release) VALUES ('after the rollback', 'first')").await;
        assert_eq!(written(&portal).await, ["sources +1 -0"]);
        portal.recorded_exchange(release, RunKind::RollForward, &Generation::Staging, &backup(1)).await;
        assert_eq!(written(&portal).await, Vec::<String>::new(), "what existed exists again");
        // A table that another tool puts in the place of the live one has no history.
        portal.run("ALTER TABLE countries_pas RENAME TO mine; CREATE TABLE countries_pas (LIKE mine)").await;
        assert_eq!(written(&portal).await, ["countries_pas ?"]);
    });
}

#[test]
fn a_count_holds_until_another_session_commits() {
    with_portal(async |portal| {
        live(&portal).await;
        let holds = async |count: &Count| is_still_so(&mut portal.pool.acquire().await.unwrap(), count).await.unwrap();
        // Other tests write to this server too, so a count may not hold for long; without them it does.
        let before = counted(&portal).await;
        let mut writer = portal.pool.acquire().await.unwrap();
        let mut writer = writer.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO sources (title, release) VALUES ('open', 'second')").execute(&mut *writer).await.unwrap();
        portal.run("INSERT INTO tags VALUES ('later than the open one')").await;
        let during = counted(&portal).await;
        assert!(during.written.is_nothing());
        writer.commit().await.unwrap();
        assert!(!holds(&before).await, "it began after the count");
        assert!(!holds(&during).await, "it was open during the count");
        assert_eq!(written(&portal).await, ["sources +1 -0"]);
        // A row that was written and rolled back leaves nothing to lose.
        crate::harness::until_true("a count that holds over a rollback", async || {
            let count = counted(&portal).await;
            let mut aborted = portal.pool.acquire().await.unwrap();
            let mut aborted = aborted.begin().await.unwrap();
            sqlx::raw_sql("INSERT INTO tags VALUES ('aborted')").execute(&mut *aborted).await.unwrap();
            aborted.rollback().await.unwrap();
            holds(&count).await
        })
        .await;
    });
}

#[test]
fn a_count_that_takes_too_long_ends() {
    with_portal(async |portal| {
        live(&portal).await;
        portal.run("INSERT INTO sources (title, release) SELECT 'many', n::text FROM generate_series(1, 200000) n").await;
        let mut tx = portal.pool.begin().await.unwrap();
        limit_statements(&mut tx, Duration::from_millis(5)).await.unwrap();
        let error = count(&mut tx, KEY, &portal.relations).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("57014"), "{error}");
    });
}
