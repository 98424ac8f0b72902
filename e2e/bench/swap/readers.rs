//! What the site does all day: short reads of every kind, each of which checks that it saw one release.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::record::{Read, Recording};
use crate::shape;

/// How a reader sends its statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Parsed and planned each time.
    Simple,
    /// Prepared once per connection, planned again when something has changed.
    Prepared,
    /// All statements in one REPEATABLE READ transaction, which must see one release throughout.
    Transaction,
}

/// One reader of the site. Each statement returns one row with one array: the releases of all rows that it has read.
#[derive(Debug, Clone)]
struct Reader {
    name: &'static str,
    way: Way,
    statements: Vec<String>,
}

fn reader(name: &'static str, way: Way, statement: &str) -> Reader {
    Reader { name, way, statements: vec![statement.to_owned()] }
}

/// The name of the reader whose statement takes [`SLOW_SECONDS`].
pub(crate) const SLOW: &str = "slow";
const SLOW_SECONDS: u32 = 6;

/// Single tables, joins in both orders, views, functions, materialized views and transactions in both orders.
fn fast() -> Vec<Reader> {
    let relations = shape::relations();
    let view = "portal_downloads_protected_areas".to_owned();
    let everything: Vec<String> = relations.tables.into_iter().chain(relations.views).chain([view]).collect();
    let one_row = |name: &String| format!("SELECT ARRAY[release] FROM (SELECT release FROM {name} LIMIT 1) r");
    let forwards: Vec<String> = everything.iter().map(one_row).collect();
    let backwards = forwards.iter().rev().cloned().collect();
    let all_at_once = everything.iter().map(|name| format!("(SELECT release FROM {name} LIMIT 1)")).collect::<Vec<_>>().join(" UNION ALL ");
    vec![
        reader("single table", Way::Simple, "SELECT array_agg(release) FROM protected_areas WHERE site_id = $1"),
        reader(
            "join, main first",
            Way::Simple,
            "SELECT array_agg(DISTINCT r) FROM protected_areas a JOIN protected_areas_sources j ON j.protected_area_id = a.id
             JOIN sources s ON s.id = j.source_id, unnest(ARRAY[a.release, j.release, s.release]) r WHERE a.site_id = $1",
        ),
        reader(
            "join, sources first",
            Way::Simple,
            "SELECT array_agg(DISTINCT r) FROM sources s JOIN protected_areas_sources j ON j.source_id = s.id
             JOIN protected_areas a ON a.id = j.protected_area_id, unnest(ARRAY[a.release, j.release, s.release]) r WHERE a.site_id = $1",
        ),
        reader(
            "prepared join",
            Way::Prepared,
            "SELECT array_agg(DISTINCT r) FROM countries_protected_areas j JOIN protected_areas a ON a.id = j.protected_area_id
             JOIN country_statistics c USING (country_id), unnest(ARRAY[a.release, j.release, c.release]) r WHERE a.site_id = $1",
        ),
        reader("prepared download", Way::Prepared, "SELECT array_agg(release) FROM portal_downloads_protected_areas WHERE site_id = $1"),
        reader(
            "view of views",
            Way::Simple,
            "SELECT array_agg(DISTINCT r) FROM regional_shares s, unnest(ARRAY[release, pame_release, global_release]) r WHERE s.region <> $1::text",
        ),
        reader(
            "materialized view",
            Way::Prepared,
            "SELECT array_agg(DISTINCT r) FROM portal_standard_polygons v JOIN portal_iso3_agg i USING (site_id, site_pid)
             JOIN protected_areas a USING (site_id), unnest(ARRAY[v.release, i.release, a.release]) r WHERE v.site_id = $1",
        ),
        reader("bound function", Way::Prepared, "SELECT ARRAY[site_release($1), a.release] FROM protected_areas a WHERE site_id = $1"),
        reader("functions", Way::Simple, "SELECT site_sources($1) || (SELECT release FROM site_countries($1)) || site_release($1)"),
        reader("all in one statement", Way::Simple, &format!("SELECT array_agg(DISTINCT release) FROM ({all_at_once}) r WHERE $1 > 0")),
        Reader { name: "transaction", way: Way::Transaction, statements: forwards },
        Reader { name: "transaction backwards", way: Way::Transaction, statements: backwards },
    ]
}

