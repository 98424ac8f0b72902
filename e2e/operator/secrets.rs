//! Whatever goes wrong with a Secret's value, it is readable nowhere but in the Secret.

use portal_release_operator::api::ReleaseState;
use sqlx::AssertSqlSafe;

use crate::support::{
    Operator, Stage,
    receiver::{Mood, Receiver},
    until,
};

/// Each is in one Secret, or in the URL of a hook, and nowhere else.
const DATABASE: &str = "canary-of-the-database-7f3a";
const WRONG: &str = "canary-of-another-database-91bc";
const SLACK: &str = "canary-of-slack-5d20";
const STORE: &str = "canary-of-the-store-e8f1";
const HOOK: &str = "canary-of-the-hook-c4a6";

async fn set_secret(stage: &Stage, name: &str, values: &[(&str, &str)]) {
    let values: Vec<String> = values.iter().map(|(key, value)| format!("  {key}: \"{value}\"")).collect();
    stage.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n{}", values.join("\n"))).await;
}

/// Waits until the Portal's condition Ready says something of this kind.
async fn portal_says(stage: &Stage, words: &str) {
    until(&format!("the Portal says '{words}'"), || async {
        let portal = stage.portals().get("protected-planet").await.ok()?;
        let ready = portal.status?.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        ready.message.contains(words).then_some(())
    })
    .await;
}

/// Waits until a phase of the release has failed `times` times.
async fn failed(stage: &Stage, phase: &str, times: i32) {
    let sql = format!("SELECT count(*) FROM portal_release.release_events WHERE event = 'PhaseFailed' AND phase = '{phase}'");
    until(&format!("{phase} has failed"), || async { (stage.text(&sql).await.parse::<i32>().ok()? >= times).then_some(()) }).await;
}

