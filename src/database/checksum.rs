//! Checksums of content: the same rows give the same checksum, whatever their order and the session's settings.
//!
//! Each row's text is hashed with two seeds, and the hashes are added up; so the order does not matter, and a row that
//! occurs twice counts twice. Limits: it detects accidents and is no defence against someone who forges rows; the
//! order of the *columns* matters; the text of a row is Postgres' own, so compare only within one major version and,
//! for geometries, one PostGIS version; `regclass` and the like depend on the search path.

use crate::classify::Classify;
use sqlx::{Connection, PgConnection, Row};

use super::checks::reason;
use super::identifiers::assembled;

/// What a relation or a query holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// How many rows.
    pub rows: i64,
    /// 32 hexadecimal digits over all rows; zeros when there are none.
    pub checksum: String,
}

/// A checksum that could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("the checksum of {object} could not be computed: {}; correct the cause and retry", reason(.source))]
pub struct ChecksumError {
    /// The relation or the query.
    pub object: String,
    /// What the database said.
    pub source: sqlx::Error,
}

impl Classify for ChecksumError {
    fn is_transient(&self) -> bool {
        self.source.is_transient()
    }
}

/// The content of a relation, given with its quoted, schema-qualified name.
///
/// # Errors
/// When the relation cannot be read.
pub async fn of_relation(conn: &mut PgConnection, qualified: &str) -> Result<Content, ChecksumError> {
    content(conn, qualified).await.map_err(|source| ChecksumError { object: qualified.to_owned(), source })
}

/// The content of a query's result. The query runs with the settings of [`pin_output`], in particular in UTC.
///
/// # Errors
/// When the query fails.
pub async fn of_query(conn: &mut PgConnection, sql: &str) -> Result<Content, ChecksumError> {
    content(conn, &format!("(\n{sql}\n)")).await.map_err(|source| ChecksumError { object: format!("query {sql:.60}"), source })
}

async fn content(conn: &mut PgConnection, from: &str) -> Result<Content, sqlx::Error> {
    // OFFSET 0 keeps the planner from computing the text of a row twice.
    let sql = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(line, 0)), 0)::text, coalesce(sum(hashtextextended(line, 1)), 0)::text \
         FROM (SELECT portal_release_row::text AS line FROM {from} AS portal_release_row OFFSET 0) AS lines"
    );
    let before = pin_output(conn).await?;
    let result = sqlx::query(assembled(sql)).persistent(false).fetch_one(&mut *conn).await;
    let restored = restore_output(conn, &before).await;
    let row = result?;
    restored?;
    let sums: [String; 2] = [row.try_get(1)?, row.try_get(2)?];
    Ok(Content { rows: row.try_get(0)?, checksum: sums.iter().map(|sum| format!("{:016x}", low_half(sum))).collect() })
}

/// The sum modulo 2^64.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn low_half(sum: &str) -> u64 {
    sum.parse::<i128>().unwrap_or_default() as u64
}

/// The settings that the text of a value depends on.
const OUTPUT_SETTINGS: [(&str, &str); 6] = [
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
];

/// Pins every setting that the text of a value depends on, and returns what they were. Restoring matters: the
/// caller's transaction continues, and `now()::date` in its queries means its own time zone.
pub(super) async fn pin_output(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let names: Vec<&str> = OUTPUT_SETTINGS.iter().map(|(name, _)| *name).collect();
    let before = sqlx::query_scalar("SELECT current_setting(name) FROM unnest($1::text[]) WITH ORDINALITY AS s(name, at) ORDER BY at")
        .bind(names)
        .fetch_all(&mut *conn)
        .await?;
    let pinned: Vec<String> = OUTPUT_SETTINGS.iter().map(|(_, value)| (*value).to_owned()).collect();
    restore_output(conn, &pinned).await?;
    Ok(before)
}

/// Restores the settings that [`pin_output`] has changed.
pub(super) async fn restore_output(conn: &mut PgConnection, values: &[String]) -> Result<(), sqlx::Error> {
    // Outside of a transaction SET LOCAL would do nothing, and silently.
    let local = conn.is_in_transaction();
    let names: Vec<&str> = OUTPUT_SETTINGS.iter().map(|(name, _)| *name).collect();
    sqlx::query("SELECT set_config(name, value, $3) FROM unnest($1::text[], $2::text[]) AS s(name, value)")
        .bind(names)
        .bind(values)
        .bind(local)
        .execute(conn)
        .await?;
    Ok(())
}
