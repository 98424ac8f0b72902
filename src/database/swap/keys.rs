//! Foreign keys that an exchange has added unchecked.

use sqlx::PgConnection;

use super::error::{SwapError, failed};
use crate::database::identifiers::{Generation, Relations, assembled, qualified, quote_ident};

/// Checks the foreign keys from and to live relations that the swap has added unchecked. It blocks neither readers nor writers.
///
/// Returns a sentence for each key that does not hold; it stays in force for new rows.
///
/// # Errors
/// When the catalogue cannot be read or the connection is lost.
pub async fn validate_constraints(conn: &mut PgConnection, relations: &Relations) -> Result<Vec<String>, SwapError> {
    let keys: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT s.nspname::text, c.relname::text, k.conname::text
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace s ON s.oid = c.relnamespace
         JOIN pg_class t ON t.oid IN (k.conrelid, k.confrelid) JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE k.contype = 'f' AND NOT k.convalidated AND n.nspname = $1 AND t.relname = ANY ($2)
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )
    .bind(&relations.schema)
    .bind(relations.names(&Generation::Live))
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("finding the foreign keys to check"))?;
    let mut broken = Vec::new();
    for (schema, table, key) in keys {
        let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", qualified(&schema, &table), quote_ident(&key));
        match sqlx::raw_sql(assembled(sql)).execute(&mut *conn).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => {
                let detail = error
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .and_then(|error| error.detail())
                    .unwrap_or_default()
                    .to_owned();
                broken.push(format!("foreign key {key} of {schema}.{table} does not hold: {error} {detail}"));
            }
            Err(error) => return Err(failed("checking foreign keys")(error)),
        }
    }
    Ok(broken)
}
