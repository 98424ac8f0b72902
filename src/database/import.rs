//! Imports: one set-based statement per target, or per key range of it.

use sqlx::{PgConnection, Row};

use super::checks::reason;
use super::checksum::{pin_output, restore_output};
use super::identifiers::{assembled, qualified, quote_ident, quote_literal};
use super::views::{OutputColumn, ViewError, verify_query};

/// What is being filled, for the statements and for the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Name of the import.
    pub import: &'a str,
    /// The schema.
    pub schema: &'a str,
    /// The staged table.
    pub table: &'a str,
}

impl Target<'_> {
    pub(super) fn relation(&self) -> String {
        qualified(self.schema, self.table)
    }
}

/// An import that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The query is wrong.
    #[error("import {import}: {source}")]
    Query {
        /// Name of the import.
        import: String,
        /// What is wrong.
        source: ViewError,
    },
    /// The target does not exist.
    #[error("import {import}: the table {table} does not exist; build staging first, or correct `into` in the Portal")]
    NoTarget {
        /// Name of the import.
        import: String,
        /// The table.
        table: String,
    },
    /// A column has no place in the target.
    #[error("import {import}: column {column} {problem} {table}; name the output columns after the target's")]
    Column {
        /// Name of the import.
        import: String,
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: &'static str,
        /// The table.
        table: String,
    },
    /// The target needs a column that is not there.
    #[error(
        "import {import}: column {column} of {table} may not be null, has no default and is not imported; add it to the output columns"
    )]
    Missing {
        /// Name of the import.
        import: String,
        /// The column.
        column: String,
        /// The table.
        table: String,
    },
    /// The key is no output column.
    #[error("import {import}: its key {key} is no output column of the query; correct `key` in the Portal")]
    NoKey {
        /// Name of the import.
        import: String,
        /// The key.
        key: String,
    },
    /// A look-up table has no unique key that the query covers.
    #[error(
        "import {import}: no unique key of look-up table {table} is among the columns {columns}, so new rows cannot be told from known ones; import such a key, or add a unique constraint to the live table"
    )]
    NoUniqueKey {
        /// Name of the import.
        import: String,
        /// The table.
        table: String,
        /// The imported columns.
        columns: String,
    },
    /// A statement failed.
    #[error("import {import}: {what} failed: {}; correct the source or the query and retry", reason(.source))]
    Statement {
        /// Name of the import.
        import: String,
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
}

fn failed(import: &str, what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> ImportError {
    let (import, what) = (import.to_owned(), what.into());
    move |source| ImportError::Statement { import, what, source }
}

/// A half-open range of an import's key. The first range of a plan is open below and holds the rows without a key, the
/// last one is open above; so whatever plan, every row is in exactly one range, also a row that appeared after planning.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRange {
    /// Its place in the plan, from 0.
    pub index: usize,
    /// The first key of the range, as text.
    pub lower: Option<String>,
    /// The first key after the range, as text.
    pub upper: Option<String>,
    /// The key's type, as SQL writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Keys are compared byte by byte, so that a plan does not depend on the collations of a machine.
    #[serde(default)]
    pub bytewise: bool,
}

impl KeyRange {
    /// The SQL condition that `expression` lies in the range.
    #[must_use]
    pub fn condition(&self, expression: &str) -> String {
        let bound = |text: &str| {
            let collation = if self.bytewise { " COLLATE pg_catalog.\"C\"" } else { "" };
            format!("{}::{}{collation}", quote_literal(text), self.type_name)
        };
        match (&self.lower, &self.upper) {
            (None, None) => "TRUE".to_owned(),
            (None, Some(upper)) => format!("(({expression}) < {} OR ({expression}) IS NULL)", bound(upper)),
            (Some(lower), None) => format!("(({expression}) >= {})", bound(lower)),
            (Some(lower), Some(upper)) => format!("(({expression}) >= {} AND ({expression}) < {})", bound(lower), bound(upper)),
        }
    }
}

/// The target's columns that the query fills, in the order of its output.
///
/// # Errors
/// When the query is wrong, an output column has no place in the target, or the target needs one that is not there.
pub async fn columns(conn: &mut PgConnection, target: Target<'_>, query: &str) -> Result<Vec<String>, ImportError> {
    let output = output_columns(conn, target.import, query).await?;
    let names: Vec<String> = output.into_iter().map(|column| column.name).collect();
    match_columns(conn, target, &names).await?;
    Ok(names)
}

