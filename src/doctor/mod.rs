//! `doctor`: everything that blocks a release of a portal, checked from the command line and without writing anything.
//!
//! The session is read-only by the server's own word (`default_transaction_read_only`), and works before the ledger exists.

mod data;
mod files;
mod leftovers;
mod relations;
mod report;
mod server;

use std::time::Duration;

use kube::{Api, Client, ResourceExt};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use thiserror::Error;

pub use report::{Line, Report};

use crate::{
    api::{Portal, PortalReleaseSpec, PortalSpec},
    cluster::{self, ClusterError},
    database::{
        connection::{ConnectError, options},
        identifiers::Relations,
        template::{ReleaseVariables, TemplateContext},
    },
    imports::file::Place,
    release::{RunKind, plan},
    storage::guard::Outbound,
};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Why nothing could be checked.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// The Portal or its Secret cannot be read.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// There is no such Portal.
    #[error("there is no Portal {name} in namespace {namespace}; name another with --namespace")]
    NoPortal {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The Secret's URL is none, or nothing answers there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing answered in time.
    #[error("the database at {host}:{port} does not answer within {}s; check the address in the Secret and the network", CONNECT_LIMIT.as_secs())]
    NoAnswer {
        /// Host of the URL.
        host: String,
        /// Port of the URL.
        port: u16,
    },
}

/// The portal that is examined.
struct Target {
    /// `namespace/name` of the Portal.
    key: String,
    portal: PortalSpec,
    relations: Relations,
    options: PgConnectOptions,
    /// The role that the operator connects as.
    role: String,
    /// The ledger exists.
    ledger: bool,
    /// Label of the release that is to come.
    label: Option<String>,
}

impl Target {
    /// What templates may use, for a release with this label.
    fn templates(&self, label: &str) -> TemplateContext {
        TemplateContext {
            schema: self.relations.schema.clone(),
            tables: self.relations.tables.clone(),
            lookups: self.relations.lookups.clone(),
            views: self.relations.views.clone(),
            // There are no staged twins: the live views are used instead.
            create_staging: false,
            release: ReleaseVariables {
                label: label.to_owned(),
                date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
                id: "0".to_owned(),
            },
            sample: None,
        }
    }
}

/// Checks everything, for the release with `label` if one is given.
///
/// # Errors
/// When the Portal, its Secret or its database cannot be reached.
pub async fn examine(
    client: &Client,
    namespace: &str,
    name: &str,
    label: Option<&str>,
    outbound: &Outbound,
) -> Result<Report, DoctorError> {
    let api: Api<Portal> = Api::namespaced(client.clone(), namespace);
    let found = cluster::call(|| api.get_opt(name)).await.map_err(|cause| ClusterError::Call {
        action: "read",
        object: format!("Portal {namespace}/{name}"),
        cause,
    })?;
    let Some(portal) = found else {
        return Err(DoctorError::NoPortal { namespace: namespace.to_owned(), name: name.to_owned() });
    };
    let secret = &portal.spec.database.connection_secret_ref;
    let url = cluster::read_secret_key(client, namespace, secret.name.as_str(), secret.key.as_str()).await?;
    let key = format!("{namespace}/{}", portal.name_any());
    let options = options(url.expose(), portal.spec.database.schema.as_str(), "portal-release-doctor")?
        // A check waits for no lock and writes nothing.
        .options([("default_transaction_read_only", "on"), ("lock_timeout", "5s"), ("statement_timeout", "10min")]);
    let mut connection = connect(&options).await?;
    let mut report = Report::new(&key);
    let failed = |cause| connect_failed(&options, cause);
    let (role, ledger, read_only): (String, bool, bool) = sqlx::query_as(
        "SELECT current_user::text, to_regclass('portal_release.portals') IS NOT NULL, current_setting('transaction_read_only')::boolean",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(failed)?;
    if !read_only {
        // Without an answer of the server nothing more is checked.
        report.add(Line::fail(
            "pooler",
            "the session does not have the settings that it was opened with: a connection pooler drops them",
            "give the URL of a direct connection in the Secret",
        ));
        return Ok(report);
    }
    let label = label.map(str::to_owned);
    let target = Target { key, relations: Relations::of(&portal.spec), portal: portal.spec, options, role, ledger, label };

    server::examine(&target, &mut connection, &mut report).await;
    relations::examine(&target, &mut connection, &mut report).await;
    leftovers::examine(&target, &mut connection, &mut report).await;
    data::examine(&target, &mut connection, &mut report).await;
    let place = Place { client, namespace, outbound, stores: &target.portal.object_stores };
    files::examine(&target, place, &mut connection, &mut report).await;
    report.add(planned(&target.portal));
    Ok(report)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, DoctorError> {
    match tokio::time::timeout(CONNECT_LIMIT, options.connect()).await {
        Ok(connection) => connection.map_err(|cause| connect_failed(options, cause)),
        Err(_) => Err(DoctorError::NoAnswer { host: options.get_host().to_owned(), port: options.get_port() }),
    }
}

fn connect_failed(options: &PgConnectOptions, cause: sqlx::Error) -> DoctorError {
    ConnectError::of(options, cause).into()
}

/// What a release without any selection would do.
fn planned(portal: &PortalSpec) -> Line {
    let phases = plan(RunKind::Release, portal, &PortalReleaseSpec::default());
    let would: Vec<&str> = phases.iter().filter(|phase| phase.skipped.is_none()).map(|phase| phase.phase.as_str()).collect();
    let skipped: Vec<String> =
        phases.iter().filter_map(|phase| phase.skipped.as_ref().map(|why| format!("{} ({why})", phase.phase))).collect();
    let skipped = if skipped.is_empty() { String::new() } else { format!("; skipped: {}", skipped.join(", ")) };
    Line::ok("plan", format!("a release would run {}{skipped}", would.join(", ")))
}
