//! The structure of relations, read from `pg_catalog` as facts.
//!
//! A [`Fact`] is the piece of SQL that would make one detail of a relation again, with the names that differ between
//! generations left open. From this one description follow the three things the swap needs: what to execute so that
//! staging becomes a copy of live ([`super::staging`]), how the two differ ([`diff`]), and a [`fingerprint`] of live.

mod difference;
mod fact;
mod read;
mod template;

use std::collections::BTreeSet;

use sqlx::PgConnection;

pub use self::difference::Difference;
pub(super) use self::difference::{lacking, left_to_swap};
pub use self::fact::{Fact, Stage, Structure};
pub(super) use self::fact::{INDEX, LOOKUP_KEY};
pub(super) use self::read::{empty_search_path, read_catalogue};
pub use self::template::Template;
use self::{difference::compare, read::facts};
use super::identifiers::{Generation, Relations, sha256_hex};
use crate::classify::Classify;

/// A structure that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database refused or was lost.
    #[error("the structure of schema {schema} could not be read: {source}; check the connection and the privileges, then retry")]
    Database {
        /// The schema that was read.
        schema: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A relation of the portal does not exist.
    #[error("{relation} does not exist; create it, or remove it from the Portal")]
    Missing {
        /// The qualified name.
        relation: String,
    },
}

impl Classify for CatalogError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_transient(),
            Self::Missing { .. } => false,
        }
    }
}

/// Reads live. Relations that do not exist are skipped; see [`Structure::has`].
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn live(conn: &mut PgConnection, relations: &Relations) -> Result<Structure, CatalogError> {
    read(conn, relations, &Generation::Live, &BTreeSet::new()).await
}

/// Reads another generation, with its names led back to the names of `live`.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn counterpart(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    live: &Structure,
) -> Result<Structure, CatalogError> {
    let mut bases = live.base_names();
    bases.extend(relations.swapped().map(str::to_owned));
    read(conn, relations, generation, &bases).await
}

/// A hash over the structure of the live relations: equal as long as the structure is unchanged.
///
/// # Errors
/// When a relation is missing or the catalogue cannot be read.
pub async fn fingerprint(conn: &mut PgConnection, relations: &Relations) -> Result<String, CatalogError> {
    let structure = live(conn, relations).await?;
    let missing = relations.swapped().find(|base| !structure.has(base));
    if let Some(base) = missing {
        return Err(CatalogError::Missing { relation: format!("{}.{base}", relations.schema) });
    }
    let mut text = String::new();
    for fact in &structure.facts {
        let (relation, _, place, _, definition) = fact.identity();
        // The lengths keep two different structures from giving one text.
        let definition = definition.render(&Generation::Live);
        text.push_str(&format!("{}:{relation} {} {place} {}:{definition}\n", relation.len(), fact.kind(), definition.len()));
    }
    Ok(sha256_hex(&text))
}

/// How the relations of `generation` differ from live; empty means that they can take its place.
///
/// What only the swap itself can add ([`Stage::Swap`]) is not compared.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn diff(conn: &mut PgConnection, relations: &Relations, generation: &Generation) -> Result<Vec<Difference>, CatalogError> {
    let live = live(conn, relations).await?;
    let other = counterpart(conn, relations, generation, &live).await?;
    Ok(compare(generation, &live, &other))
}

async fn read(
    conn: &mut PgConnection,
    relations: &Relations,
    generation: &Generation,
    bases: &BTreeSet<String>,
) -> Result<Structure, CatalogError> {
    facts(conn, relations, generation, bases).await.map_err(|source| CatalogError::Database { schema: relations.schema.clone(), source })
}

/// Everything that a live relation has besides its columns and its query, as statements.
pub(super) async fn details(conn: &mut PgConnection, schema: String, relation: String) -> Result<Vec<String>, sqlx::Error> {
    let only = Relations { schema, views: vec![relation], ..Relations::default() };
    let structure = facts(conn, &only, &Generation::Live, &BTreeSet::new()).await?;
    let details = structure.facts.iter().filter(|fact| fact.stage() > Stage::Created);
    Ok(details.map(|fact| fact.definition.render(&Generation::Live)).collect())
}
