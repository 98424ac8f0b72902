//! Why a Job failed: what Kubernetes says of it, and the end of its log.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};

use super::JOB_NAME_LABEL;
use crate::{cluster::call, text::truncate};

/// At most this many lines of a log are shown.
const TAIL_LINES: i64 = 10;
/// At most so much of a log is fetched, in bytes: as many long lines as are shown. A kubelet cuts off the end of what is more.
const MAX_FETCHED: i64 = 256 * 1024;
/// At most this much of its end is shown, in bytes: what fits into an event.
const MAX_TAIL: usize = 600;
/// At most so much of a sentence of Kubernetes, in bytes.
const MAX_SENTENCE: usize = 200;

/// Reasons of a pod whose node went, from kubelets and controllers that set no condition.
const NODE_GONE: [&str; 5] = ["NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"];
/// The pod, or the Job, took longer than it may: that is no interruption.
const TOO_LONG: &str = "DeadlineExceeded";

/// Why a Job failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What Kubernetes says, such as `BackoffLimitExceeded`.
    pub reason: String,
    /// Which container of which pod ended how.
    pub container: Option<String>,
    /// What Kubernetes says of that pod, such as why it was evicted.
    pub pod: Option<String>,
    /// The pod was evicted, preempted, rejected or lost its node: it is not the program that failed.
    pub disrupted: bool,
    /// The end of the container's log, one line; empty where there is none.
    pub log: String,
}

impl Failure {
    /// Removes these texts from everything that is shown.
    #[must_use]
    pub fn without(mut self, secrets: &[String]) -> Self {
        for text in [&mut self.reason, &mut self.log].into_iter().chain(&mut self.container).chain(&mut self.pod) {
            for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
                *text = text.replace(secret.as_str(), "[secret]");
            }
        }
        self.log = end(&self.log, MAX_TAIL).to_owned();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.container.iter().chain(&self.pod).try_for_each(|sentence| write!(f, "; {sentence}"))
    }
}

/// Inspects a Job that failed, or is about to. `known` are pods that were seen and may be gone by now. What cannot be read is omitted:
/// it is a failure either way.
pub(super) async fn inspect(client: &Client, namespace: &str, job: &Job, known: Vec<Pod>, condition: &JobCondition) -> Failure {
    let reason = described(condition.reason.as_deref(), condition.message.as_deref());
    let mut failure = Failure { reason, ..Failure::default() };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{JOB_NAME_LABEL}={}", job.name_any()));
    let mut found = match call(|| pods.list(&params)).await {
        Ok(found) => found.items,
        Err(error) => {
            tracing::warn!(job = job.name_any(), %error, "the pods of Job {} cannot be listed: {error}", job.name_any());
            Vec::new()
        }
    };
    let listed: BTreeSet<String> = found.iter().map(ResourceExt::name_any).collect();
    found.extend(known.into_iter().filter(|pod| !listed.contains(&pod.name_any())));
    let culprit = judge(&mut failure, &found, condition.reason.as_deref() == Some(TOO_LONG));
    let Some((pod_name, container, message)) = culprit else { return failure };
    let params =
        LogParams { container: Some(container), tail_lines: Some(TAIL_LINES), limit_bytes: Some(MAX_FETCHED), ..LogParams::default() };
    match call(|| pods.logs(&pod_name, &params)).await {
        Ok(text) => failure.log = one_line(&text),
        Err(error) => {
            tracing::warn!(pod = pod_name, %error, "the log of pod {pod_name} cannot be read: {error}");
            failure.log = one_line(&message.unwrap_or_default());
        }
    }
    failure
}

/// Writes down what the pods say. Returns whose log is to be read: pod, container, and what it left as its last message.
fn judge(failure: &mut Failure, pods: &[Pod], too_long: bool) -> Option<(String, String, Option<String>)> {
    let culprit = culprit(pods);
    let programs_fault = culprit.filter(|(pod, container, state)| state.exit_code != 0 && !is_sidecar(pod, container));
    let interrupted = |pod: &&Pod| is_disrupted(pod) || is_rejected(pod);
    let pod = match programs_fault {
        Some((pod, ..)) => {
            failure.disrupted = is_disrupted(pod);
            Some(pod)
        }
        // No program has failed. A pod that was still pending, or whose node was lost, tells of no container that ended.
        None => {
            let interrupted = pods.iter().find(interrupted).filter(|_| !too_long);
            failure.disrupted = interrupted.is_some();
            interrupted.or_else(|| pods.iter().find(|pod| sentence(pod).is_some())).or(culprit.map(|(pod, ..)| pod))
        }
    };
    failure.pod = pod.and_then(sentence);
    let (pod, container, state) = culprit?;
    let why = state.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    failure.container =
        Some(format!("container {} of pod {} ended with exit code {}{why}", container.name, pod.name_any(), state.exit_code));
    Some((pod.name_any(), container.name.clone(), state.message.clone()))
}

