//! A small disk: the estimate refuses a release before it begins, and without an estimate a disk that fills up loses nothing.
//!
//! The disk is a tmpfs of 24 MiB, which only root can mount.

use portal_release_operator::database::disk::room;
use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::import::{self, Counts, ImportError, Load, Origin, Source, Target};
use portal_release_operator::database::template::TemplateContext;
use portal_release_operator::database::{catalog, staging};
use sqlx::{Connection, PgConnection};

use crate::portal::{OWNER, Portal, run};
use crate::server::{Server, is_root};

/// Rows of about 1 KiB with an index of about the same size: 9 MiB. Nothing of it can be compressed.
const ROWS: &str = "SELECT 1 AS source_id, 'second' AS release, string_agg(md5(n || '-' || i), '') AS notes
                    FROM generate_series(1, 3000) n, generate_series(1, 28) i GROUP BY n";

/// A portal of 9 MiB on a disk of 24.
struct Small {
    server: Server,
    portal: Portal,
}

impl Small {
    /// `None`, and a sentence, where mounting is not allowed.
    async fn new() -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: only root can mount a small disk");
            return None;
        }
        let server = Server::start_with_small_disk(24, &[]).await;
        let maintenance = server.pool("postgres", "postgres").await;
        run(&maintenance, &format!("CREATE TABLESPACE small LOCATION '{}'", server.small_disk())).await;
        let portal = Portal::create(&server, "small").await;
        portal.run(&format!("INSERT INTO areas (source_id, release, notes) SELECT q.source_id, 'first', q.notes FROM ({ROWS}) q")).await;
        Some(Self { server, portal })
    }

    /// Other people's data on the disk, of about so many MiB.
    async fn ballast(&self, mib: u32) {
        let rows = format!("SELECT repeat('x', 1000) FROM generate_series(1, {mib} * 910)");
        run(&self.portal.admin, "DROP TABLE IF EXISTS ballast").await;
        run(&self.portal.admin, &format!("CREATE TABLE ballast TABLESPACE small AS {rows}")).await;
    }

    /// What the platform team does once, from the documentation.
    async fn recipe(&self) -> &'static str {
        let guide = include_str!("../../docs/disk.md");
        let sql = guide.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
        assert!(sql.contains("/var/lib/postgresql") && sql.contains("portal_operator"), "{sql}");
        run(&self.portal.admin, &sql.replace("/var/lib/postgresql", &self.server.small_disk()).replace("portal_operator", OWNER)).await;
        let query = guide.split("freeBytesQuery: ").nth(1).unwrap().lines().next().unwrap();
        query.trim_end_matches('}')
    }

    /// Everything live: names, OIDs, sizes and rows.
    async fn live(&self) -> String {
        let relations = "SELECT string_agg(format('%s %s %s', relname, oid, pg_relation_size(oid)), ' ' ORDER BY relname) FROM pg_class
                         WHERE relnamespace = 'public'::regnamespace AND relname ~ '^(areas|sources|totals)' AND relkind IN ('r', 'm', 'i')";
        let rows = "SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM areas a";
        format!("{} {}", self.portal.text(relations).await, self.portal.text(rows).await)
    }

    async fn size(&self, condition: &str) -> i64 {
        let sql = format!("SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind IN ('r', 'm') AND {condition}");
        self.portal.text(&sql).await.parse().unwrap()
    }
}

/// The error of a full disk, not wrapped in anything that hides it.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(database) = inner.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error) {
            return database.code().as_deref() == Some("53100");
        }
        cause = inner.source();
    }
    false
}

