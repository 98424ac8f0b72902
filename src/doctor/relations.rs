//! The relations: whether they exist, their owners, their names in backups, what depends on them, and disk space for their copies.

use sqlx::PgConnection;

use super::{Line, Patient, Report};
use crate::database::{
    checks::missing_relations,
    dependents, disk,
    identifiers::{BackupStamp, Generation, MAX_NAME_BYTES, quote_ident},
    portal_checks::needed,
};

/// At most this many of a kind are named.
const NAMED: usize = 8;

pub(super) async fn examine(patient: &Patient, connection: &mut PgConnection, report: &mut Report) {
    let schema = patient.relations.schema.as_str();
    let names = needed(&patient.portal);
    match missing_relations(connection, schema, &names).await {
        Ok(missing) if missing.is_empty() => report.add(Line::ok("relations", format!("all {} exist", names.len()))),
        Ok(missing) => {
            for finding in missing {
                report.add(Line::fail("relations", format!("{}: {}", finding.object, finding.problem), finding.next_step));
            }
        }
        Err(error) => report.add(Line::blind("relations", &error)),
    }
    let lines = owners(patient, connection).await;
    report.take("owners", lines);
    let lines = long_names(patient, connection).await;
    report.take("names", lines);
    match dependents::obstacles(connection, &patient.relations, &Generation::Staging).await {
        Ok(obstacles) if obstacles.is_empty() => report.add(Line::ok("obstacles", "no dependent object blocks a swap")),
        Ok(obstacles) => {
            for obstacle in obstacles {
                // Each sentence is `{object} {problem}; {next step}`.
                let (problem, next) = obstacle.rsplit_once("; ").unwrap_or((&obstacle, "drop or change it"));
                report.add(Line::fail("obstacles", problem, next));
            }
        }
        Err(error) => report.add(Line::blind("obstacles", &error)),
    }
    report.add(match disk::room(connection, &patient.relations, patient.portal.preflight.free_bytes_query()).await {
        Ok(room) => match room.refusal() {
            Some(refusal) => {
                let (problem, next) = refusal.rsplit_once("; ").unwrap_or((&refusal, "make room"));
                Line::fail("room", problem, next)
            }
            None => Line::ok("room", format!("a release {room}")),
        },
        Err(error) => Line::blind("room", &error),
    });
}

/// Only an owner may rename a relation; new look-up rows are inserted.
async fn owners(patient: &Patient, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let swapped: Vec<String> = patient.relations.names(&Generation::Live);
    let foreign: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT c.relname::text, pg_get_userbyid(c.relowner)::text, c.relname = ANY ($2) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm', 'v', 'f') AND CASE WHEN c.relname = ANY ($2) THEN NOT pg_has_role(c.relowner, 'USAGE')
               WHEN c.relname = ANY ($3) THEN NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND (has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'))) ELSE false END
         ORDER BY 1",
    )
    .bind(&patient.relations.schema)
    .bind(&swapped)
    .bind(&patient.relations.lookups)
    .fetch_all(connection)
    .await?;
    if foreign.is_empty() {
        return Ok(vec![Line::ok("owners", format!("{} may rename every relation and add to every look-up table", patient.role))]);
    }
    let role = quote_ident(&patient.role);
    Ok(foreign
        .into_iter()
        .map(|(name, owner, swapped)| {
            if swapped {
                let next = format!("GRANT {} TO {role}, or ALTER TABLE {} OWNER TO {role}", quote_ident(&owner), quote_ident(&name));
                Line::fail("owners", format!("{name} belongs to {owner}, of which {} is not a member", patient.role), next)
            } else {
                let next = format!("GRANT SELECT, INSERT, UPDATE ON {} TO {role}", quote_ident(&name));
                Line::fail("owners", format!("{} may not add rows to look-up table {name}", patient.role), next)
            }
        })
        .collect())
}

/// Postgres would cut a longer name; the operator ends it in a hash.
async fn long_names(patient: &Patient, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(
        "WITH rel AS (SELECT c.oid, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2))
         SELECT DISTINCT name FROM (
             SELECT relname::text AS name FROM rel
             UNION ALL SELECT x.relname::text FROM rel JOIN pg_index i ON i.indrelid = rel.oid JOIN pg_class x ON x.oid = i.indexrelid
             UNION ALL SELECT e.stxname::text FROM rel JOIN pg_statistic_ext e ON e.stxrelid = rel.oid
             UNION ALL SELECT s.relname::text FROM rel JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = rel.oid
                        AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S') AS names
         WHERE octet_length(name) + 13 > $3 ORDER BY name",
    )
    .bind(&patient.relations.schema)
    .bind(patient.relations.names(&Generation::Live))
    .bind(i32::try_from(MAX_NAME_BYTES).unwrap_or(i32::MAX))
    .fetch_all(connection)
    .await?;
    if names.is_empty() {
        return Ok(vec![Line::ok("names", format!("every name fits into {MAX_NAME_BYTES} bytes, including its backup's"))]);
    }
    let backup = BackupStamp::at(jiff::Timestamp::now()).map(Generation::Backup).unwrap_or(Generation::Staging);
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("{name} as {}", backup.name(name))).collect();
    let more = if names.len() > NAMED { format!(", and {} more", names.len() - NAMED) } else { String::new() };
    Ok(vec![Line::ok(
        "names",
        format!("names that would pass {MAX_NAME_BYTES} bytes end in a hash: a backup of now would have {}{more}", shown.join(", ")),
    )])
}
