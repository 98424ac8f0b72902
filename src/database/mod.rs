//! Everything that touches the portal's database: names and quoting, the lock and its fence, the ledger, staging, imports, checks,
//! the swap and backups. Nothing here knows Kubernetes.

pub mod backups;
pub mod catalog;
pub mod checks;
pub mod checksum;
pub mod connection;
pub mod csv;
pub mod dependents;
pub mod disk;
pub mod identifiers;
pub mod import;
pub mod inventory;
pub mod ledger;
pub mod lock;
pub mod portal;
pub mod portal_checks;
pub mod staging;
pub mod swap;
pub mod template;
pub mod views;
pub mod written;

/// Executes statements that were put together from quoted names and the platform team's own SQL.
///
/// # Errors
/// When the database refuses or does not answer.
pub async fn run_sql(connection: &mut sqlx::PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(identifiers::assembled(sql)).execute(connection).await?;
    Ok(())
}
