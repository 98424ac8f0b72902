//! Loading: the fast path, one statement for a whole range. What it cannot take is sorted out row by row in [`super::diagnose`].

use sqlx::{Connection, PgConnection, Row};

use super::file_rows::{self, FileRows};
use super::{ImportError, KeyRange, Target, diagnose, failed, quoted};
use crate::database::{
    identifiers::{assembled, quote_ident, quote_literal},
    template::TemplateContext,
    views::OutputColumn,
};

/// The column that a rule's verdict is in, beside the query's own.
pub(super) const VERDICT: &str = "portal_release_verdict";
/// The longest text of one column that is kept of a rejected row, in characters.
const MAX_KEPT_CHARS: usize = 1000;
/// Columns of one `jsonb_build_object`, which takes at most 100 arguments.
const COLUMNS_AT_ONCE: usize = 48;
/// The columns of `portal_release.rejected_rows` that a statement writes.
pub(super) const REJECTED: &str = "portal_release.rejected_rows (release_id, import, key, sqlstate, reason, row)";

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

/// Where an import's rows come from, and which of them are turned away.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Where from.
    pub origin: Origin<'a>,
    /// Output column whose ranges are imported one by one.
    pub key: Option<&'a str>,
    /// Reasons, and SQL conditions over the output columns under which a row is rejected. Of several the first counts.
    pub rules: Vec<(String, String)>,
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
            self.rules.iter().map(|(reason, when)| format!("WHEN (\n{when}\n) THEN {}", quote_literal(reason))).collect();
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

/// What became of rows. Those that are neither imported nor rejected were known to the look-up table already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the query returned, or that the file has.
    pub read: i64,
    /// Rows that came in.
    pub imported: i64,
    /// Rows that are in `portal_release.rejected_rows`.
    pub rejected: i64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.read += more.read;
        self.imported += more.imported;
        self.rejected += more.rejected;
    }
}

/// Loads what the query returns, and returns what became of every row. Part of the caller's transaction, one of sqlx.
///
/// One statement does it. Only when the database refuses a row is the range loaded again in small pieces, until exactly the refused
/// rows are in `portal_release.rejected_rows` with its reason.
///
/// A row of a look-up table is there when any unique key that the query covers is taken. A conflict with another unique key, such as
/// an id that the table numbers itself, is a refusal and never a silently lost row.
///
/// # Errors
/// When a statement fails for another reason than its rows; the caller's transaction is spoilt then.
pub async fn load(conn: &mut PgConnection, load: &Load<'_>) -> Result<Counts, ImportError> {
    let import = load.target.import;
    let keys = if load.lookup { covered_keys(conn, load).await? } else { Vec::new() };
    let query = load.source.query(import, load.range)?;
    let what = format!("the insert into {}", load.target.table);
    // A deferred constraint speaks now, and not at the end, where nobody could tell whose row it is.
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *conn).await.map_err(failed(import, &what))?;
    let mut savepoint = conn.begin().await.map_err(failed(import, &what))?;
    match at_once(&mut savepoint, load, &keys, &query).await {
        Ok(counts) => {
            savepoint.commit().await.map_err(failed(import, &what))?;
            Ok(counts)
        }
        Err(error) if is_about_data(&error) => {
            savepoint.rollback().await.map_err(failed(import, &what))?;
            match load.source.origin {
                Origin::Query { .. } => diagnose::of_query(conn, load, &keys).await,
                Origin::File(file) => diagnose::of_file(conn, load, file, &keys).await,
            }
        }
        Err(error) => Err(failed(import, &what)(error)),
    }
}

/// Loads the rows of a file as [`load`] does, and forgets them. Those with other fields than the header are rejected.
///
/// # Errors
/// As [`load`], and when more rows are refused than the file may have.
pub async fn load_file(conn: &mut PgConnection, load_rows: &Load<'_>, file: &FileRows) -> Result<Counts, ImportError> {
    let (import, what) = (load_rows.target.import, "loading the rows of its file");
    let malformed = file.reject_malformed(conn, load_rows).await.map_err(failed(import, what))?;
    let mut counts = load(conn, load_rows).await?;
    counts.read = malformed.read;
    counts.rejected += malformed.rejected;
    file.drop(conn).await.map_err(failed(import, what))?;
    Ok(counts)
}

