//! The phases: what each does, and what takes it back, side by side.
//!
//! A phase gets a [`Context`] and returns [`Done`], which only [`Work::complete`] makes: the row that says that the phase is done
//! commits in the transaction that did it. A phase may be killed anywhere and run again.

mod definition;
mod downloads;
pub(crate) mod files;
mod freeze;
mod imports;
mod jobs;
mod lock;
mod manifest;
mod order;
mod parallel;
mod post_swap;
mod preflight;
mod recheck;
mod retention;
mod rollback;
mod source;
mod staging;
mod swap;
mod validate;
mod views;

use std::{
    collections::HashSet,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use sqlx::{PgConnection, Postgres, Transaction};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use definition::Definition;

use crate::{
    api::{Label, PhaseName, PhaseState, PortalReleaseSpec, PortalSpec},
    cluster::workers::WorkerError,
    database::{
        identifiers::Relations,
        ledger::{
            self,
            phases::{Attempt, undone},
        },
        lock::{Fence, Fenced},
        portal::PortalDatabase,
        run_sql,
    },
    release::{RunRecord, phase::facts},
    runner::Progress,
    services::Services,
};

/// Everything a phase works with.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// Namespace of the release and its portal.
    pub namespace: String,
    /// Name of the release.
    pub name: String,
    /// Its object, for events about it.
    pub object: ObjectReference,
    /// Name of the Portal.
    pub portal_name: String,
    /// The Portal's spec.
    pub portal: PortalSpec,
    /// The release's spec.
    pub spec: PortalReleaseSpec,
    /// The release's row in the ledger.
    pub release: i64,
    /// Where the release's data is kept after a rollback.
    pub parked: Option<String>,
    /// The backup that the release's swap made.
    pub backup: Option<String>,
    /// When the release started, for `release.date`.
    pub started_at: jiff::Timestamp,
    /// The run.
    pub run: RunRecord,
    /// The portal's database.
    pub database: Arc<PortalDatabase>,
    /// What every change checks.
    pub fence: Fence,
    /// This attempt.
    pub attempt: Attempt,
    /// The namespace is being deleted, and the workers with it.
    pub namespace_terminating: bool,
    /// Stop at once.
    pub cancel: CancellationToken,
    /// Stop at the next safe point.
    pub pause: CancellationToken,
    /// What people see meanwhile.
    pub progress: Arc<Progress>,
    /// Notifications, metrics, addresses.
    pub services: Arc<Services>,
    /// Backends that work for this phase, to be ended when it is cancelled.
    pub backends: Arc<Mutex<HashSet<i32>>>,
}

/// The phase is done, and the ledger says so.
#[derive(Debug)]
#[must_use]
pub struct Done(());

/// Why a phase is not done.
#[derive(Debug, Error)]
pub enum PhaseError {
    /// A check says no, or the input is wrong: trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// Something did not work this time.
    #[error("{0}")]
    Failed(String),
    /// What the staging was built from has changed: it must be built again.
    #[error("{0}")]
    Stale(String),
    /// Others are in the way: the run ends and the release stands still, with everything that it has built.
    #[error("{0}")]
    Stopped(String),
    /// Others are in the way: it is tried again, however often it takes.
    #[error("{0}")]
    Blocked(String),
    /// Stopped at a safe point; it goes on from there later.
    #[error("stopped at a safe point")]
    Paused,
    /// Stopped at once.
    #[error("stopped")]
    Cancelled,
    /// The change is not ours to make any more.
    #[error(transparent)]
    Fenced(Fenced),
}

impl From<Fenced> for PhaseError {
    fn from(error: Fenced) -> Self {
        match error {
            Fenced::Database(error) => Self::from(error),
            fenced => Self::Fenced(fenced),
        }
    }
}

impl From<sqlx::Error> for PhaseError {
    /// What the server says of the statement is final; what is wrong with the connection or the moment is not.
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) => {
                let code = database.code().unwrap_or_default().into_owned();
                let text = format!("{} (SQLSTATE {code})", database.message());
                if is_transient(&code) { Self::Failed(text) } else { Self::Refused(text) }
            }
            None => Self::Failed(format!("database: {error}")),
        }
    }
}

