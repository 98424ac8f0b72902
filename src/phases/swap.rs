//! FinaliseSwap: staged and live relations change place in one transaction, together with the ledger's rows and the downloads view.
//! A rollback and a roll forward are the same exchange with other generations.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{data_loss, data_loss::described, downloads, freeze};
use crate::{
    api::{OnLockTimeout, Standbys},
    cluster::EventType,
    database::{
        backups, catalog, dependents,
        identifiers::{BackupStamp, Generation, Relations, qualified},
        ledger::{self, exchange::Exchange, staging::StagingOrigin},
        run_sql,
        swap::{self, CancelBlockers, FailedAttempt, Hooks, Horizon, Limits, SwapError, SwapPlan, SwapRequest, old_snapshots, standbys},
    },
    metrics::LockAttempt,
    release::Incoming,
    text::counted,
    work::{Context, Done, PhaseError, Work, refuse},
};

/// How far a standby may be behind when the swap begins: one segment of WAL.
const STANDBY_LAG: i64 = 16 * 1024 * 1024;
/// A younger transaction ends before a person could do anything about it.
const WORTH_REPORTING: Duration = Duration::from_secs(1);
/// At most one event about blockers in this time.
const EVENT_INTERVAL: Duration = Duration::from_secs(5);

/// The generations that change place in this run.
struct Generations {
    relations: Relations,
    incoming: Generation,
    outgoing: Generation,
    downloads: downloads::Change,
}

/// Makes the staging live, or what a rollback has parked.
pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    exchange(context).await
}

/// Restores a backup: what is live goes to the staging, or becomes a backup where the staging is kept for another release.
pub(super) async fn undo(context: &Context) -> Result<Done, PhaseError> {
    exchange(context).await
}

async fn exchange(context: &Context) -> Result<Done, PhaseError> {
    if !context.subject.portal.workers.is_empty() {
        freeze::still_frozen(context).await?;
    }
    let mut work = context.work().await?;
    let generations = generations(&mut work, context).await?;
    let origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
    work.commit().await?;
    wait_for_old_readers(context, &origin).await?;

    let counted_before = data_loss::count_writes(context, &generations.relations, &generations.outgoing).await?;
    context.say("waiting for the swap's locks");
    let database = &context.subject.portal.database;
    let request = SwapRequest {
        relations: &generations.relations,
        incoming: &generations.incoming,
        outgoing: &generations.outgoing,
        finally: &generations.downloads.statements,
        limits: Limits { budget: database.lock_timeout.get(), statement: database.statement_timeout.get(), ..Limits::default() },
        cancel_blockers: CancelBlockers {
            roles: database.cancel_blockers.roles.iter().map(|role| role.0.clone()).collect(),
            after: database.cancel_blockers.after.get(),
        },
    };
    let hooks = SwapHooks { context, generations: &generations, origin: &origin, last_event: Mutex::new(None) };
    let (mut work, exchanged) = match swap::exchange(context.tools.database.pool(), &request, &hooks, &context.control.cancel).await {
        Ok(done) => done,
        Err(SwapFailure::Phase(error)) => return Err(error),
        Err(SwapFailure::Swap(error)) => {
            // Attempts that backed off are counted where they did.
            if !error.is_busy() {
                context.tools.services.metrics.swap_lock_attempted(LockAttempt::Failed);
            }
            return Err(swap_error(context, error));
        }
    };
    context.tools.services.metrics.swap_lock_attempted(LockAttempt::Acquired);
    if let Some(counted_before) = &counted_before {
        data_loss::recount(context, &mut work, counted_before, &generations.outgoing).await?;
    }
    let message = format!(
        "{} relations swapped: {} is live, the former data is in {}",
        generations.relations.swapped().count(),
        generations.incoming,
        described(&generations.outgoing)
    );
    let done = work.complete(&message).await?;
    context.tools.services.metrics.swap_lock_held(exchanged.locked.elapsed());
    Ok(done)
}

/// The swap's transaction: fenced, and with the ledger's rows in it.
struct SwapHooks<'a> {
    context: &'a Context,
    generations: &'a Generations,
    origin: &'a StagingOrigin,
    /// When the last event about blockers was written.
    last_event: Mutex<Option<Instant>>,
}

/// Why a swap ended.
enum SwapFailure {
    Phase(PhaseError),
    Swap(SwapError),
}

impl From<SwapError> for SwapFailure {
    fn from(error: SwapError) -> Self {
        Self::Swap(error)
    }
}

impl From<PhaseError> for SwapFailure {
    fn from(error: PhaseError) -> Self {
        Self::Phase(error)
    }
}

