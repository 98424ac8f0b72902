//! Tests that need a Postgres server to themselves: they crash it, let standbys follow it, or fill its disk up. Each starts servers of
//! its own and deletes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod autovacuum;
mod crash;
mod disk;
mod portal;
mod server;
mod standby;
