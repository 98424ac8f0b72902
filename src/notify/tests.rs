use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::{
    Router,
    http::{StatusCode, header},
    routing::post,
};
use tokio::net::TcpListener;

use super::*;

/// A server that counts requests and answers them in one way.
struct Webhook {
    url: SecretValue,
    seen: Arc<AtomicUsize>,
    bodies: mpsc::UnboundedReceiver<String>,
}

#[derive(Clone, Copy)]
enum Behaviour {
    Answer(StatusCode),
    NeverAnswer,
}

async fn webhook(behaviour: Behaviour) -> Webhook {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = SecretValue::new(format!("http://{}/services/canary", listener.local_addr().unwrap()));
    let seen = Arc::new(AtomicUsize::new(0));
    let (bodies_in, bodies) = mpsc::unbounded_channel();
    let (counted, followed) = (seen.clone(), seen.clone());
    let answer = async move |body: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = bodies_in.send(body);
        match behaviour {
            Behaviour::Answer(status) => (status, [(header::LOCATION, "/elsewhere")]),
            Behaviour::NeverAnswer => std::future::pending().await,
        }
    };
    let elsewhere = async move || {
        followed.fetch_add(100, Ordering::SeqCst);
    };
    let router = Router::new().route("/services/canary", post(answer)).route("/elsewhere", post(elsewhere.clone()).get(elsewhere));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Webhook { url, seen, bodies }
}

fn count(metrics: &Metrics, result: &str) -> usize {
    let start = format!("portalrelease_notifications_total{{result=\"{result}\"}} ");
    let text = metrics.encode();
    text.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn a_message_arrives_escaped_and_bounded() {
    let mut hook = webhook(Behaviour::Answer(StatusCode::OK)).await;
    let metrics = Metrics::new();
    let notifier = Notifier::spawn(metrics.clone()).unwrap();
    notifier.notify(hook.url.clone(), format!("<!channel> a & b\r\n\0{}", "é".repeat(9000)));
    notifier.flush(Duration::from_secs(10)).await;
    let body: serde_json::Value = serde_json::from_str(&hook.bodies.recv().await.unwrap()).unwrap();
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with("&lt;!channel&gt; a &amp; b \n ééé"), "{text}");
    assert!(text.len() <= MAX_TEXT_BYTES + 20 && text.ends_with("é…"));
    assert_eq!(count(&metrics, "sent"), 1);
}

#[tokio::test]
async fn a_failing_webhook_is_called_three_times() {
    let hook = webhook(Behaviour::Answer(StatusCode::INTERNAL_SERVER_ERROR)).await;
    let metrics = Metrics::new();
    let notifier = Notifier::spawn(metrics.clone()).unwrap();
    notifier.notify(hook.url.clone(), "hello".into());
    notifier.flush(Duration::from_secs(10)).await;
    assert_eq!((hook.seen.load(Ordering::SeqCst), count(&metrics, "failed")), (1 + RETRIES, 1));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_not_repeated() {
    let hook = webhook(Behaviour::Answer(StatusCode::TEMPORARY_REDIRECT)).await;
    let metrics = Metrics::new();
    let notifier = Notifier::spawn(metrics.clone()).unwrap();
    notifier.notify(hook.url.clone(), "hello".into());
    notifier.flush(Duration::from_secs(10)).await;
    assert_eq!((hook.seen.load(Ordering::SeqCst), count(&metrics, "failed")), (1, 1));
}

#[tokio::test]
async fn a_webhook_that_never_answers_delays_no_other_and_loses_the_surplus() {
    let slow = webhook(Behaviour::NeverAnswer).await;
    let quick = webhook(Behaviour::Answer(StatusCode::OK)).await;
    let metrics = Metrics::new();
    let notifier = Notifier::spawn(metrics.clone()).unwrap();
    let begun = Instant::now();
    for _ in 0..3 * QUEUE {
        notifier.notify(slow.url.clone(), "hello".into());
    }
    notifier.notify(quick.url.clone(), "hello".into());
    assert!(begun.elapsed() < Duration::from_secs(1), "notify waited for the webhook");
    assert!(count(&metrics, "dropped") >= 2 * QUEUE - 1);
    let mut pending = notifier.pending.subscribe();
    let sent = async {
        while count(&metrics, "sent") == 0 {
            pending.changed().await.unwrap();
        }
    };
    tokio::time::timeout(REQUEST_TIMEOUT, sent).await.expect("a slow webhook delays a quick one");
}

#[tokio::test]
async fn an_error_does_not_show_the_url() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let notifier = Notifier::spawn(Metrics::new()).unwrap();
    for url in ["http://127.0.0.1:1/services/canary", "canary", "ftp://canary/x"] {
        let error = notifier.post(&SecretValue::new(url), "hello").await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}
