//! BuildStaging: the staged copies of the tables.

use super::views;
use crate::{
    database::{
        catalog,
        identifiers::Relations,
        ledger,
        staging::{build as build_tables, build_lookup, drop_all},
    },
    jobs,
    work::{Context, Definition, Done, PhaseError},
};

/// Builds empty staged tables, and staged copies of the look-up tables, in one transaction.
pub(super) async fn build(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let lightweight = context.subject.spec.staging.lightweight.unwrap_or(context.subject.portal.staging.lightweight);
    let imports: Vec<(String, bool)> =
        definition.imports().map(|one| (one.import.name.0.clone(), !context.subject.spec.imports.runs(&one.import.name))).collect();

    jobs::stop_writers(context).await?;
    let mut work = context.work().await?;
    views::claim(&mut work, context).await?;
    drop_all(&mut work, &tables).await?;
    build_tables(&mut work, &tables, lightweight).await?;
    for lookup in &tables.lookups {
        build_lookup(&mut work, &tables.schema, lookup).await?;
    }
    let mut origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
    origin.definition = Some(definition.hash.clone());
    origin.imports = definition.import_hashes.clone();
    origin.selection = Some(definition.selection.clone());
    origin.structure = Some(catalog::fingerprint(&mut work, &tables).await?);
    ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
    ledger::imports::plan_imports(&mut work, context.subject.release_id, &imports).await?;
    let how = if lightweight { "without indexes and foreign keys until they are loaded" } else { "with indexes and foreign keys" };
    work.complete(&format!("{} tables staged {how}", tables.tables.len())).await
}

/// Drops the staged tables.
pub(super) async fn undo_build(context: &Context) -> Result<Done, PhaseError> {
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let mut work = context.work().await?;
    if ledger::staging::owns_staging(&mut work, &context.key(), context.subject.release_id).await? {
        drop_all(&mut work, &tables).await?;
        if !context.stages_views() {
            ledger::staging::own_staging(&mut work, &context.key(), None).await?;
        }
    }
    work.complete("staged tables dropped").await
}
