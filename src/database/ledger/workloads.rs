//! Workloads that are stopped, as they were before, and the database sessions of their roles.

use sqlx::{PgConnection, types::Json};

use crate::api::FrozenWorkload;

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
