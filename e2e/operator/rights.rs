//! The chart's rights are tight: everything that is granted is needed, and nothing that is needed is missing.
//!
//! The API server's audit log has every request of the operator's service account; the rules are read from the cluster, where the
//! chart's objects are.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
};

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::{Api, api::ListParams};
use portal_release_operator::api::{PhaseName, ReleaseState};
use serde_json::Value;

use crate::support::{
    Stage,
    containers::Containers,
    gate::Gate,
    jobs::{EVALUATIONS, PSQL, job},
    until,
};

/// Group, resource with its subresource, and verb; the name is empty where a request or a rule has none.
type Use = (String, String, String, String);

/// The operator's requests, with the answers' codes.
fn requests(stage: &Stage) -> Vec<(Use, u64, String)> {
    let user = format!("system:serviceaccount:{}:", stage.env["STAGE_OPERATOR_NAMESPACE"]);
    let log = std::env::var("LOCAL_AUDIT_LOG").expect("LOCAL_AUDIT_LOG of e2e/local/local up");
    let log = Path::new(&log);
    let stem = log.file_stem().expect("its name").to_string_lossy().into_owned();
    // The API server moves a full log aside and begins a new one.
    let files = std::fs::read_dir(log.parent().expect("its directory")).expect("the directory").flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for file in files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&stem))) {
        let lines = BufReader::new(std::fs::File::open(file).expect("the audit log")).lines().map_while(Result::ok);
        for line in lines.filter(|line| line.contains(&user)) {
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let resource = match object["subresource"].as_str() {
                Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
                None => text(&object["resource"]),
            };
            let used = (text(&object["apiGroup"]), resource, text(&event["verb"]), text(&object["name"]));
            found.push((used, event["responseStatus"]["code"].as_u64().unwrap_or_default(), text(&event["requestURI"])));
        }
    }
    found
}

/// What the chart's rules grant, one by one.
async fn grants(stage: &Stage) -> Vec<Use> {
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", stage.env["STAGE_OPERATOR_NAMESPACE"]));
    let roles = Api::<Role>::all(stage.client.clone()).list(&ours).await.expect("Roles").items.into_iter().filter_map(|role| role.rules);
    let cluster_roles = Api::<ClusterRole>::all(stage.client.clone()).list(&ours).await.expect("ClusterRoles").items;
    let rules: Vec<PolicyRule> = roles.chain(cluster_roles.into_iter().filter_map(|role| role.rules)).flatten().collect();
    let mut grants = Vec::new();
    for rule in rules {
        assert!(rule.non_resource_urls.is_none(), "{rule:?}");
        let names = rule.resource_names.filter(|names| !names.is_empty()).unwrap_or_else(|| vec![String::new()]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    grants.extend(names.iter().map(|name| (group.clone(), resource.clone(), verb.clone(), name.clone())));
                }
            }
        }
    }
    grants
}

