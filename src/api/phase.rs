//! The names of the phases, in the order in which they run, and the schema's rules about them.
//!
//! Adding a phase begins here: its name and what it does. What the operator knows about it is its row in `release::phases`.

use super::named::named_enum;

macro_rules! phases {
    ($($name:ident: $summary:literal),+ $(,)?) => {
        named_enum! {
            /// One phase of a release.
            pub enum PhaseName { $(#[doc = $summary] $name),+ }
        }

        impl PhaseName {
            /// What it does, for people.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => $summary),+ }
            }
        }
    };
}

phases! {
    AcquireLock: "Takes the advisory lock of the portal's database and a new fencing epoch.",
    RefreshViews: "Refreshes the live materialized views concurrently, if views.refresh is true.",
    CreateStagingViews: "Builds staging_* twins of the materialized views in one transaction.",
    Preflight: "Checks everything that can be checked before the first row is imported: relations, disk space, data, gates, imports.",
    BuildStaging: "Builds staging_* copies of the tables, without indexes and foreign keys until they are loaded.",
    ImportCore: "Runs the core imports into the staged tables.",
    ImportRelated: "Runs the related imports into the staged tables.",
    ValidateAndManifest: "Completes the staged tables, compares them with live, evaluates the gates and writes the manifest.",
    Freeze: "Evaluates its gates, records the workers' replica counts, scales them to zero and waits until no pod is left.",
    FinaliseSwap: "Exchanges staged and live relations in one transaction; the former data becomes a backup.",
    CreateDownloadsView: "Checks that the downloads view became live with the swap; a run without a swap creates it here.",
    Scale: "Scales the workers back to their recorded replica counts and waits until they are available.",
    PostSwap: "Vacuums the new tables, validates foreign keys, calls the hooks and compares the live tables with those they replaced.",
    CleanupAndRetention: "Drops backups beyond the retention, never with CASCADE.",
    ReleaseLock: "Releases the advisory lock.",
    ResetCheckpoints: "Deletes the release's import checkpoints.",
}

impl PhaseName {
    /// Phases that `phases.skip` may not name: they keep the data safe. A test compares them with the table of phases.
    pub const NEVER_SKIPPED: [Self; 7] =
        [Self::AcquireLock, Self::Preflight, Self::ValidateAndManifest, Self::Freeze, Self::FinaliseSwap, Self::Scale, Self::ReleaseLock];

    fn quoted(phases: &[Self]) -> String {
        phases.iter().map(|phase| format!("'{phase}'")).collect::<Vec<_>>().join(", ")
    }
}

/// CEL: `startAt` does not come after `stopAfter`. A map, as the API server refuses the estimated cost of `indexOf` over a list.
pub(super) fn starts_before_it_stops() -> String {
    let positions: Vec<String> = PhaseName::ALL.iter().enumerate().map(|(position, phase)| format!("'{phase}': {position}")).collect();
    let order = format!("{{{}}}", positions.join(", "));
    format!("!has(self.startAt) || !has(self.stopAfter) || {order}[self.startAt] <= {order}[self.stopAfter]")
}

/// CEL: `skip` leaves the phases alone that keep the data safe.
pub(super) fn skips_nothing_vital() -> String {
    format!("!has(self.skip) || self.skip.all(p, !(p in [{}]))", PhaseName::quoted(&PhaseName::NEVER_SKIPPED))
}

/// What the API server says of a `skip` that names one of them.
pub(super) fn skips_something_vital() -> String {
    let names: Vec<&str> = PhaseName::NEVER_SKIPPED.iter().map(|phase| phase.as_str()).collect();
    let (last, others) = names.split_last().map_or(("", &[][..]), |(last, others)| (*last, others));
    format!("phases.skip may not name {} or {last}: they keep the data safe (use stopAfter to end before the swap)", others.join(", "))
}
