//! Finds the sessions that block the swap, and cancels them where the Portal allows it.

use sqlx::PgPool;

use super::{
    blocker::{Blocker, CancelBlockers, CancelledBlocker},
    error::{SwapError, failed},
};
use crate::database::identifiers::assembled;

/// At most this many sessions are named.
pub(super) const MOST_NAMED: usize = 20;

/// The columns of a [`Blocker`].
const COLUMNS: &str = "a.pid, a.usename::text AS role, coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend')) AS application,
    a.state, a.query_start::text AS since, extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS seconds, left(a.query, 200) AS query";

/// The sessions that the backend `pid` waits for at this moment.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn blocking(pool: &PgPool, pid: i32) -> Result<Vec<Blocker>, SwapError> {
    sqlx::query_as(assembled(format!(
        "SELECT {COLUMNS}, w.relation, ARRAY[]::text[] AS held
         FROM pg_stat_activity a LEFT JOIN LATERAL (
             SELECT c.relname::text AS relation FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
             WHERE l.pid = $1 AND NOT l.granted LIMIT 1) AS w ON true
         WHERE a.pid = ANY (pg_blocking_pids($1)) ORDER BY a.pid LIMIT {MOST_NAMED}"
    )))
    .bind(pid)
    .fetch_all(pool)
    .await
    .map_err(failed("finding the sessions that hold the relations"))
}

/// The sessions that hold one of the relations at this moment, the oldest transaction first.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn holders(pool: &PgPool, schema: &str, names: &[String]) -> Result<Vec<Blocker>, SwapError> {
    sqlx::query_as(assembled(format!(
        "SELECT {COLUMNS}, min(c.relname)::text AS relation, array_agg(DISTINCT c.relname::text) AS held
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND a.pid <> pg_backend_pid() AND n.nspname = $1 AND c.relname = ANY ($2)
         GROUP BY a.pid, a.usename, a.application_name, a.backend_type, a.state, a.query_start, a.xact_start, a.query
         ORDER BY a.xact_start, a.pid LIMIT 200"
    )))
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await
    .map_err(failed("finding the sessions that hold the relations"))
}

/// Cancels the statements, or ends the idle sessions, of those blockers that `allowed` names. Each is checked again in the same
/// statement, so that no session is cancelled that no longer blocks.
///
/// # Errors
/// When the role may not do so; the message says what to grant.
pub(super) async fn cancel(pool: &PgPool, blockers: &[Blocker], allowed: &CancelBlockers) -> Result<Vec<CancelledBlocker>, SwapError> {
    let pids: Vec<i32> = blockers.iter().map(|blocker| blocker.pid).collect();
    if pids.is_empty() || allowed.roles.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "SELECT pid, usename::text AS role, ended FROM (
             SELECT pid, usename, state LIKE 'idle%' AS ended,
                    CASE WHEN state LIKE 'idle%' THEN pg_terminate_backend(pid) ELSE pg_cancel_backend(pid) END AS done
             FROM pg_stat_activity
             WHERE pid = ANY ($1) AND usename = ANY ($2) AND backend_type = 'client backend' AND pid <> pg_backend_pid()
               AND xact_start <= clock_timestamp() - make_interval(secs => $3)
             OFFSET 0) AS cancelled WHERE done",
    )
    .bind(pids)
    .bind(&allowed.roles)
    .bind(allowed.after.as_secs_f64())
    .fetch_all(pool)
    .await
    .map_err(failed("cancelling the sessions that database.cancelBlockers allows (the role needs pg_signal_backend and pg_read_all_stats)"))
}
