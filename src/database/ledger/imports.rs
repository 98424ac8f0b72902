//! Imports, their checkpoints, and the account of their rows.

use jiff::Timestamp;
use serde::Deserialize;
use sqlx::{PgConnection, types::Json};

use super::import_jobs;
use crate::{
    api::{ImportStatus, PhaseState},
    database::{counts::Counts, key_range::KeyRange},
};

/// One import of a release.
#[derive(Clone, Debug, Deserialize)]
pub struct ImportRecord {
    /// Its name.
    pub import: String,
    /// How far it got.
    pub state: PhaseState,
    /// Rows that came in so far.
    pub rows: i64,
    /// Rows that there are to import, once known.
    pub rows_total: Option<i64>,
    /// Rows rejected so far.
    #[serde(default)]
    pub rows_rejected: i64,
    /// When this attempt began.
    #[serde(default)]
    pub began_at: Option<Timestamp>,
    /// Rows imported or rejected before this attempt.
    #[serde(default)]
    pub began_rows: i64,
    /// The Job that makes it, while there is one.
    #[serde(default)]
    pub job: Option<String>,
    /// When rows last arrived.
    #[serde(default)]
    pub moved_at: Option<Timestamp>,
}

impl From<ImportRecord> for ImportStatus {
    /// Depends only on the ledger and not on the present moment: while no row arrives, nothing changes.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn from(record: ImportRecord) -> Self {
        let done = record.rows + record.rows_rejected;
        let seconds = record.began_at.zip(record.moved_at).map(|(began, moved)| moved.duration_since(began).as_secs_f64());
        let per_second = seconds.filter(|seconds| *seconds > 0.0).map(|seconds| (done - record.began_rows) as f64 / seconds);
        let open = record.rows_total.filter(|_| record.state == PhaseState::Running).map(|total| (total - done).max(0) as f64);
        let percent = match record.state {
            PhaseState::Succeeded => Some(100),
            _ => record.rows_total.filter(|total| *total > 0).map(|total| (done as f64 / total as f64 * 100.0).clamp(0.0, 99.0) as i32),
        };
        Self {
            name: record.import,
            rows: record.rows,
            rows_total: record.rows_total,
            rejected: record.rows_rejected,
            percent,
            rows_per_second: per_second.map(|rate| rate.round() as i64).filter(|rate| *rate > 0),
            remaining_seconds: open.zip(per_second).filter(|(_, rate)| *rate > 0.0).map(|(open, rate)| (open / rate).ceil() as i64),
            job: record.job,
            state: record.state,
        }
    }
}

/// What became of an import's rows: `read = imported + rejected + collapsed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Rows of the source.
    pub read: i64,
    /// Rows that came in.
    pub imported: i64,
    /// Rejected rows.
    pub rejected: i64,
}

impl Account {
    /// Rows that the query folded into others, or that the look-up table knew already. Less than 0 when the source was counted wrong.
    pub fn collapsed(&self) -> i64 {
        self.read - self.imported - self.rejected
    }
}

/// Forgets the imports, their checkpoints and their rejected rows.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_imports(tx: &mut PgConnection, release: i64) -> Result<(), sqlx::Error> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT import FROM portal_release.imports WHERE release_id = $1").bind(release).fetch_all(&mut *tx).await?;
    reset_some(tx, release, &names).await
}

/// Forgets what these imports did: checkpoints, rejected rows and counts. They are Pending.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_some(tx: &mut PgConnection, release: i64, imports: &[String]) -> Result<(), sqlx::Error> {
    import_jobs::give_up(tx, release, imports).await?;
    for sql in [
        "UPDATE portal_release.import_jobs SET checkpoint = NULL WHERE release_id = $1 AND import = ANY($2)",
        "DELETE FROM portal_release.checkpoints WHERE release_id = $1 AND import = ANY($2)",
        "DELETE FROM portal_release.rejected_rows WHERE release_id = $1 AND import = ANY($2)",
        "UPDATE portal_release.imports SET state = 'Pending', rows = 0, rows_total = NULL, rows_read = 0, rows_rejected = 0, rows_collapsed = 0, source_rows = NULL,
            began_at = NULL, began_rows = 0, moved_at = NULL, completed_at = NULL, again = false WHERE release_id = $1 AND import = ANY($2)",
    ] {
        sqlx::query(sql).bind(release).bind(imports).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Forgets the checkpoints of a release. Returns how many there were. Its rejected rows stay for the audit.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_checkpoints(tx: &mut PgConnection, release: i64) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query("DELETE FROM portal_release.checkpoints WHERE release_id = $1").bind(release).execute(tx).await?.rows_affected())
}

