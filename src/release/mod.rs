//! What to do next: pure decisions, testable without a cluster or a database.
//!
//! Nothing here talks to Kubernetes or Postgres or reads a clock; what was observed comes in, a [`Step`] goes out. The test
//! `the_core_is_pure` keeps it so.

pub mod observed;
pub mod phase;
pub mod plan;
pub mod status;
pub mod step;
mod verdict;
pub mod written;

pub use observed::{Blocker, Direction, KeptBackup, LockView, Observed, PhaseRecord, ReleaseRecord, RunKind, RunRecord, TaskView};
pub use plan::{PlannedPhase, plan};
pub use step::{Step, next};
pub use written::{TableWrites, Written};

#[cfg(test)]
mod tests;
