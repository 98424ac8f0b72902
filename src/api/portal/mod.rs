//! `Portal`: everything about one portal that stays the same from release to release. One file for each part.

#![allow(clippy::duplicated_attributes, reason = "printcolumn is given once a column")]

mod checks;
mod contract;
mod csv;
mod database;
mod hooks;
mod http;
mod imports;
mod notifications;
mod references;
mod relations;
mod workers;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use checks::*;
pub use contract::*;
pub use csv::*;
pub use database::*;
pub use hooks::*;
pub use http::*;
pub use imports::*;
pub use notifications::*;
pub use references::*;
pub use relations::*;
pub use workers::*;

use super::PortalStatus;

/// One portal: its database, tables, views, imports, workers, gates and defaults. Written by the platform team; it may
/// contain SQL and name Secrets and workloads of its own namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portalrelease.dev",
    version = "v1alpha1",
    kind = "Portal",
    namespaced,
    shortname = "portal",
    category = "portal-release",
    status = "PortalStatus",
    derive = "PartialEq",
    doc = "A data portal: its database, tables, views, imports, workers and gates.",
    printcolumn(
        name = "Current",
        type_ = "string",
        json_path = ".status.currentLabel",
        description = "Label of the release that readers see"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Frozen",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"WorkersFrozen\")].status",
        description = "The emergency freeze holds the workers at zero"
    ),
    printcolumn(name = "Backups", type_ = "integer", json_path = ".status.backupCount", description = "How many backups there are"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.backups[0].createdAt", priority = 1),
    printcolumn(name = "Backup-Size", type_ = "string", json_path = ".status.backupSize", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.materializedViews) || self.materializedViews.all(v, has(v.query) != has(v.queryFrom))").message("each materialized view needs either query or queryFrom, and not both"))]
#[x_kube(validation = Rule::new("!has(self.imports) || !has(self.imports.core) || !has(self.imports.related) || self.imports.core.all(i, self.imports.related.all(r, r.name != i.name))").message("an import's name must be unique among imports.core and imports.related"))]
#[x_kube(validation = Rule::new("!has(self.gates) || has(self.contract) || self.gates.all(g, !has(g.contract) || has(g.contract.functions) || has(g.contract.tables))").message("a gate with contract: {} needs spec.contract"))]
pub struct PortalSpec {
    /// The portal's database.
    pub database: Database,
    /// A regular expression that the label of every release must match.
    #[serde(default = "default_label_pattern")]
    #[schemars(length(min = 1, max = 256))]
    pub label_pattern: String,
    /// The relations that a release replaces, in swap order: independent, then main, then junction.
    pub tables: Tables,
    /// How staged tables are built.
    #[serde(default)]
    pub staging: Staging,
    /// How materialized views are handled.
    #[serde(default)]
    pub views: Views,
    /// Materialized views over the foreign tables, in the order in which they are built.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub materialized_views: Vec<MaterializedView>,
    /// Checks of the views before anything is imported.
    #[serde(default)]
    pub preflight: Preflight,
    /// What must be true before a release continues: hard gates stop it, soft ones are reported.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub gates: Vec<Gate>,
    /// What the portal's code relies on in the database. Gates of kind `contract` check it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// What fills the staged tables.
    #[serde(default)]
    pub imports: Imports,
    /// Checks of the staged tables before they may go live.
    #[serde(default)]
    pub validation: Validation,
    /// The view that the download generators of the site read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloads_view: Option<DownloadsView>,
    /// When and how workers are frozen.
    #[serde(default)]
    pub freeze: Freeze,
    /// Workloads that must not run while data is swapped.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".to_string(), "name".to_string()]))]
    pub workers: Vec<Worker>,
    /// HTTP hooks and Jobs, called in order after the swap, once the workers are restored.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub post_swap: Vec<Hook>,
    /// Object stores that imports read from.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub object_stores: Vec<ObjectStore>,
    /// Who is notified of the progress of a release.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub notifications: Vec<Notification>,
    /// What a release uses for fields that it does not set.
    #[serde(default)]
    pub defaults: Defaults,
    /// Emergency freeze: `true` scales the workers to zero now and keeps them there, with or without a release.
    #[serde(default)]
    pub frozen: bool,
}

fn default_label_pattern() -> String {
    "^[A-Z][a-z]{2}[0-9]{4}$".to_owned()
}

/// What a release uses for fields that it does not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Backups kept after a successful release.
    #[serde(default = "default_keep_backups")]
    #[schemars(range(min = 0, max = 100))]
    pub keep_backups: i32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { keep_backups: default_keep_backups() }
    }
}

fn default_keep_backups() -> i32 {
    1
}

/// A default that is `true`.
fn yes() -> bool {
    true
}
