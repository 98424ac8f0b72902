//! Freeze and Scale: workers to zero, and exactly back.

use std::time::{Duration, Instant};

use kube::Api;

use super::gates;
use crate::{
    api::{FrozenWorkload, PhaseName, Portal, PortalRelease, Worker},
    cluster::{
        self,
        workers::{self, Thaw, corrected},
    },
    database::{
        ledger::former_states::{self, Purpose},
        sessions::sessions_of,
    },
    jobs,
    work::{Context, Done, PhaseError},
};

/// How often the status is polled until it has the record.
const LOOK: Duration = Duration::from_millis(200);

/// Records how the workers are, scales them to zero and waits until no pod is left.
pub(super) async fn freeze(context: &Context) -> Result<Done, PhaseError> {
    let gates = gates::before_freeze(context).await?;
    context.safe_point()?;
    let namespace = &context.subject.namespace;
    // First the record, committed; then the first write to the cluster.
    let mut work = context.work().await?;
    let known = former_states::frozen(&mut work, &context.key()).await?;
    let now = workers::record(&context.tools.client, namespace, &context.subject.portal.workers, &known).await?;
    let emergency = portal(context).await?.and_then(|portal| portal.status).map(|status| status.frozen_workloads).unwrap_or_default();
    let before = corrected(corrected(now, &emergency), &known);
    former_states::remember_frozen(&mut work, &context.key(), context.subject.release_id, &before).await?;
    work.commit().await?;
    status_has(context, &before).await?;

    context.say(format!("waiting until {} workloads have stopped", before.len()));
    workers::stop(&context.tools.client, namespace, &before).await?;
    let timeout = context.subject.portal.freeze.timeout.get();
    // A timeout is final: the workers come back and a person decides.
    workers::wait_stopped(&context.tools.client, namespace, &context.subject.portal.workers, timeout, &context.control.cancel).await?;
    no_sessions(context, timeout).await?;
    context.work().await?.complete(&format!("{}{gates}", described("stopped", &before))).await
}

/// The Portal as it is at this moment.
async fn portal(context: &Context) -> Result<Option<Portal>, PhaseError> {
    let api: Api<Portal> = Api::namespaced(context.tools.client.clone(), &context.subject.namespace);
    let found = cluster::call(|| api.get_opt(&context.subject.portal_name)).await;
    found.map_err(|error| PhaseError::Failed(format!("Portal {} cannot be read: {error}", context.subject.portal_name)))
}

