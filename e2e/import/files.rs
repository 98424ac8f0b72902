use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use portal_release_operator::database::csv::{self, CsvError, Format, Loaded, MAX_ROW_BYTES};
use portal_release_operator::database::import::Counts;
use portal_release_operator::storage::content::{Compression, Content};
use portal_release_operator::storage::{File, FileError};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};

use super::{assert_says, count, in_database, owned, strings, target};

pub const TABLE: &str = "CREATE TABLE staging_stats (iso3 char(3) NOT NULL, areas int, note text, id serial)";
const NAME: &str = "s3://data/in/stats.csv";

/// Loads a file in a transaction of its own.
pub async fn load_file(conn: &mut PgConnection, file: File, format: &Format, sample: Option<u64>) -> Result<Loaded, CsvError> {
    let compression = Compression::of_name(&file.name);
    let mut tx = conn.begin().await.unwrap();
    let loaded = csv::load(&mut tx, target("staging_stats"), Content::new(file, compression), format, sample).await;
    if loaded.is_ok() {
        tx.commit().await.unwrap()
    } else {
        tx.rollback().await.unwrap()
    }
    loaded
}

async fn load_as(conn: &mut PgConnection, content: impl Into<Bytes>, format: &Format) -> Result<Loaded, CsvError> {
    load_file(conn, File::in_memory(NAME, content), format, None).await
}

async fn load(conn: &mut PgConnection, content: impl Into<Bytes>) -> Result<Loaded, CsvError> {
    load_as(conn, content, &Format::default()).await
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All of them came in.
fn imported(rows: i64) -> Counts {
    Counts { read: rows, imported: rows, rejected: 0 }
}

pub fn whole(rows: i64, content: &[u8]) -> Loaded {
    Loaded { counts: imported(rows), bytes: Some(content.len() as u64), sha256: Some(sha256(content)) }
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
            assert_eq!(load(&mut conn, content).await.unwrap(), whole(2, content.as_bytes()), "{content:?}");
            assert_eq!(rows(&mut conn).await, ["DEU|7|x", "FRA|NULL|NULL"], "{content:?}");
        }
        let mut conn = db.with(&format!("DROP TABLE staging_stats; {TABLE}")).await;
        let loaded = load(&mut conn, "iso3,note\nDEU,\"a \"\"b\"\", c\nd\"\nFRA,\"\"\n").await.unwrap();
        assert_eq!((loaded.counts.imported, rows(&mut conn).await), (2, owned(&["DEU|NULL|a \"b\", c\nd", "FRA|NULL|"])));
        assert_eq!(load(&mut conn, "iso3\n").await.unwrap().counts, imported(0));
    })
    .await;
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_remains() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let long = "x".repeat(1 << 20);
        let cases: [(Vec<u8>, [&str; 3]); 10] = [
            ("iso3,areas\nDEU,7\nFRA,many\n".into(), ["line 3", "column areas", "many"]),
            ("iso3,areas\nDEU,7,8\n".into(), ["line 2", "extra data", NAME]),
            ("iso3,areas\nDEU,7\nFRA\n".into(), ["line 3", "missing data", "import areas"]),
            ("iso3,areas\nDEU,7\n,7\n".into(), ["line 3", "null value in column \"iso3\"", "import areas"]),
            ("iso3,areas\nDEU,7\nFRA,\"7\n".into(), ["unterminated CSV quoted field", "line", "no row of it was imported"]),
            (b"iso3,note\nDEU,\xff\n".to_vec(), [NAME, "invalid byte sequence", "line 2"]),
            (b"iso3,note\nDEU,a\nFRA,a\0b\n".to_vec(), [NAME, "invalid byte sequence for encoding \"UTF8\": 0x00", "line 3"]),
            (format!("iso3,areas\nDEU,1\nFRA,{long}\n").into(), ["line 3", "column areas", "invalid input syntax for type integer"]),
            ("iso3,areas\nDEU,7\n\nFRA,8\n".into(), ["line 3", "missing data for column \"areas\"", NAME]),
            ("iso3,areas\nDEU,99999999999\n".into(), ["line 2", "column areas", "out of range"]),
        ];
        for (content, says) in cases {
            let error = load(&mut conn, content).await.unwrap_err();
            assert!(matches!(error, CsvError::Content { .. }), "{error}");
            assert!(error.to_string().len() < 1500, "{} bytes", error.to_string().len());
            assert_says(error, &says);
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0, "{says:?}");
        }
        // Where Postgres 15 stops reading and says nothing, nothing may be lost.
        let error = load(&mut conn, "iso3\nDEU\n\\.\nFRA\n").await.unwrap_err();
        assert!(matches!(error, CsvError::Row { line: 3, .. }), "{error}");
        assert_says(error, &[NAME, "line 3", "\\. alone", "no row of it was imported"]);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0);
        let fits = load(&mut conn, format!("iso3,note\nDEU,{long}\n")).await.unwrap();
        assert_eq!(fits.counts.imported, 1);
        assert_eq!(count(&mut conn, "SELECT length(note)::bigint FROM staging_stats").await, 1 << 20, "a long string is no defect");
    })
    .await;
}

