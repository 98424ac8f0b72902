//! The phases: what each does, and what takes it back, side by side.
//!
//! A phase gets a [`Context`] and returns [`Done`], which only [`Work::complete`] makes: the row that says that the phase is done
//! commits in the transaction that did it. A phase may be killed anywhere and run again.

mod data_loss;
mod downloads;
mod freeze;
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
    work::{Context, Done, PhaseError},
};

/// Runs a phase.
///
/// # Errors
/// See [`PhaseError`].
pub async fn run(context: &Context) -> Result<Done, PhaseError> {
    let phase = context.subject.attempt.phase;
    if context.subject.run.recheck && recheck::is_due(phase) {
        recheck::run(context).await?;
    }
    match phase {
        PhaseName::AcquireLock => lock::acquire(context).await,
        PhaseName::RefreshViews => views::refresh(context).await,
        PhaseName::CreateStagingViews => views::create(context).await,
        PhaseName::Preflight => data_loss::remembering(context, preflight::run(context)).await,
        PhaseName::BuildStaging => staging::build(context).await,
        PhaseName::ImportCore => imports::core(context).await,
        PhaseName::ImportRelated => imports::related(context).await,
        PhaseName::ValidateAndManifest => validate::run(context).await,
        PhaseName::Freeze => freeze::freeze(context).await,
        PhaseName::FinaliseSwap => data_loss::remembering(context, swap::run(context)).await,
        PhaseName::CreateDownloadsView => downloads::run(context).await,
        PhaseName::Scale => freeze::scale(context).await,
        PhaseName::PostSwap => post_swap::run(context).await,
        PhaseName::CleanupAndRetention => retention::run(context).await,
        PhaseName::ReleaseLock => lock::release(context).await,
        PhaseName::ResetCheckpoints => retention::reset_checkpoints(context).await,
    }
}

/// Takes a phase back. The release's table of phases says when.
///
/// # Errors
/// See [`PhaseError`].
pub async fn undo(context: &Context) -> Result<Done, PhaseError> {
    match context.subject.attempt.phase {
        PhaseName::CreateStagingViews => views::undo_create(context).await,
        PhaseName::BuildStaging => staging::undo_build(context).await,
        PhaseName::ImportCore | PhaseName::ImportRelated => imports::undo(context).await,
        PhaseName::Freeze => freeze::undo_freeze(context).await,
        phase => context.work().await?.complete_undo(&format!("{phase} leaves nothing to take back")).await,
    }
}
