//! Files of which single rows are rejected: every row of the file comes in, or is in `portal_release.rejected_rows` with the reason.

use bytes::Bytes;
use futures::stream;
use portal_release_operator::database::csv::{self, Accounting, CsvError, Format, Loaded};
use portal_release_operator::database::import::{Counts, Rule};
use portal_release_operator::storage::content::{Compression, Content};
use portal_release_operator::storage::{File, FileError};
use sqlx::{Connection, PgConnection};

use super::files::{endless, load_file, sha256};
use super::{Database, assert_says, count, in_database, owned, run, strings, target};

const NAME: &str = "s3://data/in/stats.csv";
const TABLE: &str = "CREATE EXTENSION postgis; CREATE DOMAIN code AS varchar(2) CHECK (value <> 'no');
    CREATE TABLE staging_stats (iso3 char(3) NOT NULL UNIQUE, areas int CHECK (areas >= 0), note text, share numeric(5, 2), since date,
                                grade code, tags varchar(3)[], the_geom geometry(Point, 4326), id serial)";

/// What a test loads.
#[derive(Clone, Copy)]
struct Loading<'a> {
    format: &'a Format,
    rules: &'a [(&'a str, &'a str)],
    lookup: bool,
    sample: Option<u64>,
}

async fn prepared(db: &Database) -> PgConnection {
    db.with_ledger(TABLE).await
}

/// Loads as release 1, in a transaction of its own.
async fn load_as(conn: &mut PgConnection, file: File, loading: Loading<'_>) -> Result<Loaded, CsvError> {
    let rules: Vec<Rule> = loading.rules.iter().map(|(reason, when)| Rule::new(*reason, *when)).collect();
    let accounting = Accounting { release: 1, rules: &rules, lookup: loading.lookup, accepted: 1.0 / 1024.0 };
    let file = Content::new(file, Compression::None);
    let mut tx = conn.begin().await.unwrap();
    let loaded = csv::load_accounted(&mut tx, target("staging_stats"), file, loading.format, loading.sample, &accounting).await;
    if loaded.is_ok() {
        tx.commit().await.unwrap()
    } else {
        tx.rollback().await.unwrap()
    }
    loaded
}

async fn load(conn: &mut PgConnection, content: impl Into<Bytes>) -> Result<Loaded, CsvError> {
    let plain = Loading { format: &Format::default(), rules: &[], lookup: false, sample: None };
    load_as(conn, File::in_memory(NAME, content), plain).await
}

/// Line, SQLSTATE and reason of what was rejected.
async fn rejected(conn: &mut PgConnection) -> Vec<String> {
    strings(conn, "SELECT concat_ws('|', key, coalesce(sqlstate, 'rule'), reason) FROM portal_release.rejected_rows ORDER BY split_part(key, ' ', 2)::int")
        .await
}

async fn row(conn: &mut PgConnection, line: u64) -> String {
    strings(conn, &format!("SELECT row::text FROM portal_release.rejected_rows WHERE key = 'line {line}'")).await.remove(0)
}

fn counts(read: i64, rejected: i64) -> Counts {
    Counts { read, imported: read - rejected, rejected }
}

