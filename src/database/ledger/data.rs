//! What phases keep: imports and their checkpoints, what the staging was built from, the manifest, the frozen workloads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};

use crate::{
    api::FrozenWorkload,
    database::{
        checksum::Content,
        identifiers::{Generation, Relations},
        import::KeyRange,
        swap::{Horizon, Moved},
    },
    release::RunKind,
};

/// What a release's staging was built from. While all of it still holds, a release goes on from its staging.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagingOrigin {
    /// Hash of what the Portal and the release say about views, tables and imports.
    pub definition: Option<String>,
    /// Fingerprint of the live tables' structure.
    pub structure: Option<String>,
    /// The views that the imports read.
    pub views: BTreeMap<String, Content>,
    /// When the staged tables were complete: a snapshot from before sees none of their rows.
    pub horizon: Option<Horizon>,
}

/// Reads what the staging was built from.
///
/// # Errors
/// When the database does not answer.
pub async fn origin(connection: &mut PgConnection, release: i64) -> Result<StagingOrigin, sqlx::Error> {
    let Json(origin) =
        sqlx::query_scalar("SELECT staging FROM portal_release.releases WHERE id = $1").bind(release).fetch_one(connection).await?;
    Ok(origin)
}

/// Writes what the staging is built from.
///
/// # Errors
/// When the database does not answer.
pub async fn set_origin(tx: &mut PgConnection, release: i64, origin: &StagingOrigin) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.releases SET staging = $2 WHERE id = $1").bind(release).bind(Json(origin)).execute(tx).await?;
    Ok(())
}

/// Says whose data the staging relations hold.
///
/// # Errors
/// When the database does not answer.
pub async fn own_staging(tx: &mut PgConnection, portal: &str, release: Option<i64>) -> Result<(), sqlx::Error> {
    // Whoever had data parked there has lost it.
    sqlx::query("UPDATE portal_release.releases SET parked = NULL WHERE portal = $1 AND parked = 'staging' AND id IS DISTINCT FROM $2")
        .bind(portal)
        .bind(release)
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE portal_release.portals SET staging_release = $2, changed_at = now() WHERE portal = $1")
        .bind(portal)
        .bind(release)
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets the imports and checkpoints of a release.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_imports(tx: &mut PgConnection, release: i64) -> Result<(), sqlx::Error> {
    reset_checkpoints(tx, release).await?;
    sqlx::query(
        "UPDATE portal_release.imports SET state = 'Pending', rows = 0, rows_total = NULL, completed_at = NULL WHERE release_id = $1",
    )
    .bind(release)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets the checkpoints of a release. Returns how many there were.
///
/// # Errors
/// When the database does not answer.
pub async fn reset_checkpoints(tx: &mut PgConnection, release: i64) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query("DELETE FROM portal_release.checkpoints WHERE release_id = $1").bind(release).execute(tx).await?.rows_affected())
}

/// Writes the imports of a release, with the ones that are left out as `Skipped`.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_imports(tx: &mut PgConnection, release: i64, imports: &[(String, bool)]) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = imports.iter().map(|(name, _)| name.as_str()).collect();
    let states: Vec<&str> = imports.iter().map(|(_, skipped)| if *skipped { "Skipped" } else { "Pending" }).collect();
    sqlx::query("DELETE FROM portal_release.imports WHERE release_id = $1 AND import <> ALL($2)")
        .bind(release)
        .bind(&names)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO portal_release.imports (release_id, import, position, state)
         SELECT $1, name, position, state FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS t(name, state, position)
         ON CONFLICT (release_id, import) DO UPDATE SET position = excluded.position, state = excluded.state, rows = 0, rows_total = NULL, completed_at = NULL",
    )
    .bind(release)
    .bind(&names)
    .bind(&states)
    .execute(tx)
    .await?;
    Ok(())
}

