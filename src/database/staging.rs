//! Staging: twins of the live relations, built beside them and dropped without touching anything else.
//!
//! Building is a comparison: whatever detail live has and staging lacks is executed, in the order of
//! [`catalog::Stage`]. So an interrupted build resumes where it stopped, and a complete one does nothing.

use sqlx::{Connection, PgConnection};

use super::catalog::{self, CatalogError, Fact, Stage, Structure};
use super::dependents;
use super::identifiers::{Generation, Relations, assembled, qualified, quote_ident, quote_literal};
use super::sqlstate;
use crate::classify::Classify;

/// A staging relation that could not be built or dropped.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// Live could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// One statement failed.
    #[error("{object}: {what} failed: {source}; no live data was changed; correct the cause and retry")]
    Statement {
        /// The relation.
        object: String,
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// Staging exists with columns that differ from live's, so no statement can complete it.
    #[error("{0}; drop staging and rebuild it")]
    Stale(catalog::Difference),
    /// Something outside of the release depends on a relation that is to be dropped.
    #[error("{relations} cannot be dropped: {dependents}; drop or change what depends on them, then retry")]
    InUse {
        /// The relations.
        relations: String,
        /// What depends on them, as Postgres lists it.
        dependents: String,
    },
    /// A lookup table has no primary key.
    #[error("look-up table {0} has no primary key, so new rows cannot be distinguished from existing ones; add a primary key")]
    NoPrimaryKey(String),
    /// New lookup rows contradict rows that have become live since.
    #[error(
        "look-up table {table}: {rows} new row(s) collide with live rows that were added since staging was built ({detail}); import again"
    )]
    LookupConflict {
        /// The live table.
        table: String,
        /// How many rows collide.
        rows: i64,
        /// The unique key.
        detail: String,
    },
}

impl Classify for StagingError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Catalog(error) => error.is_transient(),
            Self::Statement { source, .. } => source.is_transient(),
            Self::Stale(_) | Self::InUse { .. } | Self::NoPrimaryKey(_) | Self::LookupConflict { .. } => false,
        }
    }
}

fn failed(object: impl Into<String>, what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> StagingError {
    let (object, what) = (object.into(), what.into());
    move |source| StagingError::Statement { object, what, source }
}

/// A statement that brings staging nearer to live.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The base name of the relation.
    pub relation: String,
    /// What it adds, for example `index sources_pkey`.
    pub what: String,
    /// When in the build it belongs.
    pub stage: Stage,
    /// It builds an index, and waits for nothing but the columns.
    pub builds_index: bool,
    /// The statement, in staging names.
    pub sql: String,
}

/// Creates the staging twins of all tables, empty, in one transaction: all or none.
///
/// `lightweight` leaves out indexes, primary and unique keys and foreign keys. Triggers and forced row security are
/// never added here, so the load does not set them off. [`complete`] adds what is left. An existing twin is kept and
/// completed. Sequences and identities of a twin are its own and continue after live's last value: no id of this release
/// was ever used by the release before, and dropping a backup takes nothing from live.
///
/// # Errors
/// When a live table is missing, a twin exists with other columns, or a statement fails; nothing is created then.
pub async fn build(conn: &mut PgConnection, relations: &Relations, lightweight: bool) -> Result<(), StagingError> {
    let mut tx = conn.begin().await.map_err(failed(&relations.schema, "BEGIN"))?;
    let only_tables = Relations { views: Vec::new(), ..relations.clone() };
    let live = catalog::live(&mut tx, &only_tables).await?;
    let staging = catalog::counterpart(&mut tx, &only_tables, &Generation::Staging, &live).await?;
    for table in &relations.tables {
        if !live.has(table) {
            return Err(CatalogError::Missing { relation: format!("{}.{table}", relations.schema) }.into());
        }
        if !staging.has(table) {
            run(&mut tx, table, "CREATE TABLE", create_table(&live, table)).await?;
        }
    }
    let last = if lightweight { Stage::Base } else { Stage::Keys };
    for step in pending(&mut tx, &only_tables).await?.into_iter().filter(|step| step.stage <= last) {
        apply(&mut tx, &step).await?;
    }
    for table in relations.tables.iter().filter(|table| !staging.has(table)) {
        continue_sequences(&mut tx, &relations.schema, table).await?;
    }
    tx.commit().await.map_err(failed(&relations.schema, "COMMIT"))
}

