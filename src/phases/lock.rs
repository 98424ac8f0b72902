//! AcquireLock and ReleaseLock. The session itself is taken by the controller and held for the whole run.

use crate::{
    jobs,
    work::{Context, Done, PhaseError},
};

/// The lock is held already; this records it.
pub(super) async fn acquire(context: &Context) -> Result<Done, PhaseError> {
    let message = format!("advisory lock {} held, epoch {}", context.subject.portal.database.lock_key, context.subject.attempt.epoch);
    context.work().await?.complete(&message).await
}

/// From here on nothing but the release's own rows of the ledger is touched.
pub(super) async fn release(context: &Context) -> Result<Done, PhaseError> {
    jobs::halt(context).await?;
    let done = context.work().await?.complete("released").await?;
    context.tools.database.release().await;
    Ok(done)
}
