//! Loading: the fast path, one statement for a whole range. What it cannot take is sorted out row by row in [`super::diagnose`].

use sqlx::{Connection, PgConnection, Row};

use super::{
    diagnose,
    error::{ImportError, failed},
    file_rows::{BAD_FORMAT, FileRows, PROBLEM, TABLE},
    sql::VERDICT,
    statement::{Load, Origin},
};
use crate::database::{counts::Counts, identifiers::assembled, sqlstate::is_about_data};

/// Loads what the query returns, and returns what became of every row. Part of the caller's transaction, one of sqlx.
///
/// One statement does it. Only when the database refuses a row is the range loaded again in small pieces, until exactly the refused
/// rows are in `portal_release.rejected_rows` with its reason.
///
/// A row of a look-up table exists when any unique key that the query covers is taken. A conflict with another unique key, such as
/// an id that the table numbers itself, is a refusal and never a silently lost row.
///
/// # Errors
/// When a statement fails for another reason than its rows; the caller's transaction is spoilt then.
pub async fn load(conn: &mut PgConnection, load: &Load<'_>) -> Result<Counts, ImportError> {
    let import = load.target.import;
    let keys = if load.lookup { covered_keys(conn, load).await? } else { Vec::new() };
    let query = load.source.query(import, load.range)?;
    let what = format!("the insert into {}", load.target.table);
    // Deferred constraints are checked now: at the end the row could no longer be identified.
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *conn).await.map_err(failed(import, &what))?;
    let mut savepoint = conn.begin().await.map_err(failed(import, &what))?;
    match at_once(&mut savepoint, load, &keys, &query).await {
        Ok(counts) => {
            savepoint.commit().await.map_err(failed(import, &what))?;
            Ok(counts)
        }
        Err(error) if is_about_data(&error) => {
            savepoint.rollback().await.map_err(failed(import, &what))?;
            match load.source.origin {
                Origin::Query { .. } => diagnose::of_query(conn, load, &keys).await,
                Origin::File(file) => diagnose::of_file(conn, load, file, &keys).await,
            }
        }
        Err(error) => Err(failed(import, &what)(error)),
    }
}

/// Loads the rows of a file as [`load`] does, and forgets them. Those with other fields than the header are rejected.
///
/// # Errors
/// As [`load`], and when more rows are refused than the file may have.
pub async fn load_file(conn: &mut PgConnection, load_rows: &Load<'_>, file: &FileRows) -> Result<Counts, ImportError> {
    let (import, what) = (load_rows.target.import, "loading the rows of its file");
    let malformed = reject_malformed(conn, load_rows).await.map_err(failed(import, what))?;
    let mut counts = load(conn, load_rows).await?;
    counts.read = malformed.read;
    counts.rejected += malformed.rejected;
    file.drop(conn).await.map_err(failed(import, what))?;
    Ok(counts)
}

async fn at_once(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>], query: &str) -> Result<Counts, sqlx::Error> {
    if load.source.rules.is_empty() && !load.lookup {
        let sql = load.insert(keys, &format!("(\n{query}\n)"), "TRUE");
        let imported = sqlx::query(assembled(sql)).persistent(false).execute(conn).await?.rows_affected();
        let imported = i64::try_from(imported).unwrap_or(i64::MAX);
        return Ok(Counts { read: imported, imported, rejected: 0 });
    }
    // Judged once: a row is counted either as accepted or as rejected.
    let sql = format!(
        "WITH judged AS MATERIALIZED (\n{}\n), good AS ({} RETURNING 1), bad AS ({} WHERE {VERDICT} IS NOT NULL RETURNING 1) \
         SELECT (SELECT count(*) FROM judged), (SELECT count(*) FROM good), (SELECT count(*) FROM bad)",
        load.source.judged(query),
        load.insert(keys, "judged", &format!("query.{VERDICT} IS NULL")),
        load.reject("judged", "NULL", VERDICT),
    );
    let row = sqlx::query(assembled(sql)).persistent(false).fetch_one(conn).await?;
    Ok(Counts { read: row.try_get(0)?, imported: row.try_get(1)?, rejected: row.try_get(2)? })
}

/// Counts the rows, and rejects those that have other fields than the header.
async fn reject_malformed(conn: &mut PgConnection, load: &Load<'_>) -> Result<Counts, sqlx::Error> {
    let read: i64 = sqlx::query_scalar(assembled(format!("SELECT count(*) FROM {TABLE}"))).persistent(false).fetch_one(&mut *conn).await?;
    let problem = format!("query.{PROBLEM}");
    let sql = format!("{} WHERE {problem} IS NOT NULL", load.reject(TABLE, BAD_FORMAT, &problem));
    let rejected = sqlx::query(assembled(sql)).persistent(false).execute(conn).await?.rows_affected();
    Ok(Counts { read, imported: 0, rejected: i64::try_from(rejected).unwrap_or(i64::MAX) })
}

/// The unique keys of the look-up table whose columns are all filled, the ones that people gave before the ones it numbers itself.
async fn covered_keys(conn: &mut PgConnection, load: &Load<'_>) -> Result<Vec<Vec<String>>, ImportError> {
    let (import, table, names) = (load.target.import, load.target.table, load.names());
    let keys: Vec<Vec<String>> = sqlx::query_scalar(
        "SELECT array_agg(a.attname::text ORDER BY k.at) AS key FROM pg_index i \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
           AND i.indpred IS NULL AND i.indexprs IS NULL AND k.at <= i.indnkeyatts \
         GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attname::text = ANY ($2)) ORDER BY i.indisprimary, i.indexrelid",
    )
    .bind(load.target.relation())
    .bind(&names)
    .fetch_all(conn)
    .await
    .map_err(failed(import, format!("reading the unique keys of {table}")))?;
    if keys.is_empty() {
        return Err(ImportError::NoUniqueKey { import: import.to_owned(), table: table.to_owned(), columns: names.join(", ") });
    }
    Ok(keys)
}
