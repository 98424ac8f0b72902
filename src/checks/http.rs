//! An HTTP request with an expected answer.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};

use super::Answer;
use crate::{
    api::{CaSource, HttpMethod, HttpRequest},
    cluster::{self, ClusterError},
    finding::Finding,
    storage::guard::{Outbound, Refusal},
    work::{Context, PhaseError},
};

/// How long a request may take, where it says nothing else.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between a request and its repetition.
const PAUSE: Duration = Duration::from_secs(1);
/// So much of an answer is searched for the expected text.
const MAX_BODY_BYTES: usize = 64 * 1024;

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
    let mut left = request.retries.unwrap_or_default();
    loop {
        let answer = tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            answer = send(object, request, &prepared) => answer,
        };
        if left == 0 || matches!(answer, Answer::Passed(_)) {
            return Ok(answer);
        }
        left -= 1;
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = tokio::time::sleep(PAUSE) => {}
        }
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
    let failed = |problem: &str, next: &str| Box::new(Answer::Failed(Finding::fail(object, format!("failed: {problem}"), next)));
    // What does not exist is final until a person creates it; a missing right or an API server that does not answer is retried.
    let unreadable = |error: ClusterError| {
        Box::new(match error.is_missing() {
            true => Answer::Failed(Finding::fail(object, format!("failed: {error}"), "then raise spec.retry")),
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
    let refused = |refusal: &Refusal| Answer::Failed(Finding::fail(object, format!("was not called: {refusal}"), "then raise spec.retry"));
    let builder = match prepared.outbound.request(prepared.method.clone(), &request.url) {
        Ok(builder) => builder,
        Err(refusal) => return refused(&refusal),
    };
    let timeout = request.timeout.as_ref().map_or(TIMEOUT, |timeout| timeout.get());
    let builder = builder.headers(prepared.headers.clone()).timeout(timeout);
    let builder = match &request.body {
        Some(body) => builder.body(body.clone()),
        None => builder,
    };
    let broken = |error: reqwest::Error| match Refusal::among(&error) {
        Some(refusal) => refused(refusal),
        None => Answer::Error(Finding::fail(object, format!("did not answer: {}", error.without_url()), "it will be retried")),
    };
    let mut answer = match builder.send().await {
        Ok(answer) => answer,
        Err(error) => return broken(error),
    };
    let status = answer.status();
    let as_expected = request.expect_status.map_or(status.is_success(), |expected| status.as_u16() == expected);
    if !as_expected {
        let expected = request.expect_status.map_or("a status in the 200s".to_owned(), |status| status.to_string());
        let problem = format!("answered {status}, expected {expected}");
        // The server itself says that it cannot answer at this moment.
        return match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Answer::Error(Finding::fail(object, problem, "it will be retried"))
            }
            _ => Answer::Failed(Finding::fail(object, problem, "correct what is behind http.url, or the request in the Portal")),
        };
    }
    let Some(expected) = &request.expect_body else { return Answer::Passed(format!("answered {status}")) };
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                body.extend_from_slice(chunk.get(..MAX_BODY_BYTES.saturating_sub(body.len()).min(chunk.len())).unwrap_or_default())
            }
            Ok(None) => break,
            Err(error) => return broken(error),
        }
        if body.len() >= MAX_BODY_BYTES {
            break;
        }
    }
    if body.is_empty() {
        return Answer::NoData(Finding::fail(object, format!("answered {status} without a body"), "http.expectBody expects one"));
    }
    if String::from_utf8_lossy(&body).contains(expected) {
        Answer::Passed(format!("answered {status} with the expected text"))
    } else {
        let problem = format!("answered {status}, and its body does not contain http.expectBody");
        Answer::Failed(Finding::fail(object, problem, "correct what is behind http.url, or the request in the Portal"))
    }
}
