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
    /// Relations that must each hold at least one row.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub require_any_rows: Vec<Identifier>,
    /// Geometry columns that must be valid and of one SRID.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["relation".to_string(), "column".to_string()]))]
    pub geometry: Vec<GeometryCheck>,
    /// Column lists that must be unique.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub unique: Vec<UniqueCheck>,
    /// How Preflight learns whether the disk has room for the copies that a release makes.
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

/// A geometry column of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GeometryCheck {
    /// The view.
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

/// Columns of a view that must be unique together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct UniqueCheck {
    /// The view.
    pub relation: Identifier,
    /// The columns.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub columns: Vec<Identifier>,
}

/// Something that must be true before a release continues: a query, an HTTP request, a Job, the contract or a recent backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.sql), has(self.http), has(self.job), has(self.contract), has(self.backup)].filter(x, x).size() == 1").message("a gate needs exactly one of sql, http, job, contract and backup"))]
pub struct Gate {
    /// Its name in messages.
    pub name: ItemName,
    /// When it is evaluated: in Preflight, at the end of ValidateAndManifest, or just before Freeze.
    pub phase: GatePhase,
    /// `true`: the release fails when the gate does not pass. `false`: the result is only reported.
    #[serde(default = "yes")]
    pub hard: bool,
    /// Template of a query. It passes when it returns exactly one row whose first column is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<Sql>,
    /// An HTTP request. It passes when the answer is as expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRequest>,
    /// A Kubernetes Job. It passes when the Job succeeds. One that is deleted or whose pod is evicted is run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
    /// Functions and tables that must exist. `{}` stands for `spec.contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// A base backup that must be recent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupCheck>,
}

/// How recent the newest base backup must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupCheck {
    /// How old it may be, such as `24h`.
    pub max_age: Duration,
    /// Query of one row and one `timestamptz`: when the newest complete backup ended. No template.
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
    /// Tables that must hold at least one row.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub non_empty: Vec<Identifier>,
    /// Geometry columns that must be present in every row and valid.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["table".to_string(), "column".to_string()]))]
    pub geometry: Vec<TableGeometry>,
    /// By table: how much smaller than the live table the staged one may be, such as `5%`.
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
