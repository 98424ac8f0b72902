//! The shape of the real portal, in any size: 16 tables with 120 indexes, 9 materialized views, look-up tables, and what depends on them.
//!
//! In a query `{name}` is the relation of that name in the generation that is being filled.

use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::staging;
use portal_release_operator::database::views::{MaterializedViewSpec, create_staged};
use sqlx::{AssertSqlSafe, Connection, PgPool};

/// The materialized views in the order in which they are built, with their queries.
const VIEWS: [(&str, &str); 9] = [
    (
        "portal_iso3_agg",
        "SELECT site_id, site_pid, string_agg(c.iso_3, ';') AS iso3s, release FROM upstream.wdpas w
         JOIN public.countries c ON c.id IN (1 + w.country, 1 + (w.country + 7) % 180) GROUP BY site_id, site_pid, release",
    ),
    (
        "portal_parent_iso3_agg",
        "SELECT site_id, site_pid, min(c.iso_3) AS parent_iso3s, release FROM upstream.wdpas w JOIN public.countries c ON c.id = 1 + w.country
         GROUP BY site_id, site_pid, release",
    ),
    (
        "portal_int_crit_agg",
        "SELECT site_id, site_pid, string_agg('(' || n || ')', '' ORDER BY n) AS criteria, release FROM upstream.wdpas, generate_series(1, 2) n
         WHERE site_id % 50 = 0 GROUP BY site_id, site_pid, release",
    ),
    (
        "portal_standard_polygons",
        "SELECT w.*, i.iso3s, p.parent_iso3s, c.criteria, ST_MakeEnvelope(longitude, latitude, longitude + 0.5, latitude + 0.5, 4326) AS wkb_geometry
         FROM upstream.wdpas w LEFT JOIN {portal_iso3_agg} i USING (site_id, site_pid) LEFT JOIN {portal_parent_iso3_agg} p USING (site_id, site_pid)
         LEFT JOIN {portal_int_crit_agg} c USING (site_id, site_pid) WHERE kind = 'polygon'",
    ),
    (
        "portal_standard_points",
        "SELECT w.*, i.iso3s, p.parent_iso3s, c.criteria, ST_SetSRID(ST_MakePoint(longitude, latitude), 4326) AS wkb_geometry
         FROM upstream.wdpas w LEFT JOIN {portal_iso3_agg} i USING (site_id, site_pid) LEFT JOIN {portal_parent_iso3_agg} p USING (site_id, site_pid)
         LEFT JOIN {portal_int_crit_agg} c USING (site_id, site_pid) WHERE kind = 'point'",
    ),
    ("portal_standard_sources", "SELECT * FROM upstream.sources"),
    ("portal_standard_pame", "SELECT * FROM upstream.evaluations"),
    (
        "portal_standard_pame_sources",
        "SELECT DISTINCT metadataid, 'Evaluations ' || metadataid AS title, 2000 + metadataid % 25 AS year, release FROM upstream.evaluations",
    ),
    (
        "portal_standard_greenlist",
        "SELECT site_id, 'Listed' AS status, DATE '2030-01-01' + site_id % 30 AS expiry, release FROM upstream.wdpas WHERE kind = 'point' AND site_id % 100 = 1",
    ),
];

const SITES: &str = "(SELECT *, count(*) OVER (PARTITION BY site_id) > 1 AS has_parcels, row_number() OVER (PARTITION BY site_id ORDER BY site_pid) AS parcel
     FROM (SELECT * FROM {portal_standard_polygons} UNION ALL SELECT * FROM {portal_standard_points}) either)";

