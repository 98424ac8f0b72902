//! A small portal on a server of its own: two tables, a materialized view, a view of the site's, and the ledger.

use portal_release_operator::database::commit;
use portal_release_operator::database::connection::connect;
use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::ledger::exchange::{Exchange, record_exchange};
use portal_release_operator::database::staging;
use portal_release_operator::database::swap::{self, CancelBlockers, Hooks, Limits, SwapError, SwapPlan, SwapRequest};
use portal_release_operator::database::views::{MaterializedViewSpec, create_staged};
use portal_release_operator::release::Incoming;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// The portal's name in the ledger.
pub(crate) const KEY: &str = "test/portal";
/// The role that the operator has.
pub(crate) const OWNER: &str = "portal_owner";

const TABLES: &str = "
    CREATE TABLE sources (id serial PRIMARY KEY, release text NOT NULL);
    CREATE TABLE areas (id bigserial PRIMARY KEY, source_id integer NOT NULL REFERENCES sources, release text NOT NULL, notes text);
    CREATE INDEX areas_notes ON areas (notes);
    CREATE MATERIALIZED VIEW totals AS SELECT release, count(*) AS areas FROM areas GROUP BY release;
    CREATE VIEW report AS SELECT a.id, a.release, s.release AS source_release FROM areas a JOIN sources s ON s.id = a.source_id";
const TOTALS: &str = "SELECT release, count(*) AS areas FROM staging_areas GROUP BY release";

/// A portal, and the roles that work on it.
pub(crate) struct Portal {
    pub(crate) owner: PgPool,
    pub(crate) admin: PgPool,
    pub(crate) relations: Relations,
}

impl Portal {
    /// Makes the database `portal` with release `first` live and a ledger that knows of no release. `tablespace` holds the tables.
    pub(crate) async fn create(server: &Server, tablespace: &str) -> Self {
        let maintenance = server.pool("postgres", "postgres").await;
        run(&maintenance, &format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{}'", server.password())).await;
        run(&maintenance, &format!("CREATE DATABASE portal OWNER {OWNER}")).await;
        maintenance.close().await;
        let (ledger, _) = connect(&server.url(OWNER, "portal"), "public", "test").await.unwrap();
        run(&ledger, &format!("INSERT INTO portal_release.portals (portal) VALUES ('{KEY}')")).await;
        ledger.close().await;
        let relations = Relations {
            schema: "public".into(),
            tables: vec!["sources".into(), "areas".into()],
            views: vec!["totals".into()],
            lookups: vec![],
        };
        let portal = Self { owner: server.pool(OWNER, "portal").await, admin: server.pool("postgres", "portal").await, relations };
        run(&portal.admin, &format!("ALTER SCHEMA public OWNER TO {OWNER}; GRANT CREATE ON TABLESPACE {tablespace} TO {OWNER}")).await;
        portal.run(&format!("SET default_tablespace = {tablespace}; {TABLES}; RESET default_tablespace")).await;
        portal.fill(&Generation::Live, "first").await;
        portal.run("REFRESH MATERIALIZED VIEW totals").await;
        portal
    }

    /// SQL of the owner that must succeed.
    pub(crate) async fn run(&self, sql: &str) {
        run(&self.owner, sql).await;
    }

    /// One value, as text; empty when there is none.
    pub(crate) async fn text(&self, sql: &str) -> String {
        text(&self.admin, sql).await
    }

    /// Rows that say which release they belong to.
    pub(crate) async fn fill(&self, generation: &Generation, release: &str) {
        self.run(&format!(
            "INSERT INTO {sources} (release) SELECT '{release}' FROM generate_series(1, 5);
             INSERT INTO {areas} (source_id, release, notes)
             SELECT (SELECT min(id) FROM {sources}), '{release}', 'note ' || n FROM generate_series(1, 200) n",
            sources = generation.name("sources"),
            areas = generation.name("areas"),
        ))
        .await;
    }

    /// A complete staging of a release, and its row in the ledger. Returns its id there.
    pub(crate) async fn stage(&self, release: &str) -> i64 {
        let mut conn = self.owner.acquire().await.unwrap();
        staging::build(&mut conn, &self.relations, true).await.unwrap();
        self.fill(&Generation::Staging, release).await;
        let totals = MaterializedViewSpec { name: "totals".into(), sql: TOTALS.into(), ..MaterializedViewSpec::default() };
        create_staged(&mut conn, "public", &totals).await.unwrap();
        staging::complete(&mut conn, &self.relations).await.unwrap();
        let insert =
            "INSERT INTO portal_release.releases (portal, label, name, uid, state) VALUES ($1, $2, $2, $2, 'Running') RETURNING id";
        sqlx::query_scalar(insert).bind(KEY).bind(release).fetch_one(&mut *conn).await.unwrap()
    }

    /// Everything up to COMMIT.
    pub(crate) async fn exchange(&self, release: i64, outgoing: &Generation) -> Result<Transaction<'static, Postgres>, SwapError> {
        let frame = Recorded { portal: self, release, outgoing };
        let order = SwapRequest {
            relations: &self.relations,
            incoming: &Generation::Staging,
            outgoing,
            finally: &[],
            limits: Limits::default(),
            cancel_blockers: CancelBlockers::default(),
        };
        swap::exchange(&self.owner, &order, &frame, &CancellationToken::new()).await.map(|(tx, _)| tx)
    }

