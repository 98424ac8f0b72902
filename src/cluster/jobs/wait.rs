//! Waiting for a Job, by watching it and its pods.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
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

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is complete.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// Somebody has deleted it.
    Gone,
}

/// Waits until a Job is over. `waiting` is reported what keeps its pods from running, and when nothing does any more.
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
                        let mut failure = inspect(client, namespace, &job, known, condition).await;
                        // With its pods went what they told.
                        if let Some(early) = early.take().filter(|_| failure.log.is_empty()) {
                            failure = early;
                        }
                        if failed.is_some() {
                            return Ok(Ended::Failed(failure));
                        }
                        early = Some(failure);
                    }
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
        }
        let now = seen.values().find_map(obstacle);
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
