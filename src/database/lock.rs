//! One writer at a time: the advisory lock on a dedicated connection, and the fencing epoch.
//!
//! The lock keeps other release tools out. It is no fence: a paused process does not notice that it has lost it. So every change
//! checks, in its own transaction, that the epoch is still ours and that the lock is still held by our session ([`Fence::check`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use thiserror::Error;
use tokio::{sync::Mutex, task::AbortHandle};

use super::sqlstate;
use crate::term::Term;

/// How often the lock's connection is used while a run is open, so that no firewall takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another session holds it.
    #[error("advisory lock {key} is held by {holder}; wait for it to end, or end that session")]
    Busy {
        /// The lock's key.
        key: i64,
        /// Who has it.
        holder: String,
    },
    /// This process is no longer the leader; another one may be.
    #[error("this process is no longer the leader; the advisory lock is left to the one that is")]
    Over,
    /// The database did not answer.
    #[error("cannot acquire the advisory lock: {0}")]
    Database(#[from] sqlx::Error),
}

/// The change is not ours to make any more.
#[derive(Debug, Error)]
pub enum Fenced {
    /// Another operator has taken over.
    #[error("another operator has taken over the portal (epoch {current}, ours was {ours}); nothing was changed")]
    Epoch {
        /// The epoch in the ledger.
        current: i64,
        /// The epoch of this process.
        ours: i64,
    },
    /// The session that held the advisory lock is gone.
    #[error("the session that held the advisory lock has ended; nothing was changed; the lock will be acquired again")]
    LockLost,
    /// The database did not answer.
    #[error("cannot check the fence: {0}")]
    Database(#[from] sqlx::Error),
}

/// What every change checks in its own transaction.
#[derive(Clone, Debug)]
pub struct Fence {
    portal: String,
    lock_key: i64,
    lock_pid: i32,
    /// The epoch of this session.
    pub epoch: i64,
}

impl Fence {
    /// Checks the fence and keeps it up until the transaction ends: a new epoch waits for it. Returns the pid of the backend.
    ///
    /// # Errors
    /// [`Fenced`] when the epoch or the lock is lost.
    pub async fn check(&self, tx: &mut PgConnection) -> Result<i32, Fenced> {
        let (epoch, held, pid): (i64, bool, i32) = sqlx::query_as(
            "SELECT epoch,
                    EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                            WHERE l.locktype = 'advisory' AND l.granted AND l.pid = $2 AND d.datname = current_database()
                              AND ((l.classid::bigint << 32) | l.objid::bigint) = $3 AND l.objsubid = 1),
                    pg_backend_pid()
             FROM portal_release.portals WHERE portal = $1 FOR SHARE",
        )
        .bind(&self.portal)
        .bind(self.lock_pid)
        .bind(self.lock_key)
        .fetch_one(tx)
        .await?;
        if epoch != self.epoch {
            return Err(Fenced::Epoch { current: epoch, ours: self.epoch });
        }
        if !held {
            return Err(Fenced::LockLost);
        }
        Ok(pid)
    }
}

/// The lock, held: one connection outside the pool. Dropping it without [`LockSession::release`] closes the connection, which
/// releases the lock too.
#[derive(Debug)]
pub struct LockSession {
    connection: Arc<Mutex<Option<PgConnection>>>,
    lost: Arc<AtomicBool>,
    keep_alive: AbortHandle,
    fence: Fence,
}