#[tokio::test]
async fn every_defect_of_a_row_is_rejected_with_its_reason_and_the_sums_are_exact() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        let long = "x".repeat(1 << 20);
        let rows: [(&[u8], Option<[&str; 2]>); 24] = [
            (b"DEU,7,fine,1.005,2026-07-01,ab,{},POINT(1 1)", None),
            (b"FRA,many,\"two\nlines\",,,,,", Some(["22P02", "column areas: invalid input syntax for type integer: \"many\""])),
            (b",7,,,,,,", Some(["23502", "null value in column \"iso3\""])),
            (b"ITA,7,,,,,,,8", Some(["22P04", "extra data after last expected column"])),
            (b"ITA,7,,,,,,,8,\"9,\"", Some(["22P04", "extra data after last expected column"])),
            (b"ITA,7", Some(["22P04", "missing data for column \"note\""])),
            (b"", Some(["22P04", "missing data for column \"areas\""])),
            (b"ITA,-1,,,,,,", Some(["23514", "violates check constraint"])),
            (b"DEU,8,,,,,,", Some(["23505", "duplicate key value violates unique constraint"])),
            (b"ITA,7,a\0b,,,,,", Some(["22021", "column note: invalid byte sequence for encoding \"UTF8\": 0x00"])),
            (b"ITA,7,\xff\xfe,,,,,", Some(["22021", "column note: invalid byte sequence for encoding \"UTF8\": 0xff"])),
            (b"ITALY,7,,,,,,", Some(["22001", "value too long for type character(3)"])),
            (b"ITA,99999999999,,,,,,", Some(["22003", "column areas: value \"99999999999\" is out of range"])),
            (b"ITA,7,,12345,,,,", Some(["22003", "numeric field overflow"])),
            (b"ITA,7,,,2026-02-30,,,", Some(["22008", "column since: date/time field value out of range"])),
            (b"ITA,7,,,,no,,", Some(["23514", "value for domain code violates check constraint"])),
            (b"ITA,7,,,,abc,,", Some(["22001", "value too long for type character varying(2)"])),
            (b"ITA,7,,,,,{abcd},", Some(["22001", "value too long for type character varying(3)"])),
            (b"ITA,7,,,,,{,", Some(["22P02", "column tags: malformed array literal"])),
            (b"ITA,7,,,,,,\"LINESTRING(0 0, 1 1)\"", Some(["22023", "Geometry type (LineString) does not match column type (Point)"])),
            (b"ITA,7,,,,,,POINT(1", Some(["XX000", "column the_geom: parse error - invalid geometry"])),
            (b"ITA,7,a\rb,,,,,", Some(["22P04", "unquoted carriage return found in data"])),
            (b"ESP,7,LONG,,,,,", None),
            (b"POR,LONG,,,,,,", Some(["22P02", "column areas: invalid input syntax for type integer: \"xxx"])),
        ];
        // Far enough apart for several pieces, and a good row after each bad one.
        let (mut content, mut wanted, mut good, mut line) =
            (b"iso3,areas,note,share,since,grade,tags,the_geom\n".to_vec(), Vec::new(), 0, 2);
        for (at, (bytes, words)) in rows.iter().enumerate() {
            let written = String::from_utf8_lossy(bytes).contains("LONG");
            let bytes = if written { String::from_utf8_lossy(bytes).replace("LONG", &long).into_bytes() } else { bytes.to_vec() };
            if let Some(words) = words {
                wanted.push((line, *words));
            } else {
                good += 1;
            }
            line += 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
            content.extend_from_slice(&bytes);
            content.push(b'\n');
            for more in 0..100 {
                content.extend_from_slice(format!("\"{}{:02}\",1,,,,,,\n", char::from(b'a' + at as u8), more).as_bytes());
                good += 1;
                line += 1;
            }
        }
        let loaded = load(&mut conn, content.clone()).await.unwrap();
        assert_eq!(loaded.counts, Counts { read: good + wanted.len() as i64, imported: good, rejected: wanted.len() as i64 });
        assert_eq!((loaded.bytes, loaded.sha256), (Some(content.len() as u64), Some(sha256(&content))));
        assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, good);
        let found = rejected(&mut conn).await;
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (found, (line, [state, reason])) in found.iter().zip(&wanted) {
            assert_says(found, &[&format!("line {line}|{state}|"), reason]);
            assert!(found.len() < 1200, "{} bytes", found.len());
        }
        // What came in is what COPY makes of it.
        let deu = "SELECT concat_ws('|', iso3, share, since, grade, tags, ST_AsEWKT(the_geom)) FROM staging_stats WHERE iso3 = 'DEU'";
        assert_eq!(strings(&mut conn, deu).await, ["DEU|1.01|2026-07-01|ab|{}|SRID=4326;POINT(1 1)"]);
        assert_eq!(count(&mut conn, "SELECT length(note)::bigint FROM staging_stats WHERE iso3 = 'ESP'").await, 1 << 20);
        // The row as it is in the file, in bounded size.
        let nulls = r#""note": null, "tags": null, "areas": "7", "grade": null"#;
        let line_of = |words: &str| wanted.iter().find(|(_, [_, reason])| reason.contains(words)).unwrap().0 as u64;
        for (line, part) in [
            (line_of("\"many\""), r#""note": "two\nlines""#),
            (line_of("0x00"), r#""note": "a\\000b""#),
            (line_of("0xff"), r#""note": "\\377\\376""#),
            (line_of("carriage"), r#""note": "a\rb""#),
            (line_of("missing data for column \"note\""), nulls),
        ] {
            assert_says(row(&mut conn, line).await, &[part]);
        }
        let extra = "SELECT row ->> 'extra data' FROM portal_release.rejected_rows WHERE reason LIKE 'extra%' ORDER BY id";
        assert_eq!(strings(&mut conn, extra).await, ["8", "8,9,"]);
        let cut = "SELECT row ->> 'areas' FROM portal_release.rejected_rows WHERE length(row ->> 'areas') > 100";
        assert!(strings(&mut conn, cut).await[0].ends_with("x… (cut, 1048576 characters)"));
    })
    .await;
}

#[tokio::test]
async fn rules_see_the_columns_with_the_tables_types() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        run(&mut conn, "CREATE TABLE known AS SELECT 'DEU' AS iso3 UNION SELECT 'FRA'").await;
        let rules = [
            ("a country that nobody knows", "NOT EXISTS (SELECT FROM known k WHERE k.iso3 = query.iso3)"),
            ("from the future", "since > date '2027-01-01' + areas"),
        ];
        let loading = Loading { format: &Format::default(), rules: &rules, lookup: false, sample: None };
        let content = "iso3,areas,since\nDEU,1,2026-01-01\nXXX,1,\nFRA,1,2027-02-01\nYYY,1,\n";
        let loaded = load_as(&mut conn, File::in_memory(NAME, content), loading).await.unwrap();
        assert_eq!(loaded.counts, counts(4, 3));
        let by_rule = ["line 3|rule|a country that nobody knows", "line 4|rule|from the future", "line 5|rule|a country that nobody knows"];
        assert_eq!(rejected(&mut conn).await, by_rule);
        assert_says(row(&mut conn, 4).await, &[r#""since": "2027-02-01""#, r#""areas": "1""#]);

        // The same beside rows that the database refuses, also in a rule.
        run(&mut conn, "TRUNCATE staging_stats, portal_release.rejected_rows").await;
        let more = format!("{content}FRA,2147483647,2026-01-01\nDEU,x,\nDEU,1\n");
        let loaded = load_as(&mut conn, File::in_memory(NAME, more), loading).await.unwrap();
        assert_eq!(loaded.counts, counts(7, 6));
        let found = rejected(&mut conn).await;
        assert_eq!(found[..3], by_rule);
        assert_says(&found[3], &["line 6|22008|date out of range"]);
        assert_says(&found[4], &["line 7|22P02|column areas"]);
        assert_says(&found[5], &["line 8|22P04|missing data for column \"since\""]);
    })
    .await;
}

