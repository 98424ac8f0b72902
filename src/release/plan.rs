//! The plan of a run: an ordered list of (phase, direction), computed by one pure function and shown before anything runs; and the
//! way back through it.

use super::{
    Direction, PhaseRecord, RunKind, RunRecord,
    phases::{DryRun, InRollback, PHASES, Redo, Selection, Undo, facts},
};
use crate::api::{PhaseName, PhaseState, PortalReleaseSpec, PortalSpec};

/// One entry of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The phase.
    pub phase: PhaseName,
    /// Whether it is done or undone.
    pub direction: Direction,
    /// Why it has nothing to do, if it has not.
    pub skipped: Option<String>,
    /// What undoes it.
    pub undone_by: UndoneBy,
}

/// What undoes an entry of a plan: known before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndoneBy {
    /// This does.
    By(&'static str),
    /// Nothing is left to undo.
    Nothing,
    /// It cannot be undone.
    Impossible(&'static str),
}

/// The entries of a run of `release`, in order. Phases with nothing to do are in it, with the reason.
pub fn plan(kind: RunKind, portal: &PortalSpec, release: &PortalReleaseSpec) -> Vec<Entry> {
    let order = match kind {
        RunKind::Release => ordered(portal).into_iter().map(|phase| (phase, Direction::Do)).collect(),
        RunKind::Rollback => rollback(),
        RunKind::RollForward => {
            PHASES.iter().filter(|facts| facts.in_rollback != InRollback::Absent).map(|facts| (facts.phase, Direction::Do)).collect()
        }
    };
    let phases: Vec<PhaseName> = order.iter().map(|(phase, _)| *phase).collect();
    let why_not = |phase| if kind == RunKind::Release { why_skipped(phase, release, &phases) } else { None };
    let chosen: Vec<PhaseName> = phases.iter().copied().filter(|&phase| why_not(phase).is_none()).collect();
    let entry = |(phase, direction): (PhaseName, Direction)| {
        let facts = facts(phase);
        let runs = match facts.selection {
            Selection::Required => true,
            Selection::With(others) => chosen.contains(&phase) || others.iter().any(|other| chosen.contains(other)),
            Selection::Free | Selection::NotSkipped => chosen.contains(&phase),
        };
        let skipped = if runs { (facts.idle)(portal, release).map(str::to_owned) } else { why_not(phase).map(str::to_owned) };
        let undone_by = if skipped.is_some() { UndoneBy::Nothing } else { undone_by(phase, direction, portal, release) };
        Entry { phase, direction, skipped, undone_by }
    };
    order.into_iter().map(entry).collect()
}

/// The standard order with Freeze just before the phase that the Portal names.
fn ordered(portal: &PortalSpec) -> Vec<PhaseName> {
    let mut phases: Vec<PhaseName> = PhaseName::ALL.into_iter().filter(|&phase| phase != PhaseName::Freeze).collect();
    let before = portal.freeze.before.phase();
    let position = phases.iter().position(|&phase| phase == before).unwrap_or(phases.len());
    phases.insert(position, PhaseName::Freeze);
    phases
}

/// The phases before what is undone, the undone phases of a release in the opposite order, the phases after.
fn rollback() -> Vec<(PhaseName, Direction)> {
    let of = |wanted: InRollback| PHASES.iter().filter(move |facts| facts.in_rollback == wanted).map(|facts| facts.phase);
    let undone: Vec<PhaseName> = of(InRollback::Undone).collect();
    let before = of(InRollback::Before).map(|phase| (phase, Direction::Do));
    let undone = undone.into_iter().rev().map(|phase| (phase, Direction::Undo));
    before.chain(undone).chain(of(InRollback::After).map(|phase| (phase, Direction::Do))).collect()
}

/// Why the release does not run a phase by itself; others may still need it.
fn why_skipped(phase: PhaseName, release: &PortalReleaseSpec, order: &[PhaseName]) -> Option<&'static str> {
    let selection = &release.phases;
    let position = |wanted: PhaseName| order.iter().position(|&other| other == wanted);
    let after_start = selection.start_at.is_none_or(|start| position(phase) >= position(start));
    let before_stop = selection.stop_after.is_none_or(|stop| position(phase) <= position(stop));
    let named = selection.only.is_empty() || selection.only.contains(&phase);
    if release.dry_run && facts(phase).in_dry_run != DryRun::Run {
        Some("skipped: dryRun is true")
    } else if after_start && before_stop && named && !selection.skip.contains(&phase) {
        None
    } else {
        Some("skipped by spec.phases")
    }
}

/// What undoes a phase that a run does or undoes.
pub fn undone_by(phase: PhaseName, direction: Direction, portal: &PortalSpec, release: &PortalReleaseSpec) -> UndoneBy {
    let facts = facts(phase);
    if direction == Direction::Undo {
        return UndoneBy::By("a roll forward: remove spec.rollback");
    }
    if let Some(why) = (facts.irreversible)(portal, release) {
        return UndoneBy::Impossible(why);
    }
    match facts.undo {
        Undo::Never => UndoneBy::Nothing,
        Undo::WhenGivenUp => UndoneBy::By("an abort before the swap, or deletion"),
        Undo::AlwaysUnless(_) => UndoneBy::By("the end of the run, whatever ends it"),
        Undo::ByRollback => UndoneBy::By("a rollback: spec.rollback"),
    }
}

