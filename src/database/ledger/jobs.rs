//! Imports that a Kubernetes Job makes: which Job may write, and how far it got.
//!
//! The row is written before the Job is created and forgotten after the Job is gone, so no Job is overlooked, wherever the operator is
//! killed. The functions that a Job calls write to the same row.

use sqlx::{FromRow, PgConnection};

/// What the ledger knows of an import's Job.
#[derive(Clone, Debug, FromRow)]
pub struct ImportJob {
    /// Its name; absent while there is none.
    pub job: Option<String>,
    /// The number in its name, 0 before the first one.
    pub attempt: i32,
    /// It may write.
    pub running: bool,
    /// Rows of the staged table before the first attempt.
    pub rows_before: i64,
    /// What a Job stored last.
    pub checkpoint: Option<String>,
}

/// Writes that a Job is going to make an import, whose staged table has so many rows now.
///
/// # Errors
/// When the database does not answer.
pub async fn plan(tx: &mut PgConnection, release: i64, import: &str, rows_before: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.import_jobs (release_id, import, rows_before) VALUES ($1, $2, $3)
         ON CONFLICT (release_id, import) DO UPDATE SET rows_before = $3, running = false, checkpoint = NULL",
    )
    .bind(release)
    .bind(import)
    .bind(rows_before)
    .execute(tx)
    .await?;
    Ok(())
}

/// What is known of an import's Job.
///
/// # Errors
/// When the database does not answer, or no Job was planned.
pub async fn read(connection: &mut PgConnection, release: i64, import: &str) -> Result<ImportJob, sqlx::Error> {
    sqlx::query_as(
        "SELECT job, attempt, running, rows_before, checkpoint FROM portal_release.import_jobs WHERE release_id = $1 AND import = $2",
    )
    .bind(release)
    .bind(import)
    .fetch_one(connection)
    .await
}

/// As [`read`], once no transaction of a Job is about to store a checkpoint; none can until this one ends.
///
/// # Errors
/// As [`read`].
pub async fn lock(tx: &mut PgConnection, release: i64, import: &str) -> Result<ImportJob, sqlx::Error> {
    sqlx::query_as(
        "SELECT job, attempt, running, rows_before, checkpoint FROM portal_release.import_jobs WHERE release_id = $1 AND import = $2 FOR UPDATE",
    )
    .bind(release)
    .bind(import)
    .fetch_one(tx)
    .await
}

/// From now on this Job may write, and no other one of the import.
///
/// # Errors
/// When the database does not answer.
pub async fn start(tx: &mut PgConnection, release: i64, import: &str, job: &str, attempt: i32) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.import_jobs SET job = $3, attempt = $4, running = true WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .bind(job)
        .bind(attempt)
        .execute(tx)
        .await?;
    Ok(())
}

/// The Job may not write any more. It may still be there.
///
/// # Errors
/// When the database does not answer.
pub async fn end(tx: &mut PgConnection, job: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.import_jobs SET running = false WHERE job = $1").bind(job).execute(tx).await?;
    Ok(())
}

/// The Job is gone.
///
/// # Errors
/// When the database does not answer.
pub async fn forget(tx: &mut PgConnection, job: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.import_jobs SET running = false, job = NULL WHERE job = $1").bind(job).execute(tx).await?;
    Ok(())
}

/// The Jobs that may be there, of every release of a portal.
///
/// # Errors
/// When the database does not answer.
pub async fn of_portal(connection: &mut PgConnection, portal: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT j.job FROM portal_release.import_jobs j JOIN portal_release.releases r ON r.id = j.release_id
         WHERE r.portal = $1 AND j.job IS NOT NULL ORDER BY j.job",
    )
    .bind(portal)
    .fetch_all(connection)
    .await
}

/// The Jobs that may be there, of these imports of a release; only those that may write, if asked so.
///
/// # Errors
/// When the database does not answer.
pub async fn of_imports(
    connection: &mut PgConnection,
    release: i64,
    imports: &[String],
    running: bool,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT job FROM portal_release.import_jobs WHERE release_id = $1 AND import = ANY($2) AND job IS NOT NULL AND (running OR NOT $3) ORDER BY job",
    )
    .bind(release)
    .bind(imports)
    .bind(running)
    .fetch_all(connection)
    .await
}

/// Forgets the rejected rows of an import that begins anew.
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

/// How many rows an import's Job has turned away.
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

/// Ends the database sessions that Jobs have left behind: the server goes on with a statement whose client is gone. They are known by
/// their application name, which is the Job's.
///
/// # Errors
/// When the database does not answer.
pub async fn end_sessions(connection: &mut PgConnection, jobs: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = current_user AND application_name = ANY($1)",
    )
    .bind(jobs)
    .execute(connection)
    .await?;
    Ok(())
}
