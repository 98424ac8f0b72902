//! The notifications of a release, and who receives them.

use std::time::Duration;

use super::message;
use crate::api::{Notification, PhaseName};

/// Something that people are notified of.
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
    /// An import progresses.
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
    /// A release was aborted.
    Aborted {
        /// Why.
        cause: String,
    },
}

/// Who is notified: the Portal's notifications, on behalf of one release.
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

impl Notice {
    /// The Portal wants this one sent there.
    pub fn is_wanted(&self, notification: &Notification) -> bool {
        match self {
            Notice::Started { .. } => notification.start,
            Notice::PhaseComplete { .. } => notification.phase_complete,
            Notice::ImportProgress { .. } => notification.import_progress,
            Notice::Live { .. } => notification.success,
            Notice::Failed { .. } | Notice::Aborted { .. } => notification.failure,
        }
    }

    /// Its text.
    pub fn text(&self, audience: &Audience) -> String {
        let (portal, label) = (audience.portal.as_str(), audience.label.as_str());
        match self {
            Notice::Started { dry_run } => message::start(portal, label, *dry_run),
            Notice::PhaseComplete { phase, took, detail } => message::phase_complete(portal, label, *phase, *took, detail),
            Notice::ImportProgress { import, rows, total } => message::import_progress(portal, label, import, *rows, *total),
            Notice::Live { took, rows } => message::success(portal, label, *took, *rows),
            Notice::Failed { phase, cause } => message::failure(portal, label, *phase, cause),
            Notice::Aborted { cause } => message::aborted(portal, label, cause),
        }
    }
}
