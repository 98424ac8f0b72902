//! A dry run stops before readers could notice; what it has built is used, or visibly rebuilt.

use portal_release_operator::api::{PhaseName, ReleaseState};

use crate::support::{Stage, stage::condition, until};

/// The phases that cost hours on a full portal.
const BUILDING: [PhaseName; 5] = [
    PhaseName::CreateStagingViews,
    PhaseName::BuildStaging,
    PhaseName::ImportCore,
    PhaseName::ImportRelated,
    PhaseName::ValidateAndManifest,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_goes_live_with_the_rows_that_it_imported_and_holds_its_place_until_then() {
    let stage = Stage::new("dry-run").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let status = stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert_eq!((condition(&status, "Ready").as_str(), status.progress), ("True", 100));
    assert_eq!(stage.live_month().await, "0", "readers notice nothing");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert!(!stage.is_locked().await);
    assert_eq!(stage.text("SELECT DISTINCT release_month FROM staging_protected_areas").await, "1", "staging exists for inspection");
    assert!(status.manifest.is_some());
    let cold = "SELECT string_agg(relname, ', ') FROM pg_class WHERE relname LIKE 'staging\\_%' AND relkind IN ('r', 'm')
                AND relname !~ '_(countries|designations|governances|iucn_categories|legal_statuses|realms)$' AND (reltuples < 0 OR relallvisible < relpages)";
    assert_eq!(stage.text(cold).await, "", "relations without statistics or without a visibility map, which make the first queries slow");

    stage.edit("jul2026", r#"{"dryRun":false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
    let attempts = stage.attempts("Jul2026", &BUILDING).await;
    assert_eq!(attempts, "CreateStagingViews=1 BuildStaging=1 ImportCore=1 ImportRelated=1 ValidateAndManifest=2", "validated again");
    assert_eq!(stage.import_attempts("Jul2026").await, "1", "each import ran once");
    assert_eq!(stage.audit("Jul2026", "StagingRebuilt").await, "");

    // A dry run that is deleted leaves nothing behind.
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "dryRun: true").await;
    stage.wait_state("aug2026", ReleaseState::DryRunComplete).await;
    assert_ne!(stage.staging().await, "");
    stage.delete_and_wait("aug2026").await;
    assert_eq!(stage.staging().await, "");
    assert!(!stage.is_locked().await);
    assert_eq!(stage.live_month().await, "1");

    // While one is kept, the next release says what it waits for. Deleted, it makes way.
    stage.make_release("aug-again", "Aug2026", "dryRun: true").await;
    stage.wait_state("aug-again", ReleaseState::DryRunComplete).await;
    stage.make_release("sep2026", "Sep2026", "").await;
    let status = stage.wait("sep2026", "queued", |status| status.state == Some(ReleaseState::Queued)).await;
    assert!(status.message.contains("waiting for PortalRelease aug-again: the staging that it keeps would be lost"), "{}", status.message);
    assert_eq!((condition(&status, "Ready").as_str(), condition(&status, "Reconciling").as_str()), ("Unknown", "True"));
    assert_ne!(stage.staging().await, "", "the dry run's staging exists");
    stage.delete_and_wait("aug-again").await;
    stage.wait_state("sep2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_whose_source_portal_or_tables_have_changed_says_so_and_is_rebuilt() {
    let stage = Stage::new("stale").await;
    let _operator = stage.operator_alone().await;

    // The source moves on.
    dry_run(&stage, "jul2026", "Jul2026").await;
    stage.month(2).await;
    go_live(&stage, "jul2026", "Jul2026", "the source has changed since the staging was built (portal_").await;
    assert_eq!(stage.live_month().await, "2", "readers get what the source has now");

    // An import is corrected.
    dry_run(&stage, "aug2026", "Aug2026").await;
    let mut portal = stage.portals().get("protected-planet").await.expect("the Portal");
    let import = portal.spec.imports.related.iter_mut().find(|import| import.name.as_str() == "story_map_links").expect("the import");
    let query = import.query.as_mut().expect("its query");
    query.0 = query.0.replace("l.link_type", "'corrected' AS link_type");
    portal.metadata.managed_fields = None;
    stage.portals().replace("protected-planet", &Default::default(), &portal).await.expect("the Portal is taken");
    go_live(&stage, "aug2026", "Aug2026", "the Portal's views, tables or imports have changed").await;
    assert_eq!(stage.text("SELECT DISTINCT link_type FROM story_map_links").await, "corrected");

    // A live table gets a column.
    dry_run(&stage, "sep2026", "Sep2026").await;
    stage.execute("ALTER TABLE sources ADD COLUMN note text NOT NULL DEFAULT 'new'").await;
    go_live(&stage, "sep2026", "Sep2026", "the structure of the live tables has changed").await;
    assert_eq!(stage.text("SELECT DISTINCT note FROM sources").await, "new", "the column is not lost with the swap");
    assert_eq!(stage.live_month().await, "2");
}

async fn dry_run(stage: &Stage, name: &str, label: &str) {
    stage.make_release(name, label, "dryRun: true").await;
    stage.wait_state(name, ReleaseState::DryRunComplete).await;
    assert_eq!(stage.import_attempts(label).await, "1");
}

/// Goes live from a dry run that does not hold any more.
async fn go_live(stage: &Stage, name: &str, label: &str, why: &str) {
    stage.edit(name, r#"{"dryRun":false}"#).await;
    stage.wait_state(name, ReleaseState::Live).await;
    let audit = stage.audit(label, "StagingRebuilt").await;
    assert!(audit.starts_with(why) && audit.lines().count() == 1, "{audit}");
    assert_eq!(stage.import_attempts(label).await, "2", "everything was imported again");
    until("an event that says so", || async {
        stage.event_notes(name, "StagingRebuilt").await.iter().any(|note| note.starts_with(why)).then_some(())
    })
    .await;
}