impl LockSession {
    /// Takes the lock and the next epoch.
    ///
    /// `family` names the operators of this very Portal: where the lock is held by a session of it, that session belongs to a
    /// predecessor that lost its lease, and it is ended. Nothing is done once the `term` of this process is over.
    ///
    /// # Errors
    /// [`LockError::Busy`] when another session holds it.
    pub async fn acquire(
        options: &PgConnectOptions,
        portal: &str,
        lock_key: i64,
        holder: &str,
        family: Option<&str>,
        term: &Term,
    ) -> Result<Self, LockError> {
        let mut connection = PgConnection::connect_with(options).await?;
        sqlx::query("SELECT set_config('statement_timeout', '10s', false), set_config('idle_session_timeout', '0', false)")
            .execute(&mut connection)
            .await?;
        if term.is_over() {
            return Err(LockError::Over);
        }
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(lock_key).fetch_one(&mut connection).await?;
        if !locked {
            return Err(busy(&mut connection, lock_key, family, term).await?);
        }
        if term.is_over() {
            return Err(LockError::Over);
        }
        let epoch = match next_epoch(&mut connection, portal, holder).await {
            // A transaction of a predecessor that was killed continues without it, and holds the row until it ends.
            Err(error) if sqlstate::is_busy(&error) => {
                if !end_predecessors(&mut connection, family, holder, term).await? {
                    let holder = "an operator whose last transaction is still open".to_owned();
                    return Err(LockError::Busy { key: lock_key, holder });
                }
                next_epoch(&mut connection, portal, holder).await?
            }
            epoch => epoch?,
        };
        let lock_pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let connection = Arc::new(Mutex::new(Some(connection)));
        let lost = Arc::new(AtomicBool::new(false));
        let keep_alive = tokio::spawn(keep_alive(connection.clone(), lost.clone())).abort_handle();
        Ok(Self { connection, lost, keep_alive, fence: Fence { portal: portal.to_owned(), lock_key, lock_pid, epoch } })
    }

    /// What every change checks.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// The connection is known to be gone.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Releases the lock and closes the connection.
    pub async fn release(self) {
        self.keep_alive.abort();
        if let Some(mut connection) = self.connection.lock().await.take() {
            // A failure means that the connection is gone, and the lock with it.
            let _ = sqlx::query("SELECT pg_advisory_unlock($1)").bind(self.fence.lock_key).execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}

impl Drop for LockSession {
    fn drop(&mut self) {
        self.keep_alive.abort();
    }
}

async fn keep_alive(connection: Arc<Mutex<Option<PgConnection>>>, lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        let mut guard = connection.lock().await;
        let Some(connection) = guard.as_mut() else { return };
        if connection.ping().await.is_err() {
            lost.store(true, Ordering::Relaxed);
            return;
        }
    }
}

async fn next_epoch(connection: &mut PgConnection, portal: &str, holder: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO portal_release.portals (portal, epoch, holder) VALUES ($1, 1, $2)
         ON CONFLICT (portal) DO UPDATE SET epoch = portal_release.portals.epoch + 1, holder = $2, changed_at = now() RETURNING epoch",
    )
    .bind(portal)
    .bind(holder)
    .fetch_one(connection)
    .await
}

/// Ends every session of the operators of this Portal before this process. `false`: nothing says that this is the only leader.
async fn end_predecessors(connection: &mut PgConnection, family: Option<&str>, own: &str, term: &Term) -> Result<bool, sqlx::Error> {
    let Some(family) = family.filter(|_| !term.is_over()) else { return Ok(false) };
    let ended: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM (SELECT pid, pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE starts_with(application_name, $1) AND application_name <> $2 OFFSET 0) AS ended",
    )
    .bind(family)
    .bind(own)
    .fetch_all(connection)
    .await?;
    tracing::warn!(?ended, "ended sessions of a former operator");
    Ok(true)
}

/// Says who has the lock, and ends a predecessor's session.
async fn busy(connection: &mut PgConnection, key: i64, family: Option<&str>, term: &Term) -> Result<LockError, sqlx::Error> {
    let holder: Option<(i32, String, String)> = sqlx::query_as(
        "SELECT a.pid, coalesce(a.usename, '?')::text, coalesce(a.application_name, '')
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_database d ON d.oid = l.database
         WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
           AND ((l.classid::bigint << 32) | l.objid::bigint) = $1 AND l.objsubid = 1 LIMIT 1",
    )
    .bind(key)
    .fetch_optional(&mut *connection)
    .await?;
    let holder = match holder {
        Some((pid, user, application)) => {
            if family.is_some_and(|family| application.starts_with(family)) {
                if term.is_over() {
                    return Ok(LockError::Over);
                }
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()",
                )
                .bind(&application)
                .execute(connection)
                .await?;
                format!("a former operator (pid {pid}), whose sessions are being ended")
            } else {
                format!("role {user}, application '{application}', pid {pid}")
            }
        }
        None => "a session that has just ended".to_owned(),
    };
    Ok(LockError::Busy { key, holder })
}