/// A file that begins so and continues for ever without a line's end.
pub fn endless(start: &'static str) -> File {
    let more = stream::repeat_with(|| Ok(Bytes::from_static(&[b'x'; 1 << 16])));
    File::new(NAME, stream::once(async move { Ok(Bytes::from_static(start.as_bytes())) }).chain(more))
}

#[tokio::test]
async fn a_row_without_end_is_a_clear_failure() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let error = load_file(&mut conn, endless("iso3,note\nDEU,a\nFRA,"), &Format::default(), None).await.unwrap_err();
        assert_says(error, &[NAME, "line 3", &format!("longer than {} MiB", MAX_ROW_BYTES >> 20), "check its line endings"]);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0);
        assert_says(
            load_file(&mut conn, endless("iso3"), &Format::default(), None).await.unwrap_err(),
            &["header", "longer than 65536 bytes"],
        );
    })
    .await;
}

#[tokio::test]
async fn the_header_must_fit_the_table() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        for (content, says) in [
            ("iso3,area\nDEU,7\n", &[NAME, "import areas", "column area is not a column of staging_stats", "map it with csv.columns"][..]),
            ("areas\n7\n", &["column iso3 of staging_stats", "may not be null", "The file has: areas"]),
            ("iso3,iso3\nDEU,FRA\n", &["its column iso3 appears twice"]),
            ("", &["import areas", "header of s3://data/in/stats.csv is missing"]),
            ("iso3,\"a\nDEU,7\n", &["a quote that is never closed"]),
            ("iso3,,areas\n", &["no name for column 2"]),
            ("iso3;areas\nDEU;7\n", &["its column iso3;areas is not a column of"]),
        ] {
            assert_says(load(&mut conn, content).await.unwrap_err(), says);
        }
        assert_says(load(&mut conn, "x".repeat(100_000)).await.unwrap_err(), &["longer than 65536 bytes"]);
        assert_says(load(&mut conn, &b"iso3,\xff\n"[..]).await.unwrap_err(), &["cannot be read as UTF8", "csv.encoding"]);
        assert_says(load(&mut conn, &b"\xff\xfei\0s\0"[..]).await.unwrap_err(), &["UTF-16", "save the file as UTF-8"]);
        assert_says(load(&mut conn, &b"\x1f\x8b\x08\0"[..]).await.unwrap_err(), &["is not text", "compression: Gzip"]);
    })
    .await;
}

#[tokio::test]
async fn columns_are_mapped_by_name() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let columns = |pairs: &[(&str, &str)]| Format {
            columns: pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            ..Format::default()
        };
        let mapped = columns(&[("ISO code", "iso3"), ("Flächen", "areas")]);
        assert_eq!(load_as(&mut conn, "note,Flächen,ISO code\nx,7,DEU\n", &mapped).await.unwrap().counts, imported(1));
        assert_eq!(rows(&mut conn).await, ["DEU|7|x"]);
        for (format, content, says) in [
            (&mapped, "ISO code,areas\nDEU,7\n", &["it has no column Flächen, which csv.columns puts into areas", "ISO code, areas"][..]),
            (&mapped, "ISO code,Flächen,iso3\n", &["its column iso3 appears twice among the columns for staging_stats"]),
            (&mapped, "ISO code,ISO code,Flächen\n", &["its column ISO code appears twice; give each column"]),
            (&columns(&[("code", "iso")]), "code\nDEU\n", &["its column code is mapped to iso, which is not a column of staging_stats"]),
            (&columns(&[("code", "note")]), "code\nDEU\n", &["none of its columns is mapped to column iso3", "csv.columns", "has: code"]),
        ] {
            let error = load_as(&mut conn, content, format).await.unwrap_err();
            assert!(matches!(error, CsvError::Columns { .. }), "{error}");
            assert_says(error, says);
        }
    })
    .await;
}

