//! The PortalRelease operator.
pub mod api;
pub mod cluster;
pub mod database;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod telemetry;
