//! A release with a defect stops in the preflight: it names what is wrong and how much of it, and changes nothing.

use portal_release_operator::api::{Gate, PhaseName, ReleaseState};

use crate::support::Stage;

/// Staging relations that look like the portal's and belong to another tool.
const OF_OTHERS: &str = "
    CREATE TABLE staging_of_somebody AS SELECT 1 AS kept;
    CREATE SCHEMA other_portal;
    CREATE TABLE other_portal.staging_protected_areas AS SELECT 2 AS kept;
    CREATE MATERIALIZED VIEW other_portal.staging_portal_standard_points AS SELECT 3 AS kept;
    ALTER TABLE staging_of_somebody OWNER TO portal_owner;
    ALTER SCHEMA other_portal OWNER TO portal_owner;
    ALTER TABLE other_portal.staging_protected_areas OWNER TO portal_owner;
    ALTER MATERIALIZED VIEW other_portal.staging_portal_standard_points OWNER TO portal_owner";

#[tokio::test(flavor = "multi_thread")]
async fn defective_data_is_refused_before_anything_is_imported() {
    let stage = Stage::new("baddata").await;
    let _operator = stage.operator().await;
    stage.execute(OF_OTHERS).await;

    // A live materialized view is missing.
    stage.execute("ALTER MATERIALIZED VIEW portal_standard_greenlist RENAME TO gone").await;
    stage.must_fail("Bad0001", PhaseName::Preflight, &["portal_standard_greenlist does not exist; create it"]).await;
    stage.execute("ALTER MATERIALIZED VIEW gone RENAME TO portal_standard_greenlist").await;

    // A foreign table is missing, and then the table behind it.
    stage.execute("ALTER FOREIGN TABLE portal_fdw.greenlist RENAME TO gone").await;
    stage
        .must_fail("Bad0002", PhaseName::CreateStagingViews, &["portal_standard_greenlist", "\"portal_fdw.greenlist\" does not exist"])
        .await;
    stage.execute("ALTER FOREIGN TABLE portal_fdw.gone RENAME TO greenlist").await;
    stage.change_source("ALTER TABLE wdpa.greenlist RENAME TO gone").await;
    stage.must_fail("Bad0003", PhaseName::CreateStagingViews, &["portal_standard_greenlist", "\"wdpa.greenlist\" does not exist"]).await;
    stage.change_source("ALTER TABLE wdpa.gone RENAME TO greenlist").await;

    // No rows.
    stage.change_source("UPDATE wdpa.wdpas SET kind = 'polygon' WHERE kind = 'point'").await;
    stage.must_fail("Bad0004", PhaseName::Preflight, &["staging_portal_standard_points has no rows, at least 1 is required"]).await;
    stage.month(1).await;

    // Wrong SRID. Where a column is declared with its SRID no other one gets in, so the view is declared without.
    let declared = "d.geom AS wkb_geometry";
    let undeclared = "CASE WHEN d.id IN (SELECT id FROM ops.mislabelled) THEN ST_SetSRID(d.geom, 3857) ELSE d.geom END AS wkb_geometry";
    let with_mislabelled = format!(
        "SET ROLE portal_owner;
         CREATE TABLE ops.mislabelled (id bigint);
         DO $$ DECLARE query text := pg_get_viewdef('portal_standard_polygons'); BEGIN
             DROP MATERIALIZED VIEW portal_standard_polygons;
             EXECUTE 'CREATE MATERIALIZED VIEW portal_standard_polygons AS ' || replace(query, '{declared}', '{undeclared}');
             CREATE UNIQUE INDEX ON portal_standard_polygons (site_id, site_pid);
         END $$;
         INSERT INTO ops.mislabelled SELECT id FROM portal_fdw.wdpas WHERE kind = 'polygon' ORDER BY id LIMIT 2;
         RESET ROLE"
    );
    stage.execute(&with_mislabelled).await;
    stage.change_sql("portal_standard_polygons.sql", declared, undeclared).await;
    let words = ["staging_portal_standard_polygons.wkb_geometry has 2 geometries whose SRID is not 4326"];
    stage.must_fail("Bad0005", PhaseName::Preflight, &words).await;
    stage.execute("DELETE FROM ops.mislabelled").await;

    // Invalid geometry.
    stage
        .change_source(
            "UPDATE wdpa.wdpas SET geom = ST_GeomFromText('POLYGON((0 0, 1 1, 1 0, 0 1, 0 0))', 4326)
             WHERE id IN (SELECT id FROM wdpa.wdpas WHERE kind = 'polygon' ORDER BY id LIMIT 3)",
        )
        .await;
    let words = ["staging_portal_standard_polygons.wkb_geometry has 3 invalid geometries", "site_id = ", "Self-intersection"];
    stage.must_fail("Bad0006", PhaseName::Preflight, &words).await;
    stage.month(1).await;

    // Duplicate keys.
    stage
        .change_source(
            "ALTER TABLE wdpa.wdpas DROP CONSTRAINT wdpas_site_id_parcel_id_key;
             CREATE TABLE sample.copies AS SELECT * FROM wdpa.wdpas WHERE kind = 'point' ORDER BY id LIMIT 2;
             INSERT INTO wdpa.wdpas (SELECT * FROM (SELECT (jsonb_populate_record(c, jsonb_build_object('id', -c.id))).* FROM sample.copies c) AS copied)",
        )
        .await;
    let words = ["staging_portal_standard_points (site_id, site_pid) has 2 duplicate keys (4 rows)", "site_id = "];
    stage.must_fail("Bad0007", PhaseName::CreateStagingViews, &words).await;
    // Where no unique index rejects them, the preflight finds them.
    stage.execute("DROP INDEX portal_standard_points_site_id_site_pid_idx").await;
    stage.must_fail("Bad0017", PhaseName::Preflight, &words).await;
    stage.change_source("DELETE FROM wdpa.wdpas WHERE id < 0").await;

    // A hard gate says no.
    stage.execute("UPDATE ops.base_backups SET finished_at = finished_at - interval '3 days'").await;
    stage
        .must_fail(
            "Bad0008",
            PhaseName::Preflight,
            &["hard gate recent-backup failed: expected one row with true in the first column, got false"],
        )
        .await;
    stage.execute("DELETE FROM ops.base_backups").await;
    stage
        .must_fail(
            "Bad0009",
            PhaseName::Preflight,
            &["hard gate recent-backup failed: expected one row with true in the first column, got NULL"],
        )
        .await;
    stage.execute("INSERT INTO ops.base_backups VALUES (now())").await;

    // Everything is repaired, and a soft gate that says no only reports it.
    stage
        .change_portal(|portal| {
            let sql = "SELECT count(*) > 400000 FROM {{ staging('portal_standard_points') }}";
            portal.gates.push(Gate { name: "many-points".into(), hard: false, sql: Some(sql.into()), ..portal.gates[0].clone() });
        })
        .await;
    let before = stage.world().await;
    stage.make_release("good", "Gud0001", "phases: {stopAfter: Preflight}").await;
    let status = stage.wait_state("good", ReleaseState::Suspended).await;
    let preflight = status.phases.iter().find(|phase| phase.name == PhaseName::Preflight).expect("Preflight");
    assert!(
        preflight.message.contains("soft gate many-points failed: expected one row with true in the first column, got false"),
        "{}",
        preflight.message
    );
    stage.assert_untouched(&before, "a preflight without a defect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defective_portal_is_refused_before_anything_is_imported() {
    let stage = Stage::new("badportal").await;
    let _operator = stage.operator().await;
    stage.execute(OF_OTHERS).await;
    let portal = stage.portals().get("protected-planet").await.expect("the Portal").spec;
    let repaired = || stage.change_portal(|now| *now = portal.clone());

    stage.change_import("sources", |query| query.replace("resp_party AS responsible_party", "resp_party AS responsible_person")).await;
    let words = ["import sources: column responsible_person is not a column of staging_sources"];
    stage.must_fail("Bad0001", PhaseName::Preflight, &words).await;
    repaired().await;

    stage.change_import("sources", |query| query.replace("metadataid, data_title", "data_title")).await;
    let words = ["import sources: column metadataid of staging_sources may not be null, has no default and is not imported"];
    stage.must_fail("Bad0002", PhaseName::Preflight, &words).await;
    repaired().await;

    stage
        .change_import("sources", |query| query.replace("staging(\"portal_standard_sources\")", "staging(\"portal_standard_sauces\")"))
        .await;
    stage.must_fail("Bad0003", PhaseName::Preflight, &["import sources", "staging(\"portal_standard_sauces\") is unknown"]).await;
    repaired().await;

    stage.change_import("sources", |query| query.replace("resp_party AS", "responsible AS")).await;
    stage.must_fail("Bad0004", PhaseName::Preflight, &["import sources", "column \"responsible\" does not exist"]).await;
    repaired().await;

    stage
        .change_portal(|portal| {
            let view = portal.materialized_views.iter_mut().find(|view| view.name.as_str() == "portal_standard_sources").expect("the view");
            view.query = Some("SELECT s.*, r.release_month::int FROM portal_fdw.sources s CROSS JOIN portal_fdw.release_info r".into());
        })
        .await;
    let words = ["staging_portal_standard_sources: column release_month differs", "found: release_month integer", "correct its query"];
    stage.must_fail("Bad0006", PhaseName::CreateStagingViews, &words).await;
    repaired().await;

    // Postgres would let it read the backup after the swap, and it cannot be rewritten in place.
    stage.execute("CREATE MATERIALIZED VIEW sites_by_type AS SELECT site_type, count(*) FROM protected_areas GROUP BY 1").await;
    stage.must_fail("Bad0005", PhaseName::Preflight, &["materialized view public.sites_by_type reads live relations"]).await;
}
