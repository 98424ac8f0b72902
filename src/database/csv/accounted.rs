//! Files whose rows may be rejected one by one: every row is kept as bytes first, and those that Postgres rejects are accounted for.

use sqlx::PgConnection;

use super::{Begun, Copy, CsvError, Format, Loaded, Stop, begin, finish, loaded, records::Records};
use crate::{
    database::import::{ENOUGH_REJECTED, FileRows, ImportError, Load, Origin, Rule, Source, Target, load_file},
    storage::content::Content,
};

/// Bytes that are handed on at once.
const CHUNK: usize = 64 * 1024;
/// What is no row in binary: it announces more fields than there are.
const NO_ROW: &[u8] = &[0x7f, 0xff];

/// How the rows of a file are accounted for.
#[derive(Debug, Clone)]
pub struct Accounting<'a> {
    /// The release, for its rejected rows.
    pub release: i64,
    /// Reasons, and SQL conditions over the file's columns, with the types of the target's, under which a row is rejected.
    pub rules: &'a [Rule],
    /// The target is a look-up table: only what is not there by its unique keys comes in.
    pub lookup: bool,
    /// How many of the rows may be rejected, from 0 to 1. With many more than these the import is stopped early.
    pub accepted: f64,
}

/// Loads the file into the target, row by row where it must be; `sample` limits the rows. Its first line names the columns.
///
/// Every row is imported, or in `portal_release.rejected_rows`, or known to the look-up table already. On an error nothing remains once
/// the caller rolls its transaction back. A future that is dropped halfway leaves the connection in the middle of a COPY: close it.
///
/// # Errors
/// When the file cannot be read, its rows cannot be separated, or so many are rejected that the file is to blame.
pub async fn load_accounted(
    conn: &mut PgConnection,
    target: Target<'_>,
    mut file: Content,
    format: &Format,
    sample: Option<u64>,
    accounting: &Accounting<'_>,
) -> Result<Loaded, CsvError> {
    let begun = begin(conn, target, &mut file, format).await?;
    let rows = FileRows::new(conn, target, &begun.columns, &format.encoding).await.map_err(CsvError::Target)?;
    let read = keep(conn, target, &mut file, format, sample, &begun, &rows).await?;
    let rows = rows.give_up_beyond(most(read, accounting.accepted));
    let source = Source { origin: Origin::File(&rows), key: None, rules: accounting.rules.to_vec(), sample: None };
    let load =
        Load { release: accounting.release, target, columns: rows.columns(), source: &source, range: None, lookup: accounting.lookup };
    let counts = load_file(conn, &load, &rows).await.map_err(CsvError::Target)?;
    Ok(loaded(file, counts))
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a limit, and no account")]
fn most(read: u64, accepted: f64) -> i64 {
    ENOUGH_REJECTED.max((read as f64 * accepted).ceil() as i64)
}

/// Keeps the rows in a temporary table, and returns how many there are.
async fn keep(
    conn: &mut PgConnection,
    target: Target<'_>,
    file: &mut Content,
    format: &Format,
    sample: Option<u64>,
    begun: &Begun,
    rows: &FileRows,
) -> Result<u64, CsvError> {
    let (import, name) = (target.import, file.name().to_owned());
    let failed = |source| {
        CsvError::Target(ImportError::Statement { import: import.to_owned(), what: format!("keeping the rows of {name}"), source })
    };
    // The text for NULL is compared byte by byte.
    let null: Vec<u8> = sqlx::query_scalar("SELECT pg_catalog.convert_to($1, $2)")
        .bind(&format.null)
        .bind(&format.encoding)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    rows.create(conn).await.map_err(failed)?;
    let (header, first) = begun.head.split_at(begun.header);
    let mut records = Records::new(&begun.columns, format, &null, header, begun.newline, sample);
    let mut copy = conn.copy_in_raw(&rows.copy()).await.map_err(failed)?;
    let fed = feed(&mut copy, &mut records, file, first).await;
    finish(copy, fed, NO_ROW, import, &name, failed).await
}

async fn feed(copy: &mut Copy<'_>, records: &mut Records<'_>, file: &mut Content, first: &[u8]) -> Result<(), Stop> {
    let mut is_complete = records.push(first)?;
    send(copy, records).await?;
    while !is_complete {
        let chunk = file.next().await?;
        if chunk.is_empty() {
            break;
        }
        is_complete = records.push(chunk)?;
        send(copy, records).await?;
    }
    records.finish()?;
    Ok(send(copy, records).await?)
}

async fn send(copy: &mut Copy<'_>, records: &mut Records<'_>) -> Result<(), sqlx::Error> {
    // In small parts, for the connection keeps a buffer as long as the longest.
    for part in records.complete().chunks(CHUNK) {
        copy.send(part).await?;
    }
    records.sent();
    Ok(())
}
