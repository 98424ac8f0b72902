//! Observing: the object, its portal, the ledger, the lock and the tasks, gathered for one decision.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use regex::Regex;

use super::Shared;
use crate::{
    api::{Portal, PortalRelease, PortalReleaseStatus, PortalSpec, ReleaseState},
    database::{ledger, portal::PortalDatabase},
    portals::{Known, PortalError},
    release::{Blocker, LockView, Observed, observed::Refusal, status::Extras},
};

/// What was observed, and the handles to act on it.
pub(super) struct Snapshot {
    pub observed: Observed,
    pub owner: Owner,
    pub ledger: ledger::View,
    pub portal: Arc<Portal>,
    pub database: Arc<PortalDatabase>,
}

/// The release whose ledger rows they are: the reconciled object, or one that is gone.
pub(super) struct Owner {
    pub namespace: String,
    pub name: String,
    /// For events.
    pub object: ObjectReference,
    /// The object that is woken when something has changed.
    pub wake: ObjectRef<PortalRelease>,
}

impl Owner {
    /// The owner is this object.
    pub(super) fn of(release: &PortalRelease) -> Self {
        Self {
            namespace: release.namespace().unwrap_or_default(),
            name: release.name_any(),
            object: release.object_ref(&()),
            wake: ObjectRef::from_obj(release),
        }
    }
}

/// Why nothing can be decided.
#[derive(Debug)]
pub(super) enum ObserveError {
    /// A person has to change something first.
    Refused(Refusal),
    /// The database, or the Secret, cannot be reached right now.
    Unreachable(String),
}

/// Gathers everything that a decision about `release` depends on.
pub(super) async fn observe(shared: &Shared, release: &PortalRelease) -> Result<Snapshot, ObserveError> {
    let namespace = release.namespace().unwrap_or_default();
    let portal_name = release.spec.portal_ref.name.as_str();
    let (Known { portal, database }, missing) = portal_of(shared, &namespace, portal_name).await?;
    let uid = release.uid().unwrap_or_default();
    // The tasks first: one that ends in between has written to the ledger what is read after it.
    let task = shared.runner.view(&uid);
    let view = read(&database, release).await.map_err(|error| ObserveError::Unreachable(format!("the ledger cannot be read: {error}")))?;

    let siblings = shared.releases.state();
    let blocker = blocker(release, &uid, &view, &siblings);
    let lock = lock_of(&database).await;
    let refusal = refusal(&portal, &Regex::new(portal.spec.label_pattern.as_str()), release);
    let composed = compose(release, refusal.map_or_else(|| Ok(portal.spec.clone()), Err), &view);
    // An open run may have stopped workers, and a deleted object holds a namespace: these are ended with what is known, also when the
    // Portal is gone, or its Secret, or the right to read it. Whether a label matches decides only whether a run may start.
    let usable = match (missing, composed.open_run().is_some()) {
        _ if composed.deleting => Ok(portal.spec.clone()),
        (Some(missing), false) => return Err(missing),
        (Some(ObserveError::Refused(refusal)), true) if refusal.reason == "PortalNotFound" => Err(refusal),
        (_, true) => Ok(portal.spec.clone()),
        (None, false) => composed.portal.clone(),
    };
    let observed = Observed { blocker, lock, task, portal: usable, ..composed };
    let owner = Owner::of(release);
    Ok(Snapshot { observed, owner, ledger: view, portal, database })
}

/// What the ledger says of a release, and its object, as one observation; nothing blocks it, and no task runs for it.
pub(super) fn compose(release: &PortalRelease, portal: Result<PortalSpec, Refusal>, view: &ledger::View) -> Observed {
    let id = view.release.as_ref().map(|record| record.id);
    let mut observed = Observed {
        now: jiff::Timestamp::now(),
        spec: release.spec.clone(),
        deleting: release.metadata.deletion_timestamp.is_some(),
        orphan: false,
        uid: release.uid().unwrap_or_default(),
        portal,
        release: view.release.clone(),
        run: view.run.clone(),
        blocker: None,
        lock: LockView::Free,
        task: None,
        workers_frozen: !view.frozen.is_empty(),
        current: id.is_some() && view.portal.as_ref().and_then(|portal| portal.current_release) == id,
        owns_staging: id.is_some() && view.staging_owner.as_ref().map(|owner| owner.id) == id,
        backups: view.backups.clone(),
        written: view.portal.as_ref().and_then(|portal| portal.written.clone()),
    };
    if !observed.is_ours() {
        observed.current = false;
        observed.workers_frozen = false;
    }
    observed
}

/// What the status shows beside the decision, of a release whose definition has not been edited in mid-run.
pub(super) fn extras(shared: &Shared, release: &PortalRelease, view: &ledger::View, before: PortalReleaseStatus) -> Extras {
    let sha256 = view.release.as_ref().and_then(|record| record.manifest_sha256.clone());
    let (namespace, spec) = (release.namespace().unwrap_or_default(), &release.spec);
    Extras {
        generation: release.metadata.generation.unwrap_or_default(),
        imports: view.imports.iter().cloned().map(Into::into).collect(),
        frozen_workloads: view.frozen.clone(),
        edited: false,
        definition: view.definition.as_ref().map(|definition| definition.hash.clone()),
        manifest: sha256.map(|sha256| shared.services.manifest(&namespace, spec.portal_ref.name.as_str(), spec.label.as_str(), sha256)),
        before,
    }
}

