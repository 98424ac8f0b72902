//! The Kubernetes Jobs of releases, whatever they are for.
//!
//! A row is written before its Job is created, and loses the Job's name after the Job is gone: no Job is overlooked, wherever the
//! operator is killed.

use sqlx::{FromRow, PgConnection};

/// What a Job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It fills a staged table.
    Import,
    /// Its success is the answer to a gate.
    Gate,
    /// A hook after the swap.
    PostSwap,
}

impl Purpose {
    /// As in the ledger, and in the label of a Job.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Gate => "gate",
            Self::PostSwap => "postSwap",
        }
    }
}

/// Which Job of a release.
#[derive(Clone, Copy, Debug)]
pub struct JobKey<'a> {
    /// The release.
    pub release: i64,
    /// What it is for.
    pub purpose: Purpose,
    /// The import, gate or hook.
    pub item: &'a str,
}

/// How far a Job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobState {
    /// It is announced and not over.
    Running,
    /// It is over, and did what it is for.
    Succeeded,
    /// It failed or was given up.
    #[default]
    Ended,
}

impl JobState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Ended => "Ended",
        }
    }
}

impl TryFrom<String> for JobState {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = [Self::Running, Self::Succeeded, Self::Ended].into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| format!("this version of the operator does not know the state {text} of a Job"))
    }
}

/// What the ledger knows of a Job.
#[derive(Clone, Debug, Default, FromRow)]
pub struct JobRecord {
    /// Its name; absent while there is none.
    pub job: Option<String>,
    /// The number in its name, 0 before the first one.
    pub attempt: i32,
    /// How far it is.
    #[sqlx(try_from = "String")]
    pub state: JobState,
    /// The run that announced it.
    pub run_id: Option<i64>,
    /// What the success of a gate's Job answered, see [`answer`].
    pub answer: Option<String>,
}

impl JobRecord {
    /// It is announced and not over.
    pub fn is_running(&self) -> bool {
        self.state == JobState::Running
    }
}

/// What is known of a Job. No other transaction changes it until this one ends.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(tx: &mut PgConnection, key: JobKey<'_>) -> Result<JobRecord, sqlx::Error> {
    let found = sqlx::query_as(
        "SELECT job, attempt, state, run_id, answer FROM portal_release.jobs WHERE release_id = $1 AND purpose = $2 AND item = $3 FOR UPDATE",
    )
    .bind(key.release)
    .bind(key.purpose.as_str())
    .bind(key.item)
    .fetch_optional(tx)
    .await?;
    Ok(found.unwrap_or_default())
}

/// Announces a Job of this run, in place of any other one of the same purpose and item.
///
/// # Errors
/// When the database does not answer.
pub async fn announce(tx: &mut PgConnection, key: JobKey<'_>, run: i64, job: &str, attempt: i32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.jobs (release_id, purpose, item, run_id, job, attempt, state) VALUES ($1, $2, $3, $4, $5, $6, 'Running')
         ON CONFLICT (release_id, purpose, item) DO UPDATE SET run_id = $4, job = $5, attempt = $6, state = 'Running'",
    )
    .bind(key.release)
    .bind(key.purpose.as_str())
    .bind(key.item)
    .bind(run)
    .bind(job)
    .bind(attempt)
    .execute(tx)
    .await?;
    Ok(())
}

/// The Job is over. It may still exist.
///
/// # Errors
/// When the database does not answer.
pub async fn end(tx: &mut PgConnection, job: &str, state: JobState) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.jobs SET state = $2 WHERE job = $1").bind(job).bind(state.as_str()).execute(tx).await?;
    Ok(())
}

/// What the success of this Job answers, in words that only its engine compares.
///
/// # Errors
/// When the database does not answer.
pub async fn answer(tx: &mut PgConnection, job: &str, answer: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.jobs SET answer = $2 WHERE job = $1").bind(job).bind(answer).execute(tx).await?;
    Ok(())
}

/// Something without a Job has succeeded in this run.
///
/// # Errors
/// When the database does not answer.
pub async fn done(tx: &mut PgConnection, key: JobKey<'_>, run: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.jobs (release_id, purpose, item, run_id, state) VALUES ($1, $2, $3, $4, 'Succeeded')
         ON CONFLICT (release_id, purpose, item) DO UPDATE SET run_id = $4, state = 'Succeeded'",
    )
    .bind(key.release)
    .bind(key.purpose.as_str())
    .bind(key.item)
    .bind(run)
    .execute(tx)
    .await?;
    Ok(())
}

/// The Job no longer exists.
///
/// # Errors
/// When the database does not answer.
pub async fn forget(tx: &mut PgConnection, job: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.jobs SET job = NULL, state = CASE state WHEN 'Running' THEN 'Ended' ELSE state END WHERE job = $1")
        .bind(job)
        .execute(tx)
        .await?;
    Ok(())
}

/// The Jobs that may exist, of every release of a portal. `writers`: only those that may write to staged tables, or still run.
///
/// # Errors
/// When the database does not answer.
pub async fn of_portal(connection: &mut PgConnection, portal: &str, writers: bool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT j.job FROM portal_release.jobs j JOIN portal_release.releases r ON r.id = j.release_id
         WHERE r.portal = $1 AND j.job IS NOT NULL AND (j.purpose = 'import' OR j.state = 'Running' OR NOT $2) ORDER BY j.job",
    )
    .bind(portal)
    .bind(writers)
    .fetch_all(connection)
    .await
}

/// The Jobs of a release that are announced and not over.
///
/// # Errors
/// When the database does not answer.
pub async fn running(connection: &mut PgConnection, release: i64) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT job FROM portal_release.jobs WHERE release_id = $1 AND state = 'Running' AND job IS NOT NULL ORDER BY job")
        .bind(release)
        .fetch_all(connection)
        .await
}

/// The Jobs that may exist, of these imports of a release. `running`: only those that are not over.
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
        "SELECT job FROM portal_release.jobs
         WHERE release_id = $1 AND purpose = 'import' AND item = ANY($2) AND job IS NOT NULL AND (state = 'Running' OR NOT $3) ORDER BY job",
    )
    .bind(release)
    .bind(imports)
    .bind(running)
    .fetch_all(connection)
    .await
}

/// Ends the database sessions that Jobs have left behind: the server continues a statement whose client is gone. They are known by
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
