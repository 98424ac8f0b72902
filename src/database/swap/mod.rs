//! The swap: every relation of a release changes place in one transaction, and the same call undoes it.
//!
//! ```text
//! exchange(Staging in, Backup out) ──► commit     swap
//! exchange(Backup in, Staging out) ──► commit     rollback
//! exchange(Staging in, Backup out) ──► commit     forward again
//! ```
//! Nothing is copied: relations are renamed, so identities (OIDs), contents, indexes, statistics and the visibility map
//! stay with the data, and going back gives exactly what was there.
//!
//! Readers wait only while everything is locked, so as little as possible happens then:
//!
//! ```text
//! plan      from one snapshot of the catalogue; refuses what cannot be carried over    nobody waits
//! prepare   fence, ledger rows, renames of indexes and statistics objects              nobody waits
//!           room in the write-ahead log                                                nobody waits
//! attempt   ┌ look-up rows                                                             writers of look-up tables wait
//!           │ lock everything in one statement ─ give way after 30 to 130 ms, pause, again
//!           │ same catalogue as planned? ─ no: plan again
//!           └ rename relations, write again what stands on them                        readers wait
//! commit
//! ```

mod blockers;
mod keys;
mod locks;
mod log_room;
mod plan;
mod renames;
mod snapshots;

use std::{
    future::Future,
    ops::DerefMut,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};
use tokio_util::sync::CancellationToken;

pub use self::{
    blockers::{Blocker, SendAway, SentAway},
    keys::validate_constraints,
    locks::Limits,
    plan::Plan,
    renames::Moved,
    snapshots::{Horizon, OldSnapshot, Standby, horizon, old_snapshots, standbys},
};
use self::{locks::Queue, plan::CHANGED};
use super::{
    catalog::CatalogError,
    identifiers::{Generation, Relations, assembled, qualified},
    staging::{StagingError, publish_lookup},
};

/// How long what was prepared may stand: others who want to write to the ledger, or an index, wait no longer.
const FRESH: Duration = Duration::from_secs(5);

/// A swap that did not happen. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The database refused or was lost.
    #[error("{what} failed: {source}; nothing has changed, correct the cause and retry")]
    Database {
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The structure could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// COMMIT was sent and no answer came: only the ledger knows.
    #[error("the outcome of COMMIT is unknown: {0}; look up the ledger before anything else")]
    CommitUnknown(sqlx::Error),
    /// Other sessions held the relations until the time for waiting was over.
    #[error("no lock within {waited:?} and {attempts} attempts, held up by {}; nothing has changed, end these sessions or retry", blockers::named(.blockers))]
    Blocked {
        /// How long it was tried.
        waited: Duration,
        /// How often.
        attempts: u32,
        /// Who was in the way at the last attempt.
        blockers: Vec<Blocker>,
    },
    /// The caller asked to stop.
    #[error("stopped while waiting for locks; nothing has changed")]
    Cancelled,
    /// A relation that should change place does not exist.
    #[error("{relation} does not exist, so there is nothing to exchange with {counterpart}; build it first")]
    Missing {
        /// The missing relation.
        relation: String,
        /// The one that would have changed place with it.
        counterpart: String,
    },
    /// A relation and its counterpart are of different kinds.
    #[error("{relation} is a {found}, but its live counterpart is a {expected}; make both the same")]
    KindDiffers {
        /// The incoming relation.
        relation: String,
        /// Its kind.
        found: String,
        /// The kind of live.
        expected: String,
    },
    /// A name that is needed belongs to something else.
    #[error("the name {name} is taken by something that is not part of this swap; rename or drop it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// New look-up rows cannot be published.
    #[error(transparent)]
    Lookup(#[from] StagingError),
    /// Something cannot be carried over.
    #[error("the swap would break: {}", .0.join("; "))]
    Obstacles(Vec<String>),
}

impl SwapError {
    fn code(&self) -> Option<String> {
        match self {
            Self::Database { source, .. } => source.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned()),
            _ => None,
        }
    }

    /// May the same swap succeed when it is simply tried again?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Blocked { .. } => true,
            Self::Database { source, .. } | Self::Lookup(StagingError::Statement { source, .. }) => busy(source),
            _ => false,
        }
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> SwapError {
    let what = what.into();
    move |source| SwapError::Database { what, source }
}

