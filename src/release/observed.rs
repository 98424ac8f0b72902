//! What was observed of a release, its portal and the ledger.

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    Written,
    plan::{Again, imports_again},
    run::{RunKind, RunRecord, is_set},
    written::accepted,
};
use crate::api::{PhaseName, PortalReleaseSpec, PortalSpec, ReleaseState};

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The time of the observation.
    pub now: Timestamp,
    /// What the user asks for.
    pub spec: PortalReleaseSpec,
    /// The object is being deleted.
    pub deleting: bool,
    /// The object is gone, and its run is cleaned up for it.
    pub orphan: bool,
    /// The object's uid.
    pub uid: String,
    /// The portal, or why it cannot be used.
    pub portal: Result<PortalSpec, Refusal>,
    /// The ledger's row of this portal and label.
    pub release: Option<ReleaseRecord>,
    /// The latest run of that row, with its phases in order.
    pub run: Option<RunRecord>,
    /// What keeps this release from starting a run.
    pub blocker: Option<Blocker>,
    /// The advisory lock.
    pub lock: LockView,
    /// What this process does for the release right now.
    pub task: Option<TaskView>,
    /// Workers are stopped on behalf of this release.
    pub workers_frozen: bool,
    /// Readers see this release.
    pub current: bool,
    /// The staging relations hold this release's data.
    pub owns_staging: bool,
    /// Backups that a rollback could restore, newest first.
    pub backups: Vec<KeptBackup>,
    /// What was written to the live tables since they became live, when it was last counted.
    pub written: Option<Written>,
}

impl Observed {
    /// The ledger's row belongs to this very object, not to a former one of the same label.
    pub fn is_ours(&self) -> bool {
        self.release.as_ref().is_some_and(|release| release.uid == self.uid)
    }

    /// The open run of this object.
    pub fn open_run(&self) -> Option<&RunRecord> {
        self.run.as_ref().filter(|run| run.open && self.is_ours())
    }

    /// An abort that no retry has overruled. It is a latch and stays in the spec: a retry after it runs the release anyway, and
    /// another reason is another abort.
    pub fn is_aborted(&self) -> bool {
        let seen = self.release.as_ref().filter(|_| self.is_ours()).and_then(|release| release.abort_seen.as_ref());
        self.spec.abort.as_ref().is_some_and(|abort| Some(&abort.reason) != seen)
    }

    /// An abort that takes effect: only before the swap, only of a run that goes live.
    pub(super) fn wants_abort(&self) -> bool {
        self.is_aborted() && self.run.as_ref().is_some_and(|run| run.kind == RunKind::Release && !run.has_swapped())
    }

    /// `spec.retry` was raised since the last run.
    pub fn wants_retry(&self) -> bool {
        self.spec.retry > self.release.as_ref().map_or(0, |release| release.retry_seen)
    }

    /// For what the latest run would be opened again.
    pub fn again(&self) -> Again {
        let (Some(run), Some(release)) = (&self.run, &self.release) else { return Again::Fresh };
        let retry = self.wants_retry();
        if self.deleting || (self.wants_abort() && !retry) {
            return Again::CleanUp;
        }
        if run.has_swapped() || !run.builds() {
            return Again::Resume { reimport: false };
        }
        if release.state == ReleaseState::Aborted || !self.owns_staging {
            return Again::Fresh;
        }
        Again::Resume { reimport: retry && imports_again(&self.spec) }
    }

    /// Exactly the rollback, or roll forward, that is requested has failed; another destination is another request, and so is a loss that is
    /// accepted since.
    pub(super) fn has_failed_so(&self) -> bool {
        let wanted = self.spec.rollback.as_ref().map(|rollback| rollback.to.as_str());
        let kind = if wanted.is_some() { RunKind::Rollback } else { RunKind::RollForward };
        self.release.as_ref().is_some_and(|release| release.state == ReleaseState::Failed)
            && self.run.as_ref().is_some_and(|run| {
                run.kind == kind && run.target.as_deref() == wanted && run.accept_data_loss == accepted(kind.incoming(), &self.spec)
            })
    }

    /// The release is stopped before its swap, and keeps its staging.
    pub(super) fn leaves_staging(&self) -> bool {
        self.is_ours()
            && self.owns_staging
            && self.release.as_ref().is_some_and(|release| {
                !release.swapped && matches!(release.state, ReleaseState::DryRunComplete | ReleaseState::Suspended | ReleaseState::Failed)
            })
    }
}

/// Why a release cannot continue until a person changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// CamelCase reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The ledger's row of a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReleaseRecord {
    /// Its id.
    pub id: i64,
    /// The uid of the object that it belongs to.
    pub uid: String,
    /// The name of that object.
    pub name: String,
    /// Its state.
    pub state: ReleaseState,
    /// Why.
    pub message: String,
    /// The `spec.retry` that the last run answered.
    pub retry_seen: i64,
    /// The `spec.abort.reason` that a later retry has overruled.
    pub abort_seen: Option<String>,
    /// Its data has been live.
    #[serde(rename = "swapped_at", deserialize_with = "is_set")]
    pub swapped: bool,
    /// Where its data is kept after a rollback.
    pub parked: Option<String>,
    /// Backup that its swap made.
    pub backup: Option<String>,
    /// SHA-256 of its manifest.
    pub manifest_sha256: Option<String>,
    /// When its first run began.
    pub started_at: Option<Timestamp>,
    /// When its last run ended.
    pub completed_at: Option<Timestamp>,
}

/// A backup that exists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeptBackup {
    /// `YYMMDDHHMM`.
    pub stamp: String,
    /// Label of the release whose data it is, where the ledger knows.
    pub label: Option<String>,
}

/// What keeps a release from starting a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// Another release of the portal has an open run.
    Running {
        /// Its name.
        name: String,
    },
    /// An older release of the portal waits too.
    Older {
        /// Its name.
        name: String,
    },
    /// The staging is kept for another, stopped release: a dry run, or one that is suspended.
    Kept {
        /// Its name.
        name: String,
    },
    /// The object of a release with an open run was deleted; its run must be cleaned up first.
    Orphan {
        /// The run.
        run: i64,
        /// The name that the object had.
        name: String,
    },
    /// Another object uses the label.
    LabelInUse {
        /// Its name.
        name: String,
    },
}

/// The advisory lock, as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockView {
    /// Held by this process for the open run.
    Held,
    /// Not held by this process.
    Free,
    /// Another session holds it: which one, in a sentence.
    Busy(String),
}

/// What this process does for a release right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The phase that runs or is undone; `None` for the clean-up of an orphan.
    pub phase: Option<PhaseName>,
    /// What it says of itself.
    pub message: String,
    /// What blocks it.
    pub blocked: Option<String>,
    /// It is being stopped.
    pub stopping: bool,
}
