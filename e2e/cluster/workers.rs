use std::time::{Duration, Instant};

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
};
use kube::{ResourceExt, api::Patch};
use portal_release_operator::{
    api::{FrozenWorkload, Worker, WorkerKind},
    cluster::workers::{WorkerError, record, remaining, start, stop, wait_available, wait_stopped},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::setup::{Cluster, eventually, in_namespace};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(3);

fn pod_template(name: &str, annotations: Value) -> Value {
    json!({
        "metadata": { "labels": { "app": name }, "annotations": annotations },
        "spec": { "containers": [{ "name": "c", "image": "worker" }] },
    })
}

/// With a selector that has only expressions.
fn deployment(name: &str, replicas: i32, annotations: Value) -> Value {
    let selector = json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": [name] }] });
    json!({ "spec": { "replicas": replicas, "selector": selector, "template": pod_template(name, annotations) } })
}

fn cron_job(suspend: bool) -> Value {
    let pod = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "worker" }] } });
    json!({ "spec": { "schedule": "0 0 1 1 *", "suspend": suspend, "jobTemplate": { "spec": { "template": pod } } } })
}

fn worker(kind: WorkerKind, name: &str) -> Worker {
    Worker { kind, name: name.into() }
}

fn frozen(kind: WorkerKind, name: &str, replicas: i32) -> FrozenWorkload {
    FrozenWorkload { kind, name: name.into(), replicas }
}

impl Cluster {
    async fn replicas(&self, name: &str) -> i32 {
        self.api::<Deployment>().get_scale(name).await.unwrap().spec.unwrap().replicas.unwrap_or(0)
    }

    async fn scale(&self, name: &str, replicas: i32) {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        self.api::<Deployment>().patch_scale(name, &Default::default(), &patch).await.unwrap();
    }

    async fn ready(&self, frozen: &[FrozenWorkload]) {
        wait_available(&self.operator, &self.namespace, frozen, LONG, &CancellationToken::new()).await.unwrap();
    }
}

#[tokio::test]
async fn workers_stop_and_come_back_exactly() {
    in_namespace(async |c| {
        let (client, ns, never) = (&c.operator, c.namespace.as_str(), CancellationToken::new());
        c.apply::<Deployment>("web", deployment("web", 3, json!({ "e2e.local/stop-delay": "2s" }))).await;
        c.apply::<Deployment>("idle", deployment("idle", 0, json!({}))).await;
        let set = json!({ "spec": { "serviceName": "db", "replicas": 2, "selector": { "matchLabels": { "app": "db" } },
            "template": pod_template("db", json!({})) } });
        c.apply::<StatefulSet>("db", set).await;
        c.apply::<CronJob>("nightly", cron_job(false)).await;
        c.apply::<CronJob>("retired", cron_job(true)).await;
        let workers = [
            worker(WorkerKind::Deployment, "web"),
            worker(WorkerKind::Deployment, "idle"),
            worker(WorkerKind::StatefulSet, "db"),
            worker(WorkerKind::CronJob, "nightly"),
            worker(WorkerKind::CronJob, "retired"),
        ];
        let before = record(client, ns, &workers, &[]).await.unwrap();
        assert_eq!(before.iter().map(|b| b.replicas).collect::<Vec<_>>(), [3, 0, 2, 1, 0]);
        c.ready(&before).await;

        stop(client, ns, &before).await.unwrap();
        let left = remaining(client, ns, &workers).await.unwrap().join("; ");
        assert!(left.contains("Deployment ") && left.contains("web-") && left.contains("terminating"), "{left}");
        assert_eq!(record(client, ns, &workers, &before).await.unwrap(), before, "a zero that we caused was recorded");
        wait_stopped(client, ns, &workers, LONG, &never).await.unwrap();
        assert_eq!(remaining(client, ns, &workers).await.unwrap(), Vec::<String>::new());

        let version = c.api::<Deployment>().get("web").await.unwrap().resource_version();
        stop(client, ns, &before).await.unwrap();
        assert_eq!(c.api::<Deployment>().get("web").await.unwrap().resource_version(), version, "stopping twice wrote something");

        for _ in 0..2 {
            assert_eq!(start(client, ns, &before).await.unwrap(), Vec::<String>::new());
            c.ready(&before).await;
            assert_eq!(record(client, ns, &workers, &[]).await.unwrap(), before);
        }
    })
    .await;
}

