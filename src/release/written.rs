//! What was written to the live tables since they became live: a rollback would discard it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Incoming;
use crate::api::PortalReleaseSpec;

/// At most this many tables are named.
const NAMED: usize = 8;

/// What was written to the live tables since they became live, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// When it was counted.
    pub at: Timestamp,
    /// When the tables became live.
    pub since: Option<Timestamp>,
    /// Tables to which something was written.
    pub tables: Vec<TableWrites>,
    /// Tables of which nothing is known: an older version, or another tool, made them live.
    pub unknown: Vec<String>,
}

/// What was written to one table. An update is a new row version and a former row that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWrites {
    /// Its name.
    pub table: String,
    /// Rows that were inserted or updated.
    pub new: i64,
    /// Rows of the former data that were updated or deleted.
    pub gone: i64,
}

impl Written {
    /// Nothing would be lost.
    pub fn is_nothing(&self) -> bool {
        self.tables.is_empty() && self.unknown.is_empty()
    }

    /// `3 rows inserted in sources, 1 row deleted in countries_pas since 2026-07-01T12:00:00Z`; with nothing written, that.
    pub fn sentence(&self) -> String {
        let mut parts: Vec<String> = self.tables.iter().take(NAMED).map(TableWrites::sentence).collect();
        if self.tables.len() > NAMED {
            parts.push(format!("and {} more tables", self.tables.len() - NAMED));
        }
        if parts.is_empty() {
            parts.push(if self.unknown.is_empty() { "nothing was written".to_owned() } else { "nothing known was written".to_owned() });
        }
        let since = self.since.map_or_else(String::new, |since| format!(" since {}", seconds(since)));
        let unknown = match self.unknown.as_slice() {
            [] => String::new(),
            some => {
                let names: Vec<&str> = some.iter().take(NAMED).map(String::as_str).collect();
                let more = if some.len() > NAMED { ", ..." } else { "" };
                format!("; what was written to {}{more} is not known, as no count was kept when it became live", names.join(", "))
            }
        };
        format!("{}{since}{unknown}", parts.join(", "))
    }
}

impl TableWrites {
    // Each sentence is exact: an update makes a row that is new and one that is gone, so without the one there is none of the other.
    fn sentence(&self) -> String {
        let table = &self.table;
        match (self.new, self.gone) {
            (new, 0) => format!("{} inserted in {table}", rows(new)),
            (0, gone) => format!("{} deleted in {table}", rows(gone)),
            (new, gone) => format!("{} inserted or updated, and {} updated or deleted, in {table}", rows(new), existing(gone)),
        }
    }
}

fn existing(count: i64) -> String {
    if count == 1 { "1 existing row".to_owned() } else { format!("{count} existing rows") }
}

fn rows(count: i64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// RFC 3339 to the second.
pub fn seconds(at: Timestamp) -> String {
    crate::text::whole_seconds(at).to_string()
}

/// The spec accepts that making this live loses what was written to the live tables.
pub fn accepted(incoming: Incoming, spec: &PortalReleaseSpec) -> bool {
    match incoming {
        Incoming::Staging => false,
        Incoming::Backup => spec.rollback.as_ref().is_some_and(|rollback| rollback.accept_data_loss),
        Incoming::Parked => spec.roll_forward.as_ref().is_some_and(|forward| forward.accept_data_loss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_described_exactly() {
        let writes = |table: &str, new, gone| TableWrites { table: table.to_owned(), new, gone };
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let mut written = Written { at, since: Some(at), tables: Vec::new(), unknown: Vec::new() };
        assert_eq!(written.sentence(), "nothing was written since 2027-01-15T08:00:00Z");
        assert!(written.is_nothing());
        written.tables = vec![writes("a", 3, 0), writes("b", 0, 1), writes("c", 1, 2)];
        assert_eq!(
            written.sentence(),
            "3 rows inserted in a, 1 row deleted in b, 1 row inserted or updated, and 2 existing rows updated or deleted, in c since 2027-01-15T08:00:00Z"
        );
        written = Written { tables: vec![writes("a", 1, 0); 30], unknown: vec!["d".to_owned()], ..written };
        assert!(written.sentence().contains("and 22 more tables") && written.sentence().contains("what was written to d is not known"));
    }
}
