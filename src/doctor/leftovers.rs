//! What earlier releases left.

use sqlx::PgConnection;

use super::{Line, Report, Target};
use crate::database::{
    backups::{self, BackupError},
    identifiers::Generation,
    inventory::{self, human},
    ledger,
};

pub(super) async fn examine(target: &Target, connection: &mut PgConnection, report: &mut Report) {
    let lines = staging(target, connection).await;
    report.take("staging", lines);
    let lines = backups(target, connection).await;
    report.take("backups", lines);
    if target.ledger {
        let lines = runs(target, connection).await;
        report.take("run", lines);
    }
}

/// Relations that are called as the operator's.
async fn staging(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let mut names = target.relations.names(&Generation::Staging);
    names.extend(target.relations.lookups.iter().map(|lookup| Generation::Staging.name(lookup)));
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2) ORDER BY 1",
    )
    .bind(&target.relations.schema)
    .bind(names)
    .fetch_all(&mut *connection)
    .await?;
    let Some(first) = there.first() else { return Ok(vec![Line::ok("staging", "no staging relation is left")]) };
    let what = if there.len() == 1 { first.clone() } else { format!("{first} and {} more", there.len() - 1) };
    let owner: Option<(String, String)> = if target.ledger {
        sqlx::query_as("SELECT r.label, r.state FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.staging_release WHERE p.portal = $1")
            .bind(&target.key)
            .fetch_optional(connection)
            .await?
    } else {
        None
    };
    Ok(vec![match owner {
        Some((label, state)) => Line::ok("staging", format!("{what}: the data of {label}, which is {state}")),
        None => {
            return Ok(ledger::staging::foreign_finding(&there).into_iter().map(|finding| Line { check: "staging", finding }).collect());
        }
    }])
}

async fn backups(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, BackupError> {
    let failed = |source| BackupError::Database { schema: target.relations.schema.clone(), source };
    let there = backups::list(connection, &target.relations).await?;
    if there.is_empty() {
        return Ok(vec![Line::ok("backups", "no backup yet: the first release creates one")]);
    }
    let stamps: Vec<_> = there.iter().map(|backup| backup.stamp).collect();
    let sizes = inventory::sizes(connection, &target.relations, &stamps).await.map_err(failed)?;
    let held = inventory::held_by(connection, &target.relations, &there).await.map_err(failed)?;
    let mut lines = Vec::new();
    for backup in there {
        let stamp = backup.stamp.to_string();
        let size = human(sizes.get(&stamp).copied().unwrap_or_default());
        let what = format!("{stamp}: {} tables, {} views, {size}", backup.tables.len(), backup.views.len());
        lines.push(match held.get(&stamp) {
            Some(holders) => Line::warn(
                "backups",
                format!("{what}; {} depends on it", holders.join(", ")),
                "retention keeps it until what depends on it is dropped or changed",
            ),
            None if !backup.complete => Line::warn(
                "backups",
                format!("{what}; some relations that are swapped today are missing"),
                "a rollback to it needs every table",
            ),
            None => Line::ok("backups", what),
        });
    }
    Ok(lines)
}

/// What the ledger says.
async fn runs(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let open: Option<(String, String, String)> = sqlx::query_as(
        "SELECT r.label, u.kind, to_char(u.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM portal_release.runs u
         JOIN portal_release.releases r ON r.id = u.release_id WHERE u.portal = $1 AND u.closed_at IS NULL",
    )
    .bind(&target.key)
    .fetch_optional(&mut *connection)
    .await?;
    let current = ledger::exchange::current_label(connection, &target.key).await?;
    let live = current.map_or_else(|| "readers see data from before the operator".to_owned(), |label| format!("readers see {label}"));
    Ok(vec![match open {
        None => Line::ok("run", format!("{live}; no release runs")),
        Some((label, kind, since)) => {
            Line::warn("run", format!("{live}; a run ({kind}) of {label} is open since {since} UTC"), "another release waits for it")
        }
    }])
}
