//! The swap: all relations of a release change place in one transaction, and the same call undoes it.
//!
//! ```text
//! exchange(Staging in, Backup out) ──► commit     swap
//! exchange(Backup in, Staging out) ──► commit     rollback
//! exchange(Staging in, Backup out) ──► commit     forward again
//! ```
//! Nothing is copied: relations are renamed, so identities (OIDs), contents, indexes, statistics and the visibility map
//! stay with the data, and going back restores exactly what was there.
//!
//! Readers wait only while everything is locked, so as little as possible happens then:
//!
//! ```text
//! plan      from one snapshot of the catalogue; refuses what cannot be carried over    no session waits
//! prepare   fence, ledger rows, renames of indexes and statistics objects              no session waits
//!           room in the write-ahead log                                                no session waits
//! attempt   ┌ look-up rows                                                             writers of look-up tables wait
//!           │ lock everything in one statement ─ back off after 30 to 130 ms, pause, retry
//!           │ same catalogue as planned? ─ no: plan again
//!           └ rename relations, recreate what depends on them                          readers wait
//! commit
//! ```

mod blocker;
mod error;
mod exchange;
mod hooks;
mod keys;
mod locks;
mod log_room;
mod plan;
mod renames;
mod request;
mod sessions;
mod snapshots;

pub use self::{
    blocker::{Blocker, CancelBlockers, CancelledBlocker},
    error::SwapError,
    exchange::{Exchanged, exchange},
    hooks::{FailedAttempt, Hooks},
    keys::validate_constraints,
    locks::Limits,
    plan::SwapPlan,
    renames::Moved,
    request::SwapRequest,
    snapshots::{Horizon, OldSnapshot, Standby, horizon, old_snapshots, standbys},
};
