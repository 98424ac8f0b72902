//! Notifications: each kind reaches whoever wants it, none delays a release, and nothing in them mentions a whole Slack channel.

use portal_release_operator::api::{PhaseName, PhaseState, ReleaseState};

use crate::support::{
    Stage,
    gate::Gate,
    receiver::{Mood, Receiver},
    stage::release_yaml,
    until,
};

/// The texts that came to a path, in order.
fn texts(receiver: &Receiver, path: &str) -> Vec<String> {
    let to_path = |line: &str| line.split(' ').nth(1) == Some(path);
    let text = |body: &str| serde_json::from_str::<serde_json::Value>(body).expect("JSON")["text"].as_str().expect("a text").to_owned();
    receiver.requests().iter().filter(|request| to_path(&request.line)).map(|request| text(&request.body)).collect()
}

/// The Secret that the chart lets the operator read, with these keys.
async fn set_webhooks(stage: &Stage, urls: &[(&str, String)]) {
    let keys: Vec<String> = urls.iter().map(|(key, url)| format!("  {key}: \"{url}\"")).collect();
    stage.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: slack}}\nstringData:\n{}", keys.join("\n"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_notification_comes_to_those_who_want_it() {
    let stage = Stage::new("slack").await;
    let kinds = ["start", "phaseComplete", "importProgress", "success", "failure", "none"];
    let urls: Vec<(&str, String)> = kinds.iter().map(|kind| (*kind, stage.receiver.url(&format!("/{kind}")))).collect();
    set_webhooks(&stage, &urls).await;
    let notifications: Vec<String> = kinds
        .iter()
        .map(|wanted| {
            let switches: Vec<String> = kinds[..5].iter().map(|kind| format!("\"{kind}\": {}", kind == wanted)).collect();
            format!(
                r#"{{"name": "{}", "slack": {{"urlSecretRef": {{"name": "slack", "key": "{wanted}"}}}}, {}}}"#,
                wanted.to_lowercase(),
                switches.join(", ")
            )
        })
        .collect();
    stage.edit_portal(&format!(r#"{{"notifications": [{}]}}"#, notifications.join(", "))).await;
    let _operator = stage.operator().await;
    let gate = Gate::shut(&stage, "protected_areas").await;

    // Aborted, with a reason that would ring every phone.
    stage.make_release("jul2026", "Jul2026", "reason: <!everyone>").await;
    gate.someone(&stage).await;
    stage.edit("jul2026", r#"{"abort": {"reason": "<!channel> see <https://evil.example|here> & *there*\r\n@all"}}"#).await;
    stage.wait_state("jul2026", ReleaseState::Aborted).await;
    gate.open().await;
    let refused = stage.kubectl(&["apply", "-f", "-"], &release_yaml("loud", "\"<!channel>\"", "")).await.expect_err("no label");
    assert!(refused.contains("spec.label"), "{refused}");

    // Failed, by a hard gate.
    stage.execute("DELETE FROM ops.base_backups").await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    stage.wait("jul2026", "failed", |status| status.state == Some(ReleaseState::Failed)).await;
    stage.execute("INSERT INTO ops.base_backups VALUES (now())").await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;

    let receiver = &stage.receiver;
    until("the last notification", || async { (texts(receiver, "/success").len() == 1).then_some(()) }).await;
    assert_eq!(texts(receiver, "/start"), ["Release Jul2026 of protected-planet has started."]);
    let success = texts(receiver, "/success");
    assert!(success[0].starts_with("Release Jul2026 of protected-planet is live after "), "{success:?}");
    assert!(success[0].ends_with(" rows were imported."), "{success:?}");

    let failures = texts(receiver, "/failure");
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures[0].contains("aborted: &lt;!channel&gt; see &lt;https://evil.example|here&gt; &amp; *there* @all"), "{failures:?}");
    for part in ["Jul2026 of protected-planet failed in Preflight", "recent-backup", "\nRaise spec.retry to resume from the failed phase."]
    {
        assert!(failures[1].contains(part), "'{part}' in {failures:?}");
    }

    until("a message about each phase", || async {
        let phases = texts(receiver, "/phaseComplete");
        let done = status.phases.iter().filter(|phase| phase.state == PhaseState::Succeeded && phase.name != PhaseName::ReleaseLock);
        let all = done.map(|phase| format!("protected-planet Jul2026: {} is complete after ", phase.name));
        all.into_iter().all(|start| phases.iter().any(|text| text.starts_with(&start))).then_some(())
    })
    .await;
    let imports = texts(receiver, "/importProgress");
    for import in &status.imports {
        let start = format!("protected-planet Jul2026: import {}: {}", import.name, import.rows);
        assert!(imports.iter().any(|text| text.starts_with(&start)), "'{start}' in {imports:?}");
    }
    assert!(texts(receiver, "/phaseComplete").iter().all(|text| text.contains(" is complete after ")));
    assert!(imports.iter().all(|text| text.contains(": import ")));
    assert_eq!(texts(receiver, "/none"), [""; 0], "who wants nothing hears nothing");
    let loud: Vec<String> = receiver.requests().into_iter().map(|request| request.body).filter(|body| body.contains(['<', '>'])).collect();
    assert_eq!(loud, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_silent_or_fails_neither_slows_nor_fails_a_release() {
    let stage = Stage::new("deaf").await;
    let (silent, broken) = (Receiver::start().await, Receiver::start().await);
    silent.set(Mood::Silent);
    broken.set(Mood::Broken);
    set_webhooks(&stage, &[("silent", silent.url("/slack")), ("broken", broken.url("/slack"))]).await;
    let one = |name: &str, key: &str| format!(r#"{{"name": "{name}", "slack": {{"urlSecretRef": {{"name": "slack", "key": "{key}"}}}}}}"#);
    stage
        .edit_portal(&format!(
            r#"{{"notifications": [{}, {}, {}]}}"#,
            one("silent", "silent"),
            one("broken", "broken"),
            one("unknown", "no-such-key")
        ))
        .await;
    let operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;

    assert!(status.phases.iter().all(|phase| phase.attempts <= 1), "{:?}", status.phases);
    assert!(!silent.requests().is_empty(), "it was tried");
    let messages = status.phases.len();
    assert!(silent.requests().len() < messages, "the release does not wait for an answer");
    operator.logs("a notification was not delivered").await;
    operator.logs("notification unknown was not sent").await;
    assert!(broken.requests().len() > 1, "a failure of the server is tried again");
    let metrics = reqwest::get(format!("http://{}/metrics", operator.address())).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("portalrelease_notifications_total{result=\"failed\"}"), "{metrics}");
    assert!(!metrics.contains("portalrelease_notifications_total{result=\"sent\"}"), "{metrics}");
    assert!(operator.terminate().await, "a silent webhook does not keep the operator from its end");
}
