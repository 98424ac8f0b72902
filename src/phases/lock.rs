//! AcquireLock and ReleaseLock. The session itself is taken and given back by the controller, which holds it for the whole run.

use super::{Context, Done, PhaseError};

/// The lock is held by now; this writes it down.
pub(super) async fn acquire(context: &Context) -> Result<Done, PhaseError> {
    let message = format!("advisory lock {} held, epoch {}", context.portal.database.lock_key, context.fence.epoch);
    context.work().await?.complete(&message).await
}

/// From here on nothing but the ledger is touched; the controller lets the lock go.
pub(super) async fn release(context: &Context) -> Result<Done, PhaseError> {
    context.work().await?.complete("released").await
}
