//! The PortalRelease operator.
pub mod api;
pub mod database;
