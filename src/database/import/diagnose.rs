//! The diagnosing path: a range that the database refused is loaded in pieces, until exactly the refused rows are left over.
//!
//! First the query's output is kept in a temporary table, with the rules' verdicts. Where the query itself fails on a row, the range
//! is cut in halves until only that row's key is left. Of a file nothing has to be run again: its rows are converted in pieces. Then the
//! rows go in by the hundreds, each piece in a subtransaction; a piece that is refused goes in row by row.

use sqlx::{Connection, PgConnection};

use super::{
    error::{ImportError, failed},
    file_rows::{self, FileRows},
    pieces::{self, ONE, Pieces, REFUSAL, STATE},
    ranges::{keys_of, middle},
    sql::{NUMBER, REJECTED, VERDICT},
    statement::Load,
};
use crate::database::{
    checks::reason,
    counts::Counts,
    identifiers::{assembled, quote_literal},
    key_range::KeyRange,
    ledger::imports::{describe, reasons},
    run_sql,
    sqlstate::{self, ABOUT_DATA, is_about_data},
};

/// The range's output; it goes with the transaction at the latest.
const OUTPUT: &str = "pg_temp.portal_release_output";
/// Keys of one range on which the query may fail. Where there are more, it fails on all of them.
const MAX_FAILING_KEYS: usize = 100;

/// Loads a range of a query's output; every row is imported, rejected, or known to the look-up table already.
pub(super) async fn of_query(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>]) -> Result<Counts, ImportError> {
    let import = load.target.import;
    let what = "separating the rejected rows";
    let (mut total, mut failing) = (Counts::default(), 0);
    let mut open: Vec<Option<KeyRange>> = vec![load.range.cloned()];
    while let Some(range) = open.pop() {
        let query = load.source.query(import, range.as_ref())?;
        let mut savepoint = conn.begin().await.map_err(failed(import, what))?;
        let kept = keep(&mut savepoint, load, &query).await;
        let Err(error) = kept else {
            total += in_pieces(&mut savepoint, load, keys, i64::MAX).await.map_err(failed(import, what))?;
            savepoint.commit().await.map_err(failed(import, what))?;
            continue;
        };
        savepoint.rollback().await.map_err(failed(import, what))?;
        if !is_about_data(&error) {
            return Err(failed(import, what)(error));
        }
        let (Some(range), Some(key)) = (range, load.source.key) else {
            return Err(ImportError::Unattributable { import: import.to_owned(), source: error });
        };
        if let Some(bound) = middle(conn, &query, key, &range).await.map_err(failed(import, what))? {
            let (first, second) = range.cut(&bound);
            open.extend([Some(second), Some(first)]);
            continue;
        }
        failing += 1;
        if failing > MAX_FAILING_KEYS {
            return Err(ImportError::Hopeless { import: import.to_owned(), keys: MAX_FAILING_KEYS, source: error });
        }
        total += give_up(conn, load, &query, key, &range, &error).await.map_err(failed(import, what))?;
    }
    Ok(total)
}

/// Keeps the query's output and the verdicts.
async fn keep(conn: &mut PgConnection, load: &Load<'_>, query: &str) -> Result<(), sqlx::Error> {
    let sql = format!(
        "CREATE TEMPORARY TABLE {OUTPUT} ON COMMIT DROP AS SELECT row_number() OVER () AS {NUMBER}, judged.* FROM (\n{}\n) AS judged",
        load.source.judged(query)
    );
    run_sql(conn, sql).await?;
    run_sql(conn, format!("CREATE INDEX ON {OUTPUT} ({NUMBER})")).await
}

