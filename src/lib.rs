//! The PortalRelease operator.
pub mod database;
