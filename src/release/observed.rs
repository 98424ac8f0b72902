//! What was observed of a release, its portal and the ledger.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::Written;
use crate::api::{PhaseName, PhaseState, PortalReleaseSpec, PortalSpec, ReleaseState};

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The time of the observation.
    pub now: Timestamp,
    /// What the user asks for.
    pub spec: PortalReleaseSpec,
    /// The object is being deleted.
    pub deleting: bool,
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

/// Why a release cannot go on until somebody changes something.
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
    /// Where it stands.
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

/// A backup that is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeptBackup {
    /// `YYMMDDHHMM`.
    pub stamp: String,
    /// Label of the release whose data it is, where the ledger knows.
    pub label: Option<String>,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum RunKind {
    /// Takes the release live.
    Release,
    /// Replaces its data by the former one.
    Rollback,
    /// Makes its kept data live again.
    RollForward,
}

impl RunKind {
    /// The name as it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "Release",
            Self::Rollback => "Rollback",
            Self::RollForward => "RollForward",
        }
    }
}

/// Whether a phase is done or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Do it.
    Do,
    /// Undo it.
    Undo,
}

/// One run of a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub id: i64,
    /// What it does.
    pub kind: RunKind,
    /// A rollback's destination: `Previous` or a backup's timestamp.
    pub target: Option<String>,
    /// The data loss that it was opened to accept.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// It has not ended.
    #[serde(rename = "closed_at", deserialize_with = "is_unset")]
    pub open: bool,
    /// It is being wound up and will end in this state.
    pub ending: Option<ReleaseState>,
    /// Why.
    pub message: String,
    /// The staging is from before a standstill: compare it with its source before going on.
    pub recheck: bool,
    /// Its phases, in order.
    pub phases: Vec<PhaseRecord>,
}

impl RunRecord {
    /// How far `phase` got; `None` when it is not in the plan.
    pub fn state_of(&self, phase: PhaseName) -> Option<PhaseState> {
        self.phases.iter().find(|record| record.name == phase).map(|record| record.state)
    }

    /// Whether `phase` was done in this run.
    pub fn is_done(&self, phase: PhaseName) -> bool {
        self.state_of(phase) == Some(PhaseState::Succeeded)
    }
}

/// How far a phase got.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PhaseRecord {
    /// Its name.
    #[serde(rename = "phase")]
    pub name: PhaseName,
    /// Its state.
    pub state: PhaseState,
    /// How often it was begun.
    pub attempts: i32,
    /// How many attempts ended with an error since it last succeeded.
    pub failures: i32,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When its last attempt ended.
    pub completed_at: Option<Timestamp>,
    /// What it did, or why it failed or was skipped.
    pub message: String,
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
    /// The staging is kept for another release, which stands still: a dry run, or one that is suspended.
    Kept {
        /// Its name.
        name: String,
    },
    /// The object of a release with an open run is gone; its run must be wound up first.
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
    /// Somebody else holds it: who, in a sentence.
    Busy(String),
}

/// What this process does for a release right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The phase that runs or is undone; `None` for the winding up of an orphan.
    pub phase: Option<PhaseName>,
    /// What it says of itself.
    pub message: String,
    /// Who is in its way.
    pub blocked: Option<String>,
    /// It has been told to stop.
    pub stopping: bool,
}

fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<Timestamp>::deserialize(deserializer).map(|at| at.is_some())
}

fn is_unset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    is_set(deserializer).map(|set| !set)
}
