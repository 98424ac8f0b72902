//! A release that stands still, or is finished, is understood by the other version.

use portal_release_operator::api::{PhaseState, PortalReleaseStatus, ReleaseState};

use crate::{
    crossing::{Crossing, each},
    support::{
        Stage,
        looks::assert_same,
        stage::{condition, stalled},
        until,
    },
};

/// Live, Superseded and the backup between them.
pub async fn knows_what_is_live(crossing: Crossing, _: String) {
    let stage = Stage::new("finished").await;
    let operator = crossing.depart(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = stage.live().await;
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    let before = stage.wait_state("aug2026", ReleaseState::Live).await;
    stage.wait_state("jul2026", ReleaseState::Superseded).await;
    let august = stage.live().await;
    operator.kill().await;

    let operator = crossing.arrive(&stage).await;
    // A change to the spec, which a finished release answers with its generation only.
    stage.edit("aug2026", r#"{"reason":"looked at by another version"}"#).await;
    let after = stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(facts(&after), facts(&before));
    assert!(!stalled(&after), "{}", after.message);
    assert_eq!(stage.wait_state("jul2026", ReleaseState::Superseded).await.state, Some(ReleaseState::Superseded));
    assert_same(&stage.live().await, &august, "nothing has moved");
    let portal = stage.portals().get("protected-planet").await.expect("the Portal").status.unwrap_or_default();
    assert_eq!(portal.current_label.map(|label| label.0), Some("Aug2026".to_owned()));
    assert_eq!(portal.backup_count, 1);

    stage.edit("aug2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage.wait_state("aug2026", ReleaseState::RolledBack).await;
    stage.wait("jul2026", "live and current", |status| status.current && status.state == Some(ReleaseState::Live)).await;
    assert_same(&stage.live().await, &july, "July is live again");
    stage.assert_settled().await;
    operator.kill().await;

    // What was rolled back by the second version is rolled forward by the first, and the next release is the second one's.
    let operator = crossing.depart(&stage).await;
    stage.edit("aug2026", r#"{"rollback":null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_same(&stage.live().await, &august, "August is live again");
    operator.kill().await;
    let _operator = crossing.arrive(&stage).await;
    stage.month(3).await;
    stage.make_release("sep2026", "Sep2026", "").await;
    stage.wait_state("sep2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "3");
    let backups = "SELECT count(DISTINCT substr(relname, 1, 12)) FROM pg_class WHERE relname ~ '^bk[0-9]{10}_' AND relkind = 'r'";
    assert_eq!(stage.text(backups).await, "1", "the first version's backup was dropped by the second");
    stage.assert_settled().await;
}

/// What a status says of a finished release: state, whether it is current, progress, phases, backup or manifest, conditions.
type Facts = (Option<ReleaseState>, bool, i32, Vec<String>, Option<String>, Vec<(String, String)>);

/// What a status says of a finished release, without words.
fn facts(status: &PortalReleaseStatus) -> Facts {
    let phases = status.phases.iter().filter(|phase| phase.state != PhaseState::Skipped);
    let conditions = status.conditions.iter().map(|condition| (condition.type_.clone(), condition.status.clone()));
    let manifest = status.manifest.as_ref().map(|manifest| manifest.sha256.clone());
    (
        status.state,
        status.current,
        status.progress,
        phases.map(|phase| format!("{} {} {}", phase.name, phase.state, phase.attempts)).collect(),
        status.backup.clone().or(manifest),
        conditions.filter(|(name, _)| SINCE_THE_FIRST.contains(&name.as_str())).collect(),
    )
}

/// Conditions that every version has.
const SINCE_THE_FIRST: [&str; 8] =
    ["Ready", "Reconciling", "Stalled", "WorkersFrozen", "PreflightPassed", "DataSwapped", "WorkersRestored", "RollbackAvailable"];

#[tokio::test(flavor = "multi_thread")]
async fn finished_releases_keep_their_status_and_their_way_back() {
    each(Crossing::upgrades(), &["finished"], knows_what_is_live).await;
}

/// A dry run of one version goes live with the other, without importing again.
pub async fn goes_live_from_a_dry_run(crossing: Crossing, _: String) {
    let stage = Stage::new("dry").await;
    let operator = crossing.depart(&stage).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    operator.kill().await;

    let _operator = crossing.arrive(&stage).await;
    stage.edit("jul2026", r#"{"dryRun":false}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.audit("Jul2026", "StagingRebuilt").await, "");
    assert_eq!(stage.import_attempts("Jul2026").await, "1", "each import ran once");
    assert_eq!((condition(&status, "Ready").as_str(), stage.live_month().await.as_str()), ("True", "1"));
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_goes_live_with_the_new_version_from_the_rows_that_it_imported() {
    each(Crossing::upgrades(), &["a dry run"], goes_live_from_a_dry_run).await;
}

/// A release that one version suspended is resumed by the other.
pub async fn resumes(crossing: Crossing, more: String) {
    let stage = Stage::new("suspended").await;
    stage.make_release("jul2026", "Jul2026", &more).await;
    if more.is_empty() {
        // In mid-run, before the next phase.
        crossing.halt(&stage, "ImportCore:end").await;
        stage.edit("jul2026", r#"{"suspend":true}"#).await;
    }
    let operator = crossing.depart(&stage).await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    operator.kill().await;

    let _operator = crossing.arrive(&stage).await;
    stage.edit("jul2026", r#"{"suspend":false,"phases":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.audit("Jul2026", "StagingRebuilt").await, "");
    assert_eq!(stage.import_attempts("Jul2026").await, "1", "each import ran once");
    assert_eq!(stage.live_month().await, "1");
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_release_is_resumed_by_the_new_version() {
    each(Crossing::upgrades(), &["", "phases: {stopAfter: ImportCore}"], resumes).await;
}

/// A release that failed with one version is tried again with the other.
pub async fn tries_again(crossing: Crossing, _: String) {
    let stage = Stage::new("failed").await;
    let operator = crossing.depart(&stage).await;
    until("the ledger is there", || async {
        (stage.text("SELECT to_regclass('portal_release.release_events') IS NOT NULL").await == "true").then_some(())
    })
    .await;
    stage.execute("TRUNCATE ops.base_backups").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let before = stage.wait("jul2026", "Failed", stalled).await;
    assert_eq!(before.state, Some(ReleaseState::Failed), "{}", before.message);
    operator.kill().await;

    let _operator = crossing.arrive(&stage).await;
    stage.edit("jul2026", r#"{"reason":"looked at by another version"}"#).await;
    let after = stage.wait("jul2026", "Failed", stalled).await;
    assert_eq!(after.message, before.message, "it still says why");
    stage.execute("INSERT INTO ops.base_backups (finished_at) VALUES (now())").await;
    stage.edit("jul2026", r#"{"retry":1}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_release_says_why_and_is_retried_by_the_new_version() {
    each(Crossing::upgrades(), &["failed"], tries_again).await;
}
