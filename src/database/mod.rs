//! Everything that touches the portal's database.
pub mod backups;
pub mod catalog;
pub mod dependents;
pub mod identifiers;
pub mod staging;
pub mod swap;
mod swap_lock;
