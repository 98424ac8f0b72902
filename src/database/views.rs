//! Materialized views: staged twins, and what a query returns.

use sqlx::{Column, Connection, Executor, PgConnection, SqlSafeStr, Statement};

use super::catalog::{self, Difference};
use super::checks::{duplicates, reason};
use super::identifiers::{Generation, Relations, assembled, qualified, quote_ident};
use super::staging::{self, StagingError};
use crate::{classify::Classify, finding::Finding};

/// A materialized view of the portal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaterializedViewSpec {
    /// Name of the live view.
    pub name: String,
    /// Columns of a unique index; may be empty.
    pub unique_key: Vec<String>,
    /// Its rendered query.
    pub sql: String,
}

/// An output column of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name.
    pub name: String,
    /// Its type, as SQL writes it; usable in a cast.
    pub type_name: String,
    /// Values of the type are compared by a collation.
    pub collatable: bool,
}

/// A view that could not be built, refreshed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A query is wrong.
    #[error("the query of {name} is wrong: {}; correct it in the Portal", reason(.source))]
    Query {
        /// What the query is for.
        name: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A statement failed.
    #[error("view {view}: {what} failed: {}; no live data was changed; correct the cause and retry", reason(.source))]
    Statement {
        /// The view.
        view: String,
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The staged twin could not be given everything that the live view has.
    #[error(transparent)]
    Twin(#[from] StagingError),
    /// Its query returns other columns than the live view has.
    #[error("{0}; correct its query in the Portal, or recreate the live view with these columns")]
    Differs(Difference),
    /// Its rows share what must be unique.
    #[error(transparent)]
    Duplicates(Finding),
    /// There is no such materialized view.
    #[error("view {view}: no materialized view of this name exists in schema {schema}; create it, or set views.refresh to false")]
    Missing {
        /// The view.
        view: String,
        /// The schema.
        schema: String,
    },
    /// A concurrent refresh needs a unique index.
    #[error(
        "view {view} has no unique index on plain columns, so it cannot be refreshed concurrently; create one, or set views.refresh to false"
    )]
    NoUniqueIndex {
        /// The view.
        view: String,
    },
}

impl Classify for ViewError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Query { source, .. } | Self::Statement { source, .. } => source.is_transient(),
            Self::Twin(error) => error.is_transient(),
            Self::Differs(_) | Self::Duplicates(_) | Self::Missing { .. } | Self::NoUniqueIndex { .. } => false,
        }
    }
}

fn failed(view: &str, what: &str) -> impl FnOnce(sqlx::Error) -> ViewError {
    let (view, what) = (view.to_owned(), what.to_owned());
    move |source| ViewError::Statement { view, what, source }
}

async fn run(conn: &mut PgConnection, view: &str, what: &str, sql: String) -> Result<(), ViewError> {
    sqlx::query(assembled(sql)).persistent(false).execute(conn).await.map_err(failed(view, what))?;
    Ok(())
}

/// Builds the staged twin of a materialized view, filled and analysed, with everything its live twin has: indexes under
/// staged names, owner, grants, comments, options, statistics targets. Without a live twin it gets a unique index on
/// `unique_key`.
///
/// # Errors
/// When the query is wrong, its columns differ from the live view's, or `unique_key` is not unique.
pub async fn create_staged(conn: &mut PgConnection, schema: &str, view: &MaterializedViewSpec) -> Result<(), ViewError> {
    let name = view.name.as_str();
    let staged = Generation::Staging.name(name);
    let relation = qualified(schema, &staged);
    let live = live_view(conn, schema, name).await?;
    let place = live.as_ref().map_or("", |live| live.place.as_str());
    let create = format!("CREATE MATERIALIZED VIEW {relation}{place} AS\n{}\nWITH DATA", view.sql);
    run(conn, name, "building its staged twin", create).await?;
    let mut savepoint = conn.begin().await.map_err(failed(name, "finishing its staged twin"))?;
    match finish(&mut savepoint, schema, view, live.is_some()).await {
        Ok(()) => savepoint.commit().await.map_err(failed(name, "finishing its staged twin"))?,
        Err(error) => {
            savepoint.rollback().await.map_err(failed(name, "finishing its staged twin"))?;
            return Err(explained(conn, schema, view, error).await);
        }
    }
    run(conn, name, "ANALYZE of its staged twin", format!("ANALYZE {relation}")).await
}

/// Adds the indexes to a filled twin, and everything else that live has.
async fn finish(conn: &mut PgConnection, schema: &str, view: &MaterializedViewSpec, has_live: bool) -> Result<(), ViewError> {
    let name = view.name.as_str();
    if has_live {
        let only_this = Relations { schema: schema.to_owned(), views: vec![name.to_owned()], ..Relations::default() };
        staging::complete(conn, &only_this).await?;
    } else if !view.unique_key.is_empty() {
        let index = Generation::Staging.name(&unique_index_name(view));
        let columns = view.unique_key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let sql =
            format!("CREATE UNIQUE INDEX {} ON {} ({columns})", quote_ident(&index), qualified(schema, &Generation::Staging.name(name)));
        run(conn, name, "building the unique index of its uniqueKey", sql).await?;
    }
    Ok(())
}

