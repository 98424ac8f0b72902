//! Other sessions block the swap: they are named, nothing is lost, and the Portal decides what follows.

use portal_release_operator::api::{PhaseName, PhaseState, PortalReleaseStatus, ReleaseState};
use sqlx::{Connection, PgConnection};

use crate::support::{Stage, until};

/// A person at a prompt, who has read a live table and left the transaction open.
struct Reader(PgConnection);

impl Reader {
    async fn of(stage: &Stage, url: &str) -> Self {
        let mut connection =
            PgConnection::connect(&format!("{}?application_name=nightly-report", stage.env[url])).await.expect("a session");
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM protected_areas").execute(&mut connection).await.expect("a query");
        Self(connection)
    }

    async fn pid(&mut self) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut self.0).await.expect("its pid")
    }

    async fn leave(self) {
        self.0.close().await.expect("the session ends");
    }
}

fn condition<'a>(status: &'a PortalReleaseStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).expect("the condition");
    (found.status.as_str(), found.reason.as_str(), found.message.as_str())
}

fn attempts(status: &PortalReleaseStatus, name: PhaseName) -> i32 {
    status.phases.iter().find(|phase| phase.name == name).expect("the phase").attempts
}

/// Waits for an event of the release with all these words in its note.
async fn event(stage: &Stage, reason: &str, words: &[&str]) {
    until(&format!("event {reason} with {words:?}"), || async {
        let events =
            stage.kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"], "").await.ok()?;
        let found = events.lines().any(|line| line.starts_with(&format!("{reason}: ")) && words.iter().all(|word| line.contains(word)));
        found.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_session_is_named_and_the_release_is_suspended_with_its_staging() {
    let stage = Stage::new("blocked").await;
    stage.edit_portal(r#"{"database": {"lockTimeout": "6s"}}"#).await;
    let _operator = stage.operator().await;
    let mut reader = Reader::of(&stage, "STAGE_READER_DATABASE_URL").await;
    let pid = reader.pid().await.to_string();
    stage.make_release("jul2026", "Jul2026", "").await;

    // While it waits: in the condition and in an event.
    let words = [
        pid.as_str(),
        "role portal_reader",
        "application nightly-report",
        "idle in transaction",
        "since 20",
        "open for",
        "protected_areas",
    ];
    let status = stage.wait("jul2026", "blocked", |status| condition(status, "DataSwapped").1 == "Blocked").await;
    assert_eq!(status.state, Some(ReleaseState::Running));
    let (word, _, message) = condition(&status, "DataSwapped");
    assert_eq!(word, "False");
    for word in words {
        assert!(message.contains(word) && status.message.contains(word), "{word}: {message}; {}", status.message);
    }
    event(&stage, "SwapBlocked", &words).await;

    // The time is used up: nothing is lost, workers are back, and another release waits for this one.
    let status = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert!(status.message.contains(&pid) && status.message.contains("raise spec.retry"), "{}", status.message);
    assert_eq!(
        (condition(&status, "Ready").0, condition(&status, "Reconciling").0, condition(&status, "Stalled").0),
        ("Unknown", "True", "False")
    );
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_ne!(stage.staging().await, "", "the staging exists");
    assert_eq!(stage.live_month().await, "0");
    assert!(!stage.is_locked().await, "the advisory lock is free");
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait_state("aug2026", ReleaseState::Queued).await;

    // It resumes from there, and imports nothing again.
    reader.leave().await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait("jul2026", "live", |status| matches!(status.state, Some(ReleaseState::Live | ReleaseState::Superseded))).await;
    assert_eq!(attempts(&status, PhaseName::ImportCore), 1);
    assert_eq!(attempts(&status, PhaseName::BuildStaging), 1);
    stage.wait_state("aug2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_keeps_trying_swaps_once_the_way_is_free() {
    let stage = Stage::new("trying").await;
    stage.edit_portal(r#"{"database": {"lockTimeout": "1s", "onLockTimeout": "KeepTrying"}}"#).await;
    let _operator = stage.operator().await;
    let reader = Reader::of(&stage, "STAGE_READER_DATABASE_URL").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    // More often than a phase may fail.
    let status = stage.wait("jul2026", "trying for the third time", |status| attempts(status, PhaseName::FinaliseSwap) > 2).await;
    assert_eq!(status.state, Some(ReleaseState::Running));
    let failures = "SELECT failures FROM portal_release.phases WHERE phase = 'FinaliseSwap'";
    assert_eq!(stage.text(failures).await, "1", "such a failure does not count");
    assert_eq!(stage.workers().await, Stage::FROZEN);
    reader.leave().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(attempts(&status, PhaseName::ImportCore), 1);
    assert_eq!(stage.workers().await, Stage::WORKERS);
}

/// A pg_dump, say: it has locked nothing yet that is swapped, and the rows that were imported after it began are not there for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_the_import_is_waited_for() {
    let stage = Stage::new("snapshot").await;
    let _operator = stage.operator().await;
    let mut dump = PgConnection::connect(&stage.env["STAGE_READER_DATABASE_URL"]).await.expect("a session");
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM countries").execute(&mut dump).await.expect("its snapshot");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut dump).await.expect("its pid");
    stage.make_release("jul2026", "Jul2026", "").await;
    let (pid, empty) = (pid.to_string(), "would see empty tables after the swap");
    let status = stage.wait("jul2026", "waiting", |status| status.message.contains(empty)).await;
    assert!(status.message.contains(&pid), "{}", status.message);
    assert_eq!(condition(&status, "DataSwapped").1, "Blocked");
    let areas: i64 = sqlx::query_scalar("SELECT count(*) FROM protected_areas").fetch_one(&mut dump).await.expect("what it sees");
    assert!(areas > 0, "it sees the old release");
    dump.close().await.expect("the session ends");
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.live_month().await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sessions_of_the_named_roles_are_cancelled() {
    let stage = Stage::new("sentaway").await;
    stage.edit_portal(r#"{"database": {"lockTimeout": "4s", "cancelBlockers": {"roles": ["portal_reader"], "after": "1s"}}}"#).await;
    stage.execute("GRANT pg_signal_backend TO portal_owner").await;
    let _operator = stage.operator().await;
    // Of another role: it is named and left alone.
    let mut other = Reader::of(&stage, "STAGE_DATABASE_URL").await;
    let mut reader = Reader::of(&stage, "STAGE_READER_DATABASE_URL").await;
    let (other_pid, reader_pid) = (other.pid().await.to_string(), reader.pid().await.to_string());
    stage.make_release("jul2026", "Jul2026", "").await;
    event(&stage, "BlockerCancelled", &["ended the session", &reader_pid, "portal_reader"]).await;
    let status = stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert!(status.message.contains(&other_pid) && !status.message.contains(&reader_pid), "{}", status.message);
    assert!(sqlx::query("SELECT 1").execute(&mut reader.0).await.is_err(), "its session was ended");
    other.leave().await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert!(status.phases.iter().all(|phase| phase.state != PhaseState::Failed));
}

/// The query of the downloads view, as Postgres spells it.
const DOWNLOADS: &str = "SELECT pg_get_viewdef('portal_downloads_protected_areas'::regclass)";
/// Who may read it.
const GRANTS: &str = "SELECT relacl::text FROM pg_class WHERE oid = 'portal_downloads_protected_areas'::regclass";

#[tokio::test(flavor = "multi_thread")]
async fn the_downloads_view_changes_with_the_swap_and_goes_back_with_it() {
    let stage = Stage::new("downloads").await;
    let (first, grants) = (stage.text(DOWNLOADS).await, stage.text(GRANTS).await);
    // Fewer columns than before: the view has to be recreated.
    stage
        .edit_portal(r#"{"downloadsView": {"name": "portal_downloads_protected_areas", "query": "SELECT site_id, release_month FROM {{ live(\"protected_areas\") }}"}}"#)
        .await;
    let halted = stage.operator_with("halted", &["--leader-election=false", "--halt-at", "CreateDownloadsView:begin"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    halted.logs("halted at").await;
    assert_eq!(stage.text("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'portal_downloads_protected_areas'::regclass AND attnum > 0").await, "site_id release_month");
    assert_eq!(
        stage.text("SELECT min(release_month) FROM portal_downloads_protected_areas").await,
        stage.text("SELECT min(release_month) FROM protected_areas").await
    );
    assert_eq!(stage.text(GRANTS).await, grants);
    halted.kill().await;

    let _operator = stage.operator_with("operator", &["--leader-election=false"]).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let second = stage.text(DOWNLOADS).await;
    stage.edit("jul2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert_eq!(stage.text(DOWNLOADS).await, first);
    assert_eq!(stage.text(GRANTS).await, grants);
    stage.edit("jul2026", r#"{"rollback": null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.text(DOWNLOADS).await, second);

    // A query that cannot be is refused before anything is imported, and so is a column that others need.
    stage.execute("CREATE VIEW on_top AS SELECT release_month FROM portal_downloads_protected_areas").await;
    stage.edit_portal(r#"{"downloadsView": {"query": "SELECT site_id FROM {{ live(\"protected_areas\") }}"}}"#).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    let status = stage.wait("aug2026", "failed", |status| status.state == Some(ReleaseState::Failed)).await;
    assert!(status.message.contains("on_top depends on it"), "{}", status.message);
    assert_eq!(attempts(&status, PhaseName::ImportCore), 0);
    assert_eq!(stage.text(DOWNLOADS).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_session_changes_right_after_the_swap_is_noticed() {
    let stage = Stage::new("differs").await;
    let halted = stage.operator_with("halted", &["--leader-election=false", "--halt-at", "Scale:begin"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    halted.logs("halted at").await;
    stage.execute("REVOKE SELECT ON protected_areas FROM portal_reader").await;
    halted.kill().await;
    let _operator = stage.operator_with("operator", &["--leader-election=false"]).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let message = &status.phases.iter().find(|phase| phase.name == PhaseName::PostSwap).expect("PostSwap").message;
    assert!(message.contains("differ from those that they replaced in 1 detail,") && message.contains("portal_reader"), "{message}");
    event(&stage, "StructureDiffers", &["portal_reader"]).await;
}
