use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{coordination::v1::Lease, rbac::v1::Role};
use kube::api::Patch;
use portal_release_operator::{
    leader::{LeaderError, run_as_leader},
    term::Term,
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::setup::{Cluster, in_namespace};

/// The name that the chart allows.
const LEASE: &str = "operator-portal-release-operator";

struct Candidate {
    leads: mpsc::Receiver<()>,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), LeaderError>>,
}

impl Candidate {
    fn start(c: &Cluster, identity: &'static str) -> Self {
        let (tell, leads) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let (client, namespace, token) = (c.operator.clone(), c.namespace.clone(), shutdown.clone());
        let ended = tokio::spawn(async move {
            let work = async |stop: CancellationToken| {
                tell.send(()).await.unwrap();
                stop.cancelled().await;
            };
            run_as_leader(client, &namespace, LEASE, identity, token, &Term::default(), work).await
        });
        Self { leads, shutdown, ended }
    }

    async fn leads_within(&mut self, seconds: u64) {
        let led = tokio::time::timeout(Duration::from_secs(seconds), self.leads.recv()).await;
        led.expect("it does not lead in time").unwrap();
    }

    async fn lost(self, seconds: u64) -> String {
        let ended = tokio::time::timeout(Duration::from_secs(seconds), self.ended).await;
        ended.expect("it does not notice the loss").unwrap().unwrap_err().to_string()
    }
}

#[tokio::test]
async fn the_lease_passes_on_at_once_at_a_clean_stop() {
    in_namespace(async |c| {
        let mut first = Candidate::start(c, "first");
        first.leads_within(5).await;
        let mut second = Candidate::start(c, "second");
        // Longer than the Lease: it is renewed, and the second one waits.
        assert!(tokio::time::timeout(Duration::from_secs(17), second.leads.recv()).await.is_err());
        let begun = Instant::now();
        first.shutdown.cancel();
        first.ended.await.unwrap().unwrap();
        second.leads_within(5).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        second.shutdown.cancel();
        second.ended.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_leader_whose_lease_is_gone_or_taken_ends() {
    in_namespace(async |c| {
        let mut leader = Candidate::start(c, "first");
        leader.leads_within(5).await;
        c.api::<Lease>().delete(LEASE, &Default::default()).await.unwrap();
        let error = leader.lost(16).await;
        assert!(error.contains("deleted") && error.contains(LEASE), "{error}");

        let mut leader = Candidate::start(c, "second");
        leader.leads_within(5).await;
        let thief = Patch::Merge(json!({ "spec": { "holderIdentity": "thief" } }));
        c.api::<Lease>().patch(LEASE, &Default::default(), &thief).await.unwrap();
        let error = leader.lost(16).await;
        assert!(error.contains("another operator holds it"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_ends_before_its_lease_does() {
    in_namespace(async |c| {
        let mut leader = Candidate::start(c, "first");
        leader.leads_within(5).await;
        c.api::<Role>().delete(&format!("{LEASE}-lease"), &Default::default()).await.unwrap();
        let error = leader.lost(16).await;
        assert!(error.contains("not renewed within 15s"), "{error}");
        let lease = c.api::<Lease>().get(LEASE).await.unwrap().spec.unwrap();
        let age = Timestamp::now().duration_since(lease.renew_time.unwrap().0);
        assert!(age < SignedDuration::from_secs(15), "it led for {age:?} after the last renewal");
    })
    .await;
}
