//! The swap: every relation of a release changes place in one transaction, and the same call undoes it.
//!
//! ```text
//! lock ──► exchange(Staging in, Backup out) ──► ledger row ──► commit     swap
//! lock ──► exchange(Backup in, Staging out) ──► ledger row ──► commit     rollback
//! lock ──► exchange(Staging in, Backup out) ──► ledger row ──► commit     forward again
//! ```
//! Nothing is copied: relations are renamed, so identities (OIDs), contents, indexes, statistics and the visibility map
//! stay with the data, and going back gives exactly what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sqlx::postgres::types::Oid;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalog::{self, CatalogError, Fact, empty_search_path};
use super::dependents::{self, Dependent};
use super::identifiers::{Generation, Relations, assembled, qualified, quote_ident, quote_literal};

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
    #[error("no lock within {waited:?} and {attempts} attempts, held up by {}; nothing has changed, end these sessions or retry", list(.blockers))]
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

fn failed(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> SwapError {
    let what = what.into();
    move |source| SwapError::Database { what, source }
}

/// Lock not available, deadlock detected, query cancelled (by the statement timeout).
fn busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01" | "57014"))
}

/// A session that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blocker {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, ...; hidden by Postgres for sessions of other roles without `pg_read_all_stats`.
    pub state: Option<String>,
    /// When its query began, as text.
    pub since: Option<String>,
    /// The head of its query, without the values of parameters.
    pub query: Option<String>,
    /// The relation it holds.
    pub relation: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| "unknown".into());
        write!(
            f,
            "pid {} (role {}, application {}, {}, since {}) on {}",
            self.pid,
            or_unknown(&self.role),
            or_unknown(&self.application),
            or_unknown(&self.state),
            or_unknown(&self.since),
            self.relation
        )
    }
}

fn list(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "sessions that were gone before they could be named".to_owned();
    }
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How long the swap may make others wait, and how long it may try.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The total time for getting the locks.
    pub budget: Duration,
    /// The longest that one attempt stands in the queue, and readers behind it.
    pub attempt: Duration,
    /// The longest that a statement may run once everything is locked.
    pub statement: Duration,
    /// The longest that the swap may hold its locks without sending a statement: a frozen operator blocks no longer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(30),
            attempt: Duration::from_millis(200),
            statement: Duration::from_secs(300),
            idle: Duration::from_secs(5),
        }
    }
}

