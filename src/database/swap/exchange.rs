//! The exchange itself: short attempts at the locks, until one of them holds everything.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool, Row};
use tokio_util::sync::CancellationToken;

use super::{
    blocker::Blocker,
    error::{SwapError, failed},
    hooks::{FailedAttempt, Hooks},
    locks::{Limits, Queue},
    log_room,
    plan::{CHANGED, SwapPlan},
    renames::Moved,
    request::SwapRequest,
    sessions,
};
use crate::database::{
    identifiers::{Generation, Relations, assembled, qualified},
    sqlstate::{self, DUPLICATE_TABLE, UNDEFINED_OBJECT, UNDEFINED_TABLE},
    staging::publish_lookup,
};

/// How long a prepared transaction may stay open: it blocks writers of the ledger and changes to the renamed indexes.
const FRESH: Duration = Duration::from_secs(5);

/// What an exchange has done.
#[derive(Debug)]
pub struct Exchanged {
    /// The relations, in the order of [`Relations`], then their parts.
    pub moved: Vec<Moved>,
    /// Views, functions, policies and foreign keys that were recreated.
    pub repointed: Vec<String>,
    /// When everything was locked.
    pub locked: Instant,
    /// The number of attempts.
    pub attempts: u32,
}

/// Makes the incoming generation live. The transaction that is returned holds all locks: commit it at once.
///
/// Renames relations, indexes (with their constraints), owned sequences and extended statistics; points views, functions, policies
/// and outside foreign keys to the new live; publishes new look-up rows; adds the foreign keys to look-up tables, unchecked
/// ([`super::validate_constraints`] checks them afterwards).
///
/// Tries in short attempts with pauses until the budget is used, so that readers never queue up behind a slow one for longer than
/// one attempt. `cancel` is checked between attempts.
///
/// # Errors
/// [`SwapError::Blocked`] names the blocking sessions; [`SwapError::Obstacles`] what cannot be carried over.
pub async fn exchange<F: Hooks>(
    pool: &PgPool,
    request: &SwapRequest<'_>,
    hooks: &F,
    cancel: &CancellationToken,
) -> Result<(F::Tx, Exchanged), F::Error> {
    let mut queue = Queue::new(request.limits);
    loop {
        queue.attempts += 1;
        let plan = match planned(pool, request, queue.patience).await? {
            Attempt::Done(plan) => plan,
            Attempt::Blocked(contention) => {
                back_off(pool, request, hooks, &mut queue, &contention, cancel).await?;
                continue;
            }
        };
        let mut tx = hooks.begin(&plan).await?;
        let pid = backend(&mut tx).await?;
        let fresh = Instant::now();
        let mut outcome = prepare(&mut tx, pool, pid, &plan, request, queue.patience).await?;
        let mut prepared = false;
        loop {
            let contention = match outcome {
                Attempt::Done(Outcome::Exchanged { locked }) => {
                    let SwapPlan { moved, repointed, .. } = plan;
                    return Ok((tx, Exchanged { moved, repointed, locked, attempts: queue.attempts }));
                }
                Attempt::Done(Outcome::Prepared) => {
                    prepared = true;
                    log_room::make(pool).await;
                    None
                }
                Attempt::Done(Outcome::Changed) => {
                    prepared = false;
                    Some(Contention::default())
                }
                Attempt::Blocked(contention) => Some(contention),
            };
            if let Some(contention) = contention {
                if !prepared || fresh.elapsed() > FRESH {
                    drop(tx);
                    back_off(pool, request, hooks, &mut queue, &contention, cancel).await?;
                    break;
                }
                back_off(pool, request, hooks, &mut queue, &contention, cancel).await?;
                queue.attempts += 1;
            }
            outcome = attempt(&mut tx, pool, pid, &plan, request, &queue).await?;
        }
    }
}

/// How something ended that other sessions may block.
enum Attempt<T> {
    Done(T),
    Blocked(Contention),
}

/// The sessions that blocked an attempt.
#[derive(Default)]
struct Contention {
    /// Empty when the attempt ended before they could be identified.
    seen: Vec<Blocker>,
    /// They waited for the swap in turn.
    in_deadlock: bool,
}

/// How far a transaction has come.
enum Outcome {
    /// What needs no locks is done.
    Prepared,
    /// Everything is locked and exchanged.
    Exchanged { locked: Instant },
    /// The catalogue has changed since the plan was made.
    Changed,
}

