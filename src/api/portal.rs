//! `Portal`: everything about one portal that stays the same from release to release.

#![allow(clippy::duplicated_attributes, reason = "printcolumn is given once a column")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataKey, Duration, Identifier, ItemName, JobSource, Megabytes, ObjectName, Percentage, PhaseName, PortalStatus, Sql};

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
        name = "CURRENT",
        type_ = "string",
        json_path = ".status.currentLabel",
        description = "Label of the release that readers see"
    ),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "FROZEN", type_ = "boolean", json_path = ".spec.frozen", description = "Emergency freeze requested"),
    printcolumn(name = "BACKUPS", type_ = "integer", json_path = ".status.backupCount", description = "Backups that are there"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "LAST-BACKUP", type_ = "date", json_path = ".status.backups[0].createdAt", priority = 1),
    printcolumn(name = "BACKUP-SIZE", type_ = "string", json_path = ".status.backupSize", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.materializedViews.all(v, has(v.query) != has(v.queryFrom))").message("each materialized view needs either query or queryFrom, and not both"))]
#[x_kube(validation = Rule::new("!has(self.imports) || self.imports.core.all(i, self.imports.related.all(r, r.name != i.name))").message("an import's name must be unique among imports.core and imports.related"))]
pub struct PortalSpec {
    /// The portal's database.
    pub database: Database,
    /// A regular expression that every release's label must match.
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
    /// What must be true of the views before anything is imported.
    #[serde(default)]
    pub preflight: Preflight,
    /// SQL checks: hard gates stop the release, soft ones are reported.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub gates: Vec<Gate>,
    /// What fills the staged tables.
    #[serde(default)]
    pub imports: Imports,
    /// What must be true of the staged tables before they may go live.
    #[serde(default)]
    pub validation: Validation,
    /// The view that the site's download generators read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloads_view: Option<DownloadsView>,
    /// When and how workers are frozen.
    #[serde(default)]
    pub freeze: Freeze,
    /// The workloads that must not run while data is swapped.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub workers: Vec<Worker>,
    /// What happens after the swap and the workers' return: HTTP hooks, called in order.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub post_swap: Vec<Hook>,
    /// Object stores that imports read from.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub object_stores: Vec<ObjectStore>,
    /// Who is told about a release's progress.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub notifications: Vec<Notification>,
    /// What a release uses where it says nothing.
    #[serde(default)]
    pub defaults: Defaults,
    /// Emergency freeze: `true` scales the workers to zero now and keeps them there, with or without a release.
    #[serde(default)]
    pub frozen: bool,
}

fn default_label_pattern() -> String {
    "^[A-Z][a-z]{2}[0-9]{4}$".to_owned()
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: ObjectName,
    /// Key inside it.
    pub key: DataKey,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: ObjectName,
}

/// How to reach the portal's database and how patient to be with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.lockTimeout) > duration('0s') && duration(self.lockTimeout) <= duration('1h')").message("database.lockTimeout must be more than 0s and at most 1h"))]
#[x_kube(validation = Rule::new("duration(self.statementTimeout) > duration('0s') && duration(self.statementTimeout) <= duration('24h')").message("database.statementTimeout must be more than 0s and at most 24h"))]
pub struct Database {
    /// Secret key with a `postgres://` URL of a direct connection to the primary.
    pub connection_secret_ref: SecretKeyRef,
    /// The schema that holds the portal's relations.
    #[serde(default = "default_schema")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.startsWith('pg_') && self != 'portal_release' && self != 'information_schema'", "message": "database.schema must be the portal's own schema, not a system schema or the operator's ledger"}]))]
    pub schema: Identifier,
    /// Key of the advisory lock that keeps other release tools out.
    #[serde(default = "default_lock_key")]
    pub lock_key: i64,
    /// Total budget for getting the swap's table locks, spent in short attempts.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Duration,
    /// Limit of one statement of the swap.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Duration,
    /// What a release does when `lockTimeout` is used up. Its staging is kept either way.
    #[serde(default)]
    pub on_lock_timeout: OnLockTimeout,
    /// Whom the swap may send away when they keep it waiting: nobody, unless roles are named here.
    #[serde(default)]
    pub cancel_blockers: CancelBlockers,
    /// What is done about standbys before the swap: new readers there wait, for up to `max_standby_streaming_delay`, until the readers
    /// that the swap meets on the standby are gone.
    #[serde(default)]
    pub standbys: Standbys,
}

/// What a release does when the budget for the swap's locks is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnLockTimeout {
    /// The workers come back and the release is Suspended until `retry` is raised.
    #[default]
    Suspend,
    /// The release keeps Running, with its workers frozen, and tries again until it succeeds or is aborted.
    KeepTrying,
}