/// An import begins or goes on. Returns whether it is done already.
///
/// # Errors
/// When the database does not answer.
pub async fn begin_import(connection: &mut PgConnection, release: i64, import: &str) -> Result<bool, sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar(
        "UPDATE portal_release.imports SET state = 'Running', attempts = attempts + 1 WHERE release_id = $1 AND import = $2 AND state IN ('Pending', 'Running') RETURNING state",
    )
    .bind(release)
    .bind(import)
    .fetch_optional(connection)
    .await?;
    Ok(state.is_none())
}

/// Notes how many rows the source of an import holds.
///
/// # Errors
/// When the database does not answer.
pub async fn set_total(connection: &mut PgConnection, release: i64, import: &str, total: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.imports SET rows_total = $3 WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .bind(total)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes, in the transaction that inserted them, that rows arrived and whether the import is done.
///
/// # Errors
/// When the database does not answer.
pub async fn add_rows(tx: &mut PgConnection, release: i64, import: &str, rows: i64, done: bool) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.imports SET rows = rows + $3, state = CASE WHEN $4 THEN 'Succeeded' ELSE state END,
            completed_at = CASE WHEN $4 THEN clock_timestamp() END, rows_total = CASE WHEN $4 THEN rows + $3 ELSE rows_total END WHERE release_id = $1 AND import = $2",
    )
    .bind(release)
    .bind(import)
    .bind(rows)
    .bind(done)
    .execute(tx)
    .await?;
    Ok(())
}

/// The key ranges of an import that are not imported yet, in order; `None` when none were planned.
///
/// # Errors
/// When the database does not answer.
pub async fn open_ranges(connection: &mut PgConnection, release: i64, import: &str) -> Result<Option<Vec<(i32, KeyRange)>>, sqlx::Error> {
    let rows: Vec<(i32, Json<KeyRange>, bool)> = sqlx::query_as(
        "SELECT position, key_range, completed_at IS NOT NULL FROM portal_release.checkpoints WHERE release_id = $1 AND import = $2 ORDER BY position",
    )
    .bind(release)
    .bind(import)
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(rows.into_iter().filter(|(.., done)| !done).map(|(position, Json(range), _)| (position, range)).collect()))
}

/// Writes the planned key ranges of an import.
///
/// # Errors
/// When the database does not answer.
pub async fn plan_ranges(tx: &mut PgConnection, release: i64, import: &str, ranges: &[KeyRange]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.checkpoints (release_id, import, position, key_range)
         SELECT $1, $2, position, r FROM jsonb_array_elements($3) WITH ORDINALITY AS t(r, position)",
    )
    .bind(release)
    .bind(import)
    .bind(Json(ranges))
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes, in the range's own transaction, that it is imported.
///
/// # Errors
/// When the database does not answer.
pub async fn complete_range(tx: &mut PgConnection, release: i64, import: &str, position: i32, rows: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.checkpoints SET rows = $4, completed_at = clock_timestamp() WHERE release_id = $1 AND import = $2 AND position = $3",
    )
    .bind(release)
    .bind(import)
    .bind(position)
    .bind(rows)
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps the manifest, byte for byte.
///
/// # Errors
/// When the database does not answer.
pub async fn set_manifest(tx: &mut PgConnection, release: i64, manifest: &str, sha256: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.releases SET manifest = $2, manifest_sha256 = $3 WHERE id = $1")
        .bind(release)
        .bind(manifest)
        .bind(sha256)
        .execute(tx)
        .await?;
    Ok(())
}

/// The manifest of a label.
///
/// # Errors
/// When the database does not answer.
pub async fn manifest(connection: &mut PgConnection, portal: &str, label: &str) -> Result<Option<String>, sqlx::Error> {
    let manifest: Option<Option<String>> =
        sqlx::query_scalar("SELECT manifest FROM portal_release.releases WHERE portal = $1 AND label = $2")
            .bind(portal)
            .bind(label)
            .fetch_optional(connection)
            .await?;
    Ok(manifest.flatten())
}