/// What Postgres tells of a session, or hides.
fn or_unknown(text: &Option<String>) -> &str {
    text.as_deref().filter(|text| !text.is_empty()).unwrap_or("unknown")
}

/// Lock not available, deadlock detected, query cancelled (by the statement timeout).
pub(super) fn busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01" | "57014"))
}

/// What changes place with what, and how.
#[derive(Debug)]
pub struct Order<'a> {
    /// The relations.
    pub relations: &'a Relations,
    /// What becomes live.
    pub incoming: &'a Generation,
    /// What live becomes.
    pub outgoing: &'a Generation,
    /// Statements to execute last, under the locks, with the connection's own search path.
    pub finally: &'a [String],
    /// How long others may be made to wait, and how long it is tried.
    pub limits: Limits,
    /// Whom the swap may send away.
    pub send_away: SendAway,
}

/// An attempt that gave way to other sessions.
#[derive(Debug)]
pub struct GaveWay<'a> {
    /// How often it was tried.
    pub attempts: u32,
    /// Since the first attempt.
    pub waited: Duration,
    /// Who was in the way; empty when they were gone before they could be named.
    pub blockers: &'a [Blocker],
    /// Who of them was sent away.
    pub sent_away: &'a [SentAway],
}

/// What surrounds the exchange: the transaction it takes part in, and who is told.
pub trait Frame: Sync {
    /// The transaction. Dropped without a commit, it changes nothing.
    type Tx: DerefMut<Target = PgConnection> + Send;
    /// Why it could not be begun, or what the swap failed of.
    type Error: From<SwapError>;

    /// Begins a transaction and writes the rows that are to commit with the swap. It may be called several times.
    fn begin(&self, plan: &Plan) -> impl Future<Output = Result<Self::Tx, Self::Error>> + Send;

    /// An attempt gave way; the next one follows.
    fn gave_way(&self, how: &GaveWay<'_>) {
        let _ = how;
    }
}

/// The simplest frame: a transaction of the pool, and nobody is told.
impl Frame for PgPool {
    type Tx = Transaction<'static, Postgres>;
    type Error = SwapError;

    async fn begin(&self, _plan: &Plan) -> Result<Self::Tx, SwapError> {
        PgPool::begin(self).await.map_err(failed("beginning the swap"))
    }
}

/// What an exchange has done.
#[derive(Debug)]
pub struct Exchanged {
    /// The relations, in the order of [`Relations`], then their parts.
    pub moved: Vec<Moved>,
    /// Views, functions, policies and foreign keys that were written again.
    pub repointed: Vec<String>,
    /// Since when everything is locked.
    pub locked: Instant,
    /// How often it was tried.
    pub attempts: u32,
}

/// Lets the incoming generation take the place of live. The transaction that is returned holds all locks: commit it at once.
///
/// Renames relations, indexes (with their constraints), owned sequences and extended statistics; points views, functions, policies
/// and outside foreign keys to the new live; publishes new look-up rows; adds the foreign keys to look-up tables, unchecked
/// ([`validate_constraints`] checks them afterwards).
///
/// Tries in short attempts with pauses until the budget is used, so that readers never queue up behind a slow one for longer than
/// one attempt. `cancel` is looked at between attempts.
///
/// # Errors
/// [`SwapError::Blocked`] names who is in the way; [`SwapError::Obstacles`] what cannot be carried over.
pub async fn exchange<F: Frame>(
    pool: &PgPool,
    order: &Order<'_>,
    frame: &F,
    cancel: &CancellationToken,
) -> Result<(F::Tx, Exchanged), F::Error> {
    let mut queue = Queue::new(order.limits);
    loop {
        queue.attempts += 1;
        let plan = match planned(pool, order, queue.patience).await? {
            Turn::Done(plan) => plan,
            Turn::GaveWay(hindrance) => {
                give_way(pool, order, frame, &mut queue, &hindrance, cancel).await?;
                continue;
            }
        };
        let mut tx = frame.begin(&plan).await?;
        let pid = backend(&mut tx).await?;
        let fresh = Instant::now();
        let mut turn = prepare(&mut tx, pool, pid, &plan, order, queue.patience).await?;
        let mut prepared = false;
        loop {
            let hindrance = match turn {
                Turn::Done(Outcome::Exchanged { locked }) => {
                    let Plan { moved, repointed, .. } = plan;
                    return Ok((tx, Exchanged { moved, repointed, locked, attempts: queue.attempts }));
                }
                Turn::Done(Outcome::Prepared) => {
                    prepared = true;
                    log_room::make(pool).await;
                    None
                }
                Turn::Done(Outcome::Changed) => {
                    prepared = false;
                    Some(Hindrance::default())
                }
                Turn::GaveWay(hindrance) => Some(hindrance),
            };
            if let Some(hindrance) = hindrance {
                if !prepared || fresh.elapsed() > FRESH {
                    drop(tx);
                    give_way(pool, order, frame, &mut queue, &hindrance, cancel).await?;
                    break;
                }
                give_way(pool, order, frame, &mut queue, &hindrance, cancel).await?;
                queue.attempts += 1;
            }
            turn = attempt(&mut tx, pool, pid, &plan, order, &queue).await?;
        }
    }
}

