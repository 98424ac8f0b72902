//! The server, the connection and what the role may do.

use sqlx::{Connection, PgConnection, Row};

use super::{Line, Report, Target, connect};
use crate::database::identifiers::quote_ident;

/// The oldest server whose catalogue is understood, and the first that can grant deadlock_timeout.
const OLDEST: i32 = 140_000;
const GRANTS_PARAMETERS: i32 = 150_000;

pub(super) async fn examine(target: &Target, connection: &mut PgConnection, report: &mut Report) {
    let lines = server(target, connection).await;
    report.take("server", lines);
    let lines = pooler(target, connection).await;
    report.take("pooler", lines);
    let lines = privileges(target, connection).await;
    report.take("privileges", lines);
    let lines = lock(target, connection).await;
    report.take("lock", lines);
    let lines = snapshots(connection).await;
    report.take("snapshots", lines);
    let lines = standbys(connection).await;
    report.take("standbys", lines);
}

async fn server(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let (version, number, standby, read_only): (String, i32, bool, String) = sqlx::query_as(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
                coalesce((SELECT setting FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
                          WHERE setting LIKE 'default_transaction_read_only=%' AND s.setrole IN (0, current_user::regrole)
                            AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) LIMIT 1), '')",
    )
    .fetch_one(connection)
    .await?;
    let options = &target.options;
    let place = format!("{}:{}, database {}", options.get_host(), options.get_port(), options.get_database().unwrap_or(&target.role));
    let mut lines = vec![Line::ok("connection", format!("{place}, as {}", target.role))];
    lines.push(match number {
        ..OLDEST => Line::fail("server", format!("PostgreSQL {version} is too old"), "upgrade to 14 or newer"),
        OLDEST..GRANTS_PARAMETERS => Line::warn(
            "server",
            format!("PostgreSQL {version}: only a superuser may shorten deadlock_timeout, so autovacuum can delay a swap"),
            "upgrade to 15 or newer",
        ),
        _ => Line::ok("server", format!("PostgreSQL {version}")),
    });
    lines.push(if standby {
        Line::fail("primary", "this server is a standby (in recovery)", "give the URL of the primary in the Secret")
    } else if read_only.ends_with("=on") {
        Line::warn(
            "primary",
            format!("the role or the database is set to {read_only}: the operator's own sessions write all the same, those of Jobs do not"),
            "reset it with ALTER ROLE or ALTER DATABASE ... RESET where imports are made by Jobs",
        )
    } else {
        Line::ok("primary", "not a standby")
    });
    Ok(lines)
}

/// A session keeps its backend: the lock, the search path and prepared statements depend on it.
async fn pooler(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let Ok(mut second) = connect(&target.options).await else {
        return Ok(vec![Line::fail(
            "pooler",
            "a second connection is refused",
            "raise max_connections or the role's CONNECTION LIMIT: the operator needs about 8",
        )]);
    };
    // A transaction pooler assigns an idle backend to any client's next transaction, which breaks prepared statements.
    let mut shared = false;
    for _ in 0..3 {
        let first = backend(connection).await?;
        sqlx::raw_sql("BEGIN").execute(&mut second).await?;
        let other = backend(&mut second).await?;
        let again = backend(connection).await?;
        sqlx::raw_sql("ROLLBACK").execute(&mut second).await?;
        shared |= first == other || first != again;
    }
    let _ = second.close().await;
    Ok(vec![if shared {
        Line::fail(
            "pooler",
            "sessions change their backend: the connection goes through a transaction pooler",
            "give the URL of a direct connection in the Secret",
        )
    } else {
        Line::ok("pooler", "sessions keep their backend")
    }])
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

async fn privileges(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let schema = &target.relations.schema;
    let role = quote_ident(&target.role);
    let (database, may_create, there, own_schema, schema_exists, in_schema): (String, bool, bool, bool, bool, bool) = sqlx::query_as(
        "SELECT current_database()::text, has_database_privilege(current_database(), 'CREATE'), to_regnamespace('portal_release') IS NOT NULL,
                coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'portal_release'), false),
                EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
                coalesce((SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1), false)",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await?;
    let mut lines = Vec::new();
    lines.push(match (there, own_schema, may_create) {
        (true, true, _) if target.ledger => Line::ok("ledger", "schema portal_release exists"),
        (true, true, _) => Line::ok("ledger", "schema portal_release exists; the operator will fill it"),
        (true, false, _) => Line::fail(
            "ledger",
            format!("schema portal_release belongs to a role that {} is not a member of", target.role),
            format!("ALTER SCHEMA portal_release OWNER TO {role}, and its tables"),
        ),
        (false, _, true) => Line::ok("ledger", "schema portal_release does not exist yet; the operator will create it"),
        (false, _, false) => Line::fail(
            "ledger",
            "schema portal_release does not exist, and the role may not create it",
            format!("GRANT CREATE ON DATABASE {} TO {role}", quote_ident(&database)),
        ),
    });
    lines.push(match (schema_exists, in_schema) {
        (false, _) => {
            Line::fail("schema", format!("schema {schema} does not exist"), "create it, or a new Portal with the right database.schema")
        }
        (true, true) => Line::ok("schema", format!("{} may create relations in {schema}", target.role)),
        (true, false) => Line::fail(
            "schema",
            format!("{} may not create relations in {schema}", target.role),
            format!("GRANT USAGE, CREATE ON SCHEMA {} TO {role}", quote_ident(schema)),
        ),
    });
    let (deadlock, stats, signal): (bool, bool, bool) = sqlx::query_as(
        "SELECT CASE WHEN current_setting('server_version_num')::int >= 150000 THEN has_parameter_privilege('deadlock_timeout', 'SET')
                     ELSE current_setting('is_superuser') = 'on' END,
                pg_has_role('pg_read_all_stats', 'USAGE'), pg_has_role('pg_signal_backend', 'USAGE')",
    )
    .fetch_one(connection)
    .await?;
    lines.push(if deadlock {
        Line::ok("autovacuum", "the role may shorten deadlock_timeout, so autovacuum yields to a swap")
    } else {
        Line::warn(
            "autovacuum",
            "the role may not set deadlock_timeout: a running autovacuum can block a swap until the swap times out",
            format!("GRANT SET ON PARAMETER deadlock_timeout TO {role}"),
        )
    });
    lines.push(if stats {
        Line::ok("statistics", "the role can see what other sessions do")
    } else {
        Line::warn(
            "statistics",
            "messages cannot show what a session that blocks a swap is doing",
            format!("GRANT pg_read_all_stats TO {role}"),
        )
    });
    let wanted = &target.portal.database.cancel_blockers.roles;
    lines.push(match (signal, wanted.is_empty()) {
        (true, _) => Line::ok("sessions", "the role can end sessions of other roles (pg_signal_backend)"),
        (false, true) => Line::ok("sessions", "the role cannot end sessions of other roles; only `cancelBlockers` needs that"),
        (false, false) => Line::warn(
            "sessions",
            "database.cancelBlockers names roles whose sessions the role cannot end: the swap waits for them",
            format!("GRANT pg_signal_backend TO {role}"),
        ),
    });
    Ok(lines)
}