/// Records how workloads were before they are stopped. What is recorded already stays: never a zero that we caused.
///
/// # Errors
/// When the database does not answer.
pub async fn record_frozen(tx: &mut PgConnection, portal: &str, release: i64, workloads: &[FrozenWorkload]) -> Result<(), sqlx::Error> {
    for workload in workloads {
        sqlx::query(
            "INSERT INTO portal_release.frozen_workloads (portal, kind, name, replicas, release_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (portal, kind, name) DO UPDATE SET release_id = $5",
        )
        .bind(portal)
        .bind(workload.kind.as_str())
        .bind(&workload.name)
        .bind(workload.replicas)
        .bind(release)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The workloads of a portal that are stopped, as they were before.
///
/// # Errors
/// When the database does not answer.
pub async fn frozen(connection: &mut PgConnection, portal: &str) -> Result<Vec<FrozenWorkload>, sqlx::Error> {
    let Json(workloads) = sqlx::query_scalar(
        "SELECT coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'name', name, 'replicas', replicas) ORDER BY kind, name), '[]')
         FROM portal_release.frozen_workloads WHERE portal = $1",
    )
    .bind(portal)
    .fetch_one(connection)
    .await?;
    Ok(workloads)
}

/// Forgets the records once the workloads are back.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_frozen(tx: &mut PgConnection, portal: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM portal_release.frozen_workloads WHERE portal = $1").bind(portal).execute(tx).await?;
    Ok(())
}

/// The staging relations hold the data of this release.
///
/// # Errors
/// When the database does not answer.
pub async fn owns_staging(connection: &mut PgConnection, portal: &str, release: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce((SELECT staging_release = $2 FROM portal_release.portals WHERE portal = $1), false)")
        .bind(portal)
        .bind(release)
        .fetch_one(connection)
        .await
}

/// The staging relations may be used: they do not hold the validated dry run of another release.
///
/// # Errors
/// When the database does not answer.
pub async fn staging_is_free(connection: &mut PgConnection, portal: &str, release: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.staging_release
                            WHERE p.portal = $1 AND r.id <> $2 AND r.state = 'DryRunComplete')",
    )
    .bind(portal)
    .bind(release)
    .fetch_one(connection)
    .await
}

/// Rows that these imports brought.
///
/// # Errors
/// When the database does not answer.
pub async fn imported_rows<'a>(
    connection: &mut PgConnection,
    release: i64,
    imports: impl Iterator<Item = &'a str>,
) -> Result<i64, sqlx::Error> {
    let names: Vec<&str> = imports.collect();
    sqlx::query_scalar("SELECT coalesce(sum(rows), 0)::bigint FROM portal_release.imports WHERE release_id = $1 AND import = ANY($2)")
        .bind(release)
        .bind(&names)
        .fetch_one(connection)
        .await
}

/// Rows by import, in order.
///
/// # Errors
/// When the database does not answer.
pub async fn import_rows(connection: &mut PgConnection, release: i64) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("SELECT import, rows FROM portal_release.imports WHERE release_id = $1 AND state = 'Succeeded' ORDER BY position")
        .bind(release)
        .fetch_all(connection)
        .await
}

/// Rows of an import so far, and in all once known.
///
/// # Errors
/// When the database does not answer.
pub async fn import_progress(connection: &mut PgConnection, release: i64, import: &str) -> Result<(i64, Option<i64>), sqlx::Error> {
    sqlx::query_as("SELECT rows, rows_total FROM portal_release.imports WHERE release_id = $1 AND import = $2")
        .bind(release)
        .bind(import)
        .fetch_one(connection)
        .await
}

/// Database sessions of these roles, each as a few words.
///
/// # Errors
/// When the database does not answer.
pub async fn sessions_of(connection: &mut PgConnection, roles: &[&str]) -> Result<Vec<String>, sqlx::Error> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "SELECT format('pid %s of role %s', pid, usename) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = ANY($1) AND pid <> pg_backend_pid() ORDER BY pid LIMIT 10",
    )
    .bind(roles)
    .fetch_all(connection)
    .await
}

/// The database's clock, RFC 3339 in UTC.
///
/// # Errors
/// When the database does not answer.
pub async fn now(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").fetch_one(connection).await
}