/// Adds what staging still lacks: indexes, keys, extended statistics, then foreign keys, then triggers.
///
/// Each statement commits by itself, so a killed run resumes with the remaining ones.
///
/// # Errors
/// When a statement fails, for example a duplicate key in the loaded rows; the message has Postgres' detail.
pub async fn complete(conn: &mut PgConnection, relations: &Relations) -> Result<(), StagingError> {
    for step in pending(conn, relations).await? {
        apply(conn, &step).await?;
    }
    Ok(())
}

/// What staging lacks of live, in the order in which it must be executed. Steps of [`Stage::Indexes`] of different
/// indexes are independent of each other, as long as an `index` comes before the `constraint` that uses it.
///
/// # Errors
/// When a twin's columns differ from live's, or the catalogue cannot be read.
pub async fn pending(conn: &mut PgConnection, relations: &Relations) -> Result<Vec<Pending>, StagingError> {
    let live = catalog::live(conn, relations).await?;
    let staging = catalog::counterpart(conn, relations, &Generation::Staging, &live).await?;
    let present = |fact: &&Fact| staging.has(&fact.relation);
    let lacking: Vec<&Fact> = catalog::lacking(&live, &staging).into_iter().filter(present).collect();
    if lacking.iter().any(|fact| fact.stage() == Stage::Created) {
        let differences = catalog::diff(conn, relations, &Generation::Staging).await?;
        if let Some(difference) = differences.into_iter().find(|d| matches!(d.kind, "table" | "access" | "column")) {
            return Err(StagingError::Stale(difference));
        }
    }
    let extra = catalog::lacking(&staging, &live);
    let step = |fact: &Fact, sql: &catalog::Template| Pending {
        relation: fact.relation.clone(),
        what: format!("{} {}", fact.kind(), fact.name()).trim_end().to_owned(),
        stage: fact.stage(),
        builds_index: fact.kind() == catalog::INDEX,
        sql: sql.render(&Generation::Staging),
    };
    let taken_away = extra.into_iter().filter_map(|fact| fact.undo.as_ref().map(|undo| step(fact, undo)));
    let added = lacking.into_iter().filter(|fact| fact.stage() > Stage::Created).map(|fact| step(fact, &fact.definition));
    Ok(taken_away.chain(added).collect())
}

/// Executes one step.
///
/// # Errors
/// When the statement fails.
pub async fn apply(conn: &mut PgConnection, step: &Pending) -> Result<(), StagingError> {
    run(conn, &step.relation, &step.what, step.sql.clone()).await
}

/// Drops staging twins and nothing else: all of the named ones that exist, in one statement per kind, never cascading.
///
/// # Errors
/// When something outside depends on one of them; then none is dropped.
pub async fn drop_all(conn: &mut PgConnection, relations: &Relations) -> Result<(), StagingError> {
    let mut names = relations.names(&Generation::Staging);
    names.extend(relations.lookups.iter().map(|base| Generation::Staging.name(base)));
    drop_relations(conn, &relations.schema, &names).await
}

/// Drops these relations with RESTRICT in one transaction, and the functions that a swap has kept over their row types.
/// Relations that do not exist are passed over.
pub(super) async fn drop_relations(conn: &mut PgConnection, schema: &str, names: &[String]) -> Result<(), StagingError> {
    let all = names.join(", ");
    let mut tx = conn.begin().await.map_err(failed(&all, "BEGIN"))?;
    dependents::drop_replaced(&mut tx).await.map_err(|error| in_use(error, "functions that earlier swaps replaced"))?;
    let present: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'm', 'v')",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(&mut *tx)
    .await
    .map_err(failed(&all, "looking for relations"))?;
    // Views depend on views and tables, so they are dropped first.
    for (kind, noun) in [("v", "VIEW"), ("m", "MATERIALIZED VIEW"), ("r", "TABLE")] {
        let list: Vec<String> = present.iter().filter(|(_, of)| of == kind).map(|(name, _)| qualified(schema, name)).collect();
        if !list.is_empty() {
            let sql = format!("DROP {noun} {} RESTRICT", list.join(", "));
            sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await.map_err(|error| in_use(error, &list.join(", ")))?;
        }
    }
    tx.commit().await.map_err(failed(&all, "COMMIT"))
}

