//! Disk space: Preflight reports it, and refuses a release that does not fit.

use portal_release_operator::api::{PhaseName, ReleaseState};

use crate::support::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_fit_on_the_disk_is_refused_in_preflight() {
    let stage = Stage::new("disk").await;
    stage.edit_portal(r#"{"preflight": {"disk": {"freeBytesQuery": "SELECT 1000"}}}"#).await;
    let _operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let failed = stage.wait_state("jul2026", ReleaseState::Failed).await;
    assert!(failed.message.contains("the disk is too small: the release needs about"), "{}", failed.message);
    assert!(failed.message.contains("1000 B are free; enlarge the disk"), "{}", failed.message);
    let phase = |status: &portal_release_operator::api::PortalReleaseStatus, name| {
        status.phases.iter().find(|phase| phase.name == name).cloned().expect("the phase")
    };
    assert_eq!(phase(&failed, PhaseName::BuildStaging).attempts, 0, "nothing was built");

    stage.edit_portal(r#"{"preflight": {"disk": {"freeBytesQuery": "SELECT 1e12"}}}"#).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let validated = stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let message = phase(&validated, PhaseName::Preflight).message;
    assert!(message.contains("needs about ") && message.contains(" of disk, 931.3 GiB are free"), "{message}");
}
