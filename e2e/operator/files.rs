//! Files as import sources, through the whole operator: an object store, a URL, a ConfigMap.

use std::{collections::BTreeMap, sync::Arc};

use async_compression::tokio::write::GzipEncoder;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use portal_release_operator::{
    api::{Csv, PhaseName, ReleaseState},
    files::{content::Compression, content::Content, s3},
    outbound::{Outbound, STALL},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{Stage, operator::REFUSE_LOCAL, until, world::import};

impl Stage {
    /// The statistics of the source's month, as the sample has put them into the object store.
    async fn statistics(&self, label: &str) -> String {
        let pair = |key: &str, variable: &str| (key.to_owned(), std::env::var(variable).expect("a variable of e2e/local/local up"));
        let secrets = BTreeMap::from([
            pair("AWS_ENDPOINT_URL", "LOCAL_S3_URL"),
            pair("AWS_ACCESS_KEY_ID", "LOCAL_S3_ACCESS_KEY"),
            pair("AWS_SECRET_ACCESS_KEY", "LOCAL_S3_SECRET_KEY"),
        ]);
        let url = format!("s3://portal-data/{}", self.namespace);
        let store = s3::open(&Outbound::new(true, STALL).expect("a client"), &url, &secrets).expect("the object store");
        let file = s3::read(store.as_ref(), &url, &format!("country_statistics_{label}.csv")).await.expect("the file");
        let (mut content, mut text) = (Content::new(file, Compression::None), Vec::new());
        loop {
            let chunk = content.next().await.expect("its bytes");
            if chunk.is_empty() {
                return String::from_utf8(text).expect("UTF-8");
            }
            text.extend_from_slice(chunk);
        }
    }

    /// Statistics come from this file from now on.
    async fn statistics_from(&self, csv: Value) {
        let csv: Csv = serde_json::from_value(csv).expect("a csv section");
        self.change_portal(|portal| import(portal, "country_statistics").csv = Some(csv.clone())).await;
    }

    /// Adds a key to a Secret or ConfigMap that the operator may read.
    async fn add_key(&self, object: &str, patch: Value) {
        self.kubectl(&["patch", object, "--type", "merge", "-p", &patch.to_string()], "").await.expect("the key is added");
    }
}

/// Serves `body` to those who know the word.
async fn serve(body: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("its address"));
    let answer = async |State(body): State<Arc<Vec<u8>>>, headers: HeaderMap| {
        let admitted = headers.get("authorization").is_some_and(|value| value == "Bearer canary-word");
        if admitted { (StatusCode::OK, body.as_ref().clone()) } else { (StatusCode::UNAUTHORIZED, b"canary-body".to_vec()) }
    };
    let router = Router::new().route("/files/Jul2026.csv.gz", get(answer)).with_state(Arc::new(body));
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_from_urls_and_config_maps() {
    let stage = Stage::new("files").await;
    let plain = stage.statistics("Jul2026").await;
    let (header, rows) = plain.split_once('\n').expect("a header");
    let renamed = format!("{}\n{rows}", header.replace("iso_3", "ISO code"));
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(renamed.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    let base = serve(encoder.into_inner()).await;
    let file = |name: &str, header: Option<&str>| {
        let mut csv = json!({"url": format!("{base}/files/{{{{ release.label }}}}{name}?token=canary"), "columns": {"ISO code": "iso_3"}});
        if let Some(key) = header {
            csv["requestHeader"] = json!({"name": "Authorization", "valueSecretRef": {"name": "slack", "key": key}});
        }
        csv
    };
    stage.add_key("secret/slack", json!({"stringData": {"word": "Bearer canary-word", "wrong": "Bearer canary-wrong"}})).await;

    // As in a real installation, nothing on the operator's own host is called.
    stage.statistics_from(file(".csv.gz", Some("word"))).await;
    let careful = stage.operator_with("careful", &[REFUSE_LOCAL]).await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = ["import country_statistics", "local address (127.0.0.1)", "--allow-local-addresses"];
    stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;
    let careful_log = careful.log();
    drop(careful);

    let operator = stage.operator().await;
    for (retry, csv, words) in [
        (1, file(".csv", Some("word")), ["Jul2026.csv cannot be read", "404 Not Found"]),
        (2, file(".csv.gz", None), ["Jul2026.csv.gz cannot be read", "401 Unauthorized; correct csv.requestHeader"]),
        (3, file(".csv.gz", Some("wrong")), ["Jul2026.csv.gz cannot be read", "401 Unauthorized"]),
        (4, file(".csv.gz", Some("absent")), ["has no value under the key absent", "import country_statistics"]),
        (
            5,
            json!({"configMapKeyRef": {"name": "portal-sql", "key": "none.csv"}}),
            ["portal-sql has no value under the key none.csv", "import"],
        ),
        (6, json!({"objectStoreRef": "nowhere", "path": "x.csv"}), ["no object store nowhere", "add it to objectStores"]),
    ] {
        stage.statistics_from(csv).await;
        stage.edit("jul2026", &format!("{{\"retry\": {retry}}}")).await;
        stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;
    }

    // A line that is wrong shows at the import, and nothing of the file stays.
    stage
        .add_key("configmap/portal-sql", json!({"data": {"statistics.csv": plain, "bad.csv": format!("{plain}one,field,too,few\n")}}))
        .await;
    stage.statistics_from(json!({"configMapKeyRef": {"name": "portal-sql", "key": "bad.csv"}})).await;
    stage.edit("jul2026", r#"{"retry": 7}"#).await;
    let line = format!("line {}", plain.lines().count() + 1);
    stage.wait_failed("jul2026", PhaseName::ImportRelated, &["key bad.csv was refused", &line, "nothing of it was imported"]).await;
    assert_eq!(stage.text("SELECT count(*) FROM staging_country_statistics").await, "0");

    stage.statistics_from(file(".csv.gz", Some("word"))).await;
    stage.edit("jul2026", r#"{"retry": 8}"#).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let staged = stage.text("SELECT count(*) || ' ' || (SELECT rows FROM portal_release.imports WHERE import = 'country_statistics') FROM staging_country_statistics").await;
    let count = rows.lines().count();
    assert_eq!(staged, format!("{count} {count}"), "rows of the file, in the table and in the ledger");

    // The Portal has changed: the release builds its staging again, from the ConfigMap.
    stage.statistics_from(json!({"configMapKeyRef": {"name": "portal-sql", "key": "statistics.csv"}})).await;
    stage.edit("jul2026", r#"{"dryRun": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.text("SELECT count(*) FROM country_statistics").await, count.to_string());
    let events = until("the events are written", || async {
        let events = stage.kubectl(&["get", "events", "-o", "yaml"], "").await.expect("events");
        events.contains("PhaseFailed").then_some(events)
    })
    .await;
    for (place, text) in [("events", events), ("log", operator.log()), ("log", careful_log)] {
        assert!(!text.contains("canary"), "a secret is told: {place}: {:?}", text.lines().find(|line| line.contains("canary")));
    }
}