async fn at_once(conn: &mut PgConnection, load: &Load<'_>, keys: &[Vec<String>], query: &str) -> Result<Counts, sqlx::Error> {
    if load.source.rules.is_empty() && !load.lookup {
        let sql = load.insert(keys, &format!("(\n{query}\n)"), "TRUE");
        let imported = sqlx::query(assembled(sql)).persistent(false).execute(conn).await?.rows_affected();
        let imported = i64::try_from(imported).unwrap_or(i64::MAX);
        return Ok(Counts { read: imported, imported, rejected: 0 });
    }
    // Judged once, and then told apart: a row is counted on exactly one side.
    let sql = format!(
        "WITH judged AS MATERIALIZED (\n{}\n), good AS ({} RETURNING 1), bad AS ({} WHERE {VERDICT} IS NOT NULL RETURNING 1) \
         SELECT (SELECT count(*) FROM judged), (SELECT count(*) FROM good), (SELECT count(*) FROM bad)",
        load.source.judged(query),
        load.insert(keys, "judged", &format!("query.{VERDICT} IS NULL")),
        load.reject("judged", "NULL", VERDICT),
    );
    let row = sqlx::query(assembled(sql)).persistent(false).fetch_one(conn).await?;
    Ok(Counts { read: row.try_get(0)?, imported: row.try_get(1)?, rejected: row.try_get(2)? })
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
                let (table, number) = (file_rows::TABLE, file_rows::NUMBER);
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

/// A SQL expression for a row of `query` as JSON. Numbers and truth values are kept, everything else is text of bounded length.
fn row_as_json(columns: &[OutputColumn]) -> String {
    const PLAIN: [&str; 8] = ["smallint", "integer", "bigint", "real", "double precision", "numeric", "boolean", "oid"];
    let field = |column: &OutputColumn| {
        let value = format!("query.{}", quote_ident(&column.name));
        let shown = if PLAIN.contains(&column.type_name.as_str()) { value } else { cut(&format!("{value}::text")) };
        (column.name.clone(), shown)
    };
    json_object(columns.iter().map(field).collect())
}

/// A SQL expression for a JSON object of names and SQL expressions.
pub(super) fn json_object(fields: Vec<(String, String)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{}, {value}", quote_literal(&name))).collect();
    let objects: Vec<String> = fields.chunks(COLUMNS_AT_ONCE).map(|part| format!("jsonb_build_object({})", part.join(", "))).collect();
    if objects.is_empty() { "'{}'::jsonb".to_owned() } else { objects.join(" || ") }
}

/// A SQL expression for a text in bounded length, with a mark where it is cut.
pub(super) fn cut(text: &str) -> String {
    format!(
        "CASE WHEN length({text}) > {MAX_KEPT_CHARS} THEN left({text}, {MAX_KEPT_CHARS}) || '… (cut, ' || length({text}) || ' characters)' ELSE {text} END"
    )
}

/// The database refuses a row, and not the statement: data exceptions, violated constraints, limits of a value, and the errors that
/// functions raise, for PostGIS reports broken geometries as internal errors.
pub(super) fn is_about_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["22", "23", "54", "P0", "XX000"].iter().any(|class| code.starts_with(class)))
}

/// The unique keys of the look-up table whose columns are all filled, the ones that people gave before the ones it numbers itself.
async fn covered_keys(conn: &mut PgConnection, load: &Load<'_>) -> Result<Vec<Vec<String>>, ImportError> {
    let (import, table, names) = (load.target.import, load.target.table, load.names());
    let keys: Vec<Vec<String>> = sqlx::query_scalar(
        "SELECT array_agg(a.attname::text ORDER BY k.at) AS key FROM pg_index i \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
           AND i.indpred IS NULL AND i.indexprs IS NULL AND k.at <= i.indnkeyatts \
         GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attname::text = ANY ($2)) ORDER BY i.indisprimary, i.indexrelid",
    )
    .bind(load.target.relation())
    .bind(&names)
    .fetch_all(conn)
    .await
    .map_err(failed(import, format!("reading the unique keys of {table}")))?;
    if keys.is_empty() {
        return Err(ImportError::NoUniqueKey { import: import.to_owned(), table: table.to_owned(), columns: names.join(", ") });
    }
    Ok(keys)
}
