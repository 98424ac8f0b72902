//! A release may be deleted at any moment, also with its namespace, its Portal or its Secret: workers come back and nothing is held.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use portal_release_operator::api::ReleaseState;
use serde_json::json;

use crate::support::{Operator, Stage, operator::signal, until};

/// Statistics have a file for each label; these tests use more labels than there are files.
const WITHOUT_FILES: &str = "imports: {skip: [country_statistics]}";

impl Stage {
    async fn delete(&self, name: &str) {
        self.releases().delete(name, &DeleteParams::default()).await.expect("the release is deleted");
    }

    /// Label and state of what readers see, as the ledger has it.
    async fn current(&self) -> String {
        self.text(
            "SELECT label || ' ' || state FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.current_release LIMIT 1",
        )
        .await
    }

    /// An operator that halts at each of these points once.
    async fn halting(&self, points: &[&str]) -> Operator {
        let arguments: Vec<&str> = points.iter().flat_map(|point| ["--halt-at", point]).collect();
        self.operator_with("operator", &arguments).await
    }

    async fn assert_finalized(&self, after: &str) {
        assert_eq!(self.workers().await, Self::WORKERS, "workers are back after {after}");
        assert!(!self.is_locked().await, "the lock is free after {after}");
        assert_eq!(self.open_runs().await, "0", "no run is open after {after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deleted_before_its_swap_leaves_nothing() {
    let stage = Stage::new("delbefore").await;
    let points = [
        "AcquireLock:begin",
        "AcquireLock:end",
        "CreateStagingViews:begin",
        "CreateStagingViews:end",
        "Preflight:begin",
        "Preflight:end",
        "BuildStaging:begin",
        "BuildStaging:end",
        "ImportCore:begin",
        "ImportCore:end",
        "ImportRelated:begin",
        "ImportRelated:end",
        "ValidateAndManifest:begin",
        "ValidateAndManifest:end",
        "Freeze:begin",
        "Freeze:end",
        "FinaliseSwap:end",
    ];
    let operator = stage.halting(&points).await;
    let before = stage.world().await;
    for point in points {
        // The same name and the same label each time: what was deleted before it went live runs again.
        stage.make_release("jul2026", "Jul2026", "").await;
        operator.logs(&format!("halted at {point}")).await;
        stage.delete("jul2026").await;
        stage.wait_gone("jul2026").await;
        assert_eq!(stage.staging().await, "", "staging is gone after {point}");
        stage.assert_untouched(&before, &format!("the deletion at {point}")).await;
    }
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");

    // A live one is deleted and its data stays.
    let live = stage.world().await;
    stage.delete("jul2026").await;
    stage.wait_gone("jul2026").await;
    stage.assert_untouched(&live, "the deletion of a live release").await;
    assert_eq!(stage.current().await, "Jul2026 Live");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deleted_after_its_swap_stays_live() {
    let stage = Stage::new("delafter").await;
    let points = [
        "CreateDownloadsView:begin",
        "Scale:begin",
        "Scale:end",
        "PostSwap:begin",
        "PostSwap:end",
        "CleanupAndRetention:begin",
        "CleanupAndRetention:end",
        "ReleaseLock:begin",
        "ReleaseLock:end",
        "ResetCheckpoints:begin",
        "ResetCheckpoints:end",
    ];
    let operator = stage.halting(&points).await;
    for (index, point) in points.into_iter().enumerate() {
        let label = format!("Aft{index:04}");
        stage.make_release("after", &label, WITHOUT_FILES).await;
        operator.logs(&format!("halted at {point}")).await;
        stage.delete("after").await;
        stage.wait_gone("after").await;
        assert_eq!(stage.live_month().await, "1", "readers see the new data after {point}");
        assert_eq!(stage.current().await, format!("{label} Live"), "after {point}");
        stage.assert_finalized(&format!("the deletion at {point}")).await;
    }
    // Whatever was skipped is cleaned up by the next release.
    stage.make_release("next", "Nxt0001", WITHOUT_FILES).await;
    stage.wait_state("next", ReleaseState::Live).await;
    assert_eq!(stage.staging().await, "");
    assert_eq!(
        stage.text("SELECT count(DISTINCT substr(relname, 1, 12)) FROM pg_class WHERE relname ~ '^bk[0-9]{10}_' AND relkind = 'r'").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_release_is_deleted_with_its_staging() {
    let stage = Stage::new("delstill").await;
    let _operator = stage.operator().await;
    let before = stage.world().await;
    stage.make_release("dry", "Jul2026", "dryRun: true").await;
    stage.wait_state("dry", ReleaseState::DryRunComplete).await;
    stage.make_release("queued", "Aug2026", "").await;
    stage.wait_state("queued", ReleaseState::Queued).await;
    stage.make_release("held", "Sep2026", "suspend: true").await;
    stage.wait_state("held", ReleaseState::Suspended).await;
    for name in ["held", "queued"] {
        stage.delete(name).await;
        stage.wait_gone(name).await;
        assert_ne!(stage.staging().await, "", "the dry run's staging is not {name}'s");
    }
    stage.delete("dry").await;
    stage.wait_gone("dry").await;
    assert_eq!(stage.staging().await, "");
    stage.assert_untouched(&before, "the deletion of a dry run").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_needs_neither_the_portal_nor_its_secret() {
    let stage = Stage::new("delwithout").await;
    let operator = stage.halting(&["ImportCore:begin", "Freeze:end"]).await;
    let before = stage.world().await;

    stage.make_release("jul2026", "Jul2026", "").await;
    operator.logs("halted at ImportCore:begin").await;
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let secret = secrets.get("portal-db").await.expect("the Secret");
    secrets.delete("portal-db", &DeleteParams::default()).await.expect("the Secret is deleted");
    stage.delete("jul2026").await;
    stage.wait_gone("jul2026").await;
    assert_eq!(stage.staging().await, "");
    stage.assert_untouched(&before, "a deletion without a Secret").await;

    let mut again = Secret { data: secret.data, ..Secret::default() };
    again.metadata.name = Some("portal-db".to_owned());
    secrets.create(&kube::api::PostParams::default(), &again).await.expect("the Secret is made again");
    stage.make_release("jul2026", "Jul2026", "").await;
    operator.logs("halted at Freeze:end").await;
    stage.portals().delete("protected-planet", &DeleteParams::default()).await.expect("the Portal is deleted");
    stage.delete("jul2026").await;
    stage.wait_gone("jul2026").await;
    assert_eq!(stage.staging().await, "");
    stage.assert_finalized("a deletion without a Portal").await;
    assert_eq!(stage.live_month().await, "0");
}

impl Stage {
    /// Deletes the namespace while a release is halted at a point, and waits until nothing of it is left.
    async fn delete_namespace_at(name: &str, point: &str, month: &str) {
        let stage = Self::new(name).await;
        let operator = stage.halting(&[point]).await;
        stage.make_release("jul2026", "Jul2026", "").await;
        operator.logs(&format!("halted at {point}")).await;

        let namespaces: Api<Namespace> = Api::all(stage.client.clone());
        namespaces.delete(&stage.namespace, &DeleteParams::default()).await.expect("the namespace is deleted");
        until(&format!("the namespace is gone after {point}"), || async {
            namespaces.get_opt(&stage.namespace).await.ok()?.is_none().then_some(())
        })
        .await;
        until("the lock is free", || async { (!stage.is_locked().await).then_some(()) }).await;
        assert_eq!(stage.open_runs().await, "0", "no run is open after {point}");
        assert_eq!(stage.live_month().await, month, "what readers see after {point}");
        let health = reqwest::get(format!("http://{}/healthz", operator.address())).await.expect("the operator answers");
        assert_eq!(health.status(), 200);
        let log = operator.log();
        let refused: Vec<&str> =
            log.lines().filter(|line| line.contains("HTTP 403") || line.to_lowercase().contains("forbidden")).collect();
        assert!(refused.is_empty(), "the operator was refused: {refused:#?}");
        assert!(operator.terminate().await, "the operator ends well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_away_in_mid_import() {
    Stage::delete_namespace_at("nsimport", "ImportCore:begin", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_away_while_workers_are_frozen() {
    Stage::delete_namespace_at("nsfrozen", "Freeze:end", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_away_after_the_swap() {
    Stage::delete_namespace_at("nsswapped", "Scale:begin", "1").await;
}

impl Stage {
    /// Deletes a release and strips its finalizer: the operator has no time to take anything back.
    async fn tear_away(&self, name: &str, operator: &Operator) {
        let stripped = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        signal(operator.pid(), "STOP");
        self.delete(name).await;
        self.releases().patch(name, &PatchParams::default(), &stripped).await.expect("the finalizer is stripped");
        self.wait_gone(name).await;
        signal(operator.pid(), "CONT");
    }

    /// The same after the operator was killed.
    async fn tear_away_from(&self, operator: Operator, name: &str) {
        operator.kill().await;
        let stripped = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        self.delete(name).await;
        self.releases().patch(name, &PatchParams::default(), &stripped).await.expect("the finalizer is stripped");
        self.wait_gone(name).await;
    }

    /// Waits until so many runs were closed without their objects.
    async fn cleaned_up(&self, runs: usize) {
        let closed = "SELECT count(*) FROM portal_release.release_events e JOIN portal_release.runs r ON r.id = e.run_id
            WHERE e.event = 'CleaningUp' AND e.message LIKE '%deleted while the operator was down%' AND r.closed_at IS NOT NULL";
        until("the run is closed", || async { (self.text(closed).await == runs.to_string()).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deleted_by_force_is_cleaned_up_without_another() {
    let stage = Stage::new("delforce").await;
    let halting = ["--leader-election=false", "--halt-at", "Freeze:end"];
    let operator = stage.operator_with("operator", &[&halting[..], &["--halt-at", "Scale:begin"]].concat()).await;
    let before = stage.world().await;

    // In the middle of a long statement.
    let portal = stage.portals().get("protected-planet").await.expect("the Portal").spec;
    stage.change_import("sources", |query| format!("{query} CROSS JOIN (SELECT pg_sleep(1800)) AS pause")).await;
    stage.make_release("torn", "Jul2026", "").await;
    until("the import sleeps", || async { (stage.sleeping().await == "1").then_some(()) }).await;
    stage.tear_away("torn", &operator).await;
    stage.cleaned_up(1).await;
    assert_eq!(stage.sleeping().await, "0", "the statement of the release that is gone was cut off");
    stage.assert_untouched(&before, "a release that was torn away in mid-import").await;
    stage.change_portal(|now| *now = portal.clone()).await;

    // Workers are stopped, and no other release is there; the operator hears of it, or is away until all is over.
    stage.make_release("torn", "Jul2026", "").await;
    operator.logs("halted at Freeze:end").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.tear_away("torn", &operator).await;
    stage.cleaned_up(2).await;
    stage.assert_untouched(&before, "a release that was torn away while workers were stopped").await;
    stage.make_release("torn", "Jul2026", "").await;
    operator.logs("halted at Scale:begin").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.tear_away_from(operator, "torn").await;
    let operator = stage.operator_with("operator", &halting).await;
    stage.cleaned_up(3).await;
    stage.assert_finalized("the restart").await;
    assert_eq!(stage.live_month().await, "1", "what was swapped stays live");

    // Only a finished one is there.
    stage.make_release("aug2026", "Aug2026", "dryRun: true").await;
    stage.wait_state("aug2026", ReleaseState::DryRunComplete).await;
    stage.edit("aug2026", r#"{"abort":{"reason":"not this month"}}"#).await;
    stage.wait_state("aug2026", ReleaseState::Aborted).await;
    stage.make_release("sep2026", "Sep2026", "").await;
    operator.logs("halted at Freeze:end").await;
    stage.tear_away("sep2026", &operator).await;
    stage.cleaned_up(4).await;
    stage.assert_finalized("the last one").await;

    stage.make_release("next", "Oct2026", "").await;
    let status = stage.wait_state("next", ReleaseState::Live).await;
    assert!(status.current);
    assert_eq!(stage.staging().await, "");
    stage.assert_finalized("the release after those that were torn away").await;
}
