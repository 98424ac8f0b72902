//! One step of a release.

use std::time::Duration;

use super::{Blocker, RunKind, observed::Refusal};
use crate::api::{PhaseName, ReleaseState};

/// What to do next. Each is one effect; after it everything is observed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something changes.
    Rest,
    /// Nothing to do until somebody changes something: an impossible wish.
    Refuse(Refusal),
    /// Wait until a task, another release or the clock moves on.
    Wait {
        /// Look again after this long, if nothing else happens first.
        again: Option<Duration>,
    },
    /// Wait for another release of the portal.
    Queue(Blocker),
    /// Stop at this safe point until `suspend` is false.
    Hold,
    /// Tell the running task to stop: at once, or at its next safe point.
    StopTask {
        /// Cut off the running statement.
        now: bool,
    },
    /// Open a run.
    Open(RunKind),
    /// Open the latest run again and continue where it stopped.
    Reopen,
    /// Take the label's finished row of another object for this one's.
    Adopt,
    /// Wind up the open run: it will end in this state.
    End {
        /// The state.
        state: ReleaseState,
        /// Why.
        message: String,
    },
    /// Wind up the run of a release whose object is gone.
    Reap(i64),
    /// Take the advisory lock and a new epoch.
    Acquire,
    /// Run a phase.
    Run(PhaseName),
    /// Take a phase back.
    Undo(PhaseName),
    /// Close the run, and the release is in this state.
    Close {
        /// The state.
        state: ReleaseState,
        /// Why.
        message: String,
    },
    /// Close the failed run, and open the rollback that `onFailure` asks for, in one transaction: no other release comes between.
    RollBack {
        /// Why the run has failed.
        message: String,
    },
    /// The spec asks for the rollback that `onFailure` has made: from now on it is as if it had asked first.
    Confirm,
    /// A failed rollback or roll forward that is no longer wanted: the release is live, or rolled back, as before.
    Settle,
    /// Let the deleted object go.
    Finalize,
}