/// Everything that people may read, by where it is. Each holds `a word` that is always there, or the search would find nothing.
async fn everywhere(stage: &Stage, operators: &[&Operator], receivers: &[&Receiver]) -> Vec<(&'static str, &'static str, String)> {
    let mut found = Vec::new();
    for operator in operators {
        found.push(("the log", "Jul2026", operator.log()));
    }
    let address = operators.last().expect("an operator").address();
    found.push(("/metrics", "portalrelease", reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap()));
    let manifest = format!("http://{address}/manifests/{}/protected-planet/Jul2026.json", stage.namespace);
    found.push(("the manifest", "Jul2026", reqwest::get(manifest).await.unwrap().text().await.unwrap()));
    for (kinds, word) in [
        ("events.events.k8s.io", "ReleaseStarted"),
        ("portalreleases", "Jul2026"),
        ("configmaps,deployments,statefulsets,cronjobs,replicasets,pods,roles,rolebindings,serviceaccounts", "importer-worker"),
    ] {
        let yaml = stage.kubectl(&["get", kinds, "-o", "yaml", "--show-managed-fields"], "").await.expect("objects");
        found.push((kinds, word, yaml));
    }
    let status = stage.kubectl(&["get", "portal", "protected-planet", "-o", "jsonpath={.status}"], "").await.expect("the Portal's status");
    found.push(("the Portal's status", "Ready", status));
    let theirs = ["--namespace", &stage.env["STAGE_OPERATOR_NAMESPACE"], "get", "leases,events.events.k8s.io,deployments", "-o", "yaml"];
    found.push(("the operator's namespace", "Lease", stage.kubectl(&theirs, "").await.expect("objects")));
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT relname::text FROM pg_class WHERE relnamespace = 'portal_release'::regnamespace AND relkind = 'r'")
            .fetch_all(&stage.database)
            .await
            .expect("the ledger's tables");
    let mut ledger = String::new();
    for table in tables {
        let sql = format!("SELECT t::text FROM portal_release.{table} AS t");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&stage.database).await.expect("its rows");
        ledger.push_str(&rows.join("\n"));
    }
    found.push(("the ledger", "Jul2026", ledger));
    let activity = "SELECT string_agg(concat_ws(' ', application_name, usename, query), E'\\n') FROM pg_stat_activity";
    found.push(("pg_stat_activity", "prel/", stage.text(activity).await));
    for receiver in receivers {
        let bodies: Vec<String> = receiver.requests().into_iter().map(|request| request.body).collect();
        found.push(("messages to Slack", "Jul2026", bodies.join("\n")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_revealed_whatever_goes_wrong_with_it() {
    let stage = Stage::new("canary").await;
    let address = stage.env["STAGE_DATABASE_URL"].split('@').nth(1).expect("an address").to_owned();
    let role = stage.env["STAGE_DATABASE"].replace("portal_", "canary_");
    stage
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{DATABASE}' IN ROLE portal_owner; ALTER ROLE {role} SET role = 'portal_owner'"
        ))
        .await;
    let slack = Receiver::start().await;
    slack.set(Mood::Broken);
    let slack_address = slack.url("").replace("http://", "");
    set_secret(
        &stage,
        "slack",
        &[
            ("url", &format!("http://user:{SLACK}@{slack_address}/services/{SLACK}")),
            ("deaf", &format!("https://hooks:{SLACK}@127.0.0.1:1/services/{SLACK}")),
            ("broken", &format!("ht!tp://{SLACK}")),
        ],
    )
    .await;
    let env = |name: &str| std::env::var(name).expect("the env of e2e/local/local up");
    let (endpoint, key) = (env("LOCAL_S3_URL"), env("LOCAL_S3_ACCESS_KEY"));
    let store = async |id: &str, secret: &str| {
        let values = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
        set_secret(&stage, "portal-s3", &values).await;
    };
    store("nobody", STORE).await;
    // The API refuses a user and a password in it.
    let hook = stage.receiver.url("/cache");
    stage
        .edit_portal(&format!(
            r#"{{"notifications": [{{"name": "a", "slack": {{"urlSecretRef": {{"name": "slack", "key": "url"}}}}}},
                {{"name": "b", "slack": {{"urlSecretRef": {{"name": "slack", "key": "deaf"}}}}}},
                {{"name": "c", "slack": {{"urlSecretRef": {{"name": "slack", "key": "broken"}}}}}}],
              "postSwap": [{{"name": "clear-cache", "http": {{"url": "{hook}?token={HOOK}", "method": "POST"}}}}]}}"#
        ))
        .await;
    stage.receiver.set(Mood::Broken);

    // Every way in which the database's URL can be wrong.
    set_secret(&stage, "portal-db", &[("url", &format!("postgresql://{role}:{DATABASE}@127.0.0.1:no-port/portal"))]).await;
    let operator = stage.operator_with("operator", &["--log-level", "debug"]).await;
    stage.make_release("jul2026", "Jul2026", "").await;
    portal_says(&stage, "does not hold a postgres:// URL").await;
    set_secret(&stage, "portal-db", &[("url", &format!("postgresql://{role}:{DATABASE}@127.0.0.1:1/portal"))]).await;
    portal_says(&stage, "127.0.0.1:1").await;
    set_secret(&stage, "portal-db", &[("url", DATABASE)]).await;
    portal_says(&stage, "does not hold a postgres:// URL").await;
    set_secret(&stage, "portal-db", &[("url", &format!("postgresql://{role}:{WRONG}@{address}"))]).await;
    portal_says(&stage, "password authentication failed").await;
    let status = stage.wait("jul2026", "the message says why", |status| status.message.contains("password authentication failed")).await;
    assert_eq!(status.state, Some(ReleaseState::Pending));
    set_secret(&stage, "portal-db", &[("url", &format!("postgresql://{role}:{DATABASE}@{address}"))]).await;

    portal_says(&stage, "the database is reachable").await;

    // The store refuses the key, the hook answers 500, and then they do not.
    failed(&stage, "Preflight", 1).await;
    stage.wait("jul2026", "failed", |status| status.state == Some(ReleaseState::Failed)).await;
    store(&key, &env("LOCAL_S3_SECRET_KEY")).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    failed(&stage, "PostSwap", 1).await;
    stage.receiver.set(Mood::Fine);
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert!(stage.receiver.requests().len() >= 2, "the hook was called again");
    until("Slack was notified", || async { (slack.requests().len() > 3).then_some(()) }).await;
    assert!(slack.requests().iter().all(|request| request.line == format!("POST /services/{SLACK}")), "{:?}", slack.requests());

    let places = everywhere(&stage, &[&operator], &[&slack]).await;
    for (place, word, text) in &places {
        assert!(text.contains(word), "the search of {place} finds what is there, such as {word}");
        for canary in [DATABASE, WRONG, SLACK, STORE, HOOK] {
            let line = text.lines().find(|line| line.contains(canary));
            assert_eq!(line, None, "{canary} in {place}");
        }
    }
    assert!(operator.terminate().await);
    stage.execute(&format!("DROP ROLE {role}")).await;
}
