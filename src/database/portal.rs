//! One portal's database, as this process uses it: the pool, and the lock session while a run is open.

use std::time::Duration;

use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use super::{
    connection::{ConnectError, connect},
    lock::{Fence, LockError, LockSession},
};
use crate::term::Term;

/// One portal's database.
#[derive(Debug)]
pub struct PortalDatabase {
    key: String,
    pool: PgPool,
    options: PgConnectOptions,
    holder: String,
    family: Option<String>,
    term: Term,
    session: Mutex<Option<LockSession>>,
    busy: std::sync::Mutex<Option<String>>,
}

impl PortalDatabase {
    /// Connects and brings the ledger's schema up to date.
    ///
    /// `key` is `namespace/name` of the Portal. `family` is what the application names of all operators of this Portal begin with, and
    /// `instance` distinguishes this process from others; sessions of a predecessor are ended only when `evict` says that a Lease makes
    /// sure that there is one leader, and while `term` says that this is it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open(
        key: &str,
        url: &str,
        schema: &str,
        family: &str,
        instance: &str,
        term: Term,
        evict: bool,
    ) -> Result<Self, ConnectError> {
        let application = format!("{family}{instance}");
        let (pool, options) = connect(url, schema, &application).await?;
        let family = evict.then(|| family.to_owned());
        Ok(Self {
            key: key.to_owned(),
            pool,
            options,
            holder: application,
            family,
            term,
            session: Mutex::new(None),
            busy: std::sync::Mutex::default(),
        })
    }

    /// The pool.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// `namespace/name` of the Portal.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Takes the advisory lock and a new epoch, unless this process has it.
    ///
    /// # Errors
    /// [`LockError::Busy`] when another session holds it, [`LockError::Over`] when this process is no longer the leader.
    pub async fn acquire(&self, lock_key: i64) -> Result<(), LockError> {
        let mut session = self.session.lock().await;
        if session.as_ref().is_some_and(|session| !session.is_lost()) {
            return Ok(());
        }
        *session = None;
        let acquired = LockSession::acquire(&self.options, &self.key, lock_key, &self.holder, self.family.as_deref(), &self.term).await;
        if let Ok(mut busy) = self.busy.lock() {
            *busy = acquired.as_ref().err().filter(|error| matches!(error, LockError::Busy { .. })).map(ToString::to_string);
        }
        *session = Some(acquired?);
        Ok(())
    }

    /// Who had the lock when it was last tried, in a sentence.
    pub fn busy(&self) -> Option<String> {
        self.busy.lock().ok().and_then(|busy| busy.clone())
    }

    /// What changes check, while this process holds the lock.
    pub async fn fence(&self) -> Option<Fence> {
        self.session.lock().await.as_ref().filter(|session| !session.is_lost()).map(LockSession::fence)
    }

    /// Releases the lock, if this process holds it.
    pub async fn release(&self) {
        if let Some(session) = self.session.lock().await.take() {
            session.release().await;
        }
    }

    /// Forgets the session: the fence has found that the lock is gone.
    pub async fn forget(&self) {
        self.session.lock().await.take();
    }

    /// Ends backends of this process: what they do is rolled back.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn terminate(&self, pids: &[i32]) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid").bind(pids).execute(&self.pool).await?;
        Ok(())
    }

    /// Closes all connections, unless one is in use or this process holds the lock: an idle portal has none.
    pub async fn rest(&self) {
        // One that was used a moment ago is still on its way back.
        let mut looks = 0;
        while usize::try_from(self.pool.size()) != Ok(self.pool.num_idle()) {
            looks += 1;
            if looks > 25 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.fence().await.is_some() {
            return;
        }
        while let Some(connection) = self.pool.try_acquire() {
            // A failure means that it is closed already.
            let _ = connection.close().await;
        }
    }

    /// Releases the lock and closes every connection.
    pub async fn close(&self) {
        self.release().await;
        self.pool.close().await;
    }
}