    /// What the operator does, however often: looks the release up in the ledger, and swaps unless it is live. Says if it did.
    pub(crate) async fn swap_unless_done(&self, release: i64, outgoing: &Generation) -> bool {
        if self.text(&format!("SELECT current_release FROM portal_release.portals WHERE portal = '{KEY}'")).await == release.to_string() {
            return false;
        }
        commit(self.exchange(release, outgoing).await.unwrap()).await.unwrap();
        true
    }

    /// Which release readers see, in every relation: `first`, or `first,second` when they see a mix.
    pub(crate) async fn live(&self) -> String {
        text(&self.admin, LIVE).await
    }
}

/// Which releases one statement sees.
pub(crate) const LIVE: &str = "SELECT string_agg(release, ',' ORDER BY release) FROM (
    SELECT release FROM sources UNION SELECT release FROM areas UNION SELECT release FROM totals
    UNION SELECT release FROM report UNION SELECT source_release FROM report) AS seen";

/// The swap's transaction, with its rows of the ledger in it.
struct Recorded<'a> {
    portal: &'a Portal,
    release: i64,
    outgoing: &'a Generation,
}

impl Hooks for Recorded<'_> {
    type Tx = Transaction<'static, Postgres>;
    type Error = SwapError;

    async fn begin(&self, plan: &SwapPlan) -> Result<Self::Tx, SwapError> {
        let mut tx = self.portal.owner.begin().await.unwrap();
        let (incoming, outgoing, moved) = (&Generation::Staging, self.outgoing, plan.moved.as_slice());
        let exchange = Exchange {
            portal: KEY.to_owned(),
            release: self.release,
            source: Incoming::Staging,
            phase: "FinaliseSwap",
            incoming,
            outgoing,
            moved,
        };
        record_exchange(&mut tx, &exchange).await.unwrap();
        Ok(tx)
    }
}

/// The generation of a backup.
pub(crate) fn backup(stamp: &str) -> Generation {
    Generation::Backup(stamp.parse().unwrap())
}

/// SQL that must succeed.
pub(crate) async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// One value, as text; empty when there is none.
pub(crate) async fn text(pool: &PgPool, sql: &str) -> String {
    let wrapped = format!("SELECT (SELECT row::text FROM ({sql}) AS q(row) LIMIT 1)");
    let value: Option<String> =
        sqlx::query_scalar(AssertSqlSafe(wrapped)).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    value.unwrap_or_default()
}

/// Polls until it is so.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    for _ in 0..1200 {
        if look().await {
            return;
        }
        ticks.tick().await;
    }
    panic!("timed out waiting for {what}");
}
