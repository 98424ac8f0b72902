//! What must be true before an import and before the swap.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Contract, HttpRequest, yes};
use crate::api::{Duration, Identifier, ItemName, JobSource, Percentage, Sql, named_enum};

/// Checks of the views before anything is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Relations that must each hold at least one row. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub require_any_rows: Vec<Identifier>,
    /// Geometry columns whose values must be valid and have the SRID that is given. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["relation".to_string(), "column".to_string()]))]
    pub geometry: Vec<GeometryCheck>,
    /// Column lists whose values must be unique. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub unique: Vec<UniqueCheck>,
    /// How to learn the free disk space. Default: Preflight reports how much a release needs, and refuses none for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskCheck>,
}

/// How to learn the free disk space, which SQL by itself does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskCheck {
    /// A query, not a template, that returns one number: the free bytes of the disk that holds the tables. A release that needs more is
    /// refused.
    pub free_bytes_query: Sql,
}

impl Preflight {
    /// The query for the free bytes of the disk.
    pub fn free_bytes_query(&self) -> Option<&str> {
        self.disk.as_ref().map(|disk| disk.free_bytes_query.as_str())
    }
}

/// A geometry column of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GeometryCheck {
    /// The view or table, by its live name.
    pub relation: Identifier,
    /// Its geometry column.
    pub column: Identifier,
    /// The SRID that every geometry must have.
    #[serde(default = "default_srid")]
    #[schemars(range(min = 0, max = 999_999))]
    pub srid: i32,
}

fn default_srid() -> i32 {
    4326
}

/// Columns of a relation that must be unique together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UniqueCheck {
    /// The view or table, by its live name.
    pub relation: Identifier,
    /// The columns that must be unique together.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub columns: Vec<Identifier>,
}

/// A check that a release must pass to continue: a query, an HTTP request, a Job, the contract or a recent backup. Exactly one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.sql), has(self.http), has(self.job), has(self.contract), has(self.backup)].filter(x, x).size() == 1").message("a gate needs exactly one of sql, http, job, contract and backup"))]
pub struct Gate {
    /// Its name in messages.
    pub name: ItemName,
    /// When it is evaluated: `Preflight`, before anything is imported; `ValidateAndManifest`, before the manifest is written; `Freeze`,
    /// just before the workers are stopped.
    pub phase: GatePhase,
    /// `true`: the release fails when the gate does not pass. `false`: that is reported, and the release continues.
    #[serde(default = "yes")]
    pub hard: bool,
    /// Template of a query, run read-only. The gate passes when it returns exactly one row with true in its first column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<Sql>,
    /// An HTTP request. The gate passes when the answer has the expected status and text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRequest>,
    /// A Kubernetes Job. The gate passes when the Job succeeds. A Job that is deleted or whose pod is evicted is run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
    /// Functions and tables that must exist as described. `{}` means `spec.contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// How recent the newest base backup must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupCheck>,
}

/// How recent the newest base backup must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.maxAge) > duration('0s')").message("backup.maxAge must be more than 0s"))]
pub struct BackupCheck {
    /// The greatest age at which the gate passes, such as `24h`.
    pub max_age: Duration,
    /// A query, not a template, that returns one row with one `timestamptz`: when the newest complete backup ended. Without a row, or with
    /// NULL, there is no backup and the gate does not pass. Any other type is refused, as its time zone is unknown; a time in the future
    /// does not pass.
    pub sql: Sql,
}

named_enum! {
    /// The phases that evaluate gates.
    pub enum GatePhase {
        /// Before anything is imported.
        Preflight,
        /// After the import, before the manifest is written.
        ValidateAndManifest,
        /// Just before the workers are stopped.
        Freeze,
    }
}

/// Checks of the staged tables before they may go live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Tables, by their live names, whose staged twins must hold at least one row. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub non_empty: Vec<Identifier>,
    /// Geometry columns of staged tables that must be filled in every row and valid. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["table".to_string(), "column".to_string()]))]
    pub geometry: Vec<TableGeometry>,
    /// By live table: how many percent fewer rows its staged twin may have, such as `5%`. A table that is not named may shrink at will.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub max_shrink: BTreeMap<String, Percentage>,
}

/// A geometry column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableGeometry {
    /// The live table's name.
    pub table: Identifier,
    /// Its geometry column.
    pub column: Identifier,
}
