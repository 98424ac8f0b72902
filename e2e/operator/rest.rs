//! What waits, waits; what is done costs nothing.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, Scope, verbs},
};
use portal_release_operator::api::ReleaseState;
use tokio::time::interval;

use crate::support::{Stage, until};

/// The resourceVersion of every object in a namespace, by kind and name.
async fn versions(stage: &Stage) -> BTreeMap<String, String> {
    let discovery = Discovery::new(stage.client.clone()).run().await.expect("discovery");
    let mut versions = BTreeMap::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if capabilities.scope != Scope::Namespaced || !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = Api::namespaced_with(stage.client.clone(), &stage.namespace, &resource);
            for object in api.list(&ListParams::default()).await.into_iter().flatten() {
                versions.insert(format!("{} {}", resource.kind, object.name_any()), object.resource_version().unwrap_or_default());
            }
        }
    }
    versions
}

/// What the operator's sessions have done in the portal's database: their transactions, and when each last began a statement.
async fn sessions(stage: &Stage) -> String {
    stage
        .text("SELECT coalesce(string_agg(format('%s %s %s', pid, state, query_start), ', ' ORDER BY pid), 'none') FROM pg_stat_activity WHERE application_name LIKE 'prel/%' AND datname = current_database()")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_wait_returns_at_live_and_then_nothing_moves() {
    let stage = Stage::new("rest").await;
    let operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "portalrelease/jul2026"], "").await.expect("kubectl wait returns");
    let status = stage.status("jul2026").await;
    assert_eq!(status.state, Some(ReleaseState::Live), "not before it is Live");

    // A restart is no reason to write either.
    assert!(operator.terminate().await, "SIGTERM ends it cleanly");
    let operator = stage.operator().await;
    operator.logs("this process is the leader").await;
    let seen = stage.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "portal/protected-planet"], "").await;
    seen.expect("the restarted operator has observed the portal");
    settled(&stage).await;
    until("no connection is open", || async { (sessions(&stage).await == "none").then_some(()) }).await;

    let before = versions(&stage).await;
    // A window of observations; the operator has timers of 2 to 20 seconds, of which none may run while nothing is to do.
    let mut ticks = stream::unfold(interval(Duration::from_secs(1)), async |mut ticks| {
        ticks.tick().await;
        Some(((), ticks))
    })
    .take(25)
    .boxed();
    while ticks.next().await.is_some() {
        let now = sessions(&stage).await;
        assert_eq!(now, "none", "SQL ran with nothing to do");
    }
    let after = versions(&stage).await;
    let moved: Vec<_> = after.iter().filter(|(name, version)| before.get(*name) != Some(*version)).collect();
    assert!(moved.is_empty(), "objects changed with nothing to do: {moved:?}");
}

/// Waits until what the restart itself did is over: two observations that are the same.
async fn settled(stage: &Stage) {
    let mut ticks = interval(Duration::from_secs(2));
    ticks.tick().await;
    let mut before = (versions(stage).await, sessions(stage).await);
    for _ in 0..20 {
        ticks.tick().await;
        let now = (versions(stage).await, sessions(stage).await);
        if now == before {
            return;
        }
        before = now;
    }
    panic!("it never settles: {before:?}");
}
