//! Freezing and thawing workloads: pure effects, no policy.
//!
//! Deployments and StatefulSets are read and written through their `scale` subresource only, CronJobs through
//! `spec.suspend`. So the operator needs `get` and `patch` on `deployments/scale`, `statefulsets/scale` and `cronjobs`,
//! and `list` on `jobs` and `pods`; it can change nothing else about a workload.

mod thaw;
mod workload;

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::thaw::{Thaw, thaw};
use self::workload::Workload;
use super::CallError;
use crate::{
    api::{FrozenWorkload, Worker},
    classify::Classify,
};

/// How many workloads are handled at the same time.
const PARALLEL: usize = 8;
/// First and longest pause between two polls of the workloads.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// For how long nothing may run before the workers count as stopped: a controller may still be creating a pod.
const SETTLE: Duration = Duration::from_secs(1);

/// Why workers could not be stopped or started.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A workload does not exist.
    #[error("{workload} does not exist; create it or remove it from the Portal's workers")]
    Missing {
        /// Kind, namespace and name.
        workload: String,
    },
    /// A request failed.
    #[error("cannot {action} {workload}: {cause}; {}", .cause.next_step())]
    Call {
        /// A verb, such as `scale`.
        action: &'static str,
        /// Kind, namespace and name.
        workload: String,
        /// Why.
        cause: CallError,
    },
    /// Something still runs at the end of the time.
    #[error("workers did not stop within {seconds}s: {remaining}; stop it or raise freeze.timeout, then retry")]
    NotStopped {
        /// The time they had, in seconds.
        seconds: u64,
        /// Sentences about what runs.
        remaining: String,
    },
    /// Something is not ready at the end of the time.
    #[error("workers were not restored within {seconds}s: {missing}; check their pods, or raise freeze.timeout, then retry")]
    NotAvailable {
        /// The time they had, in seconds.
        seconds: u64,
        /// Sentences about what is missing.
        missing: String,
    },
    /// The emergency freeze is to keep workers stopped, and does not have the numbers of all of them.
    #[error("frozen of Portal {portal} is true, and its status does not have the replica counts of all workers yet; it will be retried")]
    NotHeld {
        /// Its name.
        portal: String,
    },
    /// Several workloads failed, each for its own reason. The others were handled.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(". "))]
    Several(Vec<WorkerError>),
    /// The caller gave up.
    #[error("waiting for the workers was cancelled; nothing was undone")]
    Cancelled,
}

impl WorkerError {
    /// The same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Call { cause, .. } => cause.is_transient(),
            Self::Several(errors) => errors.iter().any(Self::is_transient),
            Self::NotHeld { .. } => true,
            Self::Missing { .. } | Self::NotStopped { .. } | Self::NotAvailable { .. } | Self::Cancelled => false,
        }
    }

    fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }
}

/// How the workers are now. A workload in `known` is taken from there: its present state may be a zero that we caused.
/// Call it, and store its result, before [`stop`].
///
/// # Errors
/// When a workload does not exist or cannot be read.
pub async fn record(
    client: &Client,
    namespace: &str,
    workers: &[Worker],
    known: &[FrozenWorkload],
) -> Result<Vec<FrozenWorkload>, WorkerError> {
    let mut frozen = Vec::with_capacity(workers.len());
    for worker in workers {
        if let Some(before) = known.iter().find(|before| before.kind == worker.kind && before.name == worker.name.0) {
            frozen.push(before.clone());
            continue;
        }
        let replicas = Workload::of(client, namespace, worker).size().await?.wanted;
        frozen.push(FrozenWorkload { kind: worker.kind, name: worker.name.0.clone(), replicas });
    }
    Ok(frozen)
}

