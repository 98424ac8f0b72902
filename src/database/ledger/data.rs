//! What phases keep: imports and their checkpoints, what the staging was built from, the manifest, the frozen workloads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};

use crate::{
    api::FrozenWorkload,
    database::{checksum::Content, import::KeyRange},
};

/// What a release's staging was built from. While all of it still holds, a release goes on from its staging.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagingOrigin {
    /// Hash of what the Portal and the release say about views, tables and imports.
    pub definition: Option<String>,
    /// Fingerprint of the live tables' structure.
    pub structure: Option<String>,
    /// The views that the imports read.
    pub views: BTreeMap<String, Content>,
}

/// Reads what the staging was built from.
///
/// # Errors
/// When the database does not answer.
pub async fn origin(connection: &mut PgConnection, release: i64) -> Result<StagingOrigin, sqlx::Error> {
    let Json(origin) =
        sqlx::query_scalar("SELECT staging FROM portal_release.releases WHERE id = $1").bind(release).fetch_one(connection).await?;
    Ok(origin)
}

/// Writes what the staging is built from.
///
/// # Errors
/// When the database does not answer.
pub async fn set_origin(tx: &mut PgConnection, release: i64, origin: &StagingOrigin) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.releases SET staging = $2 WHERE id = $1").bind(release).bind(Json(origin)).execute(tx).await?;
    Ok(())
}

/// Says whose data the staging relations hold.
///
/// # Errors
/// When the database does not answer.
pub async fn own_staging(tx: &mut PgConnection, portal: &str, release: Option<i64>) -> Result<(), sqlx::Error> {
    // Whoever had data parked there has lost it.
    sqlx::query("UPDATE portal_release.releases SET parked = NULL WHERE portal = $1 AND parked = 'staging' AND id IS DISTINCT FROM $2")
        .bind(portal)
        .bind(release)
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE portal_release.portals SET staging_release = $2, changed_at = now() WHERE portal = $1")
        .bind(portal)
        .bind(release)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets the imports and checkpoints of a release.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_imports(tx: &mut PgConnection, release: i64) -> Result<(), sqlx::Error> {
    reset_checkpoints(tx, release).await?;
    sqlx::query("UPDATE portal_release.imports SET state = 'Pending', rows = 0, rows_total = NULL, completed_at = NULL WHERE release_id = $1")
        .bind(release)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets the checkpoints of a release. Returns how many there were.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_checkpoints(tx: &mut PgConnection, release: i64) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query("DELETE FROM portal_release.checkpoints WHERE release_id = $1").bind(release).execute(tx).await?.rows_affected())
}

/// Writes the imports of a release, with the ones that are left out as `Skipped`.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_imports(tx: &mut PgConnection, release: i64, imports: &[(String, bool)]) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = imports.iter().map(|(name, _)| name.as_str()).collect();
    let states: Vec<&str> = imports.iter().map(|(_, skipped)| if *skipped { "Skipped" } else { "Pending" }).collect();
    sqlx::query("DELETE FROM portal_release.imports WHERE release_id = $1 AND import <> ALL($2)").bind(release).bind(&names).execute(&mut *tx).await?;
    sqlx::query(
        "INSERT INTO portal_release.imports (release_id, import, position, state)
         SELECT $1, name, position, state FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS t(name, state, position)
         ON CONFLICT (release_id, import) DO UPDATE SET position = excluded.position, state = excluded.state, rows = 0, rows_total = NULL, completed_at = NULL",
    )
    .bind(release)
    .bind(&names)
    .bind(&states)
    .execute(tx)
    .await?;
    Ok(())
}

/// An import begins or goes on. Returns whether it is done already.
///
/// # Errors
/// When the database does not answer.
pub async fn begin_import(connection: &mut PgConnection, release: i64, import: &str) -> Result<bool, sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar(
        "UPDATE portal_release.imports SET state = 'Running', attempts = attempts + 1 WHERE release_id = $1 AND import = $2 AND state IN ('Pending', 'Running') RETURNING state",
    )
    .bind(release)
    .bind(import)
    .fetch_optional(connection)
    .await?;
    Ok(state.is_none())
}

