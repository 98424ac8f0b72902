//! A run of a release and its phases, as the ledger has them.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::phases::{DryRun, facts};
use crate::api::{PhaseName, PhaseState, ReleaseState, named_enum};

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

/// A time of the ledger says whether something has happened.
///
/// # Errors
/// When it is no time.
pub(super) fn is_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<Timestamp>::deserialize(deserializer).map(|at| at.is_some())
}

fn is_unset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    is_set(deserializer).map(|set| !set)
}