/// Sessions that the swap may send away when they keep it waiting. The operator's role needs `pg_signal_backend` and
/// `pg_read_all_stats`, or membership in these roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("duration(self.after) >= duration('0s') && duration(self.after) <= duration('1h')").message("database.cancelBlockers.after must be at least 0s and at most 1h"))]
pub struct CancelBlockers {
    /// Database roles. A running statement is cancelled, a session that is idle in a transaction is ended.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub roles: Vec<Identifier>,
    /// Only transactions that have been open for at least as long.
    #[serde(default = "default_cancel_after")]
    pub after: Duration,
}

impl Default for CancelBlockers {
    fn default() -> Self {
        Self { roles: Vec::new(), after: default_cancel_after() }
    }
}

fn default_cancel_after() -> Duration {
    "5s".into()
}

/// What is done about standbys before the swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Standbys {
    /// Wait, within `lockTimeout`, until they have caught up, so that the swap reaches their readers at once.
    #[default]
    Wait,
    /// Swap whatever they do.
    Ignore,
}

fn default_schema() -> Identifier {
    "public".into()
}
fn default_lock_key() -> i64 {
    42_000_001
}
fn default_lock_timeout() -> Duration {
    "30s".into()
}
fn default_statement_timeout() -> Duration {
    "5m".into()
}

/// The relations that a release replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.independent.size() + self.main.size() + self.junction.size() > 0").message("tables must name at least one table to release"))]
#[x_kube(validation = Rule::new("(self.independent + self.main + self.junction + self.lookup).all(t, (self.independent + self.main + self.junction + self.lookup).exists_one(o, o == t))").message("a table may be named only once in tables"))]
#[x_kube(validation = Rule::new("(self.independent + self.main + self.junction + self.lookup).all(t, !t.startsWith('staging_') && !t.matches('^bk[0-9]{10}_'))").message("tables names live tables; staging_* and bkYYMMDDHHMM_* are made by the operator"))]
pub struct Tables {
    /// Tables without foreign keys to the other swapped tables.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub independent: Vec<Identifier>,
    /// The main entities.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub main: Vec<Identifier>,
    /// Tables that reference the others.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub junction: Vec<Identifier>,
    /// Look-up tables: not swapped; their new rows are staged and published in the swap's transaction.
    #[serde(default)]
    #[schemars(length(max = 48))]
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
    /// Load first, then build indexes and foreign keys.
    #[serde(default = "yes")]
    pub lightweight: bool,
    /// `maintenance_work_mem` of all index builds that run at once together, such as `512MB`: each of `imports.parallel` gets its share.
    /// Where it is absent each build has what the server is set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_work_mem: Option<Megabytes>,
}

impl Default for Staging {
    fn default() -> Self {
        Self { lightweight: true, maintenance_work_mem: None }
    }
}

fn yes() -> bool {
    true
}

/// How materialized views are handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Views {
    /// Refresh the live materialized views concurrently before the preflight.
    #[serde(default)]
    pub refresh: bool,
    /// Build staged twins of the materialized views, which the imports read and the swap publishes.
    #[serde(default = "yes")]
    pub create_staging: bool,
}

impl Default for Views {
    fn default() -> Self {
        Self { refresh: false, create_staging: true }
    }
}

/// A query, written here or kept in a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuerySource {
    /// A key of a ConfigMap in the same namespace.
    pub config_map_key_ref: ConfigMapKeyRef,
}

/// A key of a ConfigMap in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    pub name: ObjectName,
    /// Key inside it.
    pub key: DataKey,
}

/// One materialized view over the foreign tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaterializedView {
    /// Name of the live view.
    pub name: Identifier,
    /// Columns of a unique index, needed to refresh it concurrently.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub unique_key: Vec<Identifier>,
    /// Template of the view's query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Sql>,
    /// Where the template is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_from: Option<QuerySource>,
}

/// What must be true of the views before anything is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Relations that must each hold at least one row.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub require_any_rows: Vec<Identifier>,
    /// Geometry columns that must be valid and of one SRID.
    #[serde(default)]
    #[schemars(length(max = 64))]
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
    /// The phase at whose end it is checked.
    pub phase: GatePhase,
    /// `true`: the release stops when it does not pass. `false`: it is reported.
    #[serde(default = "yes")]
    pub hard: bool,
    /// Template of the query.
    pub sql: Sql,
}

/// The phases that check gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum GatePhase {
    /// Before anything is imported.
    Preflight,
    /// After the import, before the manifest is written.
    ValidateAndManifest,
}

