//! The operator's HTTP port: health, metrics and the manifests of releases.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode, header},
    routing::get,
};
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, Metrics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Where manifests come from.
pub trait ManifestSource: Send + Sync + 'static {
    /// The manifest of one release as JSON text, or `None` when there is none. The error is logged and not shown.
    fn manifest<'a>(&'a self, namespace: &'a str, portal: &'a str, label: &'a str) -> BoxFuture<'a, Result<Option<String>, String>>;
}

/// Why the HTTP port does not work.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; choose a free address with --http-addr")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The server ended with an error.
    #[error("the HTTP server on {address} failed: {cause}; restart the operator")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
}

/// A bound HTTP port.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    ready: watch::Receiver<bool>,
    manifests: Arc<dyn ManifestSource>,
}

impl HttpServer {
    /// Listens on `address`, such as `127.0.0.1:8080`; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address is not valid, not of this machine or in use.
    pub async fn bind(address: &str) -> Result<Self, HttpError> {
        let failed = |cause| HttpError::Bind { address: address.to_owned(), cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address: local })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown`, then ends those under way. `ready` is true while the operator works or stands
    /// by to take over.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        metrics: Metrics,
        ready: watch::Receiver<bool>,
        manifests: Arc<dyn ManifestSource>,
        shutdown: CancellationToken,
    ) -> Result<(), HttpError> {
        let router = Router::new()
            .route("/healthz", get(async || answer(StatusCode::OK, TEXT, "ok\n".to_owned())))
            .route("/readyz", get(readyz))
            .route(
                "/metrics",
                get(async |State(shared): State<Shared>| answer(StatusCode::OK, metrics::CONTENT_TYPE, shared.metrics.encode())),
            )
            .route("/manifests/{namespace}/{portal}/{file}", get(manifest))
            .fallback(async || sentence(StatusCode::NOT_FOUND, "not found; manifests are at /manifests/NAMESPACE/PORTAL/LABEL.json"))
            .with_state(Shared { metrics, ready, manifests });
        axum::serve(self.listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
            .map_err(|cause| HttpError::Serve { address: self.address, cause })
    }
}

async fn readyz(State(shared): State<Shared>) -> Response<Body> {
    if *shared.ready.borrow() {
        answer(StatusCode::OK, TEXT, "ok\n".to_owned())
    } else {
        answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready: still reading the cluster's objects\n".to_owned())
    }
}

async fn manifest(
    State(shared): State<Shared>,
    Path((namespace, portal, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let label = file.strip_suffix(".json").filter(|label| is_label(label));
    let (Some(label), true, true) = (label, is_object_name(&namespace, 63), is_object_name(&portal, 253)) else {
        return sentence(StatusCode::NOT_FOUND, "manifests are at /manifests/NAMESPACE/PORTAL/LABEL.json");
    };
    match shared.manifests.manifest(&namespace, &portal, label).await {
        Ok(Some(body)) => manifest_body(body, &headers),
        Ok(None) => sentence(StatusCode::NOT_FOUND, "no manifest for this label"),
        Err(error) => {
            tracing::warn!(namespace, portal, label, error, "the manifest could not be read");
            sentence(StatusCode::SERVICE_UNAVAILABLE, "the manifest cannot be read now; try again later")
        }
    }
}

fn manifest_body(body: String, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{}\"", sha256_hex(body.as_bytes()));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|value| value.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let mut response = if unchanged { answer(StatusCode::NOT_MODIFIED, JSON, String::new()) } else { answer(StatusCode::OK, JSON, body) };
    if let Ok(value) = etag.parse() {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// A short JSON answer `{"message": ...}`.
fn sentence(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, JSON, format!("{}\n", serde_json::json!({ "message": message })))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lower case letters, digits, dots and dashes, as in `ObjectName`.
fn is_object_name(text: &str, max: usize) -> bool {
    is_bounded_by_alphanumerics(text, max) && !text.chars().any(|c| c.is_ascii_uppercase() || c == '_')
}

/// As in `Label`.
fn is_label(text: &str) -> bool {
    is_bounded_by_alphanumerics(text, 63)
}

fn is_bounded_by_alphanumerics(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Source;

    impl ManifestSource for Source {
        fn manifest<'a>(&'a self, namespace: &'a str, portal: &'a str, label: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
            Box::pin(async move {
                match (namespace, portal, label) {
                    ("ns", "genes", "Jul2026") => Ok(Some("{\"a\":1}".to_owned())),
                    ("ns", "genes", "Bad2026") => Err("password=canary".to_owned()),
                    ("ns", "genes", _) => Ok(None),
                    other => panic!("an address that is not valid came through: {other:?}"),
                }
            })
        }
    }

    struct Running {
        base: String,
        ready: watch::Sender<bool>,
        shutdown: CancellationToken,
        server: tokio::task::JoinHandle<Result<(), HttpError>>,
    }

    async fn run() -> Running {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = HttpServer::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", server.address());
        let (ready, receiver) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server.serve(Metrics::new(), receiver, Arc::new(Source), shutdown.clone()));
        Running { base, ready, shutdown, server }
    }

    async fn fetch(url: &str) -> (u16, String, String) {
        let response = reqwest::get(url).await.unwrap();
        let content_type = response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        (response.status().as_u16(), content_type, response.text().await.unwrap())
    }

    #[tokio::test]
    async fn health_readiness_and_metrics() {
        let running = run().await;
        assert_eq!(fetch(&format!("{}/healthz", running.base)).await.0, 200);
        assert_eq!(fetch(&format!("{}/readyz", running.base)).await.0, 503);
        running.ready.send(true).unwrap();
        assert_eq!(fetch(&format!("{}/readyz", running.base)).await.0, 200);
        let (status, content_type, body) = fetch(&format!("{}/metrics", running.base)).await;
        assert_eq!((status, content_type.as_str()), (200, metrics::CONTENT_TYPE));
        assert!(body.ends_with("# EOF\n"));
        running.shutdown.cancel();
        running.server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn manifests() {
        let running = run().await;
        let url = format!("{}/manifests/ns/genes/Jul2026.json", running.base);
        assert_eq!(fetch(&url).await, (200, JSON.to_owned(), "{\"a\":1}".to_owned()));
        let etag = reqwest::get(&url).await.unwrap().headers()["etag"].clone();
        let again = reqwest::Client::new().get(&url).header("if-none-match", etag).send().await.unwrap();
        assert_eq!(again.status().as_u16(), 304);
        for (path, status) in [
            ("ns/genes/Aug2026.json", 404),
            ("ns/genes/Bad2026.json", 503),
            ("ns/genes/Jul2026", 404),
            ("ns/genes/..%2fsecret.json", 404),
            ("NS/genes/Jul2026.json", 404),
            ("ns/ge%00nes/Jul2026.json", 404),
            ("ns/genes/.json", 404),
            ("ns/%2e%2e%2f/Jul2026.json", 404),
        ] {
            let (got, content_type, body) = fetch(&format!("{}/manifests/{path}", running.base)).await;
            assert_eq!((got, content_type.as_str()), (status, JSON), "{path}: {body}");
            assert!(body.contains("message") && !body.contains("canary"), "{path}: {body}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let running = run().await;
        let address = running.base.trim_start_matches("http://");
        let error = HttpServer::bind(address).await.unwrap_err().to_string();
        assert!(error.contains(address) && error.contains("--http-addr"), "{error}");
    }
}
