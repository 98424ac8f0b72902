//! What must be true of a portal's database before a release: what Preflight checks, and doctor too.

use sqlx::PgConnection;

use super::{
    checks::{CheckError, GeometryRule, duplicates, geometry, non_empty},
    identifiers::Relations,
};
use crate::{
    api::{GeometryCheck, Identifier, PortalSpec, Preflight, UniqueCheck},
    finding::Finding,
};

/// Every relation that must exist before a release: those that it replaces, the look-up tables, and what the checks name.
#[must_use]
pub fn needed(portal: &PortalSpec) -> Vec<String> {
    let relations = Relations::of(portal);
    let mut names: Vec<String> = relations.swapped().map(str::to_owned).chain(relations.lookups.iter().cloned()).collect();
    names.extend(DataCheck::all(&portal.preflight).iter().map(|check| check.relation().to_owned()));
    names.sort();
    names.dedup();
    names
}

/// A check of a relation's rows.
#[derive(Debug, Clone, Copy)]
pub enum DataCheck<'a> {
    /// At least one row.
    AnyRows(&'a Identifier),
    /// Valid geometries of one SRID.
    Geometry(&'a GeometryCheck),
    /// Columns that are unique together.
    Unique(&'a UniqueCheck),
}

impl<'a> DataCheck<'a> {
    /// The checks of a Portal, in order.
    #[must_use]
    pub fn all(preflight: &'a Preflight) -> Vec<Self> {
        let rows = preflight.require_any_rows.iter().map(Self::AnyRows);
        let geometry = preflight.geometry.iter().map(Self::Geometry);
        let unique = preflight.unique.iter().map(Self::Unique);
        rows.chain(geometry).chain(unique).collect()
    }

    /// The relation that it names.
    #[must_use]
    pub fn relation(&self) -> &'a str {
        match self {
            Self::AnyRows(relation) => relation.as_str(),
            Self::Geometry(check) => check.relation.as_str(),
            Self::Unique(check) => check.relation.as_str(),
        }
    }

    /// What is being done, in words.
    #[must_use]
    pub fn doing(&self) -> String {
        match self {
            Self::AnyRows(relation) => format!("looking for rows in {relation}"),
            Self::Geometry(check) => format!("checking the geometry of {}", check.relation),
            Self::Unique(check) => format!("looking for duplicates in {}", check.relation),
        }
    }

    /// Checks `relation`, which may be the staged twin of the one that is named.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn findings(&self, conn: &mut PgConnection, schema: &str, relation: &str) -> Result<Vec<Finding>, CheckError> {
        match self {
            Self::AnyRows(_) => Ok(non_empty(conn, schema, relation).await?.into_iter().collect()),
            Self::Geometry(check) => {
                let rule = GeometryRule { column: check.column.as_str(), srid: Some(check.srid), nullable: false };
                geometry(conn, schema, relation, rule).await
            }
            Self::Unique(check) => {
                let names: Vec<String> = check.columns.iter().map(|column| column.0.clone()).collect();
                Ok(duplicates(conn, schema, relation, &names).await?.into_iter().collect())
            }
        }
    }
}
