//! A file's rows in a temporary table, field by field and as bytes, so that a wrong row can be shown as it is in the file.
//!
//! Only Postgres decodes and converts the fields, as COPY would. A cast has no length and no scale, for an explicit one would cut
//! silently; these come with the assignment to the target's column, which refuses.

use sqlx::PgConnection;

use super::{
    columns::Target,
    error::{ImportError, failed},
    sql::{NUMBER, cut, json_object},
};
use crate::database::{
    identifiers::{quote_ident, quote_literal},
    run_sql,
    views::OutputColumn,
};

/// The rows; they go with the transaction at the latest.
pub(super) const TABLE: &str = "pg_temp.portal_release_file";
/// Fields beyond the last column, with their delimiters.
const REST: &str = "portal_release_rest";
/// Why a row is none, in the words of COPY.
pub(super) const PROBLEM: &str = "portal_release_problem";
/// The SQLSTATE of such a row, as of COPY.
pub(super) const BAD_FORMAT: &str = "'22P04'";
/// Returns a field as text, with its bytes escaped if it is not text.
const SHOWN: &str = "pg_temp.portal_release_shown";

/// The rows of one file that wait to be imported.
#[derive(Debug, Clone)]
pub struct FileRows {
    columns: Vec<OutputColumn>,
    encoding: String,
    most: i64,
}

impl FileRows {
    /// The table for a file with these columns of the target, which has them all. `encoding` by Postgres' name.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn new(conn: &mut PgConnection, target: Target<'_>, columns: &[String], encoding: &str) -> Result<Self, ImportError> {
        // Of a domain the type behind it: its own length would cut too.
        let found: Vec<(String, String, bool)> = sqlx::query_as(
            "WITH RECURSIVE typed AS (
                SELECT a.attname::text AS name, a.atttypid AS type FROM pg_attribute a
                WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT typed.name, t.typbasetype FROM typed JOIN pg_type t ON t.oid = typed.type WHERE t.typtype = 'd'
             )
             SELECT f.name, format_type(t.oid, -1), t.typcollation <> 0 FROM unnest($2::text[]) WITH ORDINALITY AS f(name, at)
             JOIN typed USING (name) JOIN pg_type t ON t.oid = typed.type AND t.typtype <> 'd' ORDER BY f.at",
        )
        .bind(target.relation())
        .bind(columns)
        .fetch_all(conn)
        .await
        .map_err(failed(target.import, format!("reading the types of {}", target.table)))?;
        let columns = found.into_iter().map(|(name, type_name, collatable)| OutputColumn { name, type_name, collatable }).collect();
        Ok(Self { columns, encoding: encoding.to_owned(), most: i64::MAX })
    }

    /// With more refused rows than `most` the file is given up as a whole.
    #[must_use]
    pub fn give_up_beyond(self, most: i64) -> Self {
        Self { most, ..self }
    }

    pub(super) fn most(&self) -> i64 {
        self.most
    }

    /// The columns that the file fills, with the types that rules see.
    pub fn columns(&self) -> &[OutputColumn] {
        &self.columns
    }

    /// Creates the table, empty.
    ///
    /// # Errors
    /// When the role lacks TEMP on the database.
    pub async fn create(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let fields: String = self.columns.iter().map(|column| format!("{} bytea, ", quote_ident(&column.name))).collect();
        run_sql(conn, format!("CREATE TEMPORARY TABLE {TABLE} ({NUMBER} bigint, {fields}{REST} bytea, {PROBLEM} text) ON COMMIT DROP"))
            .await?;
        let body = format!(
            "DECLARE shown text;
             BEGIN
               BEGIN shown := convert_from(field, encoding); EXCEPTION WHEN others THEN shown := encode(field, 'escape'); END;
               RETURN {};
             END",
            cut("shown")
        );
        run_sql(
            conn,
            format!("CREATE FUNCTION {SHOWN}(field bytea, encoding name) RETURNS text STRICT LANGUAGE plpgsql AS {}", quote_literal(&body)),
        )
        .await
    }

    /// The statement that takes the rows, in binary: line, fields, rest, problem.
    pub fn copy(&self) -> String {
        format!("COPY {TABLE} FROM STDIN (FORMAT binary)")
    }

    /// Makes single rows quick to find.
    pub(super) async fn index(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        run_sql(conn, format!("CREATE UNIQUE INDEX ON {TABLE} ({NUMBER})")).await
    }

    /// Drops the table and what belongs to it.
    pub(super) async fn drop(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        run_sql(conn, format!("DROP TABLE {TABLE}; DROP FUNCTION {SHOWN}(bytea, name)")).await
    }

    /// The rows with their fields converted, as far as they have the right fields and meet `condition` over `file`.
    pub(super) fn query(&self, condition: &str) -> String {
        let fields: String =
            self.columns.iter().map(|column| format!(", {} AS {}", self.converted(column), quote_ident(&column.name))).collect();
        format!("SELECT file.{NUMBER}{fields} FROM {TABLE} AS file WHERE file.{PROBLEM} IS NULL AND {condition}")
    }

    /// A query with the columns that rules see, without a row.
    pub fn shape(&self) -> String {
        let fields: String =
            self.columns.iter().map(|column| format!(", NULL::{} AS {}", column.type_name, quote_ident(&column.name))).collect();
        format!("SELECT NULL::bigint AS {NUMBER}{fields} LIMIT 0")
    }

    fn converted(&self, column: &OutputColumn) -> String {
        format!("convert_from(file.{}, {})::{}", quote_ident(&column.name), quote_literal(&self.encoding), column.type_name)
    }

    /// PL/pgSQL that sets `refusal` and `state` to the field of row `one` that cannot be converted.
    pub(super) fn explain(&self, one: &str, refused: &str, state: &str, refusal: &str) -> String {
        let try_column = |column: &OutputColumn| {
            format!(
                "PERFORM {} FROM {TABLE} AS file WHERE file.{NUMBER} = {one}; EXCEPTION WHEN {refused} THEN
                   GET STACKED DIAGNOSTICS {state} = RETURNED_SQLSTATE, {refusal} = MESSAGE_TEXT;
                   {refusal} := {} || {refusal};",
                self.converted(column),
                quote_literal(&format!("column {}: ", column.name)),
            )
        };
        // From the last to the first: the first one has the last word.
        self.columns.iter().rev().map(|column| format!("BEGIN {} END;\n", try_column(column))).collect()
    }

    /// A SQL expression for a row of `file` as JSON.
    pub(super) fn row_as_json(&self) -> String {
        let shown = |field: &str| format!("{SHOWN}(file.{field}, {})", quote_literal(&self.encoding));
        let fields = self.columns.iter().map(|column| (column.name.clone(), shown(&quote_ident(&column.name)))).collect();
        format!(
            "{} || CASE WHEN file.{REST} IS NULL THEN '{{}}'::jsonb ELSE jsonb_build_object('extra data', {}) END",
            json_object(fields),
            shown(REST)
        )
    }
}
