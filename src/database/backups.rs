//! Backups: what was live before a swap, recognised by its name alone.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::PgConnection;

use super::identifiers::{BackupStamp, Generation, InvalidStamp, Relations};
use super::sqlstate;
use super::staging::{StagingError, drop_relations};
use crate::classify::Classify;

/// A backup that could not be listed or named.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database refused or was lost.
    #[error("the backups of schema {schema} could not be read: {source}; check the connection, then retry")]
    Database {
        /// The schema.
        schema: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The clock is outside of what a name can hold.
    #[error(transparent)]
    Clock(#[from] InvalidStamp),
    /// It could not be dropped.
    #[error(transparent)]
    Drop(#[from] StagingError),
}

impl Classify for BackupError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_transient(),
            Self::Drop(error) => error.is_transient(),
            Self::Clock(_) => false,
        }
    }
}

impl BackupError {
    /// The same may succeed once other sessions have released their locks.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Drop(StagingError::Statement { source, .. }) if sqlstate::is_busy(source))
    }
}

/// The relations of one swap that were kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The minute of the swap.
    pub stamp: BackupStamp,
    /// Base names of the tables in it.
    pub tables: Vec<String>,
    /// Base names of the views in it.
    pub views: Vec<String>,
    /// Does it have everything that is swapped today? Only then can it be rolled back to.
    pub complete: bool,
}

/// Lists the backups of these relations, newest first, whoever made them.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn list(conn: &mut PgConnection, relations: &Relations) -> Result<Vec<Backup>, BackupError> {
    let names = relation_names(conn, &relations.schema).await?;
    let stamps: BTreeSet<BackupStamp> = names.iter().filter_map(|name| BackupStamp::of_name(name)).collect();
    let kept = |bases: &[String], stamp: BackupStamp| -> Vec<String> {
        bases.iter().filter(|base| names.contains(&Generation::Backup(stamp).name(base))).cloned().collect()
    };
    Ok(stamps
        .into_iter()
        .rev()
        .map(|stamp| {
            let (tables, views) = (kept(&relations.tables, stamp), kept(&relations.views, stamp));
            let complete = tables.len() == relations.tables.len() && views.len() == relations.views.len();
            Backup { stamp, tables, views, complete }
        })
        .filter(|backup| !backup.tables.is_empty() || !backup.views.is_empty())
        .collect())
}

/// Drops one backup: all of its relations or, when something else depends on one, none.
///
/// # Errors
/// Names what still depends on it.
pub async fn drop(conn: &mut PgConnection, relations: &Relations, stamp: BackupStamp) -> Result<(), BackupError> {
    Ok(drop_relations(conn, &relations.schema, &relations.names(&Generation::Backup(stamp))).await?)
}

/// Who holds a lock that dropping a backup needs: on one of its relations, or on a table that its foreign keys reference.
///
/// # Errors
/// When the database does not answer.
pub async fn blockers(conn: &mut PgConnection, relations: &Relations, stamp: BackupStamp) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH rel AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2)),
              needed AS (SELECT oid FROM rel UNION SELECT k.confrelid FROM pg_constraint k JOIN rel ON rel.oid = k.conrelid WHERE k.contype = 'f')
         SELECT format('pid %s (role %s, application %s) on %s', a.pid, coalesce(a.usename, 'unknown'),
                       coalesce(nullif(a.application_name, ''), 'unknown'), string_agg(DISTINCT l.relation::regclass::text, ', '))
         FROM pg_locks l JOIN needed ON needed.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND a.pid <> pg_backend_pid()
         GROUP BY a.pid, a.usename, a.application_name ORDER BY a.pid LIMIT 5",
    )
    .bind(&relations.schema)
    .bind(relations.names(&Generation::Backup(stamp)))
    .fetch_all(conn)
    .await
}

/// The first minute, from `now` on, that no backup is named after and that is none of `used`: a name is never given twice, not even
/// after its backup is gone.
///
/// # Errors
/// When the catalogue cannot be read, or the clock is outside of this century.
pub async fn free_stamp(
    conn: &mut PgConnection,
    schema: &str,
    now: Timestamp,
    used: &BTreeSet<BackupStamp>,
) -> Result<BackupStamp, BackupError> {
    let mut taken = used.clone();
    taken.extend(relation_names(conn, schema).await?.iter().filter_map(|name| BackupStamp::of_name(name)));
    let mut stamp = BackupStamp::at(now)?;
    while taken.contains(&stamp) {
        stamp = stamp.next()?;
    }
    Ok(stamp)
}

/// All names in the schema that could belong to a backup.
async fn relation_names(conn: &mut PgConnection, schema: &str) -> Result<BTreeSet<String>, BackupError> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname ~ '^bk[0-9]{10}_'",
    )
    .bind(schema)
    .fetch_all(conn)
    .await
    .map_err(|source| BackupError::Database { schema: schema.to_owned(), source })?;
    Ok(names.into_iter().collect())
}