/// What became of something that others may be in the way of.
enum Turn<T> {
    Done(T),
    GaveWay(Hindrance),
}

/// Who was in the way.
#[derive(Default)]
struct Hindrance {
    /// Empty when it was over before anybody had looked.
    seen: Vec<Blocker>,
    /// They waited for the swap in turn.
    in_deadlock: bool,
}

/// How far a transaction has come.
enum Outcome {
    /// What needs no locks is done.
    Prepared,
    /// Everything is done and locked.
    Exchanged { locked: Instant },
    /// The catalogue is not what the plan was made from.
    Changed,
}

async fn give_way<F: Frame>(
    pool: &PgPool,
    order: &Order<'_>,
    frame: &F,
    queue: &mut Queue,
    hindrance: &Hindrance,
    cancel: &CancellationToken,
) -> Result<(), SwapError> {
    let relations = order.relations;
    let mut names = relations.names(&Generation::Live);
    names.extend(relations.names(order.incoming));
    let holders = blockers::holders(pool, &relations.schema, &names).await?;
    // On a busy machine the attempt may be over before anybody has looked; who stays long can still be seen.
    let staying: Vec<Blocker> = holders.iter().filter(|holder| holder.stays()).take(blockers::MOST_NAMED).cloned().collect();
    let blockers = if hindrance.seen.is_empty() { &staying } else { &hindrance.seen };
    let sent_away = blockers::send_away(pool, blockers, &order.send_away).await?;
    frame.gave_way(&GaveWay { attempts: queue.attempts, waited: queue.waited(), blockers, sent_away: &sent_away });
    let pause = queue.gave_way(blockers, &holders, hindrance.in_deadlock)?;
    tokio::select! {
        () = cancel.cancelled() => Err(SwapError::Cancelled),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}

async fn planned(pool: &PgPool, order: &Order<'_>, patience: Duration) -> Result<Turn<Plan>, SwapError> {
    let mut conn = pool.acquire().await.map_err(failed("planning the swap"))?;
    let pid = backend(&mut conn).await?;
    watched(pool, pid, patience, Plan::read(&mut conn, order, patience)).await
}

async fn backend(conn: &mut PgConnection) -> Result<i32, SwapError> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await.map_err(failed("beginning the swap"))
}

/// Does something that may have to wait, and sees who is in its way while it does.
async fn watched<T>(
    pool: &PgPool,
    pid: i32,
    patience: Duration,
    work: impl Future<Output = Result<T, SwapError>>,
) -> Result<Turn<T>, SwapError> {
    let watching = async {
        tokio::time::sleep(patience.mul_f32(0.6)).await;
        blockers::of(pool, pid).await
    };
    tokio::pin!(work, watching);
    let mut seen = Vec::new();
    let done = tokio::select! {
        done = &mut work => done,
        blockers = &mut watching => {
            seen = blockers?;
            work.await
        }
    };
    match done {
        Ok(done) => Ok(Turn::Done(done)),
        Err(error) if error.is_busy() => {
            let in_deadlock = error.code().as_deref() == Some("40P01");
            Ok(Turn::GaveWay(Hindrance { seen, in_deadlock }))
        }
        Err(error) => Err(error),
    }
}

