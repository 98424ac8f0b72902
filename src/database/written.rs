//! What was written to live tables since they became live, counted row by row.
//!
//! Every row carries the id of the transaction that wrote it (`xmin`), and the swap keeps its snapshot: the transactions that it sees.
//! A row of another transaction was written later. `VACUUM (FREEZE)` leaves `xmin` as it is (since Postgres 9.4) and only marks the row, so
//! it is compared whether frozen or not. It has 32 bits; the upper ones are those of the newest id that is not younger than the
//! snapshot of the count, which is right for rows up to 4 billion transactions old. An older row may be counted as new, never the
//! other way round. A transaction that had begun before the swap is recognised by the snapshot's list of those in progress; its
//! subtransactions are not in that list, and what they write is found because the table then has more rows from that time than
//! it had; it is missed only where as many rows from that time were deleted.
//!
//! The counters of `pg_stat_user_tables` prove nothing: a session sends them up to ten seconds late, and a crash forgets them.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{PgConnection, Row};

use super::identifiers::{Generation, Relations, assembled, qualified};
use crate::release::{TableWrites, Written};

/// What was counted, and which transactions the count has seen.
#[derive(Clone, Debug)]
pub struct Count {
    /// What was written.
    pub written: Written,
    /// The snapshot from before the count.
    pub snapshot: String,
    /// How each table became live, as far as it is known: its rows then, and the swap's snapshot.
    known: Vec<(String, Option<(i64, String)>)>,
}

/// Counts what was written to the live tables since they became live. Reads every row of them.
///
/// # Errors
/// When a table cannot be read, or the connection's statement timeout is over.
pub async fn count(conn: &mut PgConnection, portal: &str, relations: &Relations) -> Result<Count, sqlx::Error> {
    let since: Option<String> = sqlx::query_scalar("SELECT to_json(live_since)#>>'{}' FROM portal_release.portals WHERE portal = $1")
        .bind(portal)
        .fetch_optional(&mut *conn)
        .await?
        .flatten();
    let since = since.as_deref().map(time).transpose()?;
    let mut known = Vec::new();
    for table in &relations.tables {
        let of_table: Option<(i64, String)> = sqlx::query_as(
            "SELECT rows, snapshot::text FROM portal_release.live_tables WHERE portal = $1 AND name = $2 AND relation_oid = to_regclass($3) AND rows IS NOT NULL",
        )
        .bind(portal)
        .bind(table)
        .bind(qualified(&relations.schema, table))
        .fetch_optional(&mut *conn)
        .await?;
        known.push((table.clone(), of_table));
    }
    count_in(conn, &relations.schema, &Generation::Live, since, known).await
}

/// Counts again in exactly the tables of a former count, whatever they are called now.
///
/// # Errors
/// As [`count`].
pub async fn count_again(conn: &mut PgConnection, schema: &str, before: &Count, now: &Generation) -> Result<Count, sqlx::Error> {
    count_in(conn, schema, now, before.written.since, before.known.clone()).await
}

async fn count_in(
    conn: &mut PgConnection,
    schema: &str,
    generation: &Generation,
    since: Option<Timestamp>,
    known: Vec<(String, Option<(i64, String)>)>,
) -> Result<Count, sqlx::Error> {
    let (snapshot, at): (String, String) =
        sqlx::query_as("SELECT pg_current_snapshot()::text, to_json(clock_timestamp())#>>'{}'").fetch_one(&mut *conn).await?;
    let mut written = Written { at: time(&at)?, since, tables: Vec::new(), unknown: Vec::new() };
    for (table, of_table) in &known {
        // Without it nothing is known of how the table became live.
        let Some((rows, swap)) = of_table else {
            written.unknown.push(table.clone());
            continue;
        };
        let (new, gone) = writes(conn, &qualified(schema, &generation.name(table)), *rows, swap).await?;
        if new > 0 || gone > 0 {
            written.tables.push(TableWrites { table: table.clone(), new, gone });
        }
    }
    Ok(Count { written, snapshot, known })
}

fn time(text: &str) -> Result<Timestamp, sqlx::Error> {
    text.parse().map_err(|error: jiff::Error| sqlx::Error::Decode(Box::new(error)))
}

/// Rows that are new since `snapshot`, and how many of the `before` rows of then have gone.
async fn writes(conn: &mut PgConnection, relation: &str, before: i64, snapshot: &str) -> Result<(i64, i64), sqlx::Error> {
    // Ids below 3 are no transactions: rows that Postgres 9.3 or older has frozen.
    let sql = format!(
        "WITH now AS MATERIALIZED (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid),
              swap AS MATERIALIZED (SELECT pg_snapshot_xmax($1::pg_snapshot)::text::bigint AS xmax,
                                           ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot)::text::bigint) AS in_progress)
         SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM (
             SELECT raw >= 3 AND (xid >= swap.xmax OR xid = ANY (swap.in_progress)) AS is_new
             FROM swap, (SELECT raw, now.xid - ((now.xid - raw) & 4294967295) AS xid
                         FROM now, (SELECT xmin::text::bigint AS raw FROM {relation}) AS raws OFFSET 0) AS xids) AS rows"
    );
    let row = sqlx::query(assembled(sql)).persistent(false).bind(snapshot).fetch_one(conn).await?;
    let (new, old): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok((new + (old - before).max(0), (before - old).max(0)))
}

/// Whether no session can have written to the tables since the count: no transaction that the count had not seen has committed. To be asked
/// while they are locked; a transaction that still runs holds no lock on them, so it has not written to them.
///
/// # Errors
/// When the database does not answer.
pub async fn is_still_so(conn: &mut PgConnection, count: &Count) -> Result<bool, sqlx::Error> {
    // Of very many transactions one will have committed.
    sqlx::query_scalar(
        "WITH seen AS (SELECT $1::pg_snapshot AS snapshot), bounds AS (
             SELECT pg_snapshot_xmax(snapshot)::text::bigint AS low, pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS high FROM seen)
         SELECT high - low <= 1000 AND NOT EXISTS (
             SELECT FROM (SELECT pg_snapshot_xip(snapshot)::text::bigint FROM seen
                          UNION ALL SELECT generate_series(low, least(high, low + 1001) - 1)) AS unseen(xid)
             WHERE pg_xact_status(xid::text::xid8) = 'committed') FROM bounds",
    )
    .bind(&count.snapshot)
    .fetch_one(conn)
    .await
}

/// Bounds every statement of the transaction from here on.
///
/// # Errors
/// When the database does not answer.
pub async fn limit_statements(tx: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT set_config('statement_timeout', $1, true)").bind(format!("{}ms", limit.as_millis())).execute(tx).await?;
    Ok(())
}