/// Drops the foreign keys of the other staging twins that reference the twin of `table`, so that it can be dropped. [`complete`] adds
/// them again.
///
/// # Errors
/// When one cannot be dropped.
pub async fn drop_keys_to(conn: &mut PgConnection, relations: &Relations, table: &str) -> Result<(), StagingError> {
    let keys: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.relname::text, k.conname::text FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
         WHERE k.contype = 'f' AND k.confrelid = to_regclass($1) AND k.conrelid <> k.confrelid AND k.conparentid = 0
           AND t.relnamespace = to_regnamespace($2) AND t.relname = ANY ($3)",
    )
    .bind(qualified(&relations.schema, &Generation::Staging.name(table)))
    .bind(quote_ident(&relations.schema))
    .bind(relations.names(&Generation::Staging))
    .fetch_all(&mut *conn)
    .await
    .map_err(failed(table, "looking for foreign keys"))?;
    for (twin, key) in keys {
        let sql = format!("ALTER TABLE {} DROP CONSTRAINT {}", qualified(&relations.schema, &twin), quote_ident(&key));
        run(conn, table, &format!("dropping foreign key {key}"), sql).await?;
    }
    Ok(())
}

fn in_use(source: sqlx::Error, relations: &str) -> StagingError {
    let detail = source
        .as_database_error()
        .filter(|error| error.code().as_deref() == Some(sqlstate::DEPENDENTS_EXIST))
        .and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
        .map(|error| error.detail().unwrap_or_else(|| error.message()).replace('\n', "; "));
    match detail {
        Some(dependents) => StagingError::InUse { relations: relations.to_owned(), dependents },
        None => failed(relations, "DROP")(source),
    }
}

async fn run(conn: &mut PgConnection, object: &str, what: &str, sql: String) -> Result<(), StagingError> {
    sqlx::raw_sql(assembled(sql)).execute(conn).await.map(drop).map_err(failed(object, what))
}

fn create_table(live: &Structure, table: &str) -> String {
    let parts = |kind: &str| -> Vec<String> {
        let of = live.facts.iter().filter(|fact| fact.relation == table && fact.kind() == kind);
        of.map(|fact| fact.definition.render(&Generation::Staging)).collect()
    };
    format!("CREATE {} (\n    {}\n){}", parts("table").concat(), parts("column").join(",\n    "), parts("access").concat())
}

