//! Finished releases, which may be thousands, cost nothing: one statement for each portal reads all of them, at the start and when
//! something has changed, and a reconcile compares two numbers.
//!
//! The watch keeps only those parts of a finished release that decisions need, and the digest of the status that it shows. The reconcile of
//! its Portal works out which status each would have by the ledger. Where both are the same, there is nothing to do; where they may
//! not be, the release is observed by itself as any other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::TryStreamExt;
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use regex::Regex;

use super::{
    Shared,
    observe::{compose, extras, refusal},
};
use crate::{
    api::{Portal, PortalRelease, PortalReleaseStatus},
    database::{ledger, portal::PortalDatabase},
    release::settled::{digest, is_finished, settled},
};

/// What a status says, and of which generation of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    generation: i64,
    digest: u64,
}

impl Mark {
    fn of(status: PortalReleaseStatus) -> Self {
        Self { generation: status.observed_generation, digest: digest(status) }
    }
}

/// One release.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// What its object shows, if that is the status of a finished release and describes the present spec.
    shown: Option<Mark>,
    /// What it must show to rest, by the ledger.
    agreed: Option<Mark>,
    /// It shows that its Portal does not exist: there is no ledger to ask.
    without_portal: bool,
}

impl Marks {
    fn agree(&self) -> bool {
        self.shown.is_some() && self.shown == self.agreed
    }
}

/// When the finished releases of a portal were last read from the ledger.
struct Look {
    uid: Option<String>,
    generation: Option<i64>,
    ledger: String,
    number: u64,
}

#[derive(Default)]
struct Inner {
    releases: HashMap<String, Marks>,
    portals: HashMap<ObjectRef<Portal>, Look>,
    looks: u64,
}

/// What is known of the finished releases of all portals.
#[derive(Default)]
pub(super) struct Settled(Mutex<Inner>);

/// What a reconcile of a release has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// Nothing: it shows what the ledger says.
    Rests,
    /// Nothing yet: the Portal's reconcile will ask the ledger, and wakes it if there is anything to do.
    Unknown,
    /// It is to be observed.
    No,
}

impl Settled {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is not needed from an object that was received, before it is kept, and remembers what it shows.
    pub(super) fn receive(&self, release: &mut PortalRelease) {
        slim(&mut release.metadata);
        let Some(uid) = release.uid() else { return };
        let (generation, deleting) = (release.metadata.generation, release.metadata.deletion_timestamp.is_some());
        let finished = |status: &PortalReleaseStatus| !deleting && Some(status.observed_generation) == generation && is_finished(status);
        let finished = release.status.take_if(|status| finished(status));
        let without_portal = finished.as_ref().is_some_and(says_no_portal);
        let shown = finished.map(|status| {
            release.status = Some(rest_of(&status));
            Mark::of(status)
        });
        let mut inner = self.inner();
        let marks = inner.releases.entry(uid).or_default();
        (marks.shown, marks.without_portal) = (shown, without_portal);
    }

    /// Forgets a release that is gone.
    pub(super) fn forget(&self, release: &PortalRelease) {
        if let Some(uid) = release.meta().uid.as_ref() {
            self.inner().releases.remove(uid);
        }
    }

    /// Forgets all releases but these: some may have gone unseen.
    pub(super) fn retain(&self, releases: &[Arc<PortalRelease>]) {
        let there: HashSet<&str> = releases.iter().filter_map(|release| release.meta().uid.as_deref()).collect();
        self.inner().releases.retain(|uid, _| there.contains(uid.as_str()));
    }

    /// What a reconcile of `release` has to do, as far as that can be decided without I/O.
    pub(super) fn of(&self, shared: &Shared, release: &PortalRelease) -> Finished {
        let Some(uid) = release.meta().uid.as_deref() else { return Finished::No };
        let inner = self.inner();
        let Some(marks) = inner.releases.get(uid).filter(|marks| marks.shown.is_some()) else { return Finished::No };
        if shared.runner.view(uid).is_some() || release.metadata.deletion_timestamp.is_some() {
            return Finished::No;
        }
        let portal_ref = portal_of(release);
        let Some(portal) = shared.portal_objects.get(&portal_ref) else {
            return if marks.without_portal { Finished::Rests } else { Finished::No };
        };
        match inner.portals.get(&portal_ref) {
            Some(look) if look.uid == portal.metadata.uid && look.generation == portal.metadata.generation => {
                if marks.agree() {
                    Finished::Rests
                } else {
                    Finished::No
                }
            }
            _ => Finished::Unknown,
        }
    }

    /// The object shows what the ledger said when it was last read, and there is nothing to do for it.
    pub(super) fn rests(&self, release: &PortalRelease) -> bool {
        release.meta().uid.as_ref().is_some_and(|uid| self.inner().releases.get(uid).is_some_and(Marks::agree))
    }

