//! A phase's fenced transactions: what is done and the row that says so commit together.

use std::{
    collections::HashSet,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::{PgConnection, Postgres, Transaction};

use super::PhaseError;
use crate::{
    database::{
        self,
        ledger::{self, phases::Attempt},
    },
    services::Services,
};

/// The phase is done, and the ledger says so.
#[derive(Debug)]
#[must_use]
pub struct Done(String);

impl Done {
    /// What it did, in its own words.
    pub fn message(&self) -> &str {
        &self.0
    }
}

/// A backend that works for a phase: the runner ends it when the phase is cancelled.
pub(super) struct Registration {
    backends: Arc<Mutex<HashSet<i32>>>,
    pid: i32,
}

impl Registration {
    pub(super) fn new(backends: &Arc<Mutex<HashSet<i32>>>, pid: i32) -> Self {
        backends.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        Self { backends: backends.clone(), pid }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pid);
    }
}

/// A fenced transaction of a phase. Dropped without [`Work::commit`] or [`Work::complete`], it changes nothing.
pub struct Work {
    tx: Transaction<'static, Postgres>,
    registration: Registration,
    attempt: Attempt,
    services: Arc<Services>,
}

impl Work {
    pub(super) fn new(tx: Transaction<'static, Postgres>, registration: Registration, attempt: Attempt, services: Arc<Services>) -> Self {
        Self { tx, registration, attempt, services }
    }

    /// Commits a part of the phase.
    ///
    /// # Errors
    /// When the database does not answer, or the transaction had failed.
    pub async fn commit(self) -> Result<(), PhaseError> {
        let Self { tx, registration, .. } = self;
        database::commit(tx).await?;
        drop(registration);
        Ok(())
    }

    /// Rolls back now: a transaction that is only dropped holds its locks until its connection is used again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollback(self) -> Result<(), PhaseError> {
        Ok(self.tx.rollback().await?)
    }

    /// Commits the phase together with the row that says that it is done, or undone.
    ///
    /// # Errors
    /// When the database does not answer, or this attempt is not the running one any more.
    pub async fn complete(mut self, message: &str) -> Result<Done, PhaseError> {
        let place = if self.attempt.unwinding {
            ledger::phases::undone(&mut self.tx, self.attempt, message).await?;
            "undone"
        } else {
            ledger::phases::succeed(&mut self.tx, self.attempt, message).await?;
            "end"
        };
        self.services.faults.reach(self.attempt.phase, place).await;
        self.commit().await?;
        Ok(Done(message.to_owned()))
    }
}

impl Deref for Work {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