/// The error with the number of duplicates, which Postgres does not report when a unique index cannot be built.
async fn explained(conn: &mut PgConnection, schema: &str, view: &MaterializedViewSpec, error: ViewError) -> ViewError {
    let refused = match &error {
        ViewError::Statement { source, .. } | ViewError::Twin(StagingError::Statement { source, .. }) => source.as_database_error(),
        _ => None,
    };
    if refused.is_some_and(|refused| refused.is_unique_violation())
        && !view.unique_key.is_empty()
        && let Ok(Some(finding)) = duplicates(conn, schema, &Generation::Staging.name(&view.name), &view.unique_key).await
    {
        return ViewError::Duplicates(finding);
    }
    match error {
        ViewError::Twin(StagingError::Stale(difference)) => ViewError::Differs(difference),
        error => error,
    }
}

/// The live name of the unique index that a new view gets, at most 63 bytes long.
fn unique_index_name(view: &MaterializedViewSpec) -> String {
    Generation::Live.name(&format!("{}_{}_key", view.name, view.unique_key.join("_")))
}

struct LiveView {
    /// `USING ... TABLESPACE ...`, as far as it differs from the default.
    place: String,
    populated: bool,
    refreshable_concurrently: bool,
}

async fn live_view(conn: &mut PgConnection, schema: &str, name: &str) -> Result<Option<LiveView>, ViewError> {
    let row: Option<(String, bool, bool)> = sqlx::query_as(
        "SELECT coalesce(' USING ' || quote_ident(am.amname), '') || coalesce(' TABLESPACE ' || quote_ident(t.spcname), ''), c.relispopulated, \
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam \
         LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'm'",
    )
    .bind(schema)
    .bind(name)
    .fetch_optional(conn)
    .await
    .map_err(failed(name, "looking for the live view"))?;
    Ok(row.map(|(place, populated, refreshable_concurrently)| LiveView { place, populated, refreshable_concurrently }))
}

/// Drops the staged twins of the views, given in build order, the last one first. Twins that do not exist are passed
/// over. Never with CASCADE: an object of another tool that depends on a twin stops the drop and is named.
///
/// # Errors
/// When something depends on a twin.
pub async fn drop_staged(conn: &mut PgConnection, schema: &str, names: &[String]) -> Result<(), ViewError> {
    for name in names.iter().rev() {
        let staged = qualified(schema, &Generation::Staging.name(name));
        run(conn, name, "dropping its staged twin", format!("DROP MATERIALIZED VIEW IF EXISTS {staged} RESTRICT")).await?;
    }
    Ok(())
}

/// Refreshes a live view and analyses it. With `concurrently` its readers are not blocked; only a view that was never
/// populated, and so has no readers, is then filled in the plain way.
///
/// # Errors
/// When the view does not exist, or is to be refreshed concurrently and has no unique index on plain columns.
pub async fn refresh_live(conn: &mut PgConnection, schema: &str, name: &str, concurrently: bool) -> Result<(), ViewError> {
    let live = live_view(conn, schema, name).await?;
    let live = live.ok_or_else(|| ViewError::Missing { view: name.to_owned(), schema: schema.to_owned() })?;
    if concurrently && live.populated && !live.refreshable_concurrently {
        return Err(ViewError::NoUniqueIndex { view: name.to_owned() });
    }
    let how = if concurrently && live.populated { "CONCURRENTLY " } else { "" };
    let relation = qualified(schema, name);
    run(conn, name, "refreshing", format!("REFRESH MATERIALIZED VIEW {how}{relation}")).await?;
    run(conn, name, "ANALYZE", format!("ANALYZE {relation}")).await
}

