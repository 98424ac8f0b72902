//! Workers that do not stop: the release fails, names them, and they are back at their numbers.

use std::path::Path;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use portal_release_operator::api::PhaseName;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::support::{Stage, until};

impl Stage {
    /// How a worker connects to the portal's database.
    async fn worker_url(&self) -> String {
        let admin = std::env::var("LOCAL_PG_URL").expect("LOCAL_PG_URL of e2e/local/local up");
        let load = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/sample/load");
        let arguments = ["url", "--admin-url", &admin, "--name", &self.env["STAGE_DATABASE"], "--role", "importer_worker"];
        let output = Command::new(load).args(arguments).output().await.expect("e2e/sample/load runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Pods of tile-worker take this long to stop, from the next ones on; waits until they exist.
    async fn tiles_stop_after(&self, delay: &str) {
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let template = json!({ "spec": { "template": { "metadata": { "annotations": { "e2e.local/stop-delay": delay } } } } });
        sets.patch("tile-worker", &PatchParams::default(), &Patch::Merge(&template)).await.expect("tile-worker is changed");
        until("tile-worker runs with new pods", || async {
            let set = sets.get("tile-worker").await.ok()?;
            let status = set.status?;
            (status.observed_generation == set.metadata.generation
                && status.updated_replicas == Some(2)
                && status.ready_replicas == Some(2))
            .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_stop_fail_the_release_and_come_back() {
    let stage = Stage::new("nostop").await;
    let _operator = stage.operator().await;
    stage.change_portal(|portal| portal.freeze.timeout = "6s".into()).await;

    // A worker that does not exist: nothing is stopped at all.
    stage.change_portal(|portal| portal.workers[2].name = "weekly-exports".into()).await;
    let words = ["CronJob", "weekly-exports does not exist", "remove it from the Portal's workers"];
    stage.must_fail("Jul2026", PhaseName::Freeze, &words).await;
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let generation = || async { deployments.get("importer-worker").await.expect("the Deployment").metadata.generation };
    assert_eq!(generation().await, Some(1), "no worker was scaled");
    stage.change_portal(|portal| portal.workers[2].name = "nightly-exports".into()).await;

    // A session of a worker that hangs on to the database.
    let session = PgConnection::connect(&stage.worker_url().await).await.expect("a session of a worker");
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let before = stage.world().await;
    stage
        .wait_failed("jul2026", PhaseName::Freeze, &["database sessions of the workers are still open after 6s", "role importer_worker"])
        .await;
    stage.assert_untouched(&before, "a freeze that found a session").await;
    session.close().await.expect("the session ends");

    // Pods that take their time.
    stage.tiles_stop_after("600s").await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    let words = ["workers did not stop within 6s", "StatefulSet", "tile-worker-", "(terminating)"];
    let status = stage.wait_failed("jul2026", PhaseName::Freeze, &words).await;
    assert_eq!(status.frozen_workloads, []);
    stage.assert_untouched(&before, "a freeze whose pods did not stop").await;
    assert_eq!(stage.live_month().await, "0");
}
