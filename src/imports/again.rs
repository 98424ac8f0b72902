//! Importing again into an existing staging: single imports on request, and imports that failed because of their rejected rows.
//!
//! The staged table is recreated, without indexes and keys, which ValidateAndManifest adds as it does after any load. That is allowed
//! only where nothing else depends on the rows that go.

use super::{is_over_limit, job, read_by, reads_table};
use crate::{
    api::Import,
    database::{
        identifiers::Relations,
        import::ENOUGH_REJECTED,
        ledger,
        staging::{build, build_lookup, drop_all, drop_keys_to},
    },
    work::{
        Context, Definition, PhaseError, Work,
        definition::{ResolvedImport, templates},
    },
};

/// Empties the tables of the imports that are to run again, and forgets what these imports did. All of it commits together, so that
/// it happens once, wherever the operator is killed.
pub(crate) async fn prepare(context: &Context, definition: &Definition, core: bool) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let marked = ledger::imports::marked_again(&mut work, context.subject.release_id).await?;
    let mut again: Vec<&Import> = Vec::new();
    for ResolvedImport { import, .. } in definition.imports() {
        if marked.contains(&import.name.0) || has_failed_by_rejects(&mut work, context, import).await? {
            again.push(import);
        }
    }
    if again.is_empty() {
        return work.commit().await;
    }
    work.commit().await?;
    let names: Vec<String> = again.iter().map(|import| import.name.0.clone()).collect();
    job::stop(context, &names, false).await?;
    let mut work = context.work().await?;
    // Emptied here, the table of such an import would stay empty: ImportCore is over.
    let is_core = |import: &Import| definition.core.iter().any(|core| core.import.name == import.name);
    if !core && let Some(import) = again.iter().find(|import| is_core(import)) {
        return Err(PhaseError::Refused(format!(
            "import {} is one of imports.core and cannot be imported again by ImportRelated; set phases.startAt to ImportCore",
            import.name
        )));
    }
    refuse_stale(&mut work, context, definition, &again).await?;
    empty(&mut work, context, &again).await?;
    ledger::imports::reset_some(&mut work, context.subject.release_id, &names).await?;
    let mut origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
    let hashes = definition.import_hashes.iter().filter(|(name, _)| names.contains(name));
    origin.files.retain(|import, _| !names.contains(import));
    origin.imports.extend(hashes.map(|(name, hash)| (name.clone(), hash.clone())));
    ledger::staging::set_origin(&mut work, context.subject.release_id, &origin).await?;
    let message = format!("{}: their staged tables are truncated", names.join(", "));
    ledger::event(
        &mut work,
        context.subject.release_id,
        Some(context.subject.run.id),
        "ImportedAgain",
        Some(context.subject.attempt.phase.as_str()),
        &message,
        Some(context.subject.attempt.epoch),
    )
    .await?;
    context.say(format!("importing again: {message}"));
    work.commit().await
}

/// An earlier attempt came to its end with more rejected rows than the Portal allows. Whoever retries has repaired something.
async fn has_failed_by_rejects(work: &mut Work, context: &Context, import: &Import) -> Result<bool, PhaseError> {
    let Some((account, open)) = ledger::imports::unsettled(work, context.subject.release_id, import.name.as_str()).await? else {
        return Ok(false);
    };
    Ok((open == 0 || account.rejected > ENOUGH_REJECTED) && is_over_limit(import, &account))
}

/// Refuses where rows that stay were made from rows that go, or are in the same table.
async fn refuse_stale(work: &mut Work, context: &Context, definition: &Definition, again: &[&Import]) -> Result<(), PhaseError> {
    let templates = templates(context);
    let begun = ledger::imports::begun(work, context.subject.release_id).await?;
    let stays = |import: &Import| begun.contains(&import.name.0) && !again.iter().any(|other| other.name == import.name);
    let mut stale = Vec::new();
    for ResolvedImport { import, query, .. } in definition.imports().filter(|one| stays(&one.import)) {
        let reads = match query {
            Some(source) => read_by(work, import, source, &templates).await?,
            None => Vec::new(),
        };
        for one in again {
            if import.into == one.into {
                stale.push(format!("{} fills {} too", import.name, one.into));
            } else if reads_table(&reads, context, one) || import.depends_on.contains(&one.name) {
                stale.push(format!("{} was made from {}", import.name, one.into));
            }
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = again.iter().map(|import| import.name.as_str()).collect();
    Err(PhaseError::Refused(format!(
        "{} cannot be imported again on its own: {}; name those imports in imports.only too, or remove phases.startAt and imports.only to import everything again",
        names.join(", "),
        stale.join(", ")
    )))
}

/// Recreates the staged tables, empty.
async fn empty(work: &mut Work, context: &Context, again: &[&Import]) -> Result<(), PhaseError> {
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let is_filled = |name: &&String| again.iter().any(|import| import.into.as_str() == name.as_str());
    let gone = Relations {
        schema: tables.schema.clone(),
        tables: tables.tables.iter().filter(is_filled).cloned().collect(),
        lookups: tables.lookups.iter().filter(is_filled).cloned().collect(),
        views: Vec::new(),
    };
    for table in &gone.tables {
        drop_keys_to(work, &tables, table).await?;
    }
    drop_all(work, &gone).await?;
    build(work, &tables, true).await?;
    for lookup in &gone.lookups {
        build_lookup(work, &tables.schema, lookup).await?;
    }
    Ok(())
}
