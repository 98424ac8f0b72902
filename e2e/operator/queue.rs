//! One release of a portal at a time; who waits, for whom, and how one stops in between.

use portal_release_operator::api::{PhaseName, PhaseState, ReleaseState};

use crate::support::Stage;

/// A killed leader's Lease runs out after 15 seconds; these tests are not about that.
const SINGLE: &str = "--leader-election=false";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_release_waits_and_then_runs() {
    let stage = Stage::new("queue").await;
    let operator = stage.operator_with("operator", &[SINGLE, "--halt-at", "Preflight:begin"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    operator.logs("halted at Preflight:begin").await;
    stage.make_release("aug2026", "Aug2026", "").await;
    let waiting = stage.wait_state("aug2026", ReleaseState::Queued).await;
    assert!(waiting.message.contains("jul2026"), "it says for whom: {}", waiting.message);

    // A running release cannot be changed under its own feet.
    let refused =
        stage.kubectl(&["patch", "portalrelease", "jul2026", "--type", "merge", "-p", "{\"spec\":{\"imports\":{\"sample\":5}}}"], "").await;
    assert!(refused.unwrap_err().contains("may not change while the release is"));

    operator.kill().await;
    let _operator = stage.operator_with("operator", &[SINGLE]).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.wait_state("jul2026", ReleaseState::Superseded).await.progress, 100);
    let order = stage.text("SELECT string_agg(r.label, ' ' ORDER BY u.opened_at) FROM portal_release.runs u JOIN portal_release.releases r ON r.id = u.release_id").await;
    assert_eq!(order, "Jul2026 Aug2026");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_stops_where_it_should_and_resumes_from_there() {
    let stage = Stage::new("stop").await;
    let _operator = stage.operator().await;
    // Suspended before it starts: nothing happens.
    stage.make_release("jul2026", "Jul2026", "suspend: true\nphases: {stopAfter: ImportCore}").await;
    let held = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert!(held.message.contains("before it started"), "{}", held.message);

    // The selected phases, and no more.
    stage.edit("jul2026", "{\"suspend\":false}").await;
    let stopped = stage
        .wait("jul2026", "stopped after ImportCore", |status| {
            status.state == Some(ReleaseState::Suspended) && status.message.contains("the selected phases are done")
        })
        .await;
    assert!(!stopped.current);
    assert_eq!(stage.live_month().await, "0", "nothing went live");
    assert!(!stage.is_locked().await, "no other tool is kept out meanwhile");
    let imported = |stage: &Stage| {
        let (sql, database) = ("SELECT attempts FROM portal_release.imports WHERE import = 'protected_areas'", stage.database.clone());
        async move { sqlx::query_scalar::<_, i32>(sql).fetch_one(&database).await.expect("the ledger") }
    };
    assert_eq!(imported(&stage).await, 1);

    // On from where it stopped: what is imported is not imported again.
    stage.edit("jul2026", "{\"phases\":{\"stopAfter\":\"ValidateAndManifest\"}}").await;
    stage.wait("jul2026", "validated", |status| status.manifest.is_some() && status.state == Some(ReleaseState::Suspended)).await;
    assert_eq!(imported(&stage).await, 1);

    // The swap alone, from the validated staging.
    stage.edit("jul2026", "{\"phases\":{\"stopAfter\":null,\"startAt\":\"FinaliseSwap\"}}").await;
    let live = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(imported(&stage).await, 1, "it was validated again and not imported again");
    assert_eq!(stage.live_month().await, "1");
    let scale = live.phases.iter().find(|phase| phase.name == PhaseName::Scale).expect("Scale");
    assert_eq!(scale.state, PhaseState::Succeeded, "frozen workers always come back");
    assert_eq!(stage.workers().await, Stage::WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_waits_for_a_safe_point() {
    let stage = Stage::new("suspend").await;
    let operator = stage.operator_with("operator", &[SINGLE, "--halt-at", "ImportCore:begin"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    operator.logs("halted at ImportCore:begin").await;
    operator.kill().await;
    stage.edit("jul2026", "{\"suspend\":true}").await;
    let operator = stage.operator_with("operator", &[SINGLE, "--halt-at", "Freeze:end"]).await;
    let held = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert!(held.message.contains("safe point"), "{}", held.message);
    assert_eq!(stage.workers().await, Stage::WORKERS);

    // From Freeze to Scale there is none: the workers come back first.
    stage.edit("jul2026", "{\"suspend\":false}").await;
    operator.logs("halted at Freeze:end").await;
    operator.kill().await;
    stage.edit("jul2026", "{\"suspend\":true}").await;
    let _operator = stage.operator_with("operator", &[SINGLE]).await;
    let held = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert!(held.current, "the swap was made: workers were frozen for it");
    assert_eq!(stage.workers().await, Stage::WORKERS, "no suspension keeps workers frozen");
    stage.edit("jul2026", "{\"suspend\":false}").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
}
