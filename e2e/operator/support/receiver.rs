//! A real HTTP server in place of Slack and of the portal's hooks, and remembers what it was sent.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
};
use tokio::net::TcpListener;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// 200 at once.
    Fine,
    /// 500.
    Broken,
    /// Never.
    Silent,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// The body as text.
    pub body: String,
}

/// The server.
#[derive(Clone)]
pub struct Receiver {
    address: String,
    mood: Arc<Mutex<Mood>>,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let receiver = Self { address, mood: Arc::new(Mutex::new(Mood::Fine)), requests: Arc::default() };
        let router = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    /// The URL of a path on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers differently from now on.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What came so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> StatusCode {
    let line = format!("{} {}", request.method(), request.uri().path());
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_else(|_| Bytes::new());
    receiver.requests.lock().unwrap().push(Received { line, body: String::from_utf8_lossy(&body).into_owned() });
    let mood = *receiver.mood.lock().unwrap();
    match mood {
        Mood::Fine => StatusCode::OK,
        Mood::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        Mood::Silent => std::future::pending().await,
    }
}