/// Scales the workloads to zero and suspends CronJobs. Does not wait. All are tried, also when one fails; doing it again
/// changes nothing.
///
/// # Errors
/// When a workload does not exist or cannot be changed.
pub async fn stop(client: &Client, namespace: &str, frozen: &[FrozenWorkload]) -> Result<(), WorkerError> {
    let stops = frozen.iter().map(|before| {
        let workload = Workload::of_frozen(client, namespace, before);
        async move { workload.set(0).await.err() }
    });
    WorkerError::all(in_batches(stops.collect()).await.into_iter().flatten().collect())
}

/// Brings the workloads back to exactly what was recorded; CronJobs resume only when they were active. Does not wait. All
/// are tried, also when one fails; doing it again changes nothing. Gives a sentence about each workload that no longer
/// exists.
///
/// # Errors
/// When a workload cannot be changed.
pub async fn start(client: &Client, namespace: &str, frozen: &[FrozenWorkload]) -> Result<Vec<String>, WorkerError> {
    let starts = frozen.iter().filter(|before| before.replicas > 0).map(|before| {
        let workload = Workload::of_frozen(client, namespace, before);
        async move { workload.set(before.replicas).await }
    });
    let (mut notes, mut errors) = (Vec::new(), Vec::new());
    for result in in_batches(starts.collect()).await {
        match result {
            Ok(()) => {}
            Err(WorkerError::Missing { workload }) => notes.push(format!("{workload} no longer exists and was not started")),
            Err(error) => errors.push(error),
        }
    }
    WorkerError::all(errors).map(|()| notes)
}