/// The container that ended last with an error, or was the last to end at all. A sidecar is to blame only where nothing else is: it is
/// ended, mostly with an error, once the others are over.
fn culprit(pods: &[Pod]) -> Option<(&Pod, &ContainerStatus, &ContainerStateTerminated)> {
    let ended = pods.iter().flat_map(|pod| {
        statuses(pod).filter_map(move |status| {
            let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            state.or(last).map(|state| (pod, status, state))
        })
    });
    let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    ended.max_by_key(|(pod, status, state)| {
        let failed = state.exit_code != 0;
        (failed && !is_sidecar(pod, status), failed, at(&state.finished_at))
    })
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()))
}

/// An init container that runs beside the others.
pub(super) fn is_sidecar(pod: &Pod, status: &ContainerStatus) -> bool {
    let mut init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.any(|container| container.name == status.name && container.restart_policy.as_deref() == Some("Always"))
}

/// Evicted, preempted, or its node is gone.
fn is_disrupted(pod: &Pod) -> bool {
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    disruption(pod).is_some() || reason.is_some_and(|reason| NODE_GONE.contains(&reason))
}

fn disruption(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")
}

/// The node did not take the pod: nothing of it has ever run. A pod that is evicted because it used too much has run.
fn is_rejected(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let has_run = |container: &ContainerStatus| {
        let states = [&container.state, &container.last_state];
        states.into_iter().flatten().any(|state| state.running.is_some() || state.terminated.is_some())
    };
    let reason = status.reason.as_deref().filter(|reason| *reason != TOO_LONG);
    status.phase.as_deref() == Some("Failed") && reason.is_some() && !statuses(pod).any(has_run)
}

/// What Kubernetes says of a pod as a whole.
fn sentence(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let own = status.reason.as_ref().map(|reason| described(Some(reason), status.message.as_deref()));
    let text = own.or_else(|| disruption(pod).map(|it| described(it.reason.as_deref(), it.message.as_deref())))?;
    Some(format!("pod {} was ended: {text}", pod.name_any()))
}

/// Reason and message of a Job's condition.
pub(super) fn described(reason: Option<&str>, message: Option<&str>) -> String {
    match (reason, message.map(|message| truncate(message, MAX_SENTENCE))) {
        (Some(reason), Some(message)) if !message.is_empty() => format!("{reason}: {message}"),
        (Some(reason), _) => reason.to_owned(),
        (None, message) => message.unwrap_or("no reason given").to_owned(),
    }
}

/// The lines of a log side by side, without what would move the cursor of whoever reads them.
fn one_line(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let (mut plain, mut characters) = (String::new(), line.chars());
        while let Some(character) = characters.next() {
            match character {
                // A colour of a terminal ends with a letter.
                '\u{1b}' => drop(characters.by_ref().find(char::is_ascii_alphabetic)),
                '\t' => plain.push(' '),
                character if character.is_control() => {}
                character => plain.push(character),
            }
        }
        let plain = plain.trim();
        if !plain.is_empty() {
            lines.push(plain.to_owned());
        }
    }
    lines.join(" | ")
}

