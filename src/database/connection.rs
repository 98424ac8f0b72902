//! The connection to a portal's database: a small pool for work, and the ledger's schema in place.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use thiserror::Error;

use super::sqlstate;

/// The migrations of schema `portal_release`.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Connections of one portal's pool, opened as they are needed. One phase works at a time, with at most 32 at once (`imports.parallel`);
/// the rest is for the ledger and for cancelling.
const POOL_SIZE: u32 = 38;

/// Since version 17 a role or a database may have such a limit; older servers do not know it.
const NO_TRANSACTION_TIMEOUT: &str =
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout' AND setting <> '0'";

/// After this long a connection that nobody uses is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long a database may be silent while it is connected to and the ledger is brought up to date.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a portal's database cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It took the connection, and then nothing came.
    #[error(
        "the database at {host}:{port} did not answer within {seconds}s; check whether a session holds locks in schema portal_release, and the network path to the server"
    )]
    Silent {
        /// Host of the URL.
        host: String,
        /// Port of the URL.
        port: u16,
        /// For how long it was waited.
        seconds: u64,
    },
    /// The Secret's text is no connection URL. The text itself is never repeated: it holds a password.
    #[error("the Secret does not hold a postgres:// URL; write it as postgres://user:password@host:port/database")]
    Url,
    /// Nothing answered, or it refused.
    #[error("cannot connect to the database at {host}:{port} as {user}: {cause}")]
    Connect {
        /// Host of the URL.
        host: String,
        /// Port of the URL.
        port: u16,
        /// User of the URL.
        user: String,
        /// What the driver says.
        cause: sqlx::Error,
    },
    /// It is no server but a pooler that does not pass a session's settings on.
    #[error("{host}:{port} is a connection pooler ({cause}); give the URL of a direct connection to the primary")]
    Pooler {
        /// Host of the URL.
        host: String,
        /// Port of the URL.
        port: u16,
        /// What the pooler says.
        cause: sqlx::Error,
    },
    /// The server is a standby.
    #[error("the server at {host}:{port} is a standby (in recovery); give the URL of the primary")]
    Standby {
        /// Host of the URL.
        host: String,
        /// Port of the URL.
        port: u16,
    },
    /// The ledger's schema could not be brought up to date.
    #[error("cannot create or upgrade schema portal_release as {user}: {cause}; the role needs CREATE on the database")]
    Migrate {
        /// User of the URL.
        user: String,
        /// What the migration says.
        cause: MigrateError,
    },
    /// Somebody uses a table of the ledger that is to be changed. A migration does not wait for long: others would queue behind it.
    #[error(
        "schema portal_release cannot be upgraded yet, as another session uses one of its tables; it is tried again until that session's transaction ends"
    )]
    Locked,
}

impl ConnectError {
    /// Nothing answered, or it refused.
    pub fn of(options: &PgConnectOptions, cause: sqlx::Error) -> Self {
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        // PgBouncer's words for settings in the startup message.
        if cause.as_database_error().is_some_and(|error| error.message().starts_with("unsupported startup parameter")) {
            return Self::Pooler { host, port, cause };
        }
        Self::Connect { host, port, user: options.get_username().to_owned(), cause }
    }

    fn of_migration(user: String, cause: MigrateError) -> Self {
        match &cause {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if sqlstate::is_busy(error) => Self::Locked,
            _ => Self::Migrate { user, cause },
        }
    }
}

/// Opens the pool and brings the ledger's schema up to date.
///
/// `schema` is the portal's schema: it leads the search path of every connection, so that queries of the Portal may name its
/// tables without it. `application` is shown in `pg_stat_activity`.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(url: &str, schema: &str, application: &str) -> Result<(PgPool, PgConnectOptions), ConnectError> {
    let options = options(url, schema, application)?;
    let (host, port) = (options.get_host().to_owned(), options.get_port());
    let silent = |_| ConnectError::Silent { host, port, seconds: OPEN_TIMEOUT.as_secs() };
    tokio::time::timeout(OPEN_TIMEOUT, open(options)).await.map_err(silent)?
}

async fn open(options: PgConnectOptions) -> Result<(PgPool, PgConnectOptions), ConnectError> {
    let user = options.get_username().to_owned();
    let host = options.get_host().to_owned();
    let port = options.get_port();
    let failed = |cause: sqlx::Error| ConnectError::of(&options, cause);
    let pool = PgPoolOptions::new()
        .max_connections(POOL_SIZE)
        // Between the phases of a run they stay open; an idle portal closes them at once (`PortalDatabase::rest`).
        .idle_timeout(IDLE_TIMEOUT)
        .acquire_timeout(Duration::from_secs(15))
        .after_connect(|connection, _| Box::pin(async move { sqlx::raw_sql(NO_TRANSACTION_TIMEOUT).execute(connection).await.map(drop) }))
        .connect_with(options.clone())
        .await
        .map_err(failed)?;
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&pool).await.map_err(failed)?;
    if standby {
        return Err(ConnectError::Standby { host, port });
    }
    let mut migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    // An older operator beside a newer one must not stumble over the newer one's migrations.
    migrator.set_ignore_missing(true);
    migrator.create_schema("portal_release");
    migrator.dangerous_set_table_name("portal_release._sqlx_migrations");
    migrator.run(&pool).await.map_err(|cause| ConnectError::of_migration(user, cause))?;
    Ok((pool, options))
}

/// How every connection to a portal's database is made.
///
/// # Errors
/// [`ConnectError::Url`].
pub fn options(url: &str, schema: &str, application: &str) -> Result<PgConnectOptions, ConnectError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| ConnectError::Url)?
        .application_name(application)
        // Nothing depends on the server's or the role's settings: neither the formats of times and numbers, nor what a transaction
        // sees or may write, nor for how long one may wait for a lock or stand open while the cluster is asked.
        .options([
            ("search_path", search_path(schema).as_str()),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", "off"),
            ("idle_in_transaction_session_timeout", "0"),
            ("client_min_messages", "warning"),
        ])
        .disable_statement_logging();
    Ok(options)
}

/// The secret parts of a connection URL: the URL itself and its password, encoded and decoded.
pub fn secrets(url: &str) -> Vec<String> {
    let mut secrets = vec![url.to_owned()];
    if let Ok(parsed) = reqwest::Url::parse(url) {
        secrets.extend(parsed.password().map(str::to_owned));
        secrets.extend(parsed.password().map(decoded));
        secrets.extend(parsed.query_pairs().filter(|(name, _)| name == "password").map(|(_, value)| value.into_owned()));
    }
    secrets.dedup();
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

/// A text with its `%41` decoded.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn search_path(schema: &str) -> String {
    // `options` is split at spaces by the server, so there are none here.
    if schema == "public" { "public".to_owned() } else { format!("{schema},public") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_however_it_is_written() {
        let url = "postgres://me:p%40ss%2Fw@db:5432/portal?password=other";
        assert_eq!(secrets(url), [url, "p%40ss%2Fw", "p@ss/w", "other"]);
        assert_eq!(secrets("postgres://me@db/portal"), ["postgres://me@db/portal"]);
        assert_eq!(decoded("100%"), "100%");
    }
}
