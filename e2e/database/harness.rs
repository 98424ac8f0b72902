//! A fresh database per test, owned by a role that is no superuser, and sentences to write tests with.

use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::views::{MaterializedViewSpec, create_staged};
use portal_release_operator::database::{dependents, staging, swap};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

/// One database of one test.
pub(crate) struct Portal {
    pub(crate) pool: PgPool,
    pub(crate) admin: PgPool,
    pub(crate) relations: Relations,
    pub(crate) owner: String,
}

/// A materialized view to stage.
pub(crate) fn staged(name: &str, query: &str) -> MaterializedViewSpec {
    MaterializedViewSpec { name: name.to_owned(), sql: query.to_owned(), ..MaterializedViewSpec::default() }
}

/// An order without anything special.
pub(crate) fn order<'a>(relations: &'a Relations, incoming: &'a Generation, outgoing: &'a Generation) -> swap::SwapRequest<'a> {
    let (limits, cancel_blockers) = (swap::Limits::default(), swap::CancelBlockers::default());
    swap::SwapRequest { relations, incoming, outgoing, finally: &[], limits, cancel_blockers }
}

pub(crate) const AREA_TOTALS: &str = "SELECT release, count(*) AS areas FROM public.staging_protected_areas GROUP BY release";
pub(crate) const AREA_REPORT: &str = "SELECT release, areas, areas * 2 AS twice FROM public.staging_area_totals";

/// Runs `test` on a fresh small portal at release `first`, and drops it afterwards.
pub(crate) fn with_portal<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<Portal>) -> F) {
    let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let relations = Relations {
        schema: "public".into(),
        tables: strings(&["sources", "protected_areas", "countries_pas"]),
        views: strings(&["area_totals", "area_report"]),
        lookups: strings(&["designations", "governances"]),
    };
    with_database(relations, async |portal| {
        let [reader, writer] = ["reader", "writer"].map(|role| portal.role(role));
        for script in [include_str!("schema.sql"), include_str!("dependents.sql")] {
            portal.run(&script.replace(":reader", &reader).replace(":writer", &writer)).await;
        }
        portal.fill(&Generation::Live, "first").await;
        portal.run("REFRESH MATERIALIZED VIEW area_totals; REFRESH MATERIALIZED VIEW area_report").await;
        test(portal).await;
    });
}

