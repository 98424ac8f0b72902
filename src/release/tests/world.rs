//! Histories: a release against a world that fails, crashes and changes its mind, step by step, with what its effects leave behind.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The world that a release acts on.
struct World {
    observed: Observed,
    /// The phases whose staging exists.
    built: BTreeSet<PhaseName>,
    /// Readers see the release's data.
    live: bool,
    steps: Vec<Step>,
    /// The Portal, also while it is gone.
    portal: PortalSpec,
}

impl World {
    fn new(portal: PortalSpec, spec: PortalReleaseSpec) -> Self {
        let observed = Observed { spec, portal: Ok(portal.clone()), ..fresh() };
        Self { observed, built: BTreeSet::new(), live: false, steps: Vec::new(), portal }
    }

    /// Lets choices happen, then lets the release continue undisturbed until nothing is left to do.
    fn play(mut self, choices: &[u8]) -> Self {
        for &choice in choices {
            self.take_step(choice);
        }
        self.observed.spec.suspend = false;
        self.find_portal();
        for _ in 0..200 {
            self.take_step(0);
        }
        assert!(self.observed.open_run().is_none(), "the run never ends: {:?}", self.steps);
        assert!(self.rests(&next(&self.observed)), "it never settles: {:?}", self.steps);
        self
    }

    fn rests(&self, step: &Step) -> bool {
        matches!(step, Step::Rest | Step::Refuse(_) | Step::Hold | Step::Finalize | Step::Queue(_))
    }

    fn take_step(&mut self, choice: u8) {
        let step = next(&self.observed);
        self.observed.now += SignedDuration::from_secs(60);
        if self.rests(&step) {
            self.check_at_rest(&step);
            self.wish(choice);
        } else {
            self.act(&step, choice);
        }
        self.steps.push(step);
        self.observed.current = self.live;
        self.observed.owns_staging = !self.built.is_empty();
    }

    /// What must be true whenever nothing moves.
    fn check_at_rest(&self, step: &Step) {
        assert!(!self.observed.workers_frozen, "workers are at zero with nothing left to do: {step:?} after {:?}", self.steps);
        let Some(release) = &self.observed.release else { return };
        if release.state == ReleaseState::Aborted || (*step == Step::Finalize && !release.swapped) {
            assert!(self.built.is_empty(), "{:?} is left behind after {:?}", self.built, self.steps);
        }
    }

    /// Somebody changes the spec.
    fn wish(&mut self, choice: u8) {
        let spec = &mut self.observed.spec;
        match choice % 16 {
            1 => spec.retry += 1,
            2 => spec.dry_run = !spec.dry_run,
            3 => spec.rollback = spec.rollback.is_none().then(rolling_back),
            4 => spec.abort = Some(Abort { reason: format!("no {choice}") }),
            5 => spec.suspend = !spec.suspend,
            6 => self.delete(),
            7 => spec.on_failure = Some(OnFailure::Rollback),
            8 => self.lose_portal(),
            9 => self.find_portal(),
            _ => {}
        }
    }

