//! Backups: who sees them, what keeps them, and those that another tool made.

use portal_release_operator::api::{BackupStatus, PhaseName, PortalReleaseStatus, PortalStatus, ReleaseState};
use sqlx::Executor;

use crate::support::{Stage, looks::assert_same, until};

async fn portal_status(stage: &Stage, what: &str, wanted: impl Fn(&PortalStatus) -> bool) -> PortalStatus {
    until(what, || async { stage.portals().get("protected-planet").await.ok()?.status.filter(|status| wanted(status)) }).await
}

/// Timestamp, whose data, who made it.
fn described(backup: &BackupStatus) -> (&str, Option<&str>, Option<&str>) {
    (&backup.timestamp, backup.release.as_deref(), backup.made_by.as_deref())
}

fn retention(status: &PortalReleaseStatus) -> &str {
    status.phases.iter().find(|phase| phase.name == PhaseName::CleanupAndRetention).map(|phase| phase.message.as_str()).expect("the phase")
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_listed_and_one_that_something_depends_on_is_kept() {
    let stage = Stage::new("backups").await;
    let _operator = stage.operator_alone().await;
    stage.edit_portal(r#"{"database":{"lockTimeout":"3s"}}"#).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let june = stage.wait_state("jul2026", ReleaseState::Live).await.backup.expect("June's backup");
    let status = portal_status(&stage, "June's backup in the Portal", |status| status.backup_count == 1).await;
    let [backup] = status.backups.as_slice() else { panic!("one backup: {:?}", status.backups) };
    assert_eq!(described(backup), (june.as_str(), None, Some("Jul2026")));
    assert_eq!((backup.tables, backup.complete, backup.held_by.as_deref()), (16, true, None));
    let size = stage
        .text(&format!("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname LIKE 'bk{june}\\_%' AND relkind IN ('r', 'm')"))
        .await;
    assert_eq!(backup.bytes.to_string(), size);
    assert!(backup.size.ends_with("MiB") && Some(&backup.size) == status.backup_size.as_ref(), "{status:?}");

    // A view on the backup, and a reader of a table that the backup's foreign keys reference.
    stage.execute(&format!("SET ROLE portal_owner; CREATE VIEW keepsake AS SELECT count(*) FROM bk{june}_sources; RESET ROLE")).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    let status = stage.wait_state("aug2026", ReleaseState::Live).await;
    let july = status.backup.clone().expect("July's backup");
    assert!(
        retention(&status)
            .contains(&format!("backup bk{june}_ was not dropped (keepBackups is 1): view keepsake depends on table bk{june}_sources")),
        "{}",
        retention(&status)
    );
    let notes = stage.event_notes("aug2026", "BackupHeld").await;
    assert!(notes.iter().any(|note| note.contains("view keepsake")), "{notes:?}");
    let status = portal_status(&stage, "two backups in the Portal", |status| status.backup_count == 2).await;
    assert_eq!(
        status.backups.iter().map(described).collect::<Vec<_>>(),
        [(july.as_str(), Some("Jul2026"), Some("Aug2026")), (june.as_str(), None, Some("Jul2026"))]
    );
    assert_eq!(status.backups[0].held_by, None);
    assert_eq!(status.backups[1].held_by.as_deref(), Some("view keepsake"));
    let wide = stage.kubectl(&["get", "portal", "protected-planet", "-o", "wide"], "").await.expect("kubectl get");
    assert!(
        wide.contains("BACKUPS") && wide.contains("LAST-BACKUP") && wide.contains(status.backup_size.as_deref().expect("their size")),
        "{wide}"
    );

    stage.execute("DROP VIEW keepsake").await;
    let mut reader = stage.database.begin().await.expect("a transaction");
    reader.execute("SELECT count(*) FROM countries").await.expect("a reader");
    stage.make_release("sep2026", "Sep2026", "").await;
    let status = stage.wait_state("sep2026", ReleaseState::Live).await;
    assert!(
        retention(&status).contains(&format!("backup bk{june}_ was not dropped (keepBackups is 1): it is in use by pid")),
        "{}",
        retention(&status)
    );
    reader.rollback().await.expect("the reader ends");

    // What holds on no longer is dropped by the next release; that one keeps none at all.
    stage.make_release("oct2026", "Oct2026", "retention: {keepBackups: 0}").await;
    let status = stage.wait_state("oct2026", ReleaseState::Live).await;
    assert_eq!((status.backup.as_deref(), retention(&status).split(',').next()), (None, Some("0 backups kept")));
    let status = portal_status(&stage, "no backup in the Portal", |status| status.backup_count == 0).await;
    assert_eq!((status.backups, status.backup_size), (Vec::new(), None));
    assert_eq!(stage.text("SELECT count(*) FROM pg_class WHERE relname LIKE 'bk%'").await, "0");
}

/// Takes a backup from the ledger and calls everything in it as another tool might: tables and views by the scheme, under a
/// timestamp of its own; indexes and sequences by its own lights.
const AS_ANOTHER_TOOL: &str = "
    DELETE FROM portal_release.backups;
    DO $$ DECLARE it record; BEGIN
        FOR it IN SELECT relname, relkind, row_number() OVER (ORDER BY oid) AS n FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'bkSTAMP\\_%' AND relkind IN ('r', 'm', 'i', 'S') LOOP
            EXECUTE format('ALTER %s %I RENAME TO %I',
                           CASE it.relkind WHEN 'i' THEN 'INDEX' WHEN 'S' THEN 'SEQUENCE' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, it.relname,
                           CASE WHEN it.relkind IN ('r', 'm') THEN replace(it.relname, 'STAMP', '2605010800') ELSE format('bk2605010800_tool_%s_%s', it.relkind, it.n) END);
        END LOOP;
    END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_tool_is_rolled_back_to_past_a_newer_one() {
    let stage = Stage::new("tool").await;
    let _operator = stage.operator_alone().await;
    let before = stage.live().await;
    stage.make_release("jul2026", "Jul2026", "retention: {keepBackups: 5}").await;
    let own = stage.wait_state("jul2026", ReleaseState::Live).await.backup.expect("a backup");
    stage.execute(&AS_ANOTHER_TOOL.replace("STAMP", &own)).await;
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "retention: {keepBackups: 5}").await;
    let july = stage.wait_state("aug2026", ReleaseState::Live).await.backup.expect("July's backup");
    let august = stage.live().await;
    let status = portal_status(&stage, "both backups in the Portal", |status| status.backup_count == 2).await;
    assert_eq!(
        status.backups.iter().map(described).collect::<Vec<_>>(),
        [(july.as_str(), Some("Jul2026"), Some("Aug2026")), ("2605010800", None, None)]
    );
    assert!(status.backups[1].complete && status.backups[1].created_at.0.to_string() == "2026-05-01T08:00:00Z", "{:?}", status.backups[1]);

    for round in ["first", "second"] {
        stage.edit("aug2026", r#"{"rollback":{"to":"2605010800"}}"#).await;
        let status = stage.wait_state("aug2026", ReleaseState::RolledBack).await;
        let preflight = status.phases.iter().find(|phase| phase.name == PhaseName::Preflight).expect("Preflight");
        assert_same(&stage.live().await, &before, "the data of before, with its names and identities");
        stage.inserts_get_fresh_ids().await;
        if round == "first" {
            assert!(preflight.message.contains(&format!("the newer backups are kept: {july}")), "{}", preflight.message);
            let status = portal_status(&stage, "July's backup alone", |status| status.backup_count == 1).await;
            assert_eq!(described(&status.backups[0]).0, july);
            // Once more changes nothing.
            let world = stage.world().await;
            stage.edit("aug2026", r#"{"rollback":{"to":"2605010800","reason":"said again"}}"#).await;
            stage.wait("aug2026", "still rolled back", |status| status.state == Some(ReleaseState::RolledBack)).await;
            stage.assert_untouched(&world, "a second rollback").await;
        }
        stage.edit("aug2026", r#"{"rollback":null}"#).await;
        stage.wait_state("aug2026", ReleaseState::Live).await;
        assert_same(&stage.live().await, &august, "August is live again");
        // The former data is now the backup of the roll forward; it is given the tool's timestamp again.
        let now = stage.status("aug2026").await.backup.expect("a backup");
        stage.execute(&AS_ANOTHER_TOOL.replace("STAMP", &now)).await;
    }
}
