//! The age of the newest base backup.

use jiff::SignedDuration;
use sqlx::PgConnection;

use super::{
    Answer,
    sql::{read_only, refused},
};
use crate::{
    api::BackupCheck,
    database::identifiers::{assembled, subquery},
    finding::Finding,
    text::span,
};

/// A backup that ends so much later than now, in seconds, is one by a clock that is ahead.
const AHEAD: f64 = 60.0;
/// The only type whose values say which moment they are.
const MOMENT: &str = "timestamp with time zone";

/// Evaluates how old the newest backup is, by the database's clock.
pub async fn ask(connection: &mut PgConnection, object: &str, check: &BackupCheck) -> Answer {
    // Of any type; only where it is a moment it is compared. Each as a number: Postgres before 17 cannot subtract infinity.
    let wrapped = format!(
        "SELECT pg_typeof(newest.ended)::text, newest.ended IS NULL,
            CASE WHEN pg_typeof(newest.ended)::text = '{MOMENT}'
                THEN extract(epoch FROM clock_timestamp())::float8 - extract(epoch FROM newest.ended::text::timestamptz)::float8 END
         FROM {} AS newest(ended) LIMIT 2",
        subquery(check.sql.as_str())
    );
    let query = async |connection: &mut PgConnection| {
        sqlx::query_as::<_, (String, bool, Option<f64>)>(assembled(wrapped)).persistent(false).fetch_all(connection).await
    };
    let rows = match read_only(connection, query).await {
        Ok(rows) => rows,
        Err(error) => return refused(object, "backup.sql", &error),
    };
    let take = "take a base backup, then raise spec.retry";
    let correct = "let backup.sql return when the newest backup ended";
    match rows.as_slice() {
        [] | [(_, true, _)] => Answer::NoData(Finding::fail(object, "failed: there is no backup", take)),
        [(kind, ..)] if kind != MOMENT => {
            let problem =
                format!("was not evaluated: backup.sql returned {kind}, which does not say which moment it is, expected timestamptz");
            Answer::Refused(Finding::fail(
                object,
                problem,
                "name the time zone in it, such as ended AT TIME ZONE 'UTC', then raise spec.retry",
            ))
        }
        [(_, _, Some(seconds))] if !seconds.is_finite() => {
            Answer::Failed(Finding::fail(object, "failed: backup.sql returned infinity", correct))
        }
        [(_, _, Some(seconds))] => {
            let allowed = check.max_age.get();
            #[allow(clippy::cast_possible_truncation)]
            let age = span(SignedDuration::from_secs(*seconds as i64));
            if *seconds < -AHEAD {
                #[allow(clippy::cast_possible_truncation)]
                let ahead = span(SignedDuration::from_secs(-*seconds as i64));
                let problem = format!("failed: the newest backup ends {ahead} from now");
                Answer::Failed(Finding::fail(object, problem, "correct the clock or the time zone behind backup.sql"))
            } else if *seconds <= allowed.as_secs_f64() {
                Answer::Passed(format!("the newest backup is {age} old"))
            } else {
                Answer::Failed(Finding::fail(object, format!("failed: the newest backup is {age} old, more than {}", check.max_age), take))
            }
        }
        _ => Answer::Failed(Finding::fail(object, "failed: backup.sql returned more than one row", correct)),
    }
}
