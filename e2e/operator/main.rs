//! End-to-end tests: the operator's binary, with a token of the chart's ServiceAccount, on a real API server and a real Postgres.
//!
//! Each test has a namespace, a pair of databases and an operator of its own. `make test` brings the local cluster up; by hand:
//! `source "$(e2e/local/local up dev)" && cargo test --test operator`.

mod admission;
mod dry_run;
mod freeze;
mod lifecycle;
mod rollback;
mod support;
