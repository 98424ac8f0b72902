//! Effects on the cluster: workloads, Jobs, Secrets, ConfigMaps, events, status.
//!
//! Nothing here decides anything. Every request goes through [`call`], which bounds its time and repeats what may pass
//! when it is repeated.

pub mod jobs;
mod portal_events;
pub mod workers;

use std::{collections::BTreeMap, fmt, future::Future, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::Status,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

pub use kube::runtime::events::EventType;
pub use portal_events::PortalEvents;

use crate::{
    classify::Classify,
    secret::SecretValue,
    text::{chain, truncate},
};

/// The one name under which the operator owns fields.
pub const FIELD_MANAGER: &str = "portal-release-operator";

/// How long one request may take, its repetitions included.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one attempt may take, so that a hung connection leaves time for another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest part of a server's message that is passed on.
const MAX_CAUSE_BYTES: usize = 512;

/// Why a request to the Kubernetes API failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server answered with an error, or could not be reached.
    #[error("{}", describe(.0))]
    Kube(kube::Error),
    /// There was no good answer in time.
    #[error("the API server did not answer within {}s", ATTEMPT_TIMEOUT.as_secs())]
    NoAnswer,
    /// The request was repeated for some time and never succeeded.
    #[error("still failing after {seconds}s: {cause}")]
    KeptFailing {
        /// For how long it was repeated, in seconds.
        seconds: u64,
        /// The last cause.
        cause: String,
    },
}

impl Classify for CallError {
    fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer | Self::KeptFailing { .. } => true,
            // A quota is freed by what ends, or raised.
            Self::Kube(kube::Error::Api(status)) if is_over_quota(status) => true,
            Self::Kube(kube::Error::Api(status)) => match status.code {
                409 => !status.is_already_exists() && !status.message.contains("Precondition failed"),
                code => code == 429 || code >= 500,
            },
            Self::Kube(kube::Error::HyperError(_) | kube::Error::Service(_)) => true,
            Self::Kube(_) => false,
        }
    }
}

impl CallError {
    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube(error) if is_not_found(error))
    }

    /// The object's namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Kube(error) if is_namespace_terminating(error))
    }

    /// A webhook that decides about the object cannot be asked without creating it.
    pub fn is_dry_run_unsupported(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.code == 400 && status.message.contains("not support dry run"))
    }

    /// What a person can do about it.
    fn next_step(&self) -> &'static str {
        match self {
            Self::Kube(kube::Error::Api(status)) if is_over_quota(status) => {
                "raise the ResourceQuota of that namespace, or delete what uses it up"
            }
            Self::Kube(kube::Error::Api(status)) if is_denied(status) => {
                "change what the admission webhook or policy objects to, or except it there"
            }
            Self::Kube(kube::Error::Api(status)) if status.is_forbidden() => "grant it to the operator's service account in that namespace",
            Self::Kube(kube::Error::Api(status)) if status.code == 401 => "check the token of the operator's service account",
            _ if self.is_transient() => "check that the API server is reachable and healthy",
            _ => "check the object and the operator's log",
        }
    }
}

/// The namespace's quota is used up. Kubernetes answers as to somebody without the right.
fn is_over_quota(status: &Status) -> bool {
    status.is_forbidden() && status.message.contains("exceeded quota")
}

/// A webhook or a policy has looked at the object and said no; which code it answers with is its own choice.
fn is_denied(status: &Status) -> bool {
    status.message.contains("denied the request") || status.message.contains("denied request")
}

/// Why an object of the cluster could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A Secret or ConfigMap does not exist.
    #[error("{kind} {namespace}/{name} does not exist; create it with the key {key}")]
    Missing {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key that is wanted from it.
        key: String,
    },
    /// A Secret or ConfigMap lacks a key, or the key holds nothing.
    #[error("{kind} {namespace}/{name} has no value under the key {key}; add it")]
    KeyMissing {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A Secret's value is not UTF-8.
    #[error("the value of {namespace}/{name} under the key {key} is not UTF-8 text; store it as text")]
    NotText {
        /// Namespace of the Secret.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A request failed.
    #[error("cannot {action} {object}: {cause}; {}", .cause.next_step())]
    Call {
        /// A verb, such as `read`.
        action: &'static str,
        /// Kind, namespace and name.
        object: String,
        /// Why.
        cause: CallError,
    },
}

impl Classify for ClusterError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Call { cause, .. } => cause.is_transient(),
            Self::Missing { .. } | Self::KeyMissing { .. } | Self::NotText { .. } => false,
        }
    }
}

