//! A failed release, its cause repaired and `retry` raised, resumes from where it failed: what still holds is not done again.

use portal_release_operator::api::{PhaseName, PortalReleaseStatus, ReleaseState};
use sha2::{Digest, Sha256};

use crate::support::{Stage, receiver::Mood, until, world::import};

/// How often a phase was begun.
fn attempts(status: &PortalReleaseStatus, wanted: PhaseName) -> i32 {
    status.phases.iter().find(|phase| phase.name == wanted).expect("the phase").attempts
}

impl Stage {
    /// How often imports were begun, by name: only those that were begun more than once.
    async fn repeated_imports(&self) -> String {
        self.text("SELECT string_agg(import || '=' || attempts, ' ' ORDER BY import) FROM portal_release.imports WHERE attempts <> 1").await
    }

    /// Puts a file where the release with this label looks for its statistics.
    async fn upload_statistics(&self, label: &str, text: &str) {
        let variable = |name: &str| std::env::var(name).expect("a variable of e2e/local/local up");
        let url = format!("{}/portal-data/{}/country_statistics_{label}.csv", variable("LOCAL_S3_URL"), self.namespace);
        let user = format!("{}:{}", variable("LOCAL_S3_ACCESS_KEY"), variable("LOCAL_S3_SECRET_KEY"));
        let sum: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let sent = tokio::process::Command::new("curl")
            .args(["-sS", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user])
            .args(["-H", &format!("x-amz-content-sha256: {sum}"), "-X", "PUT", "--data-binary", text, &url])
            .status()
            .await;
        assert!(sent.is_ok_and(|status| status.success()), "the upload of {url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_resumes_from_the_failed_phase() {
    let stage = Stage::new("retry").await;
    let _operator = stage.operator().await;

    // Sites are imported in ranges of a hundred, and one of a later range cannot be read. The sequence counts the rows that were.
    stage
        .execute(
            "CREATE SEQUENCE ops.reads;
             CREATE TABLE ops.unreadable AS SELECT site_id FROM protected_areas ORDER BY site_id OFFSET 250 LIMIT 1;
             CREATE FUNCTION ops.read_name(site bigint, name text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN
                 PERFORM nextval('ops.reads');
                 IF EXISTS (SELECT FROM ops.unreadable u WHERE u.site_id = site) THEN
                     RAISE EXCEPTION 'the name of site % cannot be read', site USING ERRCODE = 'insufficient_privilege';
                 END IF;
                 RETURN name;
             END $$;
             GRANT ALL ON SEQUENCE ops.reads TO portal_owner; GRANT SELECT ON ops.unreadable TO portal_owner",
        )
        .await;
    stage.change_sql("import_protected_areas.sql", "p.name_eng AS name", "ops.read_name(p.site_id, p.name_eng) AS name").await;
    stage
        .change_portal(|portal| {
            import(portal, "protected_areas").batch_rows = 100;
            portal.imports.parallel = 1;
        })
        .await;
    stage.change_source("ALTER TABLE wdpa.story_map_links RENAME TO gone").await;

    stage.make_release("jul2026", "Jul2026", "").await;
    let words = ["import protected_areas", "the name of site", "cannot be read"];
    let status = stage.wait_failed("jul2026", PhaseName::ImportCore, &words).await;
    let reads = || async { stage.text("SELECT last_value FROM ops.reads").await.parse::<i64>().expect("a number") };
    let rows = || async {
        let rows = stage.text("SELECT rows FROM portal_release.imports WHERE import = 'protected_areas'").await;
        rows.parse::<i64>().expect("a number")
    };
    assert_eq!(rows().await, 200, "two ranges are kept");
    assert_eq!(stage.text("SELECT count(*) FROM staging_protected_areas").await, "200");
    assert_eq!(attempts(&status, PhaseName::ImportCore), 1, "such an error is final at once");
    let read = reads().await;

    // The source is repaired. The next thing that fails is in another phase, before which nothing is done again.
    stage.execute("DELETE FROM ops.unreadable").await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let words = ["import story_map_links", "\"wdpa.story_map_links\" does not exist"];
    let status = stage.wait_failed("jul2026", PhaseName::ImportRelated, &words).await;
    assert_eq!(rows().await - 200, reads().await - read, "each row of the ranges that were missing was read once, and no other");
    assert_eq!(stage.repeated_imports().await, "global_statistics=0 protected_areas=2");
    for phase in [PhaseName::CreateStagingViews, PhaseName::Preflight, PhaseName::BuildStaging] {
        assert_eq!(attempts(&status, phase), 1, "{phase} still holds");
    }
    assert_eq!(attempts(&status, PhaseName::ImportCore), 2);

    // Repaired too; then the hook fails, after the swap: the data is live, workers are back, the release has failed.
    stage.receiver.set(Mood::Broken);
    stage.change_source("ALTER TABLE wdpa.gone RENAME TO story_map_links").await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    let words = ["hook clear-cache answered 500", "the data is live", "raise spec.retry"];
    let status = stage.wait_failed("jul2026", PhaseName::PostSwap, &words).await;
    assert_eq!(stage.repeated_imports().await, "protected_areas=2 story_map_links=2");
    assert_eq!(attempts(&status, PhaseName::ImportCore), 2, "ImportCore still holds");
    assert!(status.current, "readers see it");
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert!(!stage.is_locked().await);
    assert_eq!(stage.open_runs().await, "0");
    let live = stage.world().await;

    stage.receiver.set(Mood::Fine);
    stage.edit("jul2026", r#"{"retry": 3}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.swaps().await, "1", "one swap");
    assert_eq!(attempts(&status, PhaseName::FinaliseSwap), 1);
    assert_eq!(attempts(&status, PhaseName::Freeze), 1, "workers were not stopped again");
    stage.assert_untouched(&live, "continuing after the swap").await;
    assert_eq!(stage.staging().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_any_more_is_done_again() {
    let stage = Stage::new("retrystale").await;
    let _operator = stage.operator().await;

    // A gate outside of the staging: after its repair the staged views still hold.
    stage.execute("UPDATE ops.base_backups SET finished_at = finished_at - interval '3 days'").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_failed("jul2026", PhaseName::Preflight, &["hard gate recent-backup"]).await;
    // A year that is none, deep in the data: what was staged and imported from it is worth nothing once it is repaired.
    let site = "(SELECT id FROM wdpa.wdpas ORDER BY id DESC OFFSET 20 LIMIT 1)";
    stage.execute("UPDATE ops.base_backups SET finished_at = finished_at + interval '3 days'").await;
    stage.edit("jul2026", r#"{"retry": 1, "suspend": true}"#).await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    stage.change_source(&format!("CREATE TABLE sample.was AS SELECT id, status_yr FROM wdpa.wdpas WHERE id = {site}; UPDATE wdpa.wdpas SET status_yr = 0 WHERE id = {site}")).await;
    stage.edit("jul2026", r#"{"suspend": false}"#).await;
    let status =
        stage.wait_failed("jul2026", PhaseName::ImportCore, &["import protected_area", "date field value out of range: 0-01-01"]).await;
    assert_eq!(attempts(&status, PhaseName::CreateStagingViews), 2, "the source had changed since the views were staged");
    assert_eq!(attempts(&status, PhaseName::BuildStaging), 1);

    stage.change_source("UPDATE wdpa.wdpas d SET status_yr = w.status_yr FROM sample.was w WHERE w.id = d.id").await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(attempts(&status, PhaseName::CreateStagingViews), 3, "and once more");
    assert_eq!(attempts(&status, PhaseName::BuildStaging), 2);
    let rebuilt = stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'StagingRebuilt'").await;
    assert_eq!(rebuilt, "2", "the ledger says so");
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.text("SELECT count(*) FROM protected_areas WHERE legal_status_updated_on < '1000-01-01'").await, "0");
    until("workers are back", || async { (stage.workers().await == Stage::WORKERS).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_is_checked_before_it_may_go_live() {
    let stage = Stage::new("retrycheck").await;
    let _operator = stage.operator().await;

    // A file that is not there, and one with a column that is none.
    let words = ["import country_statistics", "country_statistics_Nov2026.csv"];
    stage.must_fail("Nov2026", PhaseName::Preflight, &words).await;
    assert_eq!(attempts(&stage.status("nov2026").await, PhaseName::Preflight), 1, "a file that is not there is final at once");
    stage.upload_statistics("Nov2026", "iso_3,release_month,pa_total\nAFG,1,3\n").await;
    stage.edit("nov2026", r#"{"retry": 1}"#).await;
    let words =
        ["import country_statistics", "country_statistics_Nov2026.csv", "column pa_total is not a column of staging_country_statistics"];
    stage.wait_failed("nov2026", PhaseName::Preflight, &words).await;
    stage.upload_statistics("Nov2026", "iso_3,release_month,pa_count\nAFG,1,three\n").await;
    stage.edit("nov2026", r#"{"retry": 2}"#).await;
    let words = ["country_statistics_Nov2026.csv", "may not be null"];
    stage.wait_failed("nov2026", PhaseName::Preflight, &words).await;

    // The source has lost a tenth of its sites.
    let before = stage.world().await;
    stage
        .change_source(
            "CREATE TEMPORARY TABLE lost AS SELECT id FROM wdpa.wdpas WHERE site_id % 10 = 0;
             DELETE FROM wdpa.wdpa_iso3 WHERE wdpa_id IN (SELECT id FROM lost);
             DELETE FROM wdpa.wdpa_parent_iso3 WHERE wdpa_id IN (SELECT id FROM lost);
             DELETE FROM wdpa.wdpa_international_criteria WHERE wdpa_id IN (SELECT id FROM lost);
             DELETE FROM wdpa.wdpas_sources WHERE wdpa_id IN (SELECT id FROM lost);
             DELETE FROM wdpa.wdpas WHERE id IN (SELECT id FROM lost)",
        )
        .await;
    let words = ["staging_protected_areas has ", "fewer than the", "of protected_areas", "where at most 5.0% are accepted"];
    stage.must_fail("Jul2026", PhaseName::ValidateAndManifest, &words).await;
    stage.assert_untouched(&before, "all of it").await;

    // The loss is intended: the limit is raised, and the release continues.
    stage.change_portal(|portal| portal.validation.max_shrink.values_mut().for_each(|share| *share = "20%".into())).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(attempts(&status, PhaseName::ImportCore), 1, "a limit says nothing against what was imported");
    assert_eq!(attempts(&status, PhaseName::ValidateAndManifest), 2);
}
