//! What an import loads and from where, and the statements for it.

use super::{
    columns::{Rule, Target},
    error::ImportError,
    file_rows::{self, FileRows},
    sql::{NUMBER, REJECTED, VERDICT, cut, quoted, row_as_json},
};
use crate::database::{
    identifiers::{quote_ident, quote_literal},
    key_range::KeyRange,
    template::TemplateContext,
    views::OutputColumn,
};

/// Where an import's rows come from.
#[derive(Debug, Clone)]
pub enum Origin<'a> {
    /// A query.
    Query {
        /// What its template can name.
        templates: &'a TemplateContext,
        /// Its template.
        template: &'a str,
    },
    /// A file, whose rows are in the database already.
    File(&'a FileRows),
}

/// Where an import's rows come from, and which of them are rejected.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Where from.
    pub origin: Origin<'a>,
    /// Output column whose ranges are imported one by one.
    pub key: Option<&'a str>,
    /// Under which rows are rejected. Of several the first counts.
    pub rules: Vec<Rule>,
    /// At most this many rows.
    pub sample: Option<i64>,
}

impl Source<'_> {
    /// The query, for the rows of one range or for all.
    ///
    /// # Errors
    /// When the template is wrong.
    pub fn query(&self, import: &str, range: Option<&KeyRange>) -> Result<String, ImportError> {
        let (templates, template) = match self.origin {
            Origin::Query { templates, template } => (templates, template),
            Origin::File(file) => return Ok(file.query("TRUE")),
        };
        let rendered = templates.render(&format!("import {import}"), template, range)?;
        let mut sql = rendered.sql;
        if let (Some(range), Some(key), false) = (range, self.key, rendered.used_range) {
            let condition = range.condition(&format!("query.{}", quote_ident(key)));
            sql = format!("SELECT * FROM (\n{sql}\n) AS query WHERE {condition}");
        }
        if let Some(rows) = self.sample {
            sql = format!("SELECT * FROM (\n{sql}\n) AS query LIMIT {rows}");
        }
        Ok(sql)
    }

    /// The output of a query with the verdict of the rules over each row, which is NULL for rows that may come in.
    pub(super) fn judged(&self, query: &str) -> String {
        let cases: Vec<String> =
            self.rules.iter().map(|Rule { reason, when }| format!("WHEN (\n{when}\n) THEN {}", quote_literal(reason))).collect();
        let verdict = if cases.is_empty() { "NULL::text".to_owned() } else { format!("CASE {} END", cases.join(" ")) };
        format!("SELECT query.*, {verdict} AS {VERDICT} FROM (\n{query}\n) AS query")
    }
}

/// One range of an import, or all of it.
#[derive(Debug, Clone)]
pub struct Load<'a> {
    /// The release, for its rejected rows.
    pub release: i64,
    /// What is filled.
    pub target: Target<'a>,
    /// The output columns that fill the target's.
    pub columns: &'a [OutputColumn],
    /// Where the rows come from.
    pub source: &'a Source<'a>,
    /// The range; none for an import that goes in one piece.
    pub range: Option<&'a KeyRange>,
    /// The target is a look-up table: only what is not there by its unique keys comes in.
    pub lookup: bool,
}

impl Load<'_> {
    pub(super) fn names(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// The insert of rows of `from`, called `query`, that meet `condition`.
    pub(super) fn insert(&self, keys: &[Vec<String>], from: &str, condition: &str) -> String {
        let (relation, names) = (self.target.relation(), self.names());
        let unknown = |key: &Vec<String>| {
            let same = |column: &String| format!("known.{0} = query.{0}", quote_ident(column));
            format!(" AND NOT EXISTS (SELECT FROM {relation} AS known WHERE {})", key.iter().map(same).collect::<Vec<_>>().join(" AND "))
        };
        let arbiter = keys.first().map(|key| format!(" ON CONFLICT ({}) DO NOTHING", quoted(key, ""))).unwrap_or_default();
        format!(
            "INSERT INTO {relation} ({}) SELECT {} FROM {from} AS query WHERE {condition}{}{arbiter}",
            quoted(&names, ""),
            quoted(&names, "query."),
            keys.iter().map(unknown).collect::<String>(),
        )
    }

    /// The insert of rows of `from` into the rejected ones. `sqlstate` and `reason` are SQL expressions; a WHERE may follow.
    pub(super) fn reject(&self, from: &str, sqlstate: &str, reason: &str) -> String {
        let (key, row, beside) = match self.source.origin {
            Origin::Query { .. } => {
                let key = self.source.key.map_or_else(|| "NULL".to_owned(), |key| format!("left(query.{}::text, 200)", quote_ident(key)));
                (key, row_as_json(self.columns), String::new())
            }
            // The row as it is in the file, and not what became of it.
            Origin::File(file) => {
                let (table, number) = (file_rows::TABLE, NUMBER);
                let beside = format!(" JOIN {table} AS file ON file.{number} = query.{number}");
                (format!("'line ' || query.{number}"), file.row_as_json(), beside)
            }
        };
        format!(
            "INSERT INTO {REJECTED} SELECT {}, {}, {key}, {sqlstate}, {}, {row} FROM {from} AS query{beside}",
            self.release,
            quote_literal(self.target.import),
            cut(reason),
        )
    }
}
