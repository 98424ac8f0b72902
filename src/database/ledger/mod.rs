//! The ledger: the truth about every release. Tables are described in `migrations/`.
//!
//! [`observe`] reads everything a decision needs in one statement; the modules beside it write. Writes of a phase take part in
//! the phase's own transaction, so that what it did and the row that says so commit together.

pub mod definitions;
pub mod downloads;
pub mod exchange;
pub mod former_states;
pub mod import_jobs;
pub mod imports;
pub mod jobs;
pub mod phases;
pub mod runs;
pub mod staging;

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::Deserialize;
use sqlx::{PgConnection, types::Json};

use crate::{
    api::{FrozenWorkload, ReleaseState},
    release::{KeptBackup, ReleaseRecord, RunRecord, Written},
};

/// What the ledger knows of one release and its portal.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct View {
    /// The portal's row; absent before its first release.
    pub portal: Option<PortalRecord>,
    /// The release's row.
    pub release: Option<ReleaseRecord>,
    /// Its latest run.
    pub run: Option<RunRecord>,
    /// What that run works from; an older version did not write it down.
    pub definition: Option<definitions::DefinitionRecord>,
    /// The portal's open run, whichever release it belongs to.
    pub open: Option<OpenRun>,
    /// The release whose data the staging holds.
    pub staging_owner: Option<Owner>,
    /// Imports of the release.
    #[serde(default)]
    pub imports: Vec<imports::ImportRecord>,
    /// Workloads stopped on behalf of the release.
    #[serde(default, deserialize_with = "former_states::workloads")]
    pub frozen: Vec<FrozenWorkload>,
    /// The backups that exist, whoever made them, newest first.
    #[serde(default)]
    pub backups: Vec<KeptBackup>,
}

/// A portal's row.
#[derive(Clone, Debug, Deserialize)]
pub struct PortalRecord {
    /// The fencing epoch.
    pub epoch: i64,
    /// What readers see.
    pub current_release: Option<i64>,
    /// What was written to the live tables, when it was last counted.
    #[serde(default)]
    pub written: Option<Written>,
}

/// The portal's open run.
#[derive(Clone, Debug, Deserialize, sqlx::FromRow)]
pub struct OpenRun {
    /// The run.
    pub run: i64,
    /// Its release.
    pub release: i64,
    /// Uid of the release's object.
    pub uid: String,
    /// Name of that object.
    pub name: String,
    /// Label of the release.
    pub label: String,
}

/// The release whose data the staging holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Owner {
    /// The release.
    pub id: i64,
    /// Name of its object.
    pub name: String,
    /// Its state.
    pub state: ReleaseState,
}

/// Reads what the ledger knows of the release with `label` of `portal`, in one statement and so of one moment.
///
/// # Errors
/// When the database does not answer, or holds rows that this version cannot read.
pub async fn observe(connection: &mut PgConnection, portal: &str, label: &str) -> Result<View, sqlx::Error> {
    let (_, Json(view)): (String, Json<View>) = sqlx::query_as(OBSERVE).bind(portal).bind(vec![label]).fetch_one(connection).await?;
    Ok(view)
}

/// The same of many releases, by their label, in one statement too. Rows arrive one after the other: there may be thousands.
pub fn observe_all<'a>(
    connection: &'a mut PgConnection,
    portal: &'a str,
    labels: Vec<String>,
) -> BoxStream<'a, Result<(String, View), sqlx::Error>> {
    let rows = sqlx::query_as(OBSERVE).bind(portal).bind(labels).fetch(connection);
    rows.map_ok(|(label, Json(view)): (String, Json<View>)| (label, view)).boxed()
}

/// The open run of `portal`, whichever release it belongs to.
///
/// # Errors
/// When the database does not answer.
pub async fn open_run(connection: &mut PgConnection, portal: &str) -> Result<Option<OpenRun>, sqlx::Error> {
    sqlx::query_as(
        "SELECT u.id AS run, o.id AS release, o.uid, o.name, o.label
         FROM portal_release.runs u JOIN portal_release.releases o ON o.id = u.release_id WHERE u.portal = $1 AND u.closed_at IS NULL",
    )
    .bind(portal)
    .fetch_optional(connection)
    .await
}