/// The advisory lock, as this process knows it.
pub(super) async fn lock_of(database: &PortalDatabase) -> LockView {
    match database.fence().await {
        Some(_) => LockView::Held,
        None => database.busy().map_or(LockView::Free, LockView::Busy),
    }
}

/// What the ledger knows of the release and its portal.
pub(super) async fn read(database: &PortalDatabase, release: &PortalRelease) -> Result<ledger::View, sqlx::Error> {
    let mut connection = database.pool().acquire().await?;
    ledger::observe(&mut connection, database.key(), release.spec.label.as_str()).await
}

/// The Portal and its database; and why they could not be had now, where they are those of before.
async fn portal_of(shared: &Shared, namespace: &str, name: &str) -> Result<(Known, Option<ObserveError>), ObserveError> {
    let known = shared.portals.known(namespace, name).await;
    let Some(portal) = shared.portal_objects.get(&ObjectRef::new(name).within(namespace)) else {
        let gone = ObserveError::Refused(Refusal {
            reason: "PortalNotFound",
            message: format!("Portal {name} does not exist in namespace {namespace}; create it or correct spec.portalRef"),
        });
        return match known {
            Some(known) => Ok((known, Some(gone))),
            None => Err(gone),
        };
    };
    let error = match shared.portals.database(&portal).await {
        Ok(database) => return Ok((Known { portal, database }, None)),
        Err(error) => error,
    };
    let blind = match error.is_missing() {
        true => ObserveError::Refused(Refusal { reason: "SecretMissing", message: error.to_string() }),
        false => ObserveError::Unreachable(error.to_string()),
    };
    match (error, known) {
        (PortalError::Secret(_), Some(known)) => Ok((Known { portal, ..known }, Some(blind))),
        _ => Err(blind),
    }
}

/// Why this release may not use the Portal, whose `labelPattern` is `regex`.
pub(super) fn refusal(portal: &Portal, regex: &Result<Regex, regex::Error>, release: &PortalRelease) -> Option<Refusal> {
    let name = &release.spec.portal_ref.name;
    let (label, pattern) = (release.spec.label.as_str(), portal.spec.label_pattern.as_str());
    match regex {
        Ok(regex) if regex.is_match(label) => None,
        Ok(_) => Some(Refusal {
            reason: "LabelRefused",
            message: format!(
                "label {label} does not match the labelPattern {pattern} of Portal {name}; create a release with a label that does"
            ),
        }),
        Err(error) => Some(Refusal {
            reason: "PortalInvalid",
            message: format!("labelPattern of Portal {name} is not a regular expression ({error}); correct it there"),
        }),
    }
}

/// What keeps this release from starting a run.
fn blocker(release: &PortalRelease, uid: &str, view: &ledger::View, siblings: &[Arc<PortalRelease>]) -> Option<Blocker> {
    let alive = |wanted: &str| siblings.iter().find(|sibling| sibling.uid().as_deref() == Some(wanted));
    if let Some(open) = view.open.as_ref().filter(|open| open.uid != uid) {
        return Some(match alive(&open.uid) {
            Some(sibling) => Blocker::Running { name: sibling.name_any() },
            None => Blocker::Orphan { run: open.run, name: open.name.clone() },
        });
    }
    if let Some(record) = view.release.as_ref().filter(|record| record.uid != uid)
        && let Some(sibling) = alive(&record.uid)
    {
        return Some(Blocker::LabelInUse { name: sibling.name_any() });
    }
    let mine = view.release.as_ref().map(|record| record.id);
    let stands = |state| matches!(state, ReleaseState::DryRunComplete | ReleaseState::Suspended);
    if let Some(owner) = view.staging_owner.as_ref().filter(|owner| stands(owner.state) && Some(owner.id) != mine)
        && siblings.iter().any(|sibling| sibling.name_any() == owner.name && sibling.metadata.deletion_timestamp.is_none())
    {
        return Some(Blocker::Kept { name: owner.name.clone() });
    }
    siblings
        .iter()
        // The many that are finished are out at once.
        .filter(|sibling| waits(sibling) && is_older(sibling, release))
        .min_by_key(|sibling| age_key(sibling))
        .map(|sibling| Blocker::Older { name: sibling.name_any() })
}

/// Created earlier, for the same portal; the name decides between two of the same second.
fn is_older(sibling: &PortalRelease, release: &PortalRelease) -> bool {
    sibling.namespace() == release.namespace()
        && sibling.spec.portal_ref == release.spec.portal_ref
        && sibling.uid() != release.uid()
        && age_key(sibling) < age_key(release)
}

fn age_key(release: &PortalRelease) -> (Option<jiff::Timestamp>, String) {
    (release.metadata.creation_timestamp.as_ref().map(|time| time.0), release.name_any())
}

/// It wants to start and may: neither suspended, nor deleted, nor refused.
fn waits(sibling: &PortalRelease) -> bool {
    let status = sibling.status.as_ref();
    let state = status.and_then(|status| status.state);
    let stalled =
        status.is_some_and(|status| status.conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.status == "True"));
    matches!(state, None | Some(ReleaseState::Pending | ReleaseState::Queued))
        && !stalled
        && !sibling.spec.suspend
        && sibling.spec.abort.is_none()
        && sibling.metadata.deletion_timestamp.is_none()
}
