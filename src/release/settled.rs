//! Finished releases: there may be thousands beside the one that runs, and nothing is done for them.

use std::hash::{DefaultHasher, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Observed, Step, next,
    status::{Extras, project},
};
use crate::api::{PortalReleaseStatus, ReleaseState};

/// The status with which a finished release rests; `None` when there is something to do for it, or only perhaps.
///
/// The decision is [`next`]'s and the status [`project`]'s, so that nothing can rest here that would not rest there. What keeps a
/// release from starting does not matter: one that wants to start does not rest.
pub fn settled(observed: &Observed, extras: Extras) -> Option<PortalReleaseStatus> {
    if observed.deleting || observed.task.is_some() || next(observed) != Step::Rest {
        return None;
    }
    let status = project(observed, &Step::Rest, extras);
    is_finished(&status).then_some(status)
}

/// The status says that the release has ended, that nothing is in progress, and that no worker waits for it.
pub fn is_finished(status: &PortalReleaseStatus) -> bool {
    let over = matches!(
        status.state,
        Some(ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack | ReleaseState::Aborted | ReleaseState::Failed)
    );
    let at_rest = status.conditions.iter().any(|condition| condition.type_ == "Reconciling" && condition.status == "False");
    over && at_rest && status.frozen_workloads.is_empty()
}

/// A number that represents everything that a status says, except the transition times of its conditions: [`project`] takes these from
/// the status before, unless something else changes too.
pub fn digest(mut status: PortalReleaseStatus) -> u64 {
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(jiff::Timestamp::UNIX_EPOCH);
    }
    let mut hasher = Hashing(DefaultHasher::new());
    // Writing to a hasher does not fail, and a status has no map with keys that are no texts.
    let _ = serde_json::to_writer(&mut hasher, &status);
    hasher.0.finish()
}

struct Hashing(DefaultHasher);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{
        api::PortalReleaseSpec,
        release::{KeptBackup, LockView, TaskView},
    };

    /// A release that has ended in this state, with nothing wanted of it.
    fn ended(state: ReleaseState) -> Observed {
        let swapped = !matches!(state, ReleaseState::Aborted | ReleaseState::Failed);
        let done = "2026-07-01T12:00:00Z";
        Observed {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            spec: serde_json::from_value(json!({"portalRef": {"name": "p"}, "label": "Jul2026"})).unwrap(),
            deleting: false,
            orphan: false,
            uid: "uid".to_owned(),
            portal: Ok(serde_json::from_value(json!({
                "database": {"connectionSecretRef": {"name": "db", "key": "url"}}, "tables": {"main": ["areas"]}
            }))
            .unwrap()),
            release: serde_json::from_value(json!({
                "id": 1, "uid": "uid", "name": "jul2026", "state": state.as_str(), "message": "as it ended", "retry_seen": 0,
                "swapped_at": swapped.then_some(done), "backup": "2607011200", "started_at": done, "completed_at": done,
                "parked": (state == ReleaseState::RolledBack).then_some("staging")
            }))
            .unwrap(),
            run: serde_json::from_value(json!({
                "id": 1, "kind": "Release", "closed_at": done, "message": "", "recheck": false,
                "phases": [{"phase": "Preflight", "direction": "Do", "state": "Succeeded", "attempts": 1, "failures": 0, "message": "fine"}]
            }))
            .unwrap(),
            blocker: None,
            lock: LockView::Free,
            task: None,
            workers_frozen: false,
            current: state == ReleaseState::Live,
            owns_staging: false,
            backups: vec![KeptBackup { stamp: "2607011200".to_owned(), label: None }],
            written: None,
        }
    }

    fn rests(observed: &Observed) -> bool {
        settled(observed, Extras::default()).is_some()
    }

    fn wanting(state: ReleaseState, spec: serde_json::Value) -> Observed {
        let mut whole = json!({"portalRef": {"name": "p"}, "label": "Jul2026"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: PortalReleaseSpec = serde_json::from_value(whole).unwrap();
        Observed { spec, ..ended(state) }
    }

    #[test]
    fn what_has_ended_rests() {
        for state in [ReleaseState::Live, ReleaseState::Superseded, ReleaseState::Failed, ReleaseState::Aborted] {
            assert!(rests(&ended(state)), "{state}");
        }
        assert!(rests(&wanting(ReleaseState::RolledBack, json!({"rollback": {"to": "Previous"}}))));
    }

    #[test]
    fn what_somebody_wants_something_of_does_not() {
        let rollback = json!({"rollback": {"to": "Previous"}});
        assert!(!rests(&wanting(ReleaseState::Live, rollback)));
        assert!(!rests(&ended(ReleaseState::RolledBack)), "a rollback that was cleared is a roll forward");
        for state in [ReleaseState::Failed, ReleaseState::Aborted] {
            assert!(!rests(&wanting(state, json!({"retry": 1}))), "{state}");
        }
        for state in [ReleaseState::Live, ReleaseState::Superseded] {
            assert!(!rests(&Observed { deleting: true, ..ended(state) }), "{state}");
        }
    }

    #[test]
    fn what_has_not_ended_does_not() {
        for state in [ReleaseState::Pending, ReleaseState::Running, ReleaseState::Suspended, ReleaseState::DryRunComplete] {
            assert!(!rests(&ended(state)), "{state}");
        }
        let task = TaskView { phase: None, message: String::new(), blocked: None, stopping: false };
        assert!(!rests(&Observed { task: Some(task), ..ended(ReleaseState::Live) }));
        let mut open = ended(ReleaseState::Live);
        open.run.as_mut().unwrap().open = true;
        assert!(!rests(&open));
        let frozen = serde_json::from_value(json!([{"kind": "Deployment", "name": "w", "replicas": 1}])).unwrap();
        assert!(settled(&ended(ReleaseState::Failed), Extras { frozen_workloads: frozen, ..Extras::default() }).is_none());
    }

    #[test]
    fn a_digest_stands_for_all_that_is_said() {
        let status = settled(&ended(ReleaseState::Superseded), Extras::default()).unwrap();
        let later = Observed { now: Timestamp::from_second(1_900_000_000).unwrap(), ..ended(ReleaseState::Superseded) };
        assert_eq!(digest(settled(&later, Extras::default()).unwrap()), digest(status.clone()), "since when does not count");
        let changes: [fn(&mut PortalReleaseStatus); 7] = [
            |status| status.observed_generation += 1,
            |status| status.current = true,
            |status| status.message.push('.'),
            |status| status.backup = None,
            |status| status.phases[0].message.push('.'),
            |status| status.conditions[0].message.push('.'),
            |status| status.conditions.truncate(3),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = status.clone();
            change(&mut other);
            assert_ne!(digest(other), digest(status.clone()), "change {number}");
        }
    }
}
