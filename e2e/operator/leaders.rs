//! Two operators on one Lease: one works, the other is on standby and takes over when the first is gone, or has only slept.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use portal_release_operator::api::ReleaseState;

use crate::support::{Operator, Stage, gate::Gate, operator::signal, until};

/// Everything that the ledger and the portal's schema hold, as one number.
const EVERYTHING: &str = "SELECT md5(string_agg(md5(database_to_xml.x::text), '')) FROM (
    SELECT query_to_xml(format('SELECT * FROM %I.%I AS t ORDER BY t::text', nspname, relname), true, false, '') AS x
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname IN ('portal_release', 'public') AND relkind IN ('r', 'm') AND relname <> 'spatial_ref_sys' ORDER BY nspname, relname) AS database_to_xml";

async fn holder(stage: &Stage) -> Option<String> {
    let namespace = &stage.env["STAGE_OPERATOR_NAMESPACE"];
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), namespace);
    leases.get_opt(&format!("{namespace}-portal-release-operator")).await.ok()??.spec?.holder_identity
}

async fn wait_holder(stage: &Stage, name: &str) {
    until(&format!("{name} holds the Lease"), || async { (holder(stage).await.as_deref() == Some(name)).then_some(()) }).await;
}

async fn is_ready(operator: &Operator) -> bool {
    reqwest::get(format!("http://{}/readyz", operator.address())).await.expect("it answers").status() == 200
}

/// Database sessions of one operator.
fn sessions_of(name: &str) -> String {
    format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'prel/%/{name}' AND datname = current_database()")
}

async fn assert_live_once(stage: &Stage) {
    assert_eq!(stage.live_month().await, "1");
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'Swapped'").await, "1");
    assert_eq!(stage.workers().await, Stage::WORKERS);
    assert_eq!(stage.staging().await, "");
    assert!(!stage.is_locked().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_works_and_the_other_takes_over_when_it_is_killed() {
    let stage = Stage::new("pair").await;
    let first = stage.operator_with("first", &["--halt-at", "ImportCore:begin"]).await;
    wait_holder(&stage, "first").await;
    let second = stage.operator_with("second", &[]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    first.logs("halted at").await;
    assert!(is_ready(&first).await && is_ready(&second).await, "standing by is ready too");
    assert!(!second.log().contains("reconciling"), "a standby does nothing");
    assert_eq!(stage.text(&sessions_of("second")).await, "0");

    first.kill().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live_once(&stage).await;
    assert_eq!(holder(&stage).await.as_deref(), Some("second"));
    assert_eq!(
        stage
            .text("SELECT string_agg(DISTINCT epoch::text, ' ' ORDER BY epoch::text) FROM portal_release.release_events WHERE epoch > 0")
            .await,
        "1 2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_ends_well_and_leaves_everything_free() {
    let stage = Stage::new("term").await;
    // It is halted in the middle of a transaction.
    let first = stage.operator_with("first", &["--halt-at", "ImportCore:end"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    first.logs("halted at").await;
    assert!(stage.is_locked().await);

    assert!(first.terminate().await, "exit code 0");
    assert_eq!(holder(&stage).await, None, "the Lease was released");
    until("its sessions are gone", || async { (stage.text(&sessions_of("first")).await == "0").then_some(()) }).await;
    assert!(!stage.is_locked().await, "the lock is free");
    assert_eq!(
        stage.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'PhaseFailed'").await,
        "0",
        "stopping is no failure"
    );

    let _second = stage.operator_with("second", &[]).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live_once(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_past_its_lease_changes_nothing_when_it_wakes() {
    let stage = Stage::new("sleeper").await;
    let first = stage.operator_with("first", &[]).await;
    wait_holder(&stage, "first").await;
    let gate = Gate::shut(&stage, "protected_areas").await;
    let second = stage.operator_with("second", &["--halt-at", "ValidateAndManifest:begin"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    // Not halted: it is in the middle of a statement, and will continue as soon as it wakes.
    gate.someone(&stage).await;
    signal(first.pid(), "STOP");

    wait_holder(&stage, "second").await;
    until("the second has ended the first one's sessions", || async { (stage.text(&sessions_of("first")).await == "0").then_some(()) })
        .await;
    gate.someone(&stage).await;
    gate.open().await;
    second.logs("halted at").await;
    let before = stage.text(EVERYTHING).await;
    let status = stage.status("jul2026").await;

    signal(first.pid(), "CONT");
    let log = first.ended().await;
    assert!(log.contains("lost the Lease"), "{log}");
    assert_eq!(stage.text(EVERYTHING).await, before, "it has changed no row");
    assert_ne!(stage.text(&sessions_of("second")).await, "0", "it has ended nobody's session");
    assert_eq!(stage.status("jul2026").await.phases, status.phases);
    assert!(stage.is_locked().await, "the second has the lock");

    second.kill().await;
    let _third = stage.operator_with("third", &[]).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_live_once(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_alone_needs_no_lease() {
    let stage = Stage::new("alone").await;
    let operator = stage.operator_with("operator", &["--leader-election=false"]).await;
    until("it is ready", || async { is_ready(&operator).await.then_some(()) }).await;
    stage.make_release("jul2026", "Jul2026", "phases: {stopAfter: Preflight}").await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert_eq!(holder(&stage).await, None, "nobody has touched a Lease");
    assert!(operator.terminate().await, "exit code 0");
    assert!(!stage.is_locked().await);
}
