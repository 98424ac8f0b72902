//! Before a release goes on from a staging that has stood for a while: is what it was built from still the same?

use super::{Context, Definition, PhaseError, of_database, views};
use crate::{
    api::PhaseName,
    database::{
        catalog,
        identifiers::Relations,
        ledger::{self, phases},
    },
};

/// The phases that build on the staging.
pub(super) fn is_due(phase: PhaseName) -> bool {
    matches!(
        phase,
        PhaseName::Preflight
            | PhaseName::BuildStaging
            | PhaseName::ImportCore
            | PhaseName::ImportRelated
            | PhaseName::ValidateAndManifest
            | PhaseName::Freeze
            | PhaseName::FinaliseSwap
    )
}

/// Compares the staging with the Portal, the live tables and the source.
///
/// # Errors
/// [`PhaseError::Stale`] with what has changed.
pub(super) async fn run(context: &Context) -> Result<(), PhaseError> {
    let definition = Definition::resolve(context).await?;
    let mut work = context.work().await?;
    let origin = ledger::staging::origin(&mut work, context.release).await?;
    let tables = Relations { views: Vec::new(), ..context.relations() };
    let structure = catalog::fingerprint(&mut work, &tables).await.map_err(of_database)?;
    work.commit().await?;
    if origin.definition.as_ref().is_some_and(|hash| *hash != definition.hash) {
        return Err(PhaseError::Stale(
            "the Portal's views, tables or imports have changed since the staging was built: it is built again".to_owned(),
        ));
    }
    if origin.structure.is_some_and(|then| then != structure) {
        return Err(PhaseError::Stale(
            "the structure of the live tables has changed since the staging was built: it is built again".to_owned(),
        ));
    }
    if !origin.views.is_empty() {
        let now = views::contents(context, &definition).await?;
        let changed: Vec<&str> =
            origin.views.iter().filter(|(name, then)| now.get(*name) != Some(then)).map(|(name, _)| name.as_str()).collect();
        if !changed.is_empty() {
            return Err(PhaseError::Stale(format!(
                "the source has changed since the staging was built ({}): it is built again",
                changed.join(", ")
            )));
        }
    }
    let mut work = context.work().await?;
    phases::rechecked(&mut work, context.run.id).await?;
    work.commit().await
}
