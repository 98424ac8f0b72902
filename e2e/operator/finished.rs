//! Finished releases cost nothing, and still do what is wanted of them: after a restart, when nothing but the ledger knows them.

use portal_release_operator::api::ReleaseState;

use crate::support::{Stage, until};

/// Statistics have a file for each label; these tests use more labels than there are files.
const WITHOUT_FILES: &str = "imports: {skip: [country_statistics]}";

impl Stage {
    /// The operator's sessions in the portal's database.
    async fn connections(&self) -> String {
        self.text("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'prel/%' AND datname = current_database()").await
    }

    async fn at_rest(&self) {
        until("no connection of the operator", || async { (self.connections().await == "0").then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_release_does_what_is_wanted_of_it_after_a_restart() {
    let stage = Stage::new("finished").await;
    // The status holds the manifest's address, and the port of a test's operator is another each time.
    let arguments = ["--leader-election=false", "--public-url", "http://operator.example"];
    let operator = stage.operator_with("operator", &arguments).await;
    stage.make_release("jul2026", "Jul2026", WITHOUT_FILES).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", WITHOUT_FILES).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    stage.wait_state("jul2026", ReleaseState::Superseded).await;
    stage.make_release("sep2026", "Sep2026", &format!("dryRun: true\n{WITHOUT_FILES}")).await;
    stage.wait_state("sep2026", ReleaseState::DryRunComplete).await;
    stage.edit("sep2026", r#"{"abort":{"reason":"not this month"}}"#).await;
    stage.wait_state("sep2026", ReleaseState::Aborted).await;
    stage.at_rest().await;
    assert!(operator.terminate().await, "SIGTERM ends it cleanly");

    let before = (stage.version("jul2026").await, stage.version("aug2026").await, stage.version("sep2026").await);
    let operator = stage.operator_with("operator", &arguments).await;
    operator.logs("all finished releases were read from the ledger").await;
    stage.at_rest().await;
    let after = (stage.version("jul2026").await, stage.version("aug2026").await, stage.version("sep2026").await);
    assert_eq!(before, after, "a restart writes nothing");
    let lines = |operator: &crate::support::Operator, word: &str| operator.log().lines().filter(|line| line.contains(word)).count();
    assert_eq!(lines(&operator, "2026: Rest"), 0, "none was observed by itself:\n{}", operator.log());

    // A pattern that leaves all of them out, and one that is none: what has ended stays as it is. Only an aborted one, which a retry
    // would run again, has no plan while its Portal cannot be used.
    let read = "all finished releases were read from the ledger";
    for (pattern, times) in [("^[A-Z][a-z]{2}203[0-9]$", 2), ("[", 3), ("^[A-Z][a-z]{2}[0-9]{4}$", 4)] {
        stage.edit_portal(&format!(r#"{{"labelPattern":"{pattern}"}}"#)).await;
        until("the ledger was read again", || async { (lines(&operator, read) >= times).then_some(()) }).await;
    }
    stage.at_rest().await;
    let observed = lines(&operator, "jul2026: Rest") + lines(&operator, "aug2026: Rest");
    assert_eq!(observed, 0, "none was observed by itself:\n{}", operator.log());

    // Another object with a label that has been through.
    stage.make_release("again", "Jul2026", "").await;
    stage.wait("again", "the message says that the label is taken", |status| status.message.contains("by PortalRelease jul2026")).await;

    // A hand in the status, and one in the ledger.
    let patch = r#"{"status":{"message":"all is well"}}"#;
    stage.kubectl(&["patch", "portalrelease", "jul2026", "--subresource=status", "--type=merge", "-p", patch], "").await.expect("patched");
    stage.wait("jul2026", "what the ledger says", |status| status.message != "all is well").await;
    stage.execute("UPDATE portal_release.releases SET message = 'restored by hand' WHERE label = 'Jul2026'").await;
    stage.kubectl(&["annotate", "portal", "protected-planet", "look=again"], "").await.expect("annotated");
    stage.wait("jul2026", "what the ledger says now", |status| status.message == "restored by hand").await;

    stage.edit("sep2026", r#"{"retry":1}"#).await;
    stage.wait_state("sep2026", ReleaseState::DryRunComplete).await;
    stage.delete_and_wait("sep2026").await;

    // The one that was replaced becomes current because of another's rollback.
    stage.edit("aug2026", r#"{"rollback":{"to":"Previous"}}"#).await;
    stage.wait_state("aug2026", ReleaseState::RolledBack).await;
    stage.wait("jul2026", "live and current", |status| status.current && status.state == Some(ReleaseState::Live)).await;
    stage.edit("aug2026", r#"{"rollback":null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    stage.wait("jul2026", "superseded", |status| !status.current && status.state == Some(ReleaseState::Superseded)).await;

    stage.delete_and_wait("jul2026").await;
    stage.wait("again", "it still says so", |status| status.state == Some(ReleaseState::Superseded)).await;
    stage.at_rest().await;
}

/// A Portal and its releases are gone: nothing is left of it in the operator, and another under its name is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_is_gone_is_forgotten() {
    let stage = Stage::new("forgotten").await;
    let operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", WITHOUT_FILES).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let portal = stage.kubectl(&["get", "portal", "protected-planet", "-o", "yaml"], "").await.expect("the Portal");
    stage.kubectl(&["delete", "portal", "protected-planet"], "").await.expect("deleted");
    stage.wait("jul2026", "without its Portal", |status| status.message.contains("Portal protected-planet does not exist")).await;
    stage.delete_and_wait("jul2026").await;
    operator.logs("protected-planet is forgotten").await;

    let anew: String =
        portal.lines().filter(|line| !line.starts_with("  uid:") && !line.starts_with("  resourceVersion:")).collect::<Vec<_>>().join("\n");
    stage.apply(&anew).await;
    stage.make_release("aug2026", "Aug2026", WITHOUT_FILES).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
}

impl Stage {
    async fn version(&self, name: &str) -> Option<String> {
        self.releases().get(name).await.expect("the release").metadata.resource_version
    }
}
