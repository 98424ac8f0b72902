//! The swap: every relation of a release changes place in one transaction, and the same call undoes it.
//!
//! ```text
//! lock ──► exchange(Staging in, Backup out) ──► ledger row ──► commit     swap
//! lock ──► exchange(Backup in, Staging out) ──► ledger row ──► commit     rollback
//! lock ──► exchange(Staging in, Backup out) ──► ledger row ──► commit     forward again
//! ```
//! Nothing is copied: relations are renamed, so identities (OIDs), contents, indexes, statistics and the visibility map
//! stay with the data, and going back gives exactly what was there.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::types::Oid;
use sqlx::{Connection, PgConnection};

use super::catalog::{self, CatalogError, Fact, empty_search_path};
use super::dependents::{self, Dependent};
use super::identifiers::{Generation, Relations, assembled, qualified, quote_ident};
pub use super::swap_lock::{Blocker, Horizon, Limits, OldSnapshot, commit, horizon, lock, old_snapshots};

/// A swap that did not happen. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The database refused or was lost.
    #[error("{what} failed: {source}; nothing has changed, correct the cause and retry")]
    Database {
        /// What was being done.
        what: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The structure could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// COMMIT was sent and no answer came: only the ledger knows.
    #[error("the outcome of COMMIT is unknown: {0}; look up the ledger before anything else")]
    CommitUnknown(sqlx::Error),
    /// Other sessions held the relations until the time for waiting was over.
    #[error("no lock within {waited:?} and {attempts} attempts, held up by {}; nothing has changed, end these sessions or retry", super::swap_lock::named(.blockers))]
    Blocked {
        /// How long it was tried.
        waited: Duration,
        /// How often.
        attempts: u32,
        /// Who was in the way at the last attempt.
        blockers: Vec<Blocker>,
    },
    /// The caller asked to stop.
    #[error("stopped while waiting for locks; nothing has changed")]
    Cancelled,
    /// A relation that should change place does not exist.
    #[error("{relation} does not exist, so there is nothing to exchange with {counterpart}; build it first")]
    Missing {
        /// The missing relation.
        relation: String,
        /// The one that would have changed place with it.
        counterpart: String,
    },
    /// A relation and its counterpart are of different kinds.
    #[error("{relation} is a {found}, but its live counterpart is a {expected}; make both the same")]
    KindDiffers {
        /// The incoming relation.
        relation: String,
        /// Its kind.
        found: String,
        /// The kind of live.
        expected: String,
    },
    /// A name that is needed belongs to something else.
    #[error("the name {name} is taken by something that is not part of this swap; rename or drop it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Something cannot be carried over.
    #[error("the swap would break: {}", .0.join("; "))]
    Obstacles(Vec<String>),
}

impl SwapError {
    /// May the same swap succeed when it is simply tried again?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Blocked { .. } => true,
            Self::Database { source, .. } => busy(source),
            _ => false,
        }
    }
}

pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> SwapError {
    let what = what.into();
    move |source| SwapError::Database { what, source }
}

/// Lock not available, deadlock detected, query cancelled (by the statement timeout).
fn busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01" | "57014"))
}

/// A relation, index, sequence or statistics object of one generation.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Object {
    /// The relation it belongs to, as it is called in its generation.
    relation: String,
    pub(super) kind: String,
    pub(super) name: String,
    oid: Oid,
    pub(super) owner: String,
    /// What it is like, apart from names.
    signature: String,
}

