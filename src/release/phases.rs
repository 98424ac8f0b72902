//! One row per phase: everything that is known about it, apart from what it does.
//!
//! A new phase is its name in `api::phase`, a row here, a file in `phases/` and its lines in the match of `phases::run`.

use std::time::Duration;

use crate::api::{GatePhase, PhaseName, PortalReleaseSpec, PortalSpec};

/// What a run must have before the phase may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The advisory lock, and with it the fence.
    Lock,
    /// Nothing: it touches only rows of its own release.
    Nothing,
}

/// What undoes a phase, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Nothing undoes it.
    Never,
    /// Undone when the release is given up: aborted, deleted, orphaned. Kept for a retry when it failed.
    WhenGivenUp,
    /// Undone whatever ends the run, and before anything else, unless the given phase has done it already.
    AlwaysUnless(PhaseName),
    /// Undone by a rollback, which is a run of its own.
    ByRollback,
}

/// What a dry run does with a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It runs.
    Run,
    /// It is to run in a transaction that is rolled back. Until the runner can do that, it is skipped: nothing but `Run` runs.
    Rehearse,
    /// It is skipped: it would change what readers or workers see, or belongs to what follows.
    Skip,
}

/// What a rollback does with a phase. A roll forward has the same phases, in the order of a release, all of them done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InRollback {
    /// It has no part in it.
    Absent,
    /// It is done before anything is undone.
    Before,
    /// It is undone; those of a release in the opposite order.
    Undone,
    /// It is done after everything is undone.
    After,
}

/// Whether a phase that is done is done once more when its run is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redo {
    /// It stays done.
    Keep,
    /// It is done again.
    Again,
    /// It is done again as long as the swap is not made: for the swap that follows and for no other.
    BeforeSwap,
    /// It is done again when the user asks for single imports once more.
    WithImports,
}

/// What a selection of phases may do with a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Any selection may leave it out.
    Free,
    /// `phases.skip` may not name it.
    NotSkipped,
    /// As [`Selection::NotSkipped`], and it runs whenever one of these runs.
    With(&'static [PhaseName]),
    /// No selection leaves it out.
    Required,
}

/// The condition that says how far a phase got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseCondition {
    /// Its type.
    pub type_: &'static str,
    /// Reason and message once the phase is done.
    pub done: (&'static str, &'static str),
    /// Reason while its last attempt has failed; the message is that of the release.
    pub failed: &'static str,
    /// Reason and message before that.
    pub pending: (&'static str, &'static str),
}

/// Finds a reason in a portal and a release.
pub type Reason = fn(&PortalSpec, &PortalReleaseSpec) -> Option<&'static str>;

/// The facts about one phase.
#[derive(Clone, Copy, Debug)]
pub struct PhaseFacts {
    /// Its name.
    pub phase: PhaseName,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many attempts may end with a technical error before the release fails. A rejection (a gate that fails) is final at once.
    pub attempts: i32,
    /// Whether a running attempt may be cut off at any statement. Otherwise it checks by itself, between its attempts to lock.
    pub interruptible: bool,
    /// What it needs.
    pub needs: Needs,
    /// It may change what readers see.
    pub changes_live: bool,
    /// What a dry run does with it.
    pub in_dry_run: DryRun,
    /// What undoes it, and when.
    pub undo: Undo,
    /// Why it cannot be undone, where something of it cannot.
    pub irreversible: Reason,
    /// What a rollback does with it.
    pub in_rollback: InRollback,
    /// Whether it is done again when its run is opened again.
    pub redo: Redo,
    /// It works on the staging: one from before a standstill is compared with its source first.
    pub uses_staging: bool,
    /// It is done again when the staging is rebuilt.
    pub rebuilt: bool,
    /// It imports: its progress counts rows, and single imports of it may be done again.
    pub imports: bool,
    /// What a selection may do with it.
    pub selection: Selection,
    /// Its failure after the swap is one of the release, which `onFailure` decides about; that of housekeeping is none.
    pub condemns: bool,
    /// The end of the run does it, where it was not done before.
    pub done_by_closing: bool,
    /// Why it has nothing to do for this portal and release, if it has not.
    pub idle: Reason,
    /// Event reason when it is done: one for each phase, because event recorders fold repeats by reason.
    pub done: &'static str,
    /// Event reason when it is undone.
    pub undone: &'static str,
    /// Its condition.
    pub condition: Option<PhaseCondition>,
}