/// Runs `test` on a fresh database without relations and drops it afterwards, also when the test fails.
pub(crate) fn with_database<F: Future<Output = ()>>(relations: Relations, test: impl FnOnce(std::sync::Arc<Portal>) -> F) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let url = std::env::var("LOCAL_PG_URL").expect("LOCAL_PG_URL: the URL of a superuser on a throw-away Postgres");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let name = format!("swap_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let options = PgConnectOptions::from_str(&url).unwrap();
    let outcome = runtime.block_on(async {
        let mut server = PgConnection::connect_with(&options).await.unwrap();
        let roles = ["owner", "reader", "writer"].map(|role| format!("{name}_{role}"));
        for role in &roles {
            execute(&mut server, &format!("CREATE ROLE {role} LOGIN PASSWORD 'test'")).await;
        }
        let [owner, ..] = roles.clone();
        execute(&mut server, &format!("CREATE DATABASE {name} OWNER {owner}")).await;
        let admin = pool(options.clone().database(&name)).await;
        run(&admin, &format!("ALTER SCHEMA public OWNER TO {owner}; GRANT USAGE ON SCHEMA public TO PUBLIC")).await;
        let pool = pool(options.clone().database(&name).username(&owner).password("test")).await;
        let portal = std::sync::Arc::new(Portal { pool: pool.clone(), admin: admin.clone(), relations, owner });
        let local = tokio::task::LocalSet::new();
        let result = local.run_until(futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(test(portal)))).await;
        pool.close().await;
        admin.close().await;
        execute(&mut server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        for role in &roles {
            execute(&mut server, &format!("DROP ROLE {role}")).await;
        }
        result
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(12).connect_with(options).await.unwrap()
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Executes SQL that must succeed.
pub(crate) async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Compares two catalogues and shows only what differs.
#[track_caller]
pub(crate) fn same(before: &[String], after: &[String]) {
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

/// Polls until it is so.
pub(crate) async fn until_true(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    for _ in 0..400 {
        if look().await {
            return;
        }
        ticks.tick().await;
    }
    panic!("timed out waiting for {what}");
}

impl Portal {
    /// The name of this database's `owner`, `reader` or `writer`.
    pub(crate) fn role(&self, role: &str) -> String {
        format!("{}_{role}", self.owner.trim_end_matches("_owner"))
    }

    pub(crate) async fn run(&self, sql: &str) {
        run(&self.pool, sql).await;
    }

    /// The single value of a query.
    pub(crate) async fn get<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Rows that say which release they belong to.
    pub(crate) async fn fill(&self, generation: &Generation, release: &str) {
        let name = |base| generation.name(base);
        self.run(&format!(
            "INSERT INTO {sources} (title, release) SELECT 'source ' || n, '{release}' FROM generate_series(1, 5) n;
             INSERT INTO {areas} (site_id, release, area, designation_id) SELECT n, '{release}', n, 1 FROM generate_series(1, 50) n;
             INSERT INTO {junction} SELECT 1, a.id, (SELECT min(id) FROM {sources}) FROM {areas} a",
            sources = name("sources"),
            areas = name("protected_areas"),
            junction = name("countries_pas"),
        ))
        .await;
    }

    /// A complete staging with the rows of `release`.
    pub(crate) async fn stage(&self, release: &str) {
        self.stage_with(async || self.fill(&Generation::Staging, release).await).await;
    }

    /// A complete staging with what `load` puts into its tables.
    pub(crate) async fn stage_with<F: Future<Output = ()>>(&self, load: impl FnOnce() -> F) {
        let mut conn = self.pool.acquire().await.unwrap();
        staging::build(&mut conn, &self.relations, true).await.unwrap();
        for lookup in &self.relations.lookups {
            staging::build_lookup(&mut conn, "public", lookup).await.unwrap();
        }
        load().await;
        for (view, query) in [("area_totals", AREA_TOTALS), ("area_report", AREA_REPORT)] {
            create_staged(&mut conn, "public", &staged(view, query)).await.unwrap();
        }
        staging::complete(&mut conn, &self.relations).await.unwrap();
    }

    /// What ValidateAndManifest does to staging before it may go live.
    pub(crate) async fn vacuum(&self) {
        for name in self.relations.names(&Generation::Staging) {
            self.run(&format!("VACUUM (FREEZE, ANALYZE) {name}")).await;
        }
    }

    /// Lock, publish, exchange, commit.
    pub(crate) async fn exchange(&self, incoming: &Generation, outgoing: &Generation) -> swap::Exchanged {
        self.try_exchange(incoming, outgoing).await.unwrap()
    }

    pub(crate) async fn try_exchange(&self, incoming: &Generation, outgoing: &Generation) -> Result<swap::Exchanged, swap::SwapError> {
        let order = order(&self.relations, incoming, outgoing);
        let (tx, exchanged) = swap::exchange(&self.pool, &order, &self.pool, &CancellationToken::new()).await?;
        commit(tx).await.map_err(|source| swap::SwapError::Database { what: "COMMIT".to_owned(), source })?;
        let mut conn = self.pool.acquire().await.unwrap();
        dependents::drop_replaced(&mut conn).await.unwrap();
        assert_eq!(swap::validate_constraints(&mut conn, &self.relations).await.unwrap(), Vec::<String>::new());
        Ok(exchanged)
    }

    pub(crate) async fn release(&self) -> String {
        self.get("SELECT DISTINCT release FROM protected_areas").await
    }

    /// Every relation of the schema that is neither staging nor backup, with its OID. Without the views of whole rows, which a
    /// swap must recreate.
    pub(crate) async fn oids(&self) -> Vec<(String, Oid)> {
        self.named("relname !~ '^(staging_|bk[0-9]{10}_|whole)'").await
    }

    pub(crate) async fn named(&self, condition: &str) -> Vec<(String, Oid)> {
        let sql = format!("SELECT relname::text, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND {condition} ORDER BY 1");
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&self.pool).await.unwrap()
    }

    /// What pg_dump says about everything that is neither staging nor backup: a witness that shares nothing with the operator.
    pub(crate) async fn catalogue(&self) -> Vec<String> {
        let options = self.admin.connect_options();
        let output = tokio::process::Command::new("pg_dump")
            .args(["--schema-only", "-T", "staging_*", "-T", "bk??????????_*", "-h", options.get_host(), "-U", options.get_username()])
            .args(["-p", &options.get_port().to_string(), options.get_database().unwrap()])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // Without the random key of \restrict, and in an order that does not depend on identities.
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.starts_with('\\')).map(|line| line.trim_end_matches(',').to_owned()).collect();
        lines.sort();
        lines
    }
}