pub(super) async fn objects(tx: &mut PgConnection, relations: &Relations, generations: &[Generation]) -> Result<Vec<Object>, SwapError> {
    let names: Vec<String> = generations.iter().flat_map(|generation| relations.names(generation)).collect();
    let mut scope = tx.begin().await.map_err(failed("reading the relations"))?;
    empty_search_path(&mut scope).await.map_err(failed("reading the relations"))?;
    let objects = sqlx::query_as(
        "WITH rel AS (
             SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'm', 'v')
         ), object AS (
             SELECT relname AS relation, CASE relkind WHEN 'r' THEN 'table' WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
                    relname AS name, oid, relowner, '' AS signature FROM rel
             UNION ALL
             SELECT r.relname, 'index', x.relname, x.oid, x.relowner,
                    i.indisprimary || ' ' || i.indisunique || ' ' || substr(pg_get_indexdef(x.oid), strpos(pg_get_indexdef(x.oid), ' USING '))
             FROM rel r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
             UNION ALL
             SELECT r.relname, 'sequence', s.relname, s.oid, s.relowner, a.attname
             FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid > 0
                  AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
             JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid
             UNION ALL
             SELECT r.relname, 'statistics', e.stxname, e.oid, e.stxowner, pg_get_statisticsobjdef_columns(e.oid) || e.stxkind::text
             FROM rel r JOIN pg_statistic_ext e ON e.stxrelid = r.oid AND e.stxnamespace = r.relnamespace
         )
         SELECT relation::text, kind, name::text, oid, pg_get_userbyid(relowner)::text AS owner, signature
         FROM object ORDER BY kind, name",
    )
    .bind(&relations.schema)
    .bind(names)
    .fetch_all(&mut *scope)
    .await
    .map_err(failed("reading the relations"))?;
    scope.rollback().await.map_err(failed("reading the relations"))?;
    Ok(objects)
}

/// A relation that has changed place, for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `table`, `materialized view` or `view`; of parts `index`, `sequence`, `statistics`.
    pub kind: String,
    /// What it is called while it is live.
    pub base: String,
    /// What the one that was live is called now; `None` when live had no such part.
    pub outgoing_name: Option<String>,
    /// The identity of what is live now; `None` when what came in has no such part.
    pub incoming: Option<Oid>,
    /// The identity of what was live until now.
    pub outgoing: Option<Oid>,
}

/// What an exchange has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchanged {
    /// The relations, in the order of [`Relations`], then their parts.
    pub moved: Vec<Moved>,
    /// Views, functions, policies and foreign keys that were written again.
    pub repointed: Vec<String>,
}

