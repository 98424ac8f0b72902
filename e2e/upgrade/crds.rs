//! CRDs and the operator are replaced one after the other, in either order. The CRDs are those of the cluster, so these tests run alone.

use std::{path::Path, process::Command};

use portal_release_operator::api::ReleaseState;

use crate::{
    crossing::{Crossing, alone},
    support::{Stage, stage::condition},
};

/// The CRDs of a version; dropped, this tree's are there again.
struct Crds;

impl Crds {
    /// Those of the first version.
    fn of(crossing: &Crossing) -> Self {
        apply(&crossing.from.with_file_name("source").join("crds"));
        Self
    }

    /// Those of this tree.
    fn replace(&self) {
        apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("crds"));
    }
}

impl Drop for Crds {
    fn drop(&mut self) {
        self.replace();
    }
}

fn apply(directory: &Path) {
    let kubectl = Path::new(&std::env::var("LOCAL_BIN").expect("LOCAL_BIN of e2e/local/local up")).join("kubectl");
    for arguments in [["replace", "-f"].as_slice(), &["wait", "--for=condition=Established", "--timeout=60s", "-f"]] {
        let output = Command::new(&kubectl).args(arguments).arg(directory).output().expect("kubectl runs");
        assert!(output.status.success(), "kubectl {arguments:?} {}: {}", directory.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crds_are_replaced_before_the_operator() {
    let _alone = alone().await;
    for crossing in Crossing::upgrades() {
        let crds = Crds::of(&crossing);
        let stage = Stage::new("crdsfirst").await;
        let operator = stage.operator_of(&crossing.from, "before", &["--leader-election=false", "--halt-at", "Freeze:end"]).await;
        stage.make_release("jul2026", "Jul2026", "").await;
        stage.wait("jul2026", "running", |status| status.state == Some(ReleaseState::Running)).await;
        // While the old operator is at work, which writes its status all the same.
        crds.replace();
        operator.logs("halted at Freeze:end").await;
        stage.wait("jul2026", "frozen", |status| condition(status, "WorkersFrozen") == "True").await;
        operator.kill().await;

        let _operator = crossing.arrive(&stage).await;
        stage.wait_state("jul2026", ReleaseState::Live).await;
        assert_eq!(stage.live_month().await, "1");
        stage.assert_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_replaced_before_the_crds() {
    let _alone = alone().await;
    for crossing in Crossing::upgrades() {
        let crds = Crds::of(&crossing);
        let stage = Stage::new("crdslast").await;
        stage.make_release("jul2026", "Jul2026", "").await;
        crossing.halt(&stage, "FinaliseSwap:begin").await;
        let operator = crossing.arrive(&stage).await;
        stage.wait_state("jul2026", ReleaseState::Live).await;
        stage.assert_settled().await;
        stage.edit("jul2026", r#"{"rollback":{"to":"Previous"}}"#).await;
        stage.wait_state("jul2026", ReleaseState::RolledBack).await;

        crds.replace();
        stage.edit("jul2026", r#"{"rollback":null}"#).await;
        stage.wait_state("jul2026", ReleaseState::Live).await;
        stage.month(2).await;
        stage.make_release("aug2026", "Aug2026", "").await;
        stage.wait_state("aug2026", ReleaseState::Live).await;
        assert_eq!(stage.live_month().await, "2");
        stage.assert_settled().await;
        let log = operator.log();
        assert!(!log.contains("panicked"), "the operator has panicked");
    }
}
