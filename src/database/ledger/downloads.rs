//! The downloads view's queries: the one of each release, and the one that belongs to each backup.

use sqlx::PgConnection;

use crate::database::identifiers::BackupStamp;

/// Keeps the query that the view has while `release` is live.
///
/// # Errors
/// When the database does not answer.
pub async fn keep_own(tx: &mut PgConnection, release: i64, query: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.releases SET downloads_view = $2 WHERE id = $1").bind(release).bind(query).execute(tx).await?;
    Ok(())
}

/// Keeps the query that the view had before the swap, with the backup that the swap makes.
///
/// # Errors
/// When the database does not answer.
pub async fn keep_former(tx: &mut PgConnection, portal: &str, backup: BackupStamp, view: &str, query: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.backups (portal, backup, kind, name, backup_name, definition) VALUES ($1, $2, 'downloads view', $3, $3, $4)
         ON CONFLICT (portal, backup, kind, name) DO UPDATE SET definition = excluded.definition, gone_at = NULL, gone_because = NULL",
    )
    .bind(portal)
    .bind(backup.to_string())
    .bind(view)
    .bind(query)
    .execute(tx)
    .await?;
    Ok(())
}

/// The query that the view had while `release` was live, if its swap set one.
///
/// # Errors
/// When the database does not answer.
pub async fn own(connection: &mut PgConnection, release: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT downloads_view FROM portal_release.releases WHERE id = $1").bind(release).fetch_one(connection).await
}

/// The query that the view had before the swap that made `backup`, if it is known.
///
/// # Errors
/// When the database does not answer.
pub async fn former(connection: &mut PgConnection, portal: &str, backup: BackupStamp, view: &str) -> Result<Option<String>, sqlx::Error> {
    let query: Option<Option<String>> = sqlx::query_scalar(
        "SELECT definition FROM portal_release.backups WHERE portal = $1 AND backup = $2 AND kind = 'downloads view' AND name = $3",
    )
    .bind(portal)
    .bind(backup.to_string())
    .bind(view)
    .fetch_optional(connection)
    .await?;
    Ok(query.flatten())
}
