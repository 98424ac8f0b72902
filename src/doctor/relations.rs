//! The relations: who owns them, and what they will be called.

use sqlx::PgConnection;

use super::{Line, Report, Target};
use crate::database::identifiers::{BackupStamp, Generation, MAX_NAME_BYTES, quote_ident};

/// At most this many of a kind are named.
const NAMED: usize = 8;

pub(super) async fn examine(target: &Target, connection: &mut PgConnection, report: &mut Report) {
    let lines = owners(target, connection).await;
    report.take("owners", lines);
    let lines = long_names(target, connection).await;
    report.take("names", lines);
}

/// Only an owner may rename a relation; new look-up rows are inserted.
async fn owners(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let swapped: Vec<String> = target.relations.names(&Generation::Live);
    let foreign: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT c.relname::text, pg_get_userbyid(c.relowner)::text, c.relname = ANY ($2) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm', 'v', 'f') AND CASE WHEN c.relname = ANY ($2) THEN NOT pg_has_role(c.relowner, 'USAGE')
               WHEN c.relname = ANY ($3) THEN NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND (has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'))) ELSE false END
         ORDER BY 1",
    )
    .bind(&target.relations.schema)
    .bind(&swapped)
    .bind(&target.relations.lookups)
    .fetch_all(connection)
    .await?;
    if foreign.is_empty() {
        return Ok(vec![Line::ok("owners", format!("{} may rename every relation and add rows to every look-up table", target.role))]);
    }
    let role = quote_ident(&target.role);
    Ok(foreign
        .into_iter()
        .map(|(name, owner, swapped)| {
            if swapped {
                let next = format!("GRANT {} TO {role}, or ALTER TABLE {} OWNER TO {role}", quote_ident(&owner), quote_ident(&name));
                Line::fail("owners", format!("{name} belongs to {owner}, of which {} is not a member", target.role), next)
            } else {
                let next = format!("GRANT SELECT, INSERT, UPDATE ON {} TO {role}", quote_ident(&name));
                Line::fail("owners", format!("{} may not add rows to look-up table {name}", target.role), next)
            }
        })
        .collect())
}

/// Postgres would cut a longer name; the operator ends it in a hash.
async fn long_names(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
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
    .bind(&target.relations.schema)
    .bind(target.relations.names(&Generation::Live))
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
        format!(
            "names that a prefix would make longer than {MAX_NAME_BYTES} bytes end in a hash: a backup made now would name {}{more}",
            shown.join(", ")
        ),
    )])
}