const HOUR: u64 = 3600;

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * HOUR)
}

/// What most phases are like.
const PLAIN: PhaseFacts = PhaseFacts {
    phase: PhaseName::AcquireLock,
    timeout: hours(1),
    attempts: 5,
    interruptible: true,
    needs: Needs::Lock,
    changes_live: false,
    in_dry_run: DryRun::Skip,
    undo: Undo::Never,
    irreversible: |_, _| None,
    in_rollback: InRollback::Absent,
    redo: Redo::Keep,
    uses_staging: false,
    rebuilt: false,
    imports: false,
    selection: Selection::Free,
    condemns: true,
    done_by_closing: false,
    idle: |_, _| None,
    done: "",
    undone: "NothingUndone",
    condition: None,
};

/// What builds the staging.
const STAGING: PhaseFacts = PhaseFacts { in_dry_run: DryRun::Run, undo: Undo::WhenGivenUp, uses_staging: true, rebuilt: true, ..PLAIN };

/// Every phase, in order.
pub static PHASES: [PhaseFacts; PhaseName::ALL.len()] = [
    PhaseFacts {
        phase: PhaseName::AcquireLock,
        timeout: hours(24 * 30),
        attempts: i32::MAX,
        in_dry_run: DryRun::Run,
        in_rollback: InRollback::Before,
        redo: Redo::Again,
        selection: Selection::Required,
        done: "LockAcquired",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::RefreshViews,
        timeout: hours(12),
        changes_live: true,
        irreversible: |_, _| Some("a view that was refreshed does not get its former rows back"),
        idle: |portal, release| match release.views.refresh.unwrap_or(portal.views.refresh) {
            false => Some("views.refresh is false"),
            true => without_views(portal),
        },
        done: "ViewsRefreshed",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::CreateStagingViews,
        timeout: hours(12),
        uses_staging: false,
        idle: |portal, release| match release.views.create_staging.unwrap_or(portal.views.create_staging) {
            false => Some("views.createStaging is false"),
            true => without_views(portal),
        },
        done: "StagingViewsCreated",
        undone: "StagingViewsDropped",
        ..STAGING
    },
    PhaseFacts {
        phase: PhaseName::Preflight,
        timeout: hours(6),
        in_dry_run: DryRun::Run,
        // The Jobs of its gates.
        undo: Undo::WhenGivenUp,
        in_rollback: InRollback::Before,
        uses_staging: true,
        rebuilt: true,
        selection: Selection::NotSkipped,
        done: "PreflightPassed",
        undone: "PreflightStopped",
        condition: Some(PhaseCondition {
            type_: "PreflightPassed",
            done: ("Passed", "every hard check passed"),
            failed: "Refused",
            pending: ("NotChecked", "the preflight has not run"),
        }),
        ..PLAIN
    },
    PhaseFacts { phase: PhaseName::BuildStaging, timeout: hours(2), done: "StagingBuilt", undone: "StagingDropped", ..STAGING },
    PhaseFacts {
        phase: PhaseName::ImportCore,
        timeout: hours(48),
        attempts: 8,
        redo: Redo::WithImports,
        imports: true,
        idle: |portal, _| portal.imports.core.is_empty().then_some("the Portal has no imports.core"),
        done: "CoreImported",
        undone: "CoreImportsReset",
        ..STAGING
    },
    PhaseFacts {
        phase: PhaseName::ImportRelated,
        timeout: hours(48),
        attempts: 8,
        redo: Redo::WithImports,
        imports: true,
        idle: |portal, _| portal.imports.related.is_empty().then_some("the Portal has no imports.related"),
        done: "RelatedImported",
        undone: "RelatedImportsReset",
        ..STAGING
    },
    PhaseFacts {
        phase: PhaseName::ValidateAndManifest,
        timeout: hours(12),
        redo: Redo::BeforeSwap,
        // The swap takes only what was validated for it, just now.
        selection: Selection::With(&[PhaseName::FinaliseSwap]),
        done: "Validated",
        undone: "ValidationStopped",
        ..STAGING
    },
    PhaseFacts {
        phase: PhaseName::Freeze,
        timeout: hours(24),
        attempts: 3,
        undo: Undo::AlwaysUnless(PhaseName::Scale),
        in_rollback: InRollback::Before,
        redo: Redo::BeforeSwap,
        uses_staging: true,
        // The swap is never made under running workers.
        selection: Selection::With(&[PhaseName::FinaliseSwap]),
        idle: |portal, _| without_workers(portal).filter(|_| portal.gates.iter().all(|gate| gate.phase != GatePhase::Freeze)),
        done: "WorkersFrozen",
        undone: "WorkersRestored",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::FinaliseSwap,
        timeout: hours(2),
        interruptible: false,
        changes_live: true,
        undo: Undo::ByRollback,
        irreversible: |portal, release| {
            (release.retention.keep_backups.unwrap_or(portal.defaults.keep_backups) == 0)
                .then_some("keepBackups is 0: the former data is dropped at the end of the release")
        },
        in_rollback: InRollback::Undone,
        uses_staging: true,
        rebuilt: true,
        selection: Selection::NotSkipped,
        done: "DataSwapped",
        undone: "DataRestored",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::CreateDownloadsView,
        changes_live: true,
        idle: |portal, _| portal.downloads_view.is_none().then_some("the Portal has no downloadsView"),
        done: "DownloadsViewCreated",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::Scale,
        timeout: hours(24),
        in_rollback: InRollback::After,
        redo: Redo::BeforeSwap,
        // Workers that were frozen always come back.
        selection: Selection::With(&[PhaseName::FinaliseSwap, PhaseName::Freeze]),
        idle: |portal, _| without_workers(portal),
        done: "WorkersRestored",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::PostSwap,
        timeout: hours(6),
        irreversible: |portal, _| {
            (!portal.post_swap.is_empty()).then_some("a hook call cannot be undone; a rollback calls the hooks again")
        },
        in_rollback: InRollback::After,
        done: "PostSwapDone",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::CleanupAndRetention,
        irreversible: |_, _| Some("a backup that was dropped cannot be restored"),
        condemns: false,
        done: "RetentionApplied",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::ReleaseLock,
        attempts: i32::MAX,
        in_dry_run: DryRun::Run,
        in_rollback: InRollback::After,
        redo: Redo::Again,
        selection: Selection::Required,
        condemns: false,
        done_by_closing: true,
        done: "LockReleased",
        ..PLAIN
    },
    PhaseFacts {
        phase: PhaseName::ResetCheckpoints,
        needs: Needs::Nothing,
        redo: Redo::Again,
        condemns: false,
        done: "CheckpointsReset",
        ..PLAIN
    },
];

fn without_views(portal: &PortalSpec) -> Option<&'static str> {
    portal.materialized_views.is_empty().then_some("the Portal has no materializedViews")
}

fn without_workers(portal: &PortalSpec) -> Option<&'static str> {
    portal.workers.is_empty().then_some("the Portal has no workers")
}

/// The facts about `phase`.
pub fn facts(phase: PhaseName) -> &'static PhaseFacts {
    // The table is in the order of the names; a test holds it to that.
    PHASES.get(phase as usize).unwrap_or(&PHASES[0])
}

/// The phases for which something holds, in order.
pub fn phases(holds: impl Fn(&PhaseFacts) -> bool) -> impl Iterator<Item = PhaseName> {
    PHASES.iter().filter(move |facts| holds(facts)).map(|facts| facts.phase)
}

/// How long to wait before the next attempt after `failures` technical errors: 1 s, doubling, at most 30 s.
pub fn backoff(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(5);
    Duration::from_secs((1u64 << doublings).min(30))
}
