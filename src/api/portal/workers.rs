//! The workloads that must not run while data is swapped.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Identifier, ObjectName, PhaseName, named_enum};

/// When and how workers are frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.timeout) || (duration(self.timeout) > duration('0s') && duration(self.timeout) <= duration('24h'))").message("freeze.timeout must be more than 0s and at most 24h"))]
pub struct Freeze {
    /// The phase just before which the workers are stopped: `Preflight` (for nearly the whole release), `BuildStaging`, or `FinaliseSwap`
    /// (as late as possible). A dry run stops none. The default will be `Migrate` once that phase exists.
    #[serde(default)]
    pub before: FreezeBefore,
    /// How long the workers may take to stop, and later to become available again; then the release fails. At most `24h`.
    #[serde(default = "default_freeze_timeout")]
    pub timeout: Duration,
    /// Database roles of the workers. Once the workers are stopped, Freeze waits until these roles have no session left. Default: none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub database_roles: Vec<Identifier>,
}

impl Default for Freeze {
    fn default() -> Self {
        Self { before: FreezeBefore::default(), timeout: default_freeze_timeout(), database_roles: Vec::new() }
    }
}

fn default_freeze_timeout() -> Duration {
    "2m".into()
}

named_enum! {
    /// The phase before which Freeze runs.
    #[derive(Default)]
    pub enum FreezeBefore {
        /// Workers are stopped for nearly the whole release.
        Preflight,
        /// Workers are stopped while staged tables are built and filled.
        BuildStaging,
        /// As late as possible.
        #[default]
        FinaliseSwap,
    }
}

impl FreezeBefore {
    /// The phase that it names.
    pub fn phase(self) -> PhaseName {
        match self {
            Self::Preflight => PhaseName::Preflight,
            Self::BuildStaging => PhaseName::BuildStaging,
            Self::FinaliseSwap => PhaseName::FinaliseSwap,
        }
    }
}

/// A workload that must not run while data is swapped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Its kind: a Deployment or a StatefulSet is scaled to zero; a CronJob is suspended, and its running Jobs are waited for.
    pub kind: WorkerKind,
    /// Its name.
    pub name: ObjectName,
}

named_enum! {
    /// The kinds of workloads that can be frozen.
    pub enum WorkerKind {
        /// Scaled to zero.
        Deployment,
        /// Scaled to zero.
        StatefulSet,
        /// Suspended.
        CronJob,
    }
}
