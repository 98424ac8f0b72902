//! The advisory lock is held by others, or lost; database sessions end in the middle of an import.

use portal_release_operator::api::{PhaseName, PhaseState, PortalReleaseStatus, ReleaseState};
use sqlx::{Connection, PgConnection};

use crate::support::{Stage, gate::Gate, until};

/// The backend that holds the portal's lock.
const HOLDER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 42000001 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Another release tool, at its prompt.
struct Other(PgConnection);

impl Other {
    async fn connect(stage: &Stage) -> Self {
        let url = format!("{}?application_name=nightly-psql", stage.env["STAGE_DATABASE_URL"]);
        Self(PgConnection::connect(&url).await.expect("another session"))
    }

    async fn take_lock(&mut self) {
        sqlx::query("SELECT pg_advisory_lock(42000001)").execute(&mut self.0).await.expect("the lock");
    }

    async fn leave(self) {
        self.0.close().await.expect("the session ends");
    }
}

async fn terminate(stage: &Stage, pid: &str) {
    assert_eq!(stage.text(&format!("SELECT pg_terminate_backend({pid})")).await, "true");
    until("the backend is gone", || async {
        (stage.text(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")).await == "0").then_some(())
    })
    .await;
}

fn attempts(status: &PortalReleaseStatus, name: PhaseName) -> i32 {
    status.phases.iter().find(|phase| phase.name == name).expect("the phase").attempts
}

/// Live, once and whole.
async fn assert_live(stage: &Stage, status: &PortalReleaseStatus) {
    assert!(status.current);
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'Swapped'").await, "1");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_eq!(stage.staging().await, "");
    assert!(!stage.is_locked().await, "the lock is free");
    let rows = "SELECT string_agg(format('%s: %s of %s', import, rows, rows_total), ', ') FROM portal_release.imports WHERE rows IS DISTINCT FROM rows_total";
    assert_eq!(stage.text(rows).await, "", "every row counts once");
    let sites = stage.text("SELECT count(*) FROM protected_areas").await;
    assert_eq!(stage.text("SELECT rows FROM portal_release.imports WHERE import = 'protected_areas'").await, sites);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_for_a_lock_that_others_hold_and_says_who() {
    let stage = Stage::new("held").await;
    let mut other = Other::connect(&stage).await;
    other.take_lock().await;
    let operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "").await;

    let status = stage.wait("jul2026", "waiting for the lock", |status| status.message.contains("42000001")).await;
    assert_eq!(
        status.message.split(", pid").next().unwrap(),
        "advisory lock 42000001 is held by role portal_owner, application 'nightly-psql'"
    );
    assert_eq!(status.state, Some(ReleaseState::Running));
    assert!(status.phases.iter().all(|phase| phase.state != PhaseState::Succeeded), "nothing was done: {:?}", status.phases);
    assert_eq!(stage.staging().await, "");
    assert_eq!(
        stage.text(HOLDER).await,
        stage.text("SELECT pid FROM pg_stat_activity WHERE application_name = 'nightly-psql'").await,
        "it is left alone"
    );

    // It tries again and again, and writes nothing meanwhile.
    let version = stage.releases().get("jul2026").await.unwrap().metadata.resource_version;
    let tries = operator.log().matches("jul2026: Acquire").count();
    until("it has tried three times more", || {
        let now = operator.log().matches("jul2026: Acquire").count();
        async move { (now >= tries + 3).then_some(()) }
    })
    .await;
    assert_eq!(stage.releases().get("jul2026").await.unwrap().metadata.resource_version, version);

    other.leave().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live(&stage, &status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_lost_in_mid_run_and_taken_by_others_is_waited_for_again() {
    let stage = Stage::new("lost").await;
    let operator = stage.operator().await;
    let gate = Gate::shut(&stage, "protected_areas").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    gate.someone(&stage).await;

    terminate(&stage, &stage.text(HOLDER).await).await;
    let mut other = Other::connect(&stage).await;
    other.take_lock().await;
    gate.open().await;
    stage.wait("jul2026", "waiting for the lock", |status| status.message.contains("nightly-psql")).await;
    let imported = "SELECT count(*) FROM portal_release.imports WHERE state = 'Succeeded'";
    let before = stage.text(imported).await;
    operator.logs("the session that held the advisory lock has ended").await;
    assert_eq!(stage.text(imported).await, before, "nothing is imported without the lock");

    other.leave().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live(&stage, &status).await;
    assert_eq!(attempts(&status, PhaseName::ImportCore), 2, "it continued in the same phase");
    assert_eq!(stage.text("SELECT epoch FROM portal_release.portals").await, "2", "the lock was taken twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_session_is_ended_is_tried_again() {
    let stage = Stage::new("ended").await;
    let _operator = stage.operator().await;
    let gate = Gate::shut(&stage, "protected_areas").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let first = gate.someone(&stage).await;
    terminate(&stage, &first.to_string()).await;
    let second = gate.someone(&stage).await;
    assert_ne!(first, second);

    // And now every session of the operator, the one with the lock too.
    let mine = "FROM pg_stat_activity WHERE application_name LIKE 'prel/%' AND datname = current_database()";
    let ended = stage.text(&format!("SELECT count(pg_terminate_backend(pid)) {mine}")).await;
    assert!(ended.parse::<i32>().unwrap() >= 2, "{ended} sessions");
    gate.someone(&stage).await;
    gate.open().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live(&stage, &status).await;
    assert!(attempts(&status, PhaseName::ImportCore) >= 3, "{:?}", status.phases);
}