impl Hooks for SwapHooks<'_> {
    type Tx = Work;
    type Error = SwapFailure;

    async fn begin(&self, plan: &SwapPlan) -> Result<Work, SwapFailure> {
        let Self { context, generations, .. } = self;
        let mut work = context.work().await?;
        if context.subject.run.builds() {
            // The plan's version covers this check until the locks are held: a change after it makes a new plan.
            same_structure(&mut work, context, self.origin).await?;
        }
        let record = Exchange {
            portal: context.key(),
            release: context.subject.release_id,
            source: context.subject.run.incoming(),
            incoming: &generations.incoming,
            outgoing: &generations.outgoing,
            phase: context.subject.attempt.phase.as_str(),
            moved: &plan.moved,
        };
        ledger::exchange::record_exchange(&mut work, &record).await.map_err(PhaseError::from)?;
        downloads::record(&mut work, context, &generations.outgoing, &generations.downloads).await?;
        Ok(work)
    }

    fn attempt_failed(&self, attempt: &FailedAttempt<'_>) {
        let Self { context, .. } = self;
        let services = &context.tools.services;
        services.metrics.swap_lock_attempted(LockAttempt::TimedOut);
        for sent in attempt.cancelled {
            let note = format!("the swap has {sent}: database.cancelBlockers of the Portal allows it");
            tracing::warn!(label = %context.label(), pid = sent.pid, "{}: {note}", context.label());
            services.event(context.subject.object.clone(), EventType::Warning, "BlockerCancelled", note);
        }
        let Some(longest) = attempt.blockers.iter().max_by_key(|blocker| blocker.seconds) else { return };
        // What other roles do is hidden without pg_read_all_stats; then the time that the swap itself has waited decides.
        let open = longest.seconds.map_or(attempt.waited, |seconds| Duration::from_secs(seconds.unsigned_abs()));
        if open < WORTH_REPORTING {
            return;
        }
        let others = attempt.blockers.len() - 1;
        let more = if others == 0 { String::new() } else { format!(" and {others} more") };
        let who = format!("{longest}{more}");
        context.control.progress.blocked(format!("attempt {} was blocked by {who}", attempt.attempts));
        let mut last_event = self.last_event.lock().unwrap_or_else(PoisonError::into_inner);
        if last_event.is_none_or(|at| at.elapsed() >= EVENT_INTERVAL) {
            *last_event = Some(Instant::now());
            let note = format!("the swap is blocked by {who}; nothing is locked meanwhile; end that session, or wait for it");
            services.event(context.subject.object.clone(), EventType::Warning, "SwapBlocked", note);
        }
    }
}

/// The live tables are as they were when the staging was built, and the staging is a copy of them.
async fn same_structure(work: &mut Work, context: &Context, origin: &StagingOrigin) -> Result<(), PhaseError> {
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let structure = catalog::fingerprint(work, &tables).await?;
    if origin.structure.as_ref() != Some(&structure) {
        return Err(PhaseError::Stale(
            "the structure of the live tables has changed since the staging was built; rebuilding the staging".to_owned(),
        ));
    }
    let differences = catalog::diff(work, &context.relations(), &Generation::Staging).await?;
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(PhaseError::Stale(format!(
            "the staging differs from the live relations in {} ({first}); rebuilding the staging",
            counted(differences.len(), "detail")
        ))),
    }
}

/// Before a rollback or a roll forward freezes anything: is everything there?
pub(super) async fn preflight(context: &Context) -> Result<Done, PhaseError> {
    let mut work = context.work().await?;
    let generations = generations(&mut work, context).await?;
    refuse(dependents::obstacles(&mut work, &generations.relations, &generations.incoming).await?)?;
    for name in generations.relations.names(&generations.incoming) {
        run_sql(&mut work, format!("SELECT FROM {} LIMIT 1", qualified(&generations.relations.schema, &name))).await?;
    }
    // What was prepared is not kept: the swap prepares it again.
    drop(work);
    data_loss::preflight(context, &generations.relations, &generations.incoming, &generations.outgoing).await
}

async fn generations(work: &mut Work, context: &Context) -> Result<Generations, PhaseError> {
    let all = context.all_relations();
    let (incoming, outgoing, relations) = match context.subject.run.incoming() {
        Incoming::Staging => {
            if !ledger::staging::owns_staging(work, &context.key(), context.subject.release_id).await? {
                return Err(PhaseError::Stale("another release has replaced the staging tables; rebuilding them".to_owned()));
            }
            (Generation::Staging, new_backup(work, context).await?, context.relations())
        }
        Incoming::Backup => {
            let stamp = rollback_stamp(work, context, &all).await?;
            // The data goes to staging, unless a validated dry run is kept there.
            let free = ledger::staging::staging_is_free(work, &context.key(), context.subject.release_id).await?
                && ledger::staging::foreign_staging(work, &context.key(), &all).await?.is_empty();
            let outgoing = if free {
                super::views::drop_staging(work, context, &all).await?;
                Generation::Staging
            } else {
                new_backup(work, context).await?
            };
            (Generation::Backup(stamp), outgoing, all)
        }
        Incoming::Parked => {
            let parked = context.subject.parked.as_deref().unwrap_or("staging");
            let incoming = if parked == "staging" { Generation::Staging } else { Generation::Backup(stamp(parked)?) };
            (incoming, new_backup(work, context).await?, all)
        }
    };
    let relations = ledger::staging::present(work, relations, &incoming).await?;
    let downloads = downloads::change(work, context, &incoming).await?;
    Ok(Generations { relations, incoming, outgoing, downloads })
}

