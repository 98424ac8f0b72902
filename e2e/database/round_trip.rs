//! Swap, rollback and roll-forward restore names, structure and contents exactly.

use std::collections::BTreeSet;

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::{backups, catalog, dependents, staging, swap};
use tokio_util::sync::CancellationToken;

use crate::harness::{order, same, with_portal};

fn backup(stamp: &str) -> Generation {
    Generation::Backup(stamp.parse().unwrap())
}

#[test]
fn a_swap_leaves_the_catalogue_as_it_was() {
    with_portal(async |portal| {
        let before = portal.catalogue().await;
        let mut conn = portal.pool.acquire().await.unwrap();
        let fingerprint = catalog::fingerprint(&mut conn, &portal.relations).await.unwrap();
        let live = portal.oids().await;
        portal.stage("second").await;
        let differences = catalog::diff(&mut conn, &portal.relations, &Generation::Staging).await.unwrap();
        assert_eq!(differences.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        same(&before, &portal.catalogue().await);

        let staged = portal.named("relname ~ '^staging_'").await;
        let exchanged = portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        assert_eq!(portal.release().await, "second");
        same(&before, &portal.catalogue().await);
        assert_eq!(catalog::fingerprint(&mut conn, &portal.relations).await.unwrap(), fingerprint);

        let swapped = portal.oids().await;
        assert_eq!(swapped.len(), live.len());
        for moved in &exchanged.moved {
            let now = swapped.iter().find(|(name, _)| *name == moved.base);
            if moved.kind != "statistics" {
                assert_eq!(now.map(|(_, oid)| *oid), moved.incoming, "{}", moved.base);
                assert!(staged.iter().any(|(_, oid)| Some(*oid) == moved.incoming), "{} was staged", moved.base);
            }
            assert_ne!(moved.incoming, moved.outgoing);
        }
        // Views keep their identity and read the new rows.
        let view = |name: &str, oids: &[(String, _)]| oids.iter().find(|(it, _)| it == name).cloned();
        assert_eq!(view("report", &live), view("report", &swapped));
        assert_eq!(portal.get::<String>("SELECT DISTINCT release FROM area_names").await, "second");
        assert_eq!(
            portal.get::<String>("SELECT DISTINCT release || title FROM report_of_reports ORDER BY 1 LIMIT 1").await,
            "secondsource 1"
        );
        assert_eq!(portal.get::<i64>("SELECT area_count()").await, 50);
        for (name, _) in portal.named("relname ~ '^(staging_|bk)'").await {
            assert!(name.starts_with("bk2607011200_") || name.contains("designations") || name.contains("governances"), "{name}");
        }
    });
}

#[test]
fn rollback_and_forward_restore_identities() {
    with_portal(async |portal| {
        let before = portal.catalogue().await;
        let first = portal.oids().await;
        portal.stage("second").await;
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        let second = portal.oids().await;
        portal.exchange(&backup("2607011200"), &Generation::Staging).await;
        assert_eq!(portal.oids().await, first);
        assert_eq!(portal.release().await, "first");
        assert_eq!(portal.get::<String>("SELECT DISTINCT release FROM report").await, "first");
        assert_eq!(portal.get::<i64>("SELECT count(*) FROM area_names").await, 50);
        same(&before, &portal.catalogue().await);
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        assert_eq!(portal.oids().await, second);
        assert_eq!(portal.release().await, "second");
        same(&before, &portal.catalogue().await);
    });
}

#[test]
fn a_second_release_and_retention_leave_live_alone() {
    with_portal(async |portal| {
        let before = portal.catalogue().await;
        let mut conn = portal.pool.acquire().await.unwrap();
        for (release, stamp) in [("second", "2607011200"), ("third", "2607011201")] {
            portal.stage(release).await;
            portal.exchange(&Generation::Staging, &backup(stamp)).await;
            staging::drop_all(&mut conn, &portal.relations).await.unwrap();
        }
        let listed = backups::list(&mut conn, &portal.relations).await.unwrap();
        assert_eq!(
            listed.iter().map(|it| (it.stamp.to_string(), it.complete)).collect::<Vec<_>>(),
            [("2607011201".to_owned(), true), ("2607011200".to_owned(), true)]
        );
        let now = "2026-07-01T12:00:30Z".parse().unwrap();
        assert_eq!(backups::free_stamp(&mut conn, "public", now, &BTreeSet::new()).await.unwrap().to_string(), "2607011202");
        for backup in &listed {
            backups::drop(&mut conn, &portal.relations, backup.stamp).await.unwrap();
        }
        let used = BTreeSet::from([listed[1].stamp]);
        assert_eq!(backups::free_stamp(&mut conn, "public", now, &used).await.unwrap().to_string(), "2607011201", "never a name twice");
        assert_eq!(portal.named("relname ~ '^(staging_|bk)'").await, []);
        assert_eq!(portal.release().await, "third");
        same(&before, &portal.catalogue().await);
        // Ids were never used before, and numbering continues.
        let highest: i64 = portal.get("SELECT max(id) FROM protected_areas").await;
        let fresh: i64 = portal.get("INSERT INTO protected_areas (site_id, release) VALUES (9000, 'third') RETURNING id").await;
        assert!(fresh > highest && highest > 200, "{fresh} after {highest}");
        let source: i32 = portal.get("INSERT INTO sources (title, release) VALUES ('new', 'third') RETURNING id").await;
        assert_eq!(source, 100 + 15 * 10);
    });
}

#[test]
fn new_lookup_rows_are_published_with_their_ids() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let id: i32 = portal.get("INSERT INTO staging_designations (name) VALUES ('Biosphere') RETURNING id").await;
        let governance: i64 = portal.get("INSERT INTO staging_governances (name) VALUES ('Private') RETURNING id").await;
        portal.run(&format!("UPDATE staging_protected_areas SET designation_id = {id}, governance_id = {governance}")).await;
        let meanwhile: i32 = portal.get("INSERT INTO designations (name) VALUES ('Monument') RETURNING id").await;
        assert_ne!(id, meanwhile);
        assert_eq!(portal.get::<i64>("SELECT count(*) FROM designations WHERE name = 'Biosphere'").await, 0);
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        assert_eq!(
            portal.get::<String>("SELECT DISTINCT d.name FROM protected_areas JOIN designations d ON d.id = designation_id").await,
            "Biosphere"
        );
        assert_eq!(
            portal.get::<String>("SELECT DISTINCT g.name FROM protected_areas JOIN governances g ON g.id = governance_id").await,
            "Private"
        );
        assert_eq!(portal.get::<i64>("SELECT count(*) FROM designations").await, 4);
        let next: i32 = portal.get("INSERT INTO designations (name) VALUES ('Later') RETURNING id").await;
        assert!(next > meanwhile.max(id));
    });
}