/// What needs no locks that a reader would notice.
async fn prepare(
    tx: &mut PgConnection,
    pool: &PgPool,
    pid: i32,
    plan: &Plan,
    order: &Order<'_>,
    patience: Duration,
) -> Result<Turn<Outcome>, SwapError> {
    let Limits { statement, idle, .. } = order.limits;
    // A short deadlock_timeout also sends autovacuum away, which else would outlast every attempt.
    let deadlock = if plan.may_set_deadlock_timeout { "SET LOCAL deadlock_timeout = '20ms';" } else { "" };
    let sql = format!(
        "SET LOCAL lock_timeout = '{}ms'; SET LOCAL idle_in_transaction_session_timeout = '{}ms';
         SET LOCAL statement_timeout = '{}ms'; {deadlock} {}",
        patience.as_millis().max(1),
        idle.as_millis(),
        statement.as_millis(),
        plan.early
    );
    let work = async {
        match sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await.map_err(failed("renaming the indexes")) {
            Ok(_) => Ok(Outcome::Prepared),
            // What was to be renamed is there no more, or something has its name.
            Err(error) if error.code().is_some_and(|code| matches!(code.as_str(), "42P01" | "42704" | "42P07" | CHANGED)) => {
                Ok(Outcome::Changed)
            }
            Err(error) => Err(error),
        }
    };
    watched(pool, pid, patience, work).await
}

/// One attempt: everything is locked and exchanged, or the transaction is as it was before.
async fn attempt(
    tx: &mut PgConnection,
    pool: &PgPool,
    pid: i32,
    plan: &Plan,
    order: &Order<'_>,
    queue: &Queue,
) -> Result<Turn<Outcome>, SwapError> {
    let turn = watched(pool, pid, queue.patience, locked_exchange(tx, plan, order, queue)).await?;
    if !matches!(turn, Turn::Done(Outcome::Exchanged { .. })) {
        let sql = "ROLLBACK TO SAVEPOINT swap_attempt";
        sqlx::raw_sql(sql).execute(tx).await.map_err(failed("giving way to other sessions"))?;
    }
    Ok(turn)
}

async fn locked_exchange(tx: &mut PgConnection, plan: &Plan, order: &Order<'_>, queue: &Queue) -> Result<Outcome, SwapError> {
    let locking = || failed("locking the relations of the swap");
    let sql = format!("SAVEPOINT swap_attempt; SET LOCAL lock_timeout = '{}ms'", queue.patience.as_millis().max(1));
    sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await.map_err(locking())?;
    if *order.incoming == Generation::Staging {
        publish_lookups(tx, order.relations).await?;
    }
    let last: Vec<String> = queue.last().into_iter().map(|name| qualified(&order.relations.schema, name)).collect();
    // The statement timeout bounds the sum of all waits of one statement; the lock timeout bounds later ones.
    let sql = format!(
        "{}; {}; SET LOCAL statement_timeout = '{}ms'; {}; {};
         SELECT extract(epoch FROM clock_timestamp() - current_setting('portal_release.locked_at')::timestamptz)::float8",
        plan.check,
        plan.locking(&last, queue.patience),
        order.limits.statement.as_millis(),
        plan.check,
        plan.late
    );
    match sqlx::raw_sql(assembled(sql)).fetch_all(tx).await {
        Ok(rows) => {
            let last = rows.last().ok_or(sqlx::Error::RowNotFound).map_err(locking())?;
            let seconds: f64 = last.try_get(0).map_err(locking())?;
            let held = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            Ok(Outcome::Exchanged { locked: Instant::now().checked_sub(held).unwrap_or_else(Instant::now) })
        }
        Err(error) => match failed("exchanging the relations")(error) {
            error if error.code().as_deref() == Some(CHANGED) => Ok(Outcome::Changed),
            error => Err(error),
        },
    }
}

/// Publishes the new rows of the look-up tables that have any. Their writers wait from here on, their readers do not.
async fn publish_lookups(tx: &mut PgConnection, relations: &Relations) -> Result<(), SwapError> {
    if relations.lookups.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = relations.lookups.iter().map(|base| qualified(&relations.schema, base)).collect();
    let sql = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", names.join(", "));
    sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await.map_err(failed("locking the look-up tables"))?;
    for lookup in &relations.lookups {
        publish_lookup(tx, &relations.schema, lookup).await?;
    }
    Ok(())
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
