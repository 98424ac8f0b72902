//! Who is in the way of a swap, and whom the Portal allows to send away.

use std::{fmt, time::Duration};

use sqlx::PgPool;

use super::{SwapError, failed, or_unknown};
use crate::database::identifiers::assembled;

/// A session that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blocker {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as; `None` for a process of the server's own.
    pub role: Option<String>,
    /// What it calls itself; of a process of the server's own its type, such as `autovacuum worker`.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, ...; hidden by Postgres for sessions of other roles without `pg_read_all_stats`.
    pub state: Option<String>,
    /// When its query began, as text.
    pub since: Option<String>,
    /// For how many seconds its transaction has been open.
    pub seconds: Option<i64>,
    /// The head of its query, without the values of parameters.
    pub query: Option<String>,
    /// A relation that it holds and others wait for.
    pub relation: Option<String>,
    /// Those of the swap's relations that it holds; empty where nobody has looked.
    pub(super) held: Vec<String>,
}

impl Blocker {
    /// Its transaction has been open for a while. Without `pg_read_all_stats` Postgres hides it of sessions of other roles; those count.
    pub(super) fn stays(&self) -> bool {
        self.seconds.is_none_or(|seconds| seconds >= 1)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (role {}, application {}", self.pid, or_unknown(&self.role), or_unknown(&self.application))?;
        write!(f, ", {}, since {}", or_unknown(&self.state), or_unknown(&self.since))?;
        if let Some(seconds) = self.seconds {
            write!(f, ", open for {seconds} s")?;
        }
        write!(f, ")")?;
        if let Some(relation) = &self.relation {
            write!(f, " on {relation}")?;
        }
        Ok(())
    }
}

/// The sessions in one sentence.
pub(super) fn named(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "sessions that were gone before they could be named".to_owned();
    }
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// So many sessions are named at most.
pub(super) const MOST_NAMED: usize = 20;

/// What is told of a session.
const TOLD: &str = "a.pid, a.usename::text AS role, coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend')) AS application,
    a.state, a.query_start::text AS since, extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS seconds, left(a.query, 200) AS query";

/// The sessions that the backend `pid` waits for at this moment.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn of(pool: &PgPool, pid: i32) -> Result<Vec<Blocker>, SwapError> {
    sqlx::query_as(assembled(format!(
        "SELECT {TOLD}, w.relation, ARRAY[]::text[] AS held
         FROM pg_stat_activity a LEFT JOIN LATERAL (
             SELECT c.relname::text AS relation FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
             WHERE l.pid = $1 AND NOT l.granted LIMIT 1) AS w ON true
         WHERE a.pid = ANY (pg_blocking_pids($1)) ORDER BY a.pid LIMIT {MOST_NAMED}"
    )))
    .bind(pid)
    .fetch_all(pool)
    .await
    .map_err(failed("looking for who holds the relations"))
}

/// The sessions that hold one of the relations at this moment, the oldest transaction first.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn holders(pool: &PgPool, schema: &str, names: &[String]) -> Result<Vec<Blocker>, SwapError> {
    sqlx::query_as(assembled(format!(
        "SELECT {TOLD}, min(c.relname)::text AS relation, array_agg(DISTINCT c.relname::text) AS held
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
    .map_err(failed("looking for who holds the relations"))
}

/// Whom a swap may send away, and after how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SendAway {
    /// Sessions of these roles only.
    pub roles: Vec<String>,
    /// Only transactions that have been open for at least as long.
    pub after: Duration,
}

/// A session that was sent away, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SentAway {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it was logged in as.
    pub role: String,
    /// Its session was ended, because it was idle in a transaction; else only its statement was cancelled.
    pub ended: bool,
}

impl fmt::Display for SentAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, role, ended } = self;
        if *ended {
            write!(f, "ended the session pid {pid} of role {role}, which was idle in a transaction")
        } else {
            write!(f, "cancelled the statement of pid {pid} of role {role}")
        }
    }
}

/// Cancels the statements, or ends the idle sessions, of those blockers that `allowed` names. Each is looked at again in the same
/// statement, so that nobody is hit who has moved on meanwhile.
///
/// # Errors
/// When the role may not do so; the message says what to grant.
pub(super) async fn send_away(pool: &PgPool, blockers: &[Blocker], allowed: &SendAway) -> Result<Vec<SentAway>, SwapError> {
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
             OFFSET 0) AS sent WHERE done",
    )
    .bind(pids)
    .bind(&allowed.roles)
    .bind(allowed.after.as_secs_f64())
    .fetch_all(pool)
    .await
    .map_err(failed("sending away the sessions that the Portal allows to (the role needs pg_signal_backend and pg_read_all_stats)"))
}