async fn load(conn: &mut PgConnection) -> Result<Counts, ImportError> {
    let templates = TemplateContext::default();
    let source = Source { origin: Origin::Query { templates: &templates, template: ROWS }, key: None, rules: Vec::new(), sample: None };
    let target = Target { import: "areas", schema: "public", table: "staging_areas" };
    let mut tx = conn.begin().await.unwrap();
    let columns = import::columns(&mut tx, target, ROWS).await?;
    let load = Load { release: 1, target, columns: &columns, source: &source, range: None, lookup: false };
    let counts = import::load(&mut tx, &load).await?;
    tx.commit().await.unwrap();
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_fit_is_refused_before_it_begins() {
    let Some(small) = Small::new().await else { return };
    let relations = &small.portal.relations;
    let query = small.recipe().await;
    let mut conn = small.portal.owner.acquire().await.unwrap();

    small.ballast(8).await;
    let found = room(&mut conn, relations, Some(query)).await.unwrap();
    assert_eq!(found.need.wal, 0, "WAL is on another disk");
    let refusal = found.refusal().map(|refusal| refusal.to_string()).unwrap_or_else(|| panic!("it is not refused: {found:?}"));
    assert!(refusal.contains("the release needs about") && refusal.contains(" are free; enlarge the disk or make room"), "{refusal}");
    assert_eq!(room(&mut conn, relations, None).await.unwrap().refusal(), None, "nothing is refused where nobody says what is free");

    small.ballast(1).await;
    let found = room(&mut conn, relations, Some(query)).await.unwrap();
    assert_eq!(found.refusal(), None, "{found:?}");

    // The estimate is near what the build really takes, and what exists is not counted again.
    staging::build(&mut conn, relations, true).await.unwrap();
    small.portal.run("INSERT INTO staging_sources (id, release) VALUES (1, 'second')").await;
    load(&mut conn).await.unwrap();
    staging::complete(&mut conn, relations).await.unwrap();
    let took = small.size("relname LIKE 'staging%'").await;
    assert!(took <= found.need.bytes() && took > found.need.bytes() / 2, "{took} of {found:?}");
    let left = room(&mut conn, relations, Some(query)).await.unwrap();
    assert_eq!(left.need.bytes(), found.need.bytes() - took);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_in_the_middle_changes_nothing_live() {
    let Some(small) = Small::new().await else { return };
    let relations = &small.portal.relations;
    let before = small.live().await;
    let mut conn = small.portal.owner.acquire().await.unwrap();

    // It fills up in the import.
    small.ballast(13).await;
    staging::build(&mut conn, relations, true).await.unwrap();
    small.portal.run("INSERT INTO staging_sources (id, release) VALUES (1, 'second')").await;
    let error = load(&mut conn).await.unwrap_err();
    assert!(is_disk_full(&error), "{error}");
    assert!(error.to_string().contains("staging_areas") && error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(small.live().await, before);
    staging::drop_all(&mut conn, relations).await.unwrap();
    assert_eq!(small.size("relname LIKE 'staging%'").await, 0);

    // It fills up when the indexes are built.
    small.ballast(10).await;
    staging::build(&mut conn, relations, true).await.unwrap();
    small.portal.run("INSERT INTO staging_sources (id, release) VALUES (1, 'second')").await;
    load(&mut conn).await.unwrap();
    let error = staging::complete(&mut conn, relations).await.unwrap_err();
    assert!(is_disk_full(&error), "{error}");
    assert!(error.to_string().starts_with("areas: index ") && error.to_string().contains("areas_notes failed: "), "{error}");
    assert_eq!(small.live().await, before);

    // Once space is freed the build resumes where it was.
    let indexes =
        "SELECT string_agg(format('%s %s', relname, oid), ' ' ORDER BY oid) FROM pg_class WHERE relkind = 'i' AND relname LIKE 'staging%'";
    let built = small.portal.text(indexes).await;
    assert!(!built.is_empty() && !staging::pending(&mut conn, relations).await.unwrap().is_empty(), "{built}");
    small.ballast(1).await;
    staging::complete(&mut conn, relations).await.unwrap();
    assert!(small.portal.text(indexes).await.starts_with(&built), "what was built is kept");
    let only_tables = portal_release_operator::database::identifiers::Relations { views: Vec::new(), ..relations.clone() };
    assert_eq!(catalog::diff(&mut conn, &only_tables, &Generation::Staging).await.unwrap(), []);
    assert_eq!(small.live().await, before);
}
