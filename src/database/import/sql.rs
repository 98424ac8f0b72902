//! The names and expressions that the statements of an import share.

use crate::database::{
    identifiers::{quote_ident, quote_literal},
    views::OutputColumn,
};

/// The column that a rule's verdict is in, beside the query's own.
pub(super) const VERDICT: &str = "portal_release_verdict";
/// The longest text of one column that is kept of a rejected row, in characters.
const MAX_KEPT_CHARS: usize = 1000;
/// Columns of one `jsonb_build_object`, which takes at most 100 arguments.
const COLUMNS_AT_ONCE: usize = 48;
/// The columns of `portal_release.rejected_rows` that a statement writes.
pub(super) const REJECTED: &str = "portal_release.rejected_rows (release_id, import, key, sqlstate, reason, row)";
/// The line of the file in which a row begins, which identifies the row.
pub(super) const NUMBER: &str = "portal_release_number";

/// A list of columns, each with `prefix` before it.
pub(in crate::database) fn quoted(columns: &[String], prefix: &str) -> String {
    columns.iter().map(|column| format!("{prefix}{}", quote_ident(column))).collect::<Vec<_>>().join(", ")
}

/// A SQL expression for a row of `query` as JSON. Numbers and truth values are kept, everything else is text of bounded length.
pub(super) fn row_as_json(columns: &[OutputColumn]) -> String {
    const PLAIN: [&str; 8] = ["smallint", "integer", "bigint", "real", "double precision", "numeric", "boolean", "oid"];
    let field = |column: &OutputColumn| {
        let value = format!("query.{}", quote_ident(&column.name));
        let shown = if PLAIN.contains(&column.type_name.as_str()) { value } else { cut(&format!("{value}::text")) };
        (column.name.clone(), shown)
    };
    json_object(columns.iter().map(field).collect())
}

/// A SQL expression for a JSON object of names and SQL expressions.
pub(super) fn json_object(fields: Vec<(String, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{}, {value}", quote_literal(&name))).collect();
    let objects: Vec<String> = fields.chunks(COLUMNS_AT_ONCE).map(|part| format!("jsonb_build_object({})", part.join(", "))).collect();
    if objects.is_empty() { "'{}'::jsonb".to_owned() } else { objects.join(" || ") }
}

/// A SQL expression for a text in bounded length, with a mark where it is cut.
pub(super) fn cut(text: &str) -> String {
    format!(
        "CASE WHEN length({text}) > {MAX_KEPT_CHARS} THEN left({text}, {MAX_KEPT_CHARS}) || '… (cut, ' || length({text}) || ' characters)' ELSE {text} END"
    )
}
