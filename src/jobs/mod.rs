//! One Kubernetes Job of a release, whatever it is for: announced, created, waited for, deleted. Imports, gates and hooks provide a
//! template and read how it ended. A hook by HTTP has a row too, once it is done.
//!
//! The ledger knows of a Job before the Job exists. A process that finds its row waits for the Job that exists, or creates the one that
//! was never created. A number once given to a Job is never given to another one.

mod environment;
mod request;
mod run;
mod stop;

pub(crate) use request::{JobRequest, check};
pub(crate) use run::{Outcome, Prepare, Prepared, attempt, is_done, note_done, run, tidy};
pub(crate) use stop::{halt, stop, stop_all, stop_writers};

pub use crate::database::ledger::jobs::Purpose;
