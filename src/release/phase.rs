//! One table of what is known about each phase.

use std::time::Duration;

use crate::api::PhaseName;

/// What takes a phase back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing to take back.
    Never,
    /// Taken back when the release is aborted; kept for a retry when it failed.
    WhenAborted,
    /// Taken back whatever ended the run, unless the given phase did it already.
    AlwaysUnless(PhaseName),
}

/// The facts about one phase.
#[derive(Clone, Copy, Debug)]
pub struct PhaseFacts {
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many attempts may end with a technical error before the release fails. A refusal (a gate that says no) is final at once.
    pub attempts: i32,
    /// What takes it back.
    pub undo: Undo,
    /// Whether a running attempt may be cut off at any statement. `FinaliseSwap` looks for itself, between its attempts to lock.
    pub interruptible: bool,
    /// Event reason when it is done: one for each phase, because event recorders fold repeats by reason.
    pub done: &'static str,
}

const HOUR: u64 = 3600;

/// The facts about `phase`.
pub fn facts(phase: PhaseName) -> PhaseFacts {
    let (hours, attempts, undo, done) = match phase {
        PhaseName::AcquireLock => (24 * 30, i32::MAX, Undo::Never, "LockAcquired"),
        PhaseName::RefreshViews => (12, 5, Undo::Never, "ViewsRefreshed"),
        PhaseName::CreateStagingViews => (12, 5, Undo::WhenAborted, "StagingViewsCreated"),
        PhaseName::Preflight => (6, 5, Undo::Never, "PreflightPassed"),
        PhaseName::BuildStaging => (2, 5, Undo::WhenAborted, "StagingBuilt"),
        PhaseName::ImportCore => (48, 8, Undo::WhenAborted, "CoreImported"),
        PhaseName::ImportRelated => (48, 8, Undo::WhenAborted, "RelatedImported"),
        PhaseName::ValidateAndManifest => (12, 5, Undo::Never, "Validated"),
        PhaseName::Freeze => (24, 3, Undo::AlwaysUnless(PhaseName::Scale), "WorkersFrozen"),
        PhaseName::FinaliseSwap => (2, 5, Undo::Never, "DataSwapped"),
        PhaseName::CreateDownloadsView => (1, 5, Undo::Never, "DownloadsViewCreated"),
        PhaseName::Scale => (24, 5, Undo::Never, "WorkersRestored"),
        PhaseName::PostSwap => (6, 5, Undo::Never, "PostSwapDone"),
        PhaseName::CleanupAndRetention => (1, 5, Undo::Never, "RetentionApplied"),
        PhaseName::ReleaseLock => (1, i32::MAX, Undo::Never, "LockReleased"),
        PhaseName::ResetCheckpoints => (1, 5, Undo::Never, "CheckpointsReset"),
    };
    PhaseFacts { timeout: Duration::from_secs(hours * HOUR), attempts, undo, interruptible: phase != PhaseName::FinaliseSwap, done }
}

/// How long to wait before the next attempt after `failures` technical errors: 1 s, doubling, at most 30 s.
pub fn backoff(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(5);
    Duration::from_secs((1u64 << doublings).min(30))
}