/// Notes how many rows the source of an import holds.
///
/// # Errors
/// When the database does not answer.
pub async fn set_total(connection: &mut PgConnection, release: i64, import: &str, total: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.imports SET rows_total = $3 WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .bind(total)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes, in the transaction that inserted them, that rows arrived and whether the import is done.
///
/// # Errors
/// When the database does not answer.
pub async fn add_rows(tx: &mut PgConnection, release: i64, import: &str, rows: i64, done: bool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.imports SET rows = rows + $3, state = CASE WHEN $4 THEN 'Succeeded' ELSE state END,
            completed_at = CASE WHEN $4 THEN now() END, rows_total = CASE WHEN $4 THEN rows + $3 ELSE rows_total END WHERE release_id = $1 AND import = $2",
    )
    .bind(release)
    .bind(import)
    .bind(rows)
    .bind(done)
    .execute(tx)
    .await?;
    Ok(())
}

/// The key ranges of an import that are not imported yet, in order; `None` when none were planned.
///
/// # Errors
/// When the database does not answer.
pub async fn open_ranges(connection: &mut PgConnection, release: i64, import: &str) -> Result<Option<Vec<(i32, KeyRange)>>, sqlx::Error> {
    let rows: Vec<(i32, Json<KeyRange>, bool)> = sqlx::query_as(
        "SELECT position, key_range, completed_at IS NOT NULL FROM portal_release.checkpoints WHERE release_id = $1 AND import = $2 ORDER BY position",
    )
    .bind(release)
    .bind(import)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(rows.into_iter().filter(|(.., done)| !done).map(|(position, Json(range), _)| (position, range)).collect()))
}

/// Writes the planned key ranges of an import.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_ranges(tx: &mut PgConnection, release: i64, import: &str, ranges: &[KeyRange]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.checkpoints (release_id, import, position, key_range)
         SELECT $1, $2, position, r FROM jsonb_array_elements($3) WITH ORDINALITY AS t(r, position)",
    )
    .bind(release)
    .bind(import)
    .bind(Json(ranges))
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes, in the range's own transaction, that it is imported.
///
/// # Errors
/// When the database does not answer.
pub async fn complete_range(tx: &mut PgConnection, release: i64, import: &str, position: i32, rows: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.checkpoints SET rows = $4, completed_at = now() WHERE release_id = $1 AND import = $2 AND position = $3",
    )
    .bind(release)
    .bind(import)
    .bind(position)
    .bind(rows)
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps the manifest, byte for byte.
///
/// # Errors
/// When the database does not answer.
pub async fn set_manifest(tx: &mut PgConnection, release: i64, manifest: &str, sha256: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.releases SET manifest = $2, manifest_sha256 = $3 WHERE id = $1")
        .bind(release)
        .bind(manifest)
        .bind(sha256)
        .execute(tx)
        .await?;
    Ok(())
}

/// The manifest of a label.
///
/// # Errors
/// When the database does not answer.
pub async fn manifest(connection: &mut PgConnection, portal: &str, label: &str) -> Result<Option<String>, sqlx::Error> {
    let manifest: Option<Option<String>> =
        sqlx::query_scalar("SELECT manifest FROM portal_release.releases WHERE portal = $1 AND label = $2")
            .bind(portal)
            .bind(label)
            .fetch_optional(connection)
            .await?;
    Ok(manifest.flatten())
}

/// Records how workloads were before they are stopped. What is recorded already stays: never a zero that we caused.
///
/// # Errors
/// When the database does not answer.
pub async fn record_frozen(tx: &mut PgConnection, portal: &str, release: i64, workloads: &[FrozenWorkload]) -> Result<(), sqlx::Error> {
    for workload in workloads {
        sqlx::query(
            "INSERT INTO portal_release.frozen_workloads (portal, kind, name, replicas, release_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (portal, kind, name) DO UPDATE SET release_id = $5",
        )
        .bind(portal)
        .bind(workload.kind.as_str())
        .bind(&workload.name)
        .bind(workload.replicas)
        .bind(release)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The workloads of a portal that are stopped, as they were before.
///
/// # Errors
/// When the database does not answer.
pub async fn frozen(connection: &mut PgConnection, portal: &str) -> Result<Vec<FrozenWorkload>, sqlx::Error> {
    let Json(workloads) = sqlx::query_scalar(
        "SELECT coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'name', name, 'replicas', replicas) ORDER BY kind, name), '[]')
         FROM portal_release.frozen_workloads WHERE portal = $1",
    )
    .bind(portal)
    .fetch_one(connection)
    .await?;
    Ok(workloads)
}

/// Forgets the records once the workloads are back.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_frozen(tx: &mut PgConnection, portal: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM portal_release.frozen_workloads WHERE portal = $1").bind(portal).execute(tx).await?;
    Ok(())
}
