//! The definition of a run and the objects as they are now: what is edited in the middle of a run is reported, and taken up at the next
//! safe point.

use kube::Resource;

use super::{Shared, finalizer::ReconcileError, observe::Snapshot};
use crate::{
    api::PortalRelease,
    cluster::EventType,
    database::ledger::definitions,
    release::{Step, definition::Pinned},
    text::whole_seconds,
};

/// Compares. Returns whether the objects say something else than what the open run works from.
///
/// A run that is suspended stands at a safe point: its next phase resolves the definition again.
pub(super) async fn compare(shared: &Shared, release: &PortalRelease, snapshot: &Snapshot, step: &Step) -> Result<bool, ReconcileError> {
    let observed = &snapshot.observed;
    let run = observed.run.as_ref().filter(|run| run.open && run.ending.is_none() && observed.is_ours());
    let (Some(run), Some(record), Some(known)) = (run, &observed.release, &snapshot.ledger.definition) else { return Ok(false) };
    if known.stale {
        return Ok(false);
    }
    if *step == Step::Hold {
        definitions::outdate(&mut *snapshot.database.pool().acquire().await?, run.id).await?;
        return Ok(false);
    }
    let Ok(now) = Pinned::of(&snapshot.portal.spec, &release.spec, Default::default()) else { return Ok(false) };
    let hash = now.spec_hash();
    if hash == known.spec_hash {
        return Ok(false);
    }
    if known.edited.as_ref() == Some(&hash) {
        return Ok(true);
    }
    let mut connection = snapshot.database.pool().acquire().await?;
    let Some(stored) = definitions::of_run(&mut connection, run.id).await? else { return Ok(false) };
    if stored.pinned.is_still(&snapshot.portal.spec, &release.spec) {
        definitions::is_the_same(&mut connection, run.id, &hash).await?;
        return Ok(false);
    }
    let then = stored.pinned.rewritten(&snapshot.portal.spec, &release.spec);
    let now = Pinned { sources: then.sources.clone(), ..now };
    let note = format!(
        "{} edited; this run works from the definition of {}: the change takes effect at the next retry or release, or when a suspension ends",
        then.differences(&now).join(", "),
        whole_seconds(known.defined_at)
    );
    if definitions::edited(&mut connection, record.id, run.id, &hash, &note).await? {
        shared.services.event(release.object_ref(&()), EventType::Normal, "DefinitionEdited", note);
    }
    Ok(true)
}
