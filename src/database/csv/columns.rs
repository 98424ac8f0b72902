//! Which column of the file goes where.

use sqlx::PgConnection;

use super::{CsvError, Format};
use crate::database::import::{ImportError, Target, match_columns};

/// At most this many of the file's columns are listed in a message.
const LISTED: usize = 20;

/// The target's columns for the file's, in the file's order.
///
/// # Errors
/// When a column has no place, comes twice or is missing.
pub(super) async fn matched(
    conn: &mut PgConnection,
    target: Target<'_>,
    file: &str,
    header: &[String],
    format: &Format,
) -> Result<Vec<String>, CsvError> {
    let wrong = |problem: String| CsvError::Columns { import: target.import.to_owned(), file: file.to_owned(), problem };
    if let Some(twice) = header.iter().enumerate().find(|(at, name)| header.iter().take(*at).any(|earlier| earlier == *name)) {
        return Err(wrong(format!("its column {} appears twice; give each column of the file its own name", shown(twice.1))));
    }
    if let Some((column, into)) = format.columns.iter().find(|(column, _)| !header.contains(column)) {
        return Err(wrong(format!(
            "it has no column {}, which csv.columns puts into {into}; correct csv.columns or the file, which has: {}",
            shown(column),
            listed(header)
        )));
    }
    let columns: Vec<String> = header.iter().map(|name| format.columns.get(name).unwrap_or(name).clone()).collect();
    match match_columns(conn, target, &columns).await {
        Ok(()) => Ok(columns),
        Err(ImportError::Column { column, problem, table, .. }) => {
            let last = columns.iter().rposition(|name| *name == column);
            let name = last.and_then(|at| header.get(at)).map(|name| shown(name)).unwrap_or_default();
            let mapped = if name == shown(&column) { String::new() } else { format!(" is mapped to {}, which", shown(&column)) };
            Err(wrong(format!(
                "its column {name}{mapped} {problem} {table}; map it with csv.columns in the Portal, or remove it from the file"
            )))
        }
        Err(ImportError::Missing { column, table, .. }) => Err(wrong(format!(
            "none of its columns is mapped to column {column} of {table}, which may not be null and has no default; add it to the file or to csv.columns. The file has: {}",
            listed(header)
        ))),
        Err(other) => Err(CsvError::Target(other)),
    }
}

fn listed(header: &[String]) -> String {
    let mut text = header.iter().take(LISTED).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    if let Some(more) = header.len().checked_sub(LISTED).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// A name from a file, in bounded length and on one line.
fn shown(name: &str) -> String {
    let short: String = name.chars().take(63).map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if short.chars().count() < name.chars().count() { format!("{short}…") } else { short }
}
