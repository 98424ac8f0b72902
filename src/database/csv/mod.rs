//! CSV files, streamed through COPY. Bytes pass by in the chunks in which they arrive, and never more than one row is held.
//!
//! [`load`] hands a file to COPY as it is: it comes in as a whole or fails at its first wrong line. [`load_accounted`] takes it apart,
//! so that single rows can be rejected.

mod accounted;
mod columns;
mod header;
mod newline;
mod records;
mod rows;

use std::collections::BTreeMap;

use sqlx::PgConnection;

pub use accounted::{Accounting, load_accounted};

use super::{
    checks::reason,
    identifiers::quote_literal,
    import::{Counts, FileRows, ImportError, Rule, Target, check_rules, quoted},
};
use crate::classify::Classify;
use crate::storage::{
    FileError,
    content::{Compression, Content},
};
use newline::Newline;
use rows::Rows;

/// The longest row, in bytes. It bounds what a file without line ends takes of anybody's memory.
pub const MAX_ROW_BYTES: usize = 32 << 20;

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Between two fields; one byte.
    pub delimiter: u8,
    /// The unquoted text that means NULL.
    pub null: String,
    /// Postgres' name of the encoding.
    pub encoding: String,
    /// Columns of the target by columns of the file. What is not here keeps its name.
    pub columns: BTreeMap<String, String>,
}

impl Default for Format {
    fn default() -> Self {
        Self { delimiter: b',', null: String::new(), encoding: "UTF8".to_owned(), columns: BTreeMap::new() }
    }
}

/// A CSV file that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// The file cannot be read.
    #[error("import {import}: {source}")]
    Read {
        /// Name of the import.
        import: String,
        /// Why.
        source: FileError,
    },
    /// The header cannot be understood.
    #[error("import {import}: the header of {file} {problem}")]
    Header {
        /// Name of the import.
        import: String,
        /// The file.
        file: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The header does not fit the target.
    #[error("import {import}: {file} does not fit: {problem}")]
    Columns {
        /// Name of the import.
        import: String,
        /// The file.
        file: String,
        /// What does not fit, and what to do.
        problem: String,
    },
    /// The target cannot be filled.
    #[error(transparent)]
    Target(ImportError),
    /// A row without an end: where it begins. What follows cannot be read.
    #[error("import {import}: {file}, line {line}: {problem}; no row of it was imported")]
    Row {
        /// Name of the import.
        import: String,
        /// The file.
        file: String,
        /// The line in which the row begins.
        line: u64,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A line is wrong.
    #[error("import {import}: {file} was refused: {}; correct the file or its csv section in the Portal, no row of it was imported", reason(.source))]
    Content {
        /// Name of the import.
        import: String,
        /// The file.
        file: String,
        /// What the database said, with line and column.
        source: sqlx::Error,
    },
}

impl Classify for CsvError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.is_transient(),
            Self::Target(error) => error.is_transient(),
            Self::Content { source, .. } => source.is_transient(),
            Self::Header { .. } | Self::Columns { .. } | Self::Row { .. } => false,
        }
    }
}

/// A row whose end cannot be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BadRow {
    /// The line in which it begins, from 1.
    line: u64,
    /// What is wrong, and what to do.
    problem: String,
}

impl BadRow {
    fn too_long(line: u64, in_quotes: bool) -> Self {
        let next = if in_quotes { "check for an unclosed quote there" } else { "check its line endings" };
        Self { line, problem: format!("the row is longer than {} MiB; {next}", MAX_ROW_BYTES >> 20) }
    }

    fn of(self, import: &str, file: &str) -> CsvError {
        CsvError::Row { import: import.to_owned(), file: file.to_owned(), line: self.line, problem: self.problem }
    }
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What became of its rows.
    pub counts: Counts,
    /// How many bytes the file has as it is stored; none when only a sample was read.
    pub bytes: Option<u64>,
    /// Hexadecimal SHA-256 of the file as it is stored; none when only a sample was read.
    pub sha256: Option<String>,
}

/// Looks whether the file's columns fit the target, and the rules the columns. Reads no further than its first
/// line.
///
/// # Errors
/// When the file cannot be read, or does not fit.
pub async fn check(
    conn: &mut PgConnection,
    target: Target<'_>,
    mut file: Content,
    format: &Format,
    rules: &[Rule],
) -> Result<(), CsvError> {
    let begun = begin(conn, target, &mut file, format).await?;
    let rows = FileRows::new(conn, target, &begun.columns, &format.encoding).await.map_err(CsvError::Target)?;
    check_rules(conn, target.import, &rows.shape(), rules).await.map_err(CsvError::Target)
}

