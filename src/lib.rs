//! The PortalRelease operator.
pub mod api;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod database;
pub mod faults;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod phases;
pub mod portals;
pub mod release;
pub mod runner;
pub mod services;
pub mod telemetry;
