//! For how long this process leads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Until when this process surely leads. Clones share it.
///
/// A process that slept past its Lease continues exactly where it was when it wakes, before anything reports the loss to it. So
/// whoever is about to act, and above all to end a predecessor's sessions, asks the clock first.
#[derive(Clone, Debug, Default)]
pub struct Term(Arc<Mutex<End>>);

#[derive(Clone, Copy, Debug, Default)]
enum End {
    /// It has not begun.
    #[default]
    Over,
    At(SystemTime),
    Never,
}

impl Term {
    /// The term of a process that is alone.
    pub fn endless() -> Self {
        Self(Arc::new(Mutex::new(End::Never)))
    }

    /// This process does not lead, or cannot be sure of it.
    pub fn is_over(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            End::Over => true,
            End::At(end) => SystemTime::now() >= end,
            End::Never => false,
        }
    }

    /// It leads until then.
    pub fn lasts_until(&self, end: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = End::At(end);
    }
}
