use portal_release_operator::database::catalog;
use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::views::{self, MaterializedViewSpec, ViewError};
use sqlx::Connection;

use super::{assert_says, count, in_database, owned, run, strings};

const SOURCE: &str = "CREATE TABLE source AS SELECT n AS site_id, 'A' AS site_pid, 'site ' || n AS name FROM generate_series(1, 100) n";

fn view(name: &str, sql: &str) -> MaterializedViewSpec {
    MaterializedViewSpec { name: name.to_owned(), unique_key: owned(&["site_id", "site_pid"]), sql: sql.to_owned() }
}

#[tokio::test]
async fn a_twin_has_everything_the_live_view_has() {
    in_database(|db| async move {
        let (owner, reader) = (format!("{}_owner", db.name), format!("{}_reader", db.name));
        let mut conn = db
            .with(&format!(
                "{SOURCE}; CREATE ROLE {owner}; CREATE ROLE {reader};
                 CREATE MATERIALIZED VIEW points WITH (fillfactor = 70, autovacuum_enabled = false) AS SELECT * FROM source;
                 CREATE UNIQUE INDEX points_key ON points (site_id, site_pid); CREATE INDEX points_name ON points (lower(name)) WHERE site_id > 5;
                 COMMENT ON MATERIALIZED VIEW points IS 'all ''points'''; COMMENT ON COLUMN points.name IS 'its name'; COMMENT ON INDEX points_key IS 'key';
                 ALTER MATERIALIZED VIEW points ALTER COLUMN name SET STATISTICS 777; ALTER MATERIALIZED VIEW points OWNER TO {owner};
                 GRANT SELECT ON points TO {reader} WITH GRANT OPTION; GRANT SELECT (name) ON points TO PUBLIC"
            ))
            .await;
        let mut tx = conn.begin().await.unwrap();
        views::create_staged(&mut tx, "public", &view("points", "SELECT * FROM source WHERE site_id < 51 -- half")).await.unwrap();
        tx.commit().await.unwrap();

        let relations = Relations { schema: "public".into(), views: owned(&["points"]), ..Relations::default() };
        assert_eq!(catalog::diff(&mut conn, &relations, &Generation::Staging).await.unwrap(), vec![]);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_points").await, 50);
        let indexes = strings(&mut conn, "SELECT indexname::text FROM pg_indexes WHERE tablename = 'staging_points' ORDER BY 1").await;
        assert_eq!(indexes, ["staging_points_key", "staging_points_name"]);
        let facts = format!(
            "SELECT concat_ws(';', pg_get_userbyid(relowner), relacl::text LIKE '%{reader}=r*/{owner}%', array_to_string(reloptions, ','), \
             obj_description(oid, 'pg_class'), reltuples) FROM pg_class WHERE relname = 'staging_points'"
        );
        let wanted = format!("{owner};t;fillfactor=70,autovacuum_enabled=false;all 'points';50");
        assert_eq!(strings(&mut conn, &facts).await, [wanted]);
        assert_eq!(count(&mut conn, "SELECT attstattarget::bigint FROM pg_attribute WHERE attrelid = 'staging_points'::regclass AND attname = 'name'").await, 777);
        assert!(count(&mut conn, "SELECT count(*) FROM pg_stats WHERE tablename = 'staging_points'").await > 0, "analysed");
    })
    .await;
}

#[tokio::test]
async fn a_new_view_gets_its_unique_key() {
    in_database(|db| async move {
        let mut conn = db.with(SOURCE).await;
        views::create_staged(&mut conn, "public", &view("points", "SELECT * FROM source")).await.unwrap();
        let index = strings(&mut conn, "SELECT indexdef FROM pg_indexes WHERE tablename = 'staging_points'").await;
        assert_eq!(
            index,
            ["CREATE UNIQUE INDEX staging_points_site_id_site_pid_key ON public.staging_points USING btree (site_id, site_pid)"]
        );
        let mut tx = conn.begin().await.unwrap();
        let error = views::create_staged(
            &mut tx,
            "public",
            &view("twice", "SELECT * FROM source UNION ALL SELECT * FROM source WHERE site_id = 7"),
        )
        .await;
        assert_says(error.unwrap_err(), &["staging_twice (site_id, site_pid) has 1 duplicate key (2 rows)", "site_id = 7, site_pid = A"]);
        tx.rollback().await.unwrap();
        let error = views::create_staged(&mut conn, "public", &view("broken", "SELECT nothing FROM source")).await.unwrap_err();
        assert_says(error, &["view broken", "building its staged twin failed", "\"nothing\""]);
        let error = views::create_staged(&mut conn, "public", &view("points", "SELECT * FROM source")).await.unwrap_err();
        assert_says(error, &["view points", "already exists"]);
    })
    .await;
}

