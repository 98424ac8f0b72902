//! Holds an import up in the middle of its transaction, for as long as a test wants.

use sqlx::{Connection, PgConnection};

use super::{Stage, until};

/// The advisory lock that held up transactions wait for. It is no key of the operator's.
const KEY: i64 = 4711;

/// A gate, shut until it is opened.
pub struct Gate {
    keeper: PgConnection,
}

impl Gate {
    /// Shuts a gate before `import`: a transaction that has inserted all its rows waits there before it commits. The operator must
    /// run, for the ledger is its own.
    pub async fn shut(stage: &Stage, import: &str) -> Self {
        until("the ledger is there", || async {
            (stage.text("SELECT to_regclass('portal_release.release_events') IS NOT NULL").await == "true").then_some(())
        })
        .await;
        let gate = Self::shut_again(stage).await;
        stage
            .execute(&format!(
                "CREATE SCHEMA IF NOT EXISTS e2e;
                 CREATE OR REPLACE FUNCTION e2e.gate() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN PERFORM pg_advisory_xact_lock_shared({KEY}); RETURN NEW; END $$;
                 CREATE TRIGGER gate BEFORE UPDATE ON portal_release.imports FOR EACH ROW
                 WHEN (NEW.import = '{import}' AND NEW.state = 'Succeeded') EXECUTE FUNCTION e2e.gate()"
            ))
            .await;
        gate
    }

    /// Shuts the gate of this stage once more.
    pub async fn shut_again(stage: &Stage) -> Self {
        let mut keeper = PgConnection::connect(&stage.env["STAGE_ADMIN_DATABASE_URL"]).await.expect("a connection");
        sqlx::query("SELECT pg_advisory_lock($1)").bind(KEY).execute(&mut keeper).await.expect("the gate's lock");
        Self { keeper }
    }

    /// Waits until a backend is blocked at the gate; returns its process id.
    pub async fn someone(&self, stage: &Stage) -> i32 {
        let sql = format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {KEY} AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        until("an import waits at the gate", || async { stage.text(&sql).await.parse().ok() }).await
    }

    /// Lets everyone through.
    pub async fn open(self) {
        self.keeper.close().await.expect("the gate's connection closes");
    }
}