    fn act(&mut self, step: &Step, choice: u8) {
        let portal = self.portal.clone();
        let spec = self.observed.spec.clone();
        match step {
            Step::Open(kind) => {
                let before = self.observed.release.take().unwrap_or_else(|| record(ReleaseState::Running));
                let abort_seen = spec.abort.as_ref().map(|abort| abort.reason.clone());
                let record = ReleaseRecord { state: ReleaseState::Running, retry_seen: spec.retry, abort_seen, ..before.clone() };
                self.observed.release = Some(record);
                let is_live = *kind == RunKind::Release && before.state == ReleaseState::Failed && self.live;
                let starts = starts(planned_run(*kind, &portal, &spec), is_live);
                let target = spec.rollback.as_ref().map(|rollback| rollback.to.clone());
                self.observed.run = Some(RunRecord {
                    kind: *kind,
                    target,
                    phases: records(&[], starts),
                    ..run_at(*kind, PhaseName::AcquireLock, PhaseState::Pending)
                });
            }
            Step::RollBack { message } => {
                assert!(self.live && spec.on_failure == Some(OnFailure::Rollback), "nobody asked for this rollback: {:?}", self.steps);
                self.act(&Step::Close { state: ReleaseState::Failed, message: message.clone() }, choice);
                self.act(&Step::Open(RunKind::Rollback), choice);
                self.observed.run.as_mut().unwrap().cause = Some(message.clone());
            }
            Step::Confirm => {
                let target = spec.rollback.as_ref().map(|rollback| rollback.to.clone());
                self.observed.run.as_mut().unwrap().target = target;
            }
            Step::Reopen => {
                let again = self.observed.again();
                let (release, run) = (self.observed.release.as_mut().unwrap(), self.observed.run.as_mut().unwrap());
                let starts = replan(&run.phases, planned_run(run.kind, &portal, &spec), again);
                (run.open, run.ending, run.phases) = (true, None, records(&run.phases, starts));
                if spec.retry > release.retry_seen {
                    release.abort_seen = spec.abort.as_ref().map(|abort| abort.reason.clone());
                }
                (release.state, release.retry_seen) = (ReleaseState::Running, spec.retry);
            }
            Step::Acquire => self.observed.lock = LockView::Held,
            Step::Run(phase) => self.run(*phase, choice),
            Step::Undo(phase) => {
                set(self.observed.run.as_mut().unwrap(), *phase, PhaseState::Undone);
                self.observed.workers_frozen &= !matches!(facts(*phase).undo, Undo::AlwaysUnless(_));
                self.built.remove(phase);
            }
            Step::End { state, message } => {
                let run = self.observed.run.as_mut().unwrap();
                (run.ending, run.message) = (Some(*state), message.clone());
                let release = self.observed.release.as_mut().unwrap();
                if *state == ReleaseState::Aborted {
                    release.retry_seen = release.retry_seen.max(spec.retry);
                }
            }
            Step::Close { state, .. } => {
                self.observed.run.as_mut().unwrap().open = false;
                self.observed.lock = LockView::Free;
                self.observed.release.as_mut().unwrap().state = *state;
            }
            Step::Settle => {
                let release = self.observed.release.as_mut().unwrap();
                release.state = if release.parked.is_some() { ReleaseState::RolledBack } else { ReleaseState::Live };
            }
            other => panic!("a lone release never takes the step {other:?}"),
        }
    }

    /// The release is deleted. It is ended with what is known of its Portal.
    fn delete(&mut self) {
        self.observed.deleting = true;
        self.find_portal();
    }

    /// The Portal is deleted.
    fn lose_portal(&mut self) {
        if !self.observed.deleting {
            self.observed.portal = Err(Refusal { reason: "PortalNotFound", message: "Portal p does not exist".to_owned() });
        }
    }

    /// It is there again.
    fn find_portal(&mut self) {
        self.observed.portal = Ok(self.portal.clone());
    }

    /// An attempt of a phase, and how it ends.
    fn run(&mut self, phase: PhaseName, choice: u8) {
        let now = self.observed.now;
        let run = self.observed.run.as_mut().unwrap();
        let direction = run.record(phase).unwrap().direction;
        run.phases.iter_mut().filter(|record| record.name == phase).for_each(|record| record.attempts += 1);
        if choice.is_multiple_of(64) || choice % 64 <= 52 {
            // Mostly well, so that runs get far before something happens.
            set(run, phase, PhaseState::Succeeded);
            let dry = run.builds() && self.observed.spec.dry_run;
            assert!(!dry || !facts(phase).changes_live, "a dry run ran {phase}: {:?}", self.steps);
            self.effect(phase, direction);
            return;
        }
        match choice % 64 {
            53 => self.observed.lock = LockView::Free,
            54 => {
                // What the staging was built from has changed: it is rebuilt.
                set(run, phase, PhaseState::Pending);
                if facts(phase).uses_staging && run.builds() {
                    for record in run.phases.iter_mut().filter(|record| facts(record.name).rebuilt && record.state != PhaseState::Skipped) {
                        record.state = PhaseState::Pending;
                    }
                }
                self.begun(phase);
            }
            55..=57 => {
                let failures = if choice >= 64 { i32::MAX / 2 } else { 1 };
                for record in run.phases.iter_mut().filter(|record| record.name == phase) {
                    (record.state, record.failures) = (PhaseState::Failed, record.failures.saturating_add(failures));
                    record.completed_at = Some(now - SignedDuration::from_secs(120));
                }
                self.begun(phase);
            }
            58 => {
                // Killed in the middle: it counts as running, and is run again.
                set(run, phase, PhaseState::Running);
                self.begun(phase);
            }
            59 => self.observed.spec.abort = Some(Abort { reason: "no".to_owned() }),
            60 => self.observed.spec.suspend = true,
            61 if choice < 128 => self.delete(),
            61 => {
                self.lose_portal();
                set(self.observed.run.as_mut().unwrap(), phase, PhaseState::Running);
                self.begun(phase);
            }
            _ => {
                // Others block it: the run ends, and the release is suspended.
                set(run, phase, PhaseState::Failed);
                (run.ending, run.message) = (Some(ReleaseState::Suspended), "blocked".to_owned());
                self.begun(phase);
            }
        }
    }

