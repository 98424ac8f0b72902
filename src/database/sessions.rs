//! Database sessions of others.

use sqlx::PgConnection;

/// Database sessions of these roles, each as a few words.
///
/// # Errors
/// When the database does not answer.
pub async fn sessions_of(connection: &mut PgConnection, roles: &[&str]) -> Result<Vec<String>, sqlx::Error> {
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "SELECT format('pid %s of role %s', pid, usename) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = ANY($1) AND pid <> pg_backend_pid() ORDER BY pid LIMIT 10",
    )
    .bind(roles)
    .fetch_all(connection)
    .await
}