impl ClusterError {
    /// The object or its key does not exist: a person has to create it.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::KeyMissing { .. } | Self::NotText { .. })
    }

    /// The failed call, if a call failed.
    pub fn call(&self) -> Option<&CallError> {
        match self {
            Self::Call { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Reads one key of a Secret as text, without white space at its end.
///
/// # Errors
/// When the Secret or the key is missing or empty, the value is not UTF-8, or the request fails.
pub async fn read_secret_key(client: &Client, namespace: &str, name: &str, key: &str) -> Result<SecretValue, ClusterError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = call(|| api.get(name)).await.map_err(|cause| unreadable("Secret", namespace, name, key, cause))?;
    let bytes = secret.data.and_then(|mut data| data.remove(key)).map(|value| value.0).unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| ClusterError::NotText {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    })?;
    match text.trim_end() {
        "" => Err(key_missing("Secret", namespace, name, key)),
        text => Ok(SecretValue::new(text)),
    }
}

/// Reads every key of a Secret as text; keys that hold no text are skipped.
///
/// # Errors
/// When the Secret is missing or the request fails.
pub async fn read_secret(client: &Client, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, ClusterError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = call(|| api.get(name)).await.map_err(|cause| unreadable("Secret", namespace, name, "AWS_ACCESS_KEY_ID", cause))?;
    let data = secret.data.unwrap_or_default();
    Ok(data.into_iter().filter_map(|(key, value)| String::from_utf8(value.0).ok().map(|text| (key, text))).collect())
}

/// Reads one key of a ConfigMap.
///
/// # Errors
/// When the ConfigMap or the key is missing or empty, or the request fails.
pub async fn read_config_map_key(client: &Client, namespace: &str, name: &str, key: &str) -> Result<String, ClusterError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config_map = call(|| api.get(name)).await.map_err(|cause| unreadable("ConfigMap", namespace, name, key, cause))?;
    config_map
        .data
        .and_then(|mut data| data.remove(key))
        .filter(|text| !text.trim().is_empty())
        .ok_or_else(|| key_missing("ConfigMap", namespace, name, key))
}

/// Reads one key of a ConfigMap's `data` or `binaryData` as the bytes of a file.
///
/// # Errors
/// When the ConfigMap or the key is missing, or the request fails.
pub async fn read_config_map_file(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, ClusterError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = call(|| api.get(name)).await.map_err(|cause| unreadable("ConfigMap", namespace, name, key, cause))?;
    let text = found.data.and_then(|mut data| data.remove(key)).map(String::into_bytes);
    let binary = found.binary_data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0);
    text.or(binary).ok_or_else(|| key_missing("ConfigMap", namespace, name, key))
}

/// Writes the whole status of an object by server-side apply. The object's uid goes along: an object that was deleted and
/// made again under the same name is left alone.
///
/// # Errors
/// When the request fails, also with a conflict for another uid.
pub async fn patch_status<K>(client: &Client, object: &K, status: &impl Serialize) -> Result<K, ClusterError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "namespace": namespace, "uid": object.uid() },
        "status": status,
    });
    let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&patch));
    call(|| api.patch_status(&name, &params, &patch)).await.map_err(|cause| ClusterError::Call {
        action: "write the status of",
        object: format!("{} {namespace}/{name}", K::kind(&())),
        cause,
    })
}

/// The namespace is being deleted, or is gone. `false` where that cannot be found out.
pub async fn is_terminating(client: &Client, namespace: &str) -> bool {
    let api: Api<Namespace> = Api::all(client.clone());
    match call(|| api.get_opt(namespace)).await {
        Ok(Some(found)) => found.metadata.deletion_timestamp.is_some(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// The operator lacks the right.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden())
}

/// The object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// The request was refused because the object's namespace is being deleted.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let by_cause = status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
    status.is_forbidden() && (by_cause || status.message.contains("because it is being terminated"))
}

/// Makes a request with a bound on its time; repeats it while it fails with something that may pass.
///
/// # Errors
/// The last failure, once it is permanent or the time is over.
pub async fn call<T, Fut>(request: impl FnMut() -> Fut) -> Result<T, CallError>
where
    Fut: Future<Output = Result<T, kube::Error>>,
{
    call_within(CALL_TIMEOUT, request).await
}

async fn call_within<T, Fut>(limit: Duration, mut request: impl FnMut() -> Fut) -> Result<T, CallError>
where
    Fut: Future<Output = Result<T, kube::Error>>,
{
    let attempt = || {
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, request());
        async { answer.await.map_err(|_| CallError::NoAnswer)?.map_err(CallError::Kube) }
    };
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times();
    let mut last = None;
    let repeated = attempt.retry(backoff).when(CallError::is_transient).notify(|error, _| {
        tracing::debug!(%error, "retrying a request to the Kubernetes API");
        last = Some(error.to_string());
    });
    match tokio::time::timeout(limit, repeated).await {
        Ok(result) => result,
        Err(_) => Err(last.map_or(CallError::NoAnswer, |cause| CallError::KeptFailing { seconds: limit.as_secs(), cause })),
    }
}

