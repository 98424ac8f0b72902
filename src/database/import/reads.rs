//! What a query reads: the tables behind it, through ordinary views, as Postgres itself knows them.
//!
//! What a function reads is not found.

use sqlx::{Connection, PgConnection};

use super::error::{ImportError, failed};
use crate::database::{identifiers::qualified, run_sql};

/// A relation that holds rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelationRead {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
}

/// What a relation that is read is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelationKind {
    /// A table.
    Table,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable {
        /// Its server.
        server: String,
        /// The foreign data wrapper.
        wrapper: String,
    },
}

/// The relations behind a query, in order of their names. The role needs TEMP on the database.
///
/// # Errors
/// When the query is wrong.
pub async fn relations_read(conn: &mut PgConnection, import: &str, query: &str) -> Result<Vec<RelationRead>, ImportError> {
    let what = "looking for the relations that its query reads";
    let mut savepoint = conn.begin().await.map_err(failed(import, what))?;
    run_sql(&mut savepoint, format!("CREATE TEMPORARY VIEW portal_release_reads AS\n{query}")).await.map_err(failed(import, what))?;
    let found = behind(&mut savepoint, "pg_temp.portal_release_reads").await.map_err(failed(import, what))?;
    savepoint.rollback().await.map_err(failed(import, what))?;
    Ok(found)
}

/// The relations behind a view or a materialized view; none when it does not exist.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn relations_behind(conn: &mut PgConnection, schema: &str, view: &str) -> Result<Vec<RelationRead>, sqlx::Error> {
    behind(conn, &qualified(schema, view)).await
}

async fn behind(conn: &mut PgConnection, view: &str) -> Result<Vec<RelationRead>, sqlx::Error> {
    let rows: Vec<Found> = sqlx::query_as(
        "WITH RECURSIVE reads(oid) AS (
            SELECT to_regclass($1)::oid
            UNION
            SELECT next.oid FROM reads JOIN pg_class c ON c.oid = reads.oid
            CROSS JOIN LATERAL (
                SELECT d.refobjid FROM pg_rewrite w
                JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
                -- A materialized view is read as it stands, not what it was made from.
                WHERE w.ev_class = c.oid AND (c.relkind = 'v' OR c.oid = to_regclass($1))
                UNION ALL
                SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid) AS next(oid)
         )
         SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, s.srvname::text AS server, w.fdwname::text AS wrapper
         FROM reads JOIN pg_class c ON c.oid = reads.oid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
         LEFT JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
         WHERE c.relkind IN ('r', 'm', 'f') AND c.oid <> to_regclass($1) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
         ORDER BY 1, 2",
    )
    .bind(view)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Found::relation).collect())
}

#[derive(sqlx::FromRow)]
struct Found {
    schema: String,
    name: String,
    kind: String,
    server: Option<String>,
    wrapper: Option<String>,
}

impl Found {
    fn relation(self) -> RelationRead {
        let kind = match self.kind.as_str() {
            "f" => RelationKind::ForeignTable { server: self.server.unwrap_or_default(), wrapper: self.wrapper.unwrap_or_default() },
            "m" => RelationKind::MaterializedView,
            _ => RelationKind::Table,
        };
        RelationRead { schema: self.schema, name: self.name, kind }
    }
}
