//! Reading what a newer operator wrote: one word that this version does not know must not make an object unreadable, nor the list it
//! is in. What is left out here is projected again from the ledger at the next reconcile; only a Portal's `frozenWorkloads` are kept
//! nowhere else, so an operator should not be downgraded below a kind of worker while `frozen` is true.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// The value of that name, or nothing where this version does not know the name.
pub(super) fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Value>::deserialize(deserializer)?.and_then(|name| serde_json::from_value(name).ok()))
}

/// The items that this version understands.
pub(super) fn known_items<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let items = Vec::<Value>::deserialize(deserializer)?;
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::{PhaseName, PhaseState, PortalReleaseStatus, PortalStatus, ReleaseState};

    #[test]
    fn a_status_of_a_newer_operator_can_be_read() {
        let status: PortalReleaseStatus = serde_json::from_value(json!({
            "observedGeneration": 3, "state": "AwaitingBlessing", "phase": "Bless", "progress": 40, "blessing": {"by": "dana"},
            "phases": [
                {"name": "Preflight", "state": "Succeeded", "attempts": 1},
                {"name": "Bless", "state": "Running"},
                {"name": "BuildStaging", "state": "Postponed"},
            ],
            "imports": [{"name": "sources", "rows": 3, "state": "Postponed"}, {"name": "sites", "rows": 4, "state": "Running"}],
            "frozenWorkloads": [{"kind": "DaemonSet", "name": "a", "replicas": 1}, {"kind": "Deployment", "name": "b", "replicas": 2}],
        }))
        .unwrap();
        assert_eq!((status.state, status.phase, status.progress), (None, None, 40));
        let phases: Vec<_> = status.phases.iter().map(|phase| (phase.name, phase.state)).collect();
        assert_eq!(phases, [(PhaseName::Preflight, PhaseState::Succeeded)]);
        assert_eq!(status.imports.iter().map(|import| import.name.as_str()).collect::<Vec<_>>(), ["sites"]);
        assert_eq!(status.frozen_workloads.iter().map(|workload| workload.name.as_str()).collect::<Vec<_>>(), ["b"]);

        let portal: PortalStatus = serde_json::from_value(
            json!({"observedGeneration": 1, "frozenWorkloads": [{"kind": "DaemonSet", "name": "a", "replicas": 1}]}),
        )
        .unwrap();
        assert!(portal.frozen_workloads.is_empty());
        // What it does know it reads.
        let known: PortalReleaseStatus = serde_json::from_value(json!({"state": "Live", "phase": "Scale"})).unwrap();
        assert_eq!((known.state, known.phase), (Some(ReleaseState::Live), Some(PhaseName::Scale)));
    }
}
