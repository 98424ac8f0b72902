//! Runs phases as tasks: a reconcile starts them, observes them and returns; they wake it when something has changed.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{PhaseName, PhaseState, ReleaseState},
    cluster::EventType,
    database::{ledger, lock::Fenced},
    notify::Notice,
    phases,
    release::{
        Direction, TaskView,
        phases::{facts, phases as phases_where},
    },
    text::bounded,
    work::{Context, Done, PhaseError, Progress, definition},
};

/// Pause before the undo of a phase is retried.
const UNDO_PAUSE: Duration = Duration::from_secs(2);
/// One running task.
struct Running {
    phase: PhaseName,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    pause: CancellationToken,
    stopping: AtomicBool,
}

/// The tasks of this process, at most one for each release.
#[derive(Clone, Default)]
pub struct Runner {
    stop: CancellationToken,
    tasks: Arc<Mutex<HashMap<String, Arc<Running>>>>,
    tracker: TaskTracker,
}

impl Runner {
    /// What runs for the release with this uid.
    pub fn view(&self, uid: &str) -> Option<TaskView> {
        let running = self.get(uid)?;
        let message = running.progress.message();
        let blocked = running.progress.blocker();
        Some(TaskView { phase: Some(running.phase), message, blocked, stopping: running.stopping.load(Ordering::Relaxed) })
    }

    fn get(&self, uid: &str) -> Option<Arc<Running>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Tells a task to stop: at once, or at its next safe point.
    pub fn stop(&self, uid: &str, now: bool) {
        if let Some(running) = self.get(uid) {
            if now {
                running.stopping.store(true, Ordering::Relaxed);
                running.cancel.cancel();
            }
            running.pause.cancel();
        }
    }

    /// Stops every task and waits for them, at most `limit`. What they did not finish is rolled back.
    pub async fn stop_all(&self, limit: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::warn!("some phases did not stop within {}s; their transactions end with the process", limit.as_secs());
        }
    }

    /// A token that cancels a task, alone or with the process.
    pub fn token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Starts a task, unless one runs for this release already.
    pub fn start(&self, uid: &str, context: Context) {
        let running = Arc::new(Running {
            phase: context.subject.attempt.phase,
            progress: context.control.progress.clone(),
            cancel: context.control.cancel.clone(),
            pause: context.control.pause.clone(),
            stopping: AtomicBool::new(false),
        });
        match self.tasks.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()) {
            Entry::Occupied(_) => return,
            Entry::Vacant(vacant) => vacant.insert(running.clone()),
        };
        let tasks = self.tasks.clone();
        let uid = uid.to_owned();
        self.tracker.spawn(async move {
            let started = Instant::now();
            let mut context = context;
            let cancel = context.control.cancel.clone();
            let pinned = tokio::select! {
                pinned = definition::pin(&mut context) => pinned,
                () = cancel.cancelled() => Err(PhaseError::Cancelled),
            };
            let result = match pinned {
                Ok(()) => supervise(&context).await,
                Err(error) => Err(error),
            };
            conclude(&context, result, started.elapsed()).await;
            tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            running.progress.wake();
        });
    }
}

/// Runs the phase until it ends, is cancelled, or takes too long.
async fn supervise(context: &Context) -> Result<Done, PhaseError> {
    let phase = context.subject.attempt.phase;
    let facts = facts(phase);
    tokio::select! {
        () = context.tools.services.faults.reach(phase, if context.subject.attempt.unwinding { "undo" } else { "begin" }) => {}
        () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
    }
    let work = AssertUnwindSafe(phases::run(context)).catch_unwind();
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        // A swap that has begun checks this itself; everything else is cancelled at once.
        () = cancelled(&context.control.cancel, facts.interruptible) => None,
        () = tokio::time::sleep(facts.timeout) => {
            context.end_backends().await;
            return Err(PhaseError::Failed(format!("{phase} took longer than {}h", facts.timeout.as_secs() / 3600)));
        }
    };
    match ended {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(PhaseError::Failed(format!("internal error in {phase} (panic); please report it with the operator's log"))),
        None => {
            context.end_backends().await;
            Err(PhaseError::Cancelled)
        }
    }
}

