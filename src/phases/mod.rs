//! The phases: what each does, and what undoes it, side by side.
//!
//! A phase gets a [`Context`] and returns [`Done`], which only [`Work::complete`] makes: the row that says that the phase is done
//! commits in the transaction that did it. A phase may be killed anywhere and run again.

mod data_loss;
mod downloads;
mod freeze;
mod gates;
mod lock;
mod manifest;
mod post_swap;
mod preflight;
mod recheck;
mod retention;
mod staging;
mod swap;
mod validate;
mod views;

use futures::future::BoxFuture;

use crate::{
    api::PhaseName,
    imports,
    release::{Direction, phases::facts},
    work::{Context, Done, PhaseError},
};

/// Does or undoes a phase, as its entry in the run says.
///
/// # Errors
/// See [`PhaseError`].
pub async fn run(context: &Context) -> Result<Done, PhaseError> {
    let (phase, direction) = (context.subject.attempt.phase, context.subject.attempt.direction);
    if direction == Direction::Do && context.subject.run.recheck && facts(phase).uses_staging {
        recheck::run(context).await?;
    }
    entry(context).await
}

/// What an entry of the run does. Every pair has its line: one that is forgotten does not compile.
///
/// The future is made here and lives on the heap. Made where it is polled, the futures of all lines would be part of one stack frame in a
/// build without optimisation, and the stack would overflow.
fn entry(context: &Context) -> BoxFuture<'_, Result<Done, PhaseError>> {
    use Direction::{Do, Undo};
    use PhaseName::*;

    match (context.subject.attempt.phase, context.subject.attempt.direction) {
        (AcquireLock, Do) => Box::pin(lock::acquire(context)),
        (RefreshViews, Do) => Box::pin(views::refresh(context)),
        (CreateStagingViews, Do) => Box::pin(views::create(context)),
        (CreateStagingViews, Undo) => Box::pin(views::undo_create(context)),
        (Preflight, Do) if context.subject.run.builds() => Box::pin(preflight::run(context)),
        (Preflight, Do) => Box::pin(data_loss::remembering(context, swap::preflight(context))),
        (BuildStaging, Do) => Box::pin(staging::build(context)),
        (BuildStaging, Undo) => Box::pin(staging::undo_build(context)),
        (ImportCore, Do) => Box::pin(imports::core(context)),
        (ImportRelated, Do) => Box::pin(imports::related(context)),
        (ImportCore | ImportRelated, Undo) => Box::pin(imports::undo(context)),
        (ValidateAndManifest, Do) => Box::pin(validate::run(context)),
        (Preflight | ValidateAndManifest, Undo) => Box::pin(gates::undo(context)),
        (Freeze, Do) => Box::pin(freeze::freeze(context)),
        (Freeze, Undo) => Box::pin(freeze::undo_freeze(context)),
        (FinaliseSwap, Do) => Box::pin(data_loss::remembering(context, swap::run(context))),
        (FinaliseSwap, Undo) => Box::pin(data_loss::remembering(context, swap::undo(context))),
        (CreateDownloadsView, Do) => Box::pin(downloads::run(context)),
        (Scale, Do) => Box::pin(freeze::scale(context)),
        (PostSwap, Do) => Box::pin(post_swap::run(context)),
        (CleanupAndRetention, Do) => Box::pin(retention::run(context)),
        (ReleaseLock, Do) => Box::pin(lock::release(context)),
        (ResetCheckpoints, Do) => Box::pin(retention::reset_checkpoints(context)),
        (
            AcquireLock | RefreshViews | CreateDownloadsView | Scale | PostSwap | CleanupAndRetention | ReleaseLock | ResetCheckpoints,
            Undo,
        ) => Box::pin(async { context.work().await?.complete("nothing to undo").await }),
    }
}
