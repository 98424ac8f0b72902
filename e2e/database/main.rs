//! The swap data plane on a real Postgres. Needs `LOCAL_PG_URL` (a superuser) and `pg_dump`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod consistent_pages;
mod dependents;
mod former_states;
mod harness;
mod hazards;
mod ledger;
mod planning;
mod portal_shape;
mod readers;
mod refusals;
mod round_trip;
mod warm;
mod written;