    /// To be taken before a release is observed by itself, and handed to [`Settled::agree`].
    pub(super) fn look_number(&self, release: &PortalRelease) -> Option<u64> {
        self.inner().portals.get(&portal_of(release)).map(|look| look.number)
    }

    /// A release was observed by itself and is finished with this status. That no longer counts once all have been read from the ledger.
    pub(super) fn agree(&self, release: &PortalRelease, status: &PortalReleaseStatus, look: Option<u64>) {
        let Some(uid) = release.uid().filter(|_| is_finished(status)) else { return };
        let mark = Mark::of(status.clone());
        let mut inner = self.inner();
        if look.is_some() && inner.portals.get(&portal_of(release)).map(|look| look.number) == look {
            inner.releases.entry(uid).or_default().agreed = Some(mark);
        }
    }
}

/// The Portal of a release.
pub(super) fn portal_of(release: &PortalRelease) -> ObjectRef<Portal> {
    ObjectRef::new(release.spec.portal_ref.name.as_str()).within(release.meta().namespace.as_deref().unwrap_or_default())
}

/// These are not needed, and they are most of an object.
pub(super) fn slim(metadata: &mut kube::core::ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.labels = None;
}

/// What is kept of the status of a finished release. It has no conditions: [`is_slim`] recognises it by that.
fn rest_of(status: &PortalReleaseStatus) -> PortalReleaseStatus {
    PortalReleaseStatus { observed_generation: status.observed_generation, state: status.state, ..PortalReleaseStatus::default() }
}

/// The status says that the Portal of the release does not exist.
fn says_no_portal(status: &PortalReleaseStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.reason == "PortalNotFound")
}

/// The status is not the one that the object has.
pub(super) fn is_slim(status: &PortalReleaseStatus) -> bool {
    status.state.is_some() && status.conditions.is_empty()
}

/// Reads all finished releases of a portal from the ledger, if anything has changed since the last time, and wakes those for which
/// there may be something to do.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn look(shared: &Shared, portal: &Portal, database: &PortalDatabase) -> Result<(), sqlx::Error> {
    let mut connection = database.pool().acquire().await?;
    // First of all: what changes after this is noticed the next time.
    let ledger = ledger::digits_of_finished(&mut connection, database.key()).await?;
    let reference = ObjectRef::from_obj(portal);
    let (uid, generation) = (portal.metadata.uid.clone(), portal.metadata.generation);
    let known = |look: &Look| look.uid == uid && look.generation == generation && look.ledger == ledger;
    if shared.settled.inner().portals.get(&reference).is_some_and(known) {
        return Ok(());
    }
    let all: Vec<Arc<PortalRelease>> = shared.releases.state().into_iter().filter(|release| portal_of(release) == reference).collect();
    let mut by_label: HashMap<&str, Vec<&PortalRelease>> = HashMap::new();
    for release in all.iter().filter(|release| release.status.as_ref().is_some_and(is_slim)) {
        by_label.entry(release.spec.label.as_str()).or_default().push(release);
    }
    let labels: Vec<String> = by_label.keys().map(|&label| label.to_owned()).collect();
    let mut agreed: HashMap<String, Mark> = HashMap::with_capacity(labels.len());
    if !labels.is_empty() {
        let pattern = Regex::new(portal.spec.label_pattern.as_str());
        // It is large: one for all of them.
        let mut spec = None;
        let mut views = ledger::observe_all(&mut connection, database.key(), labels);
        while let Some((label, view)) = views.try_next().await? {
            for release in by_label.get(label.as_str()).into_iter().flatten() {
                let refusal = refusal(portal, &pattern, release);
                let usable = refusal.map_or_else(|| Ok(spec.take().unwrap_or_else(|| portal.spec.clone())), Err);
                let observed = compose(release, usable, &view);
                let status = settled(&observed, extras(shared, release, &view, PortalReleaseStatus::default()));
                if let (Some(status), Some(uid)) = (status, release.uid()) {
                    agreed.insert(uid, Mark::of(status));
                }
                spec = observed.portal.ok().or(spec);
            }
        }
    }
    let asked = agreed.len();
    let woken = shared.settled.looked(reference, Look { uid, generation, ledger, number: 0 }, &all, agreed);
    tracing::debug!(
        portal = database.key(),
        asked,
        woken = woken.len(),
        "{}: all finished releases were read from the ledger",
        database.key()
    );
    for release in woken {
        shared.wake(release);
    }
    Ok(())
}

