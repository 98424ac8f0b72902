//! Kubernetes events about portals and releases.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::{FIELD_MANAGER, describe, is_forbidden, is_namespace_terminating, is_terminating};
use crate::text::truncate;

/// Longest note that the API server takes, in bytes.
const MAX_NOTE_BYTES: usize = 1024;
/// How long writing one event may take. Nothing depends on an event.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Writes events. Clones share one recorder, which folds repeats of a reason within six minutes into one event and keeps
/// the first note; so whatever must be distinguished has its own reason.
#[derive(Clone)]
pub struct PortalEvents {
    client: Client,
    recorder: Recorder,
}

impl PortalEvents {
    /// Events are reported in the name of `instance`, usually the pod's name.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(truncate(instance, 128).to_owned()) };
        Self { recorder: Recorder::new(client.clone(), reporter), client }
    }

    /// Writes one event about `object`. `reason` and `action` are CamelCase words; `note` is cut after 1024 bytes.
    ///
    /// An event that cannot be written is logged and otherwise forgotten: no work may depend on events.
    pub async fn publish(&self, object: &ObjectReference, type_: EventType, reason: &'static str, action: &'static str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(truncate(note, MAX_NOTE_BYTES).to_owned()),
            secondary: None,
        };
        let name = object.name.as_deref().unwrap_or_default();
        let namespace = object.namespace.as_deref().unwrap_or_default();
        match tokio::time::timeout(TIMEOUT, self.recorder.publish(&event, object)).await {
            Ok(Ok(())) => {}
            // The right to write events goes away with the namespace, in any order.
            Ok(Err(error))
                if is_namespace_terminating(&error) || (is_forbidden(&error) && is_terminating(&self.client, namespace).await) =>
            {
                tracing::debug!(namespace, name, reason, "event {reason} was not written: the namespace is being deleted");
            }
            Ok(Err(error)) => tracing::warn!(namespace, name, reason, error = describe(&error), "event {reason} was not written"),
            Err(_) => tracing::warn!(namespace, name, reason, "event {reason} was not written within {}s", TIMEOUT.as_secs()),
        }
    }
}
