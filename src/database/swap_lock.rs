//! Getting every lock of a swap at once, without standing in the readers' way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dependents;
use super::identifiers::{Generation, Relations, assembled, qualified, quote_ident, quote_literal};
use super::swap::{SwapError, failed, objects, refuse};

/// A session that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blocker {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, ...; hidden by Postgres for sessions of other roles without `pg_read_all_stats`.
    pub state: Option<String>,
    /// When its query began, as text.
    pub since: Option<String>,
    /// The head of its query, without the values of parameters.
    pub query: Option<String>,
    /// The relation it holds.
    pub relation: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| "unknown".into());
        write!(
            f,
            "pid {} (role {}, application {}, {}, since {}) on {}",
            self.pid,
            or_unknown(&self.role),
            or_unknown(&self.application),
            or_unknown(&self.state),
            or_unknown(&self.since),
            self.relation
        )
    }
}

pub(super) fn named(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "sessions that were gone before they could be named".to_owned();
    }
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How long the swap may make others wait, and how long it may try.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The total time for getting the locks.
    pub budget: Duration,
    /// The longest that one attempt stands in the queue, and readers behind it. The first attempts are shorter.
    pub attempt: Duration,
    /// The longest that a statement may run once everything is locked.
    pub statement: Duration,
    /// The longest that the swap may hold its locks without sending a statement: a frozen operator blocks no longer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(30),
            attempt: Duration::from_millis(150),
            statement: Duration::from_secs(300),
            idle: Duration::from_secs(5),
        }
    }
}

/// Begins a transaction that holds every relation of the swap exclusively: live, incoming, and what depends on them.
///
/// Tries in short attempts with pauses until the budget is used, so that readers never queue up behind a slow one for
/// longer than one attempt. Dropping the transaction releases everything.
///
/// # Errors
/// [`SwapError::Blocked`] names who is in the way; [`SwapError::Cancelled`] when `cancel` fires between attempts;
/// [`SwapError::Obstacles`] when something cannot be carried over.
pub async fn lock(
    pool: &PgPool,
    relations: &Relations,
    incoming: &Generation,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Transaction<'static, Postgres>, SwapError> {
    let started = Instant::now();
    let mut attempts = 0;
    let mut blockers = Vec::new();
    // Most readers are gone at once, and what looks like a slow one may be a deadlock, which only giving way resolves:
    // so patience grows from attempt to attempt, and begins again.
    let shortest = limits.attempt.min(Duration::from_millis(20));
    let mut patience = shortest;
    loop {
        if cancel.is_cancelled() {
            return Err(SwapError::Cancelled);
        }
        attempts += 1;
        let mut tx = pool.begin().await.map_err(failed("beginning the swap"))?;
        match attempt(&mut tx, relations, incoming, patience, limits).await {
            Ok(()) => return Ok(tx),
            Err(error) if error.is_busy() => {
                tx.rollback().await.map_err(failed("giving way to other sessions"))?;
                let now_there = find_blockers(pool, relations, incoming).await?;
                if !now_there.is_empty() {
                    blockers = now_there;
                }
            }
            Err(error) => return Err(error),
        }
        // Half to one and a half times as long, so that two that collide do not collide again.
        let [random, ..] = uuid::Uuid::new_v4().into_bytes();
        let pause = patience / 2 + patience * u32::from(random) / 256;
        if started.elapsed() + pause >= limits.budget {
            return Err(SwapError::Blocked { waited: started.elapsed(), attempts, blockers });
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(SwapError::Cancelled),
            () = tokio::time::sleep(pause) => {}
        }
        patience = if patience < limits.attempt { limits.attempt.min(patience * 2) } else { shortest };
    }
}

/// Commits, and does not mistake the silent ROLLBACK of a failed transaction for success.
///
/// # Errors
/// When the transaction had failed, or [`SwapError::CommitUnknown`] when the connection was lost in between.
pub async fn commit(mut tx: Transaction<'_, Postgres>) -> Result<(), SwapError> {
    // In a failed transaction this is refused, where COMMIT would answer ROLLBACK without an error.
    sqlx::query("SELECT 1").execute(&mut *tx).await.map_err(failed("checking the transaction before COMMIT"))?;
    tx.commit().await.map_err(|error| match error {
        error @ sqlx::Error::Database(_) if !connection_lost(&error) => failed("COMMIT")(error),
        error => SwapError::CommitUnknown(error),
    })
}

