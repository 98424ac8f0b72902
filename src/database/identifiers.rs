//! Names: how a relation is called in each generation, and the only quoting there is.
//!
//! A relation of a portal exists in up to three kinds of generation at once: live (`sources`), staging
//! (`staging_sources`) and backups (`bk2607011200_sources`). So do the objects whose names share the schema with it:
//! indexes (and the constraints they carry), sequences, extended statistics. Names that are private to one table
//! (columns, checks, foreign keys, triggers, policies) are the same in every generation.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;

use crate::{api::PortalSpec, classify::Classify};

/// The longest name Postgres keeps, in bytes (NAMEDATALEN - 1).
pub const MAX_NAME_BYTES: usize = 63;

/// Quotes an identifier for SQL. Always quoted, so no list of keywords is needed.
#[must_use]
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string for SQL, independent of `standard_conforming_strings`.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// `"schema"."name"`.
#[must_use]
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// The single place where assembled SQL is declared safe: everything in it went through [`quote_ident`],
/// [`quote_literal`] or comes from the server's own deparser (`pg_get_indexdef` and its kin).
pub(crate) fn assembled(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}

/// A query without the white space and semicolons at its end, as people copy it from psql: it can be a subquery.
pub(crate) fn bare(sql: &str) -> &str {
    sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace())
}

/// A person's query as a subquery, for `FROM`. On lines of its own: a comment may be its end.
pub(crate) fn subquery(sql: &str) -> String {
    format!("(\n{}\n)", bare(sql))
}

/// Hexadecimal SHA-256.
pub(super) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The relations of one release: what is swapped together, and the lookup tables beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    /// The schema all of them live in.
    pub schema: String,
    /// The swapped tables, in swap order.
    pub tables: Vec<String>,
    /// The swapped views, mostly materialized, in the order they are built.
    pub views: Vec<String>,
    /// Tables that stay live; new rows are staged and published in the swap.
    pub lookups: Vec<String>,
}

impl Relations {
    /// Every relation that a release of the portal may replace, whether one does or not.
    #[must_use]
    pub fn of(portal: &PortalSpec) -> Self {
        Self {
            schema: portal.database.schema.0.clone(),
            tables: portal.tables.swapped(),
            views: portal.materialized_views.iter().map(|view| view.name.0.clone()).collect(),
            lookups: portal.tables.lookups(),
        }
    }

    /// The base names of everything that is swapped: tables first, then views.
    pub fn swapped(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().chain(&self.views).map(String::as_str)
    }

    /// The names that the swapped relations have in one generation.
    #[must_use]
    pub fn names(&self, generation: &Generation) -> Vec<String> {
        self.swapped().map(|base| generation.name(base)).collect()
    }
}

/// One of the lives of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Generation {
    /// What readers see.
    Live,
    /// What a release is building, or what a rollback has taken out of service.
    Staging,
    /// What was live until the swap of this minute.
    Backup(BackupStamp),
}

impl Generation {
    /// The name of a relation, index, sequence or statistics object in this generation.
    ///
    /// Deterministic, and never longer than Postgres keeps: a longer name is cut and ends in a hash of the whole.
    #[must_use]
    pub fn name(&self, base: &str) -> String {
        let full = format!("{}{base}", self.prefix());
        if full.len() <= MAX_NAME_BYTES {
            return full;
        }
        let mut end = MAX_NAME_BYTES - 9;
        while !full.is_char_boundary(end) {
            end -= 1;
        }
        let kept = full.get(..end).unwrap_or_default();
        let hash = sha256_hex(&full);
        format!("{kept}_{}", hash.get(..8).unwrap_or_default())
    }

    /// What a name of this generation begins with; empty for live.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self {
            Self::Live => String::new(),
            Self::Staging => "staging_".to_owned(),
            Self::Backup(stamp) => format!("bk{stamp}_"),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Staging => f.write_str("staging"),
            Self::Backup(stamp) => write!(f, "backup {stamp}"),
        }
    }
}

/// The minute of a swap, `YYMMDDHHMM` in UTC, which names the backup it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupStamp(DateTime);

/// A text that is no backup timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup timestamp: expected YYMMDDHHMM with a real date and time, for example 2607011200")]
pub struct InvalidStamp(pub String);

impl Classify for InvalidStamp {
    fn is_transient(&self) -> bool {
        false
    }
}

impl BackupStamp {
    /// The minute that `at` lies in.
    ///
    /// # Errors
    /// Outside the years 2000 to 2099, which two digits cannot distinguish.
    pub fn at(at: Timestamp) -> Result<Self, InvalidStamp> {
        let time = at.to_zoned(TimeZone::UTC).datetime();
        time.strftime("%y%m%d%H%M")
            .to_string()
            .parse()
            .and_then(|stamp: Self| if stamp.0.year() == time.year() { Ok(stamp) } else { Err(InvalidStamp(at.to_string())) })
    }

