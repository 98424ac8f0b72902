//! Transactions that are older than the load: their snapshots would find no row in the swapped tables.

use std::fmt;

use sqlx::{PgConnection, PgPool};

use super::{
    blocker::or_unknown,
    error::{SwapError, failed},
};

/// A session whose snapshot is older than the rows of staging: to it the swapped tables would look empty.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OldSnapshot {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as.
    pub role: Option<String>,
    /// Its `application_name`, for example `pg_dump`; for a standby the name of its WAL receiver.
    pub application: Option<String>,
    /// It is a standby, and one of its readers holds the snapshot (`hot_standby_feedback`).
    pub standby: bool,
}

impl fmt::Display for OldSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.standby { "a reader on the standby with " } else { "" };
        write!(f, "{what}pid {} (role {}, application {})", self.pid, or_unknown(&self.role), or_unknown(&self.application))
    }
}

/// A point in the database's history. Everything committed when it was taken lies before it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize, serde::Deserialize)]
pub struct Horizon {
    /// The first transaction id that was not given yet.
    pub xid: i64,
    /// The server's time, as text.
    pub at: String,
}

/// Takes the horizon. Do so after the load, and keep it in the ledger.
///
/// # Errors
/// When the database refuses or is lost.
pub async fn horizon(conn: &mut PgConnection) -> Result<Horizon, SwapError> {
    sqlx::query_as("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid, clock_timestamp()::text AS at")
        .fetch_one(conn)
        .await
        .map_err(failed("reading the horizon"))
}

/// The sessions of this database, and the standbys, whose snapshots may be older than `horizon`. Swap only when there are none: a
/// transaction that began before the load, such as a `pg_dump`, would find the new tables under the live names, and no row in them.
///
/// # Errors
/// When the database refuses or is lost.
pub async fn old_snapshots(conn: &mut PgConnection, horizon: &Horizon) -> Result<Vec<OldSnapshot>, SwapError> {
    // The start of other roles' transactions is hidden without pg_read_all_stats; then the snapshot alone decides. A standby reports
    // the snapshots of its readers only with hot_standby_feedback: on its replication slot if it has one, else on its walsender.
    sqlx::query_as(
        "WITH now AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax)
         SELECT pid, usename::text AS role, application_name AS application, false AS standby FROM pg_stat_activity, now
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND backend_type <> 'walsender'
           AND age(backend_xmin) > now.xmax - $1 AND coalesce(xact_start < $2::timestamptz, true)
         UNION ALL
         SELECT pid, usename::text, application_name, true FROM now, pg_stat_replication LEFT JOIN pg_replication_slots
              ON active_pid = pid AND slot_type = 'physical'
         WHERE age(coalesce(xmin, backend_xmin)) > now.xmax - $1
         ORDER BY pid",
    )
    .bind(horizon.xid)
    .bind(&horizon.at)
    .fetch_all(conn)
    .await
    .map_err(failed("finding old snapshots"))
}

/// A server that replicates this one.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Standby {
    /// The `application_name` of its WAL receiver.
    pub name: String,
    /// How far it is behind, in bytes of WAL; `None` where Postgres hides it (without `pg_read_all_stats`).
    pub behind: Option<i64>,
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.behind {
            Some(bytes) => write!(f, "standby {} is {bytes} bytes of WAL behind", self.name),
            None => write!(f, "how far standby {} is behind is hidden from this role (grant it pg_read_all_stats)", self.name),
        }
    }
}

/// The physical standbys.
///
/// # Errors
/// When the database refuses or is lost.
pub async fn standbys(pool: &PgPool) -> Result<Vec<Standby>, SwapError> {
    // Only walsenders of physical replication have no database. One that is visible and replays nothing feeds an archive or a backup
    // (pg_receivewal, pg_basebackup): it has no readers. Where nothing is visible, the state is hidden too.
    sqlx::query_as(
        "SELECT coalesce(nullif(r.application_name, ''), 'pid ' || r.pid) AS name,
                pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)::bigint AS behind
         FROM pg_stat_replication r JOIN pg_stat_activity a ON a.pid = r.pid
         WHERE a.datid IS NULL AND coalesce(r.state, 'streaming') IN ('streaming', 'catchup')
           AND (r.state IS NULL OR r.replay_lsn IS NOT NULL) ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .map_err(failed("finding the standbys"))
}
