//! What a swap calls: to begin its transaction, and after each failed attempt.

use std::{future::Future, ops::DerefMut, time::Duration};

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::{
    blocker::{Blocker, CancelledBlocker},
    error::{SwapError, failed},
    plan::SwapPlan,
};

/// An attempt that did not get the locks.
#[derive(Debug)]
pub struct FailedAttempt<'a> {
    /// Its number, from 1.
    pub attempts: u32,
    /// The time since the first attempt.
    pub waited: Duration,
    /// The sessions that blocked it; empty when they ended before they could be identified.
    pub blockers: &'a [Blocker],
    /// Those of them that were cancelled.
    pub cancelled: &'a [CancelledBlocker],
}

/// The transaction that the exchange is part of, and who is notified of failed attempts.
pub trait Hooks: Sync {
    /// The transaction. Dropped without a commit, it changes nothing.
    type Tx: DerefMut<Target = PgConnection> + Send;
    /// Why the transaction could not be begun, or why the swap failed.
    type Error: From<SwapError>;

    /// Begins a transaction and writes the rows that are to commit with the swap. Called once for each plan.
    fn begin(&self, plan: &SwapPlan) -> impl Future<Output = Result<Self::Tx, Self::Error>> + Send;

    /// An attempt did not get the locks; another one follows unless the time is used up.
    fn attempt_failed(&self, attempt: &FailedAttempt<'_>) {
        let _ = attempt;
    }
}

/// The simplest hooks: a transaction of the pool, and no notifications.
impl Hooks for PgPool {
    type Tx = Transaction<'static, Postgres>;
    type Error = SwapError;

    async fn begin(&self, _plan: &SwapPlan) -> Result<Self::Tx, SwapError> {
        PgPool::begin(self).await.map_err(failed("beginning the swap"))
    }
}
