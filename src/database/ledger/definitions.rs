//! What each run works from.

use serde::Deserialize;
use sqlx::{Connection, PgConnection, types::Json};

use super::event;
use crate::release::definition::{Pinned, Sources};

/// What is known of a run's definition without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DefinitionRecord {
    /// SHA-256 of the specs.
    pub spec_hash: String,
    /// SHA-256 of everything.
    pub hash: String,
    /// The next phase resolves it again.
    pub stale: bool,
    /// SHA-256 of specs that were edited since, once the edit has been reported.
    pub edited: Option<String>,
    /// When it was resolved.
    pub defined_at: jiff::Timestamp,
}

/// A run's definition.
#[derive(Clone, Debug)]
pub struct Stored {
    /// It.
    pub pinned: Pinned,
    /// The next phase resolves it again.
    pub stale: bool,
}

/// The definition of a run; an older version did not write one, and of former runs only the hashes are kept.
///
/// # Errors
/// When the database does not answer.
pub async fn of_run(connection: &mut PgConnection, run: i64) -> Result<Option<Stored>, sqlx::Error> {
    let row: Option<(serde_json::Value, serde_json::Value, Json<Sources>, bool)> =
        sqlx::query_as("SELECT portal, release, sources, stale FROM portal_release.definitions WHERE run_id = $1 AND portal IS NOT NULL")
            .bind(run)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(portal, release, Json(sources), stale)| Stored { pinned: Pinned { portal, release, sources }, stale }))
}

/// Writes the definition of a run. Nobody works from those of the release's former runs: they are large, and only their hashes stay.
///
/// # Errors
/// When the database does not answer.
pub async fn define(tx: &mut PgConnection, run: i64, pinned: &Pinned) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.definitions (run_id, portal, release, sources, spec_hash, hash) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (run_id) DO UPDATE SET portal = excluded.portal, release = excluded.release, sources = excluded.sources,
             spec_hash = excluded.spec_hash, hash = excluded.hash, stale = false, edited = NULL, defined_at = excluded.defined_at",
    )
    .bind(run)
    .bind(&pinned.portal)
    .bind(&pinned.release)
    .bind(Json(&pinned.sources))
    .bind(pinned.spec_hash())
    .bind(pinned.hash())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE portal_release.definitions d SET portal = NULL, release = NULL, sources = NULL
         FROM portal_release.runs mine JOIN portal_release.runs former ON former.release_id = mine.release_id AND former.id < mine.id
         WHERE mine.id = $1 AND d.run_id = former.id AND d.portal IS NOT NULL",
    )
    .bind(run)
    .execute(tx)
    .await?;
    Ok(())
}

/// The run has reached a safe point: its next phase resolves the definition again.
///
/// # Errors
/// When the database does not answer.
pub async fn outdate(connection: &mut PgConnection, run: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.definitions SET stale = true WHERE run_id = $1 AND NOT stale").bind(run).execute(connection).await?;
    Ok(())
}

/// Specs that another version wrote down otherwise say the same: they are compared by the hash of this one from now on.
///
/// # Errors
/// When the database does not answer.
pub async fn is_the_same(connection: &mut PgConnection, run: i64, spec_hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.definitions SET spec_hash = $2 WHERE run_id = $1")
        .bind(run)
        .bind(spec_hash)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that an edit in the middle of a run is reported. `false`: this one was reported already.
///
/// # Errors
/// When the database does not answer.
pub async fn edited(connection: &mut PgConnection, release: i64, run: i64, spec_hash: &str, message: &str) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let noted = sqlx::query("UPDATE portal_release.definitions SET edited = $2 WHERE run_id = $1 AND edited IS DISTINCT FROM $2")
        .bind(run)
        .bind(spec_hash)
        .execute(&mut *tx)
        .await?;
    let is_new = noted.rows_affected() == 1;
    if is_new {
        event(&mut tx, release, Some(run), "DefinitionEdited", None, message, None).await?;
    }
    tx.commit().await?;
    Ok(is_new)
}
