//! What every part of the operator shares: metrics, events, notifications, addresses.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use crate::{
    api::{FrozenWorkload, ManifestRef, Notification, PhaseName},
    cluster::{self, EventType, PortalEvents},
    faults::Faults,
    leader::Term,
    metrics::Metrics,
    notify::{Notifier, message},
    outbound::Outbound,
    phases::Context,
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

/// Something that people are told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A release has started.
    Started {
        /// It will stop before the swap.
        dry_run: bool,
    },
    /// A phase is complete.
    PhaseComplete {
        /// The phase.
        phase: PhaseName,
        /// How long it took.
        took: Duration,
        /// What it did.
        detail: String,
    },
    /// An import goes on.
    ImportProgress {
        /// Its name.
        import: String,
        /// Rows so far.
        rows: i64,
        /// Rows of the source, once known.
        total: Option<i64>,
    },
    /// A release is live.
    Live {
        /// How long it took.
        took: Duration,
        /// Rows imported.
        rows: i64,
    },
    /// A release failed.
    Failed {
        /// In this phase.
        phase: Option<PhaseName>,
        /// Why.
        cause: String,
    },
}

/// Who is told: the Portal's notifications, in the name of one release.
#[derive(Clone, Debug)]
pub struct Audience {
    /// Namespace of the Portal and its Secrets.
    pub namespace: String,
    /// Name of the Portal.
    pub portal: String,
    /// Label of the release.
    pub label: String,
    /// The Portal's notifications.
    pub notifications: Vec<Notification>,
}

impl From<&Context> for Audience {
    fn from(context: &Context) -> Self {
        Self {
            namespace: context.namespace.clone(),
            portal: context.portal_name.clone(),
            label: context.label().0.clone(),
            notifications: context.portal.notifications.clone(),
        }
    }
}

impl Services {
    /// The namespace is being deleted: its Secrets, and the right to read them or to write events, go away in any order. A request
    /// would be refused, and nobody is left to be told.
    async fn is_going(&self, namespace: &str) -> bool {
        cluster::is_terminating(&self.client, namespace).await
    }

    /// Tells everyone who wants to know, in the background: nothing waits for it.
    pub fn tell(self: &Arc<Self>, audience: Audience, notice: Notice) {
        if !audience.notifications.iter().any(|notification| wants(notification, &notice)) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            if services.is_going(&audience.namespace).await {
                return;
            }
            let text = text(&audience, &notice);
            for notification in audience.notifications.iter().filter(|notification| wants(notification, &notice)) {
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
        tokio::spawn(async move {
            if !services.is_going(object.namespace.as_deref().unwrap_or_default()).await {
                services.events.publish(&object, type_, reason, "Reconcile", &note).await;
            }
        });
    }

    /// Where the manifest of a label is served.
    pub fn manifest(&self, namespace: &str, portal: &str, label: &str, sha256: String) -> ManifestRef {
        ManifestRef { url: format!("{}/manifests/{namespace}/{portal}/{label}.json", self.public_url), sha256 }
    }
}

fn wants(notification: &Notification, notice: &Notice) -> bool {
    match notice {
        Notice::Started { .. } => notification.start,
        Notice::PhaseComplete { .. } => notification.phase_complete,
        Notice::ImportProgress { .. } => notification.import_progress,
        Notice::Live { .. } => notification.success,
        Notice::Failed { .. } => notification.failure,
    }
}

fn text(audience: &Audience, notice: &Notice) -> String {
    let (portal, label) = (audience.portal.as_str(), audience.label.as_str());
    match notice {
        Notice::Started { dry_run } => message::start(portal, label, *dry_run),
        Notice::PhaseComplete { phase, took, detail } => message::phase_complete(portal, label, *phase, *took, detail),
        Notice::ImportProgress { import, rows, total } => message::import_progress(portal, label, import, *rows, *total),
        Notice::Live { took, rows } => message::success(portal, label, *took, *rows),
        Notice::Failed { phase, cause } => {
            message::failure(portal, label, *phase, cause, "Correct the cause, then raise spec.retry to go on from the failed phase.")
        }
    }
}

/// How workloads are, except where a record says how they were before somebody stopped them: a zero that is ours is never taken for
/// theirs. Whoever stops workloads writes its record first, so a record that is read after the present numbers tells every such zero.
pub fn corrected(now: Vec<FrozenWorkload>, recorded: &[FrozenWorkload]) -> Vec<FrozenWorkload> {
    let before = |workload: FrozenWorkload| {
        recorded.iter().find(|other| other.kind == workload.kind && other.name == workload.name).cloned().unwrap_or(workload)
    };
    now.into_iter().map(before).collect()
}
