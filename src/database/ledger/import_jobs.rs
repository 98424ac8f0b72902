//! What only the Job of an import has: the rows that existed before it, and how far it got. The functions that a Job calls write to
//! the same row.

use sqlx::{FromRow, PgConnection};

/// What the ledger knows of an import's Job, beside its row in `jobs`.
#[derive(Clone, Debug, FromRow)]
pub struct ImportJob {
    /// Rows of the staged table before the first attempt.
    pub rows_before: i64,
    /// What a Job stored last.
    pub checkpoint: Option<String>,
}

/// Notes that an import is made by a Job, and how many rows its staged table has now. Earlier Jobs may no longer write.
///
/// # Errors
/// When the database does not answer.
pub async fn plan(tx: &mut PgConnection, release: i64, import: &str, rows_before: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.import_jobs (release_id, import, rows_before) VALUES ($1, $2, $3)
         ON CONFLICT (release_id, import) DO UPDATE SET rows_before = $3, checkpoint = NULL",
    )
    .bind(release)
    .bind(import)
    .bind(rows_before)
    .execute(&mut *tx)
    .await?;
    give_up(tx, release, &[import.to_owned()]).await
}

/// Jobs of these imports may no longer write.
///
/// # Errors
/// When the database does not answer.
pub async fn give_up(tx: &mut PgConnection, release: i64, imports: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.jobs SET state = 'Ended' WHERE release_id = $1 AND purpose = 'import' AND item = ANY($2) AND state <> 'Ended'",
    )
    .bind(release)
    .bind(imports)
    .execute(tx)
    .await?;
    Ok(())
}

/// What is known of an import's Job, once no transaction of a Job is about to store a checkpoint; none can until this one ends.
///
/// # Errors
/// When the database does not answer, or no Job was planned.
pub async fn lock(tx: &mut PgConnection, release: i64, import: &str) -> Result<ImportJob, sqlx::Error> {
    sqlx::query_as("SELECT rows_before, checkpoint FROM portal_release.import_jobs WHERE release_id = $1 AND import = $2 FOR UPDATE")
        .bind(release)
        .bind(import)
        .fetch_one(tx)
        .await
}

/// Forgets the rejected rows of an import that is run from the start again.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_rejected(tx: &mut PgConnection, release: i64, import: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM portal_release.rejected_rows WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .execute(tx)
        .await?;
    Ok(())
}

/// How many rows an import's Job has rejected.
///
/// # Errors
/// When the database does not answer.
pub async fn rejected(connection: &mut PgConnection, release: i64, import: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM portal_release.rejected_rows WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .fetch_one(connection)
        .await
}
