//! A run works from what it was started with; edits are reported, and taken up at the next safe point.

use portal_release_operator::api::{PhaseName, ReleaseState};

use crate::support::{Stage, looks::stopped, until};

const LINKS: &str = "SELECT string_agg(DISTINCT link_type, ',') FROM";

impl Stage {
    async fn definition(&self) -> String {
        self.text("SELECT string_agg(hash, ' ' ORDER BY run_id) FROM portal_release.definitions").await
    }

    async fn edit_the_links(&self) {
        self.change_import("story_map_links", |query| query.replace("l.link_type", "'edited' AS link_type")).await;
    }

    async fn config_map(&self) -> String {
        self.kubectl(&["get", "configmap", "portal-sql", "-o", "jsonpath={.data}"], "").await.expect("the ConfigMap")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_in_the_middle_of_a_run_are_reported_and_taken_up_at_the_next_safe_point() {
    let stage = Stage::new("definition").await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let operator = stage.halted_at("ImportCore:begin").await;
    let before = stage.definition().await;
    assert_ne!(before, "");
    stage.edit_the_links().await;
    let data = stage.config_map().await;
    stage.kubectl(&["delete", "configmap", "portal-sql"], "").await.expect("the ConfigMap is gone");
    let status = stage.wait("jul2026", "the edit is reported", |status| status.message.contains("takes effect at the next retry")).await;
    assert_eq!(status.state, Some(ReleaseState::Running));
    let reported = stage.audit("Jul2026", "DefinitionEdited").await;
    assert!(reported.starts_with("spec.imports of the Portal edited; this run works from the definition of 20"), "{reported}");
    until("an event", || async { (stage.event_notes("jul2026", "DefinitionEdited").await == [reported.clone()]).then_some(()) }).await;
    operator.kill().await;

    // Another process continues from the same definition, although the queries are gone.
    let _operator = stage.operator_alone().await;
    let status = stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert!(!status.message.contains("takes effect"), "{}", status.message);
    assert!(!stage.text(&format!("{LINKS} staging_story_map_links")).await.contains("edited"));
    assert_eq!(stage.definition().await, before);
    assert_eq!(stage.audit("Jul2026", "DefinitionEdited").await.lines().count(), 1, "said once");
    let secrets = "SELECT count(*) FROM portal_release.definitions d WHERE d::text ~ 'postgres://|/slack|/cache'";
    assert_eq!(stage.text(secrets).await, "0", "no value of a Secret is kept, and no URL that may hold a token");

    // The end of the dry run is a safe point.
    stage.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: portal-sql}}\ndata: {data}\n")).await;
    stage.edit("jul2026", r#"{"dryRun": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.text(&format!("{LINKS} story_map_links")).await, "edited");
    assert_ne!(stage.definition().await, before);
    let changed = stage.audit("Jul2026", "DefinitionChanged").await;
    assert!(changed.ends_with("in effect from now on: spec.imports of the Portal"), "{changed}");
    let rebuilt = stage.audit("Jul2026", "StagingRebuilt").await;
    assert!(rebuilt.contains("imports story_map_links"), "{rebuilt}");

    // A rollback needs no query.
    stage.kubectl(&["delete", "configmap", "portal-sql"], "").await.expect("the ConfigMap is gone");
    stage.edit("jul2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::RolledBack).await;
    assert_eq!(stage.live_month().await, "0");
    let kept = "SELECT string_agg((portal IS NOT NULL)::text, ' ' ORDER BY run_id) FROM portal_release.definitions";
    assert_eq!(stage.text(kept).await, "false true", "of a former run only the hashes are kept");
    assert_eq!(stage.definition().await.split(' ').filter(|hash| hash.len() == 64).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_suspension_and_a_retry_are_safe_points() {
    let stage = Stage::new("redefine").await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let operator = stage.halted_at("ImportRelated:begin").await;
    stage.edit("jul2026", r#"{"suspend": true}"#).await;
    operator.kill().await;
    let _operator = stage.operator_alone().await;
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    stage.edit_the_links().await;
    stage.change_portal(|portal| portal.gates.iter_mut().for_each(|gate| gate.sql = Some("SELECT false".into()))).await;
    stage.edit("jul2026", r#"{"suspend": false}"#).await;
    // What was imported by then was imported for another definition.
    let failed = stage.wait_state("jul2026", ReleaseState::Failed).await;
    assert!(stage.audit("Jul2026", "StagingRebuilt").await.contains("imports story_map_links"));
    assert_eq!(failed.phase, Some(PhaseName::Preflight), "the rebuilding starts with the gates as they are now: {}", failed.message);

    stage.change_portal(|portal| portal.gates.clear()).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.text(&format!("{LINKS} story_map_links")).await, "edited");
    assert_eq!(stopped(&status), "");
    assert_eq!(stage.audit("Jul2026", "DefinitionChanged").await.lines().count(), 2);
}