impl Settled {
    /// Keeps what the ledger said. Returns the releases of the portal that show something else.
    fn looked<'a>(
        &self,
        portal: ObjectRef<Portal>,
        look: Look,
        all: &'a [Arc<PortalRelease>],
        mut agreed: HashMap<String, Mark>,
    ) -> Vec<&'a PortalRelease> {
        let mut inner = self.inner();
        inner.looks += 1;
        let number = inner.looks;
        inner.portals.insert(portal, Look { number, ..look });
        let mut differ = Vec::new();
        for release in all {
            let Some(uid) = release.meta().uid.as_ref() else { continue };
            let mark = agreed.remove(uid);
            // One that has gone meanwhile is not brought back.
            let Some(marks) = inner.releases.get_mut(uid) else { continue };
            marks.agreed = mark;
            if marks.shown.is_some() && !marks.agree() {
                differ.push(release.as_ref());
            }
        }
        differ
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn release(state: &str, message: &str, generation: i64) -> PortalRelease {
        serde_json::from_value(json!({
            "apiVersion": "portalrelease.dev/v1alpha1", "kind": "PortalRelease",
            "metadata": {"name": "jul2026", "namespace": "n", "uid": "uid", "generation": generation, "labels": {"a": "b"},
                "managedFields": [{"manager": "me", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"portalRef": {"name": "p"}, "label": "Jul2026"},
            "status": {"observedGeneration": 1, "state": state, "message": message,
                "conditions": [{"type": "Reconciling", "status": if state == "Running" { "True" } else { "False" }, "reason": state,
                    "message": "", "lastTransitionTime": "2026-07-01T12:00:00Z"}]}
        }))
        .unwrap()
    }

    fn look() -> Look {
        Look { uid: Some("portal".to_owned()), generation: Some(1), ledger: String::new(), number: 0 }
    }

    fn of_ledger(release: &PortalRelease) -> HashMap<String, Mark> {
        HashMap::from([("uid".to_owned(), Mark::of(release.status.clone().unwrap()))])
    }

    #[test]
    fn of_a_finished_release_only_a_part_is_kept() {
        let settled = Settled::default();
        for (mut received, slim) in [
            (release("Superseded", "", 1), true),
            (release("Running", "", 1), false),
            // It was edited since.
            (release("Superseded", "", 2), false),
        ] {
            let before = received.status.clone();
            settled.receive(&mut received);
            assert!(received.metadata.managed_fields.is_none());
            assert_eq!(received.status.as_ref().is_some_and(is_slim), slim, "{before:?}");
            assert_eq!(received.status == before, !slim);
            assert_eq!(received.status.unwrap().state, before.unwrap().state);
        }
    }

    #[test]
    fn one_without_a_portal_rests_once_it_says_so() {
        let settled = Settled::default();
        let rests = |settled: &Settled| settled.inner().releases["uid"].without_portal;
        let mut ended = release("Superseded", "", 1);
        let unobserved = |stalled| {
            let before = ended.status.clone().unwrap();
            let (generation, now) = (1, jiff::Timestamp::UNIX_EPOCH);
            crate::release::status::unobserved(&before, generation, now, "PortalNotFound", "create it", stalled)
        };
        let told = PortalRelease { status: Some(unobserved(true)), ..ended.clone() };
        settled.receive(&mut ended.clone());
        assert!(!rests(&settled));
        settled.receive(&mut told.clone());
        assert!(rests(&settled));
        ended.metadata.generation = Some(2);
        settled.receive(&mut ended);
        assert!(!rests(&settled), "edited since");
    }

    #[test]
    fn it_rests_only_while_it_shows_what_the_ledger_says() {
        let settled = Settled::default();
        let as_it_ended = release("Superseded", "as it ended", 1);
        let mut kept = as_it_ended.clone();
        settled.receive(&mut kept);
        assert!(!settled.rests(&kept), "nobody has asked the ledger");
        let all = [Arc::new(kept.clone())];
        assert!(settled.looked(portal_of(&kept), look(), &all, of_ledger(&as_it_ended)).is_empty());
        assert!(settled.rests(&kept));

        settled.receive(&mut release("Superseded", "by hand", 1));
        assert!(!settled.rests(&kept), "another hand has written");
        settled.receive(&mut as_it_ended.clone());
        assert!(settled.rests(&kept), "as before");
        assert_eq!(settled.looked(portal_of(&kept), look(), &all, HashMap::new()).len(), 1, "the ledger says something else");
        assert!(!settled.rests(&kept));

        // Observed by itself; not when all were read from the ledger meanwhile.
        let status = as_it_ended.status.as_ref().unwrap();
        let former = settled.look_number(&kept);
        settled.looked(portal_of(&kept), look(), &all, HashMap::new());
        settled.agree(&kept, status, former);
        assert!(!settled.rests(&kept));
        settled.agree(&kept, status, settled.look_number(&kept));
        assert!(settled.rests(&kept));
        settled.forget(&kept);
        assert!(!settled.rests(&kept));
    }
}