/// SQLSTATE classes that may pass by themselves: connection, resources, operator intervention, lock and serialisation conflicts.
fn is_transient(code: &str) -> bool {
    ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// `1 hook`, `2 hooks`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Errors of the data plane keep the driver's error inside; whether it may pass decides whether the phase is tried again.
pub(crate) fn of_database<E: std::error::Error + 'static>(error: E) -> PhaseError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(sqlx) = inner.downcast_ref::<sqlx::Error>() {
            let transient = sqlx.as_database_error().is_none_or(|database| is_transient(&database.code().unwrap_or_default()));
            return if transient { PhaseError::Failed(error.to_string()) } else { PhaseError::Refused(error.to_string()) };
        }
        cause = inner.source();
    }
    PhaseError::Refused(error.to_string())
}

impl From<WorkerError> for PhaseError {
    fn from(error: WorkerError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Context {
    /// The label of the release.
    pub fn label(&self) -> &Label {
        &self.spec.label
    }

    /// `namespace/name` of the Portal, the ledger's key.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.portal_name)
    }

    /// The relations that the release replaces.
    pub fn relations(&self) -> Relations {
        let mut relations = Relations::of(&self.portal);
        if !self.stages_views() {
            relations.views.clear();
        }
        relations
    }

    /// The release builds staged twins of the materialized views: it is asked to, and no selection of phases leaves it out.
    pub fn stages_views(&self) -> bool {
        self.spec.views.create_staging.unwrap_or(self.portal.views.create_staging)
            && !self.portal.materialized_views.is_empty()
            && self.run.state_of(PhaseName::CreateStagingViews) != Some(PhaseState::Skipped)
    }

    /// Begins a transaction that may change the portal's database: the fence is checked in it and stands until it ends.
    ///
    /// # Errors
    /// [`PhaseError::Fenced`] when another operator took over or the lock is lost.
    pub async fn work(&self) -> Result<Work, PhaseError> {
        let tx = self.database.pool().begin().await?;
        self.guard(tx).await
    }

    /// Makes a transaction that was begun elsewhere one of this phase.
    ///
    /// # Errors
    /// As [`Context::work`].
    pub async fn guard(&self, mut tx: Transaction<'static, Postgres>) -> Result<Work, PhaseError> {
        let pid = self.fence.check(&mut tx).await?;
        let registration = Registration::new(&self.backends, pid);
        if self.cancel.is_cancelled() {
            return Err(PhaseError::Cancelled);
        }
        Ok(Work { tx, registration, attempt: self.attempt, services: self.services.clone() })
    }

    /// VACUUM of one relation, which cannot run inside a transaction. It changes nothing that anybody could see.
    ///
    /// # Errors
    /// When the fence is gone, or the database does not answer.
    pub async fn vacuum(&self, relation: &str, options: &str) -> Result<(), PhaseError> {
        self.work().await?.commit().await?;
        let mut connection = self.database.pool().acquire().await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
        let _registration = Registration::new(&self.backends, pid);
        Ok(run_sql(&mut connection, format!("VACUUM ({options}) {relation}")).await?)
    }

    /// Completes a phase that touches only rows of its own release, after the lock is released.
    ///
    /// # Errors
    /// When the database does not answer, or this attempt is not the running one any more.
    pub async fn complete_unlocked(&self, mut tx: Transaction<'static, Postgres>, message: &str) -> Result<Done, PhaseError> {
        ledger::phases::succeed(&mut tx, self.attempt, message).await?;
        self.services.faults.reach(self.attempt.phase, "end").await;
        tx.commit().await?;
        Ok(Done(()))
    }

    /// Ends the statements that run for the phase: dropping a future does not stop the server.
    pub async fn end_backends(&self) {
        let pids: Vec<i32> = self.backends.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        if !pids.is_empty()
            && let Err(error) = self.database.terminate(&pids).await
        {
            tracing::warn!(%error, "running statements could not be ended; they end with their connections");
        }
    }

    /// Says what happens right now.
    pub fn say(&self, what: impl Into<String>) {
        self.progress.say(what.into());
    }

    /// The phase is not tried again after this error.
    fn is_final(&self, error: &PhaseError) -> bool {
        let phase = self.attempt.phase;
        let failures = self.run.phases.iter().find(|record| record.name == phase).map_or(0, |record| record.failures);
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
        if self.pause.is_cancelled() { Err(PhaseError::Paused) } else { Ok(()) }
    }
}

/// A backend that works for a phase: the runner ends it when the phase is cancelled.
struct Registration {
    backends: Arc<Mutex<HashSet<i32>>>,
    pid: i32,
}

impl Registration {
    fn new(backends: &Arc<Mutex<HashSet<i32>>>, pid: i32) -> Self {
        backends.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
        Self { backends: backends.clone(), pid }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pid);
    }
}