/// One that holds a table for six seconds, in a loop without a pause.
fn slow() -> Reader {
    let sql = format!(
        "SELECT ARRAY[g.release, a.release] FROM global_statistics g, protected_areas a, pg_sleep({SLOW_SECONDS}) WHERE a.site_id = $1"
    );
    reader(SLOW, Way::Simple, &sql)
}

/// The mean pause of a reader between two turns: the site is busy, and the machine is not full.
const PAUSE: Duration = Duration::from_millis(30);

/// Readers at work, until they are stopped.
pub(crate) struct Readers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Recording>>,
}

impl Readers {
    /// Lets every reader loose, on a connection of its own. `sites` is how many sites there are.
    pub(crate) fn start(options: &PgConnectOptions, epoch: Instant, sites: u32, with_slow: bool) -> Self {
        let (stop, stopped) = watch::channel(false);
        let readers = fast().into_iter().chain(with_slow.then(slow));
        let tasks = readers.map(|reader| tokio::spawn(at_work(reader, options.clone(), epoch, sites, stopped.clone()))).collect();
        Self { stop, tasks }
    }

    /// Stops them and returns what they recorded.
    pub(crate) async fn stop(self) -> Recording {
        self.stop.send_replace(true);
        let mut all = Recording::default();
        for task in self.tasks {
            all.absorb(task.await.unwrap());
        }
        all
    }
}

async fn at_work(reader: Reader, options: PgConnectOptions, epoch: Instant, sites: u32, mut stopped: watch::Receiver<bool>) -> Recording {
    let reader = Arc::new(reader);
    let mut recording = Recording::default();
    let options = options.application_name(reader.name);
    let mut conn = PgConnection::connect_with(&options).await.unwrap();
    loop {
        // One with parcels, evaluations and everything else.
        let site = 20 * (1 + random() % (sites / 20));
        let turn = tokio::select! {
            // What is under way when the phase ends belongs to no swap.
            _ = stopped.wait_for(|stop| *stop) => return recording,
            turn = turn(&mut conn, &reader, site, epoch) => turn,
        };
        if !turn.errors.is_empty() && conn.ping().await.is_err() {
            conn = PgConnection::connect_with(&options).await.unwrap();
        }
        recording.absorb(turn);
        if reader.name != SLOW {
            tokio::time::sleep(PAUSE / 2 + PAUSE * (random() % 256) / 256).await;
        }
    }
}

/// One statement, or one whole transaction.
async fn turn(conn: &mut PgConnection, reader: &Reader, site: u32, epoch: Instant) -> Recording {
    let mut recording = Recording::default();
    let mut seen = Vec::new();
    let outcome = async {
        if reader.way == Way::Transaction {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *conn).await?;
        }
        for statement in &reader.statements {
            let began = Instant::now();
            let releases: Option<Vec<i32>> = match reader.way {
                Way::Prepared => {
                    sqlx::query(AssertSqlSafe(statement.clone())).bind(i64::from(site)).fetch_one(&mut *conn).await?.try_get(0)?
                }
                _ => {
                    let sql = statement.replace("$1", &site.to_string());
                    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *conn).await?.try_get(0)?
                }
            };
            let took = began.elapsed();
            recording.reads.push(Read { kind: reader.name, began: began - epoch, took });
            seen.extend(releases.unwrap_or_default());
        }
        if reader.way == Way::Transaction {
            sqlx::raw_sql("COMMIT").execute(&mut *conn).await?;
        }
        Ok::<(), sqlx::Error>(())
    }
    .await;
    match outcome {
        Err(error) => {
            recording.errors.push(format!("{}: {error}", reader.name));
            if reader.way == Way::Transaction {
                // Of a connection that was ended there is nothing to roll back.
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await;
            }
        }
        Ok(()) if seen.is_empty() => recording.errors.push(format!("{}: no row of site {site}", reader.name)),
        Ok(()) if seen.iter().any(|release| Some(release) != seen.first()) => {
            recording.mixed.push(format!("{}: site {site} showed releases {seen:?}", reader.name));
        }
        Ok(()) => {}
    }
    recording
}

/// A number that need not be good, only cheap and different each time.
pub(crate) fn random() -> u32 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u32::from_le_bytes([a, b, c, d])
}
