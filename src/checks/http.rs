//! An HTTP request with an expected answer.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde::de::IgnoredAny;

use super::Answer;
use crate::{
    api::{CaSource, HttpMethod, HttpRequest},
    cluster::{self, ClusterError},
    finding::Finding,
    storage::guard::{Outbound, Refusal},
    text::{chain, truncate},
    work::{Context, PhaseError},
};

/// How long a request may take, where it says nothing else.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between a request and its repetition.
const PAUSE: Duration = Duration::from_secs(1);
/// So much of an answer is searched for the expected text.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// At most so much of an error is shown, in bytes.
const MAX_CAUSE: usize = 512;
/// At most so much of a Content-Encoding is shown, in bytes.
const MAX_ENCODING: usize = 32;

/// Evaluates a request, and repeats it as often as it says while the answer is not as expected.
///
/// Neither the answer's body nor a header's value is ever part of a message: they may hold secrets.
///
/// # Errors
/// When the phase is cancelled.
pub(super) async fn ask(context: &Context, object: &str, request: &HttpRequest, method: HttpMethod) -> Result<Answer, PhaseError> {
    let prepared = match prepare(context, object, request, method).await {
        Ok(prepared) => prepared,
        Err(answer) => return Ok(*answer),
    };
    tokio::select! {
        () = context.control.cancel.cancelled() => Err(PhaseError::Cancelled),
        answer = repeat(object, request, &prepared) => Ok(answer),
    }
}

async fn repeat(object: &str, request: &HttpRequest, prepared: &Prepared) -> Answer {
    let mut left = request.retries.unwrap_or_default();
    loop {
        let answer = send(object, request, prepared).await;
        // What is not sent now is not sent in a second either.
        if left == 0 || matches!(answer, Answer::Passed(_) | Answer::Refused(_)) {
            return answer;
        }
        left -= 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// A request that can be sent more than once.
struct Prepared {
    outbound: Outbound,
    method: Method,
    headers: header::HeaderMap,
}

async fn prepare(context: &Context, object: &str, request: &HttpRequest, method: HttpMethod) -> Result<Prepared, Box<Answer>> {
    let (client, namespace) = (&context.tools.client, context.subject.namespace.as_str());
    let failed = |problem: &str, next: &str| Box::new(Answer::Refused(Finding::fail(object, format!("was not called: {problem}"), next)));
    // What does not exist is final until a person creates it; a missing right or an API server that does not answer is retried.
    let unreadable = |error: ClusterError| {
        Box::new(match error.is_missing() {
            true => Answer::Refused(Finding::fail(object, format!("was not called: {error}"), "then raise spec.retry")),
            false => Answer::error(object, &error.to_string()),
        })
    };
    let mut headers = header::HeaderMap::new();
    for wanted in &request.headers {
        let secret = &wanted.value_secret_ref;
        let value = cluster::read_secret_key(client, namespace, secret.name.as_str(), secret.key.as_str()).await.map_err(unreadable)?;
        let name = header::HeaderName::try_from(&wanted.name);
        let (Ok(name), Ok(mut value)) = (name, header::HeaderValue::from_str(value.expose())) else {
            return Err(failed(
                &format!("header {} cannot be sent", wanted.name),
                "correct http.headers and the Secret: a value of one line",
            ));
        };
        value.set_sensitive(true);
        headers.append(name, value);
    }
    let mut outbound = context.tools.services.outbound.clone();
    if let Some(source) = &request.ca_from {
        let pem = match source {
            CaSource { secret_key_ref: Some(key), .. } => cluster::read_secret_key(client, namespace, key.name.as_str(), key.key.as_str())
                .await
                .map_err(unreadable)?
                .expose()
                .to_owned(),
            CaSource { config_map_key_ref: Some(key), .. } => {
                cluster::read_config_map_key(client, namespace, key.name.as_str(), key.key.as_str()).await.map_err(unreadable)?
            }
            CaSource { .. } => String::new(),
        };
        outbound = outbound
            .trusting(pem.as_bytes())
            .map_err(|_| failed("http.caFrom holds no CA certificate", "store a certificate in PEM there, then raise spec.retry"))?;
    }
    let method = match request.method.unwrap_or(method) {
        HttpMethod::GET => Method::GET,
        HttpMethod::POST => Method::POST,
        HttpMethod::PUT => Method::PUT,
        HttpMethod::DELETE => Method::DELETE,
    };
    Ok(Prepared { outbound, method, headers })
}

async fn send(object: &str, request: &HttpRequest, prepared: &Prepared) -> Answer {
    let refused = |refusal: &Refusal| Answer::Refused(Finding::fail(object, format!("was not called: {refusal}"), "then raise spec.retry"));
    let builder = match prepared.outbound.check(prepared.method.clone(), &request.url) {
        Ok(builder) => builder,
        Err(refusal) => return refused(&refusal),
    };
    let timeout = request.timeout.as_ref().map_or(TIMEOUT, |timeout| timeout.get());
    let builder = builder.headers(headers(request, &prepared.headers)).timeout(timeout);
    let builder = match &request.body {
        Some(body) => builder.body(body.clone()),
        None => builder,
    };
    let broken = |error: reqwest::Error| match Refusal::among(&error) {
        Some(refusal) => refused(refusal),
        None => Answer::Error(no_answer(object, error, timeout)),
    };
    let mut answer = match builder.send().await {
        Ok(answer) => answer,
        Err(error) => return broken(error),
    };
    let status = answer.status();
    let as_expected = request.expect_status.map_or(status.is_success(), |expected| status.as_u16() == expected);
    let correct = "correct what is behind http.url, or the request in the Portal";
    if !as_expected {
        let expected = request.expect_status.map_or("a status in the 200s".to_owned(), |status| status.to_string());
        let followed = if status.is_redirection() { "; redirects are not followed" } else { "" };
        let problem = format!("answered {status}, expected {expected}{followed}");
        // The server itself says that it cannot answer at this moment.
        return match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Answer::Error(Finding::fail(object, problem, ""))
            }
            _ => Answer::Failed(Finding::fail(object, problem, correct)),
        };
    }
    let Some(expected) = &request.expect_body else { return Answer::Passed(format!("answered {status}")) };
    let encoding = encoding(answer.headers());
    let mut body = Vec::new();
    while body.len() < MAX_BODY_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return broken(error),
        }
        body.truncate(MAX_BODY_BYTES);
        // Some answers never end.
        if holds(&body, expected) {
            return Answer::Passed(format!("answered {status} with the expected text"));
        }
    }
    if body.is_empty() {
        return Answer::NoData(Finding::fail(object, format!("answered {status} without a body"), "http.expectBody expects one"));
    }
    match encoding {
        Some(encoding) => {
            let problem = format!("answered {status} with Content-Encoding {encoding}, so http.expectBody cannot be looked for");
            Answer::Failed(Finding::fail(object, problem, "let the server answer uncompressed: the operator asks it to"))
        }
        None => Answer::Failed(Finding::fail(object, format!("answered {status}, and its body does not contain http.expectBody"), correct)),
    }
}