/// What fills the staged tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imports {
    /// How many key ranges, and imports that do not read each other's tables, are imported at once, each over a connection of its own;
    /// as many indexes are then built at once. More than the database host has cores brings nothing.
    #[serde(default = "default_parallel")]
    #[schemars(range(min = 1, max = 32))]
    pub parallel: u8,
    /// Run by ImportCore.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub core: Vec<Import>,
    /// Run by ImportRelated.
    #[serde(default)]
    #[schemars(length(max = 48))]
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
#[x_kube(validation = Rule::new("!has(self.job) || (self.reject.size() == 0 && !has(self.reads))").message("reject and reads are not for a job; it turns rows away with portal_release.reject_row"))]
#[x_kube(validation = Rule::new("!self.dependsOn.exists(d, d == self.name)").message("an import cannot depend on itself"))]
pub struct Import {
    /// Its name in messages, metrics and `imports.only`.
    pub name: ItemName,
    /// The live table whose staged twin it fills.
    pub into: Identifier,
    /// Output column whose ranges are imported and checkpointed one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Identifier>,
    /// Rows of one key range.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub batch_rows: i64,
    /// Imports that must be done before this one starts.
    #[serde(default)]
    #[schemars(length(max = 48))]
    pub depends_on: Vec<ItemName>,
    /// Template of the query; its output columns are matched by name with the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Sql>,
    /// Where the template is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_from: Option<QuerySource>,
    /// A CSV file, loaded through COPY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<Csv>,
    /// A Kubernetes Job with an image of your own, which fills the staged table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobSource>,
    /// Rows that are turned away, with a reason. Rows that the database itself refuses are turned away too: of a query in any case, of
    /// a CSV file with a rule or a `maxRejected` above 0 %. Without these a file fails at its first wrong line.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub reject: Vec<RejectRule>,
    /// How many of the rows that it reads may be turned away; with more the release fails. They are in `portal_release.rejected_rows`.
    #[serde(default = "none_rejected")]
    pub max_rejected: Percentage,
    /// Template of a query that returns one number: how many rows the source holds, where the query makes fewer out of them, such as
    /// sites out of parcels. The manifest then says how many were collapsed. Without it every row that the query returns is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Sql>,
}

/// Which rows of an import are turned away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejectRule {
    /// Why, in the words that people will read.
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

/// A CSV file from an object store, a URL or a ConfigMap. Its header names the target's columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.objectStoreRef), has(self.url), has(self.configMapKeyRef)].filter(x, x).size() == 1").message("csv needs exactly one of objectStoreRef (with path), url and configMapKeyRef"))]
#[x_kube(validation = Rule::new("has(self.objectStoreRef) == has(self.path)").message("csv.objectStoreRef and csv.path go together"))]
#[x_kube(validation = Rule::new("!has(self.path) || (!self.path.startsWith('/') && !self.path.split('/').exists(p, p == '..'))").message("csv.path must be relative to the object store and must not contain '..'"))]
#[x_kube(validation = Rule::new("!has(self.url) || self.url.matches('^https?://[^/@?#]+(/[^@]*)?$')").message("csv.url must begin with http:// or https:// and a host, without user, password and '@'; a secret goes into csv.requestHeader"))]
#[x_kube(validation = Rule::new("!has(self.requestHeader) || has(self.url)").message("csv.requestHeader goes with csv.url"))]
#[x_kube(validation = Rule::new("self.header").message("csv.header must be true: the header names the columns"))]
#[x_kube(validation = Rule::new("!self.nullString.contains(self.delimiter)").message("csv.nullString must not contain the delimiter"))]
#[x_kube(validation = Rule::new("!has(self.columns) || self.columns.all(a, self.columns.exists_one(b, self.columns[a] == self.columns[b]))").message("csv.columns must not put two columns of the file into one column of the table"))]
pub struct Csv {
    /// One of the Portal's `objectStores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store_ref: Option<ItemName>,
    /// Template of the object's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub path: Option<String>,
    /// Template of an `http://` or `https://` URL. Redirects are not followed; addresses of the operator's own host and of metadata
    /// services are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048))]
    pub url: Option<String>,
    /// A header that is sent with the request to `url`, with its value from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header: Option<RequestHeader>,
    /// A key of a ConfigMap in the same namespace, in `data` or `binaryData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
    /// How the file is compressed.
    #[serde(default)]
    pub compression: FileCompression,
    /// The first line names the columns.
    #[serde(default = "yes")]
    pub header: bool,
    /// Columns of the table by columns of the file, where their names differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub columns: BTreeMap<String, Identifier>,
    /// Between two fields: one ASCII character, such as `;` or a tab.
    #[serde(default = "default_delimiter")]
    #[schemars(length(min = 1, max = 1), regex(pattern = r"^[\t -!#-~]$"))]
    pub delimiter: String,
    /// What stands for no value, where it is not quoted. Nothing by default.
    #[serde(default)]
    #[schemars(length(max = 32), regex(pattern = r#"^[^"\r\n]*$"#))]
    pub null_string: String,
    /// The file's encoding by Postgres' name, such as `UTF8`, `LATIN1` or `WIN1252`.
    #[serde(default = "default_encoding")]
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub encoding: String,
}

