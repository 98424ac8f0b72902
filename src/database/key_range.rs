//! A range of an import's key, as a condition in SQL.

use super::identifiers::quote_literal;

/// A half-open range of an import's key. The first range of a plan is open below and holds the rows without a key, the
/// last one is open above; so whatever plan, every row is in exactly one range, also a row that appeared after planning.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRange {
    /// Its place in the plan, from 0.
    pub index: usize,
    /// The first key of the range, as text.
    pub lower: Option<String>,
    /// The first key after the range, as text.
    pub upper: Option<String>,
    /// The key's type, as SQL writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Keys are compared byte by byte, so that a plan does not depend on the collations of a machine.
    #[serde(default)]
    pub bytewise: bool,
}

impl KeyRange {
    /// The range of every row, for an import that goes in one piece.
    #[must_use]
    pub fn whole() -> Self {
        Self { index: 0, lower: None, upper: None, type_name: "text".to_owned(), bytewise: false }
    }

    /// The two ranges that this one becomes when it is cut at a key, which is the first of the second one.
    #[must_use]
    pub fn cut(self, key: &str) -> (Self, Self) {
        (Self { upper: Some(key.to_owned()), ..self.clone() }, Self { lower: Some(key.to_owned()), ..self })
    }

    /// The SQL condition that `expression` lies in the range.
    #[must_use]
    pub fn condition(&self, expression: &str) -> String {
        let bound = |text: &str| {
            let collation = if self.bytewise { " COLLATE pg_catalog.\"C\"" } else { "" };
            format!("{}::{}{collation}", quote_literal(text), self.type_name)
        };
        match (&self.lower, &self.upper) {
            (None, None) => "TRUE".to_owned(),
            (None, Some(upper)) => format!("(({expression}) < {} OR ({expression}) IS NULL)", bound(upper)),
            (Some(lower), None) => format!("(({expression}) >= {})", bound(lower)),
            (Some(lower), Some(upper)) => format!("(({expression}) >= {} AND ({expression}) < {})", bound(lower), bound(upper)),
        }
    }
}
