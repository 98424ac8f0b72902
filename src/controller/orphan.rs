//! The open run of a release whose object is gone, because its finalizer was stripped: the Portal's reconcile takes the steps that a
//! deletion takes. Nobody else does, so it needs no other release, and no two of them are at it.

use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::{
    Shared,
    act::{Flow, act},
    finalizer::ReconcileError,
    observe::{Owner, Snapshot, compose, lock_of, read},
};
use crate::{
    api::{Portal, PortalRef, PortalRelease, PortalReleaseSpec},
    database::{
        ledger::{self, OpenRun},
        portal::PortalDatabase,
    },
    release::{Observed, Step, next},
};

/// Steps of one reconcile; the next one continues from there.
const STEPS: usize = 24;

/// Cleans up as far as it goes without waiting. Gives the name of the object whose run is still open.
///
/// # Errors
/// When the ledger or the cluster does not answer.
pub(super) async fn reap(shared: &Shared, portal: &Arc<Portal>, database: &Arc<PortalDatabase>) -> Result<Option<String>, ReconcileError> {
    let mut name = None;
    for _ in 0..STEPS {
        let open = ledger::open_run(&mut *database.pool().acquire().await?, database.key()).await?;
        let is_there = |open: &OpenRun| shared.releases.state().iter().any(|release| release.meta().uid.as_deref() == Some(&open.uid));
        let Some(open) = open.filter(|open| !is_there(open) && !shared.services.term.is_over()) else { return Ok(None) };
        name = Some(open.name.clone());
        let release = object(portal, &open);
        let Some(snapshot) = observe(shared, portal, database, &release).await? else { return Ok(None) };
        let step = next(&snapshot.observed);
        tracing::debug!(release = open.name, ?step, "{}, which is gone: {step:?}", open.name);
        // What a release that is at rest would do is for an object to ask for.
        if matches!(step, Step::Finalize) {
            return Ok(None);
        }
        if let Flow::Wait(_) = act(shared, &release, &snapshot, step).await? {
            break;
        }
    }
    Ok(name)
}

/// The object as it was, as far as its clean-up needs it.
fn object(portal: &Portal, open: &OpenRun) -> PortalRelease {
    let portal_ref = PortalRef { name: portal.name_any().as_str().into() };
    let mut release =
        PortalRelease::new(&open.name, PortalReleaseSpec { portal_ref, label: open.label.as_str().into(), ..PortalReleaseSpec::default() });
    release.metadata.namespace = portal.namespace();
    release.metadata.uid = Some(open.uid.clone());
    release
}

/// Its run, seen as if the object were being deleted. `None`: it was closed meanwhile.
async fn observe(
    shared: &Shared,
    portal: &Arc<Portal>,
    database: &Arc<PortalDatabase>,
    release: &PortalRelease,
) -> Result<Option<Snapshot>, sqlx::Error> {
    // The task first: one that ends in between has written to the ledger what is read after it.
    let task = shared.runner.view(release.meta().uid.as_deref().unwrap_or_default());
    let view = read(database, release).await?;
    let lock = lock_of(database).await;
    let observed = Observed { deleting: true, orphan: true, task, lock, ..compose(release, Ok(portal.spec.clone()), &view) };
    let snapshot = Snapshot { observed, owner: Owner::of(release), ledger: view, portal: portal.clone(), database: database.clone() };
    Ok(snapshot.observed.open_run().is_some().then_some(snapshot))
}