async fn back_off<F: Hooks>(
    pool: &PgPool,
    request: &SwapRequest<'_>,
    hooks: &F,
    queue: &mut Queue,
    contention: &Contention,
    cancel: &CancellationToken,
) -> Result<(), SwapError> {
    let relations = request.relations;
    let mut names = relations.names(&Generation::Live);
    names.extend(relations.names(request.incoming));
    let holders = sessions::holders(pool, &relations.schema, &names).await?;
    // On a busy machine an attempt may end before its blockers were read; those that stay can still be found.
    let staying: Vec<Blocker> = holders.iter().filter(|holder| holder.stays()).take(sessions::MOST_NAMED).cloned().collect();
    let blockers = if contention.seen.is_empty() { &staying } else { &contention.seen };
    let cancelled = sessions::cancel(pool, blockers, &request.cancel_blockers).await?;
    hooks.attempt_failed(&FailedAttempt { attempts: queue.attempts, waited: queue.waited(), blockers, cancelled: &cancelled });
    let pause = queue.next_pause(blockers, &holders, contention.in_deadlock)?;
    tokio::select! {
        () = cancel.cancelled() => Err(SwapError::Cancelled),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}

async fn planned(pool: &PgPool, request: &SwapRequest<'_>, patience: Duration) -> Result<Attempt<SwapPlan>, SwapError> {
    let mut conn = pool.acquire().await.map_err(failed("planning the swap"))?;
    let pid = backend(&mut conn).await?;
    watched(pool, pid, patience, SwapPlan::read(&mut conn, request, patience)).await
}

async fn backend(conn: &mut PgConnection) -> Result<i32, SwapError> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await.map_err(failed("beginning the swap"))
}

/// Does something that may have to wait, and records which sessions block it meanwhile.
async fn watched<T>(
    pool: &PgPool,
    pid: i32,
    patience: Duration,
    work: impl Future<Output = Result<T, SwapError>>,
) -> Result<Attempt<T>, SwapError> {
    let watching = async {
        tokio::time::sleep(patience.mul_f32(0.6)).await;
        sessions::blocking(pool, pid).await
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
        Ok(done) => Ok(Attempt::Done(done)),
        Err(error) if error.is_busy() => {
            let in_deadlock = error.code().as_deref() == Some(sqlstate::DEADLOCK);
            Ok(Attempt::Blocked(Contention { seen, in_deadlock }))
        }
        Err(error) => Err(error),
    }
}

/// Does what needs no lock that a reader would notice.
async fn prepare(
    tx: &mut PgConnection,
    pool: &PgPool,
    pid: i32,
    plan: &SwapPlan,
    request: &SwapRequest<'_>,
    patience: Duration,
) -> Result<Attempt<Outcome>, SwapError> {
    let Limits { statement, idle, .. } = request.limits;
    // A short deadlock_timeout also makes autovacuum cancel itself, which would otherwise outlast every attempt.
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
            // What was to be renamed no longer exists, or its new name is taken.
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| matches!(code.as_str(), UNDEFINED_TABLE | UNDEFINED_OBJECT | DUPLICATE_TABLE | CHANGED)) =>
            {
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
    plan: &SwapPlan,
    request: &SwapRequest<'_>,
    queue: &Queue,
) -> Result<Attempt<Outcome>, SwapError> {
    let outcome = watched(pool, pid, queue.patience, locked_exchange(tx, plan, request, queue)).await?;
    if !matches!(outcome, Attempt::Done(Outcome::Exchanged { .. })) {
        let sql = "ROLLBACK TO SAVEPOINT swap_attempt";
        sqlx::raw_sql(sql).execute(tx).await.map_err(failed("releasing the locks for other sessions"))?;
    }
    Ok(outcome)
}

async fn locked_exchange(tx: &mut PgConnection, plan: &SwapPlan, request: &SwapRequest<'_>, queue: &Queue) -> Result<Outcome, SwapError> {
    let locking = || failed("locking the relations of the swap");
    let sql = format!("SAVEPOINT swap_attempt; SET LOCAL lock_timeout = '{}ms'", queue.patience.as_millis().max(1));
    sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await.map_err(locking())?;
    if *request.incoming == Generation::Staging {
        publish_lookups(tx, request.relations).await?;
    }
    let last: Vec<String> = queue.last().into_iter().map(|name| qualified(&request.relations.schema, name)).collect();
    // The statement timeout bounds the sum of all waits of one statement; the lock timeout bounds later ones.
    let sql = format!(
        "{}; {}; SET LOCAL statement_timeout = '{}ms'; {}; {};
         SELECT extract(epoch FROM clock_timestamp() - current_setting('portal_release.locked_at')::timestamptz)::float8",
        plan.check,
        plan.locking(&last, queue.patience),
        request.limits.statement.as_millis(),
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

/// Publishes the new rows of the look-up tables. Their writers wait from here on, their readers do not.
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
