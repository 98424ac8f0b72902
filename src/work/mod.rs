//! What every phase gets: its data, handles and controls ([`Context`]), fenced transactions ([`Work`]), progress, the definition.

mod context;
pub mod definition;
mod error;
pub mod parallel;
mod progress;
mod transaction;

pub use context::{Context, Control, Subject, Tools};
pub use definition::Definition;
pub use error::{PhaseError, refuse};
pub use progress::{Progress, Waker};
pub use transaction::{Done, Work};
