//! Opening, ending and closing runs.

use sqlx::{Connection, PgConnection};

use super::event;
use crate::{
    api::{PhaseName, ReleaseState},
    release::{RunKind, phases::phases, plan::Start},
};

/// A run to be opened.
#[derive(Clone, Debug)]
pub struct NewRun<'a> {
    /// `namespace/name` of the Portal.
    pub portal: &'a str,
    /// The release's label.
    pub label: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// The object's uid.
    pub uid: &'a str,
    /// Why, for the audit trail.
    pub reason: Option<&'a str>,
    /// What the run does.
    pub kind: RunKind,
    /// A rollback's destination.
    pub target: Option<&'a str>,
    /// It may lose what was written to the live tables.
    pub accept_data_loss: bool,
    /// The `spec.retry` that it answers.
    pub retry: i64,
    /// The `spec.abort.reason` that it overrules.
    pub abort: Option<&'a str>,
    /// The failure that a rollback answers which nobody asked for.
    pub cause: Option<&'a str>,
    /// The phases that it starts from.
    pub phases: &'a [Start],
}

/// Opens a run. `false`: another release of the portal has an open run.
///
/// # Errors
/// When the database does not answer.
pub async fn open(connection: &mut PgConnection, new: &NewRun<'_>) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query("INSERT INTO portal_release.portals (portal) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(new.portal)
        .execute(&mut *tx)
        .await?;
    let state = match new.kind {
        RunKind::Rollback => ReleaseState::RollingBack,
        RunKind::Release | RunKind::RollForward => ReleaseState::Running,
    };
    let release: i64 = sqlx::query_scalar(
        "INSERT INTO portal_release.releases (portal, label, name, uid, state, reason, retry_seen, abort_seen, started_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())
         ON CONFLICT (portal, label) DO UPDATE
             SET state = $5, reason = coalesce($6, releases.reason), retry_seen = $7, abort_seen = $8, started_at = coalesce(releases.started_at, now()), message = ''
         RETURNING id",
    )
    .bind(new.portal)
    .bind(new.label)
    .bind(new.name)
    .bind(new.uid)
    .bind(state.as_str())
    .bind(new.reason)
    .bind(new.retry)
    .bind(new.abort)
    .fetch_one(&mut *tx)
    .await?;
    let run: Option<i64> = sqlx::query_scalar(
        "INSERT INTO portal_release.runs (release_id, portal, kind, target, accept_data_loss, cause) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (portal) WHERE closed_at IS NULL DO NOTHING RETURNING id",
    )
    .bind(release)
    .bind(new.portal)
    .bind(new.kind.as_str())
    .bind(new.target)
    .bind(new.accept_data_loss)
    .bind(new.cause)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(run) = run else { return Ok(false) };
    write_plan(&mut tx, run, new.phases).await?;
    let started = match new.kind {
        RunKind::Release => "Started",
        RunKind::Rollback => "RollbackStarted",
        RunKind::RollForward => "RollForwardStarted",
    };
    event(&mut tx, release, Some(run), started, None, new.reason.or(new.cause).unwrap_or_default(), None).await?;
    tx.commit().await?;
    Ok(true)
}

/// Closes a run whose release has failed, and opens the rollback of it: nobody else's run comes between. `false`: it was closed already.
///
/// # Errors
/// When the database does not answer.
pub async fn roll_back(connection: &mut PgConnection, failed: i64, rollback: &NewRun<'_>) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    close(&mut tx, failed, ReleaseState::Failed, rollback.cause.unwrap_or_default()).await?;
    let opened = open(&mut tx, rollback).await?;
    if opened {
        tx.commit().await?;
    }
    Ok(opened)
}