/// The cause of an API error in one bounded line.
pub fn describe(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) if status.message.is_empty() => format!("the API server answered {} {}", status.code, status.reason),
        kube::Error::Api(status) => format!("{} (HTTP {})", status.message, status.code),
        kube::Error::Service(cause) => chain(cause.as_ref()),
        other => chain(other),
    };
    truncate(&text, MAX_CAUSE_BYTES).to_owned()
}

fn unreadable(kind: &'static str, namespace: &str, name: &str, key: &str, cause: CallError) -> ClusterError {
    if cause.is_not_found() {
        let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
        return ClusterError::Missing { kind, namespace, name, key };
    }
    ClusterError::Call { action: "read", object: format!("{kind} {namespace}/{name}"), cause }
}

fn key_missing(kind: &'static str, namespace: &str, name: &str, key: &str) -> ClusterError {
    ClusterError::KeyMissing { kind, namespace: namespace.to_owned(), name: name.to_owned(), key: key.to_owned() }
}

#[cfg(test)]
mod tests {
    use kube::core::{
        Status,
        response::{StatusCause, StatusDetails},
    };

    use super::*;

    fn api_error(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = SecretValue::new("postgres://canary");
        assert_eq!(format!("{secret} {secret:?}"), "[secret] [secret]");
    }

    #[test]
    fn truncation_respects_characters() {
        assert_eq!(truncate("aé", 2), "a");
        assert_eq!(truncate("aé", 3), "aé");
        assert_eq!(truncate("aé", 30), "aé");
    }

    #[test]
    fn a_terminating_namespace_is_recognised() {
        let cause = StatusCause { reason: "NamespaceTerminating".into(), message: String::new(), field: String::new() };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 0,
        };
        let status = Status::failure("events is forbidden", "Forbidden").with_code(403).with_details(details);
        assert!(is_namespace_terminating(&kube::Error::Api(status.boxed())));
        assert!(!is_namespace_terminating(&api_error(403, "Forbidden", "no")));
        assert!(!is_namespace_terminating(&api_error(404, "NotFound", "no")));
    }

    #[test]
    fn what_may_pass_is_distinguished_from_what_stays() {
        for (code, reason, message, transient) in [
            (409, "Conflict", "the object has been modified", true),
            (409, "Conflict", "Precondition failed: UID in precondition", false),
            (409, "AlreadyExists", "exists", false),
            (429, "TooManyRequests", "slow down", true),
            (503, "ServiceUnavailable", "etcd", true),
            (403, "Forbidden", "no", false),
            (404, "NotFound", "no", false),
            (403, "Forbidden", "jobs.batch \"x\" is forbidden: exceeded quota: few, requested: count/jobs.batch=1", true),
        ] {
            assert_eq!(CallError::Kube(api_error(code, reason, message)).is_transient(), transient, "{code} {reason} {message}");
        }
    }

    #[test]
    fn each_refusal_has_its_own_next_step() {
        for (code, reason, message, next) in [
            (
                403,
                "Forbidden",
                "jobs.batch \"x\" is forbidden: exceeded quota: few, requested: count/jobs.batch=1",
                "raise the ResourceQuota",
            ),
            (403, "Forbidden", "admission webhook \"v.kyverno.svc\" denied the request: no limits", "admission webhook or policy"),
            (400, "BadRequest", "admission webhook \"v.kyverno.svc\" denied the request: no limits", "admission webhook or policy"),
            (
                422,
                "Invalid",
                "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                "admission webhook or policy",
            ),
            (
                403,
                "Forbidden",
                "jobs.batch is forbidden: User \"u\" cannot create resource \"jobs\"",
                "grant it to the operator's service account",
            ),
        ] {
            let cause = CallError::Kube(api_error(code, reason, message));
            assert!(cause.next_step().contains(next), "{message}: {}", cause.next_step());
            assert!(!cause.is_dry_run_unsupported());
        }
        let cause = CallError::Kube(api_error(400, "BadRequest", "admission webhook \"v.old.svc\" does not support dry run"));
        assert!(cause.is_dry_run_unsupported() && !cause.is_transient());
    }

    #[tokio::test]
    async fn a_call_is_repeated_until_it_succeeds_and_no_longer_than_allowed() {
        let mut left = 3;
        let answer = call(|| {
            left -= 1;
            let result = if left == 0 { Ok("done") } else { Err(api_error(503, "ServiceUnavailable", "etcd is away")) };
            async { result }
        });
        assert_eq!(answer.await.unwrap(), "done");

        let away = || async { Err::<(), _>(api_error(503, "ServiceUnavailable", "etcd is away")) };
        let error = call_within(Duration::from_secs(1), away).await.unwrap_err();
        assert_eq!(error.to_string(), "still failing after 1s: etcd is away (HTTP 503)");
        assert!(error.is_transient());

        let error = call(|| async { Err::<(), _>(api_error(403, "Forbidden", "no")) }).await.unwrap_err();
        assert!(!error.is_transient());
    }
}
