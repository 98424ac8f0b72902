//! Templates, views, checks and imports against a real Postgres with PostGIS (`LOCAL_PG_URL`) and a real S3 endpoint
//! (`LOCAL_S3_URL`). Each test has a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod checks;
mod checksums;
mod compressed;
mod file_rejects;
mod files;
mod imports;
mod lookups;
mod probes;
mod rejects;
mod sources;
mod templates;
mod views;

use std::panic::AssertUnwindSafe;
use std::str::FromStr;

use futures::FutureExt;
use portal_release_operator::database::connection;
use portal_release_operator::database::import::{self, Counts, ImportError, KeyRange, Load, Origin, Rule, Source, Target};
use portal_release_operator::database::template::TemplateContext;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

/// The database of one test.
struct Database {
    name: String,
    options: PgConnectOptions,
}

impl Database {
    async fn connect(&self) -> PgConnection {
        self.options.connect().await.unwrap()
    }

    /// A connection on which `sql` has been executed.
    async fn with(&self, sql: &str) -> PgConnection {
        let mut conn = self.connect().await;
        run(&mut conn, sql).await;
        conn
    }
}

impl Database {
    /// As `with`, in a database that has the operator's ledger and release 1.
    async fn with_ledger(&self, sql: &str) -> PgConnection {
        let url = self.options.to_url_lossy().to_string();
        let (pool, _) = connection::connect(&url, "public", "import tests").await.unwrap();
        pool.close().await;
        let release = "INSERT INTO portal_release.portals (portal) VALUES ('test/portal');
                       INSERT INTO portal_release.releases (portal, label, name, uid, state) VALUES ('test/portal', 'Jul2026', 'jul2026', '1', 'Running')";
        self.with(&format!("{release}; {sql}")).await
    }
}

/// Runs `test` with a fresh database, which is dropped whatever happens.
async fn in_database<F: Future<Output = ()>>(test: impl FnOnce(Database) -> F) {
    let url = env("LOCAL_PG_URL");
    let name = format!("import_{}", uuid::Uuid::new_v4().simple());
    let server = PgConnectOptions::from_str(&url).unwrap().disable_statement_logging();
    let mut admin = PgConnection::connect_with(&server).await.unwrap();
    run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let database = Database { name: name.clone(), options: server.clone().database(&name) };
    let outcome = AssertUnwindSafe(test(database)).catch_unwind().await;
    run(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    let roles: Vec<String> =
        strings(&mut admin, &format!("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, '{name}_')")).await;
    for role in roles {
        run(&mut admin, &format!("DROP ROLE {role}")).await;
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start the local stack with e2e/local and load its env file"))
}

async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap_or_else(|error| panic!("{error} in {sql}"));
}

async fn strings(conn: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap_or_else(|error| panic!("{error} in {sql}"))
}

async fn count(conn: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.unwrap_or_else(|error| panic!("{error} in {sql}"))
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn target(table: &str) -> Target<'_> {
    Target { import: "areas", schema: "public", table }
}

/// What a test loads into a table.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    table: &'a str,
    query: &'a str,
    key: Option<&'a str>,
    range: Option<&'a KeyRange>,
    rules: &'a [(&'a str, &'a str)],
    sample: Option<i64>,
    lookup: bool,
}

/// Loads as release 1.
async fn load(conn: &mut PgConnection, case: Case<'_>) -> Result<Counts, ImportError> {
    let templates = TemplateContext::default();
    let rules = case.rules.iter().map(|(reason, when)| Rule::new(*reason, *when)).collect();
    let origin = Origin::Query { templates: &templates, template: case.query };
    let source = Source { origin, key: case.key, rules, sample: case.sample };
    let query = source.query("areas", None)?;
    let columns = import::columns(conn, target(case.table), &query).await?;
    let load = Load { release: 1, target: target(case.table), columns: &columns, source: &source, range: case.range, lookup: case.lookup };
    import::load(conn, &load).await
}

#[track_caller]
fn assert_says(error: impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