/// How a run is opened again.
#[derive(Clone, Debug)]
pub struct Reopening<'a> {
    /// The release.
    pub release: i64,
    /// Its latest run.
    pub run: i64,
    /// The `spec.retry` that it answers.
    pub retry: i64,
    /// The `spec.abort.reason` that a retry overrules.
    pub abort: Option<&'a str>,
    /// The phases to start from.
    pub phases: &'a [Start],
    /// Nothing of the former attempt is reused: imports start over.
    pub fresh: bool,
    /// These imports are to run again into the existing staging.
    pub again: &'a [&'a str],
    /// Compare the staging with its source before continuing.
    pub recheck: bool,
    /// Why, for the audit trail.
    pub why: &'a str,
}

/// Opens the latest run again. `false`: another release of the portal has an open run.
///
/// # Errors
/// When the database does not answer.
pub async fn reopen(connection: &mut PgConnection, how: &Reopening<'_>) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let reopened = sqlx::query(
        "UPDATE portal_release.runs u SET closed_at = NULL, ending = NULL, message = '', recheck = $2 WHERE id = $1
         AND NOT EXISTS (SELECT FROM portal_release.runs o WHERE o.portal = u.portal AND o.closed_at IS NULL)",
    )
    .bind(how.run)
    .bind(how.recheck)
    .execute(&mut *tx)
    .await;
    match reopened {
        Ok(done) if done.rows_affected() == 1 => {}
        Ok(_) => return Ok(false),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(false),
        Err(error) => return Err(error),
    }
    sqlx::query("UPDATE portal_release.releases SET state = CASE (SELECT kind FROM portal_release.runs WHERE id = $3) WHEN 'Rollback' THEN 'RollingBack' ELSE 'Running' END, abort_seen = CASE WHEN $2 > retry_seen THEN $4 ELSE abort_seen END, retry_seen = $2, message = '' WHERE id = $1")
        .bind(how.release)
        .bind(how.retry)
        .bind(how.run)
        .bind(how.abort)
        .execute(&mut *tx)
        .await?;
    write_plan(&mut tx, how.run, how.phases).await?;
    super::definitions::outdate(&mut tx, how.run).await?;
    if how.fresh {
        super::imports::reset_imports(&mut tx, how.release).await?;
    }
    super::imports::mark_again(&mut tx, how.release, how.again).await?;
    event(&mut tx, how.release, Some(how.run), "Resumed", None, how.why, None).await?;
    tx.commit().await?;
    Ok(true)
}

/// Writes down which phases the open run consists of from now on.
///
/// # Errors
/// When the database does not answer.
pub async fn write_plan(tx: &mut PgConnection, run: i64, entries: &[Start]) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = entries.iter().map(|entry| entry.phase.as_str()).collect();
    let directions: Vec<&str> = entries.iter().map(|entry| entry.direction.as_str()).collect();
    let states: Vec<&str> = entries.iter().map(|entry| entry.state.as_str()).collect();
    let messages: Vec<&str> = entries.iter().map(|entry| entry.message.as_str()).collect();
    sqlx::query("DELETE FROM portal_release.phases WHERE run_id = $1 AND phase <> ALL($2)")
        .bind(run)
        .bind(&names)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO portal_release.phases (run_id, phase, direction, position, state, message)
         SELECT $1, name, direction, position, state, message
         FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS t(name, direction, state, message, position)
         ON CONFLICT (run_id, phase) DO UPDATE
             SET direction = excluded.direction, position = excluded.position, state = excluded.state, message = excluded.message, failures = 0",
    )
    .bind(run)
    .bind(&names)
    .bind(&directions)
    .bind(&states)
    .bind(&messages)
    .execute(tx)
    .await?;
    Ok(())
}

/// Begins to clean up an open run, which will end in `state`. An abort answers every `spec.retry` that was raised before it.
///
/// # Errors
/// When the database does not answer.
pub async fn end(connection: &mut PgConnection, run: i64, state: ReleaseState, retry: i64, message: &str) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let release: Option<i64> = sqlx::query_scalar("UPDATE portal_release.runs SET ending = $2, message = $3 WHERE id = $1 AND ending IS NULL AND closed_at IS NULL RETURNING release_id")
        .bind(run)
        .bind(state.as_str())
        .bind(message)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(release) = release {
        if state == ReleaseState::Aborted {
            sqlx::query("UPDATE portal_release.releases SET retry_seen = greatest(retry_seen, $2) WHERE id = $1")
                .bind(release)
                .bind(retry)
                .execute(&mut *tx)
                .await?;
        }
        event(&mut tx, release, Some(run), "CleaningUp", None, &format!("{state}: {message}"), None).await?;
    }
    tx.commit().await
}

