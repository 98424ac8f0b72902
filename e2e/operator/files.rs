//! Files as import sources, through the whole operator: an object store, a URL, a ConfigMap.

use std::{collections::BTreeMap, sync::Arc};

use async_compression::tokio::write::GzipEncoder;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube::api::{Api, Patch, PatchParams};
use portal_release_operator::{
    api::{Csv, PhaseName, RejectRule, ReleaseState},
    storage::{
        content::{Compression, Content},
        guard::{Outbound, STALL},
        s3,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
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

    /// Writes a file into the ConfigMap that the operator may read; as bytes, for text can hold no NUL there.
    async fn put_file(&self, content: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({"binaryData": {"rows.csv": ByteString(content.as_bytes().to_vec())}});
        maps.patch("portal-sql", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the file is written");
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
    stage.wait_failed("jul2026", PhaseName::ImportRelated, &["key bad.csv was refused", &line, "no row of it was imported"]).await;
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
        assert!(!text.contains("canary"), "a secret is revealed: {place}: {:?}", text.lines().find(|line| line.contains("canary")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_file_are_rejected_within_the_limit_and_a_file_that_changed_is_imported_again() {
    let stage = Stage::new("file-rows").await;
    let plain = stage.statistics("Jul2026").await;
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines[0].split(',').next(), Some("iso_3"), "{}", lines[0]);
    // A line with another value in one of its fields.
    let with = |line: usize, field: usize, value: &str| {
        let mut fields: Vec<&str> = lines[line].split(',').collect();
        fields[field] = value;
        fields.join(",")
    };
    // An unknown code, no number, NULL, too few and too many fields, a NUL, and an endless value.
    let (few, many, endless) = (with(4, 0, "ABC").replace(',', ";"), format!("{},1", lines[5]), "x".repeat(100_000));
    let defects = [with(1, 0, "XXX"), with(2, 1, "many"), with(3, 1, ""), few, many, with(6, 0, "a\0b"), with(7, 2, &endless)];
    let bad = format!("{plain}{}\n", defects.join("\n"));
    let (good, read) = (lines.len() - 1, lines.len() - 1 + defects.len());
    stage.put_file(&bad).await;
    stage.statistics_from(json!({"configMapKeyRef": {"name": "portal-sql", "key": "rows.csv"}})).await;
    let rule = |when: &str| vec![RejectRule { reason: "an unknown country".into(), when: when.into() }];
    stage.change_portal(|portal| import(portal, "country_statistics").reject = rule("country NOT IN (SELECT iso_3 FROM countries)")).await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    let words = ["import country_statistics", "reject 'an unknown country' is wrong", "column \"country\" does not exist"];
    stage.wait_failed("jul2026", PhaseName::Preflight, &words).await;

    stage.change_portal(|portal| import(portal, "country_statistics").reject = rule("iso_3 NOT IN (SELECT iso_3 FROM countries)")).await;
    stage.edit("jul2026", r#"{"retry": 1}"#).await;
    let limit = format!("import country_statistics: 7 of {read} rows were rejected, where 0% are accepted");
    let words = ["because of '", limit.as_str(), "for example line ", "maxRejected"];
    stage.wait_failed("jul2026", PhaseName::ImportRelated, &words).await;
    let keys = "SELECT string_agg(key, ',' ORDER BY key) FROM portal_release.rejected_rows";
    let expected: Vec<String> = (1..=7).map(|row| format!("line {}", good + 1 + row)).collect();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(stage.text(keys).await, sorted.join(","));

    stage.change_portal(|portal| import(portal, "country_statistics").max_rejected = "10%".into()).await;
    stage.edit("jul2026", r#"{"retry": 2}"#).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let account = "SELECT concat_ws(' ', rows_read, rows, rows_rejected, rows_collapsed) FROM portal_release.imports WHERE import = 'country_statistics'";
    assert_eq!(stage.text(account).await, format!("{read} {good} 7 0"));
    let manifest = stage.text("SELECT manifest::jsonb #> '{imports,country_statistics}' FROM portal_release.releases").await;
    let sha256: String = Sha256::digest(bad.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = json!({"name": format!("ConfigMap {}/portal-sql, key rows.csv", stage.namespace), "bytes": bad.len(), "sha256": sha256});
    let wanted = json!({"read": read, "imported": good, "rejected": 7, "collapsed": 0, "file": file});
    assert_eq!(serde_json::from_str::<Value>(&manifest).expect("JSON"), wanted);

    // The same bytes are no news; others are.
    stage.put_file(&plain).await;
    stage.edit("jul2026", r#"{"dryRun": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    let rebuilt = stage.audit("Jul2026", "StagingRebuilt").await;
    let words = format!(
        "files have changed since the staging was built (ConfigMap {}/portal-sql, key rows.csv of import country_statistics)",
        stage.namespace
    );
    assert!(rebuilt.starts_with(&words) && rebuilt.lines().count() == 1, "{rebuilt}");
    assert_eq!(stage.text(account).await, format!("{good} {good} 0 0"));
    assert_eq!(stage.text("SELECT count(*) FROM portal_release.rejected_rows").await, "0");
}
