//! Where files come from: a real object store, and servers that fail in every way.

use std::collections::BTreeMap;
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use portal_release_operator::database::csv::{CsvError, Format};
use portal_release_operator::secret::SecretValue;
use portal_release_operator::storage::guard::{Outbound, STALL};
use portal_release_operator::storage::{File, FileError, http, s3};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::files::{TABLE, load_file, whole};
use super::{Database, assert_says, count, env, in_database};

fn outbound() -> Outbound {
    Outbound::new(true, Duration::from_secs(5)).unwrap()
}

fn secrets() -> BTreeMap<String, String> {
    let pair = |key: &str, variable: &str| (key.to_owned(), env(variable));
    BTreeMap::from([
        pair("AWS_ENDPOINT_URL", "LOCAL_S3_URL"),
        pair("AWS_ACCESS_KEY_ID", "LOCAL_S3_ACCESS_KEY"),
        pair("AWS_SECRET_ACCESS_KEY", "LOCAL_S3_SECRET_KEY"),
    ])
}

async fn read(url: &str, secrets: &BTreeMap<String, String>, key: &str) -> Result<File, FileError> {
    s3::read(s3::open(&outbound(), url, secrets)?.as_ref(), url, key).await
}

fn lines(count: usize) -> String {
    let lines = (0..count).map(|n| format!("A{:02},{n},\"line, {n}\"\n", n % 100));
    std::iter::once("iso3,areas,note\n".to_owned()).chain(lines).collect()
}

async fn with_bucket(db: Database) {
    let mut conn = db.with(TABLE).await;
    let url = format!("s3://portal-data/{}", db.name);
    let store = s3::open(&outbound(), &url, &secrets()).unwrap();
    let content = lines(50_000);
    store.put(&Path::from("a/b.csv"), content.clone().into()).await.unwrap();
    let found = read(&url, &secrets(), "a/b.csv").await.unwrap();
    let name = found.name.clone();
    let loaded = load_file(&mut conn, found, &Format::default(), None).await;
    let root = s3::open(&outbound(), "s3://portal-data", &secrets()).unwrap();
    let from_root = root.head(&Path::from(format!("{}/a/b.csv", db.name))).await;

    let mut stranger = secrets();
    stranger.insert("AWS_ACCESS_KEY_ID".to_owned(), "nobody".to_owned());
    let failures = [
        (read(&url, &secrets(), "a/c.csv").await, format!("{url}/a/c.csv"), "no such bucket or object"),
        (read("s3://no-such-bucket/x", &secrets(), "a.csv").await, "s3://no-such-bucket/x/a.csv".to_owned(), "no such bucket or object"),
        (read(&url, &stranger, "a/b.csv").await, name, "refuses the access key"),
    ];
    store.delete(&Path::from("a/b.csv")).await.unwrap();
    for (outcome, file, says) in failures {
        let error = outcome.map(|file| file.name).unwrap_err();
        assert!(!error.transient, "{error}");
        assert_says(error, &[&file, says, "then retry"]);
    }
    assert_eq!(from_root.unwrap().size, content.len() as u64, "the prefix is part of the key");
    assert_eq!(loaded.unwrap(), whole(50_000, content.as_bytes()));
    assert_eq!(count(&mut conn, "SELECT sum(areas) FROM staging_stats").await, 50_000 * 49_999 / 2);
}

#[tokio::test]
async fn a_real_bucket_is_read() {
    in_database(with_bucket).await;
}

