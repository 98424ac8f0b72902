//! The plan of a swap: everything that can be read and decided before another session has to wait.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::types::Oid};

use super::{
    error::{SwapError, failed},
    locks::{self, Lock},
    renames::{self, Moved},
    request::SwapRequest,
};
use crate::database::{
    catalog::{self, CatalogError, Fact, empty_search_path},
    dependents::{self, Dependent},
    identifiers::{Generation, Relations, assembled, quote_literal},
};

/// What a swap will do, statement by statement. Made from one snapshot of the catalogue, and void once the catalogue has changed
/// (see `check`).
#[derive(Debug)]
pub struct SwapPlan {
    /// The relations that change place, in the request of [`Relations`], then their parts.
    pub moved: Vec<Moved>,
    /// Views, functions, policies and foreign keys that are recreated.
    pub repointed: Vec<String>,
    /// What blocks no other session and is done before the locks are taken; prepares the statement of `check`.
    pub(super) early: String,
    /// The relations to lock.
    locks: Vec<Lock>,
    /// Fails if the catalogue has changed since the plan was made. Repeated, it costs next to nothing as long as no transaction has
    /// ended.
    pub(super) check: String,
    /// What is done under the locks.
    pub(super) late: String,
    /// A short deadlock_timeout may be set: it also makes autovacuum cancel itself, which would otherwise outlast every attempt.
    pub(super) may_set_deadlock_timeout: bool,
}

/// Raised under the locks when the catalogue has changed since the plan was made.
pub(super) const CHANGED: &str = "PR001";

/// How often the query is run beforehand: the first time it is planned, the second time the session still fills its caches.
const WARM: usize = 2;

/// The name of the prepared statement that computes the version.
const VERSION: &str = "portal_release_version";

impl SwapPlan {
    /// Reads the catalogue and decides. `conn` waits for no lock longer than `patience`.
    ///
    /// # Errors
    /// When a counterpart is missing, a name is taken, something cannot be carried over, or the database does not answer.
    pub(super) async fn read(conn: &mut PgConnection, request: &SwapRequest<'_>, patience: Duration) -> Result<Self, SwapError> {
        let reading = || failed("planning the swap");
        let mut tx = conn.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.map_err(reading())?;
        let SwapRequest { relations, incoming, outgoing, .. } = request;
        // Reading the definition of a view waits for whoever holds it exclusively.
        let settings = format!("SET LOCAL lock_timeout = '{}ms'", patience.as_millis().max(1));
        sqlx::raw_sql(assembled(settings)).execute(&mut *tx).await.map_err(reading())?;
        let (former_path, may_set_deadlock_timeout): (String, bool) = sqlx::query_as(
            "SELECT current_setting('search_path'), CASE WHEN current_setting('server_version_num')::int >= 150000
                         THEN has_parameter_privilege('deadlock_timeout', 'SET') ELSE current_setting('is_superuser') = 'on' END",
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(reading())?;
        empty_search_path(&mut tx).await.map_err(reading())?;

        let found = renames::objects(&mut tx, relations, &[Generation::Live, (*incoming).clone()]).await?;
        let names = renames::plan(relations, incoming, outgoing, &found)?;
        let mut all = relations.names(&Generation::Live);
        all.extend(relations.names(incoming));
        let version: String = sqlx::query_scalar(include_str!("version.sql"))
            .bind(&relations.schema)
            .bind(&all)
            .bind(names.touched())
            .fetch_one(&mut *tx)
            .await
            .map_err(reading())?;
        let dependents = dependents::list(&mut tx, relations, incoming).await.map_err(reading())?;
        refuse(&dependents)?;
        names.are_free(&mut tx, relations).await?;
        let left = left_to_swap(&mut tx, relations, incoming).await?;
        tx.rollback().await.map_err(reading())?;

        let schema = relations.schema.as_str();
        let check = check(&version);
        let ready = ready(schema, &all, &names.touched());
        let mut late: Vec<String> = dependents.iter().rev().filter_map(|it| it.before.clone()).collect();
        late.extend(names.late(schema));
        late.extend(dependents.iter().filter_map(|it| it.after.clone()));
        late.extend(left);
        if !request.finally.is_empty() {
            // The Portal's own statements may name things without their schema.
            late.push(format!("SET LOCAL search_path = {former_path}"));
            late.extend(request.finally.iter().cloned());
        }
        Ok(Self {
            early: format!("{};\n{ready};\n{}", joined(&names.early(schema)), [format!("EXECUTE {VERSION}").as_str(); WARM].join(";\n")),
            locks: locks::list(relations, &dependents, &found),
            check,
            late: joined(&late),
            may_set_deadlock_timeout,
            moved: names.moved,
            repointed: dependents.into_iter().map(|it| it.object).collect(),
        })
    }
}

impl SwapPlan {
    /// The statements that lock everything, for at most one and a half times `patience`.
    ///
    /// The relations that slow sessions hold, quoted and qualified, come `last`. A session that waits behind the swap for one of them
    /// must not hold anything that the swap still needs: that would be a deadlock as soon as the slow session releases it. So the
    /// others come first, which are free within milliseconds.
    pub(super) fn locking(&self, last: &[String], patience: Duration) -> String {
        let set = |limit: Duration| format!("SET LOCAL statement_timeout = '{}ms'", limit.as_millis().max(1));
        let others: Vec<&Lock> = self.locks.iter().filter(|lock| !last.contains(&lock.name)).collect();
        let others = block(&locks::statements(&others));
        let last: Vec<String> = last.iter().filter_map(|name| self.locks.iter().find(|lock| lock.name == *name)).map(Lock::alone).collect();
        if last.is_empty() {
            return format!("{}; {others}", set(patience));
        }
        format!("{}; {others}; {}; {}", set(patience / 2), set(patience), block(&last))
    }
}

/// One message for the server. The definitions are fully qualified; an empty path keeps unqualified names from meaning anything else.
fn joined(statements: &[String]) -> String {
    let each = statements.iter().map(|sql| sql.trim_end().trim_end_matches(';'));
    std::iter::once("SET LOCAL search_path = pg_catalog, pg_temp").chain(each).collect::<Vec<_>>().join(";\n")
}

fn block(body: &[String]) -> String {
    // The moment from which on others wait, for the metric.
    let moment = "PERFORM set_config('portal_release.locked_at', clock_timestamp()::text, true);";
    format!("DO {}", quote_literal(&format!("BEGIN\n{}\n{moment}\nEND", body.join("\n"))))
}

/// Prepares the query for the catalogue's version as a named statement. Planning it takes several times as long as running it, and
/// under the locks others wait for both. A connection of the pool may still have the statement of an earlier swap.
fn ready(schema: &str, names: &[String], touched: &[Oid]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote_literal(name)).collect();
    let touched: Vec<String> = touched.iter().map(|oid| oid.0.to_string()).collect();
    let query = include_str!("version.sql")
        .replace("$1", &quote_literal(schema))
        .replace("$2", &format!("ARRAY[{}]::name[]", names.join(", ")))
        .replace("$3", &format!("ARRAY[{}]::oid[]", touched.join(", ")));
    let forget = format!(
        "BEGIN IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = '{VERSION}') THEN EXECUTE 'DEALLOCATE {VERSION}'; END IF; END"
    );
    format!("DO {};\nPREPARE {VERSION} AS {query}", quote_literal(&forget))
}