#[tokio::test]
async fn a_twin_with_other_columns_is_refused() {
    in_database(|db| async move {
        let mut conn = db.with(&format!("{SOURCE}; CREATE MATERIALIZED VIEW points AS SELECT * FROM source")).await;
        let error = views::create_staged(&mut conn, "public", &view("points", "SELECT site_id::text, site_pid, name FROM source"))
            .await
            .unwrap_err();
        assert!(matches!(error, ViewError::Differs(_)), "{error}");
        assert_says(error, &["points", "site_id", "correct its query"]);
    })
    .await;
}

#[tokio::test]
async fn twins_are_dropped_in_reverse_and_never_with_what_others_built_on_them() {
    in_database(|db| async move {
        let mut conn = db.with(SOURCE).await;
        let names = owned(&["sums", "points", "never_built"]);
        views::create_staged(&mut conn, "public", &view("sums", "SELECT * FROM source")).await.unwrap();
        views::create_staged(&mut conn, "public", &view("points", "SELECT * FROM staging_sums")).await.unwrap();
        run(&mut conn, "CREATE MATERIALIZED VIEW points AS SELECT * FROM source; CREATE VIEW mine AS SELECT * FROM staging_points").await;
        let mut tx = conn.begin().await.unwrap();
        let error = views::drop_staged(&mut tx, "public", &names).await.unwrap_err();
        assert_says(error, &["view points", "dropping its staged twin", "view mine depends on"]);
        tx.rollback().await.unwrap();
        run(&mut conn, "DROP VIEW mine").await;
        views::drop_staged(&mut conn, "public", &names).await.unwrap();
        assert_eq!(strings(&mut conn, "SELECT matviewname::text FROM pg_matviews").await, ["points"]);
    })
    .await;
}

#[tokio::test]
async fn a_live_view_is_refreshed_with_its_readers_inside() {
    in_database(|db| async move {
        let mut conn = db.with(&format!("{SOURCE}; CREATE MATERIALIZED VIEW points AS SELECT * FROM source WITH NO DATA")).await;
        views::refresh_live(&mut conn, "public", "points", true).await.unwrap();
        assert_eq!(count(&mut conn, "SELECT count(*) FROM points").await, 100, "a view nobody can read yet is filled");
        run(&mut conn, "CREATE UNIQUE INDEX ON points (lower(name)); CREATE UNIQUE INDEX ON points (site_id) WHERE site_id > 0").await;
        let error = views::refresh_live(&mut conn, "public", "points", true).await.unwrap_err();
        assert!(matches!(error, ViewError::NoUniqueIndex { .. }), "{error}");
        assert_says(error, &["view points", "unique index", "views.refresh"]);
        run(&mut conn, "DELETE FROM source WHERE site_id > 10; CREATE UNIQUE INDEX ON points (site_id)").await;

        let mut reader = db.connect().await;
        let mut reading = reader.begin().await.unwrap();
        assert_eq!(count(&mut reading, "SELECT count(*) FROM points").await, 100);
        run(&mut conn, "SET lock_timeout = '5s'").await;
        views::refresh_live(&mut conn, "public", "points", true).await.unwrap();
        reading.rollback().await.unwrap();
        assert_eq!(count(&mut conn, "SELECT reltuples::bigint FROM pg_class WHERE relname = 'points'").await, 10, "analysed");
        run(&mut conn, "DELETE FROM source").await;
        views::refresh_live(&mut conn, "public", "points", false).await.unwrap();
        assert_eq!(count(&mut conn, "SELECT count(*) FROM points").await, 0);
        let error = views::refresh_live(&mut conn, "public", "source", true).await.unwrap_err();
        assert_says(error, &["view source", "no materialized view", "schema public"]);
    })
    .await;
}
