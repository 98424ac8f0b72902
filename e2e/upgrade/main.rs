//! From one version of the operator to another: what the one began, the other ends. Released versions are built from the repository's
//! history (`e2e/upgrade/versions` lists them); this tree is the version that follows them.
//!
//! Most tests run with this tree's CRDs, as CRDs are applied before the operator is replaced; [`crds`] has the other orders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod at_rest;
mod crds;
mod crossing;
mod downgrade;
mod mid_run;
#[path = "../operator/support/mod.rs"]
#[allow(dead_code, reason = "the tests of target `operator` need more of it")]
mod support;
