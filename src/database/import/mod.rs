//! Imports: one set-based statement per target, or per key range of it, and an account of every row.

mod diagnose;
mod file_rows;
mod load;
mod pieces;
mod ranges;
mod reads;

use sqlx::PgConnection;

pub use file_rows::FileRows;
pub use load::{Counts, Load, Origin, Source, load, load_file};
pub use ranges::{KeyRange, Plan, plan_ranges};
pub use reads::{RelationKind, RelationRead, relations_behind, relations_read};

use super::checks::reason;
use super::identifiers::{qualified, quote_ident};
use super::template::TemplateError;
use super::views::{OutputColumn, ViewError, verify_query};

/// With more rejected rows than this, and than are accepted, an import is given up before its end.
pub const ENOUGH_REJECTED: i64 = 10_000;

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
        source: Box<ViewError>,
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
    /// A template of the import is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The query fails on a row, and nothing tells which.
    #[error(
        "import {import}: its query fails on a row that cannot be told from the others: {}; correct the source, or give the import a `key` so that the row can be found and rejected",
        reason(.source)
    )]
    Unattributable {
        /// Name of the import.
        import: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The query fails on so many keys that the query is to blame.
    #[error("import {import}: its query fails on more than {keys} keys of one range, the last time with: {}; correct the query", reason(.source))]
    Hopeless {
        /// Name of the import.
        import: String,
        /// So many keys.
        keys: usize,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A reject rule is no condition over the output columns.
    #[error(
        "import {import}: the condition of reject '{rule}' is wrong: {}; it may name the output columns ({columns}); correct it in the Portal",
        reason(.source)
    )]
    Rule {
        /// Name of the import.
        import: String,
        /// The rule's reason.
        rule: String,
        /// What the condition may name.
        columns: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// So many rows are refused that the file is to blame.
    #[error(
        "import {import}: more than {rows} rows of its file are refused, so it was given up: {reasons}; correct the file or its csv section in the Portal, nothing of it was imported"
    )]
    TooMany {
        /// Name of the import.
        import: String,
        /// So many rows.
        rows: i64,
        /// The most frequent reasons.
        reasons: String,
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

/// The columns that the query fills, in the order of its output, which are the target's by name.
///
/// # Errors
/// When the query is wrong, an output column has no place in the target, or the target needs one that is not there.
pub async fn columns(conn: &mut PgConnection, target: Target<'_>, query: &str) -> Result<Vec<OutputColumn>, ImportError> {
    let output = output_columns(conn, target.import, query).await?;
    let names: Vec<String> = output.iter().map(|column| column.name.clone()).collect();
    match_columns(conn, target, &names).await?;
    Ok(output)
}

/// Checks that rules, as reasons and conditions, are conditions over the output of a query. Runs neither.
///
/// # Errors
/// With the first that is none. The caller's transaction, one of sqlx, goes on.
pub async fn check_rules(conn: &mut PgConnection, import: &str, query: &str, rules: &[(String, String)]) -> Result<(), ImportError> {
    if rules.is_empty() {
        return Ok(());
    }
    let columns = output_columns(conn, import, query).await?;
    for (rule, when) in rules {
        let sql = format!("SELECT query.*, CASE WHEN (\n{when}\n) THEN 1 END AS portal_release_verdict FROM (\n{query}\n) AS query");
        if let Err(ViewError::Query { source, .. }) = verify_query(conn, rule, &sql).await {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            return Err(ImportError::Rule { import: import.to_owned(), rule: rule.clone(), columns: names.join(", "), source });
        }
    }
    Ok(())
}

async fn output_columns(conn: &mut PgConnection, import: &str, query: &str) -> Result<Vec<OutputColumn>, ImportError> {
    let name = format!("import {import}");
    verify_query(conn, &name, query).await.map_err(|source| ImportError::Query { import: import.to_owned(), source: Box::new(source) })
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

pub(super) fn quoted(columns: &[String], prefix: &str) -> String {
    columns.iter().map(|column| format!("{prefix}{}", quote_ident(column))).collect::<Vec<_>>().join(", ")
}
