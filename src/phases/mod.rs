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

use crate::{
    api::PhaseName,
    imports,
    release::{Direction, phases::facts},
    work::{Context, Done, PhaseError},
};

/// Does or undoes a phase, as its entry in the run says. Every pair has its line: one that is forgotten does not compile.
///
/// # Errors
/// See [`PhaseError`].
pub async fn run(context: &Context) -> Result<Done, PhaseError> {
    use Direction::{Do, Undo};
    use PhaseName::*;

    let (phase, direction) = (context.subject.attempt.phase, context.subject.attempt.direction);
    if direction == Do && context.subject.run.recheck && facts(phase).uses_staging {
        recheck::run(context).await?;
    }
    match (phase, direction) {
        (AcquireLock, Do) => lock::acquire(context).await,
        (RefreshViews, Do) => views::refresh(context).await,
        (CreateStagingViews, Do) => views::create(context).await,
        (CreateStagingViews, Undo) => views::undo_create(context).await,
        (Preflight, Do) if context.subject.run.builds() => preflight::run(context).await,
        (Preflight, Do) => data_loss::remembering(context, swap::preflight(context)).await,
        (BuildStaging, Do) => staging::build(context).await,
        (BuildStaging, Undo) => staging::undo_build(context).await,
        (ImportCore, Do) => imports::core(context).await,
        (ImportRelated, Do) => imports::related(context).await,
        (ImportCore | ImportRelated, Undo) => imports::undo(context).await,
        (ValidateAndManifest, Do) => validate::run(context).await,
        (Preflight | ValidateAndManifest, Undo) => gates::undo(context).await,
        (Freeze, Do) => freeze::freeze(context).await,
        (Freeze, Undo) => freeze::undo_freeze(context).await,
        (FinaliseSwap, Do) => data_loss::remembering(context, swap::run(context)).await,
        (FinaliseSwap, Undo) => data_loss::remembering(context, swap::undo(context)).await,
        (CreateDownloadsView, Do) => downloads::run(context).await,
        (Scale, Do) => freeze::scale(context).await,
        (PostSwap, Do) => post_swap::run(context).await,
        (CleanupAndRetention, Do) => retention::run(context).await,
        (ReleaseLock, Do) => lock::release(context).await,
        (ResetCheckpoints, Do) => retention::reset_checkpoints(context).await,
        (
            AcquireLock | RefreshViews | CreateDownloadsView | Scale | PostSwap | CleanupAndRetention | ReleaseLock | ResetCheckpoints,
            Undo,
        ) => context.work().await?.complete("nothing to undo").await,
    }
}
