use portal_release_operator::database::checksum::{self, Content};
use sqlx::Connection;

use super::{assert_says, in_database, run, strings};

const TABLE: &str = "CREATE TABLE a (id int, at timestamptz, share float8, raw bytea, gap interval, name text)";
const ROWS: &str = "SELECT n, '2026-07-01 12:00+00'::timestamptz + n * interval '1 day', n / 3.0, decode('00ff', 'hex'), n * interval '1 hour', 'x' || n \
                    FROM generate_series(1, 100) n";

#[tokio::test]
async fn order_and_settings_do_not_matter_but_content_does() {
    in_database(|db| async move {
        let mut conn = db.with(&format!("{TABLE}; INSERT INTO a {ROWS} ORDER BY n; CREATE TABLE b (LIKE a); INSERT INTO b {ROWS} ORDER BY n DESC")).await;
        let a = checksum::of_relation(&mut conn, "\"public\".\"a\"").await.unwrap();
        assert_eq!((a.rows, a.checksum.len()), (100, 32));
        assert_eq!(checksum::of_relation(&mut conn, "\"public\".\"b\"").await.unwrap(), a);
        assert_eq!(checksum::of_query(&mut conn, "SELECT * FROM a -- all").await.unwrap(), a);

        let settings = "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = -5; SET bytea_output = 'escape'; SET IntervalStyle = 'iso_8601'";
        let mut other = db.with(settings).await;
        assert_eq!(checksum::of_relation(&mut other, "public.a").await.unwrap(), a);
        assert_eq!(strings(&mut other, "SHOW TimeZone").await, ["Asia/Tokyo"], "without a transaction");
        let mut tx = other.begin().await.unwrap();
        assert_eq!(checksum::of_relation(&mut tx, "public.a").await.unwrap(), a);
        assert_eq!(strings(&mut tx, "SHOW TimeZone").await, ["Asia/Tokyo"], "inside a transaction");
        tx.commit().await.unwrap();
        let broken = checksum::of_query(&mut other, "SELECT 1 / 0").await.unwrap_err();
        assert_says(broken, &["SELECT 1 / 0", "division by zero"]);
        assert_eq!(strings(&mut other, "SHOW TimeZone").await, ["Asia/Tokyo"], "after an error");

        let mut seen = vec![a.checksum];
        for change in [
            "UPDATE a SET name = 'y' WHERE id = 50",
            "UPDATE a SET share = 0.3 WHERE id = 50",
            "UPDATE a SET share = 0.1::float8 + 0.2::float8 WHERE id = 50",
            "UPDATE a SET name = NULL WHERE id = 50",
            "UPDATE a SET name = '' WHERE id = 50",
            "INSERT INTO a SELECT * FROM a WHERE id = 1",
            "INSERT INTO a SELECT * FROM a WHERE id = 1 LIMIT 2",
        ] {
            run(&mut conn, change).await;
            let now = checksum::of_relation(&mut conn, "public.a").await.unwrap().checksum;
            assert!(!seen.contains(&now), "{change} left the checksum as it was");
            seen.push(now);
        }
        run(&mut conn, "TRUNCATE a").await;
        let empty = Content { rows: 0, checksum: "0".repeat(32) };
        assert_eq!(checksum::of_relation(&mut conn, "public.a").await.unwrap(), empty);
    })
    .await;
}
