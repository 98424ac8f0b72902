//! The swap's benchmark: what readers notice of a thousand swaps, and of other ways to swap. Run it with `make bench-swap`.
//!
//! Two full releases of a portal of the real shape take each other's place again and again while readers of all kinds
//! are at work. Ends with exit code 1 when a reader met an error or saw two releases at once under the operator's swap;
//! times are reported, not enforced.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

mod ours;
mod readers;
mod record;
mod report;
mod rivals;
mod server;
#[path = "../../database/portal_shape/shape.rs"]
mod shape;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use portal_release_operator::database::identifiers::Generation;
use record::{Phase, Swap, baseline};
use report::{Measured, Report};
use rivals::Rival;
use server::{Database, Server, backup};

/// How big the bench is, from the environment.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Swaps among fast readers.
    swaps: u32,
    /// Swaps beside the slow reader and autovacuum, each of which waits for a gap of the slow reader.
    slow_swaps: u32,
    /// Sites of the small portal.
    sites: u32,
    /// Sites of the big one.
    many_sites: u32,
    /// How long readers run without a swap, and each rival at most.
    seconds: u64,
}

impl Size {
    fn from_environment() -> Self {
        fn number<T: FromStr>(name: &str, default: T) -> T {
            std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
        }
        Self {
            swaps: number("BENCH_SWAPS", 1000),
            slow_swaps: number("BENCH_SLOW_SWAPS", 20),
            sites: number("BENCH_SITES", 10_000),
            many_sites: number("BENCH_MANY_SITES", 1_000_000),
            seconds: number("BENCH_SECONDS", 60),
        }
    }
}

/// How long a rival's last swap may continue after its phase is over.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
enum Way {
    Operator,
    Rival(Rival),
}

/// One phase to run: how it is swapped, how often at most, for how long at most, beside whom.
#[derive(Debug, Clone, Copy)]
struct Run {
    way: Way,
    swaps: u32,
    at_most: Duration,
    slow: bool,
}

struct Bench {
    epoch: Instant,
    server: Server,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("this is a benchmark: run it with `make bench-swap`");
        return ExitCode::SUCCESS;
    }
    let size = Size::from_environment();
    let mut bench = Bench { epoch: Instant::now(), server: Server::connect().await };
    let report = bench.all(size).await;
    report.write(std::path::Path::new("target/bench-swap"));
    if report.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Bench {
    async fn all(&mut self, size: Size) -> Report {
        let mut report = Report::begin();
        let ours = |swaps, slow| Run { way: Way::Operator, swaps, at_most: Duration::from_secs(3600), slow };

        eprintln!("making a portal of {} sites with two releases", size.sites);
        let template = self.server.create("bench_template", size.sites).await;
        template.close().await;
        let small = self.server.copy("bench_template", "bench_small", size.sites).await;
        let quiet = self.quiet(&small, "no swaps", size.seconds / 2).await;
        let usual = baseline(&quiet);
        report.add(Measured::Baseline, quiet, &usual);
        report.add(Measured::Fast, self.phase(&small, "operator", ours(size.swaps, false)).await, &usual);
        small.let_autovacuum_work().await;
        report.add(Measured::Slow, self.phase(&small, "operator, slow reader", ours(size.slow_swaps, true)).await, &usual);
        small.close().await;

        for rival in Rival::ALL {
            let at_most = Duration::from_secs(size.seconds);
            for (slow, suffix) in [(false, ""), (true, ", slow reader")] {
                let copy = self.server.copy("bench_template", "bench_rival", size.sites).await;
                if slow {
                    copy.let_autovacuum_work().await;
                }
                let run = Run { way: Way::Rival(rival), swaps: 20.min(size.swaps), at_most, slow };
                let phase = self.phase(&copy, &format!("{}{suffix}", rival.name()), run).await;
                report.add(if slow { Measured::RivalSlow(rival) } else { Measured::RivalFast(rival) }, phase, &usual);
                copy.close().await;
            }
        }
        for name in ["bench_rival", "bench_small", "bench_template"] {
            self.server.drop(name).await;
        }

        eprintln!("making a portal of {} sites with two releases", size.many_sites);
        let big = self.server.create("bench_big", size.many_sites).await;
        let quiet = self.quiet(&big, "no swaps, many rows", size.seconds / 2).await;
        let usual = baseline(&quiet);
        report.add(Measured::BaselineMany, quiet, &usual);
        report.add(Measured::Many, self.phase(&big, "operator, many rows", ours(size.swaps.div_ceil(5), false)).await, &usual);
        big.close().await;
        self.server.drop("bench_big").await;
        report
    }

    /// Readers alone.
    async fn quiet(&self, database: &Database, name: &str, seconds: u64) -> Phase {
        let run = Run { way: Way::Operator, swaps: 0, at_most: Duration::from_secs(seconds), slow: false };
        self.phase(database, name, run).await
    }

    async fn phase(&self, database: &Database, name: &str, run: Run) -> Phase {
        let relations = shape::relations();
        let mut phase = Phase { name: name.to_owned(), ..Phase::default() };
        let readers = readers::Readers::start(&database.reader, self.epoch, database.sites, run.slow);
        // Connections, caches and plans first.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let began_at = self.epoch.elapsed();
        let over = || self.epoch.elapsed() - began_at >= run.at_most;
        let (mut incoming, mut outgoing) = (backup(), Generation::Staging);
        let mut autovacuums = 0;
        while u32::try_from(phase.swaps.len()).is_ok_and(|swaps| swaps < run.swaps) && !over() {
            if run.slow {
                autovacuums += u32::from(autovacuum(database).await);
            }
            let began = self.epoch.elapsed();
            let held = match run.way {
                Way::Operator => ours::one_swap(&database.owner, &relations, &incoming, &outgoing).await.map_err(|error| error.to_string()),
                Way::Rival(rival) => {
                    // Some would continue for minutes, or for ever.
                    let left = (began_at + run.at_most + PATIENCE).saturating_sub(began);
                    let swap = rival.swap(&database.owner, &relations, &incoming, &outgoing);
                    match tokio::time::timeout(left, swap).await {
                        Ok(held) => held.map_err(|error| error.to_string()),
                        Err(_) => Err(format!("not done after {left:?}")),
                    }
                }
            };
            phase.swaps.push(Swap { began, ended: self.epoch.elapsed(), held: held.as_ref().ok().copied() });
            match held {
                Ok(_) => std::mem::swap(&mut incoming, &mut outgoing),
                Err(error) => phase.refusals.push(error),
            }
            // Not in step with the readers.
            tokio::time::sleep(Duration::from_millis(150 + u64::from(readers::random() % 200))).await;
        }
        if run.swaps == 0 {
            tokio::time::sleep(run.at_most).await;
        }
        phase.seen = readers.stop().await;
        if matches!(run.way, Way::Operator) && incoming != backup() {
            // The next phase begins as this one did.
            ours::one_swap(&database.owner, &relations, &incoming, &outgoing).await.expect("the way back, with nobody in it");
        }
        phase.seen.reads.retain(|read| read.began >= began_at);
        if run.slow {
            eprintln!("{name}: autovacuum was at work before {autovacuums} of {} swaps", phase.swaps.len());
        }
        phase
    }
}

/// Waits a while for autovacuum to come back, which it does within a second or two.
async fn autovacuum(database: &Database) -> bool {
    for _ in 0..60 {
        if database.autovacuum_works().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
