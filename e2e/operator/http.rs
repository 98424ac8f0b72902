//! What the operator serves over HTTP.

use portal_release_operator::api::ReleaseState;

use crate::support::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_manifests_are_served() {
    let stage = Stage::new("http").await;
    let operator = stage.operator().await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{}{path}", operator.address())).await.expect("an answer");
        (answer.status().as_u16(), answer.headers().clone(), answer.text().await.expect("a body"))
    };
    assert_eq!(get("/healthz").await.0, 200);
    assert_eq!(get("/readyz").await.0, 200);
    let manifest = format!("/manifests/{}/protected-planet/Jul2026.json", stage.namespace);
    assert_eq!(get(&manifest).await.0, 404, "there is no release yet");

    stage.make_release("jul2026", "Jul2026", "").await;
    let live = stage.wait_state("jul2026", ReleaseState::Live).await;
    let (status, headers, body) = get(&manifest).await;
    assert_eq!(status, 200);
    assert!(headers["content-type"].to_str().unwrap().contains("json"));
    assert!(headers["etag"].to_str().unwrap().contains(&live.manifest.expect("the manifest").sha256), "the tag is the content's hash");
    assert!(body.contains("\"label\": \"Jul2026\""));
    for path in
        ["/manifests/../../etc/passwd.json", "/manifests/%2e%2e/x/y.json", "/manifests/kube-system/x/y.json", "/manifests/a/b/c", "/secret"]
    {
        let (status, _, body) = get(path).await;
        assert_eq!(status, 404, "{path}: {body}");
    }

    let (_, _, metrics) = get("/metrics").await;
    for family in [
        "portalrelease_completed_total{outcome=\"Live\"} 1",
        "portalrelease_phase_duration_seconds_count{phase=\"FinaliseSwap\",outcome=\"Succeeded\"} 1",
        "portalrelease_swap_lock_attempts_total{result=\"acquired\"} 1",
        "portalrelease_swap_lock_held_seconds_count 1",
        "portalrelease_worker_freeze_seconds_count 1",
        "portalrelease_import_rows_total{importer_kind=\"core\"}",
        "portalrelease_last_success_timestamp_seconds",
        "portalrelease_notifications_total{result=\"sent\"}",
    ] {
        assert!(metrics.contains(family), "{family} in:\n{metrics}");
    }
}
