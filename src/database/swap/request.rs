//! What a swap is to do.

use super::{blocker::CancelBlockers, locks::Limits};
use crate::database::identifiers::{Generation, Relations};

/// Which relations change place, and how.
#[derive(Debug)]
pub struct SwapRequest<'a> {
    /// The relations.
    pub relations: &'a Relations,
    /// The generation that becomes live.
    pub incoming: &'a Generation,
    /// The generation that live becomes.
    pub outgoing: &'a Generation,
    /// Statements to execute last, under the locks, with the connection's own search path.
    pub finally: &'a [String],
    /// How long other sessions may be made to wait, and for how long the swap tries.
    pub limits: Limits,
    /// The sessions that the swap may cancel.
    pub cancel_blockers: CancelBlockers,
}
