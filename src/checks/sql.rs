//! A query that returns true.

use sqlx::{Connection, PgConnection};

use super::Answer;
use crate::{
    database::{
        checks::{MAX_QUOTED_CHARS, reason, shorten},
        identifiers::{assembled, subquery},
        sqlstate::is_to_blame,
    },
    finding::Finding,
};

/// Evaluates a query. It passes only when it returns exactly one row whose first column is the boolean true.
///
/// It runs read-only, inside a savepoint (or a transaction of its own) that is rolled back: it changes nothing, and one that fails
/// does not spoil the caller's transaction. That transaction must be one of sqlx.
pub async fn ask(connection: &mut PgConnection, object: &str, sql: &str) -> Answer {
    // Names only the first column, of any type, and reads it as text.
    let wrapped = format!(
        "SELECT pg_typeof(portal_release_gate)::text, left(portal_release_gate::text, {}) FROM {} AS answer(portal_release_gate) LIMIT 2",
        MAX_QUOTED_CHARS + 1,
        subquery(sql)
    );
    let query = async |connection: &mut PgConnection| {
        sqlx::query_as::<_, (String, Option<String>)>(assembled(wrapped)).persistent(false).fetch_all(connection).await
    };
    let rows = match read_only(connection, query).await {
        Ok(rows) => rows,
        Err(error) => return refused(object, "sql", &error),
    };
    let failed = |got: &str| {
        let problem = format!("failed: expected one row with true in the first column, got {got}");
        Finding::fail(object, problem, "make it true, or correct its SQL in the Portal")
    };
    match rows.as_slice() {
        [(kind, Some(value))] if kind == "boolean" && value == "true" => Answer::Passed("true".to_owned()),
        [(kind, Some(value))] if kind == "boolean" => Answer::Failed(failed(value)),
        [(kind, Some(value))] => Answer::Failed(failed(&format!("{} ({kind})", shorten(value, MAX_QUOTED_CHARS)))),
        [] => Answer::NoData(failed("no row")),
        [(_, None)] => Answer::NoData(failed("NULL")),
        _ => Answer::Failed(failed("more than one row")),
    }
}

/// Runs queries that change nothing, whatever they are: read-only, and rolled back.
pub(super) async fn read_only<T, Q>(connection: &mut PgConnection, query: Q) -> Result<T, sqlx::Error>
where
    Q: AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
{
    let mut savepoint = connection.begin().await?;
    sqlx::query("SET TRANSACTION READ ONLY").execute(&mut *savepoint).await?;
    let result = query(&mut savepoint).await;
    let rolled_back = savepoint.rollback().await;
    let result = result?;
    rolled_back?;
    Ok(result)
}

/// What a failed query means: it is to blame, or nothing is known.
pub(super) fn refused(object: &str, field: &str, error: &sqlx::Error) -> Answer {
    if is_to_blame(error) {
        Answer::Failed(Finding::fail(object, format!("failed: {}", reason(error)), format!("correct its {field} in the Portal")))
    } else {
        Answer::error(object, &reason(error))
    }
}
