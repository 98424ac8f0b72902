//! Gates and hooks by a Kubernetes Job, through the whole operator.

use portal_release_operator::api::{PhaseName, ReleaseState};
use serde_json::json;

use crate::{
    jobs::job,
    support::{
        Stage,
        containers::{Containers, set_status},
        looks::stopped,
        until,
    },
};

/// Runs until the file exists.
fn until_exists(stage: &Stage, file: &str) -> String {
    format!("until [ -e {} ]; do sleep 0.05; done", stage.directory().join(file).display())
}

fn touch(stage: &Stage, file: &str) {
    std::fs::write(stage.directory().join(file), "").expect("the file");
}

impl Stage {
    /// The Portal has one gate, a Job of this template.
    async fn gate_by_job(&self, phase: &str, hard: bool, template: &str) {
        self.job_template(template).await;
        let gate = json!({"name": "unit-tests", "phase": phase, "hard": hard, "job": {"templateConfigMapRef": {"name": "portal-sql"}}});
        self.edit_portal(&json!({ "gates": [gate] }).to_string()).await;
    }

    /// The Portal has one hook, a Job of this template.
    async fn hook_by_job(&self, template: &str) {
        self.job_template(template).await;
        let hook = json!({"name": "search-index", "job": {"templateConfigMapRef": {"name": "portal-sql"}}});
        self.edit_portal(&json!({ "postSwap": [hook] }).to_string()).await;
    }

