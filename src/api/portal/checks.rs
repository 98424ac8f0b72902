//! What must be true before an import and before the swap.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::yes;
use crate::api::{Identifier, ItemName, Percentage, Sql, named_enum};

/// What must be true of the views before anything is imported.
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
    pub unique: Vec<UniqueCheck>,
    /// Room on the disk that the release's copies must find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskCheck>,
}

/// How to find out about room on the disk, which SQL by itself does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskCheck {
    /// Query of one row and one number: the free bytes of the disk that holds the tables. No template. A release that needs more is
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UniqueCheck {
    /// The view.
    pub relation: Identifier,
    /// The columns.
    #[schemars(length(min = 1, max = 8))]
    pub columns: Vec<Identifier>,
}

/// A SQL check. It passes when it returns exactly one row whose first column is true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gate {
    /// Its name in messages.
    pub name: ItemName,
    /// The phase at whose end it is evaluated.
    pub phase: GatePhase,
    /// `true`: the release fails when the gate does not pass. `false`: the result is only reported.
    #[serde(default = "yes")]
    pub hard: bool,
    /// Template of the query.
    pub sql: Sql,
}

named_enum! {
    /// The phases that evaluate gates.
    pub enum GatePhase {
        /// Before anything is imported.
        Preflight,
        /// After the import, before the manifest is written.
        ValidateAndManifest,
    }
}

/// What must be true of the staged tables before they may go live.
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
    /// By table: how much smaller than the live one the staged table may be.
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
