//! What is live, what was, and where the backups are: written in the transaction of the exchange itself.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, types::Json};

use super::staging::own_staging;
use crate::{
    database::{identifiers::Generation, swap::Moved},
    release::{Incoming, Written},
};

/// An exchange, as the ledger keeps it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// `namespace/name` of the Portal.
    pub portal: String,
    /// The release whose run it is.
    pub release: i64,
    /// What it makes live.
    pub source: Incoming,
    /// Where that was.
    pub incoming: &'a Generation,
    /// What the former live relations became.
    pub outgoing: &'a Generation,
    /// Its phase, for the audit trail.
    pub phase: &'a str,
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
                "SELECT DISTINCT holds_release FROM portal_release.backups WHERE portal = $1 AND backup = $2 AND kind = 'table' AND gone_at IS NULL",
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
    let current = if exchange.source == Incoming::Backup { restored } else { Some(release) };
    if let Generation::Backup(stamp) = exchange.outgoing {
        let gone: Vec<(&Moved, &String)> = exchange.moved.iter().filter_map(|moved| Some((moved, moved.outgoing_name.as_ref()?))).collect();
        // A timestamp that was restored or dropped in this very minute may be used again.
        sqlx::query(
            "INSERT INTO portal_release.backups (portal, backup, kind, name, backup_name, relation_oid, holds_release, made_by)
             SELECT $1, $2, kind, name, backup_name, relation_oid, $7, $8 FROM unnest($3::text[], $4::text[], $5::text[], $6::oid[]) AS moved(kind, name, backup_name, relation_oid)
             ON CONFLICT (portal, backup, kind, name) DO UPDATE
                 SET backup_name = excluded.backup_name, relation_oid = excluded.relation_oid, holds_release = excluded.holds_release,
                     made_by = excluded.made_by, created_at = now(), gone_at = NULL, gone_because = NULL",
        )
        .bind(portal)
        .bind(stamp.to_string())
        .bind(gone.iter().map(|(moved, _)| moved.kind.as_str()).collect::<Vec<_>>())
        .bind(gone.iter().map(|(moved, _)| moved.base.as_str()).collect::<Vec<_>>())
        .bind(gone.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>())
        .bind(gone.iter().map(|(moved, _)| moved.outgoing).collect::<Vec<_>>())
        .bind(former)
        .bind(release)
        .execute(&mut *tx)
        .await?;
    }
    let made = match exchange.outgoing {
        Generation::Backup(stamp) => Some(stamp.to_string()),
        Generation::Live | Generation::Staging => None,
    };
    match exchange.source {
        Incoming::Staging | Incoming::Parked => {
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
            if exchange.source == Incoming::Parked && *exchange.incoming == Generation::Staging {
                own_staging(tx, portal, None).await?;
            }
        }
        Incoming::Backup => {
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
    became_live(tx, exchange).await?;
    sqlx::query("UPDATE portal_release.portals SET current_release = $2, live_since = clock_timestamp(), written = NULL, changed_at = now() WHERE portal = $1")
        .bind(portal)
        .bind(current)
        .execute(&mut *tx)
        .await?;
    let message = format!("{} became live, the former data became {}", exchange.incoming, exchange.outgoing);
    super::event(tx, release, None, "Swapped", Some(exchange.phase), &message, None).await
}

/// Keeps how the tables are at this moment, to identify what is written later. Their rows were counted before: for a release in its
/// manifest, else by the preflight of the run.
async fn became_live(tx: &mut PgConnection, exchange: &Exchange<'_>) -> Result<(), sqlx::Error> {
    let tables: Vec<&Moved> = exchange.moved.iter().filter(|moved| moved.kind == "table" && moved.incoming.is_some()).collect();
    let names: Vec<&str> = tables.iter().map(|moved| moved.base.as_str()).collect();
    let oids: Vec<_> = tables.iter().filter_map(|moved| moved.incoming).collect();
    let counts = match exchange.source {
        Incoming::Staging => {
            "(SELECT r.manifest::jsonb #>> ARRAY['tables', t.name, 'rows'] FROM portal_release.releases r WHERE r.id = $4)::bigint"
        }
        Incoming::Backup | Incoming::Parked => {
            "(SELECT u.incoming_rows ->> t.name FROM portal_release.runs u WHERE u.portal = $1 AND u.release_id = $4 AND u.closed_at IS NULL)::bigint"
        }
    };
    sqlx::query("DELETE FROM portal_release.live_tables WHERE portal = $1 AND name <> ALL ($2)")
        .bind(&exchange.portal)
        .bind(&names)
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "INSERT INTO portal_release.live_tables (portal, name, relation_oid, rows, snapshot)
         SELECT $1, t.name, t.oid, {counts}, pg_current_snapshot() FROM unnest($2::text[], $3::oid[]) AS t(name, oid)
         ON CONFLICT (portal, name) DO UPDATE SET relation_oid = excluded.relation_oid, rows = excluded.rows, snapshot = excluded.snapshot"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(&exchange.portal).bind(&names).bind(oids).bind(exchange.release).execute(tx).await?;
    Ok(())
}

/// Keeps how many rows the tables have that a rollback or roll forward is about to make live.
///
/// # Errors
/// When the database does not answer.
pub async fn set_incoming_rows(tx: &mut PgConnection, run: i64, rows: &BTreeMap<String, i64>) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.runs SET incoming_rows = $2 WHERE id = $1").bind(run).bind(Json(rows)).execute(tx).await?;
    Ok(())
}

/// Keeps what was written to the live tables so far.
///
/// # Errors
/// When the database does not answer.
pub async fn set_written(tx: &mut PgConnection, portal: &str, written: &Written) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE portal_release.portals SET written = $2 WHERE portal = $1").bind(portal).bind(Json(written)).execute(tx).await?;
    Ok(())
}

/// Timestamps of all backups that there ever were.
///
/// # Errors
/// When the database does not answer.
pub async fn backup_stamps(connection: &mut PgConnection, portal: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT DISTINCT backup FROM portal_release.backups WHERE portal = $1").bind(portal).fetch_all(connection).await
}

/// A backup no longer exists.
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
    // A release whose backup or parked data is gone can no longer return to it.
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
