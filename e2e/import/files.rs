use std::collections::BTreeMap;

use futures::stream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use portal_release_operator::database::csv::{self, CsvError, Loaded};
use portal_release_operator::database::import::ImportError;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};

use super::{Database, assert_says, count, env, in_database, owned, strings, target};

const TABLE: &str = "CREATE TABLE staging_stats (iso3 char(3) NOT NULL, areas int, note text, id serial)";

/// Loads the content in a transaction of its own.
async fn load(conn: &mut PgConnection, content: impl Into<PutPayload>) -> Result<Loaded, CsvError> {
    let store = InMemory::new();
    store.put(&Path::from("in/stats.csv"), content.into()).await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    let loaded = csv::load(&mut tx, target("staging_stats"), &store, "in/stats.csv").await;
    if loaded.is_ok() {
        tx.commit().await.unwrap()
    } else {
        tx.rollback().await.unwrap()
    }
    loaded
}

async fn rows(conn: &mut PgConnection) -> Vec<String> {
    strings(conn, "SELECT concat_ws('|', iso3, coalesce(areas::text, 'NULL'), coalesce(note, 'NULL')) FROM staging_stats ORDER BY iso3")
        .await
}

#[tokio::test]
async fn what_spreadsheets_write_is_read() {
    in_database(|db| async move {
        for content in [
            "note,iso3,areas\nx,DEU,7\n,FRA,\n",
            "note,iso3,areas\r\nx,DEU,7\r\n,FRA,\r\n",
            "\u{feff}\"note\",\"iso3\",areas\nx,DEU,7\n,FRA,",
        ] {
            let mut conn = db.with(&format!("DROP TABLE IF EXISTS staging_stats; {TABLE}")).await;
            let loaded = load(&mut conn, content.to_owned()).await.unwrap();
            let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(loaded, Loaded { rows: 2, bytes: content.len() as u64, sha256 }, "{content:?}");
            assert_eq!(rows(&mut conn).await, ["DEU|7|x", "FRA|NULL|NULL"], "{content:?}");
        }
        let mut conn = db.with(&format!("DROP TABLE staging_stats; {TABLE}")).await;
        let loaded = load(&mut conn, "iso3,note\nDEU,\"a \"\"b\"\", c\nd\"\nFRA,\"\"\n".to_owned()).await.unwrap();
        assert_eq!((loaded.rows, rows(&mut conn).await), (2, owned(&["DEU|NULL|a \"b\", c\nd", "FRA|NULL|"])));
        assert_eq!(load(&mut conn, "iso3\n".to_owned()).await.unwrap().rows, 0);
    })
    .await;
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_remains() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let cases = [
            ("iso3,areas\nDEU,7\nFRA,many\n", ["line 3", "column areas", "many"]),
            ("iso3,areas\nDEU,7,8\n", ["line 2", "extra data", "object in/stats.csv"]),
            ("iso3,areas\nDEU,7\nFRA\n", ["line 3", "missing data", "import areas"]),
            ("iso3,areas\nDEU,7\n,7\n", ["line 3", "null value in column \"iso3\"", "import areas"]),
            ("iso3,areas\nDEU,7\nFRA,\"7\n", ["unterminated CSV quoted field", "line", "nothing of it was imported"]),
        ];
        for (content, says) in cases {
            let error = load(&mut conn, content.to_owned()).await.unwrap_err();
            assert!(matches!(error, CsvError::Content { .. }), "{error}");
            assert_says(error, &says);
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0, "{content:?}");
        }
        let error = load(&mut conn, b"iso3,note\nDEU,\xff\n".to_vec()).await.unwrap_err();
        assert_says(error, &["in/stats.csv", "invalid byte sequence", "line 2"]);
    })
    .await;
}

#[tokio::test]
async fn the_header_must_fit_the_table() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let unknown = load(&mut conn, "iso3,area\nDEU,7\n".to_owned()).await.unwrap_err();
        assert_says(unknown, &["in/stats.csv", "import areas", "column area is no column of staging_stats"]);
        let missing = load(&mut conn, "areas\n7\n".to_owned()).await.unwrap_err();
        assert!(matches!(&missing, CsvError::Columns { source, .. } if matches!(**source, ImportError::Missing { .. })), "{missing}");
        assert_says(missing, &["column iso3 of staging_stats"]);
        assert_says(load(&mut conn, "iso3,iso3\nDEU,FRA\n".to_owned()).await.unwrap_err(), &["column iso3 comes twice"]);
        assert_says(load(&mut conn, String::new()).await.unwrap_err(), &["import areas", "header of in/stats.csv is missing"]);
        assert_says(load(&mut conn, "x".repeat(100_000)).await.unwrap_err(), &["longer than 65536 bytes"]);
    })
    .await;
}

