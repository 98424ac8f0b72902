//! Checks of data: what must be true of views before an import and of staged tables before a swap.
//!
//! A check that finds something returns a [`Finding`], which is a result and no error; an error means that the check
//! itself could not be made.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Connection, PgConnection, Row};

use super::identifiers::{assembled, qualified, quote_ident, subquery};
use crate::{classify::Classify, finding::Finding};

/// The longest piece of data that a message quotes.
pub(crate) const MAX_QUOTED_CHARS: usize = 100;

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database refused.
    #[error("{object} could not be checked: {}; correct the name or the privilege and retry", reason(.source))]
    Sql {
        /// The relation.
        object: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A count is not one number.
    #[error("{object} must return one row with one number that is not less than 0, and returned {returned}; correct its SQL in the Portal")]
    NoNumber {
        /// What the query is for.
        object: String,
        /// What it returned.
        returned: String,
    },
    /// Geometries cannot be judged without PostGIS.
    #[error(
        "{object} could not be checked: the extension postgis is not installed in this database; install it or remove the geometry check"
    )]
    NoPostgis {
        /// The relation.
        object: String,
    },
}

impl Classify for CheckError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Sql { source, .. } => source.is_transient(),
            Self::NoNumber { .. } | Self::NoPostgis { .. } => false,
        }
    }
}

fn failed(object: &str) -> impl FnOnce(sqlx::Error) -> CheckError {
    let object = object.to_owned();
    move |source| CheckError::Sql { object, source }
}

/// What the database said, with its detail, context and hint, in bounded length.
pub(crate) fn reason(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return error.to_string();
    };
    let parts =
        [Some(database.message()), database.detail(), database.r#where().and_then(|context| context.lines().next()), database.hint()];
    // Each for itself: a value of a megabyte in the message must not push the line's number out.
    let parts = parts.into_iter().flatten().map(|part| shorten(part.trim_end_matches('.'), 300));
    parts.collect::<Vec<_>>().join("; ")
}

/// `1 row`, `2 rows`.
fn counted(count: i64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

pub(crate) fn shorten(text: &str, chars: usize) -> String {
    let mut short: String = text.chars().take(chars).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A finding for each name that is no table or view of the schema.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn missing_relations(conn: &mut PgConnection, schema: &str, names: &[String]) -> Result<Vec<Finding>, CheckError> {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT wanted.name FROM unnest($2::text[]) WITH ORDINALITY AS wanted(name, at) \
         WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = $1 AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')) \
         ORDER BY wanted.at",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(conn)
    .await
    .map_err(failed(schema))?;
    let finding = |name: String| {
        Finding::fail(format!("table or view {schema}.{name}"), "does not exist", "create it, or correct its name in the Portal")
    };
    Ok(missing.into_iter().map(finding).collect())
}

/// How many rows a relation has.
///
/// # Errors
/// When it cannot be read.
pub async fn row_count(conn: &mut PgConnection, schema: &str, relation: &str) -> Result<i64, CheckError> {
    let sql = format!("SELECT count(*) FROM {}", qualified(schema, relation));
    sqlx::query_scalar(assembled(sql)).persistent(false).fetch_one(conn).await.map_err(failed(relation))
}

/// The number that a counting query returns. `object` says what the query is for.
///
/// # Errors
/// When it cannot be read, or returns anything else.
pub async fn one_number(conn: &mut PgConnection, object: &str, sql: &str) -> Result<i64, CheckError> {
    // Names only the first column, of any type that is a number.
    let sql = format!("SELECT counted.portal_release_count::bigint FROM {} AS counted(portal_release_count) LIMIT 2", subquery(sql));
    let rows: Vec<Option<i64>> = sqlx::query_scalar(assembled(sql)).persistent(false).fetch_all(conn).await.map_err(failed(object))?;
    let returned = match rows.as_slice() {
        [Some(number)] if *number >= 0 => return Ok(*number),
        [Some(number)] => number.to_string(),
        [None] => "NULL".to_owned(),
        [] => "no row".to_owned(),
        _ => "more than one row".to_owned(),
    };
    Err(CheckError::NoNumber { object: object.to_owned(), returned })
}

/// A finding when the relation has no row. Reads one row at most.
///
/// # Errors
/// When it cannot be read.
pub async fn non_empty(conn: &mut PgConnection, schema: &str, relation: &str) -> Result<Option<Finding>, CheckError> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", qualified(schema, relation));
    let any: bool = sqlx::query_scalar(assembled(sql)).persistent(false).fetch_one(conn).await.map_err(failed(relation))?;
    Ok((!any)
        .then(|| Finding::fail(relation, "has no rows, at least 1 is required", "check the source it reads from, then raise spec.retry")))
}

/// What a geometry column must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeometryRule<'a> {
    /// The column.
    pub column: &'a str,
    /// The SRID that every geometry must have, if it matters.
    pub srid: Option<i32>,
    /// Whether rows without a geometry are accepted.
    pub nullable: bool,
}