/// One sentence about each thing that still runs or may start again: workloads not set to zero, their pods (terminating
/// ones too, finished ones not), CronJobs not suspended, their unfinished Jobs and the pods of those.
///
/// # Errors
/// When a workload does not exist or something cannot be read.
pub async fn remaining(client: &Client, namespace: &str, workers: &[Worker]) -> Result<Vec<String>, WorkerError> {
    let checks = workers.iter().map(|worker| {
        let workload = Workload::of(client, namespace, worker);
        async move { workload.observe().await.map(|seen| seen.remaining(&workload)) }
    });
    let remaining = in_batches(checks.collect()).await;
    Ok(remaining.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// Waits until nothing of the workers runs and that has held for a second. A workload that someone else scales up again
/// meanwhile is set back to zero at each poll, and the error says so.
///
/// # Errors
/// At the timeout, with what remains; when a workload does not exist or the operator lacks a permission; when cancelled.
/// While the API server cannot be reached, it keeps waiting.
pub async fn wait_stopped(
    client: &Client,
    namespace: &str,
    workers: &[Worker],
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<(), WorkerError> {
    let mut stopped = Stopped { client, namespace, workers, woken: BTreeMap::new(), quiet_since: None };
    let waited = poll(timeout, cancel, &mut stopped).await?;
    waited.map_err(|remaining| WorkerError::NotStopped { seconds: timeout.as_secs(), remaining })
}

/// The wait for workers to stop.
struct Stopped<'a> {
    client: &'a Client,
    namespace: &'a str,
    workers: &'a [Worker],
    /// By workload: what it was last woken to, and how often.
    woken: BTreeMap<String, (i32, u32)>,
    quiet_since: Option<Instant>,
}

impl Poll for Stopped<'_> {
    async fn check(&mut self) -> Result<(bool, Vec<String>), WorkerError> {
        let mut sentences = remaining_or_unknown(remaining(self.client, self.namespace, self.workers).await)?;
        for worker in self.workers {
            let workload = Workload::of(self.client, self.namespace, worker);
            match workload.size().await {
                Ok(size) if size.wanted != 0 => {
                    let entry = self.woken.entry(workload.to_string()).or_default();
                    *entry = (size.wanted, entry.1 + 1);
                    sentences.extend(remaining_or_unknown(workload.set(0).await.map(|()| Vec::new()))?);
                }
                result => sentences.extend(remaining_or_unknown(result.map(|_| Vec::new()))?),
            }
        }
        if sentences.is_empty() {
            let since = *self.quiet_since.get_or_insert_with(Instant::now);
            return Ok((since.elapsed() >= SETTLE, sentences));
        }
        self.quiet_since = None;
        sentences.extend(self.woken.iter().map(|(workload, (wanted, times))| {
            format!("{workload} was scaled up by another controller {times} times, last to {wanted}, and set back to zero")
        }));
        Ok((false, sentences))
    }
}

/// Waits until the workloads have as many ready pods as recorded, or as many as they are set to by now when that is less
/// but not zero (an autoscaler may own them again), and CronJobs that were active are so again.
///
/// # Errors
/// At the timeout, with what is missing; when the operator lacks a permission; when cancelled. A workload that no longer
/// exists counts as available. While the API server cannot be reached, it keeps waiting.
pub async fn wait_available(
    client: &Client,
    namespace: &str,
    frozen: &[FrozenWorkload],
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<(), WorkerError> {
    let mut available = Available { client, namespace, frozen };
    let waited = poll(timeout, cancel, &mut available).await?;
    waited.map_err(|missing| WorkerError::NotAvailable { seconds: timeout.as_secs(), missing })
}

/// The wait for workers to become available.
struct Available<'a> {
    client: &'a Client,
    namespace: &'a str,
    frozen: &'a [FrozenWorkload],
}

impl Poll for Available<'_> {
    async fn check(&mut self) -> Result<(bool, Vec<String>), WorkerError> {
        let mut sentences = Vec::new();
        for before in self.frozen.iter().filter(|before| before.replicas > 0) {
            let workload = Workload::of_frozen(self.client, self.namespace, before);
            let missing = match workload.observe().await {
                Ok(seen) => Ok(seen.missing(&workload, before.replicas).into_iter().collect()),
                Err(WorkerError::Missing { .. }) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            sentences.extend(remaining_or_unknown(missing)?);
        }
        Ok((sentences.is_empty(), sentences))
    }
}

/// A condition to wait for.
trait Poll {
    /// Whether it is met, and sentences about what is missing.
    fn check(&mut self) -> impl Future<Output = Result<(bool, Vec<String>), WorkerError>> + Send;
}

/// Polls until the condition is met. The inner error has the sentences of the last poll.
async fn poll(timeout: Duration, cancel: &CancellationToken, state: &mut impl Poll) -> Result<Result<(), String>, WorkerError> {
    let deadline = Instant::now() + timeout;
    let mut last = vec!["the API server did not answer in that time".to_owned()];
    let mut pause = PAUSES.0;
    let polling = async {
        loop {
            match state.check().await? {
                (true, _) => return Ok(()),
                (false, sentences) => last = sentences,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(WorkerError::Cancelled),
        ended = tokio::time::timeout_at(deadline, polling) => ended,
    };
    match ended {
        Ok(result) => result.map(Ok),
        Err(_) => Ok(Err(if last.is_empty() { "it has only just stopped".to_owned() } else { last.join("; ") })),
    }
}

/// Awaits the futures, a few at a time, and returns their results in order.
async fn in_batches<F: Future>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut results = Vec::with_capacity(futures.len());
    while !futures.is_empty() {
        let batch = futures.drain(..futures.len().min(PARALLEL));
        results.extend(join_all(batch).await);
    }
    results
}

/// Turns a transient failure into a sentence, so that a waiting loop continues.
fn remaining_or_unknown(result: Result<Vec<String>, WorkerError>) -> Result<Vec<String>, WorkerError> {
    match result {
        Err(error) if error.is_transient() => Ok(vec![error.to_string()]),
        other => other,
    }
}

/// How workloads are, except where a record says how they were before somebody stopped them: a zero that is ours is never taken for
/// theirs. Whoever stops workloads writes its record first, so a record that is read after the present numbers tells every such zero.
pub fn corrected(now: Vec<FrozenWorkload>, recorded: &[FrozenWorkload]) -> Vec<FrozenWorkload> {
    let before = |workload: FrozenWorkload| {
        recorded.iter().find(|other| other.kind == workload.kind && other.name == workload.name).cloned().unwrap_or(workload)
    };
    now.into_iter().map(before).collect()
}
