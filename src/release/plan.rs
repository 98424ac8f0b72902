//! The ordered plan of a run: one pure function, shown in the status before anything runs.

use super::{PhaseRecord, RunKind};
use crate::api::{PhaseName, PhaseState, PortalReleaseSpec, PortalSpec};

/// One phase of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPhase {
    /// Its name.
    pub name: PhaseName,
    /// Why it has nothing to do, if it has not.
    pub skipped: Option<String>,
}

/// The phases of a run of `release`, in order. Phases with nothing to do are in it, with the reason.
pub fn plan(kind: RunKind, portal: &PortalSpec, release: &PortalReleaseSpec) -> Vec<PlannedPhase> {
    let phases = match kind {
        RunKind::Release => ordered(portal),
        RunKind::Rollback | RunKind::RollForward => vec![
            PhaseName::AcquireLock,
            PhaseName::Preflight,
            PhaseName::Freeze,
            PhaseName::FinaliseSwap,
            PhaseName::Scale,
            PhaseName::PostSwap,
            PhaseName::ReleaseLock,
        ],
    };
    let selected: Vec<PhaseName> =
        phases.iter().copied().filter(|&phase| kind != RunKind::Release || is_selected(phase, release, &phases)).collect();
    phases
        .into_iter()
        .map(|name| {
            let skipped = if selected.contains(&name) || always(name, &selected) {
                nothing_to_do(name, portal, release)
            } else {
                Some(not_selected(release))
            };
            PlannedPhase { name, skipped }
        })
        .collect()
}

/// The standard order with Freeze just before the phase that the Portal names.
fn ordered(portal: &PortalSpec) -> Vec<PhaseName> {
    let mut phases: Vec<PhaseName> = PhaseName::ALL.into_iter().filter(|&phase| phase != PhaseName::Freeze).collect();
    let before = portal.freeze.before.phase();
    let position = phases.iter().position(|&phase| phase == before).unwrap_or(phases.len());
    phases.insert(position, PhaseName::Freeze);
    phases
}

fn is_selected(phase: PhaseName, release: &PortalReleaseSpec, order: &[PhaseName]) -> bool {
    let selection = &release.phases;
    let position = |wanted: PhaseName| order.iter().position(|&other| other == wanted);
    let after_start = selection.start_at.is_none_or(|start| position(phase) >= position(start));
    let before_stop = selection.stop_after.is_none_or(|stop| position(phase) <= position(stop));
    let named = selection.only.is_empty() || selection.only.contains(&phase);
    // A dry run ends with the manifest.
    let before_swap = !release.dry_run || position(phase) <= position(PhaseName::ValidateAndManifest);
    after_start && before_stop && named && before_swap && !selection.skip.contains(&phase)
}

/// Phases that no selection can leave out.
fn always(phase: PhaseName, selected: &[PhaseName]) -> bool {
    match phase {
        PhaseName::AcquireLock | PhaseName::ReleaseLock => true,
        // The swap is never made under running workers, and frozen workers always come back.
        PhaseName::Freeze => selected.contains(&PhaseName::FinaliseSwap),
        PhaseName::Scale => selected.contains(&PhaseName::FinaliseSwap) || selected.contains(&PhaseName::Freeze),
        // The swap takes only what was validated for it, just now.
        PhaseName::ValidateAndManifest => selected.contains(&PhaseName::FinaliseSwap),
        _ => false,
    }
}

fn not_selected(release: &PortalReleaseSpec) -> String {
    if release.dry_run { "left out: dryRun is true".to_owned() } else { "left out by spec.phases".to_owned() }
}

fn nothing_to_do(phase: PhaseName, portal: &PortalSpec, release: &PortalReleaseSpec) -> Option<String> {
    let skipped = |when: bool, why: &str| when.then(|| why.to_owned());
    match phase {
        PhaseName::RefreshViews => skipped(!release.views.refresh.unwrap_or(portal.views.refresh), "views.refresh is false")
            .or_else(|| skipped(portal.materialized_views.is_empty(), "the Portal has no materializedViews")),
        PhaseName::CreateStagingViews => {
            skipped(!release.views.create_staging.unwrap_or(portal.views.create_staging), "views.createStaging is false")
                .or_else(|| skipped(portal.materialized_views.is_empty(), "the Portal has no materializedViews"))
        }
        PhaseName::ImportCore => skipped(portal.imports.core.is_empty(), "the Portal has no imports.core"),
        PhaseName::ImportRelated => skipped(portal.imports.related.is_empty(), "the Portal has no imports.related"),
        PhaseName::Freeze | PhaseName::Scale => skipped(portal.workers.is_empty(), "the Portal has no workers"),
        PhaseName::CreateDownloadsView => skipped(portal.downloads_view.is_none(), "the Portal has no downloadsView"),
        PhaseName::AcquireLock
        | PhaseName::Preflight
        | PhaseName::BuildStaging
        | PhaseName::ValidateAndManifest
        | PhaseName::FinaliseSwap
        | PhaseName::PostSwap
        | PhaseName::CleanupAndRetention
        | PhaseName::ReleaseLock
        | PhaseName::ResetCheckpoints => None,
    }
}

/// The release asks for single imports to run again into the staging that it keeps, once `retry` is raised.
pub fn imports_again(release: &PortalReleaseSpec) -> bool {
    matches!(release.phases.start_at, Some(PhaseName::ImportCore | PhaseName::ImportRelated)) && !release.imports.only.is_empty()
}

/// What a run that is opened again starts from: the phases that are done stay done where what they did still holds.
///
/// `fresh` says that nothing holds any more (the release was aborted, or its staging is gone), `reimport` that imports are to run again
/// into the staging that stands. Each phase comes with its state and, where it is skipped, the reason.
pub fn replan(done: &[PhaseRecord], planned: Vec<PlannedPhase>, fresh: bool, reimport: bool) -> Vec<(PhaseName, PhaseState, String)> {
    let before = |name: PhaseName| done.iter().find(|record| record.name == name);
    let swapped = before(PhaseName::FinaliseSwap).is_some_and(|record| record.state == PhaseState::Succeeded);
    planned
        .into_iter()
        .map(|planned| {
            let record = before(planned.name);
            let was = record.map(|record| record.state);
            let again = match planned.name {
                PhaseName::AcquireLock | PhaseName::ReleaseLock | PhaseName::ResetCheckpoints => true,
                // The staging is validated, and the workers are frozen, for the swap that follows and for no other.
                PhaseName::ValidateAndManifest | PhaseName::Freeze | PhaseName::Scale => !swapped,
                PhaseName::ImportCore | PhaseName::ImportRelated => reimport,
                _ => false,
            };
            if planned.name == PhaseName::Freeze && swapped && was == Some(PhaseState::Undone) {
                return (planned.name, PhaseState::Skipped, "the swap is done: workers need not rest again".to_owned());
            }
            match (planned.skipped, was) {
                (_, Some(PhaseState::Succeeded)) if !fresh && !again => {
                    (planned.name, PhaseState::Succeeded, record.map(|record| record.message.clone()).unwrap_or_default())
                }
                (Some(reason), _) => (planned.name, PhaseState::Skipped, reason),
                (None, _) => (planned.name, PhaseState::Pending, String::new()),
            }
        })
        .collect()
}