async fn lock(target: &Target, connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let key = target.portal.database.lock_key;
    let holder: Option<(i32, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT l.pid, a.usename::text, a.application_name FROM pg_locks l JOIN pg_database d ON d.oid = l.database
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
           AND ((l.classid::bigint << 32) | l.objid::bigint) = $1 AND l.objsubid = 1 LIMIT 1",
    )
    .bind(key)
    .fetch_optional(connection)
    .await?;
    Ok(vec![match holder {
        None => Line::ok("lock", format!("advisory lock {key} is free")),
        Some((pid, user, application)) => {
            let who = format!(
                "pid {pid} (role {}, application {})",
                user.as_deref().unwrap_or("unknown"),
                application.as_deref().filter(|it| !it.is_empty()).unwrap_or("unknown")
            );
            let next = if application.is_some_and(|it| it.starts_with("prel/")) {
                "a release is running: see kubectl get portalreleases".to_owned()
            } else {
                format!("wait for it, or end that session: SELECT pg_terminate_backend({pid})")
            };
            Line::warn("lock", format!("advisory lock {key} is held by {who}: a release waits for it"), next)
        }
    }])
}

/// A swap waits for snapshots that are older than the staged rows.
async fn snapshots(connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let old: Vec<String> = sqlx::query_scalar(
        "SELECT format('pid %s (role %s, application %s) since %s', pid, coalesce(usename, 'unknown'), coalesce(nullif(application_name, ''), 'unknown'),
                       coalesce(date_trunc('second', xact_start)::text, 'unknown'))
         FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL) AND coalesce(xact_start < now() - interval '5 minutes', age(backend_xmin) > 100000)
         ORDER BY xact_start LIMIT 5",
    )
    .fetch_all(connection)
    .await?;
    Ok(vec![if old.is_empty() {
        Line::ok("snapshots", "no transaction is older than 5 minutes")
    } else {
        Line::warn(
            "snapshots",
            format!("old transactions: {}", old.join("; ")),
            "a swap waits for those that began before the import ended; end them first, or wait for them",
        )
    }])
}

async fn standbys(connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let standbys: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s (%s, %s)', coalesce(nullif(application_name, ''), 'unknown'), coalesce(client_addr::text, 'local'), coalesce(state, 'unknown'))
         FROM pg_stat_replication ORDER BY 1 LIMIT 8",
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok(vec![if standbys.is_empty() {
        Line::ok("standbys", "no standby is attached")
    } else {
        Line::warn(
            "standbys",
            format!("attached: {}", standbys.join(", ")),
            "a swap is replayed there under its locks: readers of a hot standby may be cancelled, or stall for up to max_standby_streaming_delay",
        )
    }])
}
