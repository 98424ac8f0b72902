//! The PortalRelease operator.
pub mod api;
pub mod database;
pub mod release;
