//! CSV files, streamed through COPY. Bytes pass by in the chunks in which they arrive.

mod columns;
mod header;
mod rows;

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{
    checks::reason,
    identifiers::quote_literal,
    import::{ImportError, Target, quoted},
};
use crate::files::{
    FileError,
    content::{Compression, Content},
};
use rows::Rows;

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// Between two fields; one byte.
    pub delimiter: u8,
    /// What stands for no value, where it is not quoted.
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
    /// A line is wrong.
    #[error("import {import}: {file} was refused: {}; correct the file or its csv section in the Portal, nothing of it was imported", reason(.source))]
    Content {
        /// Name of the import.
        import: String,
        /// The file.
        file: String,
        /// What the database said, with line and column.
        source: sqlx::Error,
    },
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// How many rows.
    pub rows: u64,
    /// How many bytes the file has as it is stored; none when only a sample was read.
    pub bytes: Option<u64>,
    /// Hexadecimal SHA-256 of the file as it is stored; none when only a sample was read.
    pub sha256: Option<String>,
}

/// Looks whether the file's columns fit the target. Reads no further than its first line.
///
/// # Errors
/// When the file cannot be read, or does not fit.
pub async fn check(conn: &mut PgConnection, target: Target<'_>, mut file: Content, format: &Format) -> Result<(), CsvError> {
    begin(conn, target, &mut file, format).await.map(|_| ())
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
    let (head, columns) = begin(conn, target, &mut file, format).await?;
    // The header is sent too, so that Postgres counts lines as an editor does; it skips the line unread.
    let statement = format!(
        "COPY {} ({}) FROM STDIN (FORMAT csv, HEADER true, DELIMITER {}, NULL {}, ENCODING {})",
        target.relation(),
        quoted(&columns, ""),
        quote_literal(&char::from(format.delimiter).to_string()),
        quote_literal(&format.null),
        quote_literal(&format.encoding),
    );
    let mut rows = sample.map(|rows| Rows::new(&head, rows));
    let mut copy = conn.copy_in_raw(&statement).await.map_err(refused)?;
    let mut cut = send(&mut copy, &head, rows.as_mut()).await.map_err(refused)?;
    let mut interrupted = None;
    while !cut {
        match file.next().await {
            Ok([]) => break,
            Ok(chunk) => cut = send(&mut copy, chunk, rows.as_mut()).await.map_err(refused)?,
            Err(error) => {
                interrupted = Some(error);
                // No encoding accepts a NUL, so the COPY fails whatever came before, and nobody can commit the half.
                // `abort` would leave a reply unread when the server has already found a bad line.
                copy.send([0_u8].as_slice()).await.map_err(refused)?;
                break;
            }
        }
    }
    let finished = copy.finish().await;
    if let Some(source) = interrupted {
        return Err(CsvError::Read { import: target.import.to_owned(), source });
    }
    let rows = finished.map_err(refused)?;
    let (bytes, sha256) = file.fingerprint().map(|whole| (whole.bytes, whole.sha256)).unzip();
    Ok(Loaded { rows, bytes, sha256 })
}

type Copy<'a> = sqlx::postgres::PgCopyIn<&'a mut PgConnection>;

/// Sends a chunk, or what the sample leaves of it. `true`: the sample is complete.
async fn send(copy: &mut Copy<'_>, chunk: &[u8], rows: Option<&mut Rows>) -> Result<bool, sqlx::Error> {
    let end = rows.and_then(|rows| rows.end_in(chunk));
    copy.send(chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default()).await?;
    Ok(end.is_some())
}

/// Reads until the first line is complete. Gives what was read, and the target's columns in the file's order.
async fn begin(
    conn: &mut PgConnection,
    target: Target<'_>,
    file: &mut Content,
    format: &Format,
) -> Result<(Vec<u8>, Vec<String>), CsvError> {
    let (import, name) = (target.import, file.name().to_owned());
    let mut head = Vec::new();
    while header::end(&head).is_none() && head.len() <= header::MAX_BYTES {
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
        return Err(bad_header(format!("is no text: the file is compressed with {compressed} into its csv section in the Portal")));
    }
    let names = header::names(conn, &head, format).await.map_err(bad_header)?;
    let columns = columns::matched(conn, target, &name, &names, format).await?;
    Ok((head, columns))
}