/// Loads the rows of a file, of which some are refused: first the fields are converted, then the rows go in. Every row is imported,
/// rejected, or known to the look-up table already.
pub(super) async fn of_file(
    conn: &mut PgConnection,
    load: &Load<'_>,
    file: &FileRows,
    keys: &[Vec<String>],
) -> Result<Counts, ImportError> {
    let failed = |source| failed(load.target.import, "separating the rejected rows of its file")(source);
    let refused = convert(conn, load, file).await.map_err(failed)?;
    let mut counts = Counts { read: refused, imported: 0, rejected: refused };
    if refused <= file.most() {
        counts += in_pieces(conn, load, keys, file.most()).await.map_err(failed)?;
    }
    if counts.rejected <= file.most() {
        return Ok(counts);
    }
    let reasons = reasons(conn, load.release, load.target.import).await.map_err(failed)?;
    Err(ImportError::TooMany { import: load.target.import.to_owned(), rows: file.most(), reasons: describe(&reasons) })
}

/// Keeps the rows whose fields can be converted, with the verdicts, and rejects the others. Returns how many those are.
async fn convert(conn: &mut PgConnection, load: &Load<'_>, file: &FileRows) -> Result<i64, sqlx::Error> {
    file.index(conn).await?;
    let judged = |condition: &str| load.source.judged(&file.query(condition));
    run_sql(conn, format!("CREATE TEMPORARY TABLE {OUTPUT} ON COMMIT DROP AS {} WITH NO DATA", judged("FALSE"))).await?;
    let pieces = Pieces {
        table: file_rows::TABLE,
        open: "TRUE",
        statement: &|condition| format!("INSERT INTO {OUTPUT} {}", judged(&format!("file.{NUMBER} {condition}"))),
        explain: file.explain(ONE, ABOUT_DATA, STATE, REFUSAL),
        reject: format!("{} WHERE query.{NUMBER} = {ONE}", load.reject(file_rows::TABLE, STATE, REFUSAL)),
        most: file.most(),
    };
    let (_, refused) = pieces::run(conn, &pieces).await?;
    run_sql(conn, format!("CREATE INDEX ON {OUTPUT} ({NUMBER})")).await?;
    Ok(refused)
}

/// Loads the kept output in pieces, without the rows that the rules or the database reject.
async fn in_pieces(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>], most: i64) -> Result<Counts, sqlx::Error> {
    let read: i64 = sqlx::query_scalar(assembled(format!("SELECT count(*) FROM {OUTPUT}"))).persistent(false).fetch_one(&mut *conn).await?;
    let by_rule = format!("{} WHERE {VERDICT} IS NOT NULL", load.reject(OUTPUT, "NULL", VERDICT));
    let by_rule = sqlx::query(assembled(by_rule)).persistent(false).execute(&mut *conn).await?.rows_affected();
    let pieces = Pieces {
        table: OUTPUT,
        open: &format!("numbered.{VERDICT} IS NULL"),
        statement: &|condition| load.insert(keys, OUTPUT, &format!("query.{VERDICT} IS NULL AND query.{NUMBER} {condition}")),
        explain: String::new(),
        reject: format!("{} WHERE query.{NUMBER} = {ONE}", load.reject(OUTPUT, STATE, REFUSAL)),
        most,
    };
    let (imported, refused) = pieces::run(conn, &pieces).await?;
    run_sql(conn, format!("DROP TABLE {OUTPUT}")).await?;
    Ok(Counts { read, imported, rejected: refused + i64::try_from(by_rule).unwrap_or(i64::MAX) })
}

/// Rejects the rows of one key on which the query itself fails: of such a row nothing but the key is known.
async fn give_up(
    conn: &mut PgConnection,
    load: &Load<'_>,
    query: &str,
    key: &str,
    range: &KeyRange,
    error: &sqlx::Error,
) -> Result<Counts, sqlx::Error> {
    let state = sqlstate::code(error).unwrap_or_default();
    let sql = format!(
        "INSERT INTO {REJECTED} SELECT {}, {}, left(k::text, 200), {}, {}, jsonb_build_object({}, left(k::text, 200)) FROM ({}) AS rows",
        load.release,
        quote_literal(load.target.import),
        quote_literal(&state),
        quote_literal(&format!("the query fails: {}", reason(error))),
        quote_literal(key),
        keys_of(query, key, range.bytewise),
    );
    let rejected = sqlx::query(assembled(sql)).persistent(false).execute(conn).await?.rows_affected();
    let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
    Ok(Counts { read: rejected, imported: 0, rejected })
}
