//! Why a Job failed: what Kubernetes says of it, and the end of its log.

use std::fmt;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
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
/// At most so much of a log is fetched, in bytes.
const MAX_FETCHED: i64 = 64 * 1024;
/// At most this much of its end is shown, in bytes: what fits into an event.
const MAX_TAIL: usize = 600;
/// At most so much of a sentence of Kubernetes, in bytes.
const MAX_SENTENCE: usize = 200;

/// Why a Job failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What Kubernetes says, such as `BackoffLimitExceeded`.
    pub reason: String,
    /// Which container of which pod ended how.
    pub container: Option<String>,
    /// The pod was evicted: it is not the program that failed.
    pub disrupted: bool,
    /// The end of the container's log, one line; empty where there is none.
    pub log: String,
}

impl Failure {
    /// Removes these texts from everything that is shown.
    #[must_use]
    pub fn without(mut self, secrets: &[String]) -> Self {
        for text in [&mut self.reason, &mut self.log].into_iter().chain(&mut self.container) {
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
        self.container.iter().try_for_each(|container| write!(f, "; {container}"))
    }
}

/// Inspects a Job that failed, or is about to. What cannot be read is omitted: it is a failure either way.
pub(super) async fn inspect(client: &Client, namespace: &str, job: &Job, reason: String) -> Failure {
    let mut failure = Failure { reason, ..Failure::default() };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{JOB_NAME_LABEL}={}", job.name_any()));
    let found = match call(|| pods.list(&params)).await {
        Ok(found) => found.items,
        Err(error) => {
            tracing::warn!(job = job.name_any(), %error, "the pods of Job {} cannot be listed: {error}", job.name_any());
            return failure;
        }
    };
    let Some((pod, container, state)) = culprit(&found) else { return failure };
    let pod_name = pod.name_any();
    failure.disrupted = is_disrupted(pod);
    let why = state.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    failure.container = Some(format!("container {} of pod {pod_name} ended with exit code {}{why}", container.name, state.exit_code));
    let params = LogParams {
        container: Some(container.name.clone()),
        tail_lines: Some(TAIL_LINES),
        limit_bytes: Some(MAX_FETCHED),
        ..LogParams::default()
    };
    match call(|| pods.logs(&pod_name, &params)).await {
        Ok(text) => failure.log = one_line(&text),
        Err(error) => {
            tracing::warn!(pod = pod_name, %error, "the log of pod {pod_name} cannot be read: {error}");
            failure.log = one_line(state.message.as_deref().unwrap_or_default());
        }
    }
    failure
}

/// The container that ended last with an error, or was the last to end at all.
fn culprit(pods: &[Pod]) -> Option<(&Pod, &ContainerStatus, &ContainerStateTerminated)> {
    let ended = pods.iter().flat_map(|pod| {
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()));
        statuses.filter_map(move |status| {
            let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            state.or(last).map(|state| (pod, status, state))
        })
    });
    let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    ended.max_by_key(|(_, _, state)| (state.exit_code != 0, at(&state.finished_at)))
}

/// Evicted, preempted, or its node is gone.
fn is_disrupted(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")
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
}