/// The relations whose incoming generation exists: a release without staged views leaves the live views where they are.
///
/// # Errors
/// When the database does not answer.
pub async fn present(connection: &mut PgConnection, mut relations: Relations, incoming: &Generation) -> Result<Relations, sqlx::Error> {
    let names: Vec<String> = relations.views.iter().map(|view| incoming.name(view)).collect();
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY($2)",
    )
    .bind(&relations.schema)
    .bind(&names)
    .fetch_all(connection)
    .await?;
    relations.views.retain(|view| there.contains(&incoming.name(view)));
    Ok(relations)
}

/// An exchange, as the ledger keeps it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// `namespace/name` of the Portal.
    pub portal: String,
    /// The release whose run it is.
    pub release: i64,
    /// What the run does.
    pub kind: RunKind,
    /// What became live.
    pub incoming: &'a Generation,
    /// What the former live relations became.
    pub outgoing: &'a Generation,
    /// The relations.
    pub moved: &'a [Moved],
}

/// Writes down, in the exchange's own transaction, what is live now, where the former data is, and which backups there are.
///
/// # Errors
/// When the database does not answer.
pub async fn record_exchange(tx: &mut PgConnection, exchange: &Exchange<'_>) -> Result<(), sqlx::Error> {
    let (portal, release) = (exchange.portal.as_str(), exchange.release);
    let former: Option<i64> =
        sqlx::query_scalar("SELECT current_release FROM portal_release.portals WHERE portal = $1").bind(portal).fetch_one(&mut *tx).await?;
    let restored: Option<i64> = match exchange.incoming {
        Generation::Backup(stamp) => {
            let holds: Option<Option<i64>> = sqlx::query_scalar(
                "SELECT DISTINCT holds_release FROM portal_release.backups WHERE portal = $1 AND backup = $2 AND gone_at IS NULL",
            )
            .bind(portal)
            .bind(stamp.to_string())
            .fetch_optional(&mut *tx)
            .await?;
            backup_gone(tx, portal, &stamp.to_string(), "restored").await?;
            holds.flatten()
        }
        Generation::Live | Generation::Staging => None,
    };
    let current = if exchange.kind == RunKind::Rollback { restored } else { Some(release) };
    if let Generation::Backup(stamp) = exchange.outgoing {
        // A timestamp that was restored or dropped in this very minute may be used again.
        for moved in exchange.moved {
            sqlx::query(
                "INSERT INTO portal_release.backups (portal, backup, kind, name, backup_name, relation_oid, holds_release, made_by)
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE $5 IS NOT NULL
                 ON CONFLICT (portal, backup, kind, name) DO UPDATE
                     SET backup_name = excluded.backup_name, relation_oid = excluded.relation_oid, holds_release = excluded.holds_release,
                         made_by = excluded.made_by, created_at = now(), gone_at = NULL, gone_because = NULL",
            )
            .bind(portal)
            .bind(stamp.to_string())
            .bind(&moved.kind)
            .bind(&moved.base)
            .bind(&moved.outgoing_name)
            .bind(moved.outgoing)
            .bind(former)
            .bind(release)
            .execute(&mut *tx)
            .await?;
        }
    }
    let made = match exchange.outgoing {
        Generation::Backup(stamp) => Some(stamp.to_string()),
        Generation::Live | Generation::Staging => None,
    };
    match exchange.kind {
        RunKind::Release | RunKind::RollForward => {
            sqlx::query("UPDATE portal_release.releases SET swapped_at = clock_timestamp(), backup = $2, parked = NULL WHERE id = $1")
                .bind(release)
                .bind(made)
                .execute(&mut *tx)
                .await?;
            sqlx::query("UPDATE portal_release.releases SET state = 'Superseded', message = 'readers see a later release' WHERE id = $1 AND id <> $2")
                .bind(former)
                .bind(release)
                .execute(&mut *tx)
                .await?;
            if exchange.kind == RunKind::RollForward && *exchange.incoming == Generation::Staging {
                own_staging(tx, portal, None).await?;
            }
        }
        RunKind::Rollback => {
            sqlx::query("UPDATE portal_release.releases SET parked = coalesce($2, 'staging'), backup = NULL WHERE id = $1")
                .bind(release)
                .bind(&made)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "UPDATE portal_release.releases SET state = 'Live', message = 'live again: a later release was rolled back' WHERE id = $1",
            )
            .bind(restored)
            .execute(&mut *tx)
            .await?;
            if made.is_none() {
                own_staging(tx, portal, Some(release)).await?;
            }
        }
    }
    sqlx::query("UPDATE portal_release.portals SET current_release = $2, changed_at = now() WHERE portal = $1")
        .bind(portal)
        .bind(current)
        .execute(&mut *tx)
        .await?;
    let message = format!("{} became live, the former data became {}", exchange.incoming, exchange.outgoing);
    super::event(tx, release, None, "Swapped", Some("FinaliseSwap"), &message, None).await
}

