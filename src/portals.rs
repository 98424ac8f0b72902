//! The portals that this process works for: their databases, opened when they are first needed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
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
        cause: ConnectError,
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

/// The databases by `namespace/name` of their portal.
pub struct Portals {
    client: Client,
    namespaces: Vec<String>,
    instance: String,
    term: Term,
    evict: bool,
    opened: Mutex<HashMap<String, Opened>>,
}

impl Portals {
    /// No database is open yet. `namespaces` are those that this process serves; none are all. `term` and `evict`: see [`PortalDatabase::open`].
    pub fn new(client: Client, namespaces: &[String], instance: &str, term: Term, evict: bool) -> Self {
        Self { client, namespaces: namespaces.to_vec(), instance: instance.to_owned(), term, evict, opened: Mutex::default() }
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
        let mut opened = self.opened.lock().await;
        if let Some(known) = opened.get_mut(&key)
            && known.read_at.elapsed() < SECRET_AGE
            && known.uid == uid
            && known.schema == schema
        {
            known.known.portal = portal.clone();
            return Ok(known.known.database.clone());
        }
        let secret = &portal.spec.database.connection_secret_ref;
        let url = cluster::read_secret_key(&self.client, &namespace, secret.name.as_str(), secret.key.as_str()).await?;
        if let Some(known) = opened.get_mut(&key)
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
            .map_err(|cause| PortalError::Database { portal: key.clone(), cause })?;
        let database = Arc::new(database);
        let opening = Opened {
            uid,
            schema: schema.to_owned(),
            url,
            read_at: Instant::now(),
            known: Known { portal: portal.clone(), database: database.clone() },
        };
        if let Some(former) = opened.insert(key, opening) {
            // A running phase keeps its own handle; the former pool ends with it.
            drop(former);
        }
        Ok(database)
    }

    /// A portal as it was used last, also when it or its Secret is gone.
    pub async fn known(&self, namespace: &str, name: &str) -> Option<Known> {
        self.opened.lock().await.get(&format!("{namespace}/{name}")).map(|opened| opened.known.clone())
    }

    /// Forgets a portal that is gone.
    pub async fn forget(&self, namespace: &str, name: &str) {
        let removed = self.opened.lock().await.remove(&format!("{namespace}/{name}"));
        if let Some(opened) = removed {
            opened.known.database.close().await;
        }
    }

    /// Releases every lock and closes every connection.
    pub async fn close(&self) {
        for (_, opened) in self.opened.lock().await.drain() {
            opened.known.database.close().await;
        }
    }
}

/// Manifests are read from the ledger when somebody asks.
impl ManifestSource for Portals {
    fn manifest<'a>(&'a self, namespace: &'a str, portal: &'a str, label: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            // Strangers may ask for anything: only what this process serves is looked for.
            if !self.namespaces.is_empty() && !self.namespaces.iter().any(|served| served == namespace) {
                return Ok(None);
            }
            let api: Api<Portal> = Api::namespaced(self.client.clone(), namespace);
            let Some(found) = api.get_opt(portal).await.map_err(|error| cluster::describe(&error))? else { return Ok(None) };
            let database = self.database(&Arc::new(found)).await.map_err(|error| error.to_string())?;
            let mut connection = database.pool().acquire().await.map_err(|error| error.to_string())?;
            ledger::staging::manifest(&mut connection, database.key(), label).await.map_err(|error| error.to_string())
        })
    }
}