/// s3rver does not check signatures; a store that does answers like this.
#[tokio::test]
async fn what_a_store_says_is_not_repeated() {
    for (status, transient, says) in [
        ("403 Forbidden", false, "refuses the access key; correct the object store's Secret"),
        ("400 Bad Request", true, "the object store answered 400"),
        ("503 Slow Down", true, "the object store answered 503"),
        ("301 Moved Permanently", true, "incorrectly configured region"),
    ] {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>canary</AWSAccessKeyId></Error>";
        let server = Server::sending(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        let mut secrets = secrets();
        secrets.insert("AWS_ENDPOINT_URL".to_owned(), server.base.clone());
        let impatient = Outbound::new(true, Duration::from_millis(300)).unwrap();
        let store = s3::open(&impatient, "s3://data/in", &secrets).unwrap();
        let error = s3::read(store.as_ref(), "s3://data/in", "stats.csv").await.map(|_| ()).unwrap_err();
        assert_eq!(error.transient, transient, "{error}");
        assert!(!error.to_string().contains("canary") && !error.to_string().contains("Signature"), "{error}");
        assert_says(error, &["s3://data/in/stats.csv", says]);
    }
}

#[test]
fn a_store_that_cannot_work_is_refused_at_once() {
    let wrong = |url: &str, remove: &str| {
        let mut secrets = secrets();
        secrets.remove(remove);
        s3::open(&outbound(), url, &secrets).map(|_| ()).unwrap_err()
    };
    assert_says(wrong("https://bucket/x", ""), &["https://bucket/x", "s3://bucket/prefix"]);
    assert_says(wrong("s3://bucket/x", "AWS_ACCESS_KEY_ID"), &["s3://bucket/x", "no AWS_ACCESS_KEY_ID", "add it"]);
    assert_says(wrong("s3://bucket/x", "AWS_SECRET_ACCESS_KEY"), &["no AWS_SECRET_ACCESS_KEY"]);
    let guarded = Outbound::new(false, STALL).unwrap();
    let local = s3::open(&guarded, "s3://bucket/x", &secrets()).map(|_| ()).unwrap_err();
    assert!(!local.transient);
    assert_says(local, &["AWS_ENDPOINT_URL", "local address", "--allow-local-addresses"]);
}

/// What a server does with each connection: what it sends, and whether it then stays silent instead of closing.
struct Server {
    base: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static, silent: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {}
                let _ = stream.write_all(&answer(&String::from_utf8_lossy(&request))).await;
                if silent {
                    held.push(stream);
                }
            }
        });
        Self { base, task }
    }

    /// Sends these bytes to everyone.
    async fn sending(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_| bytes.clone(), false).await
    }
}

