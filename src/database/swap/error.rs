//! Why a swap did not happen.

use std::{borrow::Cow, time::Duration};

use super::blocker::{Blocker, named};
use crate::{
    classify::Classify,
    database::{catalog::CatalogError, sqlstate, staging::StagingError},
    finding::{Finding, listed},
};

/// A swap that did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The database refused or was lost.
    #[error("{what} failed: {source}; nothing was changed; correct the cause, then raise spec.retry")]
    Database {
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The structure could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Other sessions held the relations until the time for waiting was used up.
    #[error(
        "could not lock the tables in {} s ({attempts} attempts), blocked by {}; nothing was changed; end these sessions or raise spec.retry",
        .waited.as_secs(),
        named(.blockers)
    )]
    Blocked {
        /// The time since the first attempt.
        waited: Duration,
        /// The number of attempts.
        attempts: u32,
        /// The sessions that blocked the last attempt.
        blockers: Vec<Blocker>,
    },
    /// The caller asked to stop.
    #[error("stopped while waiting for locks; nothing was changed")]
    Cancelled,
    /// A relation that should change place does not exist.
    #[error("{relation} does not exist, so there is nothing to exchange with {counterpart}; build it first")]
    Missing {
        /// The missing relation.
        relation: String,
        /// The one that would have changed place with it.
        counterpart: String,
    },
    /// A relation and its counterpart are of different kinds.
    #[error("{relation} is a {found}, but its live counterpart is a {expected}; make both the same")]
    KindDiffers {
        /// The incoming relation.
        relation: String,
        /// Its kind.
        found: String,
        /// The kind of live.
        expected: String,
    },
    /// A name that the swap needs is taken.
    #[error("the name {name} is taken by something that is not part of this swap; rename or drop it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// New look-up rows cannot be published.
    #[error(transparent)]
    Lookup(#[from] StagingError),
    /// Something cannot be carried over.
    #[error("the swap would break: {}", listed(.0, 8))]
    Obstacles(Vec<Finding>),
}

impl Classify for SwapError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_transient(),
            Self::Catalog(error) => error.is_transient(),
            Self::Lookup(error) => error.is_transient(),
            Self::Blocked { .. } => true,
            Self::Cancelled | Self::Missing { .. } | Self::KindDiffers { .. } | Self::NameTaken { .. } | Self::Obstacles(_) => false,
        }
    }
}

impl SwapError {
    pub(super) fn code(&self) -> Option<String> {
        match self {
            Self::Database { source, .. } => sqlstate::code(source).map(Cow::into_owned),
            _ => None,
        }
    }

    /// The same swap may succeed when it is retried.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Blocked { .. } => true,
            Self::Database { source, .. } | Self::Lookup(StagingError::Statement { source, .. }) => sqlstate::is_busy(source),
            _ => false,
        }
    }
}

/// What was being done when a statement failed.
pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> SwapError {
    let what = what.into();
    move |source| SwapError::Database { what, source }
}