/// Writes the imports of a release, the skipped ones as `Skipped`. Their former progress is deleted.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_imports(tx: &mut PgConnection, release: i64, imports: &[(String, bool)]) -> Result<(), sqlx::Error> {
    let names: Vec<String> = imports.iter().map(|(name, _)| name.clone()).collect();
    let states: Vec<&str> = imports.iter().map(|(_, skipped)| if *skipped { "Skipped" } else { "Pending" }).collect();
    reset_imports(tx, release).await?;
    sqlx::query("DELETE FROM portal_release.imports WHERE release_id = $1 AND import <> ALL($2)")
        .bind(release)
        .bind(&names)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO portal_release.imports (release_id, import, position, state)
         SELECT $1, name, position, state FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS t(name, state, position)
         ON CONFLICT (release_id, import) DO UPDATE SET position = excluded.position, state = excluded.state",
    )
    .bind(release)
    .bind(&names)
    .bind(&states)
    .execute(tx)
    .await?;
    Ok(())
}

/// An import starts or resumes. Returns whether it is already done.
///
/// # Errors
/// When the database does not answer.
pub async fn begin_import(connection: &mut PgConnection, release: i64, import: &str) -> Result<bool, sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar(
        "UPDATE portal_release.imports SET state = 'Running', attempts = attempts + 1, began_at = clock_timestamp(), began_rows = rows + rows_rejected,
            moved_at = NULL WHERE release_id = $1 AND import = $2 AND state IN ('Pending', 'Running') RETURNING state",
    )
    .bind(release)
    .bind(import)
    .fetch_optional(connection)
    .await?;
    Ok(state.is_none())
}

/// Writes the key ranges of an import, how many rows there are to import, and how many the source holds, as far as that is known.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_ranges(
    tx: &mut PgConnection,
    release: i64,
    import: &str,
    ranges: &[KeyRange],
    total: Option<i64>,
    source: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.imports SET rows_total = $3, source_rows = $4 WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .bind(total)
        .bind(source)
        .execute(&mut *tx)
        .await?;
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

/// Notes, in the range's own transaction and at its end, what became of the range's rows. Returns the import's account so far.
///
/// # Errors
/// When the database does not answer.
pub async fn complete_range(
    tx: &mut PgConnection,
    release: i64,
    import: &str,
    position: i32,
    counts: Counts,
) -> Result<Account, sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.checkpoints SET rows = $4, completed_at = clock_timestamp() WHERE release_id = $1 AND import = $2 AND position = $3",
    )
    .bind(release)
    .bind(import)
    .bind(position)
    .bind(counts.imported)
    .execute(&mut *tx)
    .await?;
    let (read, imported, rejected) = sqlx::query_as(
        "UPDATE portal_release.imports SET rows = rows + $3, rows_rejected = rows_rejected + $4, rows_read = rows_read + $5, moved_at = clock_timestamp()
         WHERE release_id = $1 AND import = $2 RETURNING rows_read, rows, rows_rejected",
    )
    .bind(release)
    .bind(import)
    .bind(counts.imported)
    .bind(counts.rejected)
    .bind(counts.read)
    .fetch_one(tx)
    .await?;
    Ok(Account { read, imported, rejected })
}

/// What became of an import's rows, once all are through.
///
/// # Errors
/// When the database does not answer.
pub async fn account(connection: &mut PgConnection, release: i64, import: &str) -> Result<Account, sqlx::Error> {
    let (read, imported, rejected) = sqlx::query_as(
        "SELECT coalesce(source_rows, rows_read), rows, rows_rejected FROM portal_release.imports WHERE release_id = $1 AND import = $2",
    )
    .bind(release)
    .bind(import)
    .fetch_one(connection)
    .await?;
    Ok(Account { read, imported, rejected })
}

/// The import is done.
///
/// # Errors
/// When the database does not answer.
pub async fn complete_import(tx: &mut PgConnection, release: i64, import: &str, account: &Account) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.imports SET state = 'Succeeded', completed_at = clock_timestamp(), rows_read = $3, rows_collapsed = $4,
            rows_total = rows + rows_rejected WHERE release_id = $1 AND import = $2",
    )
    .bind(release)
    .bind(import)
    .bind(account.read)
    .bind(account.collapsed())
    .execute(tx)
    .await?;
    Ok(())
}

