//! The status of a `PortalRelease`: a projection of the ledger.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    PhaseName, WorkerKind, named_enum,
    tolerant::{known, known_items},
};

/// The state of a release. Projected from the ledger; never read back to decide anything.
// Lists that only the operator writes are atomic: each write replaces the whole list, also what another version or another hand put
// there. Conditions are a map, as everywhere, so that other tools can add theirs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortalReleaseStatus {
    /// The generation that this status describes; -1 until the operator has observed the object.
    #[serde(default)]
    pub observed_generation: i64,
    /// Pending, Queued, Running, Suspended, DryRunComplete, Live, Superseded, RollingBack, RolledBack, Aborted or Failed. A later version
    /// may add others.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub state: Option<ReleaseState>,
    /// The phase that runs now, or at which the release stopped; absent once the release is finished.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseName>,
    /// Percent of the plan that is done.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub progress: i32,
    /// What happens now, or what went wrong and what to do about it.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// Whether this release is what readers see.
    #[serde(default)]
    pub current: bool,
    /// When its first phase started; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its last run ended; absent while one is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// From start to completion, such as `3m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub duration: Option<String>,
    /// Every phase of the run in order, with its state.
    #[serde(default, deserialize_with = "known_items")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub phases: Vec<PhaseStatus>,
    /// The steps of the run that is open, or of the next one, and what undoes each; absent once the release is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The imports, with their state.
    #[serde(default, deserialize_with = "known_items")]
    #[schemars(length(max = 96))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub imports: Vec<ImportStatus>,
    /// Workloads that this release stopped, with their former replica counts.
    #[serde(default, deserialize_with = "known_items")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub frozen_workloads: Vec<FrozenWorkload>,
    /// Timestamp `YYMMDDHHMM` of the backup that this release's swap made; absent before the swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub backup: Option<String>,
    /// Where the manifest is; absent until it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestRef>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus) and the release's own conditions.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

named_enum! {
    /// The state of a release as a whole.
    pub enum ReleaseState {
        /// Accepted, not started yet.
        Pending,
        /// Waiting for another release of the portal.
        Queued,
        /// Its phases are running.
        Running,
        /// Stopped at a safe point, or at the end of the selected phases.
        Suspended,
        /// Staging is built and validated; `dryRun: false` goes live with it.
        DryRunComplete,
        /// Its data is live.
        Live,
        /// Its data was live; that of a later release is live now.
        Superseded,
        /// Its data is being replaced by the former one.
        RollingBack,
        /// Its data was live and was rolled back; staging is kept to roll forward.
        RolledBack,
        /// Stopped on request before the swap; everything was cleaned up.
        Aborted,
        /// Stopped by a failure; `retry` resumes it.
        Failed,
    }
}

/// What a run consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct PlanStatus {
    /// SHA-256 of what the run works from: the Portal, the release, the queries and templates, as they were when it started. Absent until
    /// its first phase has resolved them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub hash: Option<String>,
    /// The phases that the run does or undoes, in order. Phases that it skips are in `phases`, with the reason.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub steps: Vec<PlanStep>,
}

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    /// The phase.
    #[schemars(length(max = 63))]
    pub phase: String,
    /// `Do` or `Undo`.
    #[schemars(length(max = 16))]
    pub direction: String,
    /// Whether the step can be undone: `Possible`, `Impossible`, or `NotNeeded`, where it leaves nothing behind.
    #[schemars(length(max = 16))]
    pub undo: String,
    /// What undoes the step, or why nothing can; absent if nothing is left to undo.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub undone_by: String,
}

/// One phase of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseStatus {
    /// Its name.
    pub name: PhaseName,
    /// Pending, Running, Succeeded, Failed, Skipped or Undone.
    pub state: PhaseState,
    /// When its last attempt started; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its last attempt ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Number of attempts.
    #[serde(default)]
    pub attempts: i32,
    /// What it did, or why it failed or was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}

named_enum! {
    /// The state of a phase.
    pub enum PhaseState {
        /// Not started.
        Pending,
        /// Started.
        Running,
        /// Done.
        Succeeded,
        /// Ended with an error.
        Failed,
        /// Nothing to do, or skipped on request.
        Skipped,
        /// Done, and then undone.
        Undone,
    }
}

/// One import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportStatus {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Rows in the staged table so far.
    pub rows: i64,
    /// Rows to import, including those that are rejected; absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_total: Option<i64>,
    /// Rows rejected so far; see `portal_release.rejected_rows`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: i64,
    /// Percent of the rows; absent until their number is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// Rows per second in this attempt; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<i64>,
    /// Estimated seconds until it is done, at this rate; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<i64>,
    /// The Job that runs it, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub job: Option<String>,
    /// Pending, Running, Succeeded, Failed or Skipped.
    pub state: PhaseState,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A workload that was stopped, with its former replica count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FrozenWorkload {
    /// Deployment, StatefulSet or CronJob.
    pub kind: WorkerKind,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Replicas before the freeze; for a CronJob 1 if it was active and 0 if it was suspended already.
    pub replicas: i32,
}

/// Where the manifest is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestRef {
    /// Its address.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// SHA-256 of its bytes, in hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
}