const OBSERVE: &str = "SELECT wanted.label, jsonb_build_object(
            'portal', (SELECT to_jsonb(p) FROM portal_release.portals p WHERE p.portal = $1),
            'release', to_jsonb(r) - 'manifest' - 'staging',
            'run', (SELECT to_jsonb(u) || jsonb_build_object('phases',
                        (SELECT coalesce(jsonb_agg(to_jsonb(h) || jsonb_build_object('direction', coalesce(h.direction,
                            CASE WHEN u.kind = 'Rollback' AND h.phase = 'FinaliseSwap' THEN 'Undo' ELSE 'Do' END)) ORDER BY h.position), '[]') FROM portal_release.phases h WHERE h.run_id = u.id))
                    FROM portal_release.runs u WHERE u.release_id = r.id ORDER BY u.id DESC LIMIT 1),
            -- Only an open run is compared with its definition; thousands of the others would be unpacked for nothing.
            'definition', (SELECT to_jsonb(d) - 'portal' - 'release' - 'sources' FROM portal_release.definitions d
                    JOIN portal_release.runs u ON u.id = d.run_id WHERE u.release_id = r.id AND u.closed_at IS NULL),
            'open', (SELECT jsonb_build_object('run', u.id, 'release', o.id, 'uid', o.uid, 'name', o.name, 'label', o.label)
                     FROM portal_release.runs u JOIN portal_release.releases o ON o.id = u.release_id
                     WHERE u.portal = $1 AND u.closed_at IS NULL),
            'staging_owner', (SELECT jsonb_build_object('id', o.id, 'name', o.name, 'state', o.state)
                     FROM portal_release.portals p JOIN portal_release.releases o ON o.id = p.staging_release WHERE p.portal = $1),
            'imports', (SELECT coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object('job', j.job) ORDER BY i.position), '[]')
                     FROM portal_release.imports i LEFT JOIN portal_release.jobs j ON j.release_id = i.release_id AND j.purpose = 'import' AND j.item = i.import
                     WHERE i.release_id = r.id),
            'frozen', (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.kind, f.name), '[]')
                     FROM portal_release.former_states f WHERE f.portal = $1 AND f.purpose = 'Freeze' AND f.release_id = r.id),
            'backups', (SELECT coalesce(jsonb_agg(jsonb_build_object('stamp', b.stamp, 'label',
                            (SELECT max(o.label) FROM portal_release.backups k JOIN portal_release.releases o ON o.id = k.holds_release
                             WHERE k.portal = $1 AND k.backup = b.stamp AND k.gone_at IS NULL)) ORDER BY b.stamp DESC), '[]')
                     FROM (SELECT DISTINCT substr(c.relname, 3, 10) AS stamp FROM pg_class c
                           WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~ '^bk[0-9]{10}_') AS b))
         FROM unnest($2::text[]) AS wanted(label) LEFT JOIN portal_release.releases r ON r.portal = $1 AND r.label = wanted.label";

/// What the ledger says of all finished releases of `portal`, and of what decides about them, in a few digits: others mean that
/// something has changed, whoever did it.
///
/// # Errors
/// When the database does not answer.
pub async fn digits_of_finished(connection: &mut PgConnection, portal: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT concat_ws(' ',
            (SELECT hashtextextended(ROW(current_release, staging_release, written)::text, 0) FROM portal_release.portals WHERE portal = $1),
            (SELECT hashtextextended(string_agg(f::text, ' ' ORDER BY kind, name), 0) FROM portal_release.former_states f WHERE portal = $1),
            (SELECT string_agg(DISTINCT substr(relname, 3, 10), ' ') FROM pg_class
             WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname ~ '^bk[0-9]{10}_'),
            (SELECT count(*) || ' ' || sum(hashtextextended(ROW(id, label, uid, name, state, message, retry_seen, abort_seen, backup, parked,
                        manifest_sha256, started_at, swapped_at, completed_at)::text, 0))
             FROM portal_release.releases WHERE portal = $1 AND state IN ('Live', 'Superseded', 'RolledBack', 'Aborted', 'Failed')))",
    )
    .bind(portal)
    .fetch_one(connection)
    .await
}

/// Writes one line of the audit trail.
///
/// # Errors
/// When the database does not answer.
pub async fn event(
    connection: &mut PgConnection,
    release: i64,
    run: Option<i64>,
    event: &str,
    phase: Option<&str>,
    message: &str,
    epoch: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.release_events (release_id, run_id, event, phase, message, epoch) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(release)
    .bind(run)
    .bind(event)
    .bind(phase)
    .bind(message)
    .bind(epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// The database's clock, RFC 3339 in UTC.
///
/// # Errors
/// When the database does not answer.
pub async fn now(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").fetch_one(connection).await
}
