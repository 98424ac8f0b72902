//! How far phases got. Every change names the attempt that it belongs to, so that a late writer changes nothing.

use sqlx::{Connection, PgConnection};

use super::event;
use crate::{
    api::PhaseName,
    database::lock::{Fence, Fenced},
    release::Direction,
};

/// One attempt of one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The release.
    pub release: i64,
    /// The run.
    pub run: i64,
    /// The phase.
    pub phase: PhaseName,
    /// Whether the phase is done or undone.
    pub direction: Direction,
    /// It belongs to the clean-up of its run, not to the plan.
    pub unwinding: bool,
    /// 1 for the first.
    pub number: i32,
    /// The epoch under which it runs.
    pub epoch: i64,
}

/// More failures than any phase may have: a refusal is final at once.
const FINAL: i32 = i32::MAX / 2;

/// Notes that an attempt begins, and returns it. Without a fence it touches only rows of its own release.
///
/// # Errors
/// When the database does not answer, or the attempt is not ours to make any more.
pub async fn begin(
    connection: &mut PgConnection,
    release: i64,
    run: i64,
    phase: PhaseName,
    direction: Direction,
    fence: Option<&Fence>,
) -> Result<Attempt, Fenced> {
    let mut tx = connection.begin().await?;
    if let Some(fence) = fence {
        fence.check(&mut tx).await?;
    }
    let epoch = fence.map_or(0, |fence| fence.epoch);
    let number: i32 = sqlx::query_scalar(
        "UPDATE portal_release.phases SET state = 'Running', attempts = attempts + 1, started_at = clock_timestamp(), completed_at = NULL, message = ''
         WHERE run_id = $1 AND phase = $2 AND state <> 'Succeeded' RETURNING attempts",
    )
    .bind(run)
    .bind(phase.as_str())
    .fetch_one(&mut *tx)
    .await?;
    event(&mut tx, release, Some(run), "PhaseStarted", Some(phase.as_str()), &format!("attempt {number}"), Some(epoch)).await?;
    tx.commit().await?;
    Ok(Attempt { release, run, phase, direction, unwinding: false, number, epoch })
}

/// Notes, in the phase's own transaction, that the attempt succeeded.
///
/// # Errors
/// `RowNotFound` when the attempt is not the running one any more; then the transaction must not commit.
pub async fn succeed(tx: &mut PgConnection, attempt: Attempt, message: &str) -> Result<(), sqlx::Error> {
    let _: i32 = sqlx::query_scalar(
        "UPDATE portal_release.phases SET state = 'Succeeded', failures = 0, completed_at = clock_timestamp(), message = $4
         WHERE run_id = $1 AND phase = $2 AND attempts = $3 AND state = 'Running' RETURNING attempts",
    )
    .bind(attempt.run)
    .bind(attempt.phase.as_str())
    .bind(attempt.number)
    .bind(message)
    .fetch_one(&mut *tx)
    .await?;
    event(tx, attempt.release, Some(attempt.run), "PhaseSucceeded", Some(attempt.phase.as_str()), message, Some(attempt.epoch)).await
}

/// Notes that the attempt failed: for good when it `is_final`, and as one of the failures that a phase may have when it `counts`.
/// Nothing happens when it succeeded after all: a COMMIT whose answer was lost.
///
/// # Errors
/// When the database does not answer.
pub async fn fail(connection: &mut PgConnection, attempt: Attempt, message: &str, is_final: bool, counts: bool) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let failed = sqlx::query(
        "UPDATE portal_release.phases SET state = 'Failed', failures = CASE WHEN $5 THEN $6 WHEN $7 THEN failures + 1 ELSE greatest(failures, 1) END, completed_at = clock_timestamp(), message = $4
         WHERE run_id = $1 AND phase = $2 AND attempts = $3 AND state = 'Running'",
    )
    .bind(attempt.run)
    .bind(attempt.phase.as_str())
    .bind(attempt.number)
    .bind(message)
    .bind(is_final)
    .bind(FINAL)
    .bind(counts)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if failed == 1 {
        event(&mut tx, attempt.release, Some(attempt.run), "PhaseFailed", Some(attempt.phase.as_str()), message, Some(attempt.epoch))
            .await?;
    }
    tx.commit().await
}

/// Notes, in the transaction that undid it, that a phase is undone.
///
/// # Errors
/// When the database does not answer.
pub async fn undone(tx: &mut PgConnection, attempt: Attempt, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.phases SET state = 'Undone', completed_at = clock_timestamp(), message = CASE WHEN state = 'Failed' THEN message || '; ' || $3 ELSE $3 END WHERE run_id = $1 AND phase = $2")
        .bind(attempt.run)
        .bind(attempt.phase.as_str())
        .bind(message)
        .execute(&mut *tx)
        .await?;
    event(tx, attempt.release, Some(attempt.run), "PhaseUndone", Some(attempt.phase.as_str()), message, Some(attempt.epoch)).await
}

/// What the staging was built from has changed: everything from the first of `phases` on is to be done again.
///
/// # Errors
/// When the database does not answer.
pub async fn restart(
    connection: &mut PgConnection,
    release: i64,
    run: i64,
    phases: &[PhaseName],
    why: &str,
    epoch: i64,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let names: Vec<&str> = phases.iter().map(|phase| phase.as_str()).collect();
    sqlx::query("UPDATE portal_release.phases SET state = 'Pending', message = $3, failures = 0 WHERE run_id = $1 AND phase = ANY($2) AND state <> 'Skipped'")
        .bind(run)
        .bind(&names)
        .bind(why)
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE portal_release.runs SET recheck = false WHERE id = $1").bind(run).execute(&mut *tx).await?;
    super::imports::reset_imports(&mut tx, release).await?;
    super::definitions::outdate(&mut tx, run).await?;
    event(&mut tx, release, Some(run), "StagingRebuilt", None, why, Some(epoch)).await?;
    tx.commit().await
}

/// Before the run continues, its staging is to be compared with its source.
///
/// # Errors
/// When the database does not answer.
pub async fn recheck(connection: &mut PgConnection, run: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.runs SET recheck = true WHERE id = $1").bind(run).execute(connection).await?;
    Ok(())
}

/// The staging was compared with its source and holds.
///
/// # Errors
/// When the database does not answer.
pub async fn rechecked(connection: &mut PgConnection, run: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.runs SET recheck = false WHERE id = $1").bind(run).execute(connection).await?;
    Ok(())
}

/// The attempt stopped at a safe point and resumes later. That is not a failure.
///
/// # Errors
/// When the database does not answer.
pub async fn pause(connection: &mut PgConnection, attempt: Attempt) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.phases SET state = 'Pending' WHERE run_id = $1 AND phase = $2 AND attempts = $3 AND state = 'Running'",
    )
    .bind(attempt.run)
    .bind(attempt.phase.as_str())
    .bind(attempt.number)
    .execute(connection)
    .await?;
    Ok(())
}
