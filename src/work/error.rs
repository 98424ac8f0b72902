//! Why a phase is not done, and what that means for the run.

use thiserror::Error;

use crate::{
    cluster::workers::WorkerError,
    database::{checks::Finding, lock::Fenced},
};

/// At most this many findings are listed; a release with more has one cause.
const LISTED: usize = 8;

/// Why a phase is not done.
#[derive(Debug, Error)]
pub enum PhaseError {
    /// A check says no, or the input is wrong: trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// Something did not work this time.
    #[error("{0}")]
    Failed(String),
    /// What the staging was built from has changed: it must be built again.
    #[error("{0}")]
    Stale(String),
    /// Others are in the way: the run ends and the release stands still, with everything that it has built.
    #[error("{0}")]
    Stopped(String),
    /// Others are in the way: it is tried again, however often it takes.
    #[error("{0}")]
    Blocked(String),
    /// Stopped at a safe point; it goes on from there later.
    #[error("stopped at a safe point")]
    Paused,
    /// Stopped at once.
    #[error("stopped")]
    Cancelled,
    /// The change is not ours to make any more.
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

impl From<sqlx::Error> for PhaseError {
    /// What the server says of the statement is final; what is wrong with the connection or the moment is not.
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) => {
                let code = database.code().unwrap_or_default().into_owned();
                let text = format!("{} (SQLSTATE {code})", database.message());
                if is_transient(&code) { Self::Failed(text) } else { Self::Refused(text) }
            }
            None => Self::Failed(format!("database: {error}")),
        }
    }
}

/// SQLSTATE classes that may pass by themselves: connection, resources, operator intervention, lock and serialisation conflicts.
fn is_transient(code: &str) -> bool {
    ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// Errors of the data plane keep the driver's error inside; whether it may pass decides whether the phase is tried again.
pub fn of_database<E: std::error::Error + 'static>(error: E) -> PhaseError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(sqlx) = inner.downcast_ref::<sqlx::Error>() {
            let transient = sqlx.as_database_error().is_none_or(|database| is_transient(&database.code().unwrap_or_default()));
            return if transient { PhaseError::Failed(error.to_string()) } else { PhaseError::Refused(error.to_string()) };
        }
        cause = inner.source();
    }
    PhaseError::Refused(error.to_string())
}

impl From<WorkerError> for PhaseError {
    fn from(error: WorkerError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Refuses with what was found, if something was.
pub fn refuse(findings: Vec<Finding>) -> Result<(), PhaseError> {
    refuse_sentences(findings.iter().map(ToString::to_string).collect())
}

/// Refuses with these sentences, if there are any.
pub fn refuse_sentences(mut sentences: Vec<String>) -> Result<(), PhaseError> {
    if sentences.is_empty() {
        return Ok(());
    }
    let more = sentences.len().saturating_sub(LISTED);
    sentences.truncate(LISTED);
    let more = if more > 0 { format!(". And {more} more") } else { String::new() };
    Err(PhaseError::Refused(format!("{}{more}", sentences.join(". "))))
}
