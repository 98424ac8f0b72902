//! The good way: a release goes live, a dry run becomes a release, a release is rolled back and forward again.

use portal_release_operator::api::{PhaseName, PhaseState, ReleaseState};

use crate::support::{
    Stage,
    stage::{condition, release_yaml},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_live() {
    let stage = Stage::new("live").await;
    let operator = stage.operator().await;
    assert_eq!(stage.live_month().await, "0", "the former release is live");

    stage.make_release("jul2026", "Jul2026", "reason: July data release").await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;

    assert_eq!(stage.live_month().await, "1", "readers see the new data everywhere");
    assert_eq!(stage.workers().await, Stage::WORKERS, "workers are back at their own numbers");
    assert!(status.current);
    assert_eq!(status.progress, 100);
    assert_eq!(condition(&status, "Ready"), "True");
    assert_eq!(condition(&status, "Reconciling"), "False");
    assert_eq!(condition(&status, "Stalled"), "False");
    assert_eq!(condition(&status, "RollbackAvailable"), "True");
    let backup = status.backup.clone().expect("the backup's timestamp");
    assert_eq!(stage.text(&format!("SELECT release_month FROM bk{backup}_global_statistics")).await, "0", "the former data is kept");
    let skipped: Vec<PhaseName> = status.phases.iter().filter(|phase| phase.state == PhaseState::Skipped).map(|phase| phase.name).collect();
    assert_eq!(skipped, [PhaseName::RefreshViews], "everything that the Portal has is done");

    let manifest = status.manifest.expect("the manifest");
    let answer = reqwest::get(&manifest.url).await.expect("the manifest is served");
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.expect("its text");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["label"], "Jul2026");
    let rows = stage.text("SELECT count(*) FROM protected_areas").await;
    assert_eq!(json["tables"]["protected_areas"]["rows"].to_string(), rows);
    assert_eq!(manifest.url, format!("http://{}/manifests/{}/protected-planet/Jul2026.json", operator.address(), stage.namespace));

    let hooks: Vec<String> =
        stage.receiver.requests().into_iter().filter(|request| request.line.ends_with("/cache")).map(|request| request.line).collect();
    assert_eq!(hooks, ["DELETE /cache"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_is_live_is_not_released_again() {
    let stage = Stage::new("again").await;
    let _operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;

    stage.apply(&release_yaml("july-again", "Jul2026", "")).await;
    let status = stage.wait_state("july-again", ReleaseState::Live).await;
    assert!(status.message.contains("has been released by PortalRelease jul2026"), "{}", status.message);
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.runs").await, "1", "nothing was run");
}
