//! Imports by a Kubernetes Job with the user's own image, through the whole operator. [`crate::support::containers`] takes the part of
//! the container runtime; the Jobs run `psql`.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use portal_release_operator::api::{PhaseName, PhaseState, ReleaseState};
use serde_json::json;

pub use crate::support::jobs::{EVALUATIONS, GATE, PSQL, job};
use crate::support::{
    Stage,
    containers::{Containers, set_status},
    gate::Gate,
    until,
};

impl Stage {
    /// Pods of the operator's Jobs that exist.
    async fn job_pods(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels("portalrelease.dev/import=pame_evaluations");
        pods.list(&params).await.expect("the pods").items
    }

    /// How many rows of the staged evaluations there are.
    async fn staged_evaluations(&self) -> String {
        self.text("SELECT count(*) FROM staging_pame_evaluations").await
    }

    /// Everything that people can read of what happened.
    pub async fn readable(&self) -> String {
        let mut text = self.kubectl(&["get", "portalreleases,portals,events,jobs", "-o", "yaml"], "").await.expect("the objects");
        text.push_str(&self.text("SELECT string_agg(e::text, E'\\n') FROM portal_release.release_events e").await);
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fills_a_staged_table_and_its_rows_go_live() {
    let stage = Stage::new("job").await;
    let containers = Containers::of(&stage);
    let operator = stage.operator().await;
    let gate = Gate::shut(&stage, "nothing").await;
    let script = format!(
        "echo \"$PORTAL_NAME $PORTAL_SCHEMA $PORTAL_RELEASE $PORTAL_RELEASE_LABEL $PORTAL_IMPORT [$PORTAL_CHECKPOINT] [$PORTAL_SAMPLE] $STAGING_TABLE $NOTE\"
         {PSQL} -c \"BEGIN; {EVALUATIONS}; SELECT portal_release.reject_row('$PORTAL_JOB', 'no method', '4711', '{{\\\"a\\\": 1}}'); {GATE}; COMMIT\""
    );
    stage.evaluations_by(&job(&script)).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    gate.someone(&stage).await;
    let status = stage
        .wait("jul2026", "the status names its Job", |status| {
            status.imports.iter().any(|import| import.job.is_some()) && status.message.contains("Job")
        })
        .await;
    let running = status.imports.iter().find(|import| import.name == "pame_evaluations").expect("the import");
    assert_eq!(running.state, PhaseState::Running);
    let name = running.job.clone().expect("its Job");
    assert_eq!(stage.jobs().await.join(" "), name);
    assert!(status.message.contains(&format!("Job {name} runs")), "{}", status.message);
    let owner = stage.kubectl(&["get", "job", &name, "-o", "jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name} {.spec.backoffLimit} {.metadata.labels.team}"], "").await;
    assert_eq!(owner.expect("the Job"), "PortalRelease/jul2026 0 data");
    let log = stage.kubectl(&["logs", &format!("job/{name}")], "").await.expect("its log");
    assert_eq!(
        log.trim(),
        "protected-planet public jul2026 Jul2026 pame_evaluations [] [] \"public\".\"staging_pame_evaluations\" Jul2026 $(PORTAL_NAME)"
    );
    gate.open().await;

    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
    let rows = stage.text("SELECT count(*) FROM pame_evaluations").await;
    let imported = status.imports.iter().find(|import| import.name == "pame_evaluations").expect("the import");
    assert_eq!((imported.rows.to_string(), imported.rejected, &imported.job), (rows.clone(), 1, &None));
    assert!(imported.rows > 0);
    let account =
        stage.text("SELECT (rows_read, rows, rows_rejected, attempts) FROM portal_release.imports WHERE import = 'pame_evaluations'").await;
    assert_eq!(account, format!("({},{rows},1,1)", imported.rows + 1));
    let rejected = stage.text("SELECT (import, key, reason, row) FROM portal_release.rejected_rows").await;
    assert_eq!(rejected, r#"(pame_evaluations,4711,"no method","{""a"": 1}")"#);
    assert_ne!(stage.text("SELECT count(*) FROM countries_pame_evaluations").await, "0", "what depends on it came after it");
    until("the Job is gone", || async { stage.jobs().await.is_empty().then_some(()) }).await;
    assert_eq!(containers.started().len(), 1);
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_reports_the_end_of_its_log_and_the_next_one_starts_over_or_at_its_checkpoint() {
    let stage = Stage::new("jobfail").await;
    let containers = Containers::of(&stage);
    let operator = stage.operator().await;
    // Without a checkpoint, then with one, then to the end.
    let script = format!(
        "echo \"attempt $PORTAL_JOB, from [$PORTAL_CHECKPOINT], by $DATABASE_URL\"
         [ -e {flag} ] || {{ {PSQL} -c \"{EVALUATIONS} LIMIT 3\"; echo 'no checkpoint' >&2; exit 3; }}
         d='$' name='(PORTAL_NAME)'
         checkpoint=\"$d$d$name $d$name 5\"
         if [ -z \"$PORTAL_CHECKPOINT\" ]; then
           {PSQL} -c \"BEGIN; {EVALUATIONS} ORDER BY e.asmt_id LIMIT 5; SELECT portal_release.set_checkpoint('$PORTAL_JOB', '$checkpoint'); COMMIT\"
           {PSQL} -c \"SELECT 'stored ' || portal_release.checkpoint('$PORTAL_JOB')\"; exit 4
         fi
         [ \"$PORTAL_CHECKPOINT\" = \"$checkpoint\" ] || {{ echo \"a variable took the place of something: [$PORTAL_CHECKPOINT]\"; exit 5; }}
         {PSQL} -c \"{EVALUATIONS} ORDER BY e.asmt_id OFFSET ${{PORTAL_CHECKPOINT##* }}\"",
        flag = stage.directory().join("flag").display(),
    );
    stage.evaluations_by(&job(&script)).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = [
        "import pame_evaluations: Job",
        "BackoffLimitExceeded",
        "container importer of pod jul2026-pame-evaluations-1-",
        "exit code 3",
        "kubectl logs --namespace",
        "raise spec.retry",
        "from [], by",
        "| no checkpoint",
    ];
    let status = stage.wait_failed("jul2026", PhaseName::ImportRelated, &words).await;
    let failed = stage.jobs().await;
    assert_eq!(failed.len(), 1, "it is kept for inspection: {failed:?}");
    assert!(status.message.contains(&failed[0]), "{}", status.message);
    assert_eq!(stage.staged_evaluations().await, "3");
    let notes = until("the event is written", || async {
        let notes = stage.event_notes("jul2026", "PhaseFailed").await;
        (!notes.is_empty()).then_some(notes)
    })
    .await;
    assert!(notes[0].contains("| no checkpoint"), "{notes:?}");

    std::fs::write(stage.directory().join("flag"), "").expect("the flag");
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let words = ["jul2026-pame-evaluations-2-", "exit code 4", "from [], by", "stored $$(PORTAL_NAME) $(PORTAL_NAME) 5"];
    stage.wait_failed("jul2026", PhaseName::ImportRelated, &words).await;
    assert_eq!(stage.staged_evaluations().await, "5", "the 3 rows of the first Job are gone");
    assert_eq!(stage.jobs().await.len(), 1, "the first Job is gone");

    // A Job that was given up cannot continue.
    let late = stage.text(&format!("SELECT running FROM portal_release.import_jobs WHERE job = '{}'", stage.jobs().await[0])).await;
    assert_eq!(late, "false");
    let refused = sqlx::query("SELECT portal_release.set_checkpoint($1, 'x')").bind(&stage.jobs().await[0]).execute(&stage.database).await;
    assert!(refused.expect_err("a Job that is over").to_string().contains("does not import, or not any more"));

    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let doubled = stage.text("SELECT count(*) - count(DISTINCT asmt_id) FROM staging_pame_evaluations").await;
    let missing = stage
        .text("SELECT count(*) FROM staging_portal_standard_pame WHERE asmt_id NOT IN (SELECT asmt_id FROM staging_pame_evaluations)")
        .await;
    assert_eq!((doubled.as_str(), missing.as_str()), ("0", "0"), "5 rows of the second Job, the others of the third");
    assert_eq!(
        stage.text("SELECT rows FROM portal_release.imports WHERE import = 'pame_evaluations'").await,
        stage.staged_evaluations().await
    );
    assert_eq!(containers.started().len(), 3);

    let password = stage.env["STAGE_DATABASE_URL"].split(['@', ':']).nth(2).expect("its password").to_owned();
    assert!(password.len() > 3, "a password that can be looked for");
    for (place, text) in [("objects", stage.readable().await), ("log", operator.log())] {
        assert!(!text.contains(&password), "the password is revealed: {place}: {:?}", text.lines().find(|line| line.contains(&password)));
        assert!(text.contains("by [secret]"), "{place}");
    }

    // Another template is another import: the staging is rebuilt.
    stage.job_template(&job(&format!("{PSQL} -c \"{EVALUATIONS}\""))).await;
    stage.edit("jul2026", r#"{"dryRun": false}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let built = status.phases.iter().find(|phase| phase.name == PhaseName::BuildStaging).map(|phase| phase.attempts);
    assert_eq!(built, Some(2));
    assert_eq!(containers.started().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_around_a_job_leaves_one_job() {
    let stage = Stage::new("jobkill").await;
    let containers = Containers::of(&stage);
    stage.evaluations_by(&job(&format!("{PSQL} -c \"BEGIN; {EVALUATIONS}; {GATE}; COMMIT\""))).await;
    stage.make_release("jul2026", "Jul2026", "").await;

    // Announced, and not created.
    let operator = stage.halted_at("ImportRelated:job").await;
    let announced = stage.text("SELECT job FROM portal_release.jobs WHERE state = 'Running'").await;
    assert!(announced.starts_with("jul2026-pame-evaluations-1-"), "{announced}");
    assert_eq!(stage.jobs().await, Vec::<String>::new());
    operator.kill().await;

    // Created, and in the middle of its work.
    let gate = Gate::shut_again(&stage).await;
    let operator = stage.operator_alone().await;
    let worker = gate.someone(&stage).await;
    operator.kill().await;
    assert_eq!(stage.jobs().await.join(" "), announced);

    // It ends while no operator watches.
    let operator = stage.operator_alone().await;
    stage.wait("jul2026", "waiting for its Job", |status| status.message.contains(&format!("Job {announced} runs"))).await;
    assert_eq!(gate.someone(&stage).await, worker, "the same session is at work");
    operator.kill().await;
    gate.open().await;
    until("the Job is complete", || async {
        let done = stage.kubectl(&["get", "job", &announced, "-o", "jsonpath={.status.succeeded}"], "").await;
        (done.as_deref() == Ok("1")).then_some(())
    })
    .await;

    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(containers.started().len(), 1, "{:?}", containers.started());
    assert_eq!(stage.text("SELECT attempt FROM portal_release.jobs").await, "1");
    let former = "SELECT bool_and(i.attempt = j.attempt AND i.job IS NOT DISTINCT FROM j.job AND i.running = (j.state = 'Running'))
        FROM portal_release.import_jobs i JOIN portal_release.jobs j ON j.release_id = i.release_id AND j.purpose = 'import' AND j.item = i.import";
    assert_eq!(stage.text(former).await, "true", "an older operator reads the same in its table");
    assert_eq!(stage.text("SELECT count(*) - count(DISTINCT asmt_id) FROM pame_evaluations").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_takes_the_job_and_its_session_away_before_the_staging() {
    let stage = Stage::new("jobabort").await;
    let containers = Containers::of(&stage);
    let _operator = stage.operator().await;
    let gate = Gate::shut(&stage, "nothing").await;
    let before = stage.world().await;
    stage.evaluations_by(&job(&format!("exec {PSQL} -c \"BEGIN; {EVALUATIONS}; {GATE}; COMMIT\""))).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let worker = gate.someone(&stage).await;

    stage.edit("jul2026", r#"{"abort": {"reason": "not today"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::Aborted).await;
    assert_eq!(stage.jobs().await, Vec::<String>::new());
    assert_eq!(stage.job_pods().await.len(), 0);
    assert_eq!(stage.staging().await, "", "staging is gone");
    let session = stage.text(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {worker}")).await;
    assert_eq!(session, "0", "the session, which held locks on the staged table, is gone");
    stage.assert_untouched(&before, "the abort").await;
    gate.open().await;

    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(containers.started().len(), 2);
    assert_eq!(stage.text("SELECT count(*) - count(DISTINCT asmt_id) FROM pame_evaluations").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_that_cannot_be_meant_are_refused_in_preflight() {
    let stage = Stage::new("jobtemplate").await;
    let _operator = stage.operator().await;
    let good = job("true");
    stage.evaluations_by("kind: [").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let place = format!("import pame_evaluations: the Job in ConfigMap {}/portal-sql, key job.yaml", stage.namespace);
    stage.wait_failed("jul2026", PhaseName::Preflight, &[&place, "is not YAML"]).await;
    let cases = [
        (good.replace("\"Job\"", "\"Pod\""), "has kind Pod"),
        (good.replace("\"pame-import\"", "\"x\", \"namespace\": \"kube-system\""), "names the namespace kube-system; remove it"),
        (good.replace("\"NOTE\"", "\"STAGING_TABLE\""), "sets STAGING_TABLE in container importer"),
        (good.replace("\"command\"", "\"comand\""), "has an unknown field: spec.template.spec.containers[0].comand"),
        // Only the API server knows these.
        (good.replace("postgres:15", ""), "cannot create Job"),
        (good.replace("\"Never\"", "\"Always\""), "spec.template.spec.restartPolicy: Required value"),
    ];
    for (retry, (template, words)) in (1..).zip(cases) {
        stage.job_template(&template).await;
        stage.edit("jul2026", &format!("{{\"retry\": {retry}}}")).await;
        stage.wait_failed("jul2026", PhaseName::Preflight, &[&place, words]).await;
    }
    stage
        .kubectl(&["patch", "configmap", "portal-sql", "--type", "json", "-p", r#"[{"op": "remove", "path": "/data/job.yaml"}]"#], "")
        .await
        .expect("the key is gone");
    stage.edit("jul2026", r#"{"retry": 99}"#).await;
    // The imports are no longer known, so whichever phase comes first says so.
    let status = stage
        .wait("jul2026", "the message names the key", |status| {
            status.state == Some(ReleaseState::Failed) && status.message.contains("has no value under the key job.yaml")
        })
        .await;
    assert!(status.message.contains("import pame_evaluations"), "{}", status.message);
    assert_eq!(stage.jobs().await, Vec::<String>::new(), "none was made to find out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_jobs_pod_waits_for_is_reported_and_a_deleted_job_is_recreated() {
    let stage = Stage::new("jobwait").await;
    let _operator = stage.operator().await;
    let stuck = job("true").replace("\"e2e.local/run-delay\": \"24h\"", "\"e2e.local/start\": \"never\"");
    stage.evaluations_by(&stuck.replace("\"restartPolicy\"", "\"nodeSelector\": {\"disk\": \"fast\"}, \"restartPolicy\"")).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage.wait("jul2026", "the message quotes the scheduler", |status| status.message.contains("cannot be scheduled")).await;
    assert!(status.message.contains("Unschedulable: 0/"), "{}", status.message);
    stage.edit("jul2026", r#"{"abort": {"reason": "no such node"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::Aborted).await;

    stage.job_template(&stuck).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let pod = until("a pod on a node", || async {
        stage.job_pods().await.into_iter().find(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
    })
    .await;
    let waiting = json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"postgres:15\""});
    let container = json!({"name": "importer", "image": "postgres:15", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}});
    set_status(&stage.client, &stage.namespace, &pod.name_any(), json!({"containerStatuses": [container]})).await;
    let status = stage.wait("jul2026", "the message names the image", |status| status.message.contains("ImagePullBackOff")).await;
    let sentence =
        format!("pod {} is waiting for container importer (postgres:15): ImagePullBackOff: Back-off pulling image", pod.name_any());
    assert!(status.message.contains(&sentence), "{}", status.message);

    // It is deleted: another one is created.
    let first = stage.jobs().await;
    stage.kubectl(&["delete", "job", &first[0]], "").await.expect("deleted");
    until("another Job", || async { stage.jobs().await.into_iter().find(|job| !first.contains(job)) }).await;
    let failure = stage.text("SELECT message FROM portal_release.release_events WHERE event = 'PhaseFailed' ORDER BY id DESC").await;
    assert!(failure.contains("was deleted while it ran; it will be recreated"), "{failure}");
}