/// Lets `incoming` take the place of live, which becomes `outgoing`. Part of the caller's transaction, after [`lock`].
///
/// Renames relations, indexes (with their constraints), owned sequences and extended statistics in one batch; points
/// views, functions, policies and outside foreign keys to the new live; adds the foreign keys to lookup tables, unchecked.
/// [`validate_constraints`] checks keys afterwards.
///
/// # Errors
/// When a counterpart is missing, a name is taken, something cannot be carried over, or a statement fails. The
/// transaction must then be rolled back.
pub async fn exchange(
    tx: &mut PgConnection,
    relations: &Relations,
    incoming: &Generation,
    outgoing: &Generation,
) -> Result<Exchanged, SwapError> {
    let dependents = dependents::list(tx, relations, incoming).await.map_err(failed("reading what depends on live"))?;
    refuse(&dependents)?;
    let live = objects(tx, relations, &[Generation::Live]).await?;
    let coming = objects(tx, relations, std::slice::from_ref(incoming)).await?;
    let plan = plan(relations, incoming, outgoing, &live, &coming)?;
    free_names(tx, relations, &plan).await?;
    let late = left_to_swap(tx, relations, incoming).await?;

    let mut batch: Vec<String> = dependents.iter().rev().filter_map(|it| it.before.clone()).collect();
    batch.extend(plan.renames.iter().map(|rename| rename.sql(&relations.schema)));
    batch.extend(dependents.iter().filter_map(|it| it.after.clone()));
    batch.extend(late);
    let mut scope = tx.begin().await.map_err(failed("exchanging the relations"))?;
    // The definitions are fully qualified; an empty path keeps unqualified names from meaning anything else.
    let path: String = sqlx::query_scalar("SELECT current_setting('search_path')")
        .fetch_one(&mut *scope)
        .await
        .map_err(failed("exchanging the relations"))?;
    empty_search_path(&mut scope).await.map_err(failed("exchanging the relations"))?;
    let sql = batch.iter().map(|sql| sql.trim_end_matches(';')).collect::<Vec<_>>().join(";\n");
    sqlx::raw_sql(assembled(sql)).execute(&mut *scope).await.map_err(failed("exchanging the relations"))?;
    sqlx::query("SELECT set_config('search_path', $1, true)")
        .bind(path)
        .execute(&mut *scope)
        .await
        .map_err(failed("exchanging the relations"))?;
    scope.commit().await.map_err(failed("exchanging the relations"))?;
    Ok(Exchanged { moved: plan.moved, repointed: dependents.into_iter().map(|it| it.object).collect() })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rename {
    kind: String,
    from: String,
    to: String,
}

impl Rename {
    fn sql(&self, schema: &str) -> String {
        let noun = match self.kind.as_str() {
            "index" => "INDEX",
            "sequence" => "SEQUENCE",
            "statistics" => "STATISTICS",
            _ => "TABLE",
        };
        format!("ALTER {noun} {} RENAME TO {}", qualified(schema, &self.from), quote_ident(&self.to))
    }
}

#[derive(Debug, Default)]
struct Plan {
    renames: Vec<Rename>,
    moved: Vec<Moved>,
}

pub(super) fn refuse(dependents: &[Dependent]) -> Result<(), SwapError> {
    let obstacles = dependents::sentences(dependents);
    if obstacles.is_empty() { Ok(()) } else { Err(SwapError::Obstacles(obstacles)) }
}

/// Decides every name before anything is renamed. Base names come from live.
fn plan(
    relations: &Relations,
    incoming: &Generation,
    outgoing: &Generation,
    live: &[Object],
    coming: &[Object],
) -> Result<Plan, SwapError> {
    let mut plan = Plan::default();
    let mut away = Vec::new();
    let mut home = Vec::new();
    for base in relations.swapped() {
        let twin = incoming.name(base);
        let find =
            |objects: &[Object], name: &str| objects.iter().find(|it| it.name == name && it.relation == name && is_relation(it)).cloned();
        let missing = |relation: &str, counterpart: &str| SwapError::Missing {
            relation: format!("{}.{relation}", relations.schema),
            counterpart: format!("{}.{counterpart}", relations.schema),
        };
        let old = find(live, base).ok_or_else(|| missing(base, &twin))?;
        let new = find(coming, &twin).ok_or_else(|| missing(&twin, base))?;
        if old.kind != new.kind {
            return Err(SwapError::KindDiffers { relation: twin, found: new.kind, expected: old.kind });
        }
        let name = outgoing.name(base);
        away.push(Rename { kind: old.kind.clone(), from: base.to_owned(), to: name.clone() });
        home.push(Rename { kind: new.kind, from: twin, to: base.to_owned() });
        plan.moved.push(Moved {
            kind: old.kind,
            base: base.to_owned(),
            outgoing_name: Some(name),
            incoming: Some(new.oid),
            outgoing: Some(old.oid),
        });
    }
    for base in relations.swapped() {
        let twin = incoming.name(base);
        let mut left: Vec<&Object> = live.iter().filter(|it| it.relation == base && !is_relation(it)).collect();
        for part in &left {
            away.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: outgoing.name(&part.name) });
        }
        let mut parts: Vec<&Object> = coming.iter().filter(|it| it.relation == twin && !is_relation(it)).collect();
        // First by name; then by likeness, for backups whose parts were not named by the scheme.
        let by_name = |part: &Object, old: &Object| part.kind == old.kind && part.name == incoming.name(&old.name);
        let by_likeness = |part: &Object, old: &Object| part.kind == old.kind && part.signature == old.signature;
        type Test<'a> = &'a dyn Fn(&Object, &Object) -> bool;
        let tests: [Test<'_>; 2] = [&by_name, &by_likeness];
        for test in tests {
            parts.retain(|part| {
                let Some(at) = left.iter().position(|old| test(part, old)) else { return true };
                let old = left.remove(at);
                home.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: old.name.clone() });
                plan.moved.push(Moved {
                    kind: old.kind.clone(),
                    base: old.name.clone(),
                    outgoing_name: Some(outgoing.name(&old.name)),
                    incoming: Some(part.oid),
                    outgoing: Some(old.oid),
                });
                false
            });
        }
        // What live does not have keeps its own name, without the mark of the generation.
        for part in parts {
            let name = part.name.strip_prefix(&incoming.prefix()).filter(|it| !it.is_empty()).unwrap_or(&part.name);
            home.push(Rename { kind: part.kind.clone(), from: part.name.clone(), to: name.to_owned() });
            plan.moved.push(Moved {
                kind: part.kind.clone(),
                base: name.to_owned(),
                outgoing_name: None,
                incoming: Some(part.oid),
                outgoing: None,
            });
        }
        for old in left {
            plan.moved.push(Moved {
                kind: old.kind.clone(),
                base: old.name.clone(),
                outgoing_name: Some(outgoing.name(&old.name)),
                incoming: None,
                outgoing: Some(old.oid),
            });
        }
    }
    plan.renames = away.into_iter().chain(home).filter(|rename| rename.from != rename.to).collect();
    let mut seen = BTreeSet::new();
    match plan.renames.iter().find(|rename| !seen.insert((rename.kind == "statistics", rename.to.clone()))) {
        Some(twice) => Err(SwapError::NameTaken { name: qualified(&relations.schema, &twice.to) }),
        None => Ok(plan),
    }
}

