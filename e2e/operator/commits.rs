//! COMMIT of the swap was sent, and no answer came: the operator looks up what became of it, and never guesses.
//!
//! The local Postgres names a synchronous standby that does not exist. A transaction that asks for it hangs in COMMIT after it has
//! committed; one with a deferred trigger that sleeps hangs in COMMIT before it has.

use portal_release_operator::api::{PhaseName, ReleaseState};

use crate::support::{Operator, Stage, until};

/// Where the swap's COMMIT hangs.
#[derive(Clone, Copy, PartialEq)]
enum Hangs {
    /// What it committed exists.
    Committed,
    /// It will be rolled back.
    Undone,
}

impl Hangs {
    /// What its backend waits for.
    fn event(self) -> &'static str {
        match self {
            Self::Committed => "SyncRep",
            Self::Undone => "PgSleep",
        }
    }

    /// Lets the next swap hang in COMMIT.
    async fn set(self, stage: &Stage) {
        until("the ledger is there", || async {
            (stage.text("SELECT to_regclass('portal_release.release_events') IS NOT NULL").await == "true").then_some(())
        })
        .await;
        let (kind, body) = match self {
            Self::Committed => {
                ("TRIGGER hang AFTER UPDATE ON portal_release.portals", "PERFORM set_config('synchronous_commit', 'on', true)")
            }
            Self::Undone => {
                ("CONSTRAINT TRIGGER hang AFTER UPDATE ON portal_release.portals DEFERRABLE INITIALLY DEFERRED", "PERFORM pg_sleep(3600)")
            }
        };
        stage
            .execute(&format!(
                "CREATE SCHEMA IF NOT EXISTS e2e;
                 CREATE OR REPLACE FUNCTION e2e.hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
                 CREATE {kind} FOR EACH ROW WHEN (OLD.current_release IS DISTINCT FROM NEW.current_release) EXECUTE FUNCTION e2e.hang()"
            ))
            .await;
    }

    /// Waits until the swap hangs in COMMIT; returns the backend.
    async fn backend(self, stage: &Stage) -> String {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND wait_event = '{}'",
            self.event()
        );
        until("COMMIT hangs", || async { Some(stage.text(&sql).await).filter(|pid| !pid.is_empty()) }).await
    }
}

/// A release whose swap hangs in COMMIT.
async fn hanging(name: &str, hangs: Hangs) -> (Stage, Operator, String) {
    let stage = Stage::new(name).await;
    let operator = stage.operator().await;
    hangs.set(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let backend = hangs.backend(&stage).await;
    (stage, operator, backend)
}

async fn disarm(stage: &Stage) {
    stage.execute("CREATE OR REPLACE FUNCTION e2e.hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$").await;
}

/// The ledger and the catalogue agree, and nothing was done twice.
async fn assert_once(stage: &Stage) {
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'Swapped'").await, "1");
    assert_eq!(stage.text("SELECT count(DISTINCT backup) FROM portal_release.backups WHERE gone_at IS NULL").await, "1");
    let lost = "SELECT string_agg(b.name, ', ') FROM portal_release.backups b LEFT JOIN pg_class c ON c.oid = b.relation_oid AND c.relname = b.backup_name
                WHERE b.kind IN ('table', 'materialized view', 'index') AND b.gone_at IS NULL AND c.oid IS NULL";
    assert_eq!(stage.text(lost).await, "", "every backup is what the ledger says, by identity and name");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.runs WHERE closed_at IS NULL").await, "0");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_eq!(stage.staging().await, "");
}

async fn ended_backend(name: &str, hangs: Hangs, attempts: i32) {
    let (stage, _operator, backend) = hanging(name, hangs).await;
    disarm(&stage).await;
    assert_eq!(stage.text(&format!("SELECT pg_terminate_backend({backend})")).await, "true");
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let swap = status.phases.iter().find(|phase| phase.name == PhaseName::FinaliseSwap).expect("the phase");
    assert_eq!(swap.attempts, attempts);
    assert_once(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_that_was_done_is_found_done() {
    ended_backend("committed", Hangs::Committed, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_that_was_undone_is_done_again() {
    ended_backend("undone", Hangs::Undone, 2).await;
}

/// The operator is killed while COMMIT hangs; the next one must not wait for its predecessor's session for ever.
async fn killed_operator(name: &str, hangs: Hangs, attempts: i32) {
    let (stage, operator, _) = hanging(name, hangs).await;
    operator.kill().await;
    disarm(&stage).await;
    let _next = stage.operator_with("next", &[]).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let swap = status.phases.iter().find(|phase| phase.name == PhaseName::FinaliseSwap).expect("the phase");
    assert_eq!(swap.attempts, attempts);
    assert_once(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_in_a_commit_that_was_done_finds_it_done() {
    killed_operator("killdone", Hangs::Committed, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_in_a_commit_that_was_undone_does_it_again() {
    killed_operator("killundone", Hangs::Undone, 2).await;
}