/// Findings about missing geometries, geometries of another SRID and invalid ones; the last with an example.
///
/// # Errors
/// When the column cannot be read as a geometry.
pub async fn geometry(conn: &mut PgConnection, schema: &str, relation: &str, rule: GeometryRule<'_>) -> Result<Vec<Finding>, CheckError> {
    let object = format!("{relation}.{}", rule.column);
    let mut savepoint = conn.begin().await.map_err(failed(&object))?;
    // PostGIS has a notice for each invalid geometry.
    sqlx::query("SET LOCAL client_min_messages = warning").execute(&mut *savepoint).await.map_err(failed(&object))?;
    let postgis: Option<String> = sqlx::query_scalar(
        "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'postgis'",
    )
    .fetch_optional(&mut *savepoint)
    .await
    .map_err(failed(&object))?;
    let Some(postgis) = postgis.map(|name| quote_ident(&name)) else {
        return Err(CheckError::NoPostgis { object });
    };
    let (table, column) = (qualified(schema, relation), quote_ident(rule.column));
    let sql = format!(
        "SELECT count(*) FILTER (WHERE g IS NULL), count(*) FILTER (WHERE {postgis}.ST_SRID(g) <> $1), \
         count(*) FILTER (WHERE NOT {postgis}.ST_IsValid(g)) FROM (SELECT {column} AS g FROM {table}) AS geometries"
    );
    let row = sqlx::query(assembled(sql)).persistent(false).bind(rule.srid).fetch_one(&mut *savepoint).await.map_err(failed(&object))?;
    let count = |at: usize| row.try_get::<i64, _>(at).map_err(failed(&object));
    let (nulls, other_srid, invalid) = (count(0)?, count(1)?, count(2)?);

    let mut findings = Vec::new();
    if nulls > 0 && !rule.nullable {
        findings.push(Finding::fail(
            &object,
            format!("has {} without a geometry", counted(nulls, "row", "rows")),
            "complete the geometries in the source",
        ));
    }
    if let Some(srid) = rule.srid.filter(|_| other_srid > 0) {
        let problem = format!("has {} whose SRID is not {srid}", counted(other_srid, "geometry", "geometries"));
        findings.push(Finding::fail(&object, problem, format!("transform them with ST_Transform or ST_SetSRID to {srid}")));
    }
    if invalid > 0 {
        let key = key_columns(&mut savepoint, schema, relation).await.map_err(failed(&object))?;
        let label = labelled(&key);
        let sql = format!(
            "SELECT {postgis}.ST_IsValidReason({column}), {label} FROM {table} AS checked WHERE NOT {postgis}.ST_IsValid({column}) ORDER BY 2 LIMIT 1"
        );
        let row = sqlx::query(assembled(sql)).persistent(false).fetch_one(&mut *savepoint).await.map_err(failed(&object))?;
        let (why, which): (String, Option<String>) = (row.try_get(0).map_err(failed(&object))?, row.try_get(1).map_err(failed(&object))?);
        let which = which.map(|which| format!(" at {}", shorten(&which, MAX_QUOTED_CHARS))).unwrap_or_default();
        let invalid = counted(invalid, "invalid geometry", "invalid geometries");
        let problem = format!("has {invalid}, for example{which}: {}", shorten(&why, MAX_QUOTED_CHARS));
        findings.push(Finding::fail(&object, problem, "repair them in the source, for example with ST_MakeValid"));
    }
    savepoint.rollback().await.map_err(failed(&object))?;
    Ok(findings)
}