/// Lets the sequences of a new twin continue where live's are.
async fn continue_sequences(conn: &mut PgConnection, schema: &str, table: &str) -> Result<(), StagingError> {
    let sequences: Vec<(String,)> = sqlx::query_as(
        "SELECT s.relname::text FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
         JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid > 0
              AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
         JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
         WHERE n.nspname = $1 AND t.relname = $2",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed(table, "looking for sequences"))?;
    for (sequence,) in sequences {
        let (from, to) = (qualified(schema, &sequence), qualified(schema, &Generation::Staging.name(&sequence)));
        let sql = format!("SELECT setval({}::regclass, last_value, is_called) FROM {from}", quote_literal(&to));
        run(conn, table, &format!("continuing sequence {sequence}"), sql).await?;
    }
    Ok(())
}

/// Creates `staging_<lookup>`: the live rows, their unique keys, and a default that draws ids from live's own sequence,
/// so that an id is never given twice, whichever table it is given in. An existing one is kept.
///
/// # Errors
/// When the table is missing, has no primary key, or a statement fails.
pub async fn build_lookup(conn: &mut PgConnection, schema: &str, lookup: &str) -> Result<(), StagingError> {
    let mut tx = conn.begin().await.map_err(failed(lookup, "BEGIN"))?;
    let only = Relations { schema: schema.to_owned(), tables: vec![lookup.to_owned()], ..Relations::default() };
    let live = catalog::live(&mut tx, &only).await?;
    if !live.has(lookup) {
        return Err(CatalogError::Missing { relation: format!("{schema}.{lookup}") }.into());
    }
    if catalog::counterpart(&mut tx, &only, &Generation::Staging, &live).await?.has(lookup) {
        return Ok(());
    }
    primary_key(&mut tx, schema, lookup).await?;
    let (source, twin) = (qualified(schema, lookup), qualified(schema, &Generation::Staging.name(lookup)));
    // LIKE keeps a serial's default as it is: the sequence of live. An identity has none, so it gets one below.
    let create = format!(
        "CREATE TABLE {twin} (LIKE {source} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE);
         INSERT INTO {twin} ({columns}) SELECT {columns} FROM {source}",
        columns = insertable(&mut tx, schema, lookup).await?
    );
    run(&mut tx, lookup, "copying the look-up table", create).await?;
    let kinds = ["owner", "row security", "policy", "grant", "index", "constraint"];
    for fact in live.facts.iter().filter(|fact| kinds.contains(&fact.kind())) {
        let sql = fact.definition.render(&Generation::Staging);
        // The twin has no sequence of its own.
        if !sql.contains(" ON SEQUENCE ") {
            run(&mut tx, lookup, fact.kind(), sql).await?;
        }
    }
    for column in identity_columns(&mut tx, schema, lookup).await? {
        let sql = format!(
            "ALTER TABLE {twin} ALTER COLUMN {} SET DEFAULT nextval(pg_get_serial_sequence({}, {})::regclass)",
            quote_ident(&column),
            quote_literal(&source),
            quote_literal(&column)
        );
        run(&mut tx, lookup, "drawing ids from live's sequence", sql).await?;
    }
    tx.commit().await.map_err(failed(lookup, "COMMIT"))
}

/// Inserts the rows of `staging_<lookup>` whose primary key is not live yet. Part of the swap's transaction.
/// Rows that changed only in staging do not change live. Returns how many rows are new; 0 when nothing is staged.
///
/// # Errors
/// When a new row collides with a unique key of a row that became live since, naming both.
pub async fn publish_lookup(tx: &mut PgConnection, schema: &str, lookup: &str) -> Result<u64, StagingError> {
    let twin_name = Generation::Staging.name(lookup);
    let staged: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::text")
        .bind(qualified(schema, &twin_name))
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(lookup, "looking for staged rows"))?;
    if staged.is_none() {
        return Ok(0);
    }
    let (live, twin) = (qualified(schema, lookup), qualified(schema, &twin_name));
    let key = primary_key(tx, schema, lookup).await?;
    let same = key.iter().map(|column| format!("l.{0} = s.{0}", quote_ident(column))).collect::<Vec<_>>().join(" AND ");
    let columns = insertable(tx, schema, lookup).await?;
    let sql = format!(
        "INSERT INTO {live} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT {columns} FROM {twin} s WHERE NOT EXISTS (SELECT FROM {live} l WHERE {same})"
    );
    let result = sqlx::raw_sql(assembled(sql)).execute(&mut *tx).await;
    result.map(|done| done.rows_affected()).map_err(|source| {
        let conflict = source.as_database_error().and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
        match conflict.filter(|error| error.code() == sqlstate::UNIQUE_VIOLATION) {
            Some(error) => StagingError::LookupConflict {
                table: live.clone(),
                rows: 1,
                detail: format!("{}: {}", error.constraint().unwrap_or("unique key"), error.detail().unwrap_or_default()),
            },
            None => failed(lookup, "publishing new rows")(source),
        }
    })
}

async fn primary_key(conn: &mut PgConnection, schema: &str, table: &str) -> Result<Vec<String>, StagingError> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT a.attname::text FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
         JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'p'
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (k.conkey)
         WHERE n.nspname = $1 AND t.relname = $2 ORDER BY a.attnum",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(conn)
    .await
    .map_err(failed(table, "reading the primary key"))?;
    if columns.is_empty() { Err(StagingError::NoPrimaryKey(format!("{schema}.{table}"))) } else { Ok(columns) }
}

/// The columns that can be written, quoted and joined.
async fn insertable(conn: &mut PgConnection, schema: &str, table: &str) -> Result<String, StagingError> {
    columns(conn, schema, table, "").await.map(|names| names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", "))
}

async fn identity_columns(conn: &mut PgConnection, schema: &str, table: &str) -> Result<Vec<String>, StagingError> {
    columns(conn, schema, table, "ad").await
}

/// The columns that are not generated; of those, the ones with an identity among `identities`, or all when it is empty.
async fn columns(conn: &mut PgConnection, schema: &str, table: &str, identities: &str) -> Result<Vec<String>, StagingError> {
    sqlx::query_scalar(
        "SELECT a.attname::text FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
         WHERE n.nspname = $1 AND t.relname = $2 AND ($3 = '' OR (a.attidentity <> '' AND strpos($3, a.attidentity::text) > 0))
         ORDER BY a.attnum",
    )
    .bind(schema)
    .bind(table)
    .bind(identities)
    .fetch_all(conn)
    .await
    .map_err(failed(table, "reading the columns"))
}
