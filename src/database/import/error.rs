//! Why an import cannot be made.

use crate::{
    classify::Classify,
    database::{checks::reason, template::TemplateError, views::ViewError},
};

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
    #[error("import {import}: its key {key} is not an output column of the query; correct `key` in the Portal")]
    NoKey {
        /// Name of the import.
        import: String,
        /// The key.
        key: String,
    },
    /// A look-up table has no unique key that the query covers.
    #[error(
        "import {import}: no unique key of look-up table {table} is among the columns {columns}, so new rows cannot be distinguished from existing ones; import such a key, or add a unique constraint to the live table"
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
    /// The query fails on a row that cannot be identified.
    #[error(
        "import {import}: its query fails on a row that cannot be identified: {}; correct the source, or give the import a `key` so that the row can be found and rejected",
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
        "import {import}: more than {rows} rows of its file were rejected, so the import was stopped: {reasons}; correct the file or its csv section in the Portal, no row of it was imported"
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

impl Classify for ImportError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Query { source, .. } => source.is_transient(),
            Self::Unattributable { source, .. }
            | Self::Hopeless { source, .. }
            | Self::Rule { source, .. }
            | Self::Statement { source, .. } => source.is_transient(),
            Self::NoTarget { .. }
            | Self::Column { .. }
            | Self::Missing { .. }
            | Self::NoKey { .. }
            | Self::NoUniqueKey { .. }
            | Self::Template(_)
            | Self::TooMany { .. } => false,
        }
    }
}

/// What was being done when a statement failed.
pub(super) fn failed(import: &str, what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> ImportError {
    let (import, what) = (import.to_owned(), what.into());
    move |source| ImportError::Statement { import, what, source }
}
