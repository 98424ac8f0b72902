//! The diagnosing path: a range that the database refused is loaded in pieces, until exactly the refused rows are left over.
//!
//! First the query's output is kept in a temporary table, with the rules' verdicts. Where the query itself fails on a row, the range
//! is cut in halves until that row's key stands alone. Then the rows go in by the hundreds, each piece in a subtransaction; a piece
//! that is refused goes in row by row.

use sqlx::{Connection, PgConnection};

use super::load::{REJECTED, VERDICT, is_about_data};
use super::ranges::{keys_of, middle};
use super::{Counts, ImportError, KeyRange, Load, failed};
use crate::database::checks::reason;
use crate::database::identifiers::{assembled, quote_literal};
use crate::database::run_sql;

/// The range's output; it goes with the transaction at the latest.
const OUTPUT: &str = "pg_temp.portal_release_output";
/// Its row numbers.
const NUMBER: &str = "portal_release_number";
/// Rows that are tried at once.
const PIECE: i32 = 500;
/// Where the number of rows that came in is kept until it is read.
const IMPORTED: &str = "portal_release.imported";
/// Keys of one range on which the query may fail. Where there are more, it fails on all of them.
const MAX_FAILING_KEYS: usize = 100;

/// Loads the range; every row is imported, rejected, or known to the look-up table already.
pub(super) async fn run(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>]) -> Result<Counts, ImportError> {
    let import = load.target.import;
    let what = "telling the refused rows from the others";
    let (mut total, mut failing) = (Counts::default(), 0);
    let mut open: Vec<Option<KeyRange>> = vec![load.range.cloned()];
    while let Some(range) = open.pop() {
        let query = load.source.query(import, range.as_ref())?;
        let mut savepoint = conn.begin().await.map_err(failed(import, what))?;
        let kept = keep(&mut savepoint, load, &query).await;
        let Err(error) = kept else {
            total += in_pieces(&mut savepoint, load, keys).await.map_err(failed(import, what))?;
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
        "CREATE TEMPORARY TABLE {OUTPUT} ON COMMIT DROP AS SELECT (row_number() OVER ())::int AS {NUMBER}, judged.* FROM (\n{}\n) AS judged",
        load.source.judged(query)
    );
    run_sql(conn, sql).await?;
    run_sql(conn, format!("CREATE INDEX ON {OUTPUT} ({NUMBER})")).await
}

/// Loads the kept output in pieces, and rejects what the rules or the database turn away.
async fn in_pieces(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>]) -> Result<Counts, sqlx::Error> {
    let read: i64 = sqlx::query_scalar(assembled(format!("SELECT count(*) FROM {OUTPUT}"))).persistent(false).fetch_one(&mut *conn).await?;
    let by_rule = format!("{} WHERE {VERDICT} IS NOT NULL", load.reject(OUTPUT, "NULL", VERDICT));
    let by_rule = sqlx::query(assembled(by_rule)).persistent(false).execute(&mut *conn).await?.rows_affected();
    let piece = load.insert(keys, OUTPUT, &format!("query.{VERDICT} IS NULL AND query.{NUMBER} BETWEEN at AND at + {PIECE} - 1"));
    let single = load.insert(keys, OUTPUT, &format!("query.{NUMBER} = one"));
    let reject = format!("{} WHERE query.{NUMBER} = one", load.reject(OUTPUT, "state", "refusal"));
    // The conditions are names of whole classes, the same ones as `is_about_data` has.
    let refused = "data_exception OR integrity_constraint_violation OR program_limit_exceeded OR plpgsql_error OR internal_error";
    let block = format!(
        "#variable_conflict use_column
         DECLARE at int; one int; state text; refusal text; came bigint; imported bigint := 0; rejected bigint := 0;
         BEGIN
           FOR at IN SELECT generate_series(1, {read}, {PIECE}) LOOP
             BEGIN
               {piece};
               GET DIAGNOSTICS came = ROW_COUNT;
               imported := imported + came;
             EXCEPTION WHEN {refused} THEN
               FOR one IN SELECT q.{NUMBER} FROM {OUTPUT} q WHERE q.{VERDICT} IS NULL AND q.{NUMBER} BETWEEN at AND at + {PIECE} - 1 ORDER BY 1 LOOP
                 BEGIN
                   {single};
                   GET DIAGNOSTICS came = ROW_COUNT;
                   imported := imported + came;
                 EXCEPTION WHEN {refused} THEN
                   GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, refusal = MESSAGE_TEXT;
                   {reject};
                   rejected := rejected + 1;
                 END;
               END LOOP;
             END;
           END LOOP;
           PERFORM set_config('{IMPORTED}', imported || ' ' || rejected, true);
         END"
    );
    run_sql(conn, format!("DO LANGUAGE plpgsql {}", quote_literal(&block))).await?;
    let counts: Vec<i64> =
        sqlx::query_scalar(assembled(format!("SELECT unnest(string_to_array(current_setting('{IMPORTED}'), ' '))::bigint")))
            .persistent(false)
            .fetch_all(&mut *conn)
            .await?;
    run_sql(conn, format!("DROP TABLE {OUTPUT}")).await?;
    let (imported, refused) = (counts.first().copied().unwrap_or_default(), counts.get(1).copied().unwrap_or_default());
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
    let state = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
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