async fn output_columns(conn: &mut PgConnection, import: &str, query: &str) -> Result<Vec<OutputColumn>, ImportError> {
    let name = format!("import {import}");
    verify_query(conn, &name, query).await.map_err(|source| ImportError::Query { import: import.to_owned(), source })
}

/// Checks that the target can take these columns and needs no others.
pub(super) async fn match_columns(conn: &mut PgConnection, target: Target<'_>, names: &[String]) -> Result<(), ImportError> {
    let known: Vec<(String, bool, bool, bool)> = sqlx::query_as(
        "SELECT a.attname::text, a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> '', a.attidentity = 'a' \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(target.schema)
    .bind(target.table)
    .fetch_all(conn)
    .await
    .map_err(failed(target.import, format!("reading the columns of {}", target.table)))?;
    let (import, table) = (target.import.to_owned(), target.table.to_owned());
    if known.is_empty() {
        return Err(ImportError::NoTarget { import, table });
    }
    for (at, name) in names.iter().enumerate() {
        let problem = match known.iter().find(|(column, ..)| column == name) {
            None => "is no column of",
            Some(_) if names.iter().take(at).any(|earlier| earlier == name) => "comes twice among the columns for",
            Some((_, _, true, _)) => "is generated from other columns in",
            Some((_, _, _, true)) => "is numbered by the database itself (GENERATED ALWAYS AS IDENTITY) in",
            Some(_) => continue,
        };
        return Err(ImportError::Column { import, column: name.clone(), problem, table });
    }
    match known.into_iter().find(|(column, required, ..)| *required && !names.contains(column)) {
        Some((column, ..)) => Err(ImportError::Missing { import, column, table }),
        None => Ok(()),
    }
}

/// Key ranges of about `batch_rows` rows each. A range is larger when its last key alone has many rows.
///
/// Runs the query once. The bounds are keys as text under [fixed settings](super::checksum), so they can be kept and
/// used in another session.
///
/// # Errors
/// When `key` is no output column, has no order, or the query fails.
pub async fn plan_ranges(
    conn: &mut PgConnection,
    import: &str,
    query: &str,
    key: &str,
    batch_rows: i64,
) -> Result<Vec<KeyRange>, ImportError> {
    let output = output_columns(conn, import, query).await?;
    let column = output.into_iter().find(|column| column.name == key);
    let column = column.ok_or_else(|| ImportError::NoKey { import: import.to_owned(), key: key.to_owned() })?;
    let collation = if column.collatable { " COLLATE pg_catalog.\"C\"" } else { "" };
    let sql = format!(
        "WITH keys AS (SELECT k, count(*) AS n FROM (SELECT query.{key}{collation} AS k FROM (\n{query}\n) AS query) AS rows WHERE k IS NOT NULL GROUP BY k), \
         placed AS (SELECT k, ((sum(n) OVER (ORDER BY k) - n)::bigint / $1) AS range FROM keys), \
         firsts AS (SELECT DISTINCT ON (range) range, k FROM placed ORDER BY range, k) \
         SELECT k::text FROM firsts WHERE range > 0 ORDER BY range",
        key = quote_ident(key),
    );
    let what = format!("planning the ranges of key {key}");
    let before = pin_output(conn).await.map_err(failed(import, &what))?;
    let bounds: Result<Vec<String>, _> =
        sqlx::query_scalar(assembled(sql)).persistent(false).bind(batch_rows.max(1)).fetch_all(&mut *conn).await;
    let restored = restore_output(conn, &before).await;
    let bounds = bounds.map_err(failed(import, &what))?;
    restored.map_err(failed(import, &what))?;
    let lowers = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let uppers = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    let range =
        |(index, (lower, upper))| KeyRange { index, lower, upper, type_name: column.type_name.clone(), bytewise: column.collatable };
    Ok(lowers.zip(uppers).enumerate().map(range).collect())
}

/// Inserts what the query returns, with one statement, and returns how many rows.
///
/// `range` is the key range to filter by and its output column; give none when the query has the range's condition in
/// it already ([`super::template::Rendered::used_range`]). `sample` limits the rows of this statement.
///
/// # Errors
/// When the statement fails; the caller's transaction is spoilt then.
pub async fn insert(
    conn: &mut PgConnection,
    target: Target<'_>,
    columns: &[String],
    query: &str,
    range: Option<(&KeyRange, &str)>,
    sample: Option<i64>,
) -> Result<u64, ImportError> {
    let (list, selected) = (quoted(columns, ""), quoted(columns, "query."));
    let filter =
        range.map(|(range, key)| format!(" WHERE {}", range.condition(&format!("query.{}", quote_ident(key))))).unwrap_or_default();
    let limit = sample.map(|rows| format!(" LIMIT {rows}")).unwrap_or_default();
    let sql = format!("INSERT INTO {} ({list}) SELECT {selected} FROM (\n{query}\n) AS query{filter}{limit}", target.relation());
    execute(conn, target, sql).await
}

/// Inserts into a staged look-up table what is not there by its unique keys, and returns how many rows that were.
///
/// A row is there when any unique key that the query covers is taken. A conflict with another unique key, such as an id
/// that the table numbers itself, is an error and never a silently lost row.
///
/// # Errors
/// When the query covers no unique key, or the statement fails.
pub async fn insert_lookup(
    conn: &mut PgConnection,
    target: Target<'_>,
    columns: &[String],
    query: &str,
    sample: Option<i64>,
) -> Result<u64, ImportError> {
    let keys = covered_keys(conn, target, columns).await?;
    let Some(arbiter) = keys.first() else {
        let (import, table) = (target.import.to_owned(), target.table.to_owned());
        return Err(ImportError::NoUniqueKey { import, table, columns: columns.join(", ") });
    };
    let relation = target.relation();
    let unknown = |key: &Vec<String>| {
        let same = |column: &String| format!("known.{0} = query.{0}", quote_ident(column));
        format!("NOT EXISTS (SELECT FROM {relation} AS known WHERE {})", key.iter().map(same).collect::<Vec<_>>().join(" AND "))
    };
    let sql = format!(
        "INSERT INTO {relation} ({}) SELECT {} FROM (\n{query}\n) AS query WHERE {}{} ON CONFLICT ({}) DO NOTHING",
        quoted(columns, ""),
        quoted(columns, "query."),
        keys.iter().map(unknown).collect::<Vec<_>>().join(" AND "),
        sample.map(|rows| format!(" LIMIT {rows}")).unwrap_or_default(),
        quoted(arbiter, ""),
    );
    execute(conn, target, sql).await
}

/// The unique keys of the target whose columns are all among `columns`.
async fn covered_keys(conn: &mut PgConnection, target: Target<'_>, columns: &[String]) -> Result<Vec<Vec<String>>, ImportError> {
    let rows = sqlx::query(
        "SELECT array_agg(a.attname::text ORDER BY k.at) AS key FROM pg_index i \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
           AND i.indpred IS NULL AND i.indexprs IS NULL AND k.at <= i.indnkeyatts \
         GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attname::text = ANY ($2)) ORDER BY i.indisprimary, i.indexrelid",
    )
    .bind(target.relation())
    .bind(columns)
    .fetch_all(conn)
    .await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get("key")).collect())
        .map_err(failed(target.import, format!("reading the unique keys of {}", target.table)))
}

/// How many rows the query returns.
///
/// # Errors
/// When the query fails.
pub async fn total_rows(conn: &mut PgConnection, import: &str, query: &str) -> Result<i64, ImportError> {
    let sql = format!("SELECT count(*) FROM (\n{query}\n) AS query");
    sqlx::query_scalar(assembled(sql)).persistent(false).fetch_one(conn).await.map_err(failed(import, "counting its rows"))
}

pub(super) fn quoted(columns: &[String], prefix: &str) -> String {
    columns.iter().map(|column| format!("{prefix}{}", quote_ident(column))).collect::<Vec<_>>().join(", ")
}

async fn execute(conn: &mut PgConnection, target: Target<'_>, sql: String) -> Result<u64, ImportError> {
    let done = sqlx::query(assembled(sql)).persistent(false).execute(conn).await;
    Ok(done.map_err(failed(target.import, format!("the insert into {}", target.table)))?.rows_affected())
}
