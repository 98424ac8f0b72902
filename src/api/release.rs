//! `PortalRelease`: one release of a portal.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ItemName, Label, ObjectName, PhaseName, PortalReleaseStatus, named_enum, rules};

/// One release of a portal. Written by the release manager, or by Git.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portalrelease.dev",
    version = "v1alpha1",
    kind = "PortalRelease",
    namespaced,
    shortname = "prel",
    category = "portal-release",
    status = "PortalReleaseStatus",
    derive = "PartialEq",
    doc = "One release of a data portal: staging, import, validation, an atomic swap, and back.",
    printcolumn(name = "Label", type_ = "string", json_path = ".spec.label"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Current", type_ = "string", json_path = ".status.current", description = "Readers see this release"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backup", priority = 1),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startedAt", priority = 1),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration", priority = 1),
    selectable = ".spec.portalRef.name",
    selectable = ".spec.label",
    validation = rules::definition_is_steady(),
    validation = rules::abort_is_kept(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.portalRef.name == oldSelf.portalRef.name").message("portalRef.name is immutable: make a new PortalRelease for another portal"))]
#[x_kube(validation = Rule::new("self.label == oldSelf.label").message("label is immutable: make a new PortalRelease for another label"))]
#[x_kube(validation = Rule::new("!(has(self.abort) && has(self.rollback))").message("abort is for a release that has not swapped yet, rollback for one that is live: set only one of them (abort may be removed once the release has ended)"))]
#[x_kube(validation = Rule::new("(has(self.retry) ? self.retry : 0) >= (has(oldSelf.retry) ? oldSelf.retry : 0)").message("retry can only be raised"))]
pub struct PortalReleaseSpec {
    /// The portal, in the same namespace. Immutable.
    pub portal_ref: PortalRef,
    /// Label of the release, unique per portal; must match the Portal's `labelPattern`. Immutable.
    pub label: Label,
    /// `true`: run up to and including ValidateAndManifest, then stop and keep the staging for inspection. Nothing that readers or workers
    /// see changes. Setting it to `false` goes live from that staging.
    #[serde(default)]
    pub dry_run: bool,
    /// Which phases to run. Default: all. It cannot be changed while the release is Running or RollingBack.
    #[serde(default)]
    pub phases: PhaseSelection,
    /// Which imports to run. Default: all. It cannot be changed while the release is Running or RollingBack.
    #[serde(default)]
    pub imports: ImportSelection,
    /// Overrides of the Portal's `views`. Default: none. It cannot be changed while the release is Running or RollingBack.
    #[serde(default)]
    pub views: ViewOverrides,
    /// Overrides of the Portal's `staging`. Default: none. It cannot be changed while the release is Running or RollingBack.
    #[serde(default)]
    pub staging: StagingOverrides,
    /// How many backups to keep.
    #[serde(default)]
    pub retention: Retention,
    /// `true` stops the release at the next safe point, never while workers are stopped; `false` resumes it.
    #[serde(default)]
    pub suspend: bool,
    /// If present, aborts the release: before the swap its staging is dropped and its workers are restored; after the swap it
    /// is refused, and `rollback` is the way back. It may be removed once the release has ended, or when `retry` is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// If present, rolls the live release back. Removing it rolls forward again from the kept data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// What a roll forward may do, once `rollback` is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll_forward: Option<RollForward>,
    /// A number. Raise it to run a Failed or Aborted release again, or one that is Suspended because sessions blocked its swap.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub retry: i64,
    /// What a failure after the swap does. `Halt`: the new data stays live. `Rollback`: the former data becomes live again, unless rows that
    /// were written since the swap would be discarded; raising `retry` rolls forward again. Default: `Halt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Why this release is made, for the audit trail. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
}

named_enum! {
    /// What a failure after the swap does.
    pub enum OnFailure {
        /// The new data stays live.
        Halt,
        /// The former data becomes live again.
        Rollback,
    }
}

/// A Portal in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortalRef {
    /// Its name.
    pub name: ObjectName,
}

/// Which phases of the plan to run. `AcquireLock` and `ReleaseLock` always run, and workers that were frozen are always restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.only) || self.only.size() == 0 || (!has(self.startAt) && !has(self.stopAfter) && (!has(self.skip) || self.skip.size() == 0))").message("phases.only cannot be combined with startAt, stopAfter and skip"))]
#[x_kube(validation = Rule::new(super::phase::starts_before_it_stops()).message("phases.startAt comes after phases.stopAfter: no phase would run"))]
#[x_kube(validation = Rule::new(super::phase::skips_nothing_vital()).message(kube::core::Message::Message(super::phase::skips_something_vital())))]
pub struct PhaseSelection {
    /// First phase to run. What earlier phases make must exist already, from a run of the same label. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<PhaseName>,
    /// Last phase to run. Default: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<PhaseName>,
    /// Run only these phases, and those that they need. Cannot be combined with the other fields. Default: all.
    #[serde(default)]
    #[schemars(length(max = PhaseName::ALL.len()))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub only: Vec<PhaseName>,
    /// Skip these phases. Those that keep the data safe cannot be skipped. Default: none.
    #[serde(default)]
    #[schemars(length(max = PhaseName::ALL.len()))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub skip: Vec<PhaseName>,
}

/// Which imports to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.only) || self.only.size() == 0 || !has(self.skip) || self.skip.size() == 0").message("imports.only and imports.skip exclude each other"))]
pub struct ImportSelection {
    /// Run only these imports. Cannot be combined with `skip`. Default: all.
    #[serde(default)]
    #[schemars(length(max = 96))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub only: Vec<ItemName>,
    /// Skip these imports. A table that no other import fills is then empty, also once it is live. Default: none.
    #[serde(default)]
    #[schemars(length(max = 96))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub skip: Vec<ItemName>,
    /// Import at most this many rows per import, for a trial. Default: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub sample: Option<i64>,
}

impl ImportSelection {
    /// The import is among those that the release runs.
    pub fn runs(&self, import: &ItemName) -> bool {
        (self.only.is_empty() || self.only.contains(import)) && !self.skip.contains(import)
    }
}

/// Overrides of the Portal's `views`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewOverrides {
    /// Refresh the live materialized views concurrently before Preflight. Default: the Portal's `views.refresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<bool>,
    /// Build staged twins of the materialized views. Default: the Portal's `views.createStaging`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_staging: Option<bool>,
}

/// Overrides of the Portal's `staging`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StagingOverrides {
    /// Load the staged tables first, then build indexes and foreign keys. Default: the Portal's `staging.lightweight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightweight: Option<bool>,
}

/// How many backups to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Number of backups kept after success. Default: the Portal's `defaults.keepBackups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub keep_backups: Option<i32>,
}

/// Why a release is aborted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Abort {
    /// Why, for the audit trail.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// Where to roll back to, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.to == 'Previous' || self.to.matches('^[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])[0-5][0-9]$')").message("rollback.to must be Previous or a backup timestamp YYMMDDHHMM such as 2607011200"))]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// `Previous`, the backup that this release's swap made, or the timestamp `YYMMDDHHMM` of one in the Portal's `status.backups`.
    #[schemars(length(min = 8, max = 10))]
    pub to: String,
    /// Why, for the audit trail. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// `true`: roll back even if rows were written to the live tables since the swap; readers no longer see them. `false`: such a rollback
    /// is refused, with the tables and the number of rows.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// What a roll forward may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollForward {
    /// `true`: roll forward even if rows were written to the live tables since the rollback; readers no longer see them. `false`: such a
    /// roll forward is refused, with the tables and the number of rows.
    #[serde(default)]
    pub accept_data_loss: bool,
}
