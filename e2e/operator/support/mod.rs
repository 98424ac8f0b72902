//! What every test needs.

pub mod containers;
pub mod gate;
pub mod jobs;
pub mod looks;
pub mod operator;
pub mod receiver;
pub mod settled;
pub mod snapshot;
pub mod stage;
pub mod world;

use std::{future::Future, time::Duration};

pub use operator::Operator;
pub use stage::Stage;
use tokio::time::{MissedTickBehavior, interval};

/// How long a condition may take: a machine can be five times slower than usual, and a test that waits in vain fails anyway.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `look` returns something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    match look_for(look).await {
        Some(found) => found,
        None => panic!("waited {}s in vain for: {what}", PATIENCE.as_secs()),
    }
}

/// Polls until `look` returns something; `None` when that took too long.
pub async fn look_for<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> Option<T> {
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.ok()
}
