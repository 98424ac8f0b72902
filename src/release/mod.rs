//! What to do next: pure decisions, testable without a cluster or a database.
//!
//! Nothing here talks to Kubernetes or Postgres or reads a clock; what was observed comes in, a [`Step`] goes out. The test
//! `the_core_is_pure` keeps it so.

pub mod definition;
mod next;
pub mod observed;
pub mod phases;
pub mod plan;
mod rest;
pub mod run;
pub mod settled;
mod size;
pub mod status;
pub mod step;
mod verdict;
pub mod written;

pub use next::next;
pub use observed::{Blocker, KeptBackup, LockView, Observed, ReleaseRecord, TaskView};
pub use plan::{Entry, UndoneBy, Why, plan, unwind};
pub use run::{Direction, Incoming, PhaseRecord, RunKind, RunRecord};
pub use step::Step;
pub use written::{TableWrites, Written};

#[cfg(test)]
mod tests;
