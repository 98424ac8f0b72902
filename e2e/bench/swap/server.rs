//! The databases of the bench.

use std::str::FromStr;

use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::staging;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::ours::one_swap;
use crate::shape;

/// A throw-away Postgres.
pub(crate) struct Server {
    options: PgConnectOptions,
    admin: PgConnection,
}

/// One portal with two full releases: number 2 live, number 1 as a backup.
pub(crate) struct Database {
    pub(crate) sites: u32,
    pub(crate) owner: PgPool,
    pub(crate) admin: PgPool,
    pub(crate) reader: PgConnectOptions,
}

const OWNER: &str = "bench_owner";
const READER: &str = "bench_reader";

/// The backup that the swaps of the bench alternate with.
pub(crate) fn backup() -> Generation {
    Generation::Backup("2608011200".parse().unwrap())
}

impl Server {
    /// Connects to the server of `LOCAL_PG_URL` and prepares it.
    pub(crate) async fn connect() -> Self {
        let url = std::env::var("LOCAL_PG_URL")
            .expect("LOCAL_PG_URL: the URL of a superuser on a throw-away Postgres; e2e/bench/swap/run sets it");
        let options = PgConnectOptions::from_str(&url).unwrap();
        let mut server = Self { admin: PgConnection::connect_with(&options).await.unwrap(), options };
        for role in [OWNER, READER] {
            let known = format!("SELECT 1 FROM pg_roles WHERE rolname = '{role}'");
            if sqlx::raw_sql(AssertSqlSafe(known)).fetch_optional(&mut server.admin).await.unwrap().is_none() {
                server.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'bench'")).await;
            }
        }
        // What the operator's documentation asks for: without it a swap cannot send autovacuum away.
        server.run(&format!("GRANT SET ON PARAMETER deadlock_timeout TO {OWNER}; GRANT pg_read_all_stats TO {OWNER}")).await;
        // What pg_repack's settings ask for.
        server.run(&format!("GRANT pg_signal_backend TO {OWNER}")).await;
        // Autovacuum comes back at once.
        server.run("ALTER SYSTEM SET autovacuum_naptime = '1s'").await;
        server.run("SELECT pg_reload_conf()").await;
        server
    }

    /// A portal of so many sites with both releases in full, which took the operator's own way there.
    pub(crate) async fn create(&mut self, name: &str, sites: u32) -> Database {
        self.drop(name).await;
        self.run(&format!("CREATE DATABASE {name} OWNER {OWNER}")).await;
        let database = self.open(name, sites).await;
        run(&database.admin, &format!("ALTER SCHEMA public OWNER TO {OWNER}; GRANT USAGE ON SCHEMA public TO PUBLIC")).await;
        shape::create(&database.admin, &database.owner, READER).await;
        for release in 1..=2 {
            shape::stage(&database.owner, release, sites).await;
            one_swap(&database.owner, &shape::relations(), &Generation::Staging, &backup()).await.unwrap();
            if release == 1 {
                let mut conn = database.owner.acquire().await.unwrap();
                let Generation::Backup(stamp) = backup() else { unreachable!("it is a backup") };
                portal_release_operator::database::backups::drop(&mut conn, &shape::relations(), stamp).await.unwrap();
            }
            staging::drop_all(&mut database.owner.acquire().await.unwrap(), &shape::relations()).await.unwrap();
        }
        run(&database.admin, "VACUUM (ANALYZE)").await;
        run(&database.admin, "CHECKPOINT").await;
        database
    }

    /// A copy of a database that nobody is connected to.
    pub(crate) async fn copy(&mut self, from: &str, name: &str, sites: u32) -> Database {
        self.drop(name).await;
        self.run(&format!("CREATE DATABASE {name} TEMPLATE {from} OWNER {OWNER}")).await;
        self.open(name, sites).await
    }

    pub(crate) async fn drop(&mut self, name: &str) {
        self.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    }

    async fn open(&self, name: &str, sites: u32) -> Database {
        let options = self.options.clone().database(name);
        let pool = async |options| PgPoolOptions::new().max_connections(6).connect_with(options).await.unwrap();
        Database {
            sites,
            owner: pool(options.clone().username(OWNER).password("bench").application_name("swap")).await,
            admin: pool(options.clone().application_name("bench")).await,
            reader: options.username(READER).password("bench"),
        }
    }

    async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.admin).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// The table that autovacuum works on.
const VACUUMED: &str = "countries_protected_areas";

impl Database {
    /// Gives autovacuum work on both generations of one table that takes it longer than the bench: it sleeps after
    /// each page.
    pub(crate) async fn let_autovacuum_work(&self) {
        for table in [VACUUMED.to_owned(), backup().name(VACUUMED)] {
            run(
                &self.owner,
                &format!(
                    "ALTER TABLE {table} SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                         autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0);
                     UPDATE {table} SET release = release"
                ),
            )
            .await;
        }
    }

    /// Is autovacuum at work on what is live?
    pub(crate) async fn autovacuum_works(&self) -> bool {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = $1::regclass)";
        sqlx::query_scalar(sql).bind(VACUUMED).fetch_one(&self.admin).await.unwrap()
    }

    pub(crate) async fn close(&self) {
        self.owner.close().await;
        self.admin.close().await;
    }
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
