//! What users write and read: the kinds `Portal` and `PortalRelease`.
//!
//! The types here are the single source of the CRDs in `crds/`. They import nothing of ours but `text`, so that every other module
//! can use them.

mod conditions;
mod crd;
mod job;
mod named;
mod phase;
mod portal;
mod portal_status;
mod release;
mod rules;
mod scalars;
mod status;
mod tolerant;

pub use conditions::Conditions;
pub use crd::{crds, crds_yaml};
pub use job::*;
pub use named::UnknownName;
pub(crate) use named::named_enum;
pub use phase::PhaseName;
pub use portal::*;
pub use portal_status::*;
pub use release::*;
pub use scalars::*;
pub use status::*;

/// The API group of every kind.
pub const GROUP: &str = "portalrelease.dev";
/// The finalizer that keeps a release until its workers are back and its lock is free.
pub const FINALIZER: &str = "portalrelease.dev/release";
