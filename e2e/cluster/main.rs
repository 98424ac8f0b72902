//! The effects on the cluster, on a real API server with a fake node, under the rights that the chart grants.
//!
//! `source "$(e2e/local/local up dev)"; cargo test --test cluster`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod leader;
mod objects;
mod setup;
mod workers;