/// The text is in the body. What is no UTF-8 elsewhere in it does not matter.
fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len().max(1)).any(|window| window == text.as_bytes())
}

/// The headers of the request: those of the Portal, and what is true of every request where these say nothing.
fn headers(request: &HttpRequest, own: &header::HeaderMap) -> header::HeaderMap {
    let mut headers = own.clone();
    let is_json = request.body.as_ref().is_some_and(|body| serde_json::from_str::<IgnoredAny>(body).is_ok());
    if is_json {
        headers.entry(header::CONTENT_TYPE).or_insert(header::HeaderValue::from_static("application/json"));
    }
    headers.entry(header::ACCEPT_ENCODING).or_insert(header::HeaderValue::from_static("identity"));
    headers
}

/// How the body is encoded, where it is.
fn encoding(headers: &header::HeaderMap) -> Option<String> {
    let named = headers.get(header::CONTENT_ENCODING)?.to_str().ok()?.trim().to_ascii_lowercase();
    (!named.is_empty() && named != "identity").then(|| truncate(&named, MAX_ENCODING).to_owned())
}

/// Why there is no answer: the error with its causes, which tell a name from a port and a certificate. The URL stays out of it, as it may
/// hold secrets.
fn no_answer(object: &str, error: reqwest::Error, timeout: Duration) -> Finding {
    if error.is_timeout() && !error.is_connect() {
        return Finding::fail(object, format!("did not answer within {timeout:?}"), "raise http.timeout if that is too short");
    }
    let cause = chain(&error.without_url());
    let next = if cause.contains("UnknownIssuer") || cause.contains("CaUsedAsEndEntity") { "name its CA in http.caFrom" } else { "" };
    Finding::fail(object, format!("did not answer: {}", truncate(&cause, MAX_CAUSE)), next)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::storage::guard::STALL;

    /// A server that answers every connection with this text after a pause, and says what it was sent. `hold`: it never closes.
    async fn server(pause: Duration, text: &'static [u8], hold: bool) -> (String, mpsc::UnboundedReceiver<String>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x?token=canary", listener.local_addr().unwrap());
        let ((sender, received), count) = (mpsc::unbounded_channel(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.unwrap_or_default();
                    let _ = sender.send(String::from_utf8_lossy(&request[..read]).to_lowercase());
                    tokio::time::sleep(pause).await;
                    let _ = stream.write_all(text).await;
                    if hold {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        (url, received, count)
    }

    fn request(url: &str) -> HttpRequest {
        serde_json::from_value(serde_json::json!({ "url": url })).unwrap()
    }

    /// An operator whose server of files may be silent for a second at most.
    async fn answer(request: &HttpRequest, allow_local: bool) -> Answer {
        let outbound = Outbound::new(allow_local, Duration::from_secs(1)).unwrap();
        let prepared = Prepared { outbound, method: Method::GET, headers: header::HeaderMap::new() };
        repeat("gate g", request, &prepared).await
    }

    #[tokio::test]
    async fn only_its_own_timeout_cuts_a_check() {
        let (url, _, _) = server(Duration::from_millis(1500), b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
        let slow = HttpRequest { timeout: Some("20s".into()), ..request(&url) };
        assert_eq!(answer(&slow, true).await, Answer::Passed("answered 200 OK".to_owned()));
        let hasty = HttpRequest { timeout: Some("500ms".into()), ..request(&url) };
        let Answer::Error(finding) = answer(&hasty, true).await else { panic!("no answer in time") };
        assert_eq!(finding.to_string(), "gate g did not answer within 500ms; raise http.timeout if that is too short");
    }

    #[tokio::test]
    async fn what_a_url_may_not_call_is_refused_once() {
        let (url, _, count) = server(Duration::ZERO, b"", false).await;
        for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
            let started = std::time::Instant::now();
            let refused = answer(&HttpRequest { retries: Some(60), ..request(&url) }, false).await;
            assert!(matches!(&refused, Answer::Refused(finding) if finding.problem.contains("local address")), "{refused:?}");
            assert!(started.elapsed() < Duration::from_secs(5));
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        // What fails otherwise is repeated.
        let (url, _, count) = server(Duration::ZERO, b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", false).await;
        assert!(matches!(answer(&HttpRequest { retries: Some(1), ..request(&url) }, true).await, Answer::Failed(_)));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_error_says_what_is_wrong_and_not_the_url() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (plain, _, _) = server(Duration::ZERO, b"nonsense", false).await;
        for (url, says) in [
            (format!("http://{closed}/x?token=canary"), "Connection refused"),
            ("http://portal-release.invalid/x?token=canary".to_owned(), "dns error"),
            (plain.replace("http:", "https:"), "InvalidContentType"),
            (plain, "invalid HTTP"),
        ] {
            let Answer::Error(finding) = answer(&request(&url), true).await else { panic!("{url} answered") };
            let text = finding.to_string();
            assert!(text.contains(says) && text.starts_with("gate g did not answer: "), "{url}: {text}");
            assert!(!text.contains("canary") && !text.contains("retried"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_expected_text_is_found_as_soon_as_it_is_there() {
        let (url, _, _) = server(Duration::ZERO, b"HTTP/1.1 200 OK\r\n\r\ndata: it is ok\n", true).await;
        let expecting = |text: &str| HttpRequest { expect_body: Some(text.to_owned()), timeout: Some("2s".into()), ..request(&url) };
        let started = std::time::Instant::now();
        assert_eq!(answer(&expecting("is ok"), true).await, Answer::Passed("answered 200 OK with the expected text".to_owned()));
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(matches!(answer(&expecting("fine"), true).await, Answer::Error(_)), "the body never ends");
    }

    #[tokio::test]
    async fn a_compressed_body_is_named_as_what_it_is() {
        let (url, mut received, _) =
            server(Duration::ZERO, b"HTTP/1.1 200 OK\r\ncontent-encoding: GZIP\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08", false).await;
        let refused = answer(&HttpRequest { expect_body: Some("ok".to_owned()), ..request(&url) }, true).await;
        assert!(matches!(&refused, Answer::Failed(finding) if finding.problem.contains("Content-Encoding gzip")), "{refused:?}");
        assert!(received.recv().await.unwrap().contains("accept-encoding: identity"));
    }

    #[tokio::test]
    async fn json_is_sent_as_json_unless_a_header_says_otherwise() {
        let (url, mut received, _) = server(Duration::ZERO, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
        let with = |body: &str| HttpRequest { body: Some(body.to_owned()), ..request(&url) };
        assert!(matches!(answer(&with(r#"{"a": 1}"#), true).await, Answer::Passed(_)));
        assert!(received.recv().await.unwrap().contains("content-type: application/json"));
        assert!(matches!(answer(&with("a=1"), true).await, Answer::Passed(_)));
        assert!(!received.recv().await.unwrap().contains("content-type"));
        let own = header::HeaderMap::from_iter([(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"))]);
        assert_eq!(headers(&with("{}"), &own)[header::CONTENT_TYPE], "text/plain");
    }

    #[test]
    fn the_clients_of_checks_and_files_have_the_same_guard() {
        let outbound = Outbound::new(false, STALL).unwrap();
        assert!(outbound.check(Method::GET, "http://169.254.169.254/").is_err() && outbound.file("http://169.254.169.254/").is_err());
    }
}
