//! What the staging holds, whose it is and what it was built from; the manifest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};

use crate::{
    database::{
        checksum::Content,
        identifiers::{Generation, Relations},
        swap::Horizon,
    },
    finding::Finding,
};

/// What a release's staging was built from. As long as it is unchanged, a release resumes from its staging.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StagingOrigin {
    /// Hash of what the Portal and the release say about views and tables.
    pub definition: Option<String>,
    /// Hash of each import.
    pub imports: BTreeMap<String, String>,
    /// Hash of the release's selection of imports.
    pub selection: Option<String>,
    /// Fingerprint of the live tables' structure.
    pub structure: Option<String>,
    /// The views that the imports read.
    pub views: BTreeMap<String, Content>,
    /// The files that imports read, by import.
    pub files: BTreeMap<String, FileRead>,
    /// When the staged tables were complete: a snapshot from before sees none of their rows.
    pub horizon: Option<Horizon>,
}

/// A file that an import has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileRead {
    /// Where it was, for people.
    pub name: String,
    /// What its server said of exactly this content.
    pub revision: Option<String>,
    /// How many bytes it had as it was stored; none when only a sample was read.
    pub bytes: Option<u64>,
    /// Hexadecimal SHA-256 of them; none when only a sample was read.
    pub sha256: Option<String>,
}

/// Notes the file that an import has read. Imports side by side do not undo each other's notes.
///
/// # Errors
/// When the database does not answer.
pub async fn set_file(tx: &mut PgConnection, release: i64, import: &str, file: &FileRead) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE portal_release.releases
         SET staging = staging || jsonb_build_object('files', coalesce(staging -> 'files', '{}') || jsonb_build_object($2::text, $3::jsonb)) WHERE id = $1",
    )
    .bind(release)
    .bind(import)
    .bind(Json(file))
    .execute(tx)
    .await?;
    Ok(())
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

/// The staging relations may be used: they are not kept for another, stopped release.
///
/// # Errors
/// When the database does not answer.
pub async fn staging_is_free(connection: &mut PgConnection, portal: &str, release: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.staging_release
                            WHERE p.portal = $1 AND r.id <> $2 AND r.state IN ('DryRunComplete', 'Suspended'))",
    )
    .bind(portal)
    .bind(release)
    .fetch_one(connection)
    .await
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

/// Staging relations that the ledger does not know: another tool made them. Empty while a release owns the staging.
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

/// What a release says of such relations, and doctor before it.
pub fn foreign_finding(names: &[String]) -> Option<Finding> {
    let problem = if names.len() == 1 { "already exists and was" } else { "already exist and were" };
    (!names.is_empty()).then(|| Finding::fail(names.join(", "), format!("{problem} not created by this operator"), "drop or rename them"))
}
