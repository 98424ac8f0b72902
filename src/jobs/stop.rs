//! Deleting Jobs that nothing waits for any more.

use futures::future::try_join_all;

use crate::{
    classify::Classify,
    cluster::{ClusterError, jobs},
    database::ledger::{self, jobs::JobState},
    work::{Context, PhaseError},
};

/// Deletes Jobs and waits until nothing of them runs: no pod, no session. Then the ledger forgets them.
///
/// # Errors
/// When the API server or the database refuses or does not answer.
pub(crate) async fn stop(context: &Context, names: &[String]) -> Result<(), PhaseError> {
    if names.is_empty() {
        return Ok(());
    }
    let (client, namespace) = (&context.tools.client, context.subject.namespace.as_str());
    let failed = |error: ClusterError| PhaseError::Failed(error.to_string());
    // With a namespace that is being deleted go its Jobs, and the operator's rights in it.
    if !context.subject.namespace_terminating {
        context.say(format!("waiting until Job {} and its pods are gone", names.join(", ")));
        for name in names {
            jobs::delete(client, namespace, name).await.map_err(failed)?;
        }
        try_join_all(names.iter().map(|name| jobs::wait_gone(client, namespace, name))).await.map_err(failed)?;
    }
    let mut work = context.work().await?;
    ledger::jobs::end_sessions(&mut work, names).await?;
    for name in names {
        ledger::jobs::forget(&mut work, name).await?;
    }
    work.commit().await
}

/// As [`stop`], for every Job of the Portal, whichever release it belongs to: also those that failed and were kept for inspection.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn stop_all(context: &Context) -> Result<(), PhaseError> {
    stop_of_portal(context, false).await
}

/// As [`stop_all`], for those that may write to staged tables: none may while these are dropped or rebuilt.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn stop_writers(context: &Context) -> Result<(), PhaseError> {
    stop_of_portal(context, true).await
}

async fn stop_of_portal(context: &Context, writers: bool) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let names = ledger::jobs::of_portal(&mut work, &context.key(), writers).await?;
    work.commit().await?;
    stop(context, &names).await
}

/// Deletes the Jobs of this release that still run, without waiting until they are gone: its run is over.
///
/// # Errors
/// When the database or the API server does not answer: what is not deleted is not noted as ended, so the next attempt finds it.
pub(crate) async fn halt(context: &Context) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let names = ledger::jobs::running(&mut work, context.subject.release_id).await?;
    work.commit().await?;
    for name in &names {
        // With a namespace that is being deleted go its Jobs, and the operator's rights in it.
        if !context.subject.namespace_terminating {
            match jobs::delete(&context.tools.client, &context.subject.namespace, name).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(PhaseError::Failed(error.to_string())),
                // The end of a run does not wait until a right is granted: the Job counts as running until a release can end it.
                Err(error) => {
                    tracing::warn!(job = name, %error, "Job {name} of a run that is over could not be deleted yet: {error}");
                    continue;
                }
            }
        }
        let mut work = context.work().await?;
        ledger::jobs::end(&mut work, name, JobState::Ended).await?;
        work.commit().await?;
    }
    Ok(())
}