#[tokio::test]
async fn other_ways_to_write_csv_are_reported() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let latin = Format {
            delimiter: b';',
            null: "NA".to_owned(),
            encoding: "LATIN1".to_owned(),
            columns: BTreeMap::from([("Größe".to_owned(), "areas".to_owned())]),
        };
        let content = b"iso3;Gr\xf6\xdfe;note\nDEU;NA;\xfcber, \"NA\"\nFRA;8;\"NA\"\n";
        assert_eq!(load_as(&mut conn, &content[..], &latin).await.unwrap().counts, imported(2));
        assert_eq!(rows(&mut conn).await, ["DEU|NULL|über, NA", "FRA|8|NA"]);
        let tabs = Format { delimiter: b'\t', ..Format::default() };
        assert_eq!(load_as(&mut conn, "iso3\tnote\nITA\ta,b\n", &tabs).await.unwrap().counts, imported(1));
        let unknown = Format { encoding: "KLINGON".to_owned(), ..Format::default() };
        assert_says(load_as(&mut conn, "iso3\nDEU\n", &unknown).await.unwrap_err(), &["KLINGON", "invalid", "correct csv.encoding"]);
    })
    .await;
}

#[tokio::test]
async fn a_sample_is_the_first_rows() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let content = "iso3,areas,note\nDEU,1,\"a\nb\"\nFRA,2,x\nITA,many,never read\n";
        let loaded = load_file(&mut conn, File::in_memory(NAME, content), &Format::default(), Some(2)).await.unwrap();
        assert_eq!(loaded, Loaded { counts: imported(2), bytes: None, sha256: None });
        assert_eq!(rows(&mut conn).await, ["DEU|1|a\nb", "FRA|2|x"]);
        let all = load_file(&mut conn, File::in_memory(NAME, "iso3\nESP\n"), &Format::default(), Some(100)).await.unwrap();
        assert_eq!(all, whole(1, b"iso3\nESP\n"));
    })
    .await;
}

#[tokio::test]
async fn chunks_may_end_anywhere() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let content = "\u{feff}\"iso3\",note\r\nDEU,\"ä, \"\"b\"\"\r\nc\"\r\nFRA,x\r\n";
        let bytes: Vec<Result<Bytes, FileError>> = content.bytes().map(|byte| Ok(Bytes::copy_from_slice(&[byte]))).collect();
        let loaded = load_file(&mut conn, File::new(NAME, stream::iter(bytes)), &Format::default(), None).await.unwrap();
        assert_eq!(loaded, whole(2, content.as_bytes()));
        assert_eq!(rows(&mut conn).await, ["DEU|NULL|ä, \"b\"\r\nc", "FRA|NULL|x"]);
    })
    .await;
}

/// A download that delivers `chunks` and then breaks.
async fn broken_download(conn: &mut PgConnection, chunks: &[&'static str]) -> CsvError {
    let broken = FileError::passing(NAME, "connection reset");
    let parts: Vec<Result<Bytes, _>> = chunks.iter().map(|chunk| Ok(Bytes::from(*chunk))).chain(std::iter::once(Err(broken))).collect();
    let mut tx = conn.begin().await.unwrap();
    let file = Content::new(File::new(NAME, stream::iter(parts)), Compression::None);
    let error = csv::load(&mut tx, target("staging_stats"), file, &Format::default(), None).await.unwrap_err();
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
            assert!(matches!(&error, CsvError::Read { source, .. } if source.transient), "{error}");
            assert_says(error, &["import areas", NAME, "connection reset"]);
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0);
            assert_eq!(count(&mut conn, "SELECT 42::bigint").await, 42, "after {chunks:?}");
        }
    })
    .await;
}
