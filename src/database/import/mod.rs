//! Imports: one set-based statement per target, or per key range of it, and an account of every row.

mod columns;
mod diagnose;
mod error;
mod file_rows;
mod load;
mod pieces;
mod ranges;
mod reads;
mod sql;
mod statement;

pub(super) use columns::match_columns;
pub use columns::{Rule, Target, check_rules, columns};
pub use error::ImportError;
pub use file_rows::FileRows;
pub use load::{load, load_file};
pub use ranges::{Ranges, plan_ranges};
pub use reads::{RelationKind, RelationRead, relations_behind, relations_read};
pub(super) use sql::quoted;
pub use statement::{Load, Origin, Source};

pub use super::{counts::Counts, key_range::KeyRange};

/// With more rejected rows than this, and than are accepted, an import is given up before its end.
pub const ENOUGH_REJECTED: i64 = 10_000;
