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
pub mod settled;
pub mod status;
pub mod step;
mod verdict;
pub mod written;

pub use next::next;
pub use observed::{
    Blocker, Direction, Incoming, KeptBackup, LockView, Observed, PhaseRecord, ReleaseRecord, RunKind, RunRecord, TaskView,
};
pub use plan::{Entry, UndoneBy, Why, plan, unwind};
pub use step::Step;
pub use written::{TableWrites, Written};

#[cfg(test)]
mod tests;