/// The columns that identify a row: those of a unique index, the primary key first.
async fn key_columns(conn: &mut PgConnection, schema: &str, relation: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT a.attname::text FROM (SELECT i.indrelid, i.indkey FROM pg_index i \
            WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
            ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1) AS best \
         CROSS JOIN LATERAL unnest(best.indkey) WITH ORDINALITY AS k(attnum, at) \
         JOIN pg_attribute a ON a.attrelid = best.indrelid AND a.attnum = k.attnum ORDER BY k.at",
    )
    .bind(qualified(schema, relation))
    .fetch_all(conn)
    .await
}

/// An expression such as `site_id = 12, parcel = A`; NULL without columns.
fn labelled(columns: &[String]) -> String {
    if columns.is_empty() {
        return "NULL::text".to_owned();
    }
    let part = |column: &String| {
        let name = super::identifiers::quote_literal(&format!("{column} = "));
        format!("{name} || coalesce({}::text, 'NULL')", quote_ident(column))
    };
    format!("concat_ws(', ', {})", columns.iter().map(part).collect::<Vec<_>>().join(", "))
}

/// A finding when rows share their values in all the columns. NULLs count as equal: a row without a key is no better
/// the second time.
///
/// # Errors
/// When the columns cannot be read.
pub async fn duplicates(conn: &mut PgConnection, schema: &str, relation: &str, columns: &[String]) -> Result<Option<Finding>, CheckError> {
    let object = format!("{relation} ({})", columns.join(", "));
    let list = columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT count(*), coalesce(sum(n), 0)::bigint, min(which) FROM (SELECT count(*) AS n, {} AS which FROM {} GROUP BY {list} HAVING count(*) > 1) AS groups",
        labelled(columns),
        qualified(schema, relation),
    );
    let row = sqlx::query(assembled(sql)).persistent(false).fetch_one(conn).await.map_err(failed(&object))?;
    let groups: i64 = row.try_get(0).map_err(failed(&object))?;
    let rows: i64 = row.try_get(1).map_err(failed(&object))?;
    let which: Option<String> = row.try_get(2).map_err(failed(&object))?;
    if groups == 0 {
        return Ok(None);
    }
    let which = shorten(&which.unwrap_or_default(), MAX_QUOTED_CHARS);
    let problem = format!("has {} ({rows} rows), for example {which}", counted(groups, "duplicate key", "duplicate keys"));
    Ok(Some(Finding::fail(object, problem, "remove the duplicates from the source or correct the key in the Portal")))
}

/// A finding when the staged table has fewer rows than live less `fraction` (0.05: five percent fewer are accepted).
/// Without a live table there is nothing to compare with.
///
/// # Errors
/// When a table cannot be read.
pub async fn max_shrink(
    conn: &mut PgConnection,
    schema: &str,
    live: &str,
    staged: &str,
    fraction: f64,
) -> Result<Option<Finding>, CheckError> {
    if !missing_relations(conn, schema, &[live.to_owned()]).await?.is_empty() {
        return Ok(None);
    }
    let (before, after) = (row_count(conn, schema, live).await?, row_count(conn, schema, staged).await?);
    let fewer = before - after;
    #[allow(clippy::cast_precision_loss)]
    let (share, allowed) = (fewer as f64 / before.max(1) as f64, fewer as f64 <= fraction * before as f64 + 1e-6);
    if allowed {
        return Ok(None);
    }
    let problem = format!(
        "has {after} rows, {fewer} fewer than the {before} of {live}: {:.1}% less, where at most {:.1}% are accepted",
        share * 100.0,
        fraction * 100.0
    );
    Ok(Some(Finding::fail(staged, problem, "look for what the source lost, or raise validation.maxShrink in the Portal")))
}
