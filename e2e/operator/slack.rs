//! People are told, and nothing waits for their webhook.

use portal_release_operator::api::ReleaseState;

use crate::support::{Stage, receiver::Mood, until};

/// Texts that Slack got so far.
fn texts(stage: &Stage) -> Vec<String> {
    let slack = stage.receiver.requests().into_iter().filter(|request| request.line == "POST /slack");
    slack
        .map(|request| serde_json::from_str::<serde_json::Value>(&request.body).expect("JSON")["text"].as_str().expect("a text").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_release_is_told_and_each_kind_can_be_switched_off() {
    let stage = Stage::new("slack").await;
    let _operator = stage.operator().await;
    stage.make_release("jul2026", "Jul2026", "reason: <!channel> look").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let told = until("the message of success", || {
        let told = texts(&stage);
        async move { told.iter().any(|text| text.contains("is live")).then_some(told) }
    })
    .await;
    for expected in [
        "Release Jul2026 of protected-planet has started",
        "Preflight is complete",
        "import protected_areas has",
        "FinaliseSwap is complete",
        "is live",
    ] {
        assert!(told.iter().any(|text| text.contains(expected)), "'{expected}' in {told:#?}");
    }
    assert!(told.iter().all(|text| !text.contains("<!channel>")), "{told:#?}");

    // All but failures switched off; and then a failure, with what and what to do.
    let before = texts(&stage).len();
    stage
        .edit_portal(
            r#"{"notifications":[{"name":"slack","slack":{"urlSecretRef":{"name":"slack","key":"url"}},"start":false,"phaseComplete":false,"importProgress":false,"success":false}],
                "gates":[{"name":"sign-off","phase":"Preflight","sql":"SELECT false"}]}"#,
        )
        .await;
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait("aug2026", "Failed", |status| status.state == Some(ReleaseState::Failed)).await;
    let told = until("the message of failure", || {
        let told = texts(&stage).split_off(before);
        async move { (!told.is_empty()).then_some(told) }
    })
    .await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].contains("Release Aug2026 of protected-planet failed") && told[0].contains("sign-off") && told[0].contains("retry"),
        "{}",
        told[0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_broken_webhook_holds_nothing_up() {
    let stage = Stage::new("silent").await;
    let operator = stage.operator().await;
    // The hook of PostSwap is another server's business here.
    stage.edit_portal("{\"postSwap\":[]}").await;
    stage.receiver.set(Mood::Silent);
    stage.make_release("jul2026", "Jul2026", "").await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert!(!texts(&stage).is_empty(), "it was tried");
    stage.receiver.set(Mood::Broken);
    stage.make_release("aug2026", "Aug2026", "").await;
    stage.wait_state("aug2026", ReleaseState::Live).await;
    until("a failed notification in the metrics", || async {
        let metrics = reqwest::get(format!("http://{}/metrics", operator.address())).await.ok()?.text().await.ok()?;
        metrics
            .lines()
            .any(|line| line.starts_with("portalrelease_notifications_total{result=\"failed\"}") && !line.ends_with(" 0"))
            .then_some(())
    })
    .await;
}
