//! The backups as people see them: whose data, how old, how large, and what keeps retention from dropping them.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use sqlx::PgConnection;

use super::{
    backups::{self, Backup, BackupError},
    identifiers::{BackupStamp, Generation, Relations},
};

/// One backup, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The backup itself.
    pub backup: Backup,
    /// Label of the release whose data it is. `None`: from before the operator, or another tool made it.
    pub release: Option<String>,
    /// Label of the release whose swap made it. `None`: another tool made it.
    pub made_by: Option<String>,
    /// When it was made; of another tool's the minute in its name.
    pub created_at: Timestamp,
    /// Objects outside of it that depend on it, in words.
    pub held_by: Vec<String>,
}

/// What the ledger says of a backup: its timestamp, the label of its data, the label of its maker, when it was made.
type LedgerRow = (String, Option<String>, Option<String>, String);

/// Lists the backups of a portal, newest first. Reads the catalogue and the ledger and waits for no lock.
///
/// # Errors
/// When the database does not answer.
pub async fn list(conn: &mut PgConnection, portal: &str, relations: &Relations) -> Result<Vec<Entry>, BackupError> {
    let failed = |source| BackupError::Database { schema: relations.schema.clone(), source };
    let there = backups::list(conn, relations).await?;
    if there.is_empty() {
        return Ok(Vec::new());
    }
    let known: Vec<LedgerRow> = sqlx::query_as(
        "SELECT k.backup, max(h.label), max(m.label), to_json(min(k.created_at))#>>'{}' FROM portal_release.backups k
         LEFT JOIN portal_release.releases h ON h.id = k.holds_release LEFT JOIN portal_release.releases m ON m.id = k.made_by
         WHERE k.portal = $1 AND k.gone_at IS NULL GROUP BY k.backup",
    )
    .bind(portal)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let held = held_by(conn, relations, &there).await.map_err(failed)?;
    Ok(there
        .into_iter()
        .map(|backup| {
            let stamp = backup.stamp.to_string();
            let said = known.iter().find(|(of, ..)| *of == stamp);
            let created_at = said.and_then(|(.., at)| at.parse().ok()).unwrap_or_else(|| minute(backup.stamp));
            Entry {
                release: said.and_then(|(_, release, ..)| release.clone()),
                made_by: said.and_then(|(_, _, maker, _)| maker.clone()),
                created_at,
                held_by: held.get(&stamp).cloned().unwrap_or_default(),
                backup,
            }
        })
        .collect())
}

/// What the backups take on disk, with indexes and TOAST, in bytes by timestamp. It waits for locks on them.
///
/// # Errors
/// When the database does not answer.
pub async fn sizes(conn: &mut PgConnection, relations: &Relations, stamps: &[BackupStamp]) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let (of, names) = names(relations, stamps.iter().copied());
    let sizes: Vec<(String, i64)> = sqlx::query_as(
        "SELECT stamp, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM unnest($2::text[], $3::text[]) AS t(stamp, name)
         JOIN pg_class c ON c.relname = t.name JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1 GROUP BY stamp",
    )
    .bind(&relations.schema)
    .bind(of)
    .bind(names)
    .fetch_all(conn)
    .await?;
    Ok(sizes.into_iter().collect())
}

/// Objects that depend on a backup without being a part of it, by timestamp.
///
/// # Errors
/// When the database does not answer.
pub async fn held_by(
    conn: &mut PgConnection,
    relations: &Relations,
    there: &[Backup],
) -> Result<BTreeMap<String, Vec<String>>, sqlx::Error> {
    let (of, names) = names(relations, there.iter().map(|backup| backup.stamp));
    let held: Vec<(String, Vec<String>)> =
        sqlx::query_as(include_str!("held_by.sql")).bind(&relations.schema).bind(of).bind(names).fetch_all(conn).await?;
    Ok(held.into_iter().collect())
}

/// Timestamps and the names of their relations, side by side.
fn names(relations: &Relations, stamps: impl Iterator<Item = BackupStamp>) -> (Vec<String>, Vec<String>) {
    stamps.flat_map(|stamp| relations.names(&Generation::Backup(stamp)).into_iter().map(move |name| (stamp.to_string(), name))).unzip()
}

fn minute(stamp: BackupStamp) -> Timestamp {
    stamp.minute().to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).unwrap_or_default()
}

/// `1.4 GiB`.
pub fn human(bytes: i64) -> String {
    let mut size = bytes.max(0) as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (1_503_238_553, "1.4 GiB"), (i64::MAX, "8192.0 PiB")]
        {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
