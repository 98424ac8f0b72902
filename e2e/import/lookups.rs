use portal_release_operator::database::import::{self, ImportError};
use sqlx::Connection;

use super::{assert_says, count, in_database, owned, run, strings, target};

const LOOKUP: &str = "CREATE TABLE staging_designations (id serial PRIMARY KEY, code text UNIQUE, name text NOT NULL); \
                      INSERT INTO staging_designations (code, name) VALUES ('A', 'Area'), ('B', 'Biotope')";
const QUERY: &str = "SELECT * FROM (VALUES ('B', 'Other'), ('C', 'Corridor'), ('C', 'Corridor again'), ('D', 'Dune')) AS v(code, name)";

#[tokio::test]
async fn only_what_is_not_there_is_inserted() {
    in_database(|db| async move {
        let mut conn = db.with(LOOKUP).await;
        let columns = import::columns(&mut conn, target("staging_designations"), QUERY).await.unwrap();
        assert_eq!(import::insert_lookup(&mut conn, target("staging_designations"), &columns, QUERY, None).await.unwrap(), 2);
        let content = "SELECT id || code || name FROM staging_designations ORDER BY code";
        let first = strings(&mut conn, content).await;
        assert_eq!((first.len(), first[1].as_str()), (4, "2BBiotope"), "known rows stay as they are: {first:?}");
        assert_eq!(import::insert_lookup(&mut conn, target("staging_designations"), &columns, QUERY, None).await.unwrap(), 0);
        assert_eq!(strings(&mut conn, content).await, first, "a second time changes nothing");
    })
    .await;
}

#[tokio::test]
async fn every_covered_key_tells_rows_apart() {
    in_database(|db| async move {
        let mut conn = db.with(&format!("{LOOKUP}; ALTER TABLE staging_designations ADD UNIQUE (name)")).await;
        let query = "SELECT * FROM (VALUES ('X', 'Area'), ('A', 'New'), ('Y', 'Yard')) AS v(code, name)";
        let columns = owned(&["code", "name"]);
        assert_eq!(import::insert_lookup(&mut conn, target("staging_designations"), &columns, query, None).await.unwrap(), 1);
        assert_eq!(strings(&mut conn, "SELECT code FROM staging_designations ORDER BY 1").await, ["A", "B", "Y"]);
    })
    .await;
}

#[tokio::test]
async fn a_row_is_never_lost_to_a_key_that_is_not_imported() {
    in_database(|db| async move {
        // The sequence lags behind the ids: the new row's own id is taken.
        let mut conn = db.with(&format!("{LOOKUP}; ALTER SEQUENCE staging_designations_id_seq RESTART 1")).await;
        let mut tx = conn.begin().await.unwrap();
        let error =
            import::insert_lookup(&mut tx, target("staging_designations"), &owned(&["code", "name"]), QUERY, None).await.unwrap_err();
        assert_says(error, &["import areas", "staging_designations", "duplicate key", "(id)=(1)"]);
        tx.rollback().await.unwrap();
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_designations").await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_lookup_needs_a_unique_key_that_is_imported() {
    in_database(|db| async move {
        let mut conn = db
            .with(
                "CREATE TABLE staging_designations (id serial PRIMARY KEY, code text, name text, UNIQUE (code, name));
                 CREATE UNIQUE INDEX ON staging_designations (code) WHERE name IS NULL; CREATE UNIQUE INDEX ON staging_designations (lower(code));
                 ALTER TABLE staging_designations ADD UNIQUE (code) DEFERRABLE",
            )
            .await;
        let insert = import::insert_lookup(&mut conn, target("staging_designations"), &owned(&["code"]), "SELECT 'A' AS code", None).await;
        let error = insert.unwrap_err();
        assert!(matches!(error, ImportError::NoUniqueKey { .. }), "{error}");
        assert_says(error, &["import areas", "staging_designations", "columns code", "unique constraint"]);
        let covering = "ALTER TABLE staging_designations DROP CONSTRAINT staging_designations_code_key; CREATE UNIQUE INDEX ON staging_designations (code) INCLUDE (name)";
        run(&mut conn, covering).await;
        let insert = import::insert_lookup(&mut conn, target("staging_designations"), &owned(&["code"]), "SELECT 'A' AS code", None).await;
        assert_eq!(insert.unwrap(), 1, "included columns are no part of the key");
    })
    .await;
}
