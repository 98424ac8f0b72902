//! The status of a `Portal`: what the operator has observed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FrozenWorkload, Label, tolerant::known_items};

/// At most this many backups are listed.
pub const LISTED_BACKUPS: usize = 32;

/// What the operator has observed of a portal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortalStatus {
    /// The generation that this status describes; -1 until the operator has observed the object.
    #[serde(default)]
    pub observed_generation: i64,
    /// Label of the release that readers see; absent while they see data from before the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_label: Option<Label>,
    /// Number of backups, including those of other tools.
    #[serde(default)]
    pub backup_count: i32,
    /// Disk space of the listed backups, such as `2.8 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub backup_size: Option<String>,
    /// The newest backups, newest first.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub backups: Vec<BackupStatus>,
    /// Workloads that the emergency freeze stopped, with their former replica counts.
    #[serde(default, deserialize_with = "known_items")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub frozen_workloads: Vec<FrozenWorkload>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus) and `WorkersFrozen`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// One backup: the relations `bkYYMMDDHHMM_*` that one swap took out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// `YYMMDDHHMM`: the value for `rollback.to`.
    #[schemars(length(max = 10))]
    pub timestamp: String,
    /// Label of the release that the data belongs to; absent for data from before the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub release: Option<String>,
    /// Label of the release whose swap made it; absent when another tool made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub made_by: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// Disk space with indexes, such as `1.4 GiB`.
    #[schemars(length(max = 16))]
    pub size: String,
    /// Disk space with indexes, in bytes.
    pub bytes: i64,
    /// Number of the Portal's tables in it.
    pub tables: i32,
    /// Whether it has every table and view that the Portal swaps today. Only a complete backup can be rolled back to.
    pub complete: bool,
    /// The objects that depend on it and prevent retention from dropping it; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub held_by: Option<String>,
}