/// Whether the operator's account may do something, as the API server decides it.
async fn may(stage: &Stage, arguments: &[&str]) -> bool {
    let config = stage.env["STAGE_OPERATOR_KUBECONFIG"].clone();
    let all: Vec<&str> = ["--kubeconfig", &config, "auth", "can-i"].iter().chain(arguments).copied().collect();
    // kubectl says no with its exit code too.
    stage.kubectl(&all, "").await.is_ok_and(|answer| answer.trim() == "yes")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_is_used_and_none_is_missing() {
    let stage = Stage::new("rights").await;
    let operator = stage.operator().await;
    let gate = Gate::shut(&stage, "protected_areas").await;
    let _containers = Containers::of(&stage);
    let flag = stage.directory().join("flag");
    stage.evaluations_by(&job(&format!("[ -e {} ]; {PSQL} -c \"{EVALUATIONS}\"", flag.display()))).await;

    // Aborted, run again, failed with its Job, live, rolled back and forward.
    stage.make_release("jul2026", "Jul2026", "").await;
    gate.someone(&stage).await;
    stage.edit("jul2026", r#"{"abort": {"reason": "not today"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::Aborted).await;
    gate.open().await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    stage.wait_failed("jul2026", PhaseName::ImportRelated, &["exit code 1"]).await;
    std::fs::write(&flag, "").expect("the flag");
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;
    let manifest = reqwest::get(status.manifest.expect("a manifest").url).await.expect("an answer");
    assert_eq!(manifest.status(), 200);
    stage.month(2).await;
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    stage.edit("aug2026", r#"{"rollback": {"to": "Previous"}}"#).await;
    stage.wait_state("aug2026", ReleaseState::RolledBack).await;
    stage.edit("aug2026", r#"{"rollback": null}"#).await;
    stage.wait_state("aug2026", ReleaseState::Live).await;

    // The emergency freeze, and back.
    stage.edit_portal(r#"{"frozen": true}"#).await;
    until("workers are stopped", || async { (stage.workers().await == Stage::FROZEN).then_some(()) }).await;
    stage.edit_portal(r#"{"frozen": false}"#).await;
    until("workers are back", || async { (stage.workers().await == Stage::WORKERS).then_some(()) }).await;

    // Deleted: one that is live, and one in mid-run.
    stage.kubectl(&["delete", "portalrelease", "aug2026"], "").await.expect("it goes");
    stage.month(3).await;
    let gate = Gate::shut_again(&stage).await;
    stage.make_release("sep2026", "Sep2026", "").await;
    gate.someone(&stage).await;
    stage.kubectl(&["delete", "portalrelease", "sep2026", "--wait=false"], "").await.expect("it is being deleted");
    stage.wait_gone("sep2026").await;
    gate.open().await;
    assert!(operator.terminate().await);

    let requests = requests(&stage);
    assert!(requests.len() > 200, "the audit log has the operator's requests: {}", requests.len());
    let refused: BTreeSet<String> =
        requests.iter().filter(|(_, code, _)| *code == 403).map(|((_, _, verb, _), _, uri)| format!("{verb} {uri}")).collect();
    assert!(refused.is_empty(), "the operator asks for what it is not granted: {refused:#?}");

    let grants = grants(&stage).await;
    assert!(grants.len() > 20, "{grants:?}");
    let is_used = |(group, resource, verb, name): &&Use| {
        requests
            .iter()
            .any(|((g, r, v, n), code, _)| g == group && r == resource && v == verb && (name.is_empty() || n == name) && *code < 400)
    };
    let unused: Vec<&Use> = grants.iter().filter(|grant| !is_used(grant)).collect();
    assert!(unused.is_empty(), "granted, but nothing needs it: {unused:#?}");
    assert!(grants.iter().all(|(group, resource, verb, _)| ![group, resource, verb].iter().any(|word| word.contains('*'))), "{grants:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_reads_no_other_secret_and_no_other_namespace() {
    let stage = Stage::new("reach").await;
    let own = stage.env["STAGE_OPERATOR_NAMESPACE"].clone();
    stage.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: payroll}\nstringData: {salary: secret}").await;
    for allowed in [
        ["get", "secrets/portal-db"].as_slice(),
        &["get", "secrets/slack"],
        &["get", "configmaps/portal-sql"],
        &["patch", "deployments.apps/importer-worker", "--subresource=scale"],
        &["create", "jobs.batch"],
        &["get", "pods", "--subresource=log"],
    ] {
        assert!(may(&stage, allowed).await, "{allowed:?}");
    }
    for refused in [
        ["get", "secrets/payroll"].as_slice(),
        &["get", "secrets"],
        &["list", "secrets"],
        &["watch", "secrets"],
        &["update", "secrets/portal-db"],
        &["get", "configmaps/kube-root-ca.crt"],
        &["patch", "deployments.apps/importer-worker"],
        &["delete", "pods"],
        &["create", "pods", "--subresource=exec"],
        &["create", "pods"],
        &["get", "pods"],
        &["update", "jobs.batch"],
        &["patch", "jobs.batch"],
        &["delete", "portalreleases.portalrelease.dev"],
        &["impersonate", "users"],
        &["escalate", "roles.rbac.authorization.k8s.io"],
        &["bind", "clusterroles.rbac.authorization.k8s.io"],
    ] {
        assert!(!may(&stage, refused).await, "{refused:?}");
    }
    for namespace in ["default", "kube-system", own.as_str()] {
        for refused in [
            ["get", "secrets/portal-db"].as_slice(),
            &["list", "secrets"],
            &["get", "configmaps/portal-sql"],
            &["list", "pods"],
            &["create", "jobs.batch"],
            &["get", "pods", "--subresource=log"],
            &["patch", "deployments.apps/importer-worker", "--subresource=scale"],
            &["patch", "cronjobs.batch/nightly-exports"],
            &["create", "events.events.k8s.io"],
        ] {
            let there: Vec<&str> = ["--namespace", namespace].iter().chain(refused).copied().collect();
            assert!(!may(&stage, &there).await, "{there:?}");
        }
    }
    assert!(!may(&stage, &["--namespace", &own, "patch", "leases.coordination.k8s.io/other"]).await);
    assert!(!may(&stage, &["list", "namespaces"]).await);
    assert!(!may(&stage, &["list", "nodes"]).await);
}