/// Class 57P: the server is shutting down or the session was terminated; what became of COMMIT is not said.
fn connection_lost(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// One attempt: everything is locked, or the transaction has failed.
async fn attempt(
    tx: &mut PgConnection,
    relations: &Relations,
    incoming: &Generation,
    patience: Duration,
    limits: &Limits,
) -> Result<(), SwapError> {
    let locking = || failed("locking the relations of the swap");
    let may_set: bool = sqlx::query_scalar(
        "SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
                     THEN has_parameter_privilege('deadlock_timeout', 'SET')
                     ELSE current_setting('is_superuser') = 'on' END",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(locking())?;
    // A short deadlock_timeout also sends autovacuum away, which else would outlast every attempt.
    let deadlock = if may_set { "SET LOCAL deadlock_timeout = '20ms';" } else { "" };
    let millis = patience.as_millis().max(1);
    let settings = format!(
        "SET LOCAL lock_timeout = '{millis}ms'; SET LOCAL idle_in_transaction_session_timeout = '{}ms'; {deadlock}",
        limits.idle.as_millis(),
    );
    // First of all: reading the definition of a view already waits for whoever holds it.
    sqlx::raw_sql(assembled(settings)).execute(&mut *tx).await.map_err(locking())?;
    let statement = lock_statement(tx, relations, incoming).await?;
    // The statement timeout bounds the sum of all waits of the one statement; the lock timeout bounds later ones.
    let sql = format!(
        "SET LOCAL statement_timeout = '{millis}ms'; {statement}; SET LOCAL statement_timeout = '{}ms'",
        limits.statement.as_millis()
    );
    sqlx::raw_sql(assembled(sql)).execute(tx).await.map(drop).map_err(locking())
}

/// One statement that locks everything. Views come first, as readers of a view take the view before its tables.
async fn lock_statement(tx: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<String, SwapError> {
    let dependents = dependents::list(tx, relations, incoming).await.map_err(failed("reading what depends on live"))?;
    refuse(&dependents)?;
    let mut views = BTreeMap::new();
    let mut tables = BTreeSet::new();
    for dependent in &dependents {
        match (&dependent.locked, &dependent.relkind, &dependent.owner) {
            (Some(view), Some(kind), Some(owner)) if kind == "v" => drop(views.insert(view.clone(), owner.clone())),
            (Some(table), ..) => drop(tables.insert(table.clone())),
            _ => {}
        }
    }
    let mut sequences = BTreeMap::new();
    for object in objects(tx, relations, &[Generation::Live, incoming.clone()]).await? {
        let name = qualified(&relations.schema, &object.name);
        match object.kind.as_str() {
            "table" => drop(tables.insert(name)),
            "view" | "materialized view" => drop(views.insert(name, quote_ident(&object.owner))),
            "sequence" => drop(sequences.insert(name, quote_ident(&object.owner))),
            _ => {}
        }
    }
    // LOCK TABLE takes no materialized view and locks the tables beneath a view; giving a relation to the owner it has
    // locks it and nothing else, and changes nothing.
    let own = |map: BTreeMap<String, String>| -> Vec<String> {
        map.into_iter().map(|(name, owner)| format!("ALTER TABLE {name} OWNER TO {owner};")).collect()
    };
    let mut body = own(views);
    if !tables.is_empty() {
        body.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if !relations.lookups.is_empty() {
        let names: Vec<String> = relations.lookups.iter().map(|base| qualified(&relations.schema, base)).collect();
        body.push(format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE;", names.join(", ")));
    }
    body.extend(own(sequences));
    Ok(format!("DO {}", quote_literal(&format!("BEGIN\n{}\nEND", body.join("\n")))))
}

async fn find_blockers(pool: &PgPool, relations: &Relations, incoming: &Generation) -> Result<Vec<Blocker>, SwapError> {
    let mut names = relations.names(&Generation::Live);
    names.extend(relations.names(incoming));
    sqlx::query_as(
        "SELECT DISTINCT ON (a.pid) a.pid, a.usename::text AS role, a.application_name AS application, a.state,
                a.query_start::text AS since, left(a.query, 200) AS query, c.relname::text AS relation
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND a.pid <> pg_backend_pid() AND n.nspname = $1 AND c.relname = ANY ($2)
         ORDER BY a.pid, c.relname LIMIT 20",
    )
    .bind(&relations.schema)
    .bind(names)
    .fetch_all(pool)
    .await
    .map_err(failed("looking for who holds the relations"))
}

/// A session whose snapshot is older than the rows of staging: to it the swapped tables would look empty.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OldSnapshot {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as.
    pub role: Option<String>,
    /// What it calls itself, for example `pg_dump`.
    pub application: Option<String>,
}

impl fmt::Display for OldSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| "unknown".into());
        write!(f, "pid {} (role {}, application {})", self.pid, or_unknown(&self.role), or_unknown(&self.application))
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

/// The sessions of this database that may still look at what was there before `horizon`. Swap only when there are none:
/// a transaction that began before the load, such as a `pg_dump`, finds the new tables under the live names, and in them
/// no row.
///
/// # Errors
/// When the database refuses or is lost.
pub async fn old_snapshots(conn: &mut PgConnection, horizon: &Horizon) -> Result<Vec<OldSnapshot>, SwapError> {
    // The start of other roles' transactions is hidden without pg_read_all_stats; then the snapshot alone decides.
    sqlx::query_as(
        "SELECT pid, usename::text AS role, application_name AS application FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL
           AND age(backend_xmin) > pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $1
           AND coalesce(xact_start < $2::timestamptz, true)
         ORDER BY pid",
    )
    .bind(horizon.xid)
    .bind(&horizon.at)
    .fetch_all(conn)
    .await
    .map_err(failed("looking for old snapshots"))
}
