//! The age of the newest base backup.

use jiff::SignedDuration;
use sqlx::PgConnection;

use super::{
    Answer,
    sql::{read_only, refused},
};
use crate::{api::BackupCheck, database::identifiers::assembled, finding::Finding, text::span};

/// Evaluates how old the newest backup is, by the database's clock.
pub async fn ask(connection: &mut PgConnection, object: &str, check: &BackupCheck) -> Answer {
    let wrapped = format!(
        "SELECT extract(epoch FROM clock_timestamp() - newest.ended::timestamptz)::float8 FROM (\n{}\n) AS newest(ended) LIMIT 2",
        check.sql.as_str()
    );
    let query = async |connection: &mut PgConnection| {
        sqlx::query_scalar::<_, Option<f64>>(assembled(wrapped)).persistent(false).fetch_all(connection).await
    };
    let rows = match read_only(connection, query).await {
        Ok(rows) => rows,
        Err(error) => return refused(object, "backup.sql", &error),
    };
    let take = "take a base backup, then raise spec.retry";
    match rows.as_slice() {
        [Some(seconds)] => {
            let allowed = check.max_age.get();
            #[allow(clippy::cast_possible_truncation)]
            let age = span(SignedDuration::from_secs(*seconds as i64));
            if *seconds <= allowed.as_secs_f64() {
                Answer::Passed(format!("the newest backup is {age} old"))
            } else {
                Answer::Failed(Finding::fail(object, format!("failed: the newest backup is {age} old, more than {}", check.max_age), take))
            }
        }
        [] | [None] => Answer::NoData(Finding::fail(object, "failed: there is no backup", take)),
        _ => Answer::Failed(Finding::fail(
            object,
            "failed: backup.sql returned more than one row",
            "let it return when the newest backup ended",
        )),
    }
}
