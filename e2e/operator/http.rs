//! The operator's HTTP port: health, metrics, manifests, and what strangers may try on it.

use portal_release_operator::api::ReleaseState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Stage, until};

async fn get(url: &str) -> (u16, String) {
    let answer = reqwest::get(url).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

/// The number after a series' name and labels.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in\n{metrics}")).parse().expect("a number")
}

/// Sends a path as it is: clients would tidy it up.
async fn raw(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_manifests_are_served_and_nothing_else() {
    let stage = Stage::new("http").await;
    // A neighbour's Portal of the same name, in a namespace that this operator does not serve.
    let neighbour = stage.env["STAGE_OPERATOR_NAMESPACE"].clone();
    let portal = stage.kubectl(&["get", "portal", "protected-planet", "-o", "json"], "").await.expect("the Portal");
    let spec = serde_json::from_str::<serde_json::Value>(&portal).expect("JSON")["spec"].take();
    let theirs = serde_json::json!({ "apiVersion": "portalrelease.dev/v1alpha1", "kind": "Portal",
        "metadata": { "name": "protected-planet", "namespace": neighbour }, "spec": spec });
    stage.kubectl(&["--namespace", &neighbour, "create", "-f", "-"], &theirs.to_string()).await.expect("the neighbour's Portal");

    let operator = stage.operator().await;
    let base = format!("http://{}", operator.address());
    assert_eq!(get(&format!("{base}/healthz")).await, (200, "ok\n".to_owned()));
    until("it is ready", || async { (get(&format!("{base}/readyz")).await.0 == 200).then_some(()) }).await;
    let manifest = format!("{base}/manifests/{}/protected-planet/Jul2026.json", stage.namespace);
    assert_eq!(get(&manifest).await.0, 404, "before the release");

    stage.make_release("jul2026", "Jul2026", "").await;
    let status = stage.wait_state("jul2026", ReleaseState::Live).await;

    let (code, metrics) = get(&format!("{base}/metrics")).await;
    assert_eq!(code, 200);
    assert_eq!(value(&metrics, "portalrelease_completed_total{outcome=\"Live\"}"), 1.0);
    assert_eq!(value(&metrics, "portalrelease_duration_seconds_count{outcome=\"Live\"}"), 1.0);
    for phase in ["AcquireLock", "ImportCore", "FinaliseSwap", "ResetCheckpoints"] {
        let series = format!("portalrelease_phase_duration_seconds_count{{phase=\"{phase}\",outcome=\"Succeeded\"}}");
        assert_eq!(value(&metrics, &series), 1.0);
    }
    let rows: i64 = status.imports.iter().map(|import| import.rows).sum();
    let counted = |import: &str| value(&metrics, &format!("portalrelease_import_rows_total{{importer=\"{import}\"}}"));
    assert_eq!(status.imports.iter().map(|import| counted(&import.name)).sum::<f64>().to_string(), rows.to_string());
    assert_eq!(value(&metrics, "portalrelease_import_rows_rejected_total{importer=\"sources\"}"), 0.0);
    assert_eq!(value(&metrics, "portalrelease_swap_lock_attempts_total{result=\"acquired\"}"), 1.0);
    assert_eq!(value(&metrics, "portalrelease_swap_lock_held_seconds_count"), 1.0);
    assert_eq!(value(&metrics, "portalrelease_worker_freeze_seconds_count"), 1.0);
    assert!(value(&metrics, "portalrelease_reconciles_total{result=\"ok\"}") > 1.0);
    let started = status.started_at.expect("its start").0.as_second().to_string().parse::<f64>().unwrap();
    assert!(value(&metrics, "portalrelease_last_success_timestamp_seconds") > started);
    assert!(metrics.ends_with("# EOF\n"));
    for name in [stage.namespace.as_str(), "Jul2026", "protected-planet"] {
        assert!(!metrics.contains(name), "labels are words, never names of objects: {name} in\n{metrics}");
    }

    let answer = reqwest::get(&manifest).await.expect("the manifest");
    assert_eq!(answer.status(), 200);
    let tag = answer.headers()["etag"].clone();
    let sha256 = status.manifest.expect("the manifest's address").sha256;
    assert_eq!(tag.to_str().unwrap(), format!("\"{sha256}\""), "the tag is the checksum that the status shows");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let again = reqwest::Client::new().get(&manifest).header("if-none-match", &tag).send().await.expect("an answer");
    assert_eq!(again.status(), 304);
    assert_eq!(again.text().await.unwrap(), "");

    let namespace = &stage.namespace;
    for path in [
        format!("/manifests/{namespace}/protected-planet/Aug2026.json"),
        format!("/manifests/{namespace}/another/Jul2026.json"),
        format!("/manifests/{neighbour}/protected-planet/Jul2026.json"),
        "/manifests/kube-system/protected-planet/Jul2026.json".to_owned(),
        format!("/manifests/{namespace}/protected-planet/../../../../etc/passwd"),
        format!("/manifests/{namespace}/protected-planet/..%2f..%2f..%2fetc%2fpasswd"),
        format!("/manifests/{namespace}/protected-planet/%2e%2e%2f%2e%2e%2fetc%2fpasswd.json"),
        format!("/manifests/{namespace}/..%2f..%2f{neighbour}%2fportals/Jul2026.json"),
        format!("/manifests/{namespace}%2fsecrets/portal-db/Jul2026.json"),
        format!("/manifests/{namespace}/protected-planet/Jul2026.json%00"),
        format!("/manifests/{namespace}/protected-planet/Jul2026%27%20OR%20true--.json"),
        "//etc/passwd".to_owned(),
        "/manifests/".to_owned(),
        "/debug".to_owned(),
        "/".to_owned(),
    ] {
        let answer = raw(operator.address(), &path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(!answer.contains("checksum") && !answer.contains("root:"), "{path}: {answer}");
    }
    assert_eq!(raw(operator.address(), &format!("/{}", "x".repeat(100_000))).await.split(' ').nth(1), Some("414"));
    assert_eq!(get(&format!("{base}/healthz")).await.0, 200, "it has survived");
    assert!(!operator.log().contains("forbidden"), "nobody makes the operator ask for what it may not see");
}
