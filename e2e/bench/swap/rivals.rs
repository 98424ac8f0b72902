//! How others would swap the same relations. All of them rename in one transaction; they differ in how they wait for locks.
//!
//! They are given more than they have: ordinary views and bound functions are written again in the transaction, which
//! neither the former release system nor the two tools do.

use std::time::{Duration, Instant};

use portal_release_operator::database::identifiers::{Generation, Relations};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::readers::random;

/// A way to wait for locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rival {
    /// What the portal does today: renames one by one with a lock timeout of 30 s and a statement timeout of 5 min, and
    /// the downloads view in a transaction of its own afterwards.
    Renames,
    /// pgroll (pkg/db/db.go, 2024-2026, and its flag --lock-timeout): lock timeout 500 ms; on SQLSTATE 55P03 the whole
    /// transaction again after a pause that doubles from 1 s to 1 min, with jitter. Any other error ends it.
    Pgroll,
    /// pg_repack 1.5 (bin/pg_repack.c, lock_exclusive, and its option --wait-timeout): LOCK TABLE one table after the
    /// other, each waiting 100 ms, 200 ms ... 1 s again and again behind a savepoint; after 60 s it cancels who is in
    /// the way, after 120 s it ends their sessions. Then the renames.
    PgRepack,
}

impl Rival {
    pub(crate) const ALL: [Self; 3] = [Self::Renames, Self::Pgroll, Self::PgRepack];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Renames => "plain renames",
            Self::Pgroll => "pgroll style",
            Self::PgRepack => "pg_repack style",
        }
    }

    /// One swap. Returns how long the first lock that it got, and the others after it, were held.
    ///
    /// # Errors
    /// What made it give up; nothing has changed then.
    pub(crate) async fn swap(
        self,
        pool: &PgPool,
        relations: &Relations,
        incoming: &Generation,
        outgoing: &Generation,
    ) -> Result<Duration, sqlx::Error> {
        let script = Script::read(pool, relations, incoming, outgoing).await?;
        match self {
            Self::Renames => {
                let renames = script.tables.iter().chain(&script.parts).chain(&script.views).chain(&script.others);
                let held = transaction(pool, "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '5min'", renames).await?;
                execute(&mut *pool.acquire().await?, &script.downloads).await?;
                Ok(held)
            }
            Self::Pgroll => {
                let renames: Vec<&String> = script.everything().collect();
                let mut pause = Duration::from_secs(1);
                let began = Instant::now();
                loop {
                    match transaction(pool, "SET LOCAL lock_timeout = '500ms'", renames.iter().copied()).await {
                        // It would continue for ever; the bench does not.
                        Err(error) if code(&error) == "55P03" && began.elapsed() < Duration::from_secs(60) => {
                            tokio::time::sleep(pause * (random() % 256) / 256).await;
                            pause = Duration::from_secs(60).min(pause * 2);
                        }
                        outcome => return outcome,
                    }
                }
            }
            Self::PgRepack => {
                let mut tx = pool.begin().await?;
                let mut first = None;
                for (relation, lock) in &script.locks {
                    lock_exclusive(&mut tx, relation, lock).await?;
                    first.get_or_insert_with(Instant::now);
                }
                execute(&mut tx, "SET LOCAL lock_timeout = 0").await?;
                for statement in script.everything() {
                    execute(&mut tx, statement).await?;
                }
                tx.commit().await?;
                Ok(first.map_or(Duration::ZERO, |first| first.elapsed()))
            }
        }
    }
}

/// One statement after the other, as each takes its own lock.
async fn transaction<'a>(pool: &PgPool, settings: &str, statements: impl Iterator<Item = &'a String>) -> Result<Duration, sqlx::Error> {
    let mut tx = pool.begin().await?;
    execute(&mut tx, settings).await?;
    let mut first = None;
    for statement in statements {
        execute(&mut tx, statement).await?;
        first.get_or_insert_with(Instant::now);
    }
    tx.commit().await?;
    Ok(first.map_or(Duration::ZERO, |first| first.elapsed()))
}

