use portal_release_operator::{
    checks::{Answer, ask_sql},
    database::checks::{self, CheckError, GeometryRule},
    finding::Finding,
};
use sqlx::Connection;

use super::{assert_says, count, in_database, owned, run};

#[track_caller]
fn assert_finding(finding: &Finding, parts: &[&str]) {
    assert!(finding.is_failure(), "{finding}");
    assert_says(finding, parts);
}

#[tokio::test]
async fn missing_and_empty_relations_are_named() {
    in_database(|db| async move {
        let mut conn = db.with("CREATE TABLE areas (id int); CREATE VIEW empty_view AS SELECT * FROM areas; CREATE SEQUENCE points").await;
        let missing = checks::missing_relations(&mut conn, "public", &owned(&["areas", "points", "empty_view", "Gone"])).await.unwrap();
        assert_eq!(missing.len(), 2, "a sequence is no relation to read");
        assert_finding(&missing[0], &["table or view public.points does not exist", "create it"]);
        assert_finding(&missing[1], &["Gone"]);
        let empty = checks::non_empty(&mut conn, "public", "empty_view").await.unwrap().unwrap();
        assert_finding(&empty, &["empty_view has no rows"]);
        run(&mut conn, "INSERT INTO areas VALUES (1), (2)").await;
        assert_eq!(checks::non_empty(&mut conn, "public", "empty_view").await.unwrap(), None);
        assert_eq!(checks::row_count(&mut conn, "public", "areas").await.unwrap(), 2);
        assert_says(checks::row_count(&mut conn, "public", "Gone").await.unwrap_err(), &["Gone", "does not exist", "retry"]);
    })
    .await;
}

