//! What was observed of a release, its portal and the ledger.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::{
    Written,
    phases::{DryRun, facts},
    plan::{Again, imports_again},
    written::accepted,
};
use crate::api::{PhaseName, PhaseState, PortalReleaseSpec, PortalSpec, ReleaseState, named_enum};

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

named_enum! {
    /// Whether a phase is done or undone.
    pub enum Direction {
        /// Do it.
        Do,
        /// Undo it.
        Undo,
    }
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
    /// What its exchange makes live.
    pub fn incoming(self) -> Incoming {
        match self {
            Self::Release => Incoming::Staging,
            Self::Rollback => Incoming::Backup,
            Self::RollForward => Incoming::Parked,
        }
    }

    /// The name used in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "Release",
            Self::Rollback => "Rollback",
            Self::RollForward => "RollForward",
        }
    }
}

/// One run of a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunRecord {
    /// Its id.
    pub id: i64,
    /// What it does.
    pub kind: RunKind,
    /// A rollback's destination: `Previous` or a backup's timestamp; `None` for an automatic one.
    pub target: Option<String>,
    /// The failure that a rollback answers which nobody asked for.
    #[serde(default)]
    pub cause: Option<String>,
    /// The data loss that it was opened to accept.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// It has not ended.
    #[serde(rename = "closed_at", deserialize_with = "is_unset")]
    pub open: bool,
    /// It is being cleaned up and will end in this state.
    pub ending: Option<ReleaseState>,
    /// Why.
    pub message: String,
    /// The staging is from before a standstill: compare it with its source before continuing.
    pub recheck: bool,
    /// Its phases, in order.
    pub phases: Vec<PhaseRecord>,
}

/// What the exchange of a run makes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The staging that the run has built.
    Staging,
    /// A backup: the run undoes a swap.
    Backup,
    /// What a rollback has parked: the run does a swap once more.
    Parked,
}

impl RunRecord {
    /// What the run makes live.
    pub fn incoming(&self) -> Incoming {
        match self.record(PhaseName::FinaliseSwap).map(|record| record.direction) {
            Some(Direction::Undo) => Incoming::Backup,
            _ if self.builds() => Incoming::Staging,
            _ => Incoming::Parked,
        }
    }

    /// The downloads view changes with the run's swap.
    pub fn changes_downloads_view(&self) -> bool {
        self.state_of(PhaseName::CreateDownloadsView).is_some_and(|state| state != PhaseState::Skipped)
    }

    /// How far `phase` got; `None` when it is not in the plan.
    pub fn state_of(&self, phase: PhaseName) -> Option<PhaseState> {
        self.record(phase).map(|record| record.state)
    }

    /// The run replaces live and what was live by each other: there is no way back but another run.
    pub fn has_swapped(&self) -> bool {
        self.is_done(PhaseName::FinaliseSwap)
    }

    /// The run builds what it makes live; a rollback and a roll forward exchange what exists.
    pub fn builds(&self) -> bool {
        self.state_of(PhaseName::BuildStaging).is_some()
    }

    /// Something is done already that a rebuilding of the staging would do again.
    pub fn has_built(&self) -> bool {
        self.phases.iter().any(|record| facts(record.name).rebuilt && record.state == PhaseState::Succeeded)
    }

    /// It still reads the source: it builds, and has not swapped.
    pub fn reads_source(&self) -> bool {
        self.builds() && !self.has_swapped()
    }

    /// Its staged views are built and swapped.
    pub fn stages_views(&self) -> bool {
        self.state_of(PhaseName::CreateStagingViews) != Some(PhaseState::Skipped)
    }

    /// Its staging is complete and its manifest written.
    pub fn is_validated(&self) -> bool {
        self.is_done(PhaseName::ValidateAndManifest)
    }

    /// An automatic rollback: the release failed, and `onFailure` is `Rollback`. Its message is the failure.
    pub fn is_automatic(&self) -> bool {
        self.kind == RunKind::Rollback && self.target.is_none()
    }

    /// Workers that the run has stopped are back.
    pub fn has_restored_workers(&self) -> bool {
        self.is_done(PhaseName::Scale) || self.state_of(PhaseName::Freeze) == Some(PhaseState::Undone)
    }

    /// The record of a phase.
    pub fn record(&self, phase: PhaseName) -> Option<&PhaseRecord> {
        self.phases.iter().find(|record| record.name == phase)
    }

    /// The phase whose last attempt failed.
    pub fn failed(&self) -> Option<&PhaseRecord> {
        self.phases.iter().find(|record| record.state == PhaseState::Failed)
    }

    /// The next phase to run. What a dry run skips is passed over, also when the release has become one in mid-run.
    pub fn pending(&self, dry_run: bool) -> Option<&PhaseRecord> {
        let waits = |state| matches!(state, PhaseState::Pending | PhaseState::Running | PhaseState::Failed | PhaseState::Undone);
        let dry = dry_run && self.builds() && !self.has_swapped();
        self.phases.iter().find(|record| waits(record.state) && !(dry && facts(record.name).in_dry_run != DryRun::Run))
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
    /// Whether the run does or undoes it.
    pub direction: Direction,
    /// Its state.
    pub state: PhaseState,
    /// The number of attempts.
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

fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<Timestamp>::deserialize(deserializer).map(|at| at.is_some())
}

fn is_unset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    is_set(deserializer).map(|set| !set)
}
