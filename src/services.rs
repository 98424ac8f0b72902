//! What every part of the operator shares: metrics, events, notifications, addresses.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use crate::{
    api::ManifestRef,
    cluster::{self, EventType, PortalEvents},
    faults::Faults,
    metrics::Metrics,
    notify::{Audience, Notice, Notifier},
    storage::guard::Outbound,
    term::Term,
};

/// Shared by everything.
pub struct Services {
    /// The cluster.
    pub client: Client,
    /// Every metric.
    pub metrics: Metrics,
    /// Slack.
    pub notifier: Notifier,
    /// Kubernetes events.
    pub events: PortalEvents,
    /// For hooks and files at addresses that a Portal names.
    pub outbound: Outbound,
    /// Where the operator's HTTP port is reached from outside, without a slash at the end.
    pub public_url: String,
    /// This process.
    pub instance: String,
    /// Until when it leads.
    pub term: Term,
    /// Fault injection for tests.
    pub faults: Faults,
}

impl Services {
    /// Sends a notice to everyone who wants it, in the background: nothing waits for it.
    pub fn notify(self: &Arc<Self>, audience: Audience, notice: Notice) {
        if !audience.notifications.iter().any(|notification| notice.is_wanted(notification)) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            // Secrets, and the right to read them, go away with the namespace in any order; there is nobody left to notify.
            if cluster::is_terminating(&services.client, &audience.namespace).await {
                return;
            }
            let text = notice.text(&audience);
            for notification in audience.notifications.iter().filter(|notification| notice.is_wanted(notification)) {
                let secret = &notification.slack.url_secret_ref;
                match cluster::read_secret_key(&services.client, &audience.namespace, secret.name.as_str(), secret.key.as_str()).await {
                    Ok(url) => services.notifier.notify(url, text.clone()),
                    Err(error) => {
                        tracing::warn!(portal = audience.portal, notification = %notification.name, %error, "notification {} was not sent", notification.name)
                    }
                }
            }
        });
    }

    /// Writes an event about an object, in the background.
    pub fn event(self: &Arc<Self>, object: ObjectReference, type_: EventType, reason: &'static str, note: String) {
        let services = self.clone();
        tokio::spawn(async move { services.events.publish(&object, type_, reason, "Reconcile", &note).await });
    }

    /// Where the manifest of a label is served.
    pub fn manifest(&self, namespace: &str, portal: &str, label: &str, sha256: String) -> ManifestRef {
        ManifestRef { url: format!("{}/manifests/{namespace}/{portal}/{label}.json", self.public_url), sha256 }
    }
}