#[tokio::test]
async fn geometries_are_counted_by_what_is_wrong_with_them() {
    in_database(|db| async move {
        // PostGIS in a schema of its own: its functions must be found without the search path.
        let mut conn = db
            .with(
                "CREATE SCHEMA gis; CREATE EXTENSION postgis SCHEMA gis; SET search_path = public, gis;
                 CREATE TABLE areas (site_id int, pid text, geom geometry);
                 INSERT INTO areas SELECT n, 'A', ST_SetSRID(ST_Point(n, n), 4326) FROM generate_series(1, 10) n;
                 SET search_path = public",
            )
            .await;
        let rule = GeometryRule { column: "geom", srid: Some(4326), nullable: false };
        assert_eq!(checks::geometry(&mut conn, "public", "areas", rule).await.unwrap(), vec![]);
        run(
            &mut conn,
            "SET search_path = public, gis;
             INSERT INTO areas VALUES (11, 'A', NULL), (12, 'A', ST_SetSRID(ST_Point(0, 0), 3857)), (13, 'A', ST_SetSRID(ST_Point(0, 0), 3857)),
               (16, 'B', ST_GeomFromText('POLYGON((0 0, 1 1, 0 1, 1 0, 0 0))', 4326)), (15, 'A', ST_GeomFromText('POLYGON((0 0, 2 2, 0 2, 2 0, 0 0))', 4326)),
               (17, 'A', ST_GeomFromText('POLYGON((0 0, 1 1, 0 1, 1 0, 0 0))', 4326));
             SET search_path = public",
        )
        .await;
        let findings = checks::geometry(&mut conn, "public", "areas", rule).await.unwrap();
        assert_eq!(findings.len(), 3);
        assert_finding(&findings[0], &["areas.geom has 1 row without a geometry"]);
        assert_finding(&findings[1], &["areas.geom has 2 geometries whose SRID is not 4326"]);
        assert_finding(&findings[2], &["areas.geom has 3 invalid geometries", "Self-intersection", "ST_MakeValid"]);
        assert!(!findings[2].problem.contains(" at "), "there is no key to name: {}", findings[2]);

        run(&mut conn, "ALTER TABLE areas ADD UNIQUE (site_id, pid)").await;
        let relaxed = GeometryRule { srid: None, nullable: true, ..rule };
        let findings = checks::geometry(&mut conn, "public", "areas", relaxed).await.unwrap();
        assert_eq!(findings.len(), 1);
        assert_finding(&findings[0], &["3 invalid geometries, for example at site_id = 15, pid = A: Self-intersection"]);
        let wrong = GeometryRule { column: "shape", ..rule };
        let mut tx = conn.begin().await.unwrap();
        assert_says(checks::geometry(&mut tx, "public", "areas", wrong).await.unwrap_err(), &["areas.shape", "does not exist"]);
        assert_eq!(count(&mut tx, "SELECT 1::bigint").await, 1, "the caller's transaction continues");
        tx.rollback().await.unwrap();

        run(&mut conn, "DROP EXTENSION postgis CASCADE").await;
        let error = checks::geometry(&mut conn, "public", "areas", rule).await.unwrap_err();
        assert!(matches!(error, CheckError::NoPostgis { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn duplicates_are_counted_in_keys_and_rows() {
    in_database(|db| async move {
        let mut conn = db.with("CREATE TABLE areas (site_id int, pid text); INSERT INTO areas VALUES (1, 'A'), (1, 'B'), (2, 'A')").await;
        let key = owned(&["site_id", "pid"]);
        assert_eq!(checks::duplicates(&mut conn, "public", "areas", &key).await.unwrap(), None);
        run(&mut conn, "INSERT INTO areas VALUES (1, 'A'), (1, 'A'), (2, 'A'), (3, NULL), (3, NULL)").await;
        let finding = checks::duplicates(&mut conn, "public", "areas", &key).await.unwrap().unwrap();
        assert_finding(&finding, &["areas (site_id, pid) has 3 duplicate keys (7 rows)", "site_id = 1, pid = A"]);
        let finding = checks::duplicates(&mut conn, "public", "areas", &owned(&["site_id"])).await.unwrap().unwrap();
        assert_finding(&finding, &["areas (site_id) has 3 duplicate keys (8 rows)"]);
    })
    .await;
}

#[tokio::test]
async fn a_table_may_shrink_by_what_is_allowed_and_no_more() {
    in_database(|db| async move {
        let mut conn = db
            .with(
                "CREATE TABLE areas AS SELECT generate_series(1, 200) id; CREATE TABLE staging_areas AS SELECT generate_series(1, 190) id",
            )
            .await;
        assert_eq!(checks::max_shrink(&mut conn, "public", "areas", "staging_areas", 0.05).await.unwrap(), None);
        assert_eq!(checks::max_shrink(&mut conn, "public", "unborn", "staging_areas", 0.0).await.unwrap(), None);
        assert_eq!(checks::max_shrink(&mut conn, "public", "staging_areas", "areas", 0.0).await.unwrap(), None, "growing is fine");
        run(&mut conn, "DELETE FROM staging_areas WHERE id = 1").await;
        let finding = checks::max_shrink(&mut conn, "public", "areas", "staging_areas", 0.05).await.unwrap().unwrap();
        assert_finding(&finding, &["staging_areas has 189 rows, 11 fewer than the 200 of areas", "5.5%", "5.0%"]);
    })
    .await;
}

#[tokio::test]
async fn a_gate_passes_only_with_one_true() {
    in_database(|db| async move {
        let mut conn = db.with("CREATE TABLE marks (n int)").await;
        let mut tx = conn.begin().await.unwrap();
        run(&mut tx, "INSERT INTO marks VALUES (1)").await;
        for passing in [
            "SELECT true",
            "SELECT true, false",
            "SELECT count(*) = 1 FROM marks -- one\n",
            "VALUES (true)",
            "WITH x AS (SELECT true) TABLE x",
        ] {
            assert!(matches!(ask_sql(&mut tx, "gate fine", passing).await, Answer::Passed(_)), "{passing}");
        }
        let long = format!("SELECT repeat('x', {})", 5000);
        let cases = [
            ("SELECT true WHERE false", "got no row;"),
            ("SELECT true FROM generate_series(1, 2)", "got more than one row;"),
            ("SELECT false", "got false;"),
            ("SELECT NULL::boolean", "got NULL;"),
            ("SELECT NULL", "got NULL;"),
            ("SELECT 'true'", "got true (text);"),
            ("SELECT 1", "got 1 (integer);"),
            ("SELECT now() - now()", "got 00:00:00 (interval);"),
            (long.as_str(), &format!("got {}… (text);", "x".repeat(100))),
        ];
        for (sql, says) in cases {
            let finding = match ask_sql(&mut tx, "gate country-coverage", sql).await {
                // Nothing to judge is an answer of its own, and no pass.
                Answer::NoData(finding) if says.contains("no row") || says.contains("NULL") => finding,
                Answer::Failed(finding) => finding,
                other => panic!("{sql}: {other:?}"),
            };
            assert_finding(&finding, &["gate country-coverage failed: expected one row with true in the first column", says]);
        }
        let errors = [
            ("SELECT true FROM nowhere", "nowhere"),
            ("SELECT 1 / 0 = 1", "division by zero"),
            ("SELECT true) AS x(portal_release_gate); DELETE FROM marks; SELECT * FROM (SELECT true", "multiple commands"),
            ("SELECT true; DELETE FROM marks", "syntax error"),
            ("DELETE FROM marks RETURNING true", "syntax error"),
            ("SELECT nextval('serial') > 0", "serial"),
            ("SELECT", "0 columns available"),
        ];
        for (sql, says) in errors {
            let Answer::Failed(finding) = ask_sql(&mut tx, "gate broken", sql).await else { panic!("{sql}") };
            assert_finding(&finding, &["gate broken failed", says, "correct its sql"]);
        }
        assert_eq!(count(&mut tx, "SELECT count(*) FROM marks").await, 1, "the caller's transaction continues, with its changes");
        run(&mut tx, "INSERT INTO marks VALUES (2)").await;
        tx.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_gate_cannot_write() {
    in_database(|db| async move {
        let mut conn = db
            .with("CREATE TABLE marks (n int); CREATE FUNCTION mark() RETURNS bool LANGUAGE sql AS 'INSERT INTO marks VALUES (1) RETURNING true'")
            .await;
        let Answer::Failed(finding) = ask_sql(&mut conn, "gate writer", "SELECT mark()").await else { panic!("it wrote") };
        assert_says(finding, &["gate writer failed", "read-only transaction"]);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM marks").await, 0);
        run(&mut conn, "INSERT INTO marks VALUES (1)").await;
    })
    .await;
}

#[tokio::test]
async fn a_gate_that_cannot_be_evaluated_has_not_failed() {
    in_database(|db| async move {
        let mut conn = db.with("SET statement_timeout = '50ms'").await;
        let answer = ask_sql(&mut conn, "gate slow", "SELECT count(*) > 0 FROM generate_series(1, 1000000000)").await;
        let Answer::Error(finding) = answer else { panic!("{answer:?}") };
        assert_says(finding, &["gate slow could not be evaluated"]);
    })
    .await;
}
