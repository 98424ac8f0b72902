//! Everything that touches the portal's database: names and quoting, the lock and its fence, the ledger, staging, imports, checks,
//! the swap and backups. Nothing here knows Kubernetes.

pub mod backups;
pub mod catalog;
pub mod checks;
pub mod checksum;
pub mod connection;
pub mod counts;
pub mod csv;
pub mod dependents;
pub mod disk;
pub mod identifiers;
pub mod import;
pub mod inventory;
pub mod key_range;
pub mod ledger;
pub mod lock;
pub mod portal;
pub mod portal_checks;
pub mod sessions;
pub(crate) mod sqlstate;
pub mod staging;
pub mod swap;
pub mod template;
pub mod views;
pub mod written;

use sqlx::{Postgres, Transaction};

/// Commits, and does not mistake the silent ROLLBACK of a failed transaction for success.
///
/// # Errors
/// When the transaction had failed or the database does not answer. Of a lost connection the outcome is unknown: the ledger's row,
/// which commits with the work, says it.
pub async fn commit(mut tx: Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    // In a failed transaction this is refused, where COMMIT would answer ROLLBACK without an error.
    sqlx::query("SELECT 1").execute(&mut *tx).await?;
    tx.commit().await
}

/// Executes statements that consist of quoted names and the platform team's own SQL.
///
/// # Errors
/// When the database refuses or does not answer.
pub async fn run_sql(connection: &mut sqlx::PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(identifiers::assembled(sql)).execute(connection).await?;
    Ok(())
}