/// Waits until the status has the record too: the emergency freeze, and an operator that cannot reach the database, go by it.
async fn status_has(context: &Context, before: &[FrozenWorkload]) -> Result<(), PhaseError> {
    let api: Api<PortalRelease> = Api::namespaced(context.tools.client.clone(), &context.subject.namespace);
    let (started, timeout) = (Instant::now(), context.subject.portal.freeze.timeout.get());
    context.say("waiting until the status records the workers' replica counts");
    loop {
        let found = cluster::call(|| api.get_opt(&context.subject.name)).await;
        let found = found.map_err(|error| PhaseError::Failed(format!("the status cannot be read: {error}; no worker was stopped")))?;
        let recorded = found.and_then(|release| release.status).map(|status| status.frozen_workloads).unwrap_or_default();
        if before.iter().all(|workload| recorded.contains(workload)) {
            return Ok(());
        }
        if started.elapsed() > timeout {
            let seconds = timeout.as_secs();
            return Err(PhaseError::Failed(format!("the status could not be written for {seconds}s; no worker was stopped")));
        }
        context.control.progress.moved();
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// No session of the workers' roles may be left: a worker that hangs on to its connection is not gone.
async fn no_sessions(context: &Context, timeout: Duration) -> Result<(), PhaseError> {
    let roles: Vec<&str> = context.subject.portal.freeze.database_roles.iter().map(|role| role.as_str()).collect();
    let started = Instant::now();
    loop {
        let sessions = sessions_of(&mut *context.tools.database.pool().acquire().await?, &roles).await?;
        if sessions.is_empty() {
            return Ok(());
        }
        if started.elapsed() > timeout {
            return Err(PhaseError::Refused(format!(
                "database sessions of the workers are still open after {}s: {}; end them, then raise spec.retry",
                timeout.as_secs(),
                sessions.join(", ")
            )));
        }
        context.say(format!("waiting for database sessions to end: {}", sessions.join(", ")));
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Scales the workers back to the recorded replica counts and waits until they are available.
pub(super) async fn scale(context: &Context) -> Result<Done, PhaseError> {
    let message = restore(context, true).await?;
    let mut work = context.work().await?;
    former_states::forget(&mut work, &context.key(), Purpose::Freeze).await?;
    let done = work.complete(&message).await?;
    let frozen_at = context.subject.run.record(PhaseName::Freeze).and_then(|phase| phase.started_at);
    if let Some(since) = frozen_at {
        let rest = Duration::try_from(jiff::Timestamp::now().duration_since(since)).unwrap_or_default();
        context.tools.services.metrics.workers_frozen(rest);
    }
    Ok(done)
}

/// The run ended before Scale: the workers come back anyway. A failed release does not wait until they are available.
pub(super) async fn undo_freeze(context: &Context) -> Result<Done, PhaseError> {
    let message = restore(context, false).await?;
    // Workers first; then what its gates may have left.
    jobs::halt(context).await?;
    let mut work = context.work().await?;
    former_states::forget(&mut work, &context.key(), Purpose::Freeze).await?;
    work.complete(&message).await
}

async fn restore(context: &Context, wait: bool) -> Result<String, PhaseError> {
    let mut work = context.work().await?;
    let before = former_states::frozen(&mut work, &context.key()).await?;
    work.commit().await?;
    if before.is_empty() {
        return Ok("no worker was stopped".to_owned());
    }
    if context.subject.namespace_terminating {
        return Ok("the namespace is being deleted, and the workers with it".to_owned());
    }
    context.say(format!("restoring {} workloads", before.len()));
    let notes = match workers::thaw(&context.tools.client, &context.subject.namespace, &context.subject.portal_name, &before).await? {
        Thaw::Nothing => Vec::new(),
        // It brings them back later.
        Thaw::Held => return Ok("workers stay stopped: the Portal's frozen is true".to_owned()),
        Thaw::Started(notes) => notes,
    };
    if wait {
        let timeout = context.subject.portal.freeze.timeout.get();
        workers::wait_available(&context.tools.client, &context.subject.namespace, &before, timeout, &context.control.cancel)
            .await
            .map_err(|error| match PhaseError::from(error) {
                PhaseError::Refused(text) => {
                    PhaseError::Refused(format!("{text}; the data is live and the workers are set to their recorded replica counts"))
                }
                error => error,
            })?;
    }
    let mut message = described("back", &before);
    for note in notes {
        message.push_str("; ");
        message.push_str(&note);
    }
    Ok(message)
}

fn described(what: &str, workloads: &[FrozenWorkload]) -> String {
    let list: Vec<String> =
        workloads.iter().map(|workload| format!("{} {} ({})", workload.kind.as_str(), workload.name, workload.replicas)).collect();
    format!("{what}: {}", list.join(", "))
}

/// Whether nothing of the workers runs, for the last check before the swap.
pub(super) async fn still_frozen(context: &Context) -> Result<(), PhaseError> {
    let workers: &[Worker] = &context.subject.portal.workers;
    let remaining = workers::remaining(&context.tools.client, &context.subject.namespace, workers).await?;
    if remaining.is_empty() {
        return Ok(());
    }
    // Another controller has started them: stop them again, and retry the swap.
    let mut work = context.work().await?;
    let before = former_states::frozen(&mut work, &context.key()).await?;
    work.commit().await?;
    workers::stop(&context.tools.client, &context.subject.namespace, &before).await?;
    Err(PhaseError::Failed(format!("workers were started again before the swap; stopping them: {}", remaining.join("; "))))
}
