//! Disk space: how much a release will need, and how much is free.
//!
//! SQL cannot see the free disk space, so the platform team may configure a query that can. Without one the need is reported and nothing is refused.

use std::fmt;

use sqlx::{Connection, PgConnection};

use super::{
    checks::reason,
    identifiers::{Generation, Relations, assembled, quote_ident, subquery},
    inventory::human,
    sqlstate,
};
use crate::{classify::Classify, finding::Finding};

/// A release has more rows than the one before: so much is added to the size of what is live, in percent.
const GROWTH: i64 = 10;

/// What could not be found out about the disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The sizes could not be read, or the moment was a bad one.
    #[error("{what} failed: {source}; correct the cause and retry")]
    Database {
        /// What was being done.
        what: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The query of the Portal is no good.
    #[error("preflight.disk.freeBytesQuery of the Portal {0}; correct the query, or remove preflight.disk")]
    Query(String),
}

impl Classify for DiskError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_transient(),
            Self::Query(_) => false,
        }
    }
}

/// What a release needs on the disk of its tables, in bytes, in addition to what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Need {
    /// Staged tables with their indexes and TOAST: as live, and a tenth more.
    pub tables: i64,
    /// Staged materialized views, likewise.
    pub views: i64,
    /// WAL that is written meanwhile: as much as the relations, and no more than the server keeps between two checkpoints. None where
    /// no table is in the default tablespace, as WAL is on another disk then.
    pub wal: i64,
}

impl Need {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> i64 {
        self.tables.saturating_add(self.views).saturating_add(self.wal)
    }
}

/// What a release needs and what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What it needs.
    pub need: Need,
    /// Free bytes; `None` when the Portal has no query for it.
    pub free: Option<i64>,
}

impl Room {
    /// Why the release should not begin, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<Finding> {
        let free = self.free.filter(|free| *free < self.need.bytes())?;
        let Need { tables, views, wal } = self.need;
        let problem = format!(
            "is too small: the release needs about {} (tables {}, materialized views {}, WAL {}), and {} are free",
            human(self.need.bytes()),
            human(tables),
            human(views),
            human(wal),
            human(free)
        );
        Some(Finding::fail(
            "the disk",
            problem,
            "enlarge the disk or make room on it, for example by keeping fewer backups (retention.keepBackups)",
        ))
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs about {} of disk", human(self.need.bytes()))?;
        match self.free {
            Some(free) => write!(f, ", {} are free", human(free)),
            None => Ok(()),
        }
    }
}

/// What the release needs, and what is free if `free_bytes` is a query for it.
///
/// # Errors
/// When the sizes cannot be read, or the query does not return one number.
pub async fn room(conn: &mut PgConnection, relations: &Relations, free_bytes: Option<&str>) -> Result<Room, DiskError> {
    let need = need(conn, relations).await?;
    let free = match free_bytes {
        Some(sql) => Some(free(conn, sql).await?),
        None => None,
    };
    Ok(Room { need, free })
}

/// What a release of these relations needs. Staged relations that exist count as free space: they are used or dropped.
///
/// # Errors
/// When the sizes cannot be read.
pub async fn need(conn: &mut PgConnection, relations: &Relations) -> Result<Need, DiskError> {
    let live: Vec<String> = relations.swapped().map(str::to_owned).collect();
    // 1663 is pg_default, the tablespace of the data directory.
    sqlx::query_as(
        "WITH relation AS (
             SELECT r.name = ANY ($4) AS is_view, coalesce(nullif(l.reltablespace, 0), d.dattablespace) = 1663 AS beside_wal,
                    greatest(pg_total_relation_size(l.oid) * (100 + $5) / 100 - coalesce(pg_total_relation_size(s.oid), 0), 0)::bigint AS bytes
             FROM unnest($2::text[], $3::text[]) AS r(name, staged) JOIN pg_database d ON d.datname = current_database()
             JOIN pg_class l ON l.relname = r.name AND l.relnamespace = $1::text::regnamespace
             LEFT JOIN pg_class s ON s.relname = r.staged AND s.relnamespace = l.relnamespace),
         sum AS (SELECT coalesce(sum(bytes) FILTER (WHERE NOT is_view), 0)::bigint AS tables,
                        coalesce(sum(bytes) FILTER (WHERE is_view), 0)::bigint AS views, coalesce(bool_or(beside_wal), false) AS beside_wal
                 FROM relation)
         SELECT tables, views,
                CASE WHEN beside_wal THEN least(tables + views, pg_size_bytes(current_setting('max_wal_size'))) ELSE 0 END AS wal FROM sum",
    )
    .bind(quote_ident(&relations.schema))
    .bind(&live)
    .bind(relations.names(&Generation::Staging))
    .bind(&relations.views)
    .bind(GROWTH)
    .fetch_one(conn)
    .await
    .map_err(|source| DiskError::Database { what: "reading the sizes of the relations", source })
}

/// What the Portal's query says is free, in bytes.
async fn free(conn: &mut PgConnection, sql: &str) -> Result<i64, DiskError> {
    let failed = |source| DiskError::Database { what: "reading how much of the disk is free", source };
    let mut savepoint = conn.begin().await.map_err(failed)?;
    sqlx::query("SET TRANSACTION READ ONLY").execute(&mut *savepoint).await.map_err(failed)?;
    let wrapped = format!("SELECT trunc(answer.bytes::numeric)::bigint FROM {} AS answer(bytes) LIMIT 2", subquery(sql));
    let answer = sqlx::query_scalar::<_, Option<i64>>(assembled(wrapped)).persistent(false).fetch_all(&mut *savepoint).await;
    let answer = match answer {
        Err(error) if sqlstate::is_to_blame(&error) => {
            savepoint.rollback().await.map_err(failed)?;
            return Err(DiskError::Query(format!("failed: {}", reason(&error))));
        }
        answer => answer.map_err(failed)?,
    };
    savepoint.rollback().await.map_err(failed)?;
    match answer.as_slice() {
        [Some(bytes)] => Ok(*bytes),
        [None] => Err(DiskError::Query("returned NULL; it must return a number of bytes".to_owned())),
        [] => Err(DiskError::Query("returned no row; it must return one".to_owned())),
        _ => Err(DiskError::Query("returned more than one row".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Room};

    const MIB: i64 = 1024 * 1024;

    fn room(free: Option<i64>) -> Room {
        Room { need: Need { tables: 2048 * MIB, views: 512 * MIB, wal: 512 * MIB }, free }
    }

    #[test]
    fn what_is_exactly_enough_is_enough() {
        assert_eq!(room(Some(3072 * MIB)).refusal(), None);
        assert_eq!(room(None).refusal(), None);
        let refusal = room(Some(3072 * MIB - 1)).refusal().map(|finding| finding.to_string()).unwrap_or_default();
        assert!(refusal.contains("about 3.0 GiB (tables 2.0 GiB, materialized views 512.0 MiB, WAL 512.0 MiB)"), "{refusal}");
    }

    #[test]
    fn what_is_unknown_is_not_reported() {
        assert_eq!(room(None).to_string(), "needs about 3.0 GiB of disk");
        assert_eq!(room(Some(5)).to_string(), "needs about 3.0 GiB of disk, 5 B are free");
    }
}