async fn lock_exclusive(tx: &mut PgConnection, relation: &str, lock: &str) -> Result<(), sqlx::Error> {
    let began = Instant::now();
    for round in 1.. {
        execute(tx, "SAVEPOINT locking").await?;
        let waited = began.elapsed().as_secs();
        if waited > 60 {
            let end = if waited > 120 { "pg_terminate_backend" } else { "pg_cancel_backend" };
            let sql = format!(
                "SELECT {end}(pid) FROM pg_locks WHERE locktype = 'relation' AND relation = '{relation}'::regclass AND pid <> pg_backend_pid()"
            );
            execute(tx, &sql).await?;
        }
        let patience = 1000.min(round * 100);
        match execute(tx, &format!("SET LOCAL lock_timeout = {patience}; {lock}")).await {
            Err(error) if code(&error) == "55P03" => execute(tx, "ROLLBACK TO SAVEPOINT locking").await?,
            outcome => return outcome,
        }
    }
    Ok(())
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.map(drop)
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

/// The statements of one swap, in the order of the portal's runbook.
struct Script {
    /// Away and home, table by table.
    tables: Vec<String>,
    /// Their indexes and sequences.
    parts: Vec<String>,
    /// The materialized views with their indexes.
    views: Vec<String>,
    /// Ordinary views but one, and bound functions.
    others: Vec<String>,
    /// The downloads view.
    downloads: String,
    /// Every relation by name, and how it is locked.
    locks: Vec<(String, String)>,
}

impl Script {
    async fn read(pool: &PgPool, relations: &Relations, incoming: &Generation, outgoing: &Generation) -> Result<Self, sqlx::Error> {
        let mut script = Self { tables: vec![], parts: vec![], views: vec![], others: vec![], downloads: String::new(), locks: vec![] };
        let twice = |kind: &str, base: &str| {
            [(String::from(base), outgoing.name(base)), (incoming.name(base), String::from(base))]
                .map(|(from, to)| format!("ALTER {kind} public.{from} RENAME TO {to}"))
        };
        for table in &relations.tables {
            script.tables.extend(twice("TABLE", table));
            for base in [table, &incoming.name(table)] {
                script.locks.push((base.clone(), format!("LOCK TABLE public.{base} IN ACCESS EXCLUSIVE MODE")));
            }
        }
        for view in &relations.views {
            script.views.extend(twice("MATERIALIZED VIEW", view));
            for base in [view, &incoming.name(view)] {
                // LOCK TABLE does not take them.
                script.locks.push((base.clone(), format!("ALTER MATERIALIZED VIEW public.{base} OWNER TO CURRENT_USER")));
            }
        }
        let parts: Vec<(String, String)> = sqlx::query_as(
            "SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'INDEX' END, relname::text FROM pg_class
             WHERE oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($1::regclass[]))
                OR relkind = 'S' AND oid IN (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
                   AND refobjid = ANY ($1::regclass[]))",
        )
        .bind(relations.names(&Generation::Live))
        .fetch_all(pool)
        .await?;
        script.parts.extend(parts.iter().flat_map(|(kind, base)| twice(kind, base)));
        let views: Vec<(String, String)> = sqlx::query_as(
            "SELECT relname::text, 'CREATE OR REPLACE VIEW public.' || relname
                    || coalesce(' WITH (' || array_to_string(reloptions, ', ') || ')', '') || ' AS ' || pg_get_viewdef(oid)
             FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace AND relowner = current_user::regrole ORDER BY oid",
        )
        .fetch_all(pool)
        .await?;
        for (name, sql) in views {
            if name == "portal_downloads_protected_areas" { script.downloads = sql } else { script.others.push(sql) }
        }
        let functions: Vec<String> = sqlx::query_scalar(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE prosqlbody IS NOT NULL AND proowner = current_user::regrole",
        )
        .fetch_all(pool)
        .await?;
        script.others.extend(functions);
        Ok(script)
    }

    fn everything(&self) -> impl Iterator<Item = &String> {
        self.tables.iter().chain(&self.parts).chain(&self.views).chain(&self.others).chain([&self.downloads])
    }
}
