//! Workers are stopped exactly while the swap needs it, and come back exactly as they were.

use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use portal_release_operator::api::{PhaseName, Portal, ReleaseState};
use serde_json::json;

use crate::support::{
    Stage,
    looks::{RECORD, stopped},
    stage::condition,
    until,
};

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_stopped_from_the_end_of_freeze_until_scale_begins() {
    let stage = Stage::new("freeze").await;
    stage.workers_run().await;
    let portal_api = stage.portal_api().await;

    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = stage.halted_at("Freeze:begin").await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "nothing is stopped before Freeze begins");
    assert_eq!(stage.recorded().await, "");
    operator.kill().await;

    // Once before Freeze commits, once before the swap does, once before the workers come back.
    for point in ["Freeze:end", "FinaliseSwap:end", "Scale:begin"] {
        let operator = stage.halted_at(point).await;
        assert_eq!(stage.workers().await, Stage::FROZEN, "{point}");
        assert_eq!(stage.worker_pods().await, 0, "no pod is left at {point}");
        assert_eq!(stage.recorded().await, RECORD, "{point}: never a zero that the operator caused");
        let status =
            stage.wait("jul2026", "frozen", |status| stopped(status) == RECORD && condition(status, "WorkersFrozen") == "True").await;
        assert_eq!(status.state, Some(ReleaseState::Running), "{point}");
        operator.kill().await;
    }

    let operator = stage.halted_at("Scale:end").await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "Scale ends when they are back");
    assert_eq!(stage.worker_pods().await, 5);
    operator.kill().await;

    let _operator = stage.operator_alone().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_eq!(stopped(&status), "");
    assert_eq!(stage.recorded().await, "");
    assert_eq!(condition(&status, "WorkersFrozen"), "False");
    assert_eq!(condition(&status, "WorkersRestored"), "True");
    assert_eq!(stage.portal_api().await, portal_api, "who serves readers is never touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn freeze_before_preflight_stops_the_workers_early_and_leaves_stopped_ones_stopped() {
    let stage = Stage::new("early").await;
    stage.edit_portal(r#"{"freeze":{"before":"Preflight"}}"#).await;
    // Another tool stopped these two: they are not ours to start.
    stage.kubectl(&["scale", "statefulset", "tile-worker", "--replicas", "0"], "").await.expect("scaled");
    stage.kubectl(&["patch", "cronjob", "nightly-exports", "-p", r#"{"spec":{"suspend":true}}"#], "").await.expect("suspended");
    let before = stage.workers().await;

    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = stage.halted_at("Preflight:begin").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    let status = stage.wait("jul2026", "in Preflight", |status| status.phase == Some(PhaseName::Preflight)).await;
    let order: Vec<PhaseName> = status.phases.iter().map(|phase| phase.name).skip(2).take(4).collect();
    assert_eq!(order, [PhaseName::CreateStagingViews, PhaseName::Freeze, PhaseName::Preflight, PhaseName::BuildStaging]);
    operator.kill().await;

    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, before, "what was stopped before is stopped again");
    assert_eq!(before, "importer-worker=3 tile-worker=0 nightly-exports=suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stopped_before_ledger_and_status_have_the_numbers() {
    let stage = Stage::new("record").await;
    stage.workers_run().await;
    // Status writes that carry the record are refused for a while.
    let policy = Policy::put(
        &stage,
        "portalrelease.dev",
        "portalreleases/status",
        "!has(object.status.frozenWorkloads) || object.status.frozenWorkloads.size() == 0",
    )
    .await;
    let refused = r#"{"status":{"frozenWorkloads":[{"kind":"Deployment","name":"x","replicas":1}]}}"#;
    stage.make_release("jul2026", "Jul2026", "suspend: true").await;
    let dry_run = ["patch", "portalrelease", "jul2026", "--subresource", "status", "--type", "merge", "--dry-run=server", "-p", refused];
    until("the policy works", || async { stage.kubectl(&dry_run, "").await.is_err().then_some(()) }).await;

    let operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    stage.edit("jul2026", r#"{"suspend":false}"#).await;
    until("the ledger has the numbers", || async { (stage.recorded().await == RECORD).then_some(()) }).await;
    operator.logs("reconcile of jul2026 failed").await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "nothing is stopped while the status cannot say what there was");
    assert_eq!(stage.worker_pods().await, 5);

    policy.remove().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert!(stage.event_notes("jul2026", "WorkersFrozen").await.iter().any(|note| note.contains("importer-worker (3)")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_freeze_holds_the_workers_with_and_without_a_release() {
    let stage = Stage::new("emergency").await;
    stage.workers_run().await;
    let operator = stage.operator_alone().await;

    // Without a release.
    stage.edit_portal(r#"{"frozen":true}"#).await;
    stage.portal_frozen("True").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    assert_eq!(stage.worker_pods().await, 0);
    operator.kill().await;
    let operator = stage.operator_alone().await;
    stage.edit_portal(r#"{"frozen":false}"#).await;
    stage.portal_frozen("False").await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "an operator that was restarted meanwhile brings them back");

    // A release that runs meanwhile.
    stage.edit_portal(r#"{"frozen":true}"#).await;
    stage.portal_frozen("True").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::FROZEN, "the release leaves them stopped");
    let scale = status.phases.iter().find(|phase| phase.name == PhaseName::Scale).expect("Scale");
    assert!(scale.message.contains("frozen is true"), "{}", scale.message);
    stage.edit_portal(r#"{"frozen":false}"#).await;
    stage.portal_frozen("False").await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    operator.kill().await;

    // It begins while a release has the workers stopped, and outlives the release.
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.halted_at("FinaliseSwap:begin").await.kill().await;
    stage.edit_portal(r#"{"frozen":true}"#).await;
    let operator = stage.operator_alone().await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.edit_portal(r#"{"frozen":false}"#).await;
    stage.portal_frozen("False").await;
    assert_eq!(stage.workers().await, Stage::WORKERS, "the numbers from before the release, not its zeros");
    operator.kill().await;

    // It ends while a release has the workers stopped: the release brings them back.
    stage.edit_portal(r#"{"frozen":true}"#).await;
    stage.make_release("sep2026", "Sep2026", "").await;
    let operator = stage.halted_at("FinaliseSwap:begin").await;
    stage.portal_frozen("True").await;
    stage.edit_portal(r#"{"frozen":false}"#).await;
    until("the Portal has seen it", || async {
        let portal = stage.portals().get("protected-planet").await.ok()?;
        (portal.status?.observed_generation == portal.metadata.generation?).then_some(())
    })
    .await;
    assert_eq!(stage.workers().await, Stage::FROZEN, "the release that is about to swap still needs them stopped");
    operator.kill().await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("sep2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    let portal = forgotten(&stage).await;
    assert_eq!(portal.status.unwrap_or_default().current_label.map(|label| label.0), Some("Sep2026".to_owned()));
}

/// Waits until the Portal has forgotten what it had stopped.
async fn forgotten(stage: &Stage) -> Portal {
    until("the Portal's record is gone", || async {
        let portal = stage.portals().get("protected-planet").await.ok()?;
        portal.status.as_ref()?.frozen_workloads.is_empty().then_some(portal)
    })
    .await
}

/// An admission policy of the stage's namespace, for writes that something else refuses.
struct Policy {
    client: kube::Client,
    name: String,
}

impl Policy {
    async fn put(stage: &Stage, group: &str, resource: &str, allowed: &str) -> Self {
        use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
        let name = stage.namespace.clone();
        let policy = json!({
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Ignore",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
                }]},
                "validations": [{"expression": allowed, "message": "not now"}],
            },
        });
        let binding = json!({
            "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
            },
        });
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(stage.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(stage.client.clone());
        let parsed = (serde_json::from_value(policy).expect("a policy"), serde_json::from_value(binding).expect("a binding"));
        policies.create(&PostParams::default(), &parsed.0).await.expect("the policy is taken");
        bindings.create(&PostParams::default(), &parsed.1).await.expect("the binding is taken");
        Self { client: stage.client.clone(), name }
    }

    async fn remove(self) {
        use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        bindings.delete(&self.name, &DeleteParams::default()).await.expect("the binding goes");
        policies.delete(&self.name, &DeleteParams::default()).await.expect("the policy goes");
    }
}