    /// The minute, in UTC.
    #[must_use]
    pub fn minute(self) -> DateTime {
        self.0
    }

    /// The minute after this one.
    ///
    /// # Errors
    /// After the last minute of 2099.
    pub fn next(self) -> Result<Self, InvalidStamp> {
        self.0
            .checked_add(Span::new().minutes(1))
            .ok()
            .filter(|time| time.year() < 2100)
            .map(Self)
            .ok_or_else(|| InvalidStamp(self.to_string()))
    }

    /// The stamp at the head of a backup's name (`bk2607011200_sources`), if it is one.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (stamp, rest) = name.strip_prefix("bk")?.split_once('_')?;
        if rest.is_empty() { None } else { stamp.parse().ok() }
    }
}

impl FromStr for BackupStamp {
    type Err = InvalidStamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidStamp(text.chars().take(40).collect());
        if text.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let part = |at: usize| text.get(at..at + 2).and_then(|digits| digits.parse::<i8>().ok()).ok_or_else(invalid);
        let year = 2000 + i16::from(part(0)?);
        DateTime::new(year, part(2)?, part(4)?, part(6)?, part(8)?, 0, 0).map(Self).map_err(|_| invalid())
    }
}

impl fmt::Display for BackupStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%y%m%d%H%M"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_from_psql_can_be_a_subquery() {
        assert_eq!(subquery("SELECT 1 ;\n; "), "(\nSELECT 1\n)");
        assert_eq!(subquery("SELECT ';' -- one"), "(\nSELECT ';' -- one\n)");
    }

    fn generations() -> Vec<Generation> {
        vec![Generation::Live, Generation::Staging, Generation::Backup("2607011200".parse().unwrap())]
    }

    #[test]
    fn names_are_plain_while_they_fit() {
        assert_eq!(Generation::Staging.name("sources"), "staging_sources");
        assert_eq!(generations()[2].name("sources"), "bk2607011200_sources");
        assert_eq!(Generation::Staging.name(&"a".repeat(55)).len(), 63);
    }

    #[test]
    fn stamps_are_real_minutes() {
        for wrong in ["", "26070112", "2602301200", "2607012460", "26070112000", "２６07011200", "2613011200", "+607011200"] {
            assert!(wrong.parse::<BackupStamp>().is_err(), "{wrong}");
        }
        let at = |text: &str| BackupStamp::at(text.parse().unwrap());
        assert_eq!(at("2026-07-01T12:00:59Z").unwrap().to_string(), "2607011200");
        assert_eq!(at("2026-12-31T23:59:00Z").unwrap().next().unwrap().to_string(), "2701010000");
        assert!(at("1999-12-31T23:59:00Z").is_err());
        assert!(at("2099-12-31T23:59:00Z").unwrap().next().is_err());
        assert_eq!(BackupStamp::of_name("bk2607011200_x").unwrap().to_string(), "2607011200");
        assert_eq!(BackupStamp::of_name("bk2607011200_"), None);
        assert_eq!(BackupStamp::of_name("bk_x"), None);
    }

    proptest! {
        #[test]
        fn names_fit_and_stay_apart(a in "\\PC{1,70}", b in "\\PC{1,70}") {
            let fit = |text: &str| text.chars().scan(0, |bytes, c| { *bytes += c.len_utf8(); Some((*bytes, c)) })
                .take_while(|(bytes, _)| *bytes <= MAX_NAME_BYTES).map(|(_, c)| c).collect::<String>();
            let (a, b) = (fit(&a), fit(&b));
            for generation in generations() {
                prop_assert!(generation.name(&a).len() <= MAX_NAME_BYTES);
                prop_assert_eq!(a == b, generation.name(&a) == generation.name(&b));
            }
        }

        #[test]
        fn long_names_with_one_beginning_stay_apart(head in "[a-z]{56}", a in "[a-z]{1,7}", b in "[a-z]{1,7}") {
            for generation in generations() {
                let (left, right) = (generation.name(&format!("{head}{a}")), generation.name(&format!("{head}{b}")));
                prop_assert!(left.len() <= MAX_NAME_BYTES);
                prop_assert_eq!(a == b, left == right);
            }
        }

        #[test]
        fn every_stamp_reads_back(seconds in 946_684_800_i64..4_102_444_799) {
            let stamp = BackupStamp::at(Timestamp::from_second(seconds).unwrap()).unwrap();
            prop_assert_eq!(stamp.to_string().parse::<BackupStamp>().unwrap(), stamp);
        }
    }
}