    /// What an attempt that did not succeed may have done.
    fn begun(&mut self, phase: PhaseName) {
        if facts(phase).undo == Undo::WhenGivenUp {
            self.built.insert(phase);
        }
        self.observed.workers_frozen |= phase == PhaseName::Freeze;
    }

    fn effect(&mut self, phase: PhaseName, direction: Direction) {
        let release = self.observed.release.as_mut().unwrap();
        match (phase, direction) {
            (PhaseName::Freeze, _) => self.observed.workers_frozen = true,
            (PhaseName::Scale, _) => self.observed.workers_frozen = false,
            (PhaseName::ReleaseLock, _) => self.observed.lock = LockView::Free,
            (PhaseName::FinaliseSwap, Direction::Do) => {
                assert!(self.observed.workers_frozen, "a swap under running workers: {:?}", self.steps);
                let run = self.observed.run.as_ref().unwrap();
                assert!(!run.builds() || run.is_validated(), "a swap of what was not validated: {:?}", self.steps);
                (self.live, self.observed.backups) = (true, vec![backup()]);
                (release.swapped, release.parked) = (true, None);
                self.built.clear();
            }
            (PhaseName::FinaliseSwap, Direction::Undo) => {
                (self.live, self.observed.backups) = (false, Vec::new());
                release.parked = Some("staging".to_owned());
            }
            _ if facts(phase).undo == Undo::WhenGivenUp => {
                self.built.insert(phase);
            }
            _ => {}
        }
    }
}

/// As the ledger writes a plan over the rows that exist: attempts keep counting.
fn records(before: &[PhaseRecord], starts: impl IntoIterator<Item = Start>) -> Vec<PhaseRecord> {
    let attempts = |name| before.iter().find(|record| record.name == name).map_or(0, |record| record.attempts);
    let record =
        |start: Start| PhaseRecord { direction: start.direction, attempts: attempts(start.phase), ..phase(start.phase, start.state) };
    starts.into_iter().map(record).collect()
}

fn portal_that_freezes(before: u8) -> PortalSpec {
    let mut portal = portal();
    portal.freeze.before = [FreezeBefore::Preflight, FreezeBefore::BuildStaging, FreezeBefore::FinaliseSwap][usize::from(before) % 3];
    portal
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// After any history: a run ends, workers are never at zero at rest, what was given up leaves nothing behind, a swap is of what was
    /// validated and under stopped workers, a dry run changes nothing that readers see.
    #[test]
    fn after_any_history_nothing_is_left_behind(choices in proptest::collection::vec(any::<u8>(), 0..160), dry_run: bool, stop in 0usize..20, before: u8) {
        let mut wanted = PortalReleaseSpec { dry_run, ..spec() };
        wanted.phases.stop_after = PhaseName::ALL.get(stop).copied();
        World::new(portal_that_freezes(before), wanted).play(&choices);
    }

    /// A dry run, whatever disturbs it, never stops a worker.
    #[test]
    fn a_dry_run_stops_no_worker(choices in proptest::collection::vec(53u8..64, 0..40), at in 0usize..16, before: u8) {
        let mut all = vec![0; at];
        all.extend(choices);
        let world = World::new(portal_that_freezes(before), PortalReleaseSpec { dry_run: true, ..spec() }).play(&all);
        let stops = |step: &&Step| matches!(step, Step::Run(phase) if matches!(facts(*phase).undo, Undo::AlwaysUnless(_)));
        prop_assert!(world.steps.iter().find(stops).is_none(), "{:?}", world.steps);
        prop_assert!(!world.live);
    }
}
