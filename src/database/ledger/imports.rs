//! Imports and their checkpoints.

use sqlx::{PgConnection, types::Json};

use crate::database::import::KeyRange;

/// Forgets the imports and checkpoints of a release.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_imports(tx: &mut PgConnection, release: i64) -> Result<(), sqlx::Error> {
    reset_checkpoints(tx, release).await?;
    sqlx::query(
        "UPDATE portal_release.imports SET state = 'Pending', rows = 0, rows_total = NULL, completed_at = NULL WHERE release_id = $1",
    )
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
    sqlx::query("DELETE FROM portal_release.imports WHERE release_id = $1 AND import <> ALL($2)")
        .bind(release)
        .bind(&names)
        .execute(&mut *tx)
        .await?;
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
            completed_at = CASE WHEN $4 THEN clock_timestamp() END, rows_total = CASE WHEN $4 THEN rows + $3 ELSE rows_total END WHERE release_id = $1 AND import = $2",
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
        "UPDATE portal_release.checkpoints SET rows = $4, completed_at = clock_timestamp() WHERE release_id = $1 AND import = $2 AND position = $3",
    )
    .bind(release)
    .bind(import)
    .bind(position)
    .bind(rows)
    .execute(tx)
    .await?;
    Ok(())
}

/// Rows that these imports brought.
///
/// # Errors
/// When the database does not answer.
pub async fn imported_rows<'a>(
    connection: &mut PgConnection,
    release: i64,
    imports: impl Iterator<Item = &'a str>,
) -> Result<i64, sqlx::Error> {
    let names: Vec<&str> = imports.collect();
    sqlx::query_scalar("SELECT coalesce(sum(rows), 0)::bigint FROM portal_release.imports WHERE release_id = $1 AND import = ANY($2)")
        .bind(release)
        .bind(&names)
        .fetch_one(connection)
        .await
}

/// Rows by import, in order.
///
/// # Errors
/// When the database does not answer.
pub async fn import_rows(connection: &mut PgConnection, release: i64) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("SELECT import, rows FROM portal_release.imports WHERE release_id = $1 AND state = 'Succeeded' ORDER BY position")
        .bind(release)
        .fetch_all(connection)
        .await
}

/// Rows of an import so far, and in all once known.
///
/// # Errors
/// When the database does not answer.
pub async fn import_progress(connection: &mut PgConnection, release: i64, import: &str) -> Result<(i64, Option<i64>), sqlx::Error> {
    sqlx::query_as("SELECT rows, rows_total FROM portal_release.imports WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .fetch_one(connection)
        .await
}
