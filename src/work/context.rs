//! What a phase works with: the data, the handles and the controls of one attempt.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use sqlx::{Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use super::{PhaseError, Progress, Work, transaction::Registration};
use crate::{
    api::{Label, PortalReleaseSpec, PortalSpec},
    database::{identifiers::Relations, ledger::phases::Attempt, lock::Fence, portal::PortalDatabase, run_sql},
    notify::Audience,
    release::{RunRecord, definition::Sources, phases::facts},
    services::Services,
};

/// Everything that one attempt of a phase works with.
pub struct Context {
    /// Data: which release, which run, which attempt.
    pub subject: Subject,
    /// Handles: what to act with.
    pub tools: Tools,
    /// Controls: what may stop it, and its progress.
    pub control: Control,
}

/// The release, its run and this attempt, as they were when the attempt began.
pub struct Subject {
    /// Namespace of the release and its portal.
    pub namespace: String,
    /// Name of the release.
    pub name: String,
    /// Its object, for events about it.
    pub object: ObjectReference,
    /// Name of the Portal.
    pub portal_name: String,
    /// The Portal's spec, as the run is to work from it.
    pub portal: PortalSpec,
    /// The release's spec, likewise.
    pub spec: PortalReleaseSpec,
    /// The texts from ConfigMaps that they name.
    pub sources: Sources,
    /// The release's row in the ledger.
    pub release_id: i64,
    /// Where the release's data is kept after a rollback.
    pub parked: Option<String>,
    /// The backup that the release's swap made.
    pub backup: Option<String>,
    /// When the release started, for `release.date`.
    pub started_at: jiff::Timestamp,
    /// The run.
    pub run: RunRecord,
    /// This attempt.
    pub attempt: Attempt,
    /// The namespace is being deleted, and the workers with it.
    pub namespace_terminating: bool,
}

/// The handles of a phase.
pub struct Tools {
    /// The cluster.
    pub client: Client,
    /// The portal's database.
    pub database: Arc<PortalDatabase>,
    /// Events, notifications, metrics, outgoing requests.
    pub services: Arc<Services>,
}

/// What may stop a phase, and its progress.
pub struct Control {
    /// What every change checks; none where the phase touches only rows of its own release.
    pub fence: Option<Fence>,
    /// Stop at once.
    pub cancel: CancellationToken,
    /// Stop at the next safe point.
    pub pause: CancellationToken,
    /// What people see meanwhile.
    pub progress: Arc<Progress>,
    /// Backends that work for this phase, to be ended when it is cancelled.
    pub backends: Arc<Mutex<HashSet<i32>>>,
}

impl Context {
    /// The label of the release.
    pub fn label(&self) -> &Label {
        &self.subject.spec.label
    }

    /// `namespace/name` of the Portal, the ledger's key.
    pub fn key(&self) -> String {
        format!("{}/{}", self.subject.namespace, self.subject.portal_name)
    }

    /// The relations that the release replaces.
    pub fn relations(&self) -> Relations {
        let mut relations = Relations::of(&self.subject.portal);
        if !self.stages_views() {
            relations.views.clear();
        }
        relations
    }

    /// Every relation that a release of the portal may stage, whether this one does or not.
    pub fn all_relations(&self) -> Relations {
        Relations::of(&self.subject.portal)
    }

    /// Who is notified of this release.
    pub fn audience(&self) -> Audience {
        Audience {
            namespace: self.subject.namespace.clone(),
            portal: self.subject.portal_name.clone(),
            label: self.label().0.clone(),
            notifications: self.subject.portal.notifications.clone(),
        }
    }

    /// The release builds staged twins of the materialized views: it is told to, and no selection of phases skips it.
    pub fn stages_views(&self) -> bool {
        self.subject.spec.views.create_staging.unwrap_or(self.subject.portal.views.create_staging)
            && !self.subject.portal.materialized_views.is_empty()
            && self.subject.run.stages_views()
    }

    /// Begins a transaction that may change the portal's database: the fence is checked in it and holds until it ends.
    ///
    /// # Errors
    /// [`PhaseError::Fenced`] when another operator took over or the lock is lost.
    pub async fn work(&self) -> Result<Work, PhaseError> {
        let tx = self.tools.database.pool().begin().await?;
        self.guard(tx).await
    }

    /// Makes a transaction that was begun elsewhere one of this phase.
    ///
    /// # Errors
    /// As [`Context::work`].
    pub async fn guard(&self, mut tx: Transaction<'static, Postgres>) -> Result<Work, PhaseError> {
        let pid = match &self.control.fence {
            Some(fence) => fence.check(&mut tx).await?,
            None => sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?,
        };
        let registration = Registration::new(&self.control.backends, pid);
        if self.control.cancel.is_cancelled() {
            return Err(PhaseError::Cancelled);
        }
        Ok(Work::new(tx, registration, self.subject.attempt, self.tools.services.clone()))
    }

    /// VACUUM of one relation, which cannot run inside a transaction. It changes nothing that anybody could see.
    ///
    /// # Errors
    /// When the fence is gone, or the database does not answer.
    pub async fn vacuum(&self, relation: &str, options: &str) -> Result<(), PhaseError> {
        self.work().await?.commit().await?;
        let mut connection = self.tools.database.pool().acquire().await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
        let _registration = Registration::new(&self.control.backends, pid);
        Ok(run_sql(&mut connection, format!("VACUUM ({options}) {relation}")).await?)
    }

    /// Ends the statements that run for the phase: dropping a future does not stop the server.
    pub async fn end_backends(&self) {
        let pids: Vec<i32> = self.control.backends.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        if !pids.is_empty()
            && let Err(error) = self.tools.database.terminate(&pids).await
        {
            tracing::warn!(%error, "running statements could not be ended; they end with their connections");
        }
    }

    /// Says what happens right now.
    pub fn say(&self, what: impl Into<String>) {
        self.control.progress.say(what.into());
    }

    /// The phase is not retried after this error.
    pub fn is_final(&self, error: &PhaseError) -> bool {
        let phase = self.subject.attempt.phase;
        let failures = self.subject.run.record(phase).map_or(0, |record| record.failures);
        match error {
            PhaseError::Refused(_) | PhaseError::Stopped(_) => true,
            PhaseError::Failed(_) => failures + 1 >= facts(phase).attempts,
            _ => false,
        }
    }

    /// Ends here when a suspension waits for a safe point.
    ///
    /// # Errors
    /// [`PhaseError::Paused`].
    pub fn safe_point(&self) -> Result<(), PhaseError> {
        if self.control.pause.is_cancelled() { Err(PhaseError::Paused) } else { Ok(()) }
    }
}