/// Waits, within the budget of the locks, for whoever would see something that is neither the old release nor the new one: a snapshot
/// from before the staged tables were complete finds them empty under the live names (a pg_dump, say), and a standby that is behind
/// shows its readers the swap at another time.
async fn wait_for_old_readers(context: &Context, origin: &StagingOrigin) -> Result<(), PhaseError> {
    let started = Instant::now();
    let database = &context.subject.portal.database;
    loop {
        let mut blocking = Vec::new();
        if let Some(horizon) = origin.horizon.as_ref().filter(|_| context.subject.run.builds()) {
            blocking.extend(old_transactions(context, horizon).await?);
        }
        if database.standbys == Standbys::Wait {
            let late = standbys(context.tools.database.pool()).await?;
            blocking.extend(
                late.iter()
                    .filter(|standby| standby.behind.is_none_or(|bytes| bytes > STANDBY_LAG))
                    .map(|standby| format!("{standby}; wait for it, or set database.standbys of the Portal to Ignore")),
            );
        }
        let Some(first) = blocking.first() else { return Ok(()) };
        let more = if blocking.len() > 1 { format!(" (and {} more)", blocking.len() - 1) } else { String::new() };
        if started.elapsed() > database.lock_timeout.get() {
            return Err(at_the_deadline(context, format!("{first}{more}")));
        }
        context.control.progress.blocked(format!("{first}{more}"));
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

async fn old_transactions(context: &Context, horizon: &Horizon) -> Result<Vec<String>, PhaseError> {
    let old = old_snapshots(&mut *context.tools.database.pool().acquire().await?, horizon).await?;
    let sentence = |who| {
        format!(
            "a transaction that began before the staging was complete would see empty tables after the swap: {who}; end it or wait for it"
        )
    };
    Ok(old.iter().map(sentence).collect())
}

/// The time for waiting is used up. The staging is kept; the Portal decides whether the release is suspended or keeps trying.
fn at_the_deadline(context: &Context, why: String) -> PhaseError {
    match context.subject.portal.database.on_lock_timeout {
        OnLockTimeout::Suspend => {
            PhaseError::Stopped(format!("{why}; the staging is kept and the workers are restored; raise spec.retry to swap"))
        }
        OnLockTimeout::KeepTrying => PhaseError::Blocked(format!("{why}; database.onLockTimeout is KeepTrying; abort the release to stop")),
    }
}

/// A name for what is live now.
async fn new_backup(work: &mut Work, context: &Context) -> Result<Generation, PhaseError> {
    let used = ledger::exchange::backup_stamps(work, &context.key()).await?.iter().filter_map(|stamp| stamp.parse().ok()).collect();
    let schema = context.subject.portal.database.schema.as_str();
    let stamp = backups::free_stamp(work, schema, jiff::Timestamp::now(), &used).await?;
    Ok(Generation::Backup(stamp))
}

fn stamp(text: &str) -> Result<BackupStamp, PhaseError> {
    Ok(BackupStamp::from_str(text)?)
}

/// The backup that the rollback restores: the one that this release's swap made, or the one that is named.
async fn rollback_stamp(work: &mut Work, context: &Context, relations: &Relations) -> Result<BackupStamp, PhaseError> {
    let there = backups::list(work, relations).await?;
    let wanted = match context.subject.run.target.as_deref() {
        Some("Previous") | None => match &context.subject.backup {
            Some(own) => stamp(own)?,
            None => match there.first() {
                Some(newest) => newest.stamp,
                None => return Err(PhaseError::Refused("there is no backup to roll back to; remove spec.rollback".to_owned())),
            },
        },
        Some(named) => stamp(named)?,
    };
    let list = || there.iter().map(|backup| backup.stamp.to_string()).collect::<Vec<_>>().join(", ");
    match there.iter().find(|backup| backup.stamp == wanted) {
        None => Err(PhaseError::Refused(format!("there is no backup {wanted}; existing: {}; correct spec.rollback.to", list()))),
        Some(backup) if backup.tables.len() < relations.tables.len() => {
            let missing: Vec<&str> = relations.tables.iter().filter(|table| !backup.tables.contains(table)).map(String::as_str).collect();
            Err(PhaseError::Refused(format!(
                "backup {wanted} lacks {}; it cannot be restored as a whole; choose one of {}",
                missing.join(", "),
                list()
            )))
        }
        Some(backup) => Ok(backup.stamp),
    }
}

fn swap_error(context: &Context, error: SwapError) -> PhaseError {
    match error {
        SwapError::Cancelled => PhaseError::Cancelled,
        error @ SwapError::Blocked { .. } => at_the_deadline(context, error.to_string()),
        error if error.is_busy() => PhaseError::Failed(error.to_string()),
        error => error.into(),
    }
}
