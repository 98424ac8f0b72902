//! Notifies people of the progress of a release, through Slack incoming webhooks.
//!
//! Nothing waits for a notification. Each webhook has a short queue and a task of its own, so a slow one delays no other
//! else; what does not fit into the queue is dropped and counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use reqwest::{StatusCode, redirect};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::{
    metrics::{Delivery, Metrics},
    secret::SecretValue,
    text::truncate,
};

pub mod message;
mod notice;

pub use notice::{Audience, Notice};

/// Messages that may wait for one webhook.
const QUEUE: usize = 64;
/// Webhooks that may be in use at the same time.
const MAX_WEBHOOKS: usize = 256;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a request is repeated.
const RETRIES: usize = 2;
/// A task without messages ends after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Longest text, in bytes before escaping.
const MAX_TEXT_BYTES: usize = 3000;

/// Why notifications cannot be sent at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the HTTP client for notifications: {0}; check the system's CA certificates")]
pub struct NotifyError(reqwest::Error);

/// Why one message was not delivered. Never contains the URL, which is a secret.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0}")]
    Http(reqwest::Error),
    #[error("the webhook answered {0}")]
    Status(StatusCode),
}

impl SendError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Http(error) => !error.is_builder(),
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// Sends notifications in the background. Clones share the queues.
#[derive(Clone)]
pub struct Notifier {
    http: reqwest::Client,
    metrics: Metrics,
    queues: Arc<Mutex<HashMap<SecretValue, mpsc::Sender<String>>>>,
    /// Messages queued or under way.
    pending: watch::Sender<usize>,
}

impl Notifier {
    /// A notifier without work. Its tasks start with the first message, so it must live inside a tokio runtime.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn spawn(metrics: Metrics) -> Result<Self, NotifyError> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("portal-release-operator/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| NotifyError(error.without_url()))?;
        Ok(Self { http, metrics, queues: Arc::default(), pending: watch::Sender::new(0) })
    }

    /// Queues a message for a webhook and returns at once. A message that finds the queue full is dropped.
    ///
    /// The text is plain: what has a meaning to Slack (`&`, `<`, `>`, and with them `<!channel>` and links) is escaped
    /// here, and everything after 3000 bytes is cut.
    pub fn notify(&self, url: SecretValue, text: String) {
        let text = prepared(&text);
        self.pending.send_modify(|pending| *pending += 1);
        if !self.enqueue(url, text) {
            self.settled(Delivery::Dropped);
            tracing::warn!("a notification was dropped: too many wait for its webhook");
        }
    }

    /// Waits until every message was sent or given up, but no longer than `limit`. For the end of the process and tests.
    pub async fn flush(&self, limit: Duration) {
        let mut pending = self.pending.subscribe();
        let waited = tokio::time::timeout(limit, pending.wait_for(|pending| *pending == 0)).await;
        if waited.is_err() {
            tracing::warn!("notifications were dropped: their webhooks did not answer in time");
        }
    }

    fn enqueue(&self, url: SecretValue, text: String) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| !queue.is_closed());
        if let Some(queue) = queues.get(&url) {
            return queue.try_send(text).is_ok();
        }
        if queues.len() >= MAX_WEBHOOKS {
            return false;
        }
        let (queue, messages) = mpsc::channel(QUEUE);
        let queued = queue.try_send(text).is_ok();
        queues.insert(url.clone(), queue);
        tokio::spawn(self.clone().deliver_all(url, messages));
        queued
    }

    /// The task of one webhook.
    async fn deliver_all(self, url: SecretValue, mut messages: mpsc::Receiver<String>) {
        loop {
            match tokio::time::timeout(IDLE, messages.recv()).await {
                Ok(Some(text)) => self.deliver(&url, &text).await,
                Ok(None) => return,
                // What came in just now is still received; whatever comes later starts a new task.
                Err(_) => messages.close(),
            }
        }
    }

    async fn deliver(&self, url: &SecretValue, text: &str) {
        let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(250)).with_max_times(RETRIES);
        let sent = (|| self.post(url, text)).retry(backoff).when(SendError::is_transient).await;
        match sent {
            Ok(()) => self.settled(Delivery::Sent),
            Err(error) => {
                self.settled(Delivery::Failed);
                tracing::warn!(%error, "a notification was not delivered");
            }
        }
    }

    async fn post(&self, url: &SecretValue, text: &str) -> Result<(), SendError> {
        let body = json!({ "text": text, "unfurl_links": false, "unfurl_media": false });
        let response = self.http.post(url.expose()).json(&body).send().await;
        match response.map_err(|error| SendError::Http(error.without_url()))?.status() {
            status if status.is_success() => Ok(()),
            status => Err(SendError::Status(status)),
        }
    }

    fn settled(&self, delivery: Delivery) {
        self.metrics.notification(delivery);
        self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
    }
}

/// The text as Slack gets it: bounded, without control characters, with nothing that Slack would interpret as a mention
/// or a link.
fn prepared(text: &str) -> String {
    let cut = truncate(text, MAX_TEXT_BYTES);
    let mut out = String::with_capacity(cut.len());
    for c in cut.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    if cut.len() < text.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests;