#[tokio::test]
async fn chunks_may_end_anywhere() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let content = "\u{feff}\"iso3\",note\r\nDEU,\"ä, \"\"b\"\"\r\nc\"\r\nFRA,x\r\n";
        let bytes: Vec<Result<[u8; 1], object_store::Error>> = content.bytes().map(|byte| Ok([byte])).collect();
        let loaded = csv::load_stream(&mut conn, target("staging_stats"), "in/stats.csv", stream::iter(bytes)).await.unwrap();
        assert_eq!((loaded.rows, loaded.bytes), (2, content.len() as u64));
        assert_eq!(rows(&mut conn).await, ["DEU|NULL|ä, \"b\"\r\nc", "FRA|NULL|x"]);
    })
    .await;
}

/// A download that delivers `chunks` and then breaks.
async fn broken_download(conn: &mut PgConnection, chunks: &[&'static str]) -> CsvError {
    let broken = object_store::Error::Generic { store: "S3", source: "connection reset".into() };
    let parts: Vec<Result<&[u8], _>> = chunks.iter().map(|chunk| Ok(chunk.as_bytes())).chain(std::iter::once(Err(broken))).collect();
    let mut tx = conn.begin().await.unwrap();
    let error = csv::load_stream(&mut tx, target("staging_stats"), "in/stats.csv", stream::iter(parts)).await.unwrap_err();
    let started = chunks.iter().any(|chunk| chunk.contains('\n'));
    assert_eq!(sqlx::query("SELECT 1").execute(&mut *tx).await.is_err(), started, "half a file cannot be committed");
    tx.rollback().await.unwrap();
    error
}

#[tokio::test]
async fn a_broken_download_leaves_the_connection_usable() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        for chunks in [&["iso3,", "areas\nDEU,7\n"][..], &["iso3,areas\nDEU,many\n"], &["iso3,note\nDEU,\"half"], &["iso3"]] {
            let error = broken_download(&mut conn, chunks).await;
            assert!(matches!(error, CsvError::Read { .. }), "{error}");
            assert_says(error, &["import areas", "in/stats.csv", "connection reset"]);
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0);
            assert_eq!(count(&mut conn, "SELECT 42::bigint").await, 42, "after {chunks:?}");
        }
    })
    .await;
}

fn secrets() -> BTreeMap<String, String> {
    let pair = |key: &str, variable: &str| (key.to_owned(), env(variable));
    BTreeMap::from([
        pair("AWS_ENDPOINT_URL", "LOCAL_S3_URL"),
        pair("AWS_ACCESS_KEY_ID", "LOCAL_S3_ACCESS_KEY"),
        pair("AWS_SECRET_ACCESS_KEY", "LOCAL_S3_SECRET_KEY"),
    ])
}

async fn with_bucket(db: Database) {
    let mut conn = db.with(TABLE).await;
    let url = format!("s3://portal-data/{}", db.name);
    let store = csv::open(&url, &secrets()).unwrap();
    let mut content = String::from("iso3,areas,note\n");
    for n in 0..50_000 {
        content.push_str(&format!("A{:02},{n},\"line, {n}\"\n", n % 100));
    }
    store.put(&Path::from("a/b.csv"), content.clone().into()).await.unwrap();
    let loaded = csv::load(&mut conn, target("staging_stats"), store.as_ref(), "a/b.csv").await;
    let absent = csv::load(&mut conn, target("staging_stats"), store.as_ref(), "a/c.csv").await;
    let root = csv::open("s3://portal-data", &secrets()).unwrap();
    let from_root = root.head(&Path::from(format!("{}/a/b.csv", db.name))).await;
    store.delete(&Path::from("a/b.csv")).await.unwrap();
    assert_eq!(from_root.unwrap().size, content.len() as u64, "the prefix is part of the key");
    let loaded = loaded.unwrap();
    assert_eq!((loaded.rows, loaded.bytes), (50_000, content.len() as u64));
    assert_eq!(count(&mut conn, "SELECT sum(areas) FROM staging_stats").await, 50_000 * 49_999 / 2);
    assert_says(absent.unwrap_err(), &["import areas", "a/c.csv", "cannot be read", "check the path"]);
}

#[tokio::test]
async fn a_real_bucket_is_read() {
    in_database(with_bucket).await;
}

#[test]
fn a_store_that_cannot_work_is_refused_at_once() {
    let wrong = |url: &str, remove: &str| {
        let mut secrets = secrets();
        secrets.remove(remove);
        csv::open(url, &secrets).map(|_| ()).unwrap_err()
    };
    assert_says(wrong("https://bucket/x", ""), &["https://bucket/x", "s3://bucket/prefix"]);
    assert_says(wrong("s3://bucket/x", "AWS_ACCESS_KEY_ID"), &["s3://bucket/x", "no AWS_ACCESS_KEY_ID", "add it"]);
    assert_says(wrong("s3://bucket/x", "AWS_SECRET_ACCESS_KEY"), &["no AWS_SECRET_ACCESS_KEY"]);
}
