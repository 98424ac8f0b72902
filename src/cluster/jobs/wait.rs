//! Waiting for a Job, by watching it and its pods.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::{ContainerStateWaiting, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event, watch_object, watcher},
    },
};

use super::{
    JOB_NAME_LABEL,
    failure::{Failure, described, inspect},
};
use crate::{
    cluster::{CallError, ClusterError, is_forbidden},
    text::truncate,
};

/// Why a container waits while everything goes well.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// At most so much of a sentence of Kubernetes, in bytes.
const MAX_SENTENCE: usize = 300;
/// At most so many pods that are gone are remembered.
const MAX_LOST: usize = 8;
/// How often a Job is looked at of which nothing is heard.
const LOOK: Duration = Duration::from_secs(5);
/// A Job that has had no pod for so long gets none.
const PODLESS: Duration = Duration::from_secs(30);

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is complete.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It was deleted.
    Gone,
}

/// Waits until a Job is over. `waiting` is called with what keeps its pods from running, and with nothing once they run.
///
/// # Errors
/// When the operator may not watch. While the API server does not answer, it keeps waiting.
pub async fn wait(client: &Client, namespace: &str, name: &str, mut waiting: impl FnMut(Option<String>)) -> Result<Ended, ClusterError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_job = Config::default().labels(&format!("{JOB_NAME_LABEL}={name}"));
    let mut job_changes = pin!(watch_object(Api::<Job>::namespaced(client.clone(), namespace), name).default_backoff());
    let mut pod_changes = pin!(watcher(pods, of_job).default_backoff());
    let mut seen: BTreeMap<String, Pod> = BTreeMap::new();
    let mut lost: VecDeque<Pod> = VecDeque::new();
    // A Job that takes too long loses its pods, and their logs, before it counts as failed.
    let mut early: Option<Failure> = None;
    let mut reported = None;
    let mut current: Option<Box<Job>> = None;
    let mut podless: Option<Instant> = None;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(change) = job_changes.next() => match change {
                Ok(None) => return Ok(Ended::Gone),
                Ok(Some(job)) => {
                    if is_true(&job, "Complete").is_some() {
                        return Ok(Ended::Succeeded);
                    }
                    let failed = is_true(&job, "Failed");
                    if let Some(condition) = failed.or_else(|| is_true(&job, "FailureTarget")) {
                        let known = seen.values().chain(&lost).cloned().collect();
                        let mut failure = Box::pin(inspect(client, namespace, &job, known, condition)).await;
                        // With its pods went what they told.
                        if let Some(early) = early.take().filter(|_| failure.log.is_empty()) {
                            failure = early;
                        }
                        if failed.is_some() {
                            return Ok(Ended::Failed(failure));
                        }
                        early = Some(failure);
                    }
                    current = Some(Box::new(job));
                }
                Err(error) => refused(error, "watch", namespace, name)?,
            },
            Some(change) = pod_changes.next() => match change {
                Ok(Event::Init) => seen.clear(),
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => drop(seen.insert(pod.name_any(), pod)),
                Ok(Event::Delete(pod)) => {
                    seen.remove(&pod.name_any());
                    // A pod that was preempted goes before its Job counts as failed: what it said last is the reason.
                    lost.push_front(pod);
                    lost.truncate(MAX_LOST);
                }
                Ok(Event::InitDone) => {}
                Err(error) => refused(error, "watch the pods of", namespace, name)?,
            },
            _ = looks.tick() => {}
        }
        podless = if seen.is_empty() { podless.or_else(|| Some(Instant::now())) } else { None };
        let is_podless = podless.is_some_and(|since| since.elapsed() >= PODLESS);
        let now = current.as_ref().and_then(|job| hindrance(job, &seen.values().collect::<Vec<_>>(), is_podless));
        if now != reported {
            waiting(now.clone());
            reported = now;
        }
    }
}

/// Waits until a Job is gone, and its pods with it.
///
/// # Errors
/// When the operator may not watch. While the API server does not answer, it keeps waiting.
pub async fn wait_gone(client: &Client, namespace: &str, name: &str) -> Result<(), ClusterError> {
    let mut changes = pin!(watch_object(Api::<Job>::namespaced(client.clone(), namespace), name).default_backoff());
    loop {
        match changes.try_next().await {
            Ok(None | Some(None)) => return Ok(()),
            Ok(Some(Some(_))) => {}
            Err(error) => refused(error, "watch", namespace, name)?,
        }
    }
}

/// A watch is repeated by itself; only a right that is missing comes back to the caller.
fn refused(error: watcher::Error, action: &'static str, namespace: &str, name: &str) -> Result<(), ClusterError> {
    match error {
        watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause) if is_forbidden(&cause) => {
            Err(ClusterError::Call { action, object: format!("Job {namespace}/{name}"), cause: CallError::Kube(cause) })
        }
        error => {
            tracing::debug!(job = name, %error, "retrying the watch of Job {namespace}/{name}: {error}");
            Ok(())
        }
    }
}

