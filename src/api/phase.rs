//! The names of the phases, in the order in which they run.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One phase of a release. The order of the variants is the order of the phases in the documentation; the plan may move
/// `Freeze` forward when the Portal asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PhaseName {
    /// Takes the advisory lock of the portal's database and a new fencing epoch.
    AcquireLock,
    /// Refreshes the live materialized views concurrently.
    RefreshViews,
    /// Builds the staged twins of the materialized views.
    CreateStagingViews,
    /// Checks everything that can be checked before the first row is imported.
    Preflight,
    /// Builds the staged copies of the tables.
    BuildStaging,
    /// Runs the core imports into the staged tables.
    ImportCore,
    /// Runs the related imports into the staged tables.
    ImportRelated,
    /// Completes and validates the staged tables and writes the manifest.
    ValidateAndManifest,
    /// Scales the workers to zero and waits until they are gone.
    Freeze,
    /// Swaps staged and live relations in one transaction.
    FinaliseSwap,
    /// Creates or updates the downloads view.
    CreateDownloadsView,
    /// Brings the workers back to their recorded numbers.
    Scale,
    /// Vacuums the new tables and calls the hooks.
    PostSwap,
    /// Drops backups beyond the retention.
    CleanupAndRetention,
    /// Releases the advisory lock.
    ReleaseLock,
    /// Deletes the release's import checkpoints.
    ResetCheckpoints,
}

impl PhaseName {
    /// Every phase, in order.
    pub const ALL: [Self; 16] = [
        Self::AcquireLock,
        Self::RefreshViews,
        Self::CreateStagingViews,
        Self::Preflight,
        Self::BuildStaging,
        Self::ImportCore,
        Self::ImportRelated,
        Self::ValidateAndManifest,
        Self::Freeze,
        Self::FinaliseSwap,
        Self::CreateDownloadsView,
        Self::Scale,
        Self::PostSwap,
        Self::CleanupAndRetention,
        Self::ReleaseLock,
        Self::ResetCheckpoints,
    ];

    /// The name as it stands in specs, status and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AcquireLock => "AcquireLock",
            Self::RefreshViews => "RefreshViews",
            Self::CreateStagingViews => "CreateStagingViews",
            Self::Preflight => "Preflight",
            Self::BuildStaging => "BuildStaging",
            Self::ImportCore => "ImportCore",
            Self::ImportRelated => "ImportRelated",
            Self::ValidateAndManifest => "ValidateAndManifest",
            Self::Freeze => "Freeze",
            Self::FinaliseSwap => "FinaliseSwap",
            Self::CreateDownloadsView => "CreateDownloadsView",
            Self::Scale => "Scale",
            Self::PostSwap => "PostSwap",
            Self::CleanupAndRetention => "CleanupAndRetention",
            Self::ReleaseLock => "ReleaseLock",
            Self::ResetCheckpoints => "ResetCheckpoints",
        }
    }

    /// The phase of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