/// Why a run is cleaned up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It failed or stopped: what it has built is kept for a retry.
    Failed,
    /// It was given up: aborted, deleted, orphaned. Nothing of it stays.
    GivenUp,
}

/// The next phase that the clean-up of a run undoes: backwards through what was touched. Workers come first, whatever else hangs.
pub fn unwind(run: &RunRecord, why: Why) -> Option<PhaseName> {
    // By its attempts, not by its state: a phase that was begun and waits for another attempt has left something behind, too.
    let touched = |record: &&PhaseRecord| record.direction == Direction::Do && record.attempts > 0 && record.state != PhaseState::Undone;
    let due = |record: &&PhaseRecord, always: bool| match facts(record.name).undo {
        Undo::Never | Undo::ByRollback => false,
        Undo::WhenGivenUp => !always && why == Why::GivenUp,
        Undo::AlwaysUnless(by) => !run.is_done(by),
    };
    let find = |always| run.phases.iter().rev().filter(touched).find(|record| due(record, always)).map(|record| record.name);
    find(true).or_else(|| find(false))
}

/// The release asks for single imports to run again into the staging that it keeps, once `retry` is raised.
pub fn imports_again(release: &PortalReleaseSpec) -> bool {
    release.phases.start_at.is_some_and(|start| facts(start).imports) && !release.imports.only.is_empty()
}

/// What an entry of a run starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The phase.
    pub phase: PhaseName,
    /// Whether it is done or undone.
    pub direction: Direction,
    /// The state that it starts in.
    pub state: PhaseState,
    /// What it did, or why it is skipped.
    pub message: String,
}

impl From<Entry> for Start {
    fn from(entry: Entry) -> Self {
        let state = if entry.skipped.is_some() { PhaseState::Skipped } else { PhaseState::Pending };
        Self { phase: entry.phase, direction: entry.direction, state, message: entry.skipped.unwrap_or_default() }
    }
}

/// What a new run starts from: all of the plan, or only what follows the swap, of a release that `is_live`.
pub fn starts(planned: Vec<Entry>, is_live: bool) -> Vec<Start> {
    let swap = planned.iter().position(|entry| entry.phase == PhaseName::FinaliseSwap).filter(|_| is_live);
    let start = |(position, entry): (usize, Entry)| {
        let done = swap.is_some_and(|swap| position <= swap) && facts(entry.phase).redo != Redo::Again && entry.skipped.is_none();
        let start = Start::from(entry);
        if done {
            Start { state: PhaseState::Succeeded, message: "done by the run that made the release live".to_owned(), ..start }
        } else {
            start
        }
    };
    planned.into_iter().enumerate().map(start).collect()
}

/// For what a run is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Only to clean up what it has left.
    CleanUp,
    /// From the start: nothing of it holds any more.
    Fresh,
    /// From where it stopped.
    Resume {
        /// Single imports run again into the staging that is kept.
        reimport: bool,
    },
}

/// What a run that is opened again starts from: the phases that are done stay done where what they did still holds.
pub fn replan(done: &[PhaseRecord], planned: Vec<Entry>, again: Again) -> Vec<Start> {
    if again == Again::CleanUp {
        let kept = |record: &PhaseRecord| Start {
            phase: record.name,
            direction: record.direction,
            state: record.state,
            message: record.message.clone(),
        };
        return done.iter().map(kept).collect();
    }
    let before = |phase: PhaseName| done.iter().find(|record| record.name == phase);
    let swapped = before(PhaseName::FinaliseSwap).is_some_and(|record| record.state == PhaseState::Succeeded);
    let start = |entry: Entry| {
        let facts = facts(entry.phase);
        let record = before(entry.phase);
        let redo = match facts.redo {
            _ if again == Again::Fresh => true,
            Redo::Keep => false,
            Redo::Again => true,
            Redo::BeforeSwap => !swapped,
            Redo::WithImports => again == Again::Resume { reimport: true },
        };
        // The swap is done, so nothing is stopped again, however often the run is opened.
        let stays_undone = matches!(facts.undo, Undo::AlwaysUnless(_)) && record.is_none_or(|record| record.state != PhaseState::Succeeded);
        if swapped && stays_undone && entry.skipped.is_none() {
            let message = "skipped: the swap is done, so workers need not be stopped again".to_owned();
            return Start { state: PhaseState::Skipped, message, ..Start::from(entry) };
        }
        match record.filter(|record| record.state == PhaseState::Succeeded && !redo) {
            Some(record) => Start { state: PhaseState::Succeeded, message: record.message.clone(), ..Start::from(entry) },
            None => Start::from(entry),
        }
    };
    planned.into_iter().map(start).collect()
}

/// The run consists of just these phases.
pub fn is_planned(run: &[PhaseRecord], phases: &[Start]) -> bool {
    let same = |(record, start): (&PhaseRecord, &Start)| {
        (record.name, record.direction, record.state == PhaseState::Skipped)
            == (start.phase, start.direction, start.state == PhaseState::Skipped)
    };
    run.len() == phases.len() && run.iter().zip(phases).all(same)
}
