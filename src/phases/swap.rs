//! FinaliseSwap: staged and live relations change place in one transaction, together with the ledger's rows. A rollback and a roll
//! forward are the same exchange with other generations.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use super::{Context, Done, PhaseError, Work, freeze, of_database, rollback, rollback::described};
use crate::{
    database::{
        backups, catalog, dependents,
        identifiers::{BackupStamp, Generation, Relations, qualified},
        ledger, run_sql,
        staging::publish_lookup,
        swap::{Horizon, Limits, SwapError, exchange, lock, old_snapshots},
    },
    metrics::LockAttempt,
    release::RunKind,
};

/// What changes place in this run.
struct Places {
    relations: Relations,
    incoming: Generation,
    outgoing: Generation,
}

pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    if !context.portal.workers.is_empty() {
        freeze::still_frozen(context).await?;
    }
    let mut work = context.work().await?;
    let places = places(&mut work, context).await?;
    let origin = ledger::staging::origin(&mut work, context.release).await?;
    work.commit().await?;

    if let Some(horizon) = origin.horizon.as_ref().filter(|_| context.run.kind == RunKind::Release) {
        no_old_snapshots(context, horizon).await?;
    }
    let looked = rollback::look(context, &places.relations, &places.outgoing).await?;
    context.say("waiting for the locks of the swap");
    let limits = Limits {
        budget: context.portal.database.lock_timeout.get(),
        statement: context.portal.database.statement_timeout.get(),
        ..Limits::default()
    };
    let tx = match lock(context.database.pool(), &places.relations, &places.incoming, &limits, &context.cancel).await {
        Ok(tx) => {
            context.services.metrics.swap_lock_attempted(LockAttempt::Acquired);
            tx
        }
        Err(error) => {
            context.services.metrics.swap_lock_attempted(if error.is_busy() { LockAttempt::TimedOut } else { LockAttempt::Failed });
            return Err(swap_error(error));
        }
    };
    let locked = Instant::now();
    let mut work = context.guard(tx).await?;
    if let Some(looked) = &looked {
        rollback::look_again(context, &mut work, &places.relations, looked, &places.outgoing).await?;
    }
    if context.run.kind == RunKind::Release {
        // Under the lock nobody can change the live tables any more.
        let tables = Relations { views: Vec::new(), ..places.relations.clone() };
        let structure = catalog::fingerprint(&mut work, &tables).await.map_err(of_database)?;
        if origin.structure.as_ref() != Some(&structure) {
            return Err(PhaseError::Stale(
                "the structure of the live tables has changed since the staging was built: it is built again".to_owned(),
            ));
        }
        for lookup in &places.relations.lookups {
            publish_lookup(&mut work, &places.relations.schema, lookup).await.map_err(of_database)?;
        }
    }
    let exchanged = exchange(&mut work, &places.relations, &places.incoming, &places.outgoing).await.map_err(swap_error)?;
    let record = ledger::exchange::Exchange {
        portal: context.key(),
        release: context.release,
        kind: context.run.kind,
        incoming: &places.incoming,
        outgoing: &places.outgoing,
        moved: &exchanged.moved,
    };
    ledger::exchange::record_exchange(&mut work, &record).await?;
    let message = format!(
        "{} relations exchanged: {} is live, the former data is in {}",
        places.relations.swapped().count(),
        places.incoming,
        described(&places.outgoing)
    );
    let done = work.complete(&message).await?;
    context.services.metrics.swap_lock_held(locked.elapsed());
    Ok(done)
}

/// Before a rollback or a roll forward freezes anything: is everything there?
pub(super) async fn preflight(context: &Context) -> Result<Done, PhaseError> {
    let mut work = context.work().await?;
    let places = places(&mut work, context).await?;
    super::preflight::refuse_sentences(dependents::obstacles(&mut work, &places.relations, &places.incoming).await?)?;
    for name in places.relations.names(&places.incoming) {
        run_sql(&mut work, format!("SELECT FROM {} LIMIT 1", qualified(&places.relations.schema, &name))).await?;
    }
    // What was prepared is not kept: the swap prepares it again.
    drop(work);
    rollback::preflight(context, &places.relations, &places.incoming, &places.outgoing).await
}