/// Timestamps of all backups that there ever were.
///
/// # Errors
/// When the database does not answer.
pub async fn backup_stamps(connection: &mut PgConnection, portal: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT DISTINCT backup FROM portal_release.backups WHERE portal = $1").bind(portal).fetch_all(connection).await
}

/// A backup is not there any more.
///
/// # Errors
/// When the database does not answer.
pub async fn backup_gone(tx: &mut PgConnection, portal: &str, backup: &str, why: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.backups SET gone_at = now(), gone_because = $3 WHERE portal = $1 AND backup = $2 AND gone_at IS NULL",
    )
    .bind(portal)
    .bind(backup)
    .bind(why)
    .execute(&mut *tx)
    .await?;
    // A release whose backup or parked data is gone cannot go there any more.
    sqlx::query("UPDATE portal_release.releases SET parked = CASE WHEN parked = $2 THEN NULL ELSE parked END, backup = CASE WHEN backup = $2 THEN NULL ELSE backup END WHERE portal = $1 AND $2 IN (parked, backup)")
        .bind(portal)
        .bind(backup)
        .execute(tx)
        .await?;
    Ok(())
}

/// Timestamps of backups that keep a rolled back release for its roll forward.
///
/// # Errors
/// When the database does not answer.
pub async fn parked_stamps(connection: &mut PgConnection, portal: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT parked FROM portal_release.releases WHERE portal = $1 AND parked IS NOT NULL AND parked <> 'staging'")
        .bind(portal)
        .fetch_all(connection)
        .await
}

/// Label of the release that readers see.
///
/// # Errors
/// When the database does not answer.
pub async fn current_label(connection: &mut PgConnection, portal: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT r.label FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.current_release WHERE p.portal = $1",
    )
    .bind(portal)
    .fetch_optional(connection)
    .await
}

/// Whether a run has exchanged staged and live relations.
///
/// # Errors
/// When the database does not answer.
pub async fn run_has_swapped(connection: &mut PgConnection, run: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM portal_release.phases WHERE run_id = $1 AND phase = 'FinaliseSwap' AND state = 'Succeeded')",
    )
    .bind(run)
    .fetch_one(connection)
    .await
}

/// Staging relations that the ledger knows nothing of: somebody else made them. Empty while a release owns the staging.
///
/// # Errors
/// When the database does not answer.
pub async fn foreign_staging(connection: &mut PgConnection, portal: &str, relations: &Relations) -> Result<Vec<String>, sqlx::Error> {
    let mut names = relations.names(&Generation::Staging);
    names.extend(relations.lookups.iter().map(|lookup| Generation::Staging.name(lookup)));
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY($2) AND NOT EXISTS
               (SELECT FROM portal_release.portals p WHERE p.portal = $3 AND p.staging_release IS NOT NULL)
         ORDER BY c.relname",
    )
    .bind(&relations.schema)
    .bind(&names)
    .bind(portal)
    .fetch_all(connection)
    .await
}