fn is_relation(object: &Object) -> bool {
    matches!(object.kind.as_str(), "table" | "materialized view" | "view")
}

/// Refuses names that belong to something that does not move away.
async fn free_names(tx: &mut PgConnection, relations: &Relations, plan: &Plan) -> Result<(), SwapError> {
    let targets: Vec<&str> = plan.renames.iter().filter(|it| it.kind != "statistics").map(|it| it.to.as_str()).collect();
    let vacated: BTreeSet<&str> = plan.renames.iter().map(|it| it.from.as_str()).collect();
    let present: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY ($2) ORDER BY 1",
    )
    .bind(&relations.schema)
    .bind(targets)
    .fetch_all(tx)
    .await
    .map_err(failed("checking the names"))?;
    match present.into_iter().find(|name| !vacated.contains(name.as_str())) {
        Some(name) => Err(SwapError::NameTaken { name: format!("{}.{name}", relations.schema) }),
        None => Ok(()),
    }
}

/// What live has and only the swap can give to what comes in, in live names.
async fn left_to_swap(tx: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<String>, CatalogError> {
    let live = catalog::live(tx, relations).await?;
    let coming = catalog::counterpart(tx, relations, incoming, &live).await?;
    let statement = |fact: &Fact| {
        let sql = fact.definition.render(&Generation::Live);
        if fact.kind() == catalog::LOOKUP_KEY { format!("{sql} NOT VALID") } else { sql }
    };
    Ok(catalog::left_to_swap(&live, &coming).into_iter().map(statement).collect())
}

/// Checks the foreign keys from and to live relations that the swap has added unchecked. Readers and writers go on.
///
/// Returns a sentence for each key that does not hold; it stays in force for new rows.
///
/// # Errors
/// When the catalogue cannot be read or the connection is lost.
pub async fn validate_constraints(conn: &mut PgConnection, relations: &Relations) -> Result<Vec<String>, SwapError> {
    let keys: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT s.nspname::text, c.relname::text, k.conname::text
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace s ON s.oid = c.relnamespace
         JOIN pg_class t ON t.oid IN (k.conrelid, k.confrelid) JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE k.contype = 'f' AND NOT k.convalidated AND n.nspname = $1 AND t.relname = ANY ($2)
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )
    .bind(&relations.schema)
    .bind(relations.names(&Generation::Live))
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("looking for keys to check"))?;
    let mut broken = Vec::new();
    for (schema, table, key) in keys {
        let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", qualified(&schema, &table), quote_ident(&key));
        match sqlx::raw_sql(assembled(sql)).execute(&mut *conn).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => {
                let detail = error
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .and_then(|error| error.detail())
                    .unwrap_or_default()
                    .to_owned();
                broken.push(format!("foreign key {key} of {schema}.{table} does not hold: {error} {detail}"));
            }
            Err(error) => return Err(failed("checking foreign keys")(error)),
        }
    }
    Ok(broken)
}
