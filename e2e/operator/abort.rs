//! An abort before the swap leaves nothing behind; after it there is only a rollback.

use portal_release_operator::api::{PhaseName, ReleaseState};

use crate::support::{Stage, until, world::World};

impl Stage {
    /// Waits until the release is Aborted, and checks whether anything is left of it.
    async fn wait_aborted(&self, name: &str, before: &World) {
        let status = self.wait_state(name, ReleaseState::Aborted).await;
        assert!(status.message.contains("a typo in the press release"), "{}", status.message);
        assert_eq!(self.staging().await, "", "staging is gone");
        assert_eq!(status.frozen_workloads, [], "no worker is held");
        self.assert_untouched(before, &format!("the abort of {name}")).await;
    }
}

const ABORT: &str = r#"{"abort": {"reason": "a typo in the press release"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_cuts_off_the_running_import_and_a_retry_starts_over() {
    let stage = Stage::new("abortimport").await;
    let _operator = stage.operator().await;
    let before = stage.world().await;
    let portal = stage.portals().get("protected-planet").await.expect("the Portal").spec;
    stage.change_import("sources", |query| format!("{query} CROSS JOIN (SELECT pg_sleep(1800)) AS pause")).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    until("the import sleeps", || async { (stage.sleeping().await == "1").then_some(()) }).await;
    assert_eq!(stage.status("jul2026").await.phase, Some(PhaseName::ImportCore));
    assert_ne!(stage.staging().await, "");

    stage.edit("jul2026", ABORT).await;
    until("the half-hour statement is cut off", || async { (stage.sleeping().await == "0").then_some(()) }).await;
    stage.wait_aborted("jul2026", &before).await;

    // The latch stays; a raised retry begins from the start.
    stage.change_portal(|now| *now = portal.clone()).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
    let attempts = |wanted: PhaseName| status.phases.iter().find(|phase| phase.name == wanted).map(|phase| phase.attempts);
    assert_eq!(attempts(PhaseName::CreateStagingViews), Some(2), "from the start");
    assert_eq!(attempts(PhaseName::ValidateAndManifest), Some(1));

    // Aborting what is live is refused, with a pointer to the way back.
    stage.edit("jul2026", r#"{"abort": {"reason": "too late"}}"#).await;
    let status = stage.wait("jul2026", "the message points to rollback", |status| status.message.contains("abort is refused")).await;
    assert_eq!(status.state, Some(ReleaseState::Live));
    assert!(status.message.contains("use spec.rollback"), "{}", status.message);
    assert_eq!(stage.live_month().await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_while_workers_are_frozen_brings_them_back() {
    let stage = Stage::new("abortfrozen").await;
    let operator = stage.operator_with("operator", &["--halt-at", "Freeze:end", "--halt-at", "FinaliseSwap:begin"]).await;
    let before = stage.world().await;
    for (name, label, point) in [("jul2026", "Jul2026", "Freeze:end"), ("aug2026", "Aug2026", "FinaliseSwap:begin")] {
        stage.make_release(name, label, "").await;
        operator.logs(&format!("halted at {point}")).await;
        assert_eq!(stage.workers().await, Stage::FROZEN, "frozen at {point}");
        stage.edit(name, ABORT).await;
        stage.wait_aborted(name, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_release_can_be_aborted_and_one_that_has_swapped_cannot() {
    let stage = Stage::new("abortstill").await;
    let operator = stage.operator_with("operator", &["--halt-at", "CreateDownloadsView:begin"]).await;
    let before = stage.world().await;

    // A finished dry run.
    stage.make_release("dry", "Jul2026", "dryRun: true").await;
    stage.wait_state("dry", ReleaseState::DryRunComplete).await;
    assert_ne!(stage.staging().await, "", "a dry run keeps its staging");

    // Who waits for it.
    stage.make_release("queued", "Aug2026", "").await;
    stage.wait_state("queued", ReleaseState::Queued).await;
    stage.edit("queued", ABORT).await;
    stage.wait("queued", "Aborted or refused", |status| status.state == Some(ReleaseState::Aborted)).await;
    assert_ne!(stage.staging().await, "", "the dry run of the other release is not touched");

    stage.edit("dry", ABORT).await;
    stage.wait_aborted("dry", &before).await;

    // One that was suspended before it began, and one that stopped in its course.
    stage.make_release("held", "Sep2026", "suspend: true").await;
    stage.wait_state("held", ReleaseState::Suspended).await;
    stage.edit("held", ABORT).await;
    stage.wait("held", "Aborted", |status| status.state == Some(ReleaseState::Aborted)).await;
    stage.make_release("stopped", "Oct2026", "phases: {stopAfter: ImportCore}").await;
    stage.wait_state("stopped", ReleaseState::Suspended).await;
    stage.edit("stopped", ABORT).await;
    stage.wait_aborted("stopped", &before).await;

    // After the swap it is refused, and the release continues.
    stage.make_release("live", "Nov2026", "imports: {skip: [country_statistics]}").await;
    operator.logs("halted at CreateDownloadsView:begin").await;
    stage.edit("live", ABORT).await;
    let status = stage.wait("live", "the message points to rollback", |status| status.message.contains("abort is refused")).await;
    assert_eq!(status.state, Some(ReleaseState::Running));
    assert!(status.message.contains("use spec.rollback"), "{}", status.message);
    operator.kill().await;
    let _operator = stage.operator().await;
    let status = stage.wait_state("live", ReleaseState::Live).await;
    assert!(status.message.contains("abort is refused"), "{}", status.message);
    assert_eq!(stage.workers().await, Stage::WORKERS);
}
