//! Imports under stress: ranges at once, killed ones, and rows that are rejected.

use portal_release_operator::api::{ImportStatus, PhaseName, RejectRule, ReleaseState};
use sqlx::{Connection, PgConnection};

use crate::support::{Stage, snapshot, until, world::import};

const ALONE: &[&str] = &["--leader-election=false"];

/// A function that counts the rows that are read, also by transactions that are rolled back, and takes its time over each.
const COUNTED: &str = "CREATE SEQUENCE ops.reads;
     CREATE FUNCTION ops.read_name(name text) RETURNS text LANGUAGE plpgsql STABLE AS $$
     BEGIN PERFORM nextval('ops.reads'), pg_sleep(0.02); RETURN name; END $$;
     GRANT ALL ON SEQUENCE ops.reads TO portal_owner; SELECT nextval('ops.reads')";

async fn reads(stage: &Stage) -> i64 {
    stage.text("SELECT last_value - 1 FROM ops.reads").await.parse().expect("a number")
}

/// A stage whose import of sites has one range for each site, and counts the rows that it reads.
async fn slow_stage(name: &str) -> Stage {
    let stage = Stage::new(name).await;
    stage.execute(COUNTED).await;
    stage.change_sql("import_protected_areas.sql", "p.name_eng AS name", "ops.read_name(p.name_eng) AS name").await;
    stage.change_portal(|portal| import(portal, "protected_areas").batch_rows = 1).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_twenty_times_ends_as_an_undisturbed_one_and_repeats_little() {
    let (stage, reference) = tokio::join!(slow_stage("kill-import"), slow_stage("calm-import"));
    let calm = reference.operator_with("operator", ALONE).await;
    reference.make_release("jul2026", "Jul2026", "").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    for byte in [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(uuid::Uuid::into_bytes).concat().into_iter().take(20) {
        let before = reads(&stage).await;
        let operator = stage.operator_with("killed", ALONE).await;
        // Anywhere within the next fifteen rows.
        let moment = before + 1 + i64::from(byte % 15);
        until("some more rows are read", || async { (reads(&stage).await >= moment).then_some(()) }).await;
        operator.kill().await;
    }
    let committed = stage.text("SELECT rows FROM portal_release.imports WHERE import = 'protected_areas'").await;
    assert!(committed.parse::<i64>().unwrap() < reads(&stage).await, "the kills cut off ranges: {committed} rows are in");
    let _operator = stage.operator_with("operator", ALONE).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    reference.wait_state("jul2026", ReleaseState::Live).await;

    snapshot::assert_same("the import that was killed", &snapshot::of(&stage).await, &snapshot::of(&reference).await);
    let (read, wanted) = (reads(&stage).await, reads(&reference).await);
    assert_eq!(stage.text("SELECT rows FROM portal_release.imports WHERE import = 'protected_areas'").await, wanted.to_string());
    assert!(read * 10 <= wanted * 13, "{read} rows were read for {wanted}");
    drop(calm);
}

/// Holds up every range of an import before it commits.
async fn hold_up(stage: &Stage) -> PgConnection {
    until("the ledger is there", || async {
        (stage.text("SELECT to_regclass('portal_release.checkpoints') IS NOT NULL").await == "true").then_some(())
    })
    .await;
    stage
        .execute(
            "CREATE SCHEMA IF NOT EXISTS e2e;
             CREATE OR REPLACE FUNCTION e2e.hold_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4712); RETURN NEW; END $$;
             CREATE TRIGGER hold_up BEFORE UPDATE ON portal_release.checkpoints FOR EACH ROW WHEN (NEW.import = 'protected_areas') EXECUTE FUNCTION e2e.hold_up()",
        )
        .await;
    let mut keeper = PgConnection::connect(&stage.env["STAGE_ADMIN_DATABASE_URL"]).await.expect("a connection");
    sqlx::query("SELECT pg_advisory_lock(4712)").execute(&mut keeper).await.expect("the lock");
    keeper
}

async fn held_up(stage: &Stage) -> String {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712 AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    stage.text(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_ranges_run_as_the_portal_allows_and_all_of_them_stop() {
    let stage = Stage::new("ranges").await;
    let _operator = stage.operator_alone().await;
    stage
        .change_portal(|portal| {
            import(portal, "protected_areas").batch_rows = 20;
            portal.imports.parallel = 3;
        })
        .await;
    let keeper = hold_up(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    until("three ranges are held up", || async { (held_up(&stage).await == "3").then_some(()) }).await;

    // A suspension waits for them, and begins no others; some that follow may have begun before it was heard.
    stage.edit("jul2026", r#"{"suspend": true}"#).await;
    stage.wait("jul2026", "observed by the operator", |_| true).await;
    keeper.close().await.expect("they continue");
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    let done = "SELECT count(completed_at) FROM portal_release.checkpoints WHERE import = 'protected_areas'";
    let committed = stage.text(done).await.parse::<i64>().expect("a number");
    assert!((3..17).contains(&committed), "{committed} of 20 ranges");
    assert_eq!(stage.text("SELECT count(*) FROM staging_protected_areas").await, (committed * 20).to_string());

    // The error of one range cuts off the others; what was committed stays.
    let mut keeper = PgConnection::connect(&stage.env["STAGE_ADMIN_DATABASE_URL"]).await.expect("a connection");
    sqlx::query("SELECT pg_advisory_lock(4712)").execute(&mut keeper).await.expect("the lock");
    stage.edit("jul2026", r#"{"suspend": false}"#).await;
    until("three more are held up", || async { (held_up(&stage).await == "3").then_some(()) }).await;
    let victim = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712 AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let others = stage.text(&format!("SELECT string_agg(pid::text, ',') FROM ({victim} OFFSET 1) AS others")).await;
    stage.execute(&format!("SELECT pg_cancel_backend(pid) FROM ({victim} LIMIT 1) AS one")).await;
    until("the others are gone", || async {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({others})");
        (stage.text(&sql).await == "0").then_some(())
    })
    .await;
    assert_eq!(stage.text(done).await, committed.to_string(), "nothing of them was committed");

    // It is retried, and an abort ends all of them at once.
    until("they run again", || async { (held_up(&stage).await == "3").then_some(()) }).await;
    stage.edit("jul2026", r#"{"abort": {"reason": "enough"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::Aborted).await;
    assert_eq!(held_up(&stage).await, "0");
    assert_eq!(stage.staging().await, "");
    assert!(!stage.is_locked().await);
    drop(keeper);
}

fn of<'a>(imports: &'a [ImportStatus], name: &str) -> &'a ImportStatus {
    imports.iter().find(|import| import.name == name).expect("the import")
}

/// What the manifest of a label says, at a path such as `imports,sources`.
async fn manifest(stage: &Stage, label: &str, path: &str) -> serde_json::Value {
    let text = stage.text(&format!("SELECT manifest::jsonb #> '{{{path}}}' FROM portal_release.releases WHERE label = '{label}'")).await;
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_rows_fail_a_release_beyond_the_limit_and_are_accounted_for_within_it() {
    let stage = Stage::new("rejects").await;
    let _operator = stage.operator_alone().await;
    stage.execute("CREATE TABLE ops.bad AS SELECT site_id FROM protected_areas ORDER BY site_id OFFSET 200 LIMIT 2; GRANT SELECT ON ops.bad TO portal_owner").await;
    stage
        .change_portal(|portal| {
            let areas = import(portal, "protected_areas");
            areas.batch_rows = 100;
            areas.reject = vec![RejectRule { reason: "a site of the test".into(), when: "site_id IN (SELECT site_id FROM ops.bad)".into() }];
            let parcels = "SELECT count(*) FROM (SELECT site_id FROM {{ staging('portal_standard_polygons') }} UNION ALL SELECT site_id FROM {{ staging('portal_standard_points') }}) p";
            areas.reads = Some(parcels.into());
        })
        .await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = [
        "import protected_areas: 2 of ",
        " where 0% are accepted: 2 because of 'a site of the test', for example ",
        "raise maxRejected",
        "portal_release.rejected_rows",
    ];
    let status = stage.wait_failed("jul2026", PhaseName::ImportCore, &words).await;
    assert_eq!(of(&status.imports, "protected_areas").rejected, 2);
    let keys = "SELECT string_agg(key, ',' ORDER BY key) FROM portal_release.rejected_rows";
    assert_eq!(stage.text(keys).await, stage.text("SELECT string_agg(site_id::text, ',' ORDER BY site_id) FROM ops.bad").await);

    // A higher limit is enough to continue with what was imported.
    stage.change_portal(|portal| import(portal, "protected_areas").max_rejected = "1%".into()).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert_eq!(stage.audit("Jul2026", "ImportedAgain").await + &stage.audit("Jul2026", "StagingRebuilt").await, "");
    let areas = of(&status.imports, "protected_areas");
    assert_eq!((areas.rejected, areas.percent, areas.remaining_seconds), (2, Some(100), None));
    let parcels = stage
        .text("SELECT (SELECT count(*) FROM staging_portal_standard_polygons) + (SELECT count(*) FROM staging_portal_standard_points)")
        .await;
    let sites = stage.text("SELECT count(*) FROM staging_protected_areas").await;
    let account = manifest(&stage, "Jul2026", "imports,protected_areas").await;
    assert_eq!((account["read"].to_string(), account["imported"].to_string(), &account["rejected"]), (parcels, sites, &2.into()));
    assert!(account["collapsed"].as_i64().is_some_and(|rows| rows > 0), "{account}");
    let imports = manifest(&stage, "Jul2026", "imports").await;
    let number = |account: &serde_json::Value, name: &str| account[name].as_i64().expect("a number");
    for (name, account) in imports.as_object().expect("the imports") {
        let sum = number(account, "imported") + number(account, "rejected") + number(account, "collapsed");
        assert_eq!(number(account, "read"), sum, "{name}: {account}");
    }
    assert!(number(&imports["designations"], "collapsed") > 0, "what the look-up table knew: {imports}");

    // They stay for the audit when the release is over.
    stage.edit("jul2026", r#"{"dryRun": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.rejected_rows").await, "2");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.checkpoints").await, "0");

    // Where what was wrong is repaired, a retry imports again; nothing is rejected then.
    stage.change_portal(|portal| import(portal, "protected_areas").max_rejected = "0%".into()).await;
    stage.month(2).await;
    stage.execute("DELETE FROM ops.bad WHERE site_id = (SELECT min(site_id) FROM ops.bad)").await;
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait_failed("aug2026", PhaseName::ImportCore, &["import protected_areas: 1 of "]).await;
    stage.execute("DELETE FROM ops.bad").await;
    stage.edit("aug2026", r#"{"retry": 1, "dryRun": true}"#).await;
    stage.wait_state("aug2026", ReleaseState::DryRunComplete).await;
    assert_eq!(stage.audit("Aug2026", "ImportedAgain").await, "protected_areas: their staged tables are truncated");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.rejected_rows").await, "2", "those of July");
    assert_eq!(stage.text("SELECT count(*) - count(DISTINCT site_id) FROM staging_protected_areas").await, "0");
    assert_eq!(manifest(&stage, "Aug2026", "imports,protected_areas,rejected").await, 0);
}