fn is_true<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// What a Job waits for, in a sentence; nothing while it runs. `podless`: it has had no pod for some time.
fn hindrance(job: &Job, pods: &[&Pod], podless: bool) -> Option<String> {
    if job.metadata.deletion_timestamp.is_some() {
        let left = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_some()).map(|pod| leaving(pod));
        return Some(format!("it is being deleted, and {}", left.unwrap_or_else(|| "somebody's finalizer still holds it".to_owned())));
    }
    if let Some(condition) = is_true(job, "Suspended") {
        let why = described(condition.reason.as_deref(), condition.message.as_deref());
        let sentence = format!("it is suspended by somebody else ({why}), such as a queue; it runs once its spec.suspend is false");
        return Some(truncate(&sentence, MAX_SENTENCE).to_owned());
    }
    if podless {
        let (namespace, name) = (job.metadata.namespace.as_deref().unwrap_or_default(), job.name_any());
        return Some(format!("no pod could be created; see kubectl describe --namespace {namespace} job/{name} for a quota or a policy"));
    }
    let all_leaving = pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some());
    pods.iter()
        .find_map(|pod| obstacle(pod))
        .or_else(|| pods.first().filter(|_| all_leaving).map(|pod| leaving(pod)))
        .or_else(|| pods.iter().find_map(|pod| half_over(pod)))
}

/// A pod that is being deleted. On a node that is lost it stays until somebody says so.
fn leaving(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(|node| format!(" on node {node}")).unwrap_or_default();
    format!("pod {}{node} is being deleted; if its node is lost, delete the node", pod.name_any())
}

/// A container has ended while another one runs on, as a sidecar does that was injected as an ordinary container.
fn half_over(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let mut containers = status.container_statuses.iter().flatten();
    let mut others = containers.clone();
    let (ended, code) = containers.find_map(|one| Some((one, one.state.as_ref()?.terminated.as_ref()?.exit_code)))?;
    let running = others.find(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))?;
    Some(format!(
        "container {} of pod {} ended with exit code {code}, and container {} still runs; a sidecar must be an init container with restartPolicy Always",
        ended.name,
        pod.name_any(),
        running.name
    ))
}

/// What keeps a pod from running, in a sentence.
fn obstacle(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let unscheduled = status.conditions.iter().flatten().find(|it| it.type_ == "PodScheduled" && it.status == "False");
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let is_stuck = |waiting: &&ContainerStateWaiting| waiting.reason.as_deref().is_some_and(|reason| !STARTING.contains(&reason));
    let mut stuck = containers.filter_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref().filter(is_stuck)?)));
    let (what, reason, message) = match (unscheduled, stuck.next()) {
        (Some(condition), _) => ("cannot be scheduled".to_owned(), &condition.reason, &condition.message),
        (None, Some((container, waiting))) => {
            (format!("is waiting for container {} ({})", container.name, container.image), &waiting.reason, &waiting.message)
        }
        (None, None) => return None,
    };
    let sentence = format!("pod {} {what}: {}", pod.name_any(), described(reason.as_deref(), message.as_deref()));
    Some(truncate(&sentence, MAX_SENTENCE).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_that_waits_says_for_what() {
        let job = |metadata: serde_json::Value, status: serde_json::Value| -> Job {
            let mut metadata = metadata;
            metadata["name"] = "j".into();
            metadata["namespace"] = "n".into();
            serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
        };
        let pod = |value: serde_json::Value| -> Pod { serde_json::from_value(value).unwrap() };
        let says = |job: &Job, pods: &[&Pod], podless: bool| hindrance(job, pods, podless).unwrap_or_default();
        let plain = job(json!({}), json!({}));
        let running = pod(json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}}));
        assert_eq!(hindrance(&plain, &[&running], false), None);
        assert_eq!(hindrance(&plain, &[], false), None);
        assert!(says(&plain, &[], true).contains("kubectl describe --namespace n job/j"));

        let suspended =
            json!({"conditions": [{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"}]});
        assert!(says(&job(json!({}), suspended.clone()), &[], true).contains("suspended by somebody else (JobSuspended: Job suspended)"));
        let resumed = json!({"conditions": [{"type": "Suspended", "status": "False", "reason": "JobResumed"}]});
        assert_eq!(hindrance(&job(json!({}), resumed), &[&running], false), None);

        let at = "2026-07-01T00:00:00Z";
        let leaving = pod(json!({"metadata": {"name": "p", "deletionTimestamp": at}, "spec": {"nodeName": "lost", "containers": []}}));
        let deleted = job(json!({"deletionTimestamp": at, "finalizers": ["x"]}), json!({}));
        assert!(says(&deleted, &[&leaving], false).starts_with("it is being deleted, and pod p on node lost is being deleted"));
        assert!(says(&deleted, &[], false).contains("finalizer"));
        assert!(says(&plain, &[&leaving], false).contains("pod p on node lost is being deleted"));
        assert_eq!(hindrance(&plain, &[&leaving, &running], false), None, "another one is at work");

        let container = |name: &str, state: serde_json::Value| json!({"name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let half = pod(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [
            container("istio-proxy", json!({"running": {}})), container("main", json!({"terminated": {"exitCode": 0}}))]}}));
        assert!(
            says(&plain, &[&half], false)
                .starts_with("container main of pod p ended with exit code 0, and container istio-proxy still runs")
        );
    }

    #[test]
    fn a_pod_that_cannot_run_says_why() {
        let pod =
            |status: serde_json::Value| -> Pod { serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap() };
        let waiting = |reason: &str| {
            pod(json!({"containerStatuses": [{"name": "c", "image": "r/x:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "Back-off pulling image"}}}]}))
        };
        assert_eq!(
            obstacle(&waiting("ImagePullBackOff")).as_deref(),
            Some("pod p is waiting for container c (r/x:1): ImagePullBackOff: Back-off pulling image")
        );
        assert_eq!(obstacle(&waiting("ContainerCreating")), None);
        let unschedulable = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]});
        assert_eq!(obstacle(&pod(unschedulable)).as_deref(), Some("pod p cannot be scheduled: Unschedulable: 0/3 nodes are available"));
        assert_eq!(obstacle(&pod(json!({"phase": "Running"}))), None);
    }
}
