//! A run that one version has begun is ended by the other.

use portal_release_operator::api::ReleaseState;

use crate::{
    crossing::{Crossing, EVERYTHING, Undisturbed, each, stage_for},
    support::{
        Stage,
        containers::Containers,
        gate::Gate,
        jobs::{EVALUATIONS, GATE, PSQL, job},
        looks::{RECORD, assert_same},
        stage::condition,
        until,
    },
};

/// A release halted at a point by one version goes live with the other.
pub async fn goes_live(crossing: Crossing, point: String) {
    let calm = Undisturbed::get().await;
    let stage = stage_for("live", &point).await;
    stage.make_release("jul2026", "Jul2026", EVERYTHING).await;
    crossing.halt(&stage, &point).await;
    let _operator = crossing.arrive(&stage).await;
    calm.assert_live(&stage, &format!("the release that was halted at {point}")).await;
    assert_eq!(stage.audit("Jul2026", "PhaseFailed").await, "", "{point}");
}

/// The phases of the first versions. `end` is where most of a phase is in the ledger and the cluster; `begin` where the one before it is done.
const POINTS: [&str; 22] = [
    "AcquireLock:end",
    "RefreshViews:end",
    "CreateStagingViews:end",
    "Preflight:end",
    "BuildStaging:begin",
    "BuildStaging:end",
    "ImportCore:begin",
    "ImportCore:end",
    "ImportRelated:end",
    "ValidateAndManifest:end",
    "Freeze:begin",
    "Freeze:end",
    "FinaliseSwap:begin",
    "FinaliseSwap:end",
    "CreateDownloadsView:begin",
    "CreateDownloadsView:end",
    "Scale:begin",
    "Scale:end",
    "PostSwap:end",
    "CleanupAndRetention:end",
    "ReleaseLock:end",
    "ResetCheckpoints:end",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_release_halted_in_each_phase_goes_live_with_the_new_version() {
    let calm = Undisturbed::get().await;
    let forgotten: Vec<&String> = calm.points.iter().filter(|point| point.ends_with(":end") && !POINTS.contains(&point.as_str())).collect();
    assert!(forgotten.is_empty(), "phases of a released version that are not here: {forgotten:?}");
    each(Crossing::upgrades(), &POINTS, goes_live).await;
}

/// A rollback halted at a point by one version ends with the other, which then rolls forward.
pub async fn rolls_back(crossing: Crossing, point: String) {
    let stage = stage_for("back", &point).await;
    let june = stage.live().await;
    let operator = crossing.depart(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = stage.live().await;
    operator.kill().await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    crossing.halt(&stage, &point).await;

    let _operator = crossing.arrive(&stage).await;
    let status = stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert!(!status.current);
    assert_same(&stage.live().await, &june, "June is live again");
    stage.assert_settled().await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_same(&stage.live().await, &july, "July is live again");
    assert_eq!(stage.swaps().await, "3");
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_halted_around_its_swap_ends_with_the_new_version() {
    each(Crossing::upgrades(), &["Freeze:end", "FinaliseSwap:end", "Scale:end"], rolls_back).await;
}

/// A roll forward halted at a point by one version ends with the other, which then rolls back.
pub async fn rolls_forward(crossing: Crossing, point: String) {
    let stage = stage_for("forward", &point).await;
    let june = stage.live().await;
    let operator = crossing.depart(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let july = stage.live().await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    operator.kill().await;
    stage.edit("jul2026", r#"{"rollback":null}"#).await;
    crossing.halt(&stage, &point).await;

    let _operator = crossing.arrive(&stage).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_same(&stage.live().await, &july, "July is live again");
    stage.assert_settled().await;
    stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert_same(&stage.live().await, &june, "June is live again");
    assert_eq!(stage.swaps().await, "4");
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_forward_halted_before_and_after_its_swap_ends_with_the_new_version() {
    each(Crossing::upgrades(), &["FinaliseSwap:begin", "Scale:begin"], rolls_forward).await;
}

/// An abort halted while a phase is taken back by one version ends with the other.
pub async fn aborts(crossing: Crossing, point: String) {
    let stage = stage_for("abort", &point).await;
    let before = stage.world().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    crossing.halt(&stage, "FinaliseSwap:begin").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.edit("jul2026", r#"{"abort":{"reason":"not today"}}"#).await;
    crossing.halt(&stage, &point).await;

    let _operator = crossing.arrive(&stage).await;
    let status = stage.wait_state("jul2026", ReleaseState::Aborted).await;
    assert!(status.message.contains("not today"), "{}", status.message);
    assert_eq!(stage.staging().await, "", "{point}");
    stage.assert_untouched(&before, &format!("the abort that was halted at {point}")).await;
    stage.assert_settled().await;
    stage.edit("jul2026", r#"{"retry":1}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_halted_while_phases_are_taken_back_ends_with_the_new_version() {
    each(Crossing::upgrades(), &["Freeze:undo", "BuildStaging:undone", "CreateStagingViews:undo"], aborts).await;
}

/// A release whose object went while no operator ran and its workers were stopped: the other version tidies up for the next one.
pub async fn tidies_up(crossing: Crossing, point: String) {
    let stage = stage_for("orphan", &point).await;
    stage.make_release("torn", "Jul2026", "").await;
    crossing.halt(&stage, &point).await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    stage.kubectl(&["delete", "portalrelease", "torn", "--wait=false"], "").await.expect("deleted");
    stage
        .kubectl(&["patch", "portalrelease", "torn", "--type", "merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "")
        .await
        .expect("stripped");
    stage.wait_gone("torn").await;

    let _operator = crossing.arrive(&stage).await;
    stage.make_release("next", "Aug2026", "").await;
    let status = stage.wait_state("next", ReleaseState::Live).await;
    assert!(status.current);
    assert_eq!((stage.live_month().await.as_str(), stage.staging().await.as_str()), ("1", ""));
    stage.assert_nothing_held().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deleted_while_no_operator_ran_is_tidied_up_by_the_new_version() {
    // Before the swap and after it.
    each(Crossing::upgrades(), &["Freeze:end", "Scale:begin"], tidies_up).await;
}

/// A release that is deleted while no operator runs, and waits for its finalizer.
pub async fn lets_go(crossing: Crossing, point: String) {
    let stage = stage_for("delete", &point).await;
    let before = stage.world().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    crossing.halt(&stage, &point).await;
    stage.kubectl(&["delete", "portalrelease", "jul2026", "--wait=false"], "").await.expect("deleted");

    let _operator = crossing.arrive(&stage).await;
    stage.wait_gone("jul2026").await;
    assert_eq!(stage.staging().await, "");
    stage.assert_untouched(&before, &format!("the deletion at {point}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_being_deleted_is_let_go_by_the_new_version() {
    each(Crossing::upgrades(), &["FinaliseSwap:begin"], lets_go).await;
}

/// An import's Job runs on while the operator is replaced.
pub async fn keeps_its_job(crossing: Crossing, _: String) {
    let stage = Stage::new("job").await;
    let containers = Containers::of(&stage);
    stage.evaluations_by(&job(&format!("{PSQL} -c \"BEGIN; {EVALUATIONS}; {GATE}; COMMIT\""))).await;
    let gate = Gate::shut_again(&stage).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = crossing.depart(&stage).await;
    let worker = gate.someone(&stage).await;
    let name = stage.jobs().await.join(" ");
    operator.kill().await;

    let _operator = crossing.arrive(&stage).await;
    stage.wait("jul2026", "waiting for its Job", |status| status.message.contains(&name)).await;
    assert_eq!(gate.someone(&stage).await, worker, "the same session is at work");
    gate.open().await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(containers.started().len(), 1, "{:?}", containers.started());
    assert_eq!(stage.text("SELECT count(*) - count(DISTINCT asmt_id) FROM pame_evaluations").await, "0");
    assert_ne!(stage.text("SELECT count(*) FROM pame_evaluations").await, "0");
    until("the Job is gone", || async { stage.jobs().await.is_empty().then_some(()) }).await;
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_imports_goes_on_under_the_new_version() {
    each(Crossing::upgrades(), &["a Job"], keeps_its_job).await;
}

/// A Job that was announced and not created yet.
pub async fn creates_the_announced_job(crossing: Crossing, point: String) {
    let stage = Stage::new("announced").await;
    let containers = Containers::of(&stage);
    stage.evaluations_by(&job(&format!("{PSQL} -c \"{EVALUATIONS}\""))).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    crossing.halt(&stage, &point).await;
    assert_eq!(stage.jobs().await, Vec::<String>::new());

    let _operator = crossing.arrive(&stage).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(containers.started().len(), 1, "{:?}", containers.started());
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_only_announced_is_created_by_the_new_version() {
    each(Crossing::upgrades(), &["ImportRelated:job"], creates_the_announced_job).await;
}

/// `frozen: true` on the Portal, begun by one version and ended by the other, without a release and with one in its way.
pub async fn thaws(crossing: Crossing, _: String) {
    let stage = Stage::new("emergency").await;
    let operator = crossing.depart(&stage).await;
    stage.edit_portal(r#"{"frozen":true}"#).await;
    stage.portal_frozen("True").await;
    assert_eq!(stage.workers().await, Stage::FROZEN);
    operator.kill().await;

    let operator = crossing.arrive(&stage).await;
    stage.edit_portal(r#"{"frozen":false}"#).await;
    stage.portal_frozen("False").await;
    assert_eq!(stage.workers().await, Stage::WORKERS);
    operator.kill().await;

    stage.make_release("jul2026", "Jul2026", "").await;
    crossing.halt(&stage, "FinaliseSwap:begin").await;
    assert_eq!(stage.recorded().await, RECORD);
    stage.edit_portal(r#"{"frozen":true}"#).await;
    let _operator = crossing.arrive(&stage).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.workers().await, Stage::FROZEN, "the freeze outlives the release");
    stage.edit_portal(r#"{"frozen":false}"#).await;
    stage.portal_frozen("False").await;
    stage.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_freeze_is_ended_by_the_new_version() {
    each(Crossing::upgrades(), &["frozen: true"], thaws).await;
}

/// The versions side by side, as in a rolling update: the new one waits until the old one has let go.
pub async fn takes_over(crossing: Crossing, _: String) {
    let stage = Stage::new("rolling").await;
    let before = stage.operator_of(&crossing.from, "before", &["--halt-at", "ImportCore:end"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    before.logs("halted at ImportCore:end").await;
    let after = stage.operator_of(&crossing.to, "after", &[]).await;
    before.terminate().await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(condition(&status, "Ready"), "True");
    assert_eq!(stage.import_attempts("Jul2026").await, "1", "what was imported stays imported");
    stage.assert_settled().await;
    drop(after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_hands_a_running_release_over() {
    each(Crossing::upgrades(), &["a rolling update"], takes_over).await;
}