/// Closes an open run; its release is in `state` from now on. The lock counts as released.
///
/// # Errors
/// When the database does not answer.
pub async fn close(connection: &mut PgConnection, run: i64, state: ReleaseState, message: &str) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let release: Option<i64> = sqlx::query_scalar(
        "UPDATE portal_release.runs SET closed_at = clock_timestamp(), message = $2 WHERE id = $1 AND closed_at IS NULL RETURNING release_id",
    )
    .bind(run)
    .bind(message)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(release) = release {
        sqlx::query("UPDATE portal_release.phases SET state = 'Succeeded', attempts = attempts + 1, started_at = clock_timestamp(), completed_at = clock_timestamp(), message = 'released at the end of the run' WHERE run_id = $1 AND phase = ANY ($2) AND state = 'Pending'")
            .bind(run)
            .bind(phases(|facts| facts.done_by_closing).map(PhaseName::as_str).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE portal_release.releases SET state = $2, message = $3, completed_at = clock_timestamp() WHERE id = $1")
            .bind(release)
            .bind(state.as_str())
            .bind(message)
            .execute(&mut *tx)
            .await?;
        event(&mut tx, release, Some(run), state.as_str(), None, message, None).await?;
    }
    tx.commit().await
}

/// Assigns the row of a label to a new object, whose predecessor was deleted before it had finished.
///
/// # Errors
/// When the database does not answer.
pub async fn adopt(connection: &mut PgConnection, release: i64, name: &str, uid: &str) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query("UPDATE portal_release.releases SET name = $2, uid = $3, state = 'Pending', retry_seen = 0, abort_seen = NULL, message = '', started_at = NULL, completed_at = NULL WHERE id = $1")
        .bind(release)
        .bind(name)
        .bind(uid)
        .execute(&mut *tx)
        .await?;
    super::imports::reset_imports(&mut tx, release).await?;
    event(&mut tx, release, None, "Adopted", None, &format!("by PortalRelease {name}, uid {uid}"), None).await?;
    tx.commit().await
}

/// The rollback that a run has made by itself is asked for by now: the same destination, as if it had been asked for first.
///
/// # Errors
/// When the database does not answer.
pub async fn confirm(connection: &mut PgConnection, release: i64, run: i64, target: &str) -> Result<(), sqlx::Error> {
    let message = "rolled back; clear spec.rollback to roll forward from the kept staging";
    let mut tx = connection.begin().await?;
    sqlx::query("UPDATE portal_release.runs SET target = $2 WHERE id = $1").bind(run).bind(target).execute(&mut *tx).await?;
    sqlx::query("UPDATE portal_release.releases SET message = $2 WHERE id = $1").bind(release).bind(message).execute(&mut *tx).await?;
    event(&mut tx, release, Some(run), "RollbackConfirmed", None, message, None).await?;
    tx.commit().await
}

/// A failed rollback, or roll forward, is no longer wanted: the release is live, or rolled back, as before.
///
/// # Errors
/// When the database does not answer.
pub async fn settle(connection: &mut PgConnection, release: i64) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    let (state, message): (String, String) = sqlx::query_as(
        "UPDATE portal_release.releases SET (state, message) =
            (SELECT s.state, s.message FROM (VALUES ('Live', 'live; a failed rollback was given up', parked IS NULL),
                                                    ('RolledBack', 'rolled back; a failed roll forward was given up', parked IS NOT NULL)) AS s(state, message, so) WHERE s.so)
         WHERE id = $1 RETURNING state, message",
    )
    .bind(release)
    .fetch_one(&mut *tx)
    .await?;
    event(&mut tx, release, None, &state, None, &message, None).await?;
    tx.commit().await
}
