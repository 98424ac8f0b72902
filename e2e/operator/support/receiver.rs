//! A real HTTP server in place of Slack and of the portal's hooks, and remembers what it was sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
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
    answers: Arc<Mutex<HashMap<String, (StatusCode, String)>>>,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let receiver = Self { address, mood: Arc::new(Mutex::new(Mood::Fine)), answers: Arc::default(), requests: Arc::default() };
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

    /// Answers so at this path from now on, whatever its mood is. A redirection leads to `/login`.
    pub fn answer(&self, path: &str, status: u16, body: &str) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    /// How often somebody has asked at this path.
    pub fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.line.ends_with(path)).count()
    }

    /// What came so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

async fn receive(State(receiver): State<Receiver>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let line = format!("{} {path}", request.method());
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_else(|_| Bytes::new());
    receiver.requests.lock().unwrap().push(Received { line, body: String::from_utf8_lossy(&body).into_owned() });
    let own = receiver.answers.lock().unwrap().get(&path).cloned();
    if let Some((status, body)) = own {
        return match status.is_redirection() {
            true => (status, [(header::LOCATION, "/login")], body).into_response(),
            false => (status, body).into_response(),
        };
    }
    let mood = *receiver.mood.lock().unwrap();
    match mood {
        Mood::Fine => StatusCode::OK.into_response(),
        Mood::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Silent => std::future::pending().await,
    }
}
