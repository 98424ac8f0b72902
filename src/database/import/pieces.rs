//! Many rows at once, and where the database refuses them, one by one: each in a subtransaction.

use sqlx::PgConnection;

use super::sql::NUMBER;
use crate::database::{
    identifiers::{assembled, quote_literal},
    run_sql,
    sqlstate::ABOUT_DATA,
};

/// Rows that are tried at once.
const PIECE: i32 = 500;
/// Where the numbers of rows are kept until they are read.
const COUNTS: &str = "portal_release.counts";

// Variables of the block. No column of anybody has such a name.
/// The number of the current row.
pub(super) const ONE: &str = "portal_release_one";
/// The SQLSTATE of its refusal.
pub(super) const STATE: &str = "portal_release_state";
/// The reason of its refusal.
pub(super) const REFUSAL: &str = "portal_release_refusal";

/// What is done with numbered rows.
pub(super) struct Pieces<'a> {
    /// The table with the rows, which has an index on their numbers.
    pub table: &'a str,
    /// Which of its rows take part: a condition over `numbered`.
    pub open: &'a str,
    /// The statement for the rows whose number meets the condition that it is given, over an expression of its own.
    pub statement: &'a (dyn Fn(&str) -> String + Sync),
    /// PL/pgSQL that improves [`STATE`] and [`REFUSAL`] of row [`ONE`].
    pub explain: String,
    /// The statement that rejects row [`ONE`].
    pub reject: String,
    /// With more rejected rows than this it stops.
    pub most: i64,
}

/// Tries every row. Returns how many the statement took and how many were rejected.
pub(super) async fn run(conn: &mut PgConnection, pieces: &Pieces<'_>) -> Result<(i64, i64), sqlx::Error> {
    let Pieces { table, open, statement, explain, reject, most } = pieces;
    let piece = format!("BETWEEN portal_release_at AND portal_release_at + {PIECE} - 1");
    let (many, single) = (statement(&piece), statement(&format!("= {ONE}")));
    let block = format!(
        "#variable_conflict use_column
         DECLARE portal_release_at bigint; {ONE} bigint; {STATE} text; {REFUSAL} text;
           portal_release_came bigint; portal_release_taken bigint := 0; portal_release_rejected bigint := 0;
         BEGIN
           <<pieces>>
           FOR portal_release_at IN SELECT generate_series(min({NUMBER}), max({NUMBER}), {PIECE}) FROM {table} LOOP
             BEGIN
               {many};
               GET DIAGNOSTICS portal_release_came = ROW_COUNT;
               portal_release_taken := portal_release_taken + portal_release_came;
             EXCEPTION WHEN {ABOUT_DATA} THEN
               FOR {ONE} IN SELECT numbered.{NUMBER} FROM {table} AS numbered WHERE {open} AND numbered.{NUMBER} {piece} ORDER BY 1 LOOP
                 BEGIN
                   {single};
                   GET DIAGNOSTICS portal_release_came = ROW_COUNT;
                   portal_release_taken := portal_release_taken + portal_release_came;
                 EXCEPTION WHEN {ABOUT_DATA} THEN
                   GET STACKED DIAGNOSTICS {STATE} = RETURNED_SQLSTATE, {REFUSAL} = MESSAGE_TEXT;
                   {explain}
                   {reject};
                   portal_release_rejected := portal_release_rejected + 1;
                   EXIT pieces WHEN portal_release_rejected > {most};
                 END;
               END LOOP;
             END;
           END LOOP;
           PERFORM set_config('{COUNTS}', portal_release_taken || ' ' || portal_release_rejected, true);
         END"
    );
    run_sql(conn, format!("DO LANGUAGE plpgsql {}", quote_literal(&block))).await?;
    let counts: Vec<i64> =
        sqlx::query_scalar(assembled(format!("SELECT unnest(string_to_array(current_setting('{COUNTS}'), ' '))::bigint")))
            .persistent(false)
            .fetch_all(conn)
            .await?;
    Ok((counts.first().copied().unwrap_or_default(), counts.get(1).copied().unwrap_or_default()))
}