/// Why rows of an import were rejected: the most frequent reasons, how often, and an example of a key.
///
/// # Errors
/// When the database does not answer.
pub async fn reasons(connection: &mut PgConnection, release: i64, import: &str) -> Result<Vec<(String, i64, Option<String>)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT r.reason, r.rows, example.key FROM (SELECT left(reason, 300) AS reason, count(*) AS rows, min(id) AS first
            FROM portal_release.rejected_rows WHERE release_id = $1 AND import = $2 GROUP BY 1) AS r
         JOIN portal_release.rejected_rows AS example ON example.id = r.first ORDER BY r.rows DESC, r.first LIMIT 3",
    )
    .bind(release)
    .bind(import)
    .fetch_all(connection)
    .await
}

/// Those reasons, for a message.
pub fn describe(reasons: &[(String, i64, Option<String>)]) -> String {
    let reason = |(reason, rows, key): &(String, i64, Option<String>)| {
        let key = key.as_ref().map(|key| format!(", for example {key}")).unwrap_or_default();
        format!("{rows} because of '{reason}'{key}")
    };
    reasons.iter().map(reason).collect::<Vec<_>>().join("; ")
}

/// Rows that these imports imported and rejected.
///
/// # Errors
/// When the database does not answer.
pub async fn imported_rows<'a>(
    connection: &mut PgConnection,
    release: i64,
    imports: impl Iterator<Item = &'a str>,
) -> Result<(i64, i64), sqlx::Error> {
    let names: Vec<&str> = imports.collect();
    sqlx::query_as(
        "SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(rows_rejected), 0)::bigint FROM portal_release.imports WHERE release_id = $1 AND import = ANY($2)",
    )
    .bind(release)
    .bind(&names)
    .fetch_one(connection)
    .await
}

/// What became of the rows of each import that is done, in order.
///
/// # Errors
/// When the database does not answer.
pub async fn accounts(connection: &mut PgConnection, release: i64) -> Result<Vec<(String, Account)>, sqlx::Error> {
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT import, rows_read, rows, rows_rejected FROM portal_release.imports WHERE release_id = $1 AND state = 'Succeeded' ORDER BY position",
    )
    .bind(release)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(import, read, imported, rejected)| (import, Account { read, imported, rejected })).collect())
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

/// Records which imports are to run again into the existing staging, in place of those recorded before.
///
/// # Errors
/// When the database does not answer.
pub async fn mark_again(tx: &mut PgConnection, release: i64, imports: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.imports SET again = import = ANY($2) WHERE release_id = $1 AND again <> (import = ANY($2))")
        .bind(release)
        .bind(imports)
        .execute(tx)
        .await?;
    Ok(())
}

/// The imports that are to run again into the existing staging.
///
/// # Errors
/// When the database does not answer.
pub async fn marked_again(connection: &mut PgConnection, release: i64) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT import FROM portal_release.imports WHERE release_id = $1 AND again")
        .bind(release)
        .fetch_all(connection)
        .await
}

/// The imports of which the staging holds rows, or may hold some.
///
/// # Errors
/// When the database does not answer.
pub async fn begun(connection: &mut PgConnection, release: i64) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT import FROM portal_release.imports WHERE release_id = $1 AND state IN ('Running', 'Succeeded')")
        .bind(release)
        .fetch_all(connection)
        .await
}

/// The imports that are selected and not done, in order.
///
/// # Errors
/// When the database does not answer.
pub async fn unfinished(connection: &mut PgConnection, release: i64) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT import FROM portal_release.imports WHERE release_id = $1 AND (again OR state IN ('Pending', 'Running')) ORDER BY position",
    )
    .bind(release)
    .fetch_all(connection)
    .await
}

/// The account of an import that has begun and is not settled, and how many of its ranges are open; `None` for any other one.
///
/// # Errors
/// When the database does not answer.
pub async fn unsettled(connection: &mut PgConnection, release: i64, import: &str) -> Result<Option<(Account, i64)>, sqlx::Error> {
    let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT coalesce(i.source_rows, i.rows_read), i.rows, i.rows_rejected, count(*) FILTER (WHERE c.completed_at IS NULL)
         FROM portal_release.imports i JOIN portal_release.checkpoints c USING (release_id, import)
         WHERE i.release_id = $1 AND i.import = $2 AND i.state = 'Running' GROUP BY i.release_id, i.import",
    )
    .bind(release)
    .bind(import)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(read, imported, rejected, open)| (Account { read, imported, rejected }, open)))
}
