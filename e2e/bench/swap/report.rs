//! The table, the goals, and the files.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::record::{Baseline, Phase, quantile};
use crate::rivals::Rival;

/// What a phase has measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    /// Readers alone.
    Baseline,
    /// The operator among fast readers.
    Fast,
    /// The operator beside a slow reader and autovacuum.
    Slow,
    /// Readers alone on many rows.
    BaselineMany,
    /// The operator on many rows.
    Many,
    /// A rival among fast readers.
    RivalFast(Rival),
    /// A rival beside a slow reader.
    RivalSlow(Rival),
}

#[derive(Debug)]
struct Row {
    measured: Measured,
    phase: Phase,
    added: Vec<Duration>,
}

/// Everything that the bench has recorded.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[allow(clippy::cast_precision_loss)]
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn shown(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| format!("{:.1}", ms(duration)))
}

impl Report {
    /// Begins the table.
    pub(crate) fn begin() -> Self {
        println!(
            "Times in ms. Added: what reads took that a swap may have touched, beyond the 99th percentile of their kind without swaps."
        );
        println!(
            "{:<30} {:>6} {:>7} {:>8} {:>7} {:>6} {:>9} {:>8} {:>9} {:>11}",
            "", "swaps", "gave up", "reads", "errors", "mixed", "held med", "held p99", "added p99", "added worst"
        );
        Self::default()
    }

    /// Adds a phase, and its line to the table.
    pub(crate) fn add(&mut self, measured: Measured, phase: Phase, usual: &Baseline) {
        let added = phase.added(usual);
        println!(
            "{:<30} {:>6} {:>7} {:>8} {:>7} {:>6} {:>9} {:>8} {:>9} {:>11}",
            phase.name,
            phase.swaps.len(),
            phase.refusals.len(),
            phase.seen.reads.len(),
            phase.seen.errors.len(),
            phase.seen.mixed.len(),
            shown(quantile(phase.held(), 0.5)),
            shown(quantile(phase.held(), 0.99)),
            shown(quantile(added.clone(), 0.99)),
            shown(added.iter().max().copied()),
        );
        self.rows.push(Row { measured, phase, added });
    }

    fn of(&self, measured: Measured) -> Option<&Row> {
        self.rows.iter().find(|row| row.measured == measured)
    }

    /// Prints what went wrong and whether each goal is met. Returns whether readers were always right under the operator's swap.
    pub(crate) fn print(&self) -> bool {
        println!();
        for Row { phase, .. } in &self.rows {
            let said = [&phase.refusals, &phase.seen.errors, &phase.seen.mixed].map(|said| said.iter().take(2));
            for line in said.into_iter().flatten() {
                println!("{}: {line}", phase.name);
            }
        }
        println!();
        self.goals()
    }

    fn goals(&self) -> bool {
        let ours = [Measured::Fast, Measured::Slow, Measured::Many].map(|measured| self.of(measured));
        let sum = |count: fn(&Row) -> usize| ours.iter().flatten().map(|row| count(row)).sum::<usize>();
        let worst = |measured| self.of(measured).and_then(|row| row.added.iter().max().copied()).map(ms);
        let held = |measured| self.of(measured).and_then(|row| quantile(row.phase.held(), 0.5)).map(ms);
        let ratio = held(Measured::Fast).zip(held(Measured::Many)).map(|(few, many)| many.max(few) / many.min(few));
        let errors = sum(|row| row.phase.seen.errors.len());
        let mixed = sum(|row| row.phase.seen.mixed.len());
        // Beside a slow reader a swap may run out of time; it has changed nothing then, and the next attempt follows.
        let in_vain = |row: &Row| if row.measured == Measured::Slow { 0 } else { row.phase.refusals.len() };
        let gave_up = ours.iter().flatten().map(|row| in_vain(row)).sum::<usize>();
        #[allow(clippy::cast_precision_loss)]
        let goals = [
            ("reader errors", Some(errors as f64), 0.0),
            ("mixed releases in one statement or transaction", Some(mixed as f64), 0.0),
            ("swaps that gave up among fast readers", Some(gave_up as f64), 0.0),
            ("worst added delay, ms", worst(Measured::Fast), 50.0),
            ("worst added delay beside a slow reader, ms", worst(Measured::Slow), 250.0),
            ("lock held, median, ms", held(Measured::Fast), 15.0),
            ("lock held, many rows against few, times", ratio, 1.2),
        ];
        for (what, value, limit) in goals {
            let verdict = if value.is_some_and(|value| value <= limit) { "PASS" } else { "MISS" };
            println!("{verdict}  {what:<50} {:>8} (at most {limit})", value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}")));
        }
        errors == 0 && mixed == 0
    }

    /// Writes all reads and swaps, and what the plot needs, into a directory.
    pub(crate) fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let mut reads = "phase,reader,began_ms,took_ms\n".to_owned();
        let mut swaps = "phase,began_ms,ended_ms,held_ms\n".to_owned();
        for Row { phase, .. } in &self.rows {
            for read in &phase.seen.reads {
                writeln!(reads, "\"{}\",\"{}\",{:.3},{:.3}", phase.name, read.kind, ms(read.began), ms(read.took)).unwrap();
            }
            for swap in &phase.swaps {
                let held = swap.held.map_or_else(String::new, |held| format!("{:.3}", ms(held)));
                writeln!(swaps, "\"{}\",{:.3},{:.3},{held}", phase.name, ms(swap.began), ms(swap.ended)).unwrap();
            }
        }
        let mut files = vec![("reads.csv", reads), ("swaps.csv", swaps)];
        for (measured, around, over_time) in [
            (Measured::Fast, Some("operator-around.dat"), None),
            (Measured::RivalFast(Rival::Renames), Some("renames-around.dat"), None),
            (Measured::Slow, None, Some(("operator-slow.dat", "operator-slow-swaps.dat"))),
            (Measured::RivalSlow(Rival::Renames), None, Some(("renames-slow.dat", "renames-slow-swaps.dat"))),
        ] {
            let Some(row) = self.of(measured) else { continue };
            files.extend(around.map(|name| (name, around_swaps(&row.phase))));
            if let Some((reads, swaps)) = over_time {
                let (all, marks) = through_time(&row.phase);
                files.extend([(reads, all), (swaps, marks)]);
            }
        }
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }
}

/// Reads around the first twenty swaps, in ms since the swap's call.
fn around_swaps(phase: &Phase) -> String {
    let mut text = String::new();
    for swap in phase.swaps.iter().take(20) {
        for read in &phase.seen.reads {
            let at = ms(read.began) - ms(swap.began);
            if (-150.0..400.0).contains(&at) {
                writeln!(text, "{at:.2} {:.3}", ms(read.took)).unwrap();
            }
        }
    }
    text
}

/// Reads and swaps, in seconds since the first swap's call.
fn through_time(phase: &Phase) -> (String, String) {
    let zero = phase.swaps.first().map_or(Duration::ZERO, |swap| swap.began).as_secs_f64();
    let (mut reads, mut swaps) = (String::new(), String::new());
    for read in &phase.seen.reads {
        if read.kind != crate::readers::SLOW {
            writeln!(reads, "{:.4} {:.3}", read.began.as_secs_f64() - zero, ms(read.took)).unwrap();
        }
    }
    for swap in &phase.swaps {
        writeln!(swaps, "{:.4} {:.4}", swap.began.as_secs_f64() - zero, swap.ended.as_secs_f64() - zero).unwrap();
    }
    (reads, swaps)
}