/// The output columns of a query, without running it. `name` says in messages what the query is for. A wrong query does
/// not spoil the caller's transaction, which must be one of sqlx.
///
/// # Errors
/// When the query is wrong.
pub async fn verify_query(conn: &mut PgConnection, name: &str, sql: &str) -> Result<Vec<OutputColumn>, ViewError> {
    let wrong = |source| ViewError::Query { name: name.to_owned(), source };
    let mut savepoint = conn.begin().await.map_err(wrong)?;
    // As a subquery, so that only what returns rows is accepted, and no second statement.
    let subquery = format!("SELECT * FROM (\n{sql}\n) AS query LIMIT 0");
    let (names, oids): (Vec<String>, Vec<i64>) = (&mut *savepoint)
        .prepare(assembled(subquery).into_sql_str())
        .await
        .map_err(wrong)?
        .columns()
        .iter()
        .map(|column| (column.name().to_owned(), column.type_info().oid().map_or(0, |oid| i64::from(oid.0))))
        .unzip();
    // With the modifier -1, format_type avoids `character` and `bit`, which in a cast mean a length of one.
    let columns: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT o.name, format_type(o.oid::oid, -1), coalesce(t.typcollation <> 0, false) \
         FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS o(name, oid, at) LEFT JOIN pg_type t ON t.oid = o.oid::oid ORDER BY o.at",
    )
    .bind(names)
    .bind(oids)
    .fetch_all(&mut *savepoint)
    .await
    .map_err(wrong)?;
    savepoint.rollback().await.map_err(wrong)?;
    Ok(columns.into_iter().map(|(name, type_name, collatable)| OutputColumn { name, type_name, collatable }).collect())
}

/// The query of an ordinary view, as Postgres spells it; `None` when there is no such view.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn view_query(conn: &mut PgConnection, schema: &str, name: &str) -> Result<Option<String>, ViewError> {
    let mut scope = conn.begin().await.map_err(failed(name, "reading its query"))?;
    catalog::empty_search_path(&mut scope).await.map_err(failed(name, "reading its query"))?;
    let query: Option<String> = sqlx::query_scalar(
        "SELECT pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'v'",
    )
    .bind(schema)
    .bind(name)
    .fetch_optional(&mut *scope)
    .await
    .map_err(failed(name, "reading its query"))?;
    scope.rollback().await.map_err(failed(name, "reading its query"))?;
    Ok(query)
}

/// What another query would do to the columns of an ordinary view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewChange {
    /// There is no view of that name yet.
    New,
    /// The columns stay; new ones may follow.
    Extends,
    /// A column would be lost or changed: the view must be recreated.
    Other {
        /// What depends on the view and prevents dropping it.
        held_by: Option<String>,
    },
}

/// Compares a view with what `query` would make of it. Changes nothing; the role needs TEMP on the database.
///
/// # Errors
/// When the query is wrong, or the catalogue cannot be read.
pub async fn view_change(conn: &mut PgConnection, schema: &str, name: &str, query: &str) -> Result<ViewChange, ViewError> {
    let mut savepoint = conn.begin().await.map_err(failed(name, "testing its query"))?;
    let probe = format!("CREATE TEMP VIEW {} AS {query}", quote_ident("portal_release_probe"));
    run(&mut savepoint, name, "testing its query", probe).await?;
    let (exists, extends, held_by): (bool, bool, Option<String>) = sqlx::query_as(
        "WITH old AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2),
              new AS (SELECT c.oid FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema() AND c.relname = 'portal_release_probe')
         SELECT EXISTS (SELECT FROM old),
                NOT EXISTS (SELECT FROM old JOIN pg_attribute o ON o.attrelid = old.oid AND o.attnum > 0 AND NOT o.attisdropped
                            WHERE NOT EXISTS (SELECT FROM new JOIN pg_attribute a ON a.attrelid = new.oid
                                              WHERE (a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation)
                                                  = (o.attnum, o.attname, o.atttypid, o.atttypmod, o.attcollation))),
                (SELECT string_agg(DISTINCT w.ev_class::regclass::text, ', ') FROM old
                 JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = old.oid AND d.classid = 'pg_rewrite'::regclass
                 JOIN pg_rewrite w ON w.oid = d.objid AND w.ev_class <> old.oid)",
    )
    .bind(schema)
    .bind(name)
    .fetch_one(&mut *savepoint)
    .await
    .map_err(failed(name, "comparing its columns"))?;
    savepoint.rollback().await.map_err(failed(name, "testing its query"))?;
    Ok(match (exists, extends) {
        (false, _) => ViewChange::New,
        (true, true) => ViewChange::Extends,
        (true, false) => ViewChange::Other { held_by },
    })
}

/// The statements that replace the query of an ordinary view, or create the view. Owner, grants, options and comments stay.
///
/// # Errors
/// As [`view_change`].
pub async fn replace_view(conn: &mut PgConnection, schema: &str, name: &str, query: &str) -> Result<Vec<String>, ViewError> {
    let view = qualified(schema, name);
    if !matches!(view_change(conn, schema, name, query).await?, ViewChange::Other { .. }) {
        return Ok(vec![format!("CREATE OR REPLACE VIEW {view} AS {query}")]);
    }
    let kept = catalog::details(conn, schema.to_owned(), name.to_owned()).await.map_err(failed(name, "reading its owner and grants"))?;
    Ok([format!("DROP VIEW {view} RESTRICT"), format!("CREATE VIEW {view} AS {query}")].into_iter().chain(kept).collect())
}