fn default_delimiter() -> String {
    ",".to_owned()
}
fn default_encoding() -> String {
    "UTF8".to_owned()
}

/// A header of an HTTP request, with its value from a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestHeader {
    /// Its name, such as `Authorization`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub name: String,
    /// Secret key with its value, such as `Bearer ...`.
    pub value_secret_ref: SecretKeyRef,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FileCompression {
    /// As its name says: `.gz` is gzip, `.zst` is Zstandard, anything else is not compressed.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard, with a window of at most 8 MiB (levels up to 19, without `--long`).
    Zstd,
}

/// What must be true of the staged tables before they may go live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Tables that must hold at least one row.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub non_empty: Vec<Identifier>,
    /// Geometry columns that must be present in every row and valid.
    #[serde(default)]
    #[schemars(length(max = 64))]
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

/// The view that the site's download generators read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DownloadsView {
    /// Its name.
    pub name: Identifier,
    /// Template of its query.
    pub query: Sql,
}

/// When and how workers are frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.timeout) > duration('0s') && duration(self.timeout) <= duration('24h')").message("freeze.timeout must be more than 0s and at most 24h"))]
pub struct Freeze {
    /// The phase just before which workers are frozen.
    #[serde(default)]
    pub before: FreezeBefore,
    /// How long the workers may take to stop, and to come back.
    #[serde(default = "default_freeze_timeout")]
    pub timeout: Duration,
    /// Database roles of which no session may be left once the workers are gone.
    #[serde(default)]
    #[schemars(length(max = 16))]
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

/// Where Freeze stands in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FreezeBefore {
    /// The golden sequence: workers rest during the whole release.
    Preflight,
    /// Workers rest from the building of the staged tables on.
    BuildStaging,
    /// As late as possible.
    #[default]
    FinaliseSwap,
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
    /// Its kind.
    pub kind: WorkerKind,
    /// Its name.
    pub name: ObjectName,
}

/// The kinds of workloads that can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum WorkerKind {
    /// Scaled to zero.
    Deployment,
    /// Scaled to zero.
    StatefulSet,
    /// Suspended.
    CronJob,
}

impl WorkerKind {
    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::CronJob => "CronJob",
        }
    }
}

/// Something to call after the swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// Its name in messages.
    pub name: ItemName,
    /// The request.
    pub http: HttpRequest,
}

/// An HTTP request that must be answered with a status in the 200s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.url.startsWith('http://') || self.url.startsWith('https://')").message("http.url must begin with http:// or https://"))]
pub struct HttpRequest {
    /// Where it goes. Redirects are not followed.
    #[schemars(length(min = 8, max = 2048))]
    pub url: String,
    /// The method.
    #[serde(default)]
    pub method: HttpMethod,
}

/// Methods of a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[allow(clippy::upper_case_acronyms)]
pub enum HttpMethod {
    /// GET
    GET,
    /// POST with an empty body.
    #[default]
    POST,
    /// PUT with an empty body.
    PUT,
    /// DELETE
    DELETE,
}

/// An object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.url.matches('^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*/?$') && !self.url.contains('/../')").message("objectStores[].url must look like s3://bucket/prefix"))]
pub struct ObjectStore {
    /// Its name inside the Portal.
    pub name: ItemName,
    /// `s3://bucket/prefix`.
    #[schemars(length(min = 8, max = 512))]
    pub url: String,
    /// Secret with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where it applies, `AWS_REGION` and `AWS_ENDPOINT_URL`.
    pub secret_ref: SecretRef,
}

/// Someone who is told about a release's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its name inside the Portal.
    pub name: ItemName,
    /// A Slack incoming webhook.
    pub slack: Slack,
    /// Tell when a release starts.
    #[serde(default = "yes")]
    pub start: bool,
    /// Tell when a phase is complete.
    #[serde(default = "yes")]
    pub phase_complete: bool,
    /// Tell how an import goes on.
    #[serde(default = "yes")]
    pub import_progress: bool,
    /// Tell when a release is live.
    #[serde(default = "yes")]
    pub success: bool,
    /// Tell when a release failed.
    #[serde(default = "yes")]
    pub failure: bool,
}

/// A Slack incoming webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// Secret key with the webhook's URL.
    pub url_secret_ref: SecretKeyRef,
}

/// What a release uses where it says nothing.
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
