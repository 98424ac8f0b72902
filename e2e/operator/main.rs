//! End-to-end tests: the operator's binary, with a token of the chart's ServiceAccount, on a real API server and a real Postgres.
//!
//! Each test has a namespace, a pair of databases and an operator of its own. `make test` brings the local cluster up; by hand:
//! `source "$(e2e/local/local up dev)" && cargo test --test operator`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod abort;
mod admission;
mod backups;
mod commits;
mod data_loss;
mod defects;
mod definition;
mod deletion;
mod disk;
mod doctor;
mod dry_run;
mod files;
mod finished;
mod freeze;
mod freeze_timeout;
mod http;
mod http_checks;
mod imports;
mod imports_again;
mod job_checks;
mod jobs;
mod kills;
mod leaders;
mod lifecycle;
mod locks;
mod mid_run;
mod on_failure;
mod queue;
mod rest;
mod retry;
mod rights;
mod rollback;
mod secrets;
#[path = "../server/server.rs"]
#[allow(dead_code, reason = "the tests of target `server` need more of it")]
mod server;
mod slack;
mod standbys;
mod support;
mod swap;