#[tokio::test]
async fn a_running_job_is_waited_for() {
    in_namespace(async |c| {
        let (client, ns, never) = (&c.operator, c.namespace.as_str(), CancellationToken::new());
        let owned_by = async |name: &str| {
            let owner = c.apply::<CronJob>(name, cron_job(false)).await;
            json!([{ "apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": owner.uid(), "controller": true }])
        };
        let (ours, other) = (owned_by("nightly").await, owned_by("weekly").await);
        let template = json!({ "metadata": { "annotations": { "e2e.local/run-delay": "6s" } },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "worker" }] } });
        c.apply::<Job>("nightly-1", json!({ "metadata": { "ownerReferences": ours }, "spec": { "template": template } })).await;
        c.apply::<Job>("stranger", json!({ "metadata": { "ownerReferences": other }, "spec": { "template": template } })).await;
        let workers = [worker(WorkerKind::CronJob, "nightly")];
        let before = record(client, ns, &workers, &[]).await.unwrap();
        stop(client, ns, &before).await.unwrap();
        let error = wait_stopped(client, ns, &workers, SHORT, &never).await.unwrap_err().to_string();
        assert!(error.contains("unfinished Jobs: nightly-1") && error.contains("freeze.timeout") && !error.contains("stranger"), "{error}");
        wait_stopped(client, ns, &workers, LONG, &never).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_woken_worker_is_set_back() {
    in_namespace(async |c| {
        let (client, ns, never) = (&c.operator, c.namespace.as_str(), CancellationToken::new());
        c.apply::<Deployment>("web", deployment("web", 1, json!({}))).await;
        let workers = [worker(WorkerKind::Deployment, "web")];
        let before = record(client, ns, &workers, &[]).await.unwrap();
        stop(client, ns, &before).await.unwrap();
        c.scale("web", 2).await;
        wait_stopped(client, ns, &workers, LONG, &never).await.unwrap();
        assert_eq!(c.replicas("web").await, 0);

        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let waker = async {
            loop {
                ticks.tick().await;
                c.scale("web", 2).await;
            }
        };
        let waiting = wait_stopped(client, ns, &workers, SHORT, &never);
        let error = tokio::select! { () = waker => unreachable!(), result = waiting => result.unwrap_err() }.to_string();
        assert!(error.contains("scaled up by another controller") && error.contains("to 2"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn missing_workers_are_named_and_delay_no_other() {
    in_namespace(async |c| {
        let (client, ns, never) = (&c.operator, c.namespace.as_str(), CancellationToken::new());
        c.apply::<Deployment>("web", deployment("web", 0, json!({}))).await;
        let gone = [worker(WorkerKind::StatefulSet, "gone"), worker(WorkerKind::CronJob, "gone-too")];
        let error = record(client, ns, &gone, &[]).await.unwrap_err();
        assert!(matches!(&error, WorkerError::Missing { workload } if *workload == format!("StatefulSet {ns}/gone")), "{error}");
        let before = [
            frozen(WorkerKind::StatefulSet, "gone", 1),
            frozen(WorkerKind::Deployment, "web", 2),
            frozen(WorkerKind::CronJob, "gone-too", 1),
        ];
        let notes = start(client, ns, &before).await.unwrap();
        assert_eq!((notes.len(), c.replicas("web").await), (2, 2), "{notes:?}");
        c.ready(&before).await;
        let error = stop(client, ns, &before).await.unwrap_err();
        assert!(matches!(&error, WorkerError::Several(errors) if errors.len() == 2), "{error}");
        assert_eq!(c.replicas("web").await, 0);
        assert!(wait_stopped(client, ns, &gone, LONG, &never).await.unwrap_err().to_string().contains("does not exist"));
    })
    .await;
}

#[tokio::test]
async fn workers_that_do_not_come_back_are_reported_and_waiting_can_be_cancelled() {
    in_namespace(async |c| {
        let (client, ns, cancel) = (&c.operator, c.namespace.as_str(), CancellationToken::new());
        c.apply::<Deployment>("web", deployment("web", 2, json!({ "e2e.local/start": "never" }))).await;
        let before = [frozen(WorkerKind::Deployment, "web", 2)];
        let error = wait_available(client, ns, &before, SHORT, &cancel).await.unwrap_err().to_string();
        assert!(error.contains("0 of 2 pods ready"), "{error}");
        let begun = Instant::now();
        cancel.cancel();
        let error = wait_available(client, ns, &before, LONG, &cancel).await.unwrap_err();
        assert!(matches!(error, WorkerError::Cancelled) && begun.elapsed() < SHORT);
    })
    .await;
}

#[tokio::test]
async fn pods_of_others_do_not_count() {
    in_namespace(async |c| {
        let (client, ns) = (&c.operator, c.namespace.as_str());
        c.apply::<Deployment>("web", deployment("web", 0, json!({}))).await;
        let mut template = pod_template("web", json!({ "e2e.local/run-delay": "1h" }));
        template["spec"]["restartPolicy"] = json!("Never");
        c.apply::<Job>("report", json!({ "spec": { "template": template } })).await;
        eventually("the Job's pod", LONG, async || c.api::<Job>().get("report").await.unwrap().status?.active).await;
        assert_eq!(remaining(client, ns, &[worker(WorkerKind::Deployment, "web")]).await.unwrap(), Vec::<String>::new());
    })
    .await;
}
