//! Key ranges: what an import is cut into.

use sqlx::PgConnection;

use super::{
    columns::output_columns,
    error::{ImportError, failed},
};
use crate::database::{
    checksum::{pin_output, restore_output},
    identifiers::{assembled, quote_ident},
    key_range::KeyRange,
};

/// What an import is cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// The ranges, in the order of their keys.
    pub ranges: Vec<KeyRange>,
    /// How many rows the query returns, those without a key included.
    pub rows: i64,
}

/// Key ranges of about `batch_rows` rows each. A range is larger when its last key alone has many rows.
///
/// Runs the query once, and only for its keys. The bounds are keys as text under [fixed settings](crate::database::checksum), so
/// they can be kept and used in another session.
///
/// # Errors
/// When `key` is no output column, has no order, or the query fails.
pub async fn plan_ranges(conn: &mut PgConnection, import: &str, query: &str, key: &str, batch_rows: i64) -> Result<Ranges, ImportError> {
    let output = output_columns(conn, import, query).await?;
    let column = output.into_iter().find(|column| column.name == key);
    let column = column.ok_or_else(|| ImportError::NoKey { import: import.to_owned(), key: key.to_owned() })?;
    let keys = keys_of(query, key, column.collatable);
    let sql = format!(
        "WITH keys AS MATERIALIZED (SELECT k, count(*) AS n FROM ({keys}) AS rows GROUP BY k), \
         placed AS (SELECT k, ((sum(n) OVER (ORDER BY k) - n)::bigint / $1) AS range FROM keys WHERE k IS NOT NULL), \
         firsts AS (SELECT DISTINCT ON (range) range, k FROM placed ORDER BY range, k) \
         SELECT coalesce((SELECT sum(n) FROM keys), 0)::bigint, ARRAY(SELECT k::text FROM firsts WHERE range > 0 ORDER BY range)"
    );
    let what = format!("planning the ranges of key {key}");
    let before = pin_output(conn).await.map_err(failed(import, &what))?;
    let planned: Result<(i64, Vec<String>), _> =
        sqlx::query_as(assembled(sql)).persistent(false).bind(batch_rows.max(1)).fetch_one(&mut *conn).await;
    let restored = restore_output(conn, &before).await;
    let (rows, bounds) = planned.map_err(failed(import, &what))?;
    restored.map_err(failed(import, &what))?;
    let lowers = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let uppers = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    let range =
        |(index, (lower, upper))| KeyRange { index, lower, upper, type_name: column.type_name.clone(), bytewise: column.collatable };
    Ok(Ranges { ranges: lowers.zip(uppers).enumerate().map(range).collect(), rows })
}

/// A key of `range` that cuts its keys into two halves; `None` when all its rows have the same key, or none.
pub(super) async fn middle(conn: &mut PgConnection, query: &str, key: &str, range: &KeyRange) -> Result<Option<String>, sqlx::Error> {
    let sql = format!(
        "WITH keys AS MATERIALIZED (SELECT DISTINCT k FROM ({}) AS rows WHERE k IS NOT NULL) \
         SELECT k::text FROM keys ORDER BY keys.k OFFSET (SELECT count(*) / 2 FROM keys) LIMIT 1",
        keys_of(query, key, range.bytewise)
    );
    let before = pin_output(conn).await?;
    let middle: Option<String> = sqlx::query_scalar(assembled(sql)).persistent(false).fetch_optional(&mut *conn).await?;
    restore_output(conn, &before).await?;
    Ok(middle.filter(|key| range.lower.as_ref() != Some(key)))
}

/// The keys of a query's rows, as the column `k`. Postgres computes nothing else of the rows.
pub(super) fn keys_of(query: &str, key: &str, bytewise: bool) -> String {
    let collation = if bytewise { " COLLATE pg_catalog.\"C\"" } else { "" };
    format!("SELECT query.{}{collation} AS k FROM (\n{query}\n) AS query", quote_ident(key))
}
