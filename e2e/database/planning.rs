//! The swap is planned before anything is locked: a change in between is noticed under the locks, and the swap is planned again.

use std::sync::Mutex;
use std::time::Duration;

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::swap::{self, Hooks, SwapError, SwapPlan};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::harness::{order, until_true, with_portal};

/// Another session changes the database right after the swap was planned, once.
struct Meddler<'a> {
    pool: &'a PgPool,
    sql: Mutex<Option<String>>,
    plans: Mutex<u32>,
}

impl Hooks for Meddler<'_> {
    type Tx = Transaction<'static, Postgres>;
    type Error = SwapError;

    async fn begin(&self, _plan: &SwapPlan) -> Result<Self::Tx, SwapError> {
        *self.plans.lock().unwrap() += 1;
        let sql = self.sql.lock().unwrap().take();
        if let Some(sql) = sql {
            sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(self.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        Ok(self.pool.begin().await.unwrap())
    }
}

#[test]
fn what_changes_after_the_plan_was_made_makes_another_plan() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let reader = portal.role("reader");
        let grant = format!("GRANT UPDATE ON comments TO {reader}; GRANT SELECT ON area_report TO {reader} WITH GRANT OPTION");
        let (mut incoming, mut outgoing) = (Generation::Staging, Generation::Backup("2607011200".parse().unwrap()));
        for change in [
            "CREATE VIEW late AS SELECT release FROM sources",
            "CREATE OR REPLACE VIEW late AS SELECT release, title FROM sources",
            "COMMENT ON VIEW late IS 'late'",
            "ALTER VIEW late SET (security_barrier)",
            "ALTER TABLE comments RENAME CONSTRAINT about TO thereof",
            "CREATE POLICY late ON comments FOR DELETE USING (EXISTS (SELECT FROM sources))",
            "CREATE FUNCTION late() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM sources; END",
            "CREATE OR REPLACE FUNCTION late() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) + 1 FROM sources; END",
            "CREATE RULE late AS ON INSERT TO comments DO ALSO DELETE FROM sources WHERE false",
            "CREATE FUNCTION titled(sources) RETURNS text LANGUAGE sql AS 'SELECT $1.title'",
            "CREATE TABLE latecomers (id int REFERENCES sources)",
            "CREATE INDEX late_index ON sources (touched)",
            "ALTER INDEX protected_areas_large RENAME TO protected_areas_huge",
            &grant,
        ] {
            let meddler = Meddler { pool: &portal.pool, sql: Mutex::new(Some(change.to_owned())), plans: Mutex::default() };
            let order = order(&portal.relations, &incoming, &outgoing);
            let (tx, _) = swap::exchange(&portal.pool, &order, &meddler, &CancellationToken::new()).await.expect(change);
            commit(tx).await.expect(change);
            assert_eq!(*meddler.plans.lock().unwrap(), 2, "{change}");
            // Nothing of live is bound to what is a backup now.
            let behind = "SELECT count(*) FROM pg_depend d JOIN pg_class b ON b.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass AND b.relname ~ '^bk'
                          JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class AND v.relname !~ '^(bk|staging_)'";
            assert_eq!(portal.get::<i64>(behind).await, 0, "{change}");
            std::mem::swap(&mut incoming, &mut outgoing);
        }
    });
}

/// The catalogue is checked before the locks are requested; under them only when a transaction has ended since.
#[test]
fn what_changes_while_the_swap_waits_for_its_locks_makes_another_plan() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let mut reader = portal.pool.begin().await.unwrap();
        sqlx::raw_sql("SELECT FROM sources").execute(&mut *reader).await.unwrap();
        let grant = format!("GRANT UPDATE ON comments TO {}", portal.role("reader"));
        let meddler = Meddler { pool: &portal.pool, sql: Mutex::default(), plans: Mutex::default() };
        let outgoing = Generation::Backup("2607011200".parse().unwrap());
        let mut order = order(&portal.relations, &Generation::Staging, &outgoing);
        // The attempts are long enough for the reader to go in the middle of one.
        order.limits.attempt = Duration::from_secs(20);
        let swap = async {
            let (tx, exchanged) = swap::exchange(&portal.pool, &order, &meddler, &CancellationToken::new()).await.unwrap();
            commit(tx).await.unwrap();
            exchanged
        };
        let meddle = async {
            let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'sources'::regclass)";
            until_true("a swap that waits", async || portal.get::<bool>(waits).await).await;
            portal.run(&grant).await;
            reader.rollback().await.unwrap();
        };
        let (exchanged, ()) = tokio::join!(swap, meddle);
        assert_eq!(exchanged.attempts, 2, "the change came in the middle of an attempt");
        assert_eq!(*meddler.plans.lock().unwrap(), 2);
        assert_eq!(portal.release().await, "second");
    });
}

#[test]
fn a_relation_that_is_dropped_after_the_plan_was_made_is_named() {
    with_portal(async |portal| {
        portal.stage("second").await;
        let before = portal.named("relname !~ '^staging_'").await;
        let meddler =
            Meddler { pool: &portal.pool, sql: Mutex::new(Some("DROP TABLE staging_countries_pas".into())), plans: Mutex::default() };
        let outgoing = Generation::Backup("2607011200".parse().unwrap());
        let order = order(&portal.relations, &Generation::Staging, &outgoing);
        let swapped = swap::exchange(&portal.pool, &order, &meddler, &CancellationToken::new()).await;
        let error = swapped.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("public.staging_countries_pas does not exist"), "{error}");
        assert_eq!(portal.named("relname !~ '^staging_'").await, before);
    });
}
