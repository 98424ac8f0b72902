//! What a task reports about itself, and how the reconcile learns of it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::channel::mpsc::UnboundedSender;
use kube::runtime::reflector::ObjectRef;

use crate::api::PortalRelease;

/// How often progress wakes the reconcile at most.
const WAKE_EVERY: Duration = Duration::from_millis(500);

/// Where releases are woken.
pub type Waker = UnboundedSender<ObjectRef<PortalRelease>>;

/// What a task says of itself.
pub struct Progress {
    message: Mutex<String>,
    blocked: Mutex<Option<String>>,
    /// When the reconcile was woken last, or will be next.
    woken: Mutex<Option<Instant>>,
    waker: Waker,
    object: ObjectRef<PortalRelease>,
}

impl Progress {
    /// Progress of a task for `object`.
    pub fn new(waker: Waker, object: ObjectRef<PortalRelease>) -> Self {
        Self { message: Mutex::default(), blocked: Mutex::default(), woken: Mutex::default(), waker, object }
    }

    /// Says what happens right now.
    pub fn say(&self, what: String) {
        tracing::debug!(release = self.object.name, "{what}");
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = what;
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.moved();
    }

    /// Reports what blocks it, until something else is reported.
    pub fn blocked(&self, by: String) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
        self.moved();
    }

    /// What happens right now.
    pub fn message(&self) -> String {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What blocks it, if anything does.
    pub fn blocker(&self) -> Option<String> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ledger has changed: people should see it soon.
    pub fn moved(&self) {
        let now = Instant::now();
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        match *woken {
            // One is on its way, and will find this too.
            Some(at) if at > now => {}
            // What is said last may stay true for hours, so it is not passed over.
            Some(at) if now - at < WAKE_EVERY => {
                let due = at + WAKE_EVERY;
                *woken = Some(due);
                let (waker, object) = (self.waker.clone(), self.object.clone());
                tokio::spawn(async move {
                    tokio::time::sleep_until(due.into()).await;
                    let _ = waker.unbounded_send(object);
                });
            }
            _ => {
                *woken = Some(now);
                self.wake();
            }
        }
    }

    /// Wakes the reconcile now.
    pub fn wake(&self) {
        // The receiver is gone only when the operator ends.
        let _ = self.waker.unbounded_send(self.object.clone());
    }
}