/// Begins a transaction that holds every relation of the swap exclusively: live, incoming, and what depends on them.
///
/// Tries in short attempts with pauses until the budget is used, so that readers never queue up behind a slow one for
/// longer than one attempt. Dropping the transaction releases everything.
///
/// # Errors
/// [`SwapError::Blocked`] names who is in the way; [`SwapError::Cancelled`] when `cancel` fires between attempts;
/// [`SwapError::Obstacles`] when something cannot be carried over.
pub async fn lock(
    pool: &PgPool,
    relations: &Relations,
    incoming: &Generation,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Transaction<'static, Postgres>, SwapError> {
    let started = Instant::now();
    let mut attempts = 0;
    let mut blockers = Vec::new();
    loop {
        if cancel.is_cancelled() {
            return Err(SwapError::Cancelled);
        }
        attempts += 1;
        let mut tx = pool.begin().await.map_err(failed("beginning the swap"))?;
        let statement = lock_statement(&mut tx, relations, incoming).await?;
        match take_locks(&mut tx, statement, limits).await {
            Ok(()) => return Ok(tx),
            Err(error) if busy(&error) => {
                tx.rollback().await.map_err(failed("giving way to other sessions"))?;
                let now_there = find_blockers(pool, relations, incoming).await?;
                if !now_there.is_empty() {
                    blockers = now_there;
                }
            }
            Err(error) => return Err(failed("locking the relations of the swap")(error)),
        }
        // Half to one and a half attempts, so that two that collide do not collide again.
        let [random, ..] = uuid::Uuid::new_v4().into_bytes();
        let pause = limits.attempt / 2 + limits.attempt * u32::from(random) / 256;
        if started.elapsed() + pause >= limits.budget {
            return Err(SwapError::Blocked { waited: started.elapsed(), attempts, blockers });
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(SwapError::Cancelled),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Commits, and does not mistake the silent ROLLBACK of a failed transaction for success.
///
/// # Errors
/// When the transaction had failed, or [`SwapError::CommitUnknown`] when the connection was lost in between.
pub async fn commit(mut tx: Transaction<'_, Postgres>) -> Result<(), SwapError> {
    // In a failed transaction this is refused, where COMMIT would answer ROLLBACK without an error.
    sqlx::query("SELECT 1").execute(&mut *tx).await.map_err(failed("checking the transaction before COMMIT"))?;
    tx.commit().await.map_err(|error| match error {
        error @ sqlx::Error::Database(_) if !connection_lost(&error) => failed("COMMIT")(error),
        error => SwapError::CommitUnknown(error),
    })
}

/// Class 57P: the server is shutting down or the session was terminated; what became of COMMIT is not said.
fn connection_lost(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

async fn take_locks(tx: &mut PgConnection, statement: String, limits: &Limits) -> Result<(), sqlx::Error> {
    // A short deadlock_timeout also sends autovacuum away, which else would outlast every attempt.
    let may_set: bool = sqlx::query_scalar(
        "SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
                     THEN has_parameter_privilege('deadlock_timeout', 'SET')
                     ELSE current_setting('is_superuser') = 'on' END",
    )
    .fetch_one(&mut *tx)
    .await?;
    let attempt = limits.attempt.as_millis();
    let deadlock = if may_set { "SET LOCAL deadlock_timeout = '20ms';" } else { "" };
    // The statement timeout bounds the sum of all waits of the one statement; the lock timeout bounds later ones.
    let sql = format!(
        "SET LOCAL lock_timeout = '{attempt}ms'; SET LOCAL statement_timeout = '{attempt}ms';
         SET LOCAL idle_in_transaction_session_timeout = '{}ms'; {deadlock} {statement};
         SET LOCAL statement_timeout = '{}ms'",
        limits.idle.as_millis(),
        limits.statement.as_millis()
    );
    sqlx::raw_sql(assembled(sql)).execute(tx).await.map(drop)
}

/// One statement that locks everything. Views come first, as readers of a view take the view before its tables.
async fn lock_statement(tx: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<String, SwapError> {
    let dependents = dependents::list(tx, relations, incoming).await.map_err(failed("reading what depends on live"))?;
    refuse(&dependents)?;
    let mut views = BTreeMap::new();
    let mut tables = BTreeSet::new();
    for dependent in &dependents {
        match (&dependent.locked, &dependent.relkind, &dependent.owner) {
            (Some(view), Some(kind), Some(owner)) if kind == "v" => drop(views.insert(view.clone(), owner.clone())),
            (Some(table), ..) => drop(tables.insert(table.clone())),
            _ => {}
        }
    }
    let mut sequences = BTreeMap::new();
    for object in objects(tx, relations, &[Generation::Live, incoming.clone()]).await? {
        let name = qualified(&relations.schema, &object.name);
        match object.kind.as_str() {
            "table" => drop(tables.insert(name)),
            "view" | "materialized view" => drop(views.insert(name, quote_ident(&object.owner))),
            "sequence" => drop(sequences.insert(name, quote_ident(&object.owner))),
            _ => {}
        }
    }
    // LOCK TABLE takes no materialized view and locks the tables beneath a view; giving a relation to the owner it has
    // locks it and nothing else, and changes nothing.
    let own = |map: BTreeMap<String, String>| -> Vec<String> {
        map.into_iter().map(|(name, owner)| format!("ALTER TABLE {name} OWNER TO {owner};")).collect()
    };
    let mut body = own(views);
    if !tables.is_empty() {
        body.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if !relations.lookups.is_empty() {
        let names: Vec<String> = relations.lookups.iter().map(|base| qualified(&relations.schema, base)).collect();
        body.push(format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE;", names.join(", ")));
    }
    body.extend(own(sequences));
    Ok(format!("DO {}", quote_literal(&format!("BEGIN\n{}\nEND", body.join("\n")))))
}

fn refuse(dependents: &[Dependent]) -> Result<(), SwapError> {
    let obstacles = dependents::sentences(dependents);
    if obstacles.is_empty() { Ok(()) } else { Err(SwapError::Obstacles(obstacles)) }
}

async fn find_blockers(pool: &PgPool, relations: &Relations, incoming: &Generation) -> Result<Vec<Blocker>, SwapError> {
    let mut names = relations.names(&Generation::Live);
    names.extend(relations.names(incoming));
    sqlx::query_as(
        "SELECT DISTINCT ON (a.pid) a.pid, a.usename::text AS role, a.application_name AS application, a.state,
                a.query_start::text AS since, left(a.query, 200) AS query, c.relname::text AS relation
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND a.pid <> pg_backend_pid() AND n.nspname = $1 AND c.relname = ANY ($2)
         ORDER BY a.pid, c.relname LIMIT 20",
    )
    .bind(&relations.schema)
    .bind(names)
    .fetch_all(pool)
    .await
    .map_err(failed("looking for who holds the relations"))
}

/// A relation, index, sequence or statistics object of one generation.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Object {
    /// The relation it belongs to, as it is called in its generation.
    relation: String,
    kind: String,
    name: String,
    oid: Oid,
    owner: String,
    /// What it is like, apart from names.
    signature: String,
}

async fn objects(tx: &mut PgConnection, relations: &Relations, generations: &[Generation]) -> Result<Vec<Object>, SwapError> {
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

    let mut batch: Vec<String> = dependents.iter().filter_map(|it| it.before.clone()).collect();
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
        let tests: [&dyn Fn(&Object, &Object) -> bool; 2] = [&by_name, &by_likeness];
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
