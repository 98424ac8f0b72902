//! Room in the write-ahead log for what a swap writes.
//!
//! When COMMIT reaches the end of a segment of the log, the server makes the next one first: 16 MB of zeros, which takes longer than all
//! the rest of a swap, and readers wait for it. So a segment that is nearly full is filled beforehand, by a transaction that is rolled
//! back: neither a standby nor a subscriber shows anything of it.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgPool};

/// So many bytes were enough for every swap that was measured; a smaller segment is filled when three quarters are used.
const ENOUGH: i64 = 4 << 20;
/// The server flushes at once only when more than `wal_writer_flush_after` (1 MB by default) waits to be written.
const AT_ONCE: i64 = 3 << 19;
/// The longest wait for the flush. What is not done by then, COMMIT does.
const PATIENCE: Duration = Duration::from_millis(500);

/// Makes sure that a swap that commits soon needs no new segment of the write-ahead log.
///
/// This only makes the swap shorter; a failure does not stop it.
pub(super) async fn make(pool: &PgPool) {
    if let Err(error) = next_segment(pool).await {
        tracing::debug!(%error, "no room was made in the write-ahead log; the swap may hold its locks for longer");
    }
}

async fn next_segment(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut conn = pool.acquire().await?;
    let nearly_full: Option<(i64, String)> = sqlx::query_as(
        "SELECT room::bigint, (position + room)::text
         FROM (SELECT pg_current_wal_insert_lsn() AS position, setting::bigint AS size FROM pg_settings WHERE name = 'wal_segment_size') AS log,
              LATERAL (SELECT size - (position - '0/0'::pg_lsn) % size AS room) AS segment
         WHERE room < least($1, size / 4)",
    )
    .bind(ENOUGH)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((room, end)) = nearly_full else { return Ok(()) };
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT pg_logical_emit_message(true, 'portal_release', repeat(' ', $1::integer))")
        .bind(i32::try_from(room + AT_ONCE).unwrap_or(i32::MAX))
        .execute(&mut *tx)
        .await?;
    tx.rollback().await?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if sqlx::query_scalar("SELECT pg_current_wal_flush_lsn() > $1::pg_lsn").bind(&end).fetch_one(&mut *conn).await? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
