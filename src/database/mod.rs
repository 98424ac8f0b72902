//! Everything that touches the portal's database.
pub mod backups;
pub mod catalog;
pub mod checks;
pub mod checksum;
pub mod csv;
pub mod dependents;
pub mod identifiers;
pub mod import;
pub mod staging;
pub mod swap;
pub mod template;
pub mod views;