/// A fenced transaction of a phase. Dropped without [`Work::commit`] or [`Work::complete`], it changes nothing.
pub struct Work {
    tx: Transaction<'static, Postgres>,
    registration: Registration,
    attempt: Attempt,
    services: Arc<Services>,
}

impl Work {
    /// Commits a part of the phase.
    ///
    /// # Errors
    /// When the database does not answer, or the transaction had failed.
    pub async fn commit(self) -> Result<(), PhaseError> {
        let Self { mut tx, registration, .. } = self;
        // In a failed transaction this is refused, where COMMIT would answer ROLLBACK without an error.
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        tx.commit().await?;
        drop(registration);
        Ok(())
    }

    /// Takes back what was done, now: a transaction that is only dropped holds its locks until its connection is used again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollback(self) -> Result<(), PhaseError> {
        Ok(self.tx.rollback().await?)
    }

    /// Commits the phase together with the row that says that it is done.
    ///
    /// # Errors
    /// When the database does not answer, or this attempt is not the running one any more.
    pub async fn complete(mut self, message: &str) -> Result<Done, PhaseError> {
        ledger::phases::succeed(&mut self.tx, self.attempt, message).await?;
        self.services.faults.reach(self.attempt.phase, "end").await;
        self.commit().await?;
        Ok(Done(()))
    }

    /// Commits the taking back of the phase together with the row that says so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn complete_undo(mut self, message: &str) -> Result<Done, PhaseError> {
        let Attempt { release, run, phase, epoch, .. } = self.attempt;
        undone(&mut self.tx, release, run, phase, message, epoch).await?;
        self.services.faults.reach(phase, "undone").await;
        self.commit().await?;
        Ok(Done(()))
    }
}

impl Deref for Work {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// Runs a phase.
///
/// # Errors
/// See [`PhaseError`].
pub async fn run(context: &Context) -> Result<Done, PhaseError> {
    let phase = context.attempt.phase;
    if context.run.recheck && recheck::is_due(phase) {
        recheck::run(context).await?;
    }
    match phase {
        PhaseName::AcquireLock => lock::acquire(context).await,
        PhaseName::RefreshViews => views::refresh(context).await,
        PhaseName::CreateStagingViews => views::create(context).await,
        PhaseName::Preflight => rollback::remembering(context, preflight::run(context)).await,
        PhaseName::BuildStaging => staging::build(context).await,
        PhaseName::ImportCore => imports::core(context).await,
        PhaseName::ImportRelated => imports::related(context).await,
        PhaseName::ValidateAndManifest => validate::run(context).await,
        PhaseName::Freeze => freeze::freeze(context).await,
        PhaseName::FinaliseSwap => rollback::remembering(context, swap::run(context)).await,
        PhaseName::CreateDownloadsView => downloads::run(context).await,
        PhaseName::Scale => freeze::scale(context).await,
        PhaseName::PostSwap => post_swap::run(context).await,
        PhaseName::CleanupAndRetention => retention::run(context).await,
        PhaseName::ReleaseLock => lock::release(context).await,
        PhaseName::ResetCheckpoints => retention::reset_checkpoints(context).await,
    }
}

/// Takes a phase back. The release's table of phases says when.
///
/// # Errors
/// See [`PhaseError`].
pub async fn undo(context: &Context) -> Result<Done, PhaseError> {
    match context.attempt.phase {
        PhaseName::CreateStagingViews => views::undo_create(context).await,
        PhaseName::BuildStaging => staging::undo_build(context).await,
        PhaseName::ImportCore | PhaseName::ImportRelated => imports::undo(context).await,
        PhaseName::Freeze => freeze::undo_freeze(context).await,
        phase => context.work().await?.complete_undo(&format!("{phase} leaves nothing to take back")).await,
    }
}