async fn places(work: &mut Work, context: &Context) -> Result<Places, PhaseError> {
    let all = super::views::everything(context);
    let (incoming, outgoing, relations) = match context.run.kind {
        RunKind::Release => {
            if !ledger::staging::owns_staging(work, &context.key(), context.release).await? {
                return Err(PhaseError::Stale("the staging belongs to another release by now: it is built again".to_owned()));
            }
            (Generation::Staging, new_backup(work, context).await?, context.relations())
        }
        RunKind::Rollback => {
            let stamp = rollback_stamp(work, context, &all).await?;
            // The data goes to staging, unless a validated dry run is kept there.
            let free = ledger::staging::staging_is_free(work, &context.key(), context.release).await?
                && ledger::staging::foreign_staging(work, &context.key(), &all).await?.is_empty();
            let outgoing = if free {
                super::views::drop_staging(work, context, &all).await?;
                Generation::Staging
            } else {
                new_backup(work, context).await?
            };
            (Generation::Backup(stamp), outgoing, all)
        }
        RunKind::RollForward => {
            let parked = context.parked.as_deref().unwrap_or("staging");
            let incoming = if parked == "staging" { Generation::Staging } else { Generation::Backup(stamp(parked)?) };
            (incoming, new_backup(work, context).await?, all)
        }
    };
    let relations = ledger::staging::present(work, relations, &incoming).await?;
    Ok(Places { relations, incoming, outgoing })
}

/// A snapshot from before the staged tables were complete would see them empty under the live names (a pg_dump, say): waits for such
/// transactions within the budget of the locks.
async fn no_old_snapshots(context: &Context, horizon: &Horizon) -> Result<(), PhaseError> {
    let started = Instant::now();
    let budget = context.portal.database.lock_timeout.get();
    loop {
        let old = old_snapshots(&mut *context.database.pool().acquire().await?, horizon).await.map_err(of_database)?;
        let Some(first) = old.first() else { return Ok(()) };
        let who = format!("{first}{}", if old.len() > 1 { format!(" and {} more", old.len() - 1) } else { String::new() });
        if started.elapsed() > budget {
            return Err(PhaseError::Refused(format!(
                "a transaction that began before the staging was complete would see empty tables after the swap: {who}; end it or wait for it, then raise retry"
            )));
        }
        context.say(format!("waiting for an old transaction to end: {who}"));
        tokio::select! {
            () = context.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

/// A name for what is live now.
async fn new_backup(work: &mut Work, context: &Context) -> Result<Generation, PhaseError> {
    let used = ledger::exchange::backup_stamps(work, &context.key()).await?.iter().filter_map(|stamp| stamp.parse().ok()).collect();
    let schema = context.portal.database.schema.as_str();
    let stamp = backups::free_stamp(work, schema, jiff::Timestamp::now(), &used).await.map_err(of_database)?;
    Ok(Generation::Backup(stamp))
}

fn stamp(text: &str) -> Result<BackupStamp, PhaseError> {
    BackupStamp::from_str(text).map_err(|error| PhaseError::Refused(error.to_string()))
}

/// The backup that the rollback restores: the one that this release's swap made, or the one that is named.
async fn rollback_stamp(work: &mut Work, context: &Context, relations: &Relations) -> Result<BackupStamp, PhaseError> {
    let there = backups::list(work, relations).await.map_err(of_database)?;
    let wanted = match context.run.target.as_deref() {
        Some("Previous") | None => match &context.backup {
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
        None => Err(PhaseError::Refused(format!("there is no backup {wanted}; there are: {}; correct spec.rollback.to", list()))),
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

fn swap_error(error: SwapError) -> PhaseError {
    match error {
        SwapError::Cancelled => PhaseError::Cancelled,
        // The budget for the locks is used up: the staging is kept, the workers come back, and a person decides.
        error @ SwapError::Blocked { .. } => PhaseError::Refused(error.to_string()),
        error if error.is_busy() => PhaseError::Failed(error.to_string()),
        error => of_database(error),
    }
}
