//! CleanupAndRetention and ResetCheckpoints.

use super::{Context, Done, PhaseError, of_database};
use crate::database::{backups, identifiers::Generation, ledger, staging::drop_all};

/// Keeps the newest backups and drops the others, never anything that something else stands on. What is left of the staging
/// (look-up copies, staged twins of views that the release did not swap) goes too.
pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let keep = context.spec.retention.keep_backups.unwrap_or(context.portal.defaults.keep_backups);
    let relations = super::views::everything(context);
    let mut work = context.work().await?;
    let there = backups::list(&mut work, &relations).await.map_err(of_database)?;
    let parked = ledger::exchange::parked_stamps(&mut work, &context.key()).await?;
    let old: Vec<_> =
        there.iter().filter(|backup| !parked.contains(&backup.stamp.to_string())).skip(usize::try_from(keep).unwrap_or(0)).collect();
    for backup in &old {
        context.say(format!("dropping backup {}", backup.stamp));
        backups::drop(&mut work, &relations, backup.stamp).await.map_err(of_database)?;
        ledger::exchange::backup_gone(&mut work, &context.key(), &backup.stamp.to_string(), &format!("retention: {keep} kept")).await?;
    }
    if ledger::staging::owns_staging(&mut work, &context.key(), context.release).await? {
        drop_all(&mut work, &relations).await.map_err(of_database)?;
        ledger::staging::own_staging(&mut work, &context.key(), None).await?;
    }
    let kept = there.len().saturating_sub(old.len());
    let names: Vec<String> = old.iter().map(|backup| Generation::Backup(backup.stamp).prefix()).collect();
    let dropped = if names.is_empty() { "none dropped".to_owned() } else { format!("dropped {}", names.join(", ")) };
    work.complete(&format!("{kept} backups kept, {dropped}")).await
}

/// Forgets the release's import checkpoints.
pub(super) async fn reset_checkpoints(context: &Context) -> Result<Done, PhaseError> {
    // The lock is released by now; what is deleted belongs to this release alone.
    let mut tx = context.database.pool().begin().await?;
    let count = ledger::imports::reset_checkpoints(&mut tx, context.release).await?;
    context.complete_unlocked(tx, &format!("{count} checkpoints deleted")).await
}
