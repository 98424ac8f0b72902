//! The objects that depend on the live relations without being among them, and how the swap carries them over.
//!
//! Postgres binds by identity, not by name: after a rename a view keeps reading what is now the backup. So views,
//! functions with an SQL body, policies, rules and foreign keys from outside are written again in the swap's
//! transaction, and publications are handed the new tables (their subscribers then need `ALTER SUBSCRIPTION ... REFRESH
//! PUBLICATION`, as Postgres distinguishes tables by identity there too). What uses a row type in a signature or a column
//! is recreated with its owner, grants and comments, and so are the functions and views that depend on it; sessions that
//! have prepared a statement whose result is such a row must prepare it again.
//! What cannot be written again is an obstacle, and whatever this module does not know is one too.

use sqlx::{Connection, PgConnection};

use super::catalog::{self, read_catalogue};
use super::identifiers::{Generation, Relations, assembled};
use crate::finding::Finding;

/// Something that depends on a live relation, or a reason why a live relation cannot be swapped.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Dependent {
    /// What it is, in words: `view public.regions`.
    pub object: String,
    /// What to execute before the renames.
    pub before: Option<String>,
    /// What to execute after them.
    pub after: Option<String>,
    /// The relation to lock beforehand, quoted.
    pub(super) locked: Option<String>,
    /// Its kind.
    pub(super) relkind: Option<String>,
    /// Its owner, quoted.
    pub(super) owner: Option<String>,
    /// Why it cannot be carried over, and what to do.
    pub obstacle: Option<Vec<String>>,
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    dependent: Dependent,
    /// The schema of a view that is recreated.
    view_schema: Option<String>,
    /// Its name.
    view: Option<String>,
}

/// Lists everything that depends on the live relations, in the order in which `after` must be executed; `before` is
/// executed in the opposite order. `incoming` is the generation that will take their place.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn list(conn: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<Dependent>, sqlx::Error> {
    let mut scope = conn.begin().await?;
    read_catalogue(&mut scope).await?;
    let rows: Vec<Row> = sqlx::query_as(include_str!("dependents.sql"))
        .bind(&relations.schema)
        .bind(relations.names(&Generation::Live))
        .bind(relations.names(incoming))
        .fetch_all(&mut *scope)
        .await?;
    let mut dependents: Vec<Dependent> = sqlx::query_as(include_str!("obstacles.sql"))
        .bind(&relations.schema)
        .bind(relations.names(&Generation::Live))
        .fetch_all(&mut *scope)
        .await?
        .into_iter()
        .map(|(object, obstacle)| Dependent { object, obstacle: Some(obstacle), ..Dependent::default() })
        .collect();
    for Row { mut dependent, view_schema, view } in rows {
        if let (Some(after), Some(schema), Some(view)) = (&mut dependent.after, view_schema, view) {
            for detail in catalog::details(&mut scope, schema, view).await? {
                after.push_str("; ");
                after.push_str(&detail);
            }
        }
        dependents.push(dependent);
    }
    scope.rollback().await?;
    Ok(dependents)
}

/// Drops the functions that swaps have replaced by new ones and kept for calls that were under way.
///
/// # Errors
/// When something depends on one of them, or the database refuses.
pub async fn drop_replaced(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let replaced: Option<String> = sqlx::query_scalar(
        "SELECT string_agg(f.oid::regprocedure::text, ', ') FROM pg_proc f
         WHERE starts_with(f.proname::text, 'replaced_' || f.oid || '_') AND pg_has_role(f.proowner, 'USAGE')",
    )
    .fetch_one(&mut *conn)
    .await?;
    if let Some(list) = replaced {
        sqlx::raw_sql(assembled(format!("DROP ROUTINE {list} RESTRICT"))).execute(conn).await?;
    }
    Ok(())
}

/// What a swap could not carry over.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn obstacles(conn: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<Finding>, sqlx::Error> {
    Ok(findings(&list(conn, relations, incoming).await?))
}

pub(super) fn findings(dependents: &[Dependent]) -> Vec<Finding> {
    let finding = |it: &Dependent| {
        let mut parts = it.obstacle.clone()?.into_iter();
        Some(Finding::fail(&it.object, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
    };
    dependents.iter().filter_map(finding).collect()
}