/// The swapped tables in swap order, each with the columns and the query that fill it. `{sites}` are all parcels.
const TABLES: [(&str, &str, &str); 16] = [
    ("sources", "metadataid, title, responsible_party, year, release", "SELECT metadataid, title, party, year, release FROM {portal_standard_sources}"),
    ("green_list_statuses", "status, expiry, release", "SELECT DISTINCT status, expiry, release FROM {portal_standard_greenlist}"),
    ("no_take_statuses", "name, area, release", "SELECT 'No take ' || n, n, min(release) FROM {portal_standard_polygons}, generate_series(1, 5) n GROUP BY n"),
    (
        "country_statistics",
        "country_id, sites, land_area, marine_area, percentage, release",
        "SELECT 1 + country, count(*), sum(area), coalesce(sum(area) FILTER (WHERE marine), 0), country / 2, release FROM {sites} s GROUP BY country, release",
    ),
    (
        "global_statistics",
        "sites, sources, release",
        "SELECT count(DISTINCT site_id), count(DISTINCT source), release FROM {sites} s GROUP BY release",
    ),
    ("pame_sources", "metadataid, title, year, release", "SELECT metadataid, title, year, release FROM {portal_standard_pame_sources}"),
    (
        "pame_statistics",
        "country_id, evaluations, release",
        "SELECT 1 + country, count(e.asmt_id), s.release FROM {sites} s LEFT JOIN {portal_standard_pame} e USING (site_id) GROUP BY country, s.release",
    ),
    (
        "protected_areas",
        "site_id, site_pid, name, marine, reported_area, gis_area, designation_id, governance_id, iucn_category_id, no_take_status_id, green_list_status_id,
         status_year, owner_type, verification, international_criteria, parent_iso3, has_parcels, the_geom, the_geom_latitude, the_geom_longitude, release",
        "SELECT s.site_id, site_pid, s.name, marine, s.area, s.area, 1 + designation, 1 + governance, 1 + category, t.id, g.id, year, 'Owner ' || site_id % 9, 'Verified',
                criteria, parent_iso3s, has_parcels, wkb_geometry, latitude, longitude, s.release
         FROM {sites} s LEFT JOIN {no_take_statuses} t ON marine AND t.area = 1 + s.site_id % 5
         LEFT JOIN {portal_standard_greenlist} l USING (site_id) LEFT JOIN {green_list_statuses} g USING (status, expiry) WHERE parcel = 1",
    ),
    (
        "protected_area_parcels",
        "site_id, site_pid, name, marine, reported_area, gis_area, designation_id, governance_id, iucn_category_id, status_year, owner_type, verification,
         international_criteria, parent_iso3, the_geom, the_geom_latitude, the_geom_longitude, release",
        "SELECT site_id, site_pid, name, marine, area, area, 1 + designation, 1 + governance, 1 + category, year, 'Owner ' || site_id % 9, 'Verified',
                criteria, parent_iso3s, wkb_geometry, latitude, longitude, release FROM {sites} s WHERE has_parcels",
    ),
    (
        "pame_evaluations",
        "asmt_id, site_id, protected_area_id, pame_source_id, methodology, year, submit_year, release",
        "SELECT e.asmt_id, e.site_id, a.id, s.id, e.methodology, e.year, e.year + 1, e.release FROM {portal_standard_pame} e
         JOIN {pame_sources} s USING (metadataid) LEFT JOIN {protected_areas} a USING (site_id)",
    ),
    (
        "story_map_links",
        "protected_area_id, link, release",
        "SELECT id, 'https://stories.example.org/' || site_id, release FROM {protected_areas} WHERE site_id % 200 = 1",
    ),
    (
        "countries_protected_areas",
        "country_id, protected_area_id, release",
        "SELECT c.id, a.id, a.release FROM {protected_areas} a JOIN public.countries c ON c.iso_3 = a.parent_iso3",
    ),
    (
        "countries_protected_area_parcels",
        "country_id, protected_area_parcel_id, release",
        "SELECT c.id, p.id, p.release FROM {protected_area_parcels} p JOIN public.countries c ON c.iso_3 = p.parent_iso3",
    ),
    (
        "countries_pame_evaluations",
        "country_id, pame_evaluation_id, release",
        "SELECT j.country_id, e.id, e.release FROM {pame_evaluations} e JOIN {countries_protected_areas} j USING (protected_area_id)",
    ),
    (
        "protected_areas_sources",
        "protected_area_id, source_id, release",
        "SELECT a.id, x.id, a.release FROM {protected_areas} a JOIN {sources} x ON x.metadataid = a.site_id % 500",
    ),
    (
        "protected_area_parcels_sources",
        "protected_area_parcel_id, source_id, release",
        "SELECT p.id, x.id, p.release FROM {protected_area_parcels} p JOIN {sources} x ON x.metadataid = p.site_id % 500",
    ),
];

const LOOKUPS: [&str; 4] = ["countries", "designations", "governances", "iucn_categories"];

/// What a release of this portal swaps.
pub(crate) fn relations() -> Relations {
    Relations {
        schema: "public".into(),
        tables: TABLES.iter().map(|(name, ..)| (*name).to_owned()).collect(),
        views: VIEWS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        lookups: LOOKUPS.map(str::to_owned).to_vec(),
    }
}

/// Puts the names of one generation into a query.
fn of_generation(query: &str, generation: &Generation) -> String {
    let names = VIEWS.iter().map(|(name, _)| *name).chain(TABLES.iter().map(|(name, ..)| *name));
    names.fold(query.replace("{sites}", SITES), |sql, name| {
        sql.replace(&format!("{{{name}}}"), &format!("public.{}", generation.name(name)))
    })
}

/// The structure, without rows. `admin` is a superuser of the same database, `reader` a role that may read.
pub(crate) async fn create(admin: &PgPool, owner: &PgPool, reader: &str) {
    run(admin, "CREATE EXTENSION IF NOT EXISTS postgis").await;
    run(owner, &include_str!("tables.sql").replace(":reader", reader)).await;
    for (name, query) in VIEWS {
        run(owner, &format!("CREATE MATERIALIZED VIEW {name} AS {}", of_generation(query, &Generation::Live))).await;
    }
    run(owner, &include_str!("site.sql").replace(":reader", reader)).await;
}

/// A complete staging of release `number` with so many sites, made the way the operator makes one.
pub(crate) async fn stage(owner: &PgPool, number: u32, sites: u32) {
    let relations = relations();
    run(owner, &format!("UPDATE upstream.release SET number = {number}, sites = {sites}")).await;
    let mut conn = owner.acquire().await.unwrap();
    staging::build(&mut conn, &relations, true).await.unwrap();
    for lookup in &relations.lookups {
        staging::build_lookup(&mut conn, "public", lookup).await.unwrap();
    }
    for (name, query) in VIEWS {
        let sql = of_generation(query, &Generation::Staging);
        let view = MaterializedViewSpec { name: name.to_owned(), sql, ..MaterializedViewSpec::default() };
        // In one transaction, as the operator does: autovacuum must not meet a half-finished one.
        let mut tx = conn.begin().await.unwrap();
        create_staged(&mut tx, "public", &view).await.unwrap();
        tx.commit().await.unwrap();
    }
    for (name, columns, query) in TABLES {
        let table = Generation::Staging.name(name);
        run(owner, &format!("INSERT INTO {table} ({columns}) {}; ANALYZE {table}", of_generation(query, &Generation::Staging))).await;
    }
    staging::complete(&mut conn, &relations).await.unwrap();
    for name in relations.names(&Generation::Staging) {
        run(owner, &format!("VACUUM (FREEZE, ANALYZE) {name}")).await;
    }
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