#[tokio::test]
async fn rules_are_checked_with_the_header() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        for (when, words) in [
            ("areas > 1", None),
            ("area > 1", Some("column \"area\" does not exist")),
            ("areas", Some("argument of CASE/WHEN must be type boolean, not type integer")),
            ("areas >", Some("syntax error")),
            ("areas > 1) THEN 1 END; DROP TABLE staging_stats --", Some("syntax error")),
        ] {
            let file = Content::new(File::in_memory(NAME, "iso3,areas\n"), Compression::None);
            let rules = [Rule::new("few", when)];
            let checked = csv::check(&mut conn, target("staging_stats"), file, &Format::default(), &rules).await;
            match words {
                None => checked.unwrap(),
                Some(words) => {
                    assert_says(checked.unwrap_err(), &["import areas", "reject 'few'", words, "iso3, areas", "correct it in the Portal"])
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn other_encodings_are_converted_by_postgres() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        let format = Format { delimiter: b';', null: "übel".to_owned(), encoding: "WIN1252".to_owned(), ..Format::default() };
        let content = b"iso3;note;areas\nDEU;\xfcber;\xfcbel\nFRA;a\x81b;1\nITA;\"\xfcbel\";2\n";
        let loading = Loading { format: &format, rules: &[], lookup: false, sample: None };
        let loaded = load_as(&mut conn, File::in_memory(NAME, &content[..]), loading).await.unwrap();
        assert_eq!(loaded.counts, counts(3, 1));
        assert_says(
            &rejected(&mut conn).await[0],
            &["line 3|22P05|column note: character with byte sequence 0x81 in encoding \"WIN1252\""],
        );
        assert_says(row(&mut conn, 3).await, &[r#""note": "a\\201b""#]);
        let rows =
            strings(&mut conn, "SELECT concat_ws('|', iso3, note, coalesce(areas::text, 'NULL')) FROM staging_stats ORDER BY 1").await;
        assert_eq!(rows, ["DEU|über|NULL", "ITA|übel|2"]);
    })
    .await;
}

/// Numbers that look random and are always the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

#[tokio::test]
async fn rows_are_separated_as_copy_separates_them() {
    in_database(|db| async move {
        let mut conn = db.with_ledger("CREATE TABLE staging_stats (a text, b text, id serial)").await;
        let mut dice = Dice(42);
        let all = "SELECT concat_ws('|', quote_nullable(a), quote_nullable(b)) FROM staging_stats ORDER BY id";
        let (mut taken, mut refused) = (0, 0);
        for round in 0..200 {
            let newline = ["\n", "\r\n", "\r"][dice.roll(3)];
            let mut content = format!("a,b{newline}");
            for _ in 0..dice.roll(6) {
                if dice.roll(6) == 0 {
                    content.push_str(["x", "y,", "\"", newline, ",", "N", "\\.", " ", "\n", "\r"][dice.roll(10)]);
                }
                content.push_str(["u,v", "\"1\n2\",3", "N,\"N\"", ",", "\\.,\\.", "\"a,b\",\"\"", "a\"b\"\"c\"d,\"\"\"\""][dice.roll(7)]);
                if dice.roll(8) != 0 {
                    content.push_str(newline);
                }
            }
            let format = Format { null: ["", "N"][dice.roll(2)].to_owned(), ..Format::default() };
            run(&mut conn, "DELETE FROM staging_stats").await;
            let direct = load_file(&mut conn, File::in_memory(NAME, content.clone()), &format, None).await;
            let rows = strings(&mut conn, all).await;
            run(&mut conn, "DELETE FROM staging_stats").await;
            let loading = Loading { format: &format, rules: &[], lookup: false, sample: None };
            let bytes: Vec<Result<Bytes, FileError>> =
                content.as_bytes().chunks(1 + dice.roll(7)).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let accounted = load_as(&mut conn, File::new(NAME, stream::iter(bytes)), loading).await;
            match (direct, accounted) {
                (Ok(direct), Ok(accounted)) => {
                    taken += 1;
                    assert_eq!(accounted, direct, "round {round}: {content:?}");
                    assert_eq!(strings(&mut conn, all).await, rows, "round {round}: {content:?}");
                }
                (Err(_), Ok(accounted)) => {
                    refused += 1;
                    // `\.` alone in a line is a row of too few fields here.
                    assert!(accounted.counts.rejected > 0, "round {round}: {content:?}");
                    assert_eq!(accounted.counts.read, accounted.counts.imported + accounted.counts.rejected);
                }
                (Err(_), Err(error)) => assert_says(error, &["a quote is opened in this row and never closed"]),
                (Ok(_), Err(error)) => panic!("round {round}: {error}: {content:?}"),
            }
        }
        assert!(taken > 50 && refused > 50, "{taken} and {refused}");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_separated_or_is_all_wrong_fails_as_a_whole() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        let plain = Loading { format: &Format::default(), rules: &[], lookup: false, sample: None };
        let open = load(&mut conn, "iso3,note\nDEU,a\nFRA,\"b\nITA,c\n").await.unwrap_err();
        assert_says(open, &["import areas", NAME, "line 3", "a quote is opened in this row and never closed", "no row of it was imported"]);
        let error = load_as(&mut conn, endless("iso3,note\nDEU,a\nFRA,\""), plain).await.unwrap_err();
        assert_says(error, &[NAME, "line 3", "longer than 32 MiB", "check for an unclosed quote there"]);
        assert_eq!(count(&mut conn, "SELECT 42::bigint").await, 42, "the connection is usable");

        // All of 10 002 rows: not one by one to the end.
        let wrong: String = (0..10_002).map(|_| "DEU,seven\n").collect();
        let error = load(&mut conn, format!("iso3,areas\n{wrong}")).await.unwrap_err();
        let words = [
            "import areas",
            "more than 10000 rows",
            "10001 because of 'column areas: invalid input syntax",
            "for example line 2;",
            "correct the file",
        ];
        assert_says(error.to_string().replace("example line 2:", "example line 2;"), &words[..]);
        assert_eq!(
            count(&mut conn, "SELECT count(*) FROM staging_stats").await
                + count(&mut conn, "SELECT count(*) FROM portal_release.rejected_rows").await,
            0
        );
        let fewer: String = (0..10_000).map(|_| "DEU,seven\n").collect();
        assert_eq!(load(&mut conn, format!("iso3,areas\n{fewer}FRA,1\n")).await.unwrap().counts, counts(10_001, 10_000));
    })
    .await;
}

#[tokio::test]
async fn a_broken_download_leaves_the_connection_usable_and_nothing_to_commit() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        for chunks in [&["iso3,", "areas\nDEU,7\n"][..], &["iso3,areas\nDEU,many\n"], &["iso3,note\nDEU,\"half"], &["iso3,note\nD"]] {
            let broken = FileError::passing(NAME, "connection reset");
            let parts: Vec<Result<Bytes, _>> = chunks.iter().map(|chunk| Ok(Bytes::from(*chunk))).chain([Err(broken)]).collect();
            let mut tx = conn.begin().await.unwrap();
            let file = Content::new(File::new(NAME, stream::iter(parts)), Compression::None);
            let accounting = Accounting { release: 1, rules: &[], lookup: false, accepted: 0.5 };
            let error =
                csv::load_accounted(&mut tx, target("staging_stats"), file, &Format::default(), None, &accounting).await.unwrap_err();
            assert!(matches!(&error, CsvError::Read { source, .. } if source.transient), "{error}");
            assert!(sqlx::query("SELECT 1").execute(&mut *tx).await.is_err(), "half a file cannot be committed");
            tx.rollback().await.unwrap();
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0);
        }
        assert_eq!(load(&mut conn, "iso3,areas\nDEU,7\n").await.unwrap().counts, counts(1, 0), "and twice on one connection");
    })
    .await;
}