/// Loads the file into the target; `sample` limits the rows. Its first line names the columns.
///
/// On an error nothing remains once the caller rolls its transaction back. A future that is dropped halfway leaves the
/// connection in the middle of a COPY: close it.
///
/// # Errors
/// With the file, and the line and column where Postgres knows them.
pub async fn load(
    conn: &mut PgConnection,
    target: Target<'_>,
    mut file: Content,
    format: &Format,
    sample: Option<u64>,
) -> Result<Loaded, CsvError> {
    let name = file.name().to_owned();
    let refused = |source| CsvError::Content { import: target.import.to_owned(), file: name.clone(), source };
    let Begun { head, columns, newline, .. } = begin(conn, target, &mut file, format).await?;
    // The header is sent too, so that Postgres counts lines as an editor does; it skips the line unread.
    let statement = format!(
        "COPY {} ({}) FROM STDIN (FORMAT csv, HEADER true, DELIMITER {}, NULL {}, ENCODING {})",
        target.relation(),
        quoted(&columns, ""),
        quote_literal(&char::from(format.delimiter).to_string()),
        quote_literal(&format.null),
        quote_literal(&format.encoding),
    );
    let mut rows = Rows::new(newline, sample);
    let mut copy = conn.copy_in_raw(&statement).await.map_err(refused)?;
    let fed = feed(&mut copy, &mut rows, &mut file, &head).await;
    // No encoding accepts a NUL.
    let rows = finish(copy, fed, &[0], target.import, &name, refused).await?;
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    Ok(loaded(file, Counts { read: rows, imported: rows, rejected: 0 }))
}

async fn feed(copy: &mut Copy<'_>, rows: &mut Rows, file: &mut Content, head: &[u8]) -> Result<(), Stop> {
    let mut is_complete = send(copy, head, rows).await?;
    while !is_complete {
        let chunk = file.next().await?;
        if chunk.is_empty() {
            return Ok(rows.end()?);
        }
        is_complete = send(copy, chunk, rows).await?;
    }
    Ok(())
}

/// Sends a chunk, or what the sample leaves of it. `true`: the sample is complete.
async fn send(copy: &mut Copy<'_>, chunk: &[u8], rows: &mut Rows) -> Result<bool, Stop> {
    let end = rows.pass(chunk)?;
    copy.send(chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default()).await?;
    Ok(end.is_some())
}

type Copy<'a> = sqlx::postgres::PgCopyIn<&'a mut PgConnection>;

/// Why a file was not sent to its end.
enum Stop {
    Row(BadRow),
    File(FileError),
    Database(sqlx::Error),
}

impl From<BadRow> for Stop {
    fn from(row: BadRow) -> Self {
        Self::Row(row)
    }
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Ends the COPY, and returns how many rows it took. One that stopped early is made to fail by `poison`, which it does not accept whatever
/// came before; so nobody can commit the half. `abort` would leave a reply unread when the server has found a bad line already.
async fn finish(
    mut copy: Copy<'_>,
    fed: Result<(), Stop>,
    poison: &[u8],
    import: &str,
    file: &str,
    refused: impl Fn(sqlx::Error) -> CsvError,
) -> Result<u64, CsvError> {
    let why = match fed {
        Ok(()) => return copy.finish().await.map_err(refused),
        Err(Stop::Database(error)) => return Err(refused(error)),
        Err(Stop::Row(row)) => row.of(import, file),
        Err(Stop::File(source)) => CsvError::Read { import: import.to_owned(), source },
    };
    copy.send(poison).await.map_err(refused)?;
    // It fails, as it should.
    let _ = copy.finish().await;
    Err(why)
}

fn loaded(file: Content, counts: Counts) -> Loaded {
    let (bytes, sha256) = file.fingerprint().map(|whole| (whole.bytes, whole.sha256)).unzip();
    Loaded { counts, bytes, sha256 }
}

/// A file whose header was read.
struct Begun {
    /// What was read so far.
    head: Vec<u8>,
    /// Where the header ends in it, the line's end included.
    header: usize,
    /// The target's columns in the file's order.
    columns: Vec<String>,
    newline: Newline,
}

/// Reads until the first line is complete.
async fn begin(conn: &mut PgConnection, target: Target<'_>, file: &mut Content, format: &Format) -> Result<Begun, CsvError> {
    let (import, name) = (target.import, file.name().to_owned());
    let mut head = Vec::new();
    // One more byte distinguishes a line that ends in CR from one that ends in CR and LF.
    while header::end(&head).is_none_or(|end| end + 1 == head.len()) && head.len() <= header::MAX_BYTES {
        match file.next().await {
            Ok([]) => break,
            Ok(chunk) => head.extend_from_slice(chunk),
            Err(source) => return Err(CsvError::Read { import: import.to_owned(), source }),
        }
    }
    let bad_header = |problem: String| CsvError::Header { import: import.to_owned(), file: name.clone(), problem };
    let compressed = match Compression::of_content(&head) {
        Compression::None => None,
        Compression::Gzip => Some("gzip, so write compression: Gzip"),
        Compression::Zstd => Some("zstd, so write compression: Zstd"),
    };
    if let Some(compressed) = compressed {
        return Err(bad_header(format!("is not text: the file is compressed with {compressed} into its csv section in the Portal")));
    }
    let names = header::names(conn, &head, format).await.map_err(bad_header)?;
    let columns = columns::matched(conn, target, &name, &names, format).await?;
    let newline = Newline::of(&head);
    let header = header::end(&head).map_or(head.len(), |end| end + newline.length()).min(head.len());
    Ok(Begun { head, header, columns, newline })
}