#[test]
fn a_lookup_row_that_came_alive_meanwhile_is_a_clear_conflict() {
    with_portal(async |portal| {
        portal.stage("second").await;
        portal
            .run("INSERT INTO staging_designations (name) VALUES ('Biosphere'); INSERT INTO designations (name) VALUES ('Biosphere')")
            .await;
        let error = portal.try_exchange(&Generation::Staging, &backup("2607011200")).await.unwrap_err();
        assert!(matches!(error, swap::SwapError::Lookup(staging::StagingError::LookupConflict { .. })), "{error}");
        assert!(error.to_string().contains("Biosphere"), "{error}");
        assert_eq!(portal.release().await, "first");
    });
}

#[test]
fn a_backup_of_another_tool_can_be_rolled_back_to() {
    with_portal(async |portal| {
        portal.stage("second").await;
        portal.exchange(&Generation::Staging, &backup("2607011200")).await;
        // Another tool knows only the names of relations; its indexes and sequences are called anything.
        let mut rename = String::new();
        for (number, (name, _)) in portal.named("relname ~ '^bk2607011200_'").await.into_iter().enumerate() {
            let base = name.strip_prefix("bk2607011200_").unwrap();
            let kind: String = portal.get(&format!("SELECT relkind::text FROM pg_class WHERE relname = '{name}'")).await;
            rename += &match kind.as_str() {
                "i" => format!("ALTER INDEX {name} RENAME TO \"old {number}\";"),
                "S" => format!("ALTER SEQUENCE {name} RENAME TO {base}_1;"),
                _ => format!("ALTER TABLE {name} RENAME TO bk2601010000_{base};"),
            };
        }
        portal.run(&rename).await;
        let mut conn = portal.pool.acquire().await.unwrap();
        let listed = backups::list(&mut conn, &portal.relations).await.unwrap();
        assert_eq!(listed[0].stamp.to_string(), "2601010000");
        assert!(listed[0].complete);
        let before = portal.catalogue().await;
        portal.exchange(&backup("2601010000"), &Generation::Staging).await;
        assert_eq!(portal.release().await, "first");
        assert!(!before.is_empty());
        let names: Vec<String> = portal.oids().await.into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"protected_areas_site".to_owned()), "{names:?}");
        assert!(names.contains(&"protected_areas_id_seq".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("old ")), "{names:?}");
    });
}

