//! Which piece of which import is next: a pure function of what is done. It keeps no clock and no connection.

use std::collections::VecDeque;

use crate::database::import::KeyRange;

/// A piece of work. Pieces that are handed out may run at the same time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Plan the import, or find out what is left of it.
    Begin,
    /// Load one range, known by its position.
    Load(i32, KeyRange),
    /// All ranges are loaded: settle the account.
    Finish,
}

/// How a piece ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// There was nothing to do, or the import is settled.
    Over,
    /// These ranges are to be loaded.
    Open(Vec<(i32, KeyRange)>),
    /// A range is loaded.
    Loaded,
}

enum State {
    Waiting,
    Busy,
    Loading { open: VecDeque<(i32, KeyRange)>, running: usize },
    Over,
}

/// The imports of a phase. Earlier ones come first; one that needs others waits until they are over.
pub(crate) struct Schedule {
    imports: Vec<(Vec<usize>, State)>,
}

impl Schedule {
    /// `needs`: for each import the positions of those that it waits for.
    pub(crate) fn new(needs: Vec<Vec<usize>>) -> Self {
        Self { imports: needs.into_iter().map(|needs| (needs, State::Waiting)).collect() }
    }

    /// Everything is done.
    pub(crate) fn is_over(&self) -> bool {
        self.imports.iter().all(|(_, state)| matches!(state, State::Over))
    }

    /// The next piece, with the position of its import; `None` while everything that is left waits for pieces that run.
    pub(crate) fn next(&mut self) -> Option<(usize, Unit)> {
        let over: Vec<bool> = self.imports.iter().map(|(_, state)| matches!(state, State::Over)).collect();
        let is_over = |needed: &usize| over.get(*needed).copied().unwrap_or(true);
        for (index, (needs, state)) in self.imports.iter_mut().enumerate() {
            match state {
                State::Waiting if needs.iter().all(is_over) => {
                    *state = State::Busy;
                    return Some((index, Unit::Begin));
                }
                State::Loading { open, running } => {
                    if let Some((position, range)) = open.pop_front() {
                        *running += 1;
                        return Some((index, Unit::Load(position, range)));
                    }
                    if *running == 0 {
                        *state = State::Busy;
                        return Some((index, Unit::Finish));
                    }
                }
                State::Waiting | State::Busy | State::Over => {}
            }
        }
        None
    }

    /// A piece of the import at `index` has ended.
    pub(crate) fn ended(&mut self, index: usize, outcome: Outcome) {
        let Some((_, state)) = self.imports.get_mut(index) else { return };
        match (outcome, state) {
            (Outcome::Over, state) => *state = State::Over,
            (Outcome::Open(ranges), state) => *state = State::Loading { open: ranges.into(), running: 0 },
            (Outcome::Loaded, State::Loading { running, .. }) => *running = running.saturating_sub(1),
            (Outcome::Loaded, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(count: i32) -> Outcome {
        Outcome::Open((1..=count).map(|position| (position, KeyRange::whole())).collect())
    }

    /// What is handed out until a worker has to wait, such as `0 begin`.
    fn handed_out(schedule: &mut Schedule) -> Vec<String> {
        let mut units = Vec::new();
        while let Some((index, unit)) = schedule.next() {
            units.push(match unit {
                Unit::Begin => format!("{index} begin"),
                Unit::Load(position, _) => format!("{index} load {position}"),
                Unit::Finish => format!("{index} finish"),
            });
        }
        units
    }

    #[test]
    fn ranges_run_at_once_and_the_end_waits_for_all() {
        let mut schedule = Schedule::new(vec![vec![]]);
        assert_eq!(handed_out(&mut schedule), ["0 begin"]);
        schedule.ended(0, ranges(2));
        assert_eq!(handed_out(&mut schedule), ["0 load 1", "0 load 2"]);
        schedule.ended(0, Outcome::Loaded);
        assert!(handed_out(&mut schedule).is_empty() && !schedule.is_over());
        schedule.ended(0, Outcome::Loaded);
        assert_eq!(handed_out(&mut schedule), ["0 finish"]);
        schedule.ended(0, Outcome::Over);
        assert!(schedule.is_over());
    }

    #[test]
    fn what_is_needed_is_over_first() {
        let mut schedule = Schedule::new(vec![vec![], vec![0], vec![], vec![0, 2]]);
        assert_eq!(handed_out(&mut schedule), ["0 begin", "2 begin"]);
        schedule.ended(0, Outcome::Over);
        assert_eq!(handed_out(&mut schedule), ["1 begin"], "3 still waits for 2");
        schedule.ended(2, Outcome::Open(Vec::new()));
        assert_eq!(handed_out(&mut schedule), ["2 finish"], "all its ranges were loaded by an earlier process");
        schedule.ended(2, Outcome::Over);
        assert_eq!(handed_out(&mut schedule), ["3 begin"]);
    }
}
