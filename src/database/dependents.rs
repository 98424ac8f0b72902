//! What stands on the live relations without being one of them, and how it is kept standing.
//!
//! Postgres binds by identity, not by name: after a rename a view goes on reading what is now the backup. So views,
//! functions with an SQL body, policies and foreign keys from outside are written again in the swap's transaction.
//! What cannot be written again is an obstacle, and whatever this module does not know is one too.

use sqlx::{Connection, PgConnection};

use super::catalog::empty_search_path;
use super::identifiers::{Generation, Relations};

/// Something that depends on a live relation, or a reason why a live relation cannot be swapped.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
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
    /// Why it cannot be carried over.
    pub obstacle: Option<String>,
}

/// Lists everything that depends on the live relations. `incoming` is the generation that will take their place.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn list(conn: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<Dependent>, sqlx::Error> {
    let mut scope = conn.begin().await?;
    empty_search_path(&mut scope).await?;
    let dependents = sqlx::query_as(include_str!("dependents.sql"))
        .bind(&relations.schema)
        .bind(relations.names(&Generation::Live))
        .bind(relations.names(incoming))
        .fetch_all(&mut *scope)
        .await?;
    scope.rollback().await?;
    Ok(dependents)
}

/// What a swap could not carry over, one sentence each, naming the object and what to do. Empty means: go.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn obstacles(conn: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<String>, sqlx::Error> {
    Ok(sentences(&list(conn, relations, incoming).await?))
}

pub(super) fn sentences(dependents: &[Dependent]) -> Vec<String> {
    dependents.iter().filter_map(|it| it.obstacle.as_ref().map(|why| format!("{} {why}", it.object))).collect()
}
