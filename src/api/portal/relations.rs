//! The relations that a release replaces, and how their staged twins are built.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{QuerySource, yes};
use crate::api::{Identifier, Memory, Sql, rules};

/// The relations that a release replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::some_table())]
#[x_kube(validation = rules::tables_are_distinct())]
#[x_kube(validation = rules::tables_are_live())]
pub struct Tables {
    /// Tables without foreign keys to the other swapped tables. Default: none; one of the first three lists must name a table.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub independent: Vec<Identifier>,
    /// The main entities. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub main: Vec<Identifier>,
    /// Tables that reference the others. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub junction: Vec<Identifier>,
    /// Look-up tables. They are not swapped: their new rows are staged, and inserted in the swap's transaction. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub lookup: Vec<Identifier>,
}

impl Tables {
    /// The swapped tables in swap order.
    pub fn swapped(&self) -> Vec<String> {
        self.independent.iter().chain(&self.main).chain(&self.junction).map(|name| name.0.clone()).collect()
    }

    /// The look-up tables.
    pub fn lookups(&self) -> Vec<String> {
        self.lookup.iter().map(|name| name.0.clone()).collect()
    }
}

/// How staged tables are built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Staging {
    /// `true`: load the staged tables first, then build indexes and foreign keys, which is faster. `false`: build them first.
    #[serde(default = "yes")]
    pub lightweight: bool,
    /// `maintenance_work_mem` for all index builds that run at once, such as `512Mi`; each of `imports.parallel` gets an equal share.
    /// Default: the server's own setting for each build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_work_mem: Option<Memory>,
}

impl Default for Staging {
    fn default() -> Self {
        Self { lightweight: true, maintenance_work_mem: None }
    }
}

/// How materialized views are handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Views {
    /// Refresh the live materialized views concurrently before Preflight. Each needs a unique index.
    #[serde(default)]
    pub refresh: bool,
    /// Build staged twins of the materialized views, which the imports read and the swap makes live. `false`: they read the live views.
    #[serde(default = "yes")]
    pub create_staging: bool,
}

impl Default for Views {
    fn default() -> Self {
        Self { refresh: false, create_staging: true }
    }
}

/// One materialized view over the foreign tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaterializedView {
    /// Name of the live view.
    pub name: Identifier,
    /// Columns of a unique index that its staged twin gets; a view needs one to be refreshed concurrently. Default: none.
    #[serde(default)]
    #[schemars(length(max = 8))]
    // The order of an index's columns counts.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub unique_key: Vec<Identifier>,
    /// Template of the view's query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Sql>,
    /// The ConfigMap that holds the template, in place of `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_from: Option<QuerySource>,
}

/// The view that the site's download generators read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadsView {
    /// Its name.
    pub name: Identifier,
    /// Template of its query, over the live relations.
    pub query: Sql,
}
