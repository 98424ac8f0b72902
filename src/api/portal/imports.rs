//! What fills the staged tables.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Csv, QuerySource};
use crate::api::{Identifier, ItemName, JobSource, Percentage, Sql};

/// What fills the staged tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Imports {
    /// How many key ranges, of one import or of imports that do not read each other's tables, are loaded at once, each over its own
    /// connection. As many indexes are built at once. More than the database host has cores does not help.
    #[serde(default = "default_parallel")]
    #[schemars(range(min = 1, max = 32))]
    pub parallel: u8,
    /// Imports that ImportCore runs. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub core: Vec<Import>,
    /// Imports that ImportRelated runs, after those of `core`. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub related: Vec<Import>,
}

impl Default for Imports {
    fn default() -> Self {
        Self { parallel: default_parallel(), core: Vec::new(), related: Vec::new() }
    }
}

fn default_parallel() -> u8 {
    4
}

/// One import into one staged table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.query), has(self.queryFrom), has(self.csv), has(self.job)].filter(x, x).size() == 1").message("an import needs exactly one of query, queryFrom, csv and job"))]
#[x_kube(validation = Rule::new("!(has(self.key) && (has(self.csv) || has(self.job)))").message("key ranges are for queries; a csv import and a job are one unit"))]
#[x_kube(validation = Rule::new("!(has(self.csv) && has(self.reads))").message("reads is for queries; a csv file has the rows that it has"))]
#[x_kube(validation = Rule::new("!has(self.job) || ((!has(self.reject) || self.reject.size() == 0) && !has(self.reads))").message("reject and reads are not for a job; it rejects rows with portal_release.reject_row"))]
#[x_kube(validation = Rule::new("!has(self.dependsOn) || !self.dependsOn.exists(d, d == self.name)").message("an import cannot depend on itself"))]
pub struct Import {
    /// Its name in messages, metrics and `imports.only`.
    pub name: ItemName,
    /// The live table whose staged twin it fills.
    pub into: Identifier,
    /// Output column of the query by which it is divided into key ranges, each with a checkpoint. Default: the query is one unit, which
    /// starts over when it is interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Identifier>,
    /// Number of rows in one key range. Without `key` it has no effect.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_rows: i64,
    /// Imports that must finish before this one starts. Those that fill what its query reads count without being named. Default: none.
    #[serde(default)]
    #[schemars(length(max = 48))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub depends_on: Vec<ItemName>,
    /// Template of the query. Its output columns are matched by name with the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Sql>,
    /// The ConfigMap that holds the template, in place of `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_from: Option<QuerySource>,
    /// A CSV file, loaded through COPY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<Csv>,
    /// A Kubernetes Job with an image of your own, which fills the staged table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
    /// Which rows are rejected, and why. Default: none. Rows that the database rejects count too: those of a query always, those of a CSV
    /// file if there is a rule here or a `maxRejected` above 0 %. Otherwise a file fails at its first wrong line.
    #[serde(default)]
    #[schemars(length(max = 16))]
    // The first rule that holds names the reason: their order counts.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub reject: Vec<RejectRule>,
    /// What share of its rows may be rejected; with more the release fails. Rejected rows are in `portal_release.rejected_rows`.
    #[serde(default = "none_rejected")]
    pub max_rejected: Percentage,
    /// Template of a query that returns one number: the rows of the source, where the import folds several into one, such as parcels into
    /// sites. The manifest then says how many were collapsed. Default: the rows that the query returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Sql>,
}

/// Which rows of an import are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejectRule {
    /// The reason, for people.
    #[schemars(length(min = 1, max = 200))]
    pub reason: String,
    /// Template of a SQL condition over the query's output columns, or over those that a file fills, such as `NOT ST_IsValid(the_geom)`.
    pub when: Sql,
}

fn none_rejected() -> Percentage {
    "0%".into()
}

fn default_batch_rows() -> i64 {
    20_000
}
