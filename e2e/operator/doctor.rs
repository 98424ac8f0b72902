//! `doctor` finds what blocks a release, says what to do, and writes nothing.

use std::process::Output;

use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::Command;

use crate::support::Stage;

/// Whoever changes the structure of anything fails, and with it the doctor that tried.
const NO_DDL: &str = "
    CREATE SCHEMA IF NOT EXISTS e2e;
    CREATE FUNCTION e2e.nobody() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'structure was to stay as it is'; END $$;
    CREATE EVENT TRIGGER nobody ON ddl_command_start EXECUTE FUNCTION e2e.nobody()";

async fn doctor(stage: &Stage, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portal-release-operator"))
        .args(["doctor", "--namespace", &stage.namespace])
        .args(more)
        .output()
        .await
        .expect("the doctor runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The findings of a run with `-o json`, as `level check: message → next`.
async fn findings(stage: &Stage) -> (Option<i32>, Vec<String>) {
    let output = doctor(stage, &["protected-planet", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["portal"], format!("{}/protected-planet", stage.namespace));
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let lines = report["checks"].as_array().expect("checks").iter();
    let lines =
        lines.map(|line| format!("{} {}: {} → {}", word(line, "level"), word(line, "check"), word(line, "message"), word(line, "next")));
    (output.status.code(), lines.collect())
}

fn assert_found(found: &[String], level: &str, words: &[&str]) {
    let hit = found.iter().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)));
    assert!(hit, "no {level} with {words:?} in\n{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_portal_is_found_good_and_nothing_is_written() {
    let stage = Stage::new("doctor").await;
    // No operator was ever here: there is no ledger.
    stage.execute(NO_DDL).await;
    let before = stage.world().await;
    let output = doctor(&stage, &["protected-planet", "--label", "Jul2026", "--allow-local-addresses"]).await;
    let report = text(&output);
    assert_eq!(output.status.code(), Some(0), "{report} {}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "ok    ledger",
        "schema portal_release does not exist yet; the operator will create it",
        "PostgreSQL 15",
        "advisory lock 42000001 is free",
        "sessions keep their backend",
        "no dependent object blocks a swap",
        "recent-backup passes",
        "a release needs about",
        "the file of import country_statistics can be read, and its header fits",
        "a release would run AcquireLock, CreateStagingViews, Preflight",
        "0 fail: ready to release",
    ] {
        assert!(report.contains(words), "'{words}' is missing in\n{report}");
    }
    assert!(!report.contains("FAIL"), "{report}");
    assert!(!report.contains(&stage.env["STAGE_DATABASE_URL"]), "no Secret is revealed");
    assert_eq!(stage.world().await, before, "nothing was written");
    let unknown = text(&doctor(&stage, &["protected-planet"]).await);
    assert!(unknown.contains("import country_statistics: its file depends on the release; add --label to check it"), "{unknown}");
    let absent = doctor(&stage, &["protected-planet", "--label", "Nov2031", "--allow-local-addresses"]).await;
    let (code, absent) = (absent.status.code(), text(&absent));
    assert!(
        code == Some(1) && absent.contains("country_statistics_Nov2031.csv cannot be read: there is no such bucket or object"),
        "{absent}"
    );
    assert_eq!(stage.text("SELECT to_regnamespace('portal_release') IS NULL").await, "true");
    stage.execute("DROP EVENT TRIGGER nobody").await;
    stage.execute("ALTER TABLE country_statistics RENAME release_month TO month").await;
    let other = text(&doctor(&stage, &["protected-planet", "--label", "Jul2026", "--allow-local-addresses"]).await);
    assert!(other.contains("its column release_month is not a column of country_statistics"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_is_named_with_the_next_step() {
    let stage = Stage::new("defects").await;
    let admin = &stage.env["STAGE_ADMIN_DATABASE_URL"];
    stage
        .execute(
            "ALTER TABLE story_map_links RENAME TO gone;
             ALTER TABLE pame_sources OWNER TO postgres;
             CREATE MATERIALIZED VIEW sites_by_type AS SELECT site_type, count(*) FROM protected_areas GROUP BY 1;
             CREATE TABLE staging_sources AS SELECT 1 AS kept;
             CREATE TABLE bk2605010800_sources AS SELECT 2 AS kept; CREATE VIEW keepsake AS SELECT * FROM bk2605010800_sources;
             ALTER INDEX protected_areas_pkey RENAME TO an_index_whose_name_is_so_long_that_a_backup_of_it_is_cut;
             UPDATE ops.base_backups SET finished_at = finished_at - interval '3 days'",
        )
        .await;
    let mut holder = PgConnection::connect(admin).await.expect("a session");
    holder.execute("SET application_name = 'another tool'; SELECT pg_advisory_lock(42000001)").await.expect("the lock");
    let (code, found) = findings(&stage).await;
    assert_eq!(code, Some(1), "{found:#?}");
    assert_found(&found, "fail", &["relations: table or view public.story_map_links does not exist", "→ create it, or correct its name"]);
    assert_found(&found, "fail", &["owners: pame_sources belongs to postgres", "ALTER TABLE \"pame_sources\" OWNER TO \"portal_owner\""]);
    assert_found(&found, "fail", &["obstacles: materialized view public.sites_by_type reads live relations", "→ "]);
    assert_found(&found, "fail", &["gates: hard gate recent-backup failed: expected one row with true in the first column, got false"]);
    assert_found(&found, "fail", &["staging: staging_sources already exists and was not created by this operator", "drop or rename them"]);
    assert_found(&found, "warn", &["backups: 2605010800: 1 tables, 0 views", "view keepsake depends on it"]);
    assert_found(&found, "warn", &["lock: advisory lock 42000001 is held by pid", "another tool", "pg_terminate_backend("]);
    assert_found(&found, "ok", &["names: ", "an_index_whose_name_is_so_long_that_a_backup_of_it_is_cut as bk"]);
    holder.close().await.expect("the session ends");

    // A role without rights: doctor says what to grant.
    let role = format!("stranger_{}", stage.namespace.replace('-', "_"));
    stage.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'canary-of-the-doctor'")).await;
    let (_, place) = stage.env["STAGE_DATABASE_URL"].rsplit_once('@').expect("a URL with a user");
    let secret = |url: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: portal-db}}\nstringData: {{url: \"{url}\"}}");
    stage.apply(&secret(&format!("postgres://{role}:canary-of-the-doctor@{place}"))).await;
    let (code, found) = findings(&stage).await;
    assert_eq!(code, Some(1), "{found:#?}");
    assert_found(&found, "fail", &["ledger: schema portal_release does not exist", "GRANT CREATE ON DATABASE"]);
    assert_found(&found, "fail", &["schema: ", "may not create relations in public", "GRANT USAGE, CREATE ON SCHEMA \"public\""]);
    assert_found(&found, "fail", &["owners: protected_areas belongs to portal_owner"]);
    assert_found(&found, "fail", &["owners: ", "may not add rows to look-up table countries"]);
    assert_found(&found, "warn", &["autovacuum: ", "GRANT SET ON PARAMETER deadlock_timeout"]);
    assert_found(&found, "warn", &["statistics: ", "GRANT pg_read_all_stats"]);

    // Read-only from here on.
    stage.apply(&secret(&stage.env["STAGE_DATABASE_URL"])).await;
    let database = &stage.env["STAGE_DATABASE"];
    stage.execute(&format!("ALTER ROLE portal_owner IN DATABASE {database} SET default_transaction_read_only = on")).await;
    let (_, found) = findings(&stage).await;
    assert_found(&found, "warn", &["primary: ", "default_transaction_read_only=on", "RESET"]);
    stage.execute(&format!("ALTER ROLE portal_owner IN DATABASE {database} RESET default_transaction_read_only")).await;

    // It could not check: that is reported as such, without a password.
    stage.apply(&secret("postgres://portal_owner:canary-of-the-doctor@127.0.0.1:9/nowhere")).await;
    let output = doctor(&stage, &["protected-planet"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("cannot connect to the database at 127.0.0.1:9 as portal_owner") && !error.contains("canary"), "{error}");
    let output = doctor(&stage, &["nobody"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(&format!("there is no Portal nobody in namespace {}", stage.namespace)), "{error}");
    stage.execute(&format!("DROP ROLE {role}")).await;
}