    /// Name, attempt, state and run of each Job in the ledger.
    async fn ledger_jobs(&self) -> String {
        self.text("SELECT coalesce(string_agg(format('%s %s %s %s', purpose, item, attempt, state), ', '), '') FROM portal_release.jobs")
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_gate_by_job_rejects_with_the_end_of_its_log_and_passes_when_the_job_succeeds() {
    let stage = Stage::new("gatejob").await;
    let containers = Containers::of(&stage);
    let operator = stage.operator().await;
    let before = stage.world().await;
    let script = "echo \"$PORTAL_NAME $PORTAL_GATE $PORTAL_RELEASE_LABEL [${STAGING_TABLE-none}] $STAGING_OF_SOURCES\"; echo \"at $DATABASE_URL\"; echo '3 of 12 tests failed'; exit 7";
    stage.gate_by_job("Preflight", true, &job(script)).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = [
        "gate unit-tests failed: Job ",
        "jul2026-unit-tests-1-",
        "BackoffLimitExceeded",
        "exit code 7",
        "kubectl logs --namespace",
        "protected-planet unit-tests Jul2026 [none] \"public\".\"staging_sources\"",
        "at [secret]",
        "| 3 of 12 tests failed",
    ];
    let status = stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;
    let kept = stage.jobs().await;
    assert!(kept.len() == 1 && status.message.contains(&kept[0]), "it is kept for inspection: {kept:?}: {}", status.message);
    assert_eq!(stage.ledger_jobs().await, "gate unit-tests 1 Ended");
    stage.assert_untouched(&before, "a gate that failed").await;
    let password = stage.env["STAGE_DATABASE_URL"].split(['@', ':']).nth(2).expect("its password").to_owned();
    assert!(!stage.readable().await.contains(&password) && !operator.log().contains(&password), "the password is nowhere");

    stage.job_template(&job("exit 0")).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert_eq!(stage.ledger_jobs().await, "gate unit-tests 2 Succeeded");
    until("both Jobs are gone", || async { stage.jobs().await.is_empty().then_some(()) }).await;
    assert_eq!(containers.started().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_gate_by_job_before_freeze_is_reported_and_a_hard_one_stops_no_worker() {
    let stage = Stage::new("gatefreeze").await;
    let _containers = Containers::of(&stage);
    let _operator = stage.operator().await;
    let workers = stage.workers().await;
    // Longer than it may take: Kubernetes ends it.
    let late = job("echo 'still at it'; sleep 600").replacen("\"spec\": {", "\"spec\": {\"activeDeadlineSeconds\": 2,", 1);
    stage.gate_by_job("Freeze", true, &late).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_failed("jul2026", PhaseName::Freeze, &["gate unit-tests failed: Job ", "DeadlineExceeded"]).await;
    assert_eq!(stage.recorded().await, "", "no worker was recorded, so none was stopped");
    assert_eq!(stage.workers().await, workers);

    stage.gate_by_job("Freeze", false, &job("echo 'one is slow'; exit 1")).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let said = stage.text("SELECT message FROM portal_release.phases WHERE phase = 'Freeze'").await;
    assert!(said.contains("soft gate unit-tests failed") && said.contains("one is slow"), "{said}");
    until("the Job is gone with the end of the release", || async { stage.jobs().await.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gates_job_that_is_deleted_or_evicted_is_no_answer_and_is_run_again() {
    let stage = Stage::new("gategone").await;
    let containers = Containers::of(&stage);
    let operator = stage.operator().await;
    stage.gate_by_job("Preflight", true, &job(&until_exists(&stage, "go"))).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let containers = &containers;
    let pod = async |number: usize| until("a pod runs", || async { containers.started().get(number).cloned() }).await;
    pod(0).await;
    let first = stage.jobs().await;
    stage.kubectl(&["delete", "job", &first[0]], "").await.expect("deleted");

    let second = pod(1).await;
    let evicted = json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
        "containerStatuses": [{"name": "importer", "image": "postgres:15", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]});
    set_status(&stage.client, &stage.namespace, &second, evicted).await;

    pod(2).await;
    let log = operator.log();
    for words in [
        "hard gate unit-tests was interrupted: Job",
        "was deleted while it ran",
        "EvictionByEvictionAPI; it was interrupted: its pod was evicted",
    ] {
        assert!(log.contains(words), "{words}");
    }
    assert_eq!(stage.audit("Jul2026", "PhaseFailed").await, "", "the gate is asked again, and nothing before it is done again");
    assert_eq!(stage.ledger_jobs().await, "gate unit-tests 3 Running", "a number is never given twice");
    touch(&stage, "go");
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_around_jobs_of_gates_and_hooks_leaves_one_of_each() {
    let stage = Stage::new("gatekill").await;
    let containers = Containers::of(&stage);
    stage.gate_by_job("Preflight", true, &job(&until_exists(&stage, "go"))).await;
    let hook = json!({"name": "search-index", "job": {"templateConfigMapRef": {"name": "portal-sql"}}});
    stage.edit_portal(&json!({ "postSwap": [hook] }).to_string()).await;
    stage.make_release("jul2026", "Jul2026", "").await;

    // Announced, and not created.
    let operator = stage.halted_at("Preflight:job").await;
    let announced = stage.text("SELECT job FROM portal_release.jobs WHERE state = 'Running'").await;
    assert!(announced.starts_with("jul2026-unit-tests-1-"), "{announced}");
    assert_eq!(stage.jobs().await, Vec::<String>::new());
    operator.kill().await;

    // In the middle of its work.
    let operator = stage.operator_alone().await;
    until("the gate's pod runs", || async { (containers.started().len() == 1).then_some(()) }).await;
    operator.kill().await;
    assert_eq!(stage.jobs().await.join(" "), announced);
    touch(&stage, "go");

    // The same with the hook.
    let operator = stage.halted_at("PostSwap:job").await;
    assert_eq!(containers.started().len(), 1, "{:?}", containers.started());
    std::fs::remove_file(stage.directory().join("go")).expect("the file");
    operator.kill().await;
    let operator = stage.operator_alone().await;
    until("the hook's pod runs", || async { (containers.started().len() == 2).then_some(()) }).await;
    operator.kill().await;
    touch(&stage, "go");

    // It has succeeded, and the phase has not.
    let operator = stage.halted_at("PostSwap:end").await;
    assert_eq!(stage.ledger_jobs().await, "gate unit-tests 1 Succeeded, postSwap search-index 1 Succeeded");
    operator.kill().await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(containers.started().len(), 2, "{:?}", containers.started());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hooks_job_that_fails_leaves_the_data_live_and_is_run_again_on_request() {
    let stage = Stage::new("hookjob").await;
    let _containers = Containers::of(&stage);
    let _operator = stage.operator().await;

    // A template that is wrong is found before anything runs.
    stage.hook_by_job(&job("true").replace("\"Job\"", "\"Pod\"")).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let place = format!("hook search-index: the Job in ConfigMap {}/portal-sql, key job.yaml", stage.namespace);
    stage.wait_failed("jul2026", PhaseName::Preflight, &[&place, "has kind Pod"]).await;

    stage.job_template(&job("echo \"$PORTAL_HOOK [${STAGING_OF_SOURCES-none}]\"; echo 'no index'; exit 2")).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let words = ["hook search-index failed: Job ", "exit code 2", "search-index [none] | no index", "the data is live", "retry"];
    stage.wait_failed("jul2026", PhaseName::PostSwap, &words).await;
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.jobs().await.len(), 1, "it is kept for inspection");

    stage.job_template(&job("exit 0")).await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.ledger_jobs().await, "postSwap search-index 2 Succeeded");
    until("both Jobs are gone", || async { stage.jobs().await.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_deletes_a_gates_job() {
    let stage = Stage::new("gateabort").await;
    let containers = Containers::of(&stage);
    let _operator = stage.operator().await;
    stage.gate_by_job("Preflight", true, &job("exec sleep 600")).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    until("the gate's pod runs", || async { (containers.started().len() == 1).then_some(()) }).await;
    stage.edit("jul2026", r#"{"abort": {"reason": "not today"}}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Aborted).await;
    until("the Job is gone", || async { stage.jobs().await.is_empty().then_some(()) }).await;
    assert_eq!(stage.ledger_jobs().await, "gate unit-tests 1 Ended", "{}", stopped(&status));
}
