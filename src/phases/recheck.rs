//! Before a release resumes from an existing staging: is what it was built from unchanged?

use super::views;
use crate::{
    database::{
        catalog,
        identifiers::Relations,
        ledger::{self, phases, staging::StagingOrigin},
    },
    imports::file,
    release::plan::imports_again,
    work::{Context, Definition, PhaseError},
};

/// Compares the staging with the Portal, the live tables, the source and the files.
///
/// # Errors
/// [`PhaseError::Stale`] with what has changed.
pub(super) async fn run(context: &Context) -> Result<(), PhaseError> {
    let definition = Definition::of(context)?;
    let mut work = context.work().await?;
    let origin = ledger::staging::origin(&mut work, context.subject.release_id).await?;
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let again = ledger::imports::marked_again(&mut work, context.subject.release_id).await?;
    let structure = catalog::fingerprint(&mut work, &tables).await?;
    work.commit().await?;
    if let Some(what) = changed(context, &definition, &origin, &again) {
        return Err(PhaseError::Stale(format!(
            "the Portal's views, tables or imports have changed since the staging was built ({what}); rebuilding the staging"
        )));
    }
    if origin.structure.is_some_and(|then| then != structure) {
        return Err(PhaseError::Stale(
            "the structure of the live tables has changed since the staging was built; rebuilding the staging".to_owned(),
        ));
    }
    if !origin.views.is_empty() {
        let now = views::contents(context, &definition).await?;
        let changed: Vec<&str> =
            origin.views.iter().filter(|(name, then)| now.get(*name) != Some(then)).map(|(name, _)| name.as_str()).collect();
        if !changed.is_empty() {
            return Err(PhaseError::Stale(format!(
                "the source has changed since the staging was built ({}); rebuilding the staging",
                changed.join(", ")
            )));
        }
    }
    let changed = file::changed(context, &definition, &origin.files, &again).await?;
    if !changed.is_empty() {
        return Err(PhaseError::Stale(format!(
            "files have changed since the staging was built ({}); rebuilding the staging",
            changed.join(", ")
        )));
    }
    let mut work = context.work().await?;
    phases::rechecked(&mut work, context.subject.run.id).await?;
    work.commit().await
}

/// What the Portal and the release say otherwise than when the staging was built. Imports that are to run again may have changed.
fn changed(context: &Context, definition: &Definition, origin: &StagingOrigin, again: &[String]) -> Option<String> {
    // Staging that is not begun yet has nothing to compare with.
    let before = origin.definition.as_ref()?;
    if *before != definition.hash {
        return Some("views or tables".to_owned());
    }
    let selection = origin.selection.as_ref()?;
    let is_new = |name: &&String| origin.imports.get(*name) != definition.import_hashes.get(*name);
    let mut names: Vec<&str> = origin
        .imports
        .keys()
        .chain(definition.import_hashes.keys())
        .filter(|name| is_new(name) && !again.contains(name))
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        return Some(format!("imports {}", names.join(", ")));
    }
    (*selection != definition.selection && !imports_again(&context.subject.spec))
        .then(|| "imports.only or imports.skip of the release".to_owned())
}
