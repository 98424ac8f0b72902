//! What is refused, and that a refusal changes nothing.

use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::swap::SwapError;
use portal_release_operator::database::{backups, catalog, dependents, staging};

use sqlx::PgConnection;

use crate::harness::{Portal, run, with_portal};

fn backup() -> Generation {
    Generation::Backup("2607011200".parse().unwrap())
}

async fn differences(portal: &Portal) -> Vec<String> {
    let mut conn = portal.pool.acquire().await.unwrap();
    let found = catalog::diff(&mut conn, &portal.relations, &Generation::Staging).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

async fn obstacles(conn: &mut PgConnection, relations: &Relations) -> Vec<String> {
    let found = dependents::obstacles(conn, relations, &Generation::Staging).await.unwrap();
    assert!(found.iter().all(|it| !it.problem.is_empty() && !it.next_step.is_empty()), "{found:#?}");
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn every_difference_is_found_and_named() {
    with_portal(async |portal| {
        portal.stage("second").await;
        assert_eq!(differences(&portal).await, Vec::<String>::new());
        let writer = portal.owner.replace("_owner", "_writer");
        let cases = [
            ("ALTER TABLE staging_sources ADD COLUMN more int", "column more"),
            (
                "ALTER TABLE staging_sources DROP COLUMN more; ALTER TABLE staging_protected_areas ALTER COLUMN name TYPE text",
                "column name",
            ),
            ("ALTER TABLE staging_protected_areas ALTER COLUMN name TYPE varchar(200), ALTER COLUMN name DROP DEFAULT", "default name"),
            ("DROP INDEX staging_protected_areas_large", "index protected_areas_large"),
            ("ALTER TABLE staging_protected_areas DROP CONSTRAINT named", "check named"),
            ("ALTER TABLE staging_countries_pas DROP CONSTRAINT of_area", "foreign key of_area"),
            (
                "ALTER TABLE staging_countries_pas ADD CONSTRAINT of_area FOREIGN KEY (protected_area_id) REFERENCES protected_areas NOT VALID",
                "foreign key of_area",
            ),
            ("ALTER TABLE staging_protected_areas ALTER COLUMN id SET DEFAULT nextval('protected_areas_id_seq')", "default id"),
            ("DROP TRIGGER touched ON staging_sources", "trigger touched"),
            ("DROP POLICY everyone ON staging_protected_areas", "policy everyone"),
            ("ALTER TABLE staging_sources NO FORCE ROW LEVEL SECURITY", "forced row security"),
            ("GRANT DELETE ON staging_countries_pas TO PUBLIC", "grant countries_pas to PUBLIC"),
            (&format!("REVOKE UPDATE (notes) ON staging_protected_areas FROM {writer}"), "grant notes to"),
            ("COMMENT ON COLUMN staging_protected_areas.name IS NULL", "comment name"),
            ("ALTER TABLE staging_protected_areas RESET (fillfactor)", "option"),
            ("ALTER TABLE staging_protected_areas SET WITHOUT CLUSTER", "cluster"),
            ("ALTER TABLE staging_protected_areas REPLICA IDENTITY DEFAULT", "replica identity"),
            ("DROP STATISTICS staging_protected_areas_stats", "statistics protected_areas_stats"),
            ("DROP INDEX staging_area_totals_release", "index area_totals_release"),
            ("ALTER SEQUENCE staging_protected_areas_id_seq INCREMENT BY 1", "sequence protected_areas_id_seq"),
        ];
        for (index, (sql, expected)) in cases.iter().enumerate() {
            portal.run(sql).await;
            let found = differences(&portal).await;
            assert!(found.iter().any(|it| it.contains(expected)), "{index} {sql}: {found:#?}");
        }
    });
}

#[test]
fn a_live_change_after_the_build_changes_the_fingerprint() {
    with_portal(async |portal| {
        let mut conn = portal.pool.acquire().await.unwrap();
        let mut known = vec![catalog::fingerprint(&mut conn, &portal.relations).await.unwrap()];
        for sql in ["ALTER TABLE sources ADD COLUMN more int", "CREATE INDEX ON sources (more)", "ALTER TABLE sources DROP COLUMN more"] {
            portal.run(sql).await;
            let now = catalog::fingerprint(&mut conn, &portal.relations).await.unwrap();
            assert!(known.last() != Some(&now), "{sql}");
            known.push(now);
        }
        assert_eq!(known.first(), known.last());
        let unknown = Relations { tables: vec!["nowhere".into()], ..portal.relations.clone() };
        let error = catalog::fingerprint(&mut conn, &unknown).await.unwrap_err();
        assert!(error.to_string().contains("public.nowhere does not exist"), "{error}");
    });
}

#[test]
fn every_obstacle_is_named() {
    with_portal(async |portal| {
        let mut conn = portal.pool.acquire().await.unwrap();
        assert_eq!(obstacles(&mut conn, &portal.relations).await, Vec::<String>::new());
        let cases = [
            (
                "CREATE MATERIALIZED VIEW stray AS SELECT * FROM sources",
                "materialized view public.stray reads live",
                "DROP MATERIALIZED VIEW stray",
            ),
            (
                "CREATE FUNCTION last_source(sources, sources) RETURNS sources LANGUAGE sql AS 'SELECT $2';
                 CREATE AGGREGATE last(sources) (SFUNC = last_source, STYPE = sources)",
                "function public.last(public.sources) is an aggregate",
                "DROP AGGREGATE last(sources); DROP FUNCTION last_source",
            ),
            (
                "CREATE MATERIALIZED VIEW labels AS SELECT label FROM whole_labels",
                "materialized view public.labels depends on view public.whole_labels",
                "DROP MATERIALIZED VIEW labels",
            ),
            (
                "CREATE TABLE labelled (label text DEFAULT label(NULL))",
                "table public.labelled depends on function public.label(public.sources,text), which uses a row type",
                "DROP TABLE labelled",
            ),
            (
                "CREATE POLICY labelled ON history USING (label(NULL) IS NULL)",
                "policy labelled on table public.history depends on function public.label",
                "DROP POLICY labelled ON history",
            ),
            (
                "CREATE RULE labelled AS ON DELETE TO history DO ALSO INSERT INTO history VALUES (label(NULL))",
                "rule labelled on table public.history depends on function public.label",
                "DROP RULE labelled ON history",
            ),
            (
                "ALTER TABLE sources ADD CONSTRAINT labelled CHECK (label(sources) <> '')",
                "constraint labelled on table public.sources depends on function public.label",
                "ALTER TABLE sources DROP CONSTRAINT labelled",
            ),
            ("CREATE TABLE holder (source sources)", "column source of table public.holder uses the row type", "DROP TABLE holder"),
            (
                "CREATE CONSTRAINT TRIGGER far AFTER INSERT ON history FROM sources FOR EACH ROW EXECUTE FUNCTION pass()",
                "trigger far on table public.history depends on public.sources",
                "DROP TRIGGER far ON history",
            ),
            (
                "CREATE TABLE child () INHERITS (sources)",
                "table public.sources takes part in inheritance with public.child, which would stay",
                "DROP TABLE child",
            ),
            (
                "CREATE TABLE lord (id serial); ALTER TABLE countries_pas ALTER COLUMN source_id SET DEFAULT nextval('lord_id_seq')",
                "table public.countries_pas uses public.lord_id_seq, which belongs to another table",
                "ALTER TABLE countries_pas ALTER COLUMN source_id DROP DEFAULT; DROP TABLE lord",
            ),
            (
                "CREATE TABLE lender (id int DEFAULT nextval('sources_id_seq'))",
                "uses public.sources_id_seq, which stays with the backup",
                "DROP TABLE lender",
            ),
        ];
        for (sql, expected, undo) in cases {
            portal.run(sql).await;
            let found = obstacles(&mut conn, &portal.relations).await;
            assert!(found.iter().any(|it| it.contains(expected)), "{sql}: {found:#?}");
            portal.run(undo).await;
            assert_eq!(obstacles(&mut conn, &portal.relations).await, Vec::<String>::new(), "after {undo}");
        }
        let owner = &portal.owner;
        let writer = owner.replace("_owner", "_writer");
        let by_admin: [(&str, &str, &str); _] = [
            (
                "ALTER PUBLICATION chosen OWNER TO postgres",
                "publication chosen of public.sources belongs to postgres and must be changed in the swap; GRANT postgres TO",
                &format!("ALTER PUBLICATION chosen OWNER TO {owner}"),
            ),
            (
                "CREATE SCHEMA elsewhere; CREATE VIEW elsewhere.titles AS SELECT title FROM sources",
                "view elsewhere.titles belongs to postgres",
                "SELECT",
            ),
            (
                &format!("ALTER VIEW elsewhere.titles OWNER TO {owner}"),
                "may not create; GRANT CREATE ON SCHEMA elsewhere TO",
                "DROP SCHEMA elsewhere CASCADE",
            ),
            (
                &format!("GRANT {writer} TO {owner}; ALTER FUNCTION label OWNER TO {writer}"),
                "must be recreated in the swap for",
                &format!("ALTER FUNCTION label OWNER TO {owner}; REVOKE {writer} FROM {owner}"),
            ),
            (
                "ALTER FUNCTION largest LEAKPROOF",
                "function public.largest() must be recreated in the swap, which its language, LEAKPROOF or SUPPORT allows only a superuser",
                "ALTER FUNCTION largest NOT LEAKPROOF",
            ),
            ("CREATE PUBLICATION schemas FOR TABLES IN SCHEMA public", "is published by schemas", "DROP PUBLICATION schemas"),
            (
                "CREATE SCHEMA far; ALTER STATISTICS protected_areas_stats SET SCHEMA far",
                "has the statistics or sequence far.protected_areas_stats in another schema",
                "ALTER STATISTICS far.protected_areas_stats SET SCHEMA public; DROP SCHEMA far",
            ),
            ("CREATE PUBLICATION whole FOR ALL TABLES", "is published by whole", "DROP PUBLICATION whole"),
            ("ALTER TABLE sources OWNER TO postgres", "belongs to postgres", &format!("ALTER TABLE sources OWNER TO {owner}")),
            (
                "ALTER VIEW report OWNER TO postgres",
                "view public.report belongs to postgres",
                &format!("ALTER VIEW report OWNER TO {owner}"),
            ),
            ("ALTER SCHEMA public OWNER TO postgres", "schema public does not allow", &format!("ALTER SCHEMA public OWNER TO {owner}")),
        ];
        for (sql, expected, undo) in by_admin {
            run(&portal.admin, sql).await;
            let found = obstacles(&mut conn, &portal.relations).await;
            assert!(found.iter().any(|it| it.contains(expected)), "{sql}: {found:#?}");
            run(&portal.admin, undo).await;
        }
        let mut other = portal.pool.acquire().await.unwrap();
        sqlx::raw_sql("CREATE TEMPORARY VIEW passing AS SELECT title FROM sources").execute(&mut *other).await.unwrap();
        let found = obstacles(&mut conn, &portal.relations).await;
        assert!(found.len() == 1 && found[0].contains("passing is a temporary view of another session"), "{found:#?}");
        sqlx::raw_sql("DROP VIEW passing").execute(&mut *other).await.unwrap();
        portal.run("CREATE TABLE split (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF split DEFAULT").await;
        for (table, expected) in [("split", "is partitioned"), ("part", "is a partition")] {
            let relations = Relations { tables: vec![table.into()], ..portal.relations.clone() };
            let found = obstacles(&mut conn, &relations).await;
            assert!(found.len() == 1 && found[0].contains(expected), "{table}: {found:#?}");
        }
        // Subscribers would be sent the load, and the table could not be published a second time.
        portal.stage("second").await;
        portal.run("ALTER PUBLICATION chosen ADD TABLE staging_sources").await;
        let error = portal.try_exchange(&Generation::Staging, &backup()).await.unwrap_err();
        assert!(error.to_string().contains("publication chosen already publishes public.staging_sources"), "{error}");
    });
}

#[test]
fn a_failed_swap_changes_nothing() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let everything = portal.named("true").await;
        let before = portal.catalogue().await;
        let blocked_name = "bk2607011200_protected_areas_pkey";
        portal.run(&format!("CREATE TABLE {blocked_name} ()")).await;
        let error = portal.try_exchange(&Generation::Staging, &backup()).await.unwrap_err();
        assert!(matches!(&error, SwapError::NameTaken { name } if name.contains(blocked_name)), "{error}");
        portal.run(&format!("DROP TABLE {blocked_name}")).await;

        portal.run("CREATE MATERIALIZED VIEW stray AS SELECT * FROM sources").await;
        let error = portal.try_exchange(&Generation::Staging, &backup()).await.unwrap_err();
        assert!(error.to_string().contains("stray"), "{error}");
        portal.run("DROP MATERIALIZED VIEW stray").await;

        // A view that no longer fits fails in the middle of the batch, after the renames.
        portal.run("ALTER TABLE staging_sources RENAME COLUMN title TO heading").await;
        let error = portal.try_exchange(&Generation::Staging, &backup()).await.unwrap_err();
        assert!(matches!(error, SwapError::Database { .. }), "{error}");
        portal.run("ALTER TABLE staging_sources RENAME COLUMN heading TO title").await;

        portal.run("ALTER TABLE staging_sources RENAME TO elsewhere").await;
        let error = portal.try_exchange(&Generation::Staging, &backup()).await.unwrap_err();
        assert!(error.to_string().contains("public.staging_sources does not exist"), "{error}");
        portal.run("ALTER TABLE elsewhere RENAME TO staging_sources").await;

        assert_eq!(portal.named("true").await, everything);
        assert_eq!(portal.catalogue().await, before);
        assert_eq!(portal.release().await, "first");
        portal.exchange(&Generation::Staging, &backup()).await;
    });
}

#[test]
fn dropping_never_takes_what_others_depend_on() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut conn = portal.pool.acquire().await.unwrap();
        portal.run("CREATE VIEW watcher AS SELECT * FROM staging_sources").await;
        let error = staging::drop_all(&mut conn, &portal.relations).await.unwrap_err();
        assert!(matches!(error, staging::StagingError::InUse { .. }) && error.to_string().contains("watcher"), "{error}");
        assert_eq!(portal.get::<i64>("SELECT count(*) FROM staging_area_report").await, 1);
        portal.run("DROP VIEW watcher").await;
        portal.exchange(&Generation::Staging, &backup()).await;
        portal.run("CREATE VIEW watcher AS SELECT * FROM bk2607011200_sources").await;
        let Generation::Backup(stamp) = backup() else { unreachable!() };
        let error = backups::drop(&mut conn, &portal.relations, stamp).await.unwrap_err();
        assert!(error.to_string().contains("watcher"), "{error}");
        assert_eq!(portal.get::<i64>("SELECT count(*) FROM bk2607011200_protected_areas").await, 50);
    });
}