fn ok(length: usize, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The error of loading a file from this server into a table, of which nothing may remain.
async fn failing(db: &Database, server: &Server) -> FileError {
    let mut conn = db.with(&format!("DROP TABLE IF EXISTS staging_stats; {TABLE}")).await;
    let outbound = Outbound::new(true, Duration::from_millis(300)).unwrap();
    let url = format!("{}/in/stats.csv?token=canary", server.base);
    let error = match http::open(&outbound, &url, None).await {
        Err(error) => error,
        Ok(file) => match load_file(&mut conn, file, &Format::default(), None).await {
            Err(CsvError::Read { source, .. }) => source,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0, "{error}");
    assert_says(&error, &[&format!("{}/in/stats.csv cannot be read", server.base)]);
    assert!(!error.to_string().contains("canary"), "{error}");
    error
}

#[tokio::test]
async fn servers_that_fail_are_distinguished() {
    in_database(|db| async move {
        let body = lines(20_000);
        let half = &body[..body.len() / 2];
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nLocation: http://canary/\r\nContent-Length: 6\r\n\r\ncanary");
        for (answer, transient, says) in [
            (ok(body.len(), half), true, "the transfer was interrupted"),
            (ok(body.len(), &body[..body.len() - 1]), true, "the transfer was interrupted"),
            (
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n", half.len()),
                true,
                "the transfer was interrupted",
            ),
            (format!("HTTP/1.1 200 OK\r\n\r\n{body}"), false, "does not send Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".to_owned(), false, "encoded (gzip)"),
            (status("404 Not Found"), false, "answered 404 Not Found; correct csv.url"),
            (status("403 Forbidden"), false, "403 Forbidden; correct csv.requestHeader"),
            (status("302 Found"), false, "redirects are not followed"),
            (status("500 Internal Server Error"), true, "500 Internal Server Error; check the server"),
            (status("429 Too Many Requests"), true, "429"),
            (status("206 Partial Content"), false, "206"),
            (String::new(), true, "the transfer was interrupted"),
        ] {
            let error = failing(&db, &Server::sending(answer).await).await;
            assert_eq!(error.transient, transient, "{error}");
            assert_says(error, &[says]);
        }
        for answer in [ok(body.len(), half), ok(body.len(), ""), String::new()] {
            let error = failing(&db, &Server::start(move |_| answer.clone().into_bytes(), true).await).await;
            assert!(error.transient);
            assert_says(error, &["the server was silent for too long"]);
        }
        let gone = Server::sending("").await;
        let address = gone.base.clone();
        drop(gone);
        let error = http::open(&outbound(), &address, None).await.map(|_| ()).unwrap_err();
        assert!(error.transient);
        assert_says(error, &[&address, "check that its server is up"]);
    })
    .await;
}

#[tokio::test]
async fn a_url_is_read_with_its_secret_header() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let body = lines(20_000);
        let answer = ok(body.len(), &body).into_bytes();
        let server = Server::start(
            move |request| {
                let admitted = request.lines().any(|line| line.eq_ignore_ascii_case("authorization: Bearer open sesame"));
                if admitted { answer.clone() } else { b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec() }
            },
            false,
        )
        .await;
        let header = |value: &str| Some(("Authorization", SecretValue::new(value)));
        let file = http::open(&outbound(), &server.base, header("Bearer open sesame")).await.unwrap();
        assert_eq!(load_file(&mut conn, file, &Format::default(), None).await.unwrap(), whole(20_000, body.as_bytes()));
        for (sent, says) in [(None, "401"), (header("canary"), "401"), (header("canary\r\nX: y"), "correct csv.requestHeader")] {
            let error = http::open(&outbound(), &server.base, sent).await.map(|_| ()).unwrap_err();
            assert!(!error.transient && !error.to_string().contains("canary"), "{error}");
            assert_says(error, &[says]);
        }
        let local = http::open(&Outbound::new(false, STALL).unwrap(), &server.base.replace("127.0.0.1", "localhost"), None).await;
        let local = local.map(|_| ()).unwrap_err();
        assert!(!local.transient);
        assert_says(local, &["localhost is a local address (", "--allow-local-addresses"]);
    })
    .await;
}

/// A store that breaks off in mid-object: the transfer resumes where it was, and where that is impossible, nothing remains.
#[tokio::test]
async fn a_store_that_breaks_off_is_read_on() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let body = lines(20_000);
        for (resumes, tag) in [(true, "\"1\""), (false, "\"2\"")] {
            let whole_body = body.clone();
            let server = Server::start(
                move |request| {
                    let length = whole_body.len();
                    let range = request.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=")?.split('-').next()?.parse::<usize>().ok());
                    let modified = "Last-Modified: Mon, 01 Jun 2026 00:00:00 GMT";
                    match range {
                        None => format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\n{modified}\r\nContent-Length: {length}\r\n\r\n{}", &whole_body[..length / 2]),
                        Some(from) => format!(
                            "HTTP/1.1 206 Partial Content\r\nETag: {tag}\r\n{modified}\r\nContent-Range: bytes {from}-{}/{length}\r\nContent-Length: {}\r\n\r\n{}",
                            length - 1,
                            length - from,
                            &whole_body[from..]
                        ),
                    }
                    .into_bytes()
                },
                false,
            )
            .await;
            let mut secrets = secrets();
            secrets.insert("AWS_ENDPOINT_URL".to_owned(), server.base.clone());
            let file = read("s3://data/in", &secrets, "stats.csv").await.unwrap();
            let loaded = load_file(&mut conn, file, &Format::default(), None).await;
            if resumes {
                assert_eq!(loaded.unwrap(), whole(20_000, body.as_bytes()));
                assert_eq!(count(&mut conn, "SELECT sum(areas) FROM staging_stats").await, 20_000 * 19_999 / 2);
            } else {
                let error = loaded.unwrap_err();
                assert!(matches!(&error, CsvError::Read { source, .. } if source.transient), "{error}");
                assert_says(error, &["s3://data/in/stats.csv", "the transfer was interrupted"]);
                assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 20_000, "the former ones");
            }
        }
    })
    .await;
}
