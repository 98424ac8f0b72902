//! How to reach the portal's database, and how long to wait for it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;
use crate::api::{Duration, Identifier, named_enum};

/// How to reach the portal's database, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.schema) ? self.schema : 'public') == (has(oldSelf.schema) ? oldSelf.schema : 'public')").message("database.schema is immutable: make a new Portal for another schema"))]
#[x_kube(validation = Rule::new("!has(self.lockTimeout) || (duration(self.lockTimeout) > duration('0s') && duration(self.lockTimeout) <= duration('1h'))").message("database.lockTimeout must be more than 0s and at most 1h"))]
#[x_kube(validation = Rule::new("!has(self.statementTimeout) || (duration(self.statementTimeout) > duration('0s') && duration(self.statementTimeout) <= duration('24h'))").message("database.statementTimeout must be more than 0s and at most 24h"))]
pub struct Database {
    /// Secret key with the URL `postgres://user:password@host:port/database` of a direct connection to the primary, not of a pooler.
    pub connection_secret_ref: SecretKeyRef,
    /// The schema that holds the portal's relations. Immutable: another schema needs another Portal.
    #[serde(default = "default_schema")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.startsWith('pg_') && self != 'portal_release' && self != 'information_schema'", "message": "database.schema must be the portal's own schema, not a system schema or the operator's ledger"}]))]
    pub schema: Identifier,
    /// Key of the advisory lock that keeps other release tools out; within 2^53, which every JSON tool reads exactly.
    #[serde(default = "default_lock_key")]
    #[schemars(range(min = -9_007_199_254_740_991_i64, max = 9_007_199_254_740_991_i64))]
    pub lock_key: i64,
    /// Total time for getting the table locks of the swap, in short attempts; at most `1h`. `onLockTimeout` says what follows.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Duration,
    /// How long one statement of the swap may take; at most `24h`.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Duration,
    /// What a release does when `lockTimeout` has passed. `Suspend`: the workers are restored and the release is Suspended until `retry` is
    /// raised. `KeepTrying`: it keeps Running, with its workers frozen, until it succeeds or is aborted. Its staging is kept either way.
    #[serde(default)]
    pub on_lock_timeout: OnLockTimeout,
    /// Sessions that the swap may cancel when they block it. Default: none.
    #[serde(default)]
    pub cancel_blockers: CancelBlockers,
    /// `Wait`: the swap waits, within `lockTimeout`, until the standbys have caught up, which needs `pg_read_all_stats`. `Ignore`: it does
    /// not. Either way new readers on a standby wait, for up to `max_standby_streaming_delay`, for the readers that the swap meets there.
    #[serde(default)]
    pub standbys: Standbys,
}

named_enum! {
    /// What a release does when the time for the swap's locks has passed.
    #[derive(Default)]
    pub enum OnLockTimeout {
        /// The workers are restored and the release is Suspended until `retry` is raised.
        #[default]
        Suspend,
        /// The release stays Running, with its workers frozen, and retries until it succeeds or is aborted.
        KeepTrying,
    }
}

/// Sessions that the swap may cancel when they block it. The operator's role needs `pg_signal_backend` and
/// `pg_read_all_stats`, or membership in these roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.after) || (duration(self.after) >= duration('0s') && duration(self.after) <= duration('1h'))").message("database.cancelBlockers.after must be at least 0s and at most 1h"))]
pub struct CancelBlockers {
    /// Database roles whose sessions may be cancelled: a running statement is cancelled, a session that is idle in a transaction is ended.
    /// Default: none.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub roles: Vec<Identifier>,
    /// Only sessions whose transaction has been open for at least this long, at most `1h`.
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

named_enum! {
    /// What the swap does about standbys.
    #[derive(Default)]
    pub enum Standbys {
        /// Wait, within `lockTimeout`, until they have caught up, so that the swap reaches their readers at once.
        #[default]
        Wait,
        /// Swap whatever their state.
        Ignore,
    }
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
