//! The portals that this process works for: their databases, opened when they are first needed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, join_all};
use kube::{Api, Client, ResourceExt};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::{
    api::Portal,
    cluster::{self, ClusterError},
    database::{connection::ConnectError, ledger, portal::PortalDatabase},
    http::ManifestSource,
    secret::SecretValue,
    term::Term,
};

/// For how long a Secret counts as read: a new password is used after that.
const SECRET_AGE: Duration = Duration::from_secs(60);

/// For how long a database that is being opened keeps others from being closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a portal's database cannot be used.
#[derive(Debug, Error)]
pub enum PortalError {
    /// The Secret cannot be read.
    #[error(transparent)]
    Secret(#[from] ClusterError),
    /// The database cannot be reached or used.
    #[error("Portal {portal}: {cause}")]
    Database {
        /// Namespace and name.
        portal: String,
        /// Why.
        cause: Arc<ConnectError>,
    },
}

impl PortalError {
    /// The Secret, or its key, is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Secret(error) if error.is_missing())
    }
}

struct Opened {
    uid: String,
    schema: String,
    url: SecretValue,
    read_at: Instant,
    known: Known,
}

/// A portal as it was used last.
#[derive(Clone)]
pub struct Known {
    /// The Portal.
    pub portal: Arc<Portal>,
    /// Its database.
    pub database: Arc<PortalDatabase>,
}

/// The databases by `namespace/name` of their portal. Each has its own lock: one that hangs does not delay the others.
pub struct Portals {
    client: Client,
    namespaces: Vec<String>,
    instance: String,
    term: Term,
    evict: bool,
    cells: StdMutex<HashMap<String, Arc<Cell>>>,
}

/// The database of one portal.
#[derive(Default)]
struct Cell {
    opened: Mutex<Option<Opened>>,
    failed: StdMutex<Failed>,
}

/// How often it could not be opened, and why not the last time.
#[derive(Clone, Default)]
struct Failed {
    times: u64,
    cause: Option<Arc<ConnectError>>,
}

impl Cell {
    fn failed(&self) -> Failed {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_failed(&self, cause: ConnectError) -> Arc<ConnectError> {
        let cause = Arc::new(cause);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Failed { times: failed.times + 1, cause: Some(cause.clone()) };
        cause
    }
}

impl Portals {
    /// No database is open yet. `namespaces` are those that this process serves; none are all. `term` and `evict`: see [`PortalDatabase::open`].
    pub fn new(client: Client, namespaces: &[String], instance: &str, term: Term, evict: bool) -> Self {
        Self { client, namespaces: namespaces.to_vec(), instance: instance.to_owned(), term, evict, cells: StdMutex::default() }
    }

    /// The database of a portal.
    ///
    /// # Errors
    /// When the Secret cannot be read or the database cannot be used.
    pub async fn database(&self, portal: &Arc<Portal>) -> Result<Arc<PortalDatabase>, PortalError> {
        let namespace = portal.namespace().unwrap_or_default();
        let key = format!("{namespace}/{}", portal.name_any());
        let uid = portal.uid().unwrap_or_default();
        let schema = portal.spec.database.schema.as_str();
        let cell = self.cells().entry(key.clone()).or_default().clone();
        let before = cell.failed();
        let mut opened = cell.opened.lock().await;
        // Those who waited for an attempt that has failed do not each make another.
        if let Failed { times, cause: Some(cause) } = cell.failed()
            && times > before.times
        {
            return Err(PortalError::Database { portal: key, cause });
        }
        if let Some(known) = opened.as_mut()
            && known.read_at.elapsed() < SECRET_AGE
            && known.uid == uid
            && known.schema == schema
        {
            known.known.portal = portal.clone();
            return Ok(known.known.database.clone());
        }
        let secret = &portal.spec.database.connection_secret_ref;
        let url = cluster::read_secret_key(&self.client, &namespace, secret.name.as_str(), secret.key.as_str()).await?;
        if let Some(known) = opened.as_mut()
            && known.url == url
            && known.uid == uid
            && known.schema == schema
        {
            known.read_at = Instant::now();
            known.known.portal = portal.clone();
            return Ok(known.known.database.clone());
        }
        // Shown in pg_stat_activity, which keeps 63 bytes.
        let family = format!("prel/{uid}/");
        let database = PortalDatabase::open(&key, url.expose(), schema, &family, &self.instance, self.term.clone(), self.evict)
            .await
            .map_err(|cause| PortalError::Database { portal: key.clone(), cause: cell.has_failed(cause) })?;
        let database = Arc::new(database);
        // A running phase keeps its own handle of a former one; that pool ends with it.
        *opened = Some(Opened {
            uid,
            schema: schema.to_owned(),
            url,
            read_at: Instant::now(),
            known: Known { portal: portal.clone(), database: database.clone() },
        });
        Ok(database)
    }

    fn cells(&self) -> MutexGuard<'_, HashMap<String, Arc<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A portal as it was used last, also when it or its Secret is gone.
    pub async fn known(&self, namespace: &str, name: &str) -> Option<Known> {
        let cell = self.cells().get(&format!("{namespace}/{name}")).cloned()?;
        let opened = cell.opened.lock().await;
        opened.as_ref().map(|opened| opened.known.clone())
    }

    /// Forgets a portal that is gone, and closes its database.
    pub async fn forget(&self, namespace: &str, name: &str) {
        let removed = self.cells().remove(&format!("{namespace}/{name}"));
        if let Some(cell) = removed {
            close(cell).await;
            tracing::info!("Portal {namespace}/{name} is forgotten");
        }
    }

    /// Releases every lock and closes every connection.
    pub async fn close(&self) {
        let all: Vec<Arc<Cell>> = self.cells().drain().map(|(_, cell)| cell).collect();
        join_all(all.into_iter().map(close)).await;
    }
}

async fn close(cell: Arc<Cell>) {
    // It can no longer be found; one that is still being opened ends with its last handle.
    let Ok(mut opened) = tokio::time::timeout(CLOSE_TIMEOUT, cell.opened.lock()).await else { return };
    if let Some(opened) = opened.take() {
        opened.known.database.close().await;
    }
}

/// Manifests are read from the ledger on request.
impl ManifestSource for Portals {
    fn manifest<'a>(&'a self, namespace: &'a str, portal: &'a str, label: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            // Anyone may request anything: only what this process serves is looked up.
            if !self.namespaces.is_empty() && !self.namespaces.iter().any(|served| served == namespace) {
                return Ok(None);
            }
            let api: Api<Portal> = Api::namespaced(self.client.clone(), namespace);
            let Some(found) = cluster::call(|| api.get_opt(portal)).await.map_err(|error| error.to_string())? else { return Ok(None) };
            let database = self.database(&Arc::new(found)).await.map_err(|error| error.to_string())?;
            let mut connection = database.pool().acquire().await.map_err(|error| error.to_string())?;
            ledger::staging::manifest(&mut connection, database.key(), label).await.map_err(|error| error.to_string())
        })
    }
}
