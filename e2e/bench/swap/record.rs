//! What was recorded: reads, swaps, and figures made of them.

use std::collections::BTreeMap;
use std::time::Duration;

/// One statement of a reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    /// The reader.
    pub(crate) kind: &'static str,
    /// When it was sent, since the start of the bench.
    pub(crate) began: Duration,
    /// How long its answer took.
    pub(crate) took: Duration,
}

/// What readers have seen.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) reads: Vec<Read>,
    /// Statements that failed or found nothing.
    pub(crate) errors: Vec<String>,
    /// Statements and transactions that saw two releases.
    pub(crate) mixed: Vec<String>,
}

impl Recording {
    pub(crate) fn absorb(&mut self, other: Self) {
        self.reads.extend(other.reads);
        self.errors.extend(other.errors);
        self.mixed.extend(other.mixed);
    }
}

/// One swap, from the call to its return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swap {
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    /// How long it held exclusive locks before its COMMIT was answered; `None` when it gave up.
    pub(crate) held: Option<Duration>,
}

/// One stretch of the bench: readers at work, and swaps of one strategy.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// What it is called in the table and the files.
    pub(crate) name: String,
    pub(crate) seen: Recording,
    pub(crate) swaps: Vec<Swap>,
    /// Why swaps gave up.
    pub(crate) refusals: Vec<String>,
}

/// How long after a swap's return a read still counts as one that it may have slowed down: the first read of a session
/// finds its caches invalidated.
const AFTERMATH: Duration = Duration::from_millis(100);

/// The 99th percentile of each kind of reader while nothing is swapped.
pub(crate) type Baseline = BTreeMap<&'static str, Duration>;

pub(crate) fn baseline(phase: &Phase) -> Baseline {
    let mut by_kind: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
    for read in &phase.seen.reads {
        by_kind.entry(read.kind).or_default().push(read.took);
    }
    by_kind.into_iter().filter_map(|(kind, took)| Some((kind, quantile(took, 0.99)?))).collect()
}

impl Phase {
    /// Reads that a swap may have slowed down, each with what it took beyond the 99th percentile of its kind.
    ///
    /// A read counts when it overlaps the time from a swap's call to its return, attempts and pauses included, or begins
    /// within [`AFTERMATH`] of it. A phase without swaps counts all: that is the noise of the machine. The slow reader
    /// has no baseline and never counts.
    pub(crate) fn added(&self, baseline: &Baseline) -> Vec<Duration> {
        let mut swaps = self.swaps.iter().peekable();
        let mut reads: Vec<&Read> = self.seen.reads.iter().filter(|read| baseline.contains_key(read.kind)).collect();
        reads.sort_by_key(|read| read.began);
        let touched = |read: &Read, swap: &Swap| read.began <= swap.ended + AFTERMATH && read.began + read.took >= swap.began;
        let mut added = Vec::new();
        for read in reads {
            while swaps.next_if(|swap| swap.ended + AFTERMATH < read.began).is_some() {}
            if self.swaps.is_empty() || swaps.peek().is_some_and(|swap| touched(read, swap)) {
                added.extend(baseline.get(read.kind).map(|usual| read.took.saturating_sub(*usual)));
            }
        }
        added
    }

    /// How long the locks were held, of the swaps that went through.
    pub(crate) fn held(&self) -> Vec<Duration> {
        self.swaps.iter().filter_map(|swap| swap.held).collect()
    }
}

/// The smallest value that so large a share does not exceed; `None` of nothing.
pub(crate) fn quantile(mut values: Vec<Duration>, share: f64) -> Option<Duration> {
    values.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}