async fn cancelled(cancel: &CancellationToken, interruptible: bool) {
    cancel.cancelled().await;
    if !interruptible {
        // It still gets the time of its longest statement; a halt for tests would otherwise never end.
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
}

/// Records how the phase ended, notifies people, and waits a little before a failed phase is retried.
async fn conclude(context: &Context, result: Result<Done, PhaseError>, took: Duration) {
    let (services, attempt, object) = (&context.tools.services, context.subject.attempt, context.subject.object.clone());
    let phase = attempt.phase;
    let label = context.label();
    if result.is_err() && services.term.is_over() {
        // It slept, and its sessions were ended meanwhile: whoever leads now says how the phase goes.
        tracing::warn!(%label, phase = phase.as_str(), "{label}: {phase} is left to the operator that leads now");
        context.tools.database.forget().await;
        return;
    }
    match (result, attempt.unwinding) {
        (Ok(done), false) => {
            tracing::info!(%label, phase = phase.as_str(), took_seconds = took.as_secs_f64(), "{label}: {phase} is done");
            services.metrics.phase_ended(phase, PhaseState::Succeeded, took);
            services.metrics.progressed();
            let detail = done.message().to_owned();
            let reason = if attempt.direction == Direction::Do { facts(phase).done } else { facts(phase).undone };
            services.event(object, EventType::Normal, reason, format!("{phase}: {detail}"));
            services.notify(context.audience(), Notice::PhaseComplete { phase, took, detail });
        }
        (Ok(done), true) => {
            tracing::info!(%label, phase = phase.as_str(), "{label}: {phase} is undone");
            services.event(object, EventType::Normal, facts(phase).undone, format!("the run ended early: {}", done.message()));
        }
        (Err(PhaseError::Cancelled), _) => tracing::info!(%label, phase = phase.as_str(), "{label}: {phase} was stopped"),
        (Err(PhaseError::Paused), _) => {
            tracing::info!(%label, phase = phase.as_str(), "{label}: {phase} stopped at a safe point");
            record(context, &Note::Paused).await;
        }
        (Err(PhaseError::Fenced(error)), _) => {
            tracing::warn!(%label, phase = phase.as_str(), %error, "{label}: {phase}: {error}");
            context.tools.database.forget().await;
        }
        (Err(PhaseError::Stale(why)), false) => {
            tracing::info!(%label, phase = phase.as_str(), why, "{label}: {why}");
            services.event(object, EventType::Normal, "StagingRebuilt", why.clone());
            record(context, &Note::Stale(why)).await;
        }
        (Err(error), false) => {
            let how = match error {
                PhaseError::Refused(_) => Failure::Final,
                PhaseError::Blocked(_) => Failure::Uncounted,
                PhaseError::Stopped(_) => Failure::Ends(ReleaseState::Suspended),
                _ => Failure::Counted,
            };
            let text = bounded(error.to_string(), 2000);
            tracing::warn!(%label, phase = phase.as_str(), attempt = attempt.number, error = text, "{label}: {phase} failed");
            services.metrics.phase_ended(phase, PhaseState::Failed, took);
            services.event(object, EventType::Warning, "PhaseFailed", format!("{phase}: {text}"));
            record(context, &Note::Failed { text, how }).await;
        }
        (Err(error), true) => {
            tracing::warn!(%label, phase = phase.as_str(), %error, "{label}: {phase} could not be undone, retrying");
            context.say(format!("undo failed, retrying: {error}"));
            tokio::select! {
                () = context.control.cancel.cancelled() => {}
                () = tokio::time::sleep(UNDO_PAUSE) => {}
            }
        }
    }
}

/// What a failed attempt means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It is retried, up to a number of attempts.
    Counted,
    /// It is retried without a limit.
    Uncounted,
    /// The release fails.
    Final,
    /// The run ends, and the release is in this state.
    Ends(ReleaseState),
}

/// What the ledger records of an attempt that did not succeed.
enum Note {
    Paused,
    Stale(String),
    Failed { text: String, how: Failure },
}

/// Writes to the ledger what the phase could not write itself. Where the database does not answer, the phase counts as running and
/// is run again once it does.
async fn record(context: &Context, note: &Note) {
    let attempt = context.subject.attempt;
    let write = async {
        let mut tx = context.tools.database.pool().begin().await?;
        if let Some(fence) = &context.control.fence {
            fence.check(&mut tx).await?;
        }
        match note {
            Note::Paused => ledger::phases::pause(&mut tx, attempt).await?,
            Note::Stale(why) => {
                let rebuilt: Vec<PhaseName> = phases_where(|facts| facts.rebuilt).collect();
                ledger::phases::restart(&mut tx, attempt.release, attempt.run, &rebuilt, why, attempt.epoch).await?;
            }
            Note::Failed { text, how } => {
                ledger::phases::fail(&mut tx, attempt, text, *how == Failure::Final, *how != Failure::Uncounted).await?;
                if let Failure::Ends(state) = how {
                    ledger::runs::end(&mut tx, attempt.run, *state, context.subject.spec.retry, text).await?;
                }
            }
        }
        Ok::<_, Fenced>(tx.commit().await?)
    };
    if let Err(error) = write.await {
        tracing::warn!(%error, phase = attempt.phase.as_str(), "the ledger could not be written; the phase will run again: {error}");
        if !matches!(error, Fenced::Database(_)) {
            context.tools.database.forget().await;
        }
    }
}