#[tokio::test]
async fn a_sample_is_accounted_for_as_far_as_it_goes() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        let loading = Loading { format: &Format::default(), rules: &[], lookup: false, sample: Some(2) };
        let file = || File::in_memory(NAME, "iso3,areas\nDEU,\"1\n\"\nFRA,many\nITA,never read");
        let loaded = load_as(&mut conn, file(), loading).await.unwrap();
        assert_eq!(loaded, Loaded { counts: counts(2, 1), bytes: None, sha256: None });
        let all = load_as(&mut conn, File::in_memory(NAME, "iso3,areas\nESP,1"), loading).await.unwrap();
        assert_eq!(all.counts, counts(1, 0));
    })
    .await;
}

#[tokio::test]
async fn what_a_look_up_table_knows_is_collapsed() {
    in_database(|db| async move {
        let mut conn = prepared(&db).await;
        run(&mut conn, "INSERT INTO staging_stats (iso3, areas) VALUES ('DEU', 7)").await;
        let loading = Loading { format: &Format::default(), rules: &[], lookup: true, sample: None };
        let content = "iso3,areas\nDEU,1\nFRA,2\nFRA,3\nITA,-1\nESP\n";
        let loaded = load_as(&mut conn, File::in_memory(NAME, content), loading).await.unwrap();
        assert_eq!(loaded.counts, Counts { read: 5, imported: 1, rejected: 2 });
        assert_eq!(strings(&mut conn, "SELECT iso3 || areas FROM staging_stats ORDER BY 1").await, owned(&["DEU7", "FRA2"]));
    })
    .await;
}
