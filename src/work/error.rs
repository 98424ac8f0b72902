//! Why a phase is not done, and what that means for the run.

use thiserror::Error;

use crate::{
    classify::Classify,
    cluster::workers::WorkerError,
    database::lock::Fenced,
    finding::{Finding, listed},
};

/// At most this many findings are listed; a release with more has one cause.
const LISTED: usize = 8;

/// Why a phase is not done.
#[derive(Debug, Error)]
pub enum PhaseError {
    /// A check failed, or the input is wrong: a retry changes nothing.
    #[error("{0}")]
    Refused(String),
    /// A technical error: it may pass by itself.
    #[error("{0}")]
    Failed(String),
    /// What the staging was built from has changed: it must be rebuilt.
    #[error("{0}")]
    Stale(String),
    /// Other sessions block it: the run ends and the release is suspended, with everything that it has built.
    #[error("{0}")]
    Stopped(String),
    /// Other sessions block it: it is retried without a limit.
    #[error("{0}")]
    Blocked(String),
    /// Stopped at a safe point; it resumes from there.
    #[error("stopped at a safe point")]
    Paused,
    /// Stopped at once.
    #[error("stopped")]
    Cancelled,
    /// Another operator has taken over, or the lock is lost.
    #[error(transparent)]
    Fenced(Fenced),
}

impl From<Fenced> for PhaseError {
    fn from(error: Fenced) -> Self {
        match error {
            Fenced::Database(error) => Self::from(error),
            fenced => Self::Fenced(fenced),
        }
    }
}

impl<E: Classify> From<E> for PhaseError {
    /// Transient errors are retried; the others are final.
    fn from(error: E) -> Self {
        if error.is_transient() { Self::Failed(error.sentence()) } else { Self::Refused(error.sentence()) }
    }
}

impl From<WorkerError> for PhaseError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Cancelled => Self::Cancelled,
            error if error.is_transient() => Self::Failed(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Rejects with what blocks the release, if something does.
pub fn refuse(mut findings: Vec<Finding>) -> Result<(), PhaseError> {
    findings.retain(Finding::is_failure);
    if findings.is_empty() { Ok(()) } else { Err(PhaseError::Refused(listed(&findings, LISTED))) }
}
