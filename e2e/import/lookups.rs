use portal_release_operator::database::import::{Counts, ImportError};
use sqlx::{Connection, PgConnection};

use super::{Case, assert_says, count, in_database, load, run, strings};

const LOOKUP: &str = "CREATE TABLE staging_designations (id serial PRIMARY KEY, code text UNIQUE, name text NOT NULL); \
                      INSERT INTO staging_designations (code, name) VALUES ('A', 'Area'), ('B', 'Biotope')";
const QUERY: &str = "SELECT * FROM (VALUES ('B', 'Other'), ('C', 'Corridor'), ('C', 'Corridor again'), ('D', 'Dune')) AS v(code, name)";

async fn insert(conn: &mut PgConnection, query: &str) -> Result<Counts, ImportError> {
    load(conn, Case { table: "staging_designations", query, lookup: true, ..Case::default() }).await
}

fn new(read: i64, imported: i64) -> Counts {
    Counts { read, imported, rejected: 0 }
}

#[tokio::test]
async fn only_what_is_not_there_is_inserted() {
    in_database(|db| async move {
        let mut conn = db.with_ledger(LOOKUP).await;
        assert_eq!(insert(&mut conn, QUERY).await.unwrap(), new(4, 2));
        let content = "SELECT id || code || name FROM staging_designations ORDER BY code";
        let first = strings(&mut conn, content).await;
        assert_eq!((first.len(), first[1].as_str()), (4, "2BBiotope"), "known rows stay as they are: {first:?}");
        assert_eq!(insert(&mut conn, QUERY).await.unwrap(), new(4, 0));
        assert_eq!(strings(&mut conn, content).await, first, "a second time changes nothing");
    })
    .await;
}

#[tokio::test]
async fn every_covered_key_distinguishes_rows() {
    in_database(|db| async move {
        let mut conn = db.with_ledger(&format!("{LOOKUP}; ALTER TABLE staging_designations ADD UNIQUE (name)")).await;
        let query = "SELECT * FROM (VALUES ('X', 'Area'), ('A', 'New'), ('Y', 'Yard')) AS v(code, name)";
        assert_eq!(insert(&mut conn, query).await.unwrap(), new(3, 1));
        assert_eq!(strings(&mut conn, "SELECT code FROM staging_designations ORDER BY 1").await, ["A", "B", "Y"]);
    })
    .await;
}

#[tokio::test]
async fn a_row_is_never_lost_to_a_key_that_is_not_imported() {
    in_database(|db| async move {
        // Every new row's own id is taken.
        let mut conn = db.with_ledger(&format!("{LOOKUP}; ALTER TABLE staging_designations ALTER id SET DEFAULT 1")).await;
        let mut tx = conn.begin().await.unwrap();
        assert_eq!(insert(&mut tx, QUERY).await.unwrap(), Counts { read: 4, imported: 0, rejected: 3 });
        tx.commit().await.unwrap();
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_designations").await, 2);
        let rejected = "SELECT sqlstate || ' ' || reason || ' ' || row::text FROM portal_release.rejected_rows ORDER BY row ->> 'name'";
        let rejected = strings(&mut conn, rejected).await;
        assert_says(&rejected[0], &["23505 duplicate key", "staging_designations_pkey", "\"code\": \"C\""]);
        assert_says(&rejected[2], &["\"name\": \"Dune\""]);
    })
    .await;
}

#[tokio::test]
async fn a_lookup_needs_a_unique_key_that_is_imported() {
    in_database(|db| async move {
        let mut conn = db
            .with_ledger(
                "CREATE TABLE staging_designations (id serial PRIMARY KEY, code text, name text, UNIQUE (code, name));
                 CREATE UNIQUE INDEX ON staging_designations (code) WHERE name IS NULL; CREATE UNIQUE INDEX ON staging_designations (lower(code));
                 ALTER TABLE staging_designations ADD UNIQUE (code) DEFERRABLE",
            )
            .await;
        let error = insert(&mut conn, "SELECT 'A' AS code").await.unwrap_err();
        assert!(matches!(error, ImportError::NoUniqueKey { .. }), "{error}");
        assert_says(error, &["import areas", "staging_designations", "columns code", "unique constraint"]);
        let covering = "ALTER TABLE staging_designations DROP CONSTRAINT staging_designations_code_key; CREATE UNIQUE INDEX ON staging_designations (code) INCLUDE (name)";
        run(&mut conn, covering).await;
        assert_eq!(insert(&mut conn, "SELECT 'A' AS code").await.unwrap(), new(1, 1), "included columns are no part of the key");
    })
    .await;
}
