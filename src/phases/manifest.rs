//! The manifest: what a release consists of, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PhaseError, source::SourceOfData};
use crate::database::{checksum::Content, ledger::imports::Account};

/// The manifest of one release, as JSON.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    /// Name of the Portal.
    pub portal: String,
    /// Its namespace.
    pub namespace: String,
    /// The release's label.
    pub label: String,
    /// When the release started, RFC 3339.
    pub started_at: String,
    /// When its staging was validated, RFC 3339.
    pub validated_at: String,
    /// Hash of the Portal's views, tables and imports.
    pub definition: Option<String>,
    /// Fingerprint of the tables' structure.
    pub structure: Option<String>,
    /// Whether everything comes from one moment of the source.
    pub source: SourceOfData,
    /// Tables by their live names.
    pub tables: BTreeMap<String, Part>,
    /// Materialized views by their live names.
    pub views: BTreeMap<String, Part>,
    /// What became of the rows of each import.
    pub imports: BTreeMap<String, Rows>,
}

/// What became of an import's rows: `read = imported + rejected + collapsed`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rows {
    /// Rows of the source.
    pub read: i64,
    /// Rows in the staged table.
    pub imported: i64,
    /// Rows in `portal_release.rejected_rows`.
    pub rejected: i64,
    /// Rows that the query folded into others, or that the look-up table knew already.
    pub collapsed: i64,
}

impl From<Account> for Rows {
    fn from(account: Account) -> Self {
        Self { read: account.read, imported: account.imported, rejected: account.rejected, collapsed: account.collapsed() }
    }
}

/// The content of one relation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    /// How many rows.
    pub rows: i64,
    /// Independent of their order.
    pub checksum: String,
}

impl From<Content> for Part {
    fn from(content: Content) -> Self {
        Self { rows: content.rows, checksum: content.checksum }
    }
}

impl Manifest {
    /// The bytes that are kept and served.
    pub(super) fn text(&self) -> Result<String, PhaseError> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| PhaseError::Refused(format!("the manifest cannot be written: {error}")))?;
        text.push('\n');
        Ok(text)
    }
}
