//! The table that an import fills, and whether the columns of its rows fit.

use sqlx::PgConnection;

use super::error::{ImportError, failed};
use crate::database::{
    identifiers::qualified,
    views::{OutputColumn, ViewError, verify_query},
};

/// A rule under which rows are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Why.
    pub reason: String,
    /// An SQL condition over the output columns.
    pub when: String,
}

impl Rule {
    /// A rule.
    pub fn new(reason: impl Into<String>, when: impl Into<String>) -> Self {
        Self { reason: reason.into(), when: when.into() }
    }
}

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
    pub(in crate::database) fn relation(&self) -> String {
        qualified(self.schema, self.table)
    }
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

/// Checks that rules are conditions over the output of a query. Runs neither.
///
/// # Errors
/// With the first that is not. The caller's transaction, one of sqlx, stays usable.
pub async fn check_rules(conn: &mut PgConnection, import: &str, query: &str, rules: &[Rule]) -> Result<(), ImportError> {
    if rules.is_empty() {
        return Ok(());
    }
    let columns = output_columns(conn, import, query).await?;
    for Rule { reason: rule, when } in rules {
        let sql = format!("SELECT query.*, CASE WHEN (\n{when}\n) THEN 1 END AS portal_release_verdict FROM (\n{query}\n) AS query");
        if let Err(ViewError::Query { source, .. }) = verify_query(conn, rule, &sql).await {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            return Err(ImportError::Rule { import: import.to_owned(), rule: rule.clone(), columns: names.join(", "), source });
        }
    }
    Ok(())
}

/// The output columns of a query, which is not run.
pub(super) async fn output_columns(conn: &mut PgConnection, import: &str, query: &str) -> Result<Vec<OutputColumn>, ImportError> {
    let name = format!("import {import}");
    verify_query(conn, &name, query).await.map_err(|source| ImportError::Query { import: import.to_owned(), source: Box::new(source) })
}

/// Checks that the target can take these columns and needs no others.
pub(in crate::database) async fn match_columns(conn: &mut PgConnection, target: Target<'_>, names: &[String]) -> Result<(), ImportError> {
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
            None => "is not a column of",
            Some(_) if names.iter().take(at).any(|earlier| earlier == name) => "appears twice among the columns for",
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
