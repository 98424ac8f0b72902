//! CleanupAndRetention and ResetCheckpoints.

use std::time::{Duration, Instant};

use crate::{
    cluster::EventType,
    database::{
        backups::{self, BackupError},
        identifiers::{BackupStamp, Generation, Relations},
        ledger, run_sql,
        staging::{StagingError, drop_all},
    },
    jobs,
    text::counted,
    work::{Context, Done, PhaseError},
};

/// Dropping a table locks the tables that its foreign keys reference, and readers of these wait behind it: so it waits no longer than
/// this for a lock, and tries again.
const LIMITS: &str = "SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '10s'";
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Keeps the newest backups and drops the others, never anything that another object depends on. What is left of the staging
/// (look-up copies, staged twins of views that the release did not swap) goes too.
///
/// A backup that cannot be dropped is kept and named; the release is live and does not fail for it. The next release tries again.
pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let keep = context.subject.spec.retention.keep_backups.unwrap_or(context.subject.portal.defaults.keep_backups);
    let relations = context.all_relations();
    let mut work = context.work().await?;
    let there = backups::list(&mut work, &relations).await?;
    let parked = ledger::exchange::parked_stamps(&mut work, &context.key()).await?;
    work.commit().await?;
    let old: Vec<BackupStamp> = there
        .iter()
        .map(|backup| backup.stamp)
        .filter(|stamp| !parked.contains(&stamp.to_string()))
        .skip(usize::try_from(keep).unwrap_or(0))
        .collect();
    let (mut dropped, mut held) = (Vec::new(), Vec::new());
    for stamp in old {
        let name = Generation::Backup(stamp).prefix();
        context.say(format!("dropping backup {stamp}"));
        match drop_backup(context, &relations, stamp, keep).await? {
            None => dropped.push(name),
            Some(why) => held.push(format!("backup {name} was not dropped (keepBackups is {keep}): {why}")),
        }
    }
    let kept = there.len() - dropped.len();
    let mut message = format!(
        "{} kept, {}",
        counted(kept, "backup"),
        if dropped.is_empty() { "none dropped".to_owned() } else { format!("dropped {}", dropped.join(", ")) }
    );
    for sentence in held {
        context.tools.services.event(context.subject.object.clone(), EventType::Warning, "BackupHeld", sentence.clone());
        message.push_str(&format!("; {sentence}"));
    }
    // They go with the release's object at the latest.
    if let Err(error) = jobs::stop_all(context).await {
        tracing::warn!(label = %context.label(), %error, "{}: Jobs that failed are left: {error}", context.label());
    }
    let mut work = context.work().await?;
    if ledger::staging::owns_staging(&mut work, &context.key(), context.subject.release_id).await? {
        drop_all(&mut work, &relations).await?;
        ledger::staging::own_staging(&mut work, &context.key(), None).await?;
    }
    work.complete(&message).await
}

/// Drops one backup, in its own transaction. Returns what prevents it.
async fn drop_backup(context: &Context, relations: &Relations, stamp: BackupStamp, keep: i32) -> Result<Option<String>, PhaseError> {
    let started = Instant::now();
    loop {
        let mut work = context.work().await?;
        run_sql(&mut work, LIMITS.to_owned()).await?;
        match backups::drop(&mut work, relations, stamp).await {
            Ok(()) => {
                ledger::exchange::backup_gone(&mut work, &context.key(), &stamp.to_string(), &format!("retention: {keep} kept")).await?;
                work.commit().await?;
                return Ok(None);
            }
            Err(BackupError::Drop(StagingError::InUse { dependents, .. })) => {
                return Ok(Some(format!("{dependents}; drop or change what depends on it, and the next release drops it")));
            }
            Err(error) if error.is_busy() => {
                work.rollback().await?;
                if started.elapsed() > context.subject.portal.database.lock_timeout.get() {
                    let who = backups::blockers(&mut *context.tools.database.pool().acquire().await?, relations, stamp).await?;
                    let who =
                        if who.is_empty() { "sessions that ended before they could be identified".to_owned() } else { who.join(", ") };
                    return Ok(Some(format!("it is in use by {who}; the next release drops it")));
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Forgets the release's import checkpoints.
pub(super) async fn reset_checkpoints(context: &Context) -> Result<Done, PhaseError> {
    let mut work = context.work().await?;
    let count = ledger::imports::reset_checkpoints(&mut work, context.subject.release_id).await?;
    work.complete(&format!("{} deleted", counted(usize::try_from(count).unwrap_or(usize::MAX), "checkpoint"))).await
}