/// Fails unless the catalogue's version is the one of the plan.
///
/// The second time in a transaction it reads only when another transaction has ended since: the same snapshot shows the same
/// catalogue. So it runs before the locks are taken and again under them, where readers wait for it.
fn check(version: &str) -> String {
    let body = format!(
        "DECLARE
             seen text := txid_current_snapshot();
             found text;
         BEGIN
             IF seen IS DISTINCT FROM current_setting('portal_release.seen', true) THEN
                 EXECUTE 'EXECUTE {VERSION}' INTO found;
                 IF found IS DISTINCT FROM {} THEN
                     RAISE EXCEPTION 'the catalogue has changed since the swap was planned' USING ERRCODE = '{CHANGED}';
                 END IF;
                 PERFORM set_config('portal_release.seen', seen, true);
             END IF;
         END",
        quote_literal(version)
    );
    format!("DO {}", quote_literal(&body))
}

fn refuse(dependents: &[Dependent]) -> Result<(), SwapError> {
    let obstacles = dependents::findings(dependents);
    if obstacles.is_empty() { Ok(()) } else { Err(SwapError::Obstacles(obstacles)) }
}

/// What live has and only the swap can add to the incoming relations, in live names.
async fn left_to_swap(conn: &mut PgConnection, relations: &Relations, incoming: &Generation) -> Result<Vec<String>, CatalogError> {
    let live = catalog::live(conn, relations).await?;
    let coming = catalog::counterpart(conn, relations, incoming, &live).await?;
    let statement = |fact: &Fact| {
        let sql = fact.definition.render(&Generation::Live);
        if fact.kind() == catalog::LOOKUP_KEY { format!("{sql} NOT VALID") } else { sql }
    };
    Ok(catalog::left_to_swap(&live, &coming).into_iter().map(statement).collect())
}
