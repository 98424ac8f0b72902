//! The backups in a Portal's status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{BackupStatus, LISTED_BACKUPS, PortalSpec},
    database::{
        identifiers::{BackupStamp, Relations},
        inventory::{self, Entry, human},
        portal::PortalDatabase,
    },
    text::{bounded, whole_seconds},
};

/// How many backups exist, and the newest of them. The size of one that `before` has already is not read again: nothing writes to a
/// backup, and reading a size waits for locks.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn list(
    database: &PortalDatabase,
    portal: &PortalSpec,
    before: &[BackupStatus],
) -> Result<(usize, Vec<BackupStatus>), String> {
    let relations = Relations::of(portal);
    let mut connection = database.pool().acquire().await.map_err(|error| error.to_string())?;
    let mut entries = inventory::list(&mut connection, database.key(), &relations).await.map_err(|error| error.to_string())?;
    let count = entries.len();
    entries.truncate(LISTED_BACKUPS);
    let known =
        |entry: &Entry| before.iter().find(|known| known.timestamp == entry.backup.stamp.to_string() && known.tables == tables(entry));
    let new: Vec<BackupStamp> = entries.iter().filter(|entry| known(entry).is_none()).map(|entry| entry.backup.stamp).collect();
    let sizes = if new.is_empty() {
        Default::default()
    } else {
        inventory::sizes(&mut connection, &relations, &new).await.map_err(|error| format!("the backups' sizes cannot be read: {error}"))?
    };
    let listed = entries.iter().map(|entry| {
        let timestamp = entry.backup.stamp.to_string();
        let bytes = known(entry).map(|known| known.bytes).or_else(|| sizes.get(&timestamp).copied()).unwrap_or_default();
        BackupStatus {
            release: entry.release.clone(),
            made_by: entry.made_by.clone(),
            created_at: Time(whole_seconds(entry.created_at)),
            size: human(bytes),
            bytes,
            tables: tables(entry),
            complete: entry.backup.complete,
            held_by: (!entry.held_by.is_empty()).then(|| bounded(entry.held_by.join(", "), 512)),
            timestamp,
        }
    });
    Ok((count, listed.collect()))
}

fn tables(entry: &Entry) -> i32 {
    i32::try_from(entry.backup.tables.len()).unwrap_or(i32::MAX)
}