#[test]
fn an_interrupted_build_resumes_and_a_finished_one_does_nothing() {
    with_portal(async |portal| {
        let mut conn = portal.pool.acquire().await.unwrap();
        staging::build(&mut conn, &portal.relations, true).await.unwrap();
        let steps = staging::pending(&mut conn, &portal.relations).await.unwrap();
        assert!(steps.iter().all(|step| step.stage > catalog::Stage::Base), "{steps:?}");
        assert!(steps.len() > 10);
        for step in steps.iter().take(7) {
            staging::apply(&mut conn, step).await.unwrap();
        }
        staging::build(&mut conn, &portal.relations, true).await.unwrap();
        staging::complete(&mut conn, &portal.relations).await.unwrap();
        assert_eq!(staging::pending(&mut conn, &portal.relations).await.unwrap().len(), 0);
        staging::drop_all(&mut conn, &portal.relations).await.unwrap();
        staging::build(&mut conn, &portal.relations, false).await.unwrap();
        let left = staging::pending(&mut conn, &portal.relations).await.unwrap();
        assert!(left.iter().all(|step| step.stage == catalog::Stage::Last), "{left:?}");
    });
}

#[test]
fn an_ordinary_view_can_change_place_too() {
    with_portal(async |portal| {
        let mut relations = portal.relations.clone();
        relations.views.push("report".into());
        portal.stage("second").await;
        portal
            .run("CREATE VIEW staging_report AS SELECT r.*, s.title FROM staging_area_report r LEFT JOIN staging_sources s ON s.release = r.release")
            .await;
        let mut conn = portal.pool.acquire().await.unwrap();
        staging::complete(&mut conn, &relations).await.unwrap();
        assert_eq!(catalog::diff(&mut conn, &relations, &Generation::Staging).await.unwrap(), []);
        let before = portal.catalogue().await;
        for (incoming, outgoing) in [(Generation::Staging, backup("2607011200")), (backup("2607011200"), Generation::Staging)] {
            let order = order(&relations, &incoming, &outgoing);
            let (tx, _) = swap::exchange(&portal.pool, &order, &portal.pool, &CancellationToken::new()).await.unwrap();
            commit(tx).await.unwrap();
            dependents::drop_replaced(&mut conn).await.unwrap();
            swap::validate_constraints(&mut conn, &relations).await.unwrap();
            same(&before, &portal.catalogue().await);
            let release = portal.release().await;
            assert_eq!(portal.get::<String>("SELECT DISTINCT release FROM report_of_reports").await, release);
        }
    });
}

#[test]
fn a_failed_transaction_is_not_taken_for_a_commit() {
    with_portal(async |portal| {
        let mut tx = portal.pool.begin().await.unwrap();
        sqlx::raw_sql("SELECT 1 / 0").execute(&mut *tx).await.unwrap_err();
        let error = commit(tx).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("25P02"), "in_failed_sql_transaction: {error}");
    });
}

#[test]
fn a_broken_key_from_outside_is_reported_after_the_swap() {
    with_portal(async |portal| {
        portal.run("INSERT INTO comments (area_id, body) SELECT min(id), 'on the first release' FROM protected_areas").await;
        portal.stage("second").await;
        let outgoing = backup("2607011200");
        let order = order(&portal.relations, &Generation::Staging, &outgoing);
        let (tx, _) = swap::exchange(&portal.pool, &order, &portal.pool, &CancellationToken::new()).await.unwrap();
        commit(tx).await.unwrap();
        let mut conn = portal.pool.acquire().await.unwrap();
        let broken = swap::validate_constraints(&mut conn, &portal.relations).await.unwrap();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains("about of public.comments"), "{broken:?}");
        // It holds for new rows, and rolling back makes it whole again.
        let wrong = sqlx::query("INSERT INTO comments (area_id) VALUES (1)").execute(&portal.pool).await;
        assert!(wrong.is_err());
        portal.exchange(&backup("2607011200"), &Generation::Staging).await;
    });
}
