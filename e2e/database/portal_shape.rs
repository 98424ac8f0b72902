//! A release of the real portal's shape goes live and back, and nothing but the rows differs.

mod shape;

use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::{backups, catalog, staging};

use crate::harness::{Portal, same, with_database};

const SITES: u32 = 400;

/// Everything of the site that shows rows of a release, and the releases that it shows.
const READS: [&str; 8] = [
    "SELECT release FROM site_release(40) release",
    "SELECT release FROM site_countries(40)",
    "SELECT unnest(site_sources(40))",
    "SELECT unnest(ARRAY[release, pame_release]) FROM regional_statistics",
    "SELECT unnest(ARRAY[release, pame_release, global_release]) FROM regional_shares",
    "SELECT unnest(ARRAY[portal_release, release]) FROM source_contributions",
    "SELECT release FROM portal_downloads_protected_areas",
    "SELECT unnest(ARRAY[v.release, a.release]) FROM portal_standard_polygons v JOIN protected_areas a USING (site_id)",
];

async fn shows(portal: &Portal, release: i32) {
    let relations = portal.relations.swapped().map(|name| format!("SELECT release FROM {name}"));
    for sql in relations.chain(READS.map(str::to_owned)) {
        let distinct = format!("SELECT array_agg(DISTINCT release)::int[] FROM ({sql}) AS shown (release)");
        assert_eq!(portal.get::<Option<Vec<i32>>>(&distinct).await, Some(vec![release]), "{sql}");
    }
}

async fn count(portal: &Portal, kind: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relkind = '{kind}'
         AND coalesce(i.indrelid, c.oid)::regclass::text = ANY ('{{{}}}')",
        if kind == "m" { portal.relations.views.join(",") } else { portal.relations.tables.join(",") }
    );
    portal.get(&sql).await
}

#[test]
fn a_release_of_the_real_shape_goes_live_and_back() {
    with_database(shape::relations(), async |portal| {
        let (first, second): (_, _) = ("2607011200".parse().unwrap(), "2608011200".parse().unwrap());
        shape::create(&portal.admin, &portal.pool, &portal.role("reader")).await;
        assert_eq!((count(&portal, "r").await, count(&portal, "m").await, count(&portal, "i").await), (16, 9, 120));

        // The first release takes the place of empty tables.
        shape::stage(&portal.pool, 1, SITES).await;
        portal.exchange(&Generation::Staging, &Generation::Backup(first)).await;
        let mut conn = portal.pool.acquire().await.unwrap();
        backups::drop(&mut conn, &portal.relations, first).await.unwrap();
        staging::drop_all(&mut conn, &portal.relations).await.unwrap();
        portal.run("INSERT INTO site_notes (site_id, note) VALUES (40, 'seen')").await;
        shows(&portal, 1).await;

        let (catalogue, oids) = (portal.catalogue().await, portal.oids().await);
        let fingerprint = catalog::fingerprint(&mut conn, &portal.relations).await.unwrap();
        shape::stage(&portal.pool, 2, SITES).await;
        let differences = catalog::diff(&mut conn, &portal.relations, &Generation::Staging).await.unwrap();
        assert_eq!(differences.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        shows(&portal, 1).await;

        portal.exchange(&Generation::Staging, &Generation::Backup(second)).await;
        shows(&portal, 2).await;
        same(&catalogue, &portal.catalogue().await);
        assert_eq!(catalog::fingerprint(&mut conn, &portal.relations).await.unwrap(), fingerprint);

        portal.exchange(&Generation::Backup(second), &Generation::Staging).await;
        shows(&portal, 1).await;
        same(&catalogue, &portal.catalogue().await);
        assert_eq!(catalog::fingerprint(&mut conn, &portal.relations).await.unwrap(), fingerprint);
        assert_eq!(portal.oids().await, oids, "what was live is live again, not a copy of it");
    });
}