/// The longest end of a text that has at most `max` bytes.
fn end(text: &str, max: usize) -> &str {
    text.get(text.ceil_char_boundary(text.len().saturating_sub(max))..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_becomes_one_plain_line() {
        assert_eq!(one_line("a\tb\r\n\n \u{1b}[31mred\u{1b}[0m\u{7} c \n"), "a b | red c");
        assert_eq!(one_line(""), "");
        assert_eq!(end("äöü", 3), "ü", "a character is never cut");
        assert_eq!(end("ab", 3), "ab");
    }

    #[test]
    fn secrets_are_taken_out_before_the_end_is_cut() {
        let secret = "canary".repeat(20);
        let log = format!("{secret} {}", "x".repeat(MAX_TAIL - 10));
        let redacted = Failure { reason: format!("no {secret}"), log, ..Failure::default() }.without(&[secret, String::new()]);
        assert!(!redacted.log.contains("canary") && !redacted.reason.contains("canary"), "{redacted:?}");
        assert!(redacted.log.len() <= MAX_TAIL && redacted.log.ends_with('x'));
        assert_eq!(redacted.reason, "no [secret]");
    }

    fn pod(name: &str, statuses: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": statuses})).unwrap()
    }

    fn container(name: &str, exit: i32, at: &str) -> serde_json::Value {
        json!({"name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": exit, "finishedAt": format!("2026-07-01T00:00:{at}Z")}}})
    }

    #[test]
    fn the_container_that_failed_last_is_to_blame() {
        let pods = [
            pod("a", json!({"containerStatuses": [container("main", 1, "01"), container("sidecar", 0, "09")]})),
            pod("b", json!({"initContainerStatuses": [container("fetch", 3, "05")], "containerStatuses": [container("main", 0, "06")]})),
        ];
        let (pod, container, state) = culprit(&pods).unwrap();
        assert_eq!((pod.name_any().as_str(), container.name.as_str(), state.exit_code), ("b", "fetch", 3));
        assert!(culprit(&[]).is_none());
        let gone = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        assert!(is_disrupted(&self::pod("c", gone)) && !is_disrupted(pod));
    }

    #[test]
    fn a_pod_that_never_ran_or_lost_its_node_is_an_interruption_and_says_why() {
        let condition = |reason: &str| json!([{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "it had to go"}]);
        let running = json!([{"name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]);
        let pulling = json!([{"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}}}]);
        let rejected = "Pod was rejected: The node had condition: [DiskPressure].";
        for (what, status, disrupted, says) in [
            (
                "preempted while pending",
                json!({"phase": "Pending", "conditions": condition("PreemptionByScheduler")}),
                true,
                "it had to go",
            ),
            (
                "preempted after its init container",
                json!({"phase": "Pending", "conditions": condition("PreemptionByScheduler"), "initContainerStatuses": [container("fetch", 0, "01")]}),
                true,
                "PreemptionByScheduler",
            ),
            (
                "node lost",
                json!({"phase": "Running", "conditions": condition("DeletionByTaintManager"), "containerStatuses": running}),
                true,
                "DeletionByTaintManager",
            ),
            (
                "node shut down, an old kubelet",
                json!({"phase": "Failed", "reason": "NodeShutdown", "containerStatuses": running}),
                true,
                "NodeShutdown",
            ),
            (
                "rejected",
                json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: no cpu"}),
                true,
                "OutOfcpu: Pod was rejected: no cpu",
            ),
            (
                "rejected with states",
                json!({"phase": "Failed", "reason": "Evicted", "message": rejected, "containerStatuses": pulling}),
                true,
                rejected,
            ),
            (
                "its own limit",
                json!({"phase": "Failed", "reason": "Evicted", "message": "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\".",
                    "containerStatuses": [container("main", 137, "01")]}),
                false,
                "exceeds the limit",
            ),
            (
                "its own limit, still running",
                json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": running}),
                false,
                "Evicted",
            ),
            (
                "its own deadline",
                json!({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": pulling}),
                false,
                "DeadlineExceeded",
            ),
            ("its own fault", json!({"phase": "Failed", "containerStatuses": [container("main", 1, "01")]}), false, "exit code 1"),
        ] {
            let mut failure = Failure { reason: "BackoffLimitExceeded".to_owned(), ..Failure::default() };
            judge(&mut failure, &[pod("p", status)], false);
            assert_eq!(failure.disrupted, disrupted, "{what}: {failure:?}");
            assert!(failure.to_string().contains(says), "{what}: {failure}");
        }
        // The Job itself took too long, and an earlier pod was evicted: trying again takes too long again.
        let mut failure = Failure::default();
        judge(&mut failure, &[pod("p", json!({"conditions": condition("EvictionByEvictionAPI")}))], true);
        assert!(!failure.disrupted);
        // The program failed in one pod, and another was evicted.
        let evicted = pod("q", json!({"phase": "Failed", "conditions": condition("EvictionByEvictionAPI")}));
        judge(&mut failure, &[evicted, pod("p", json!({"containerStatuses": [container("main", 1, "01")]}))], false);
        assert!(!failure.disrupted);
    }

    #[test]
    fn a_sidecar_is_to_blame_only_where_nothing_else_is() {
        let with_sidecar = |main: i32| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}], "containers": [{"name": "main"}]},
                "status": {"initContainerStatuses": [container("proxy", 143, "09")], "containerStatuses": [container("main", main, "05")]}}))
            .unwrap()
        };
        assert_eq!(culprit(&[with_sidecar(1)]).unwrap().1.name, "main");
        assert_eq!(culprit(&[with_sidecar(0)]).unwrap().1.name, "proxy");
    }
}
