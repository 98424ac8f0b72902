//! The size of a status: what etcd, every watcher and every `kubectl get` carry.

use crate::{api::PortalReleaseStatus, text::bounded};

/// Bytes of a status as JSON, at most.
const LIMIT: usize = 64 * 1024;
/// How much of each message is kept, tried one after the other.
const MESSAGES: [usize; 4] = [1024, 512, 256, 64];

/// The status within the limit. Its lists are bounded by the schema; with many imports and workers at once the messages of phases and
/// conditions are shortened, never `message` itself.
pub(super) fn fit(mut status: PortalReleaseStatus) -> PortalReleaseStatus {
    for limit in MESSAGES {
        if serde_json::to_vec(&status).is_ok_and(|json| json.len() <= LIMIT) {
            break;
        }
        let phases = status.phases.iter_mut().map(|phase| &mut phase.message);
        for message in phases.chain(status.conditions.iter_mut().map(|condition| &mut condition.message)) {
            *message = bounded(std::mem::take(message), limit);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::api::{FrozenWorkload, ImportStatus, PhaseName, PhaseState, PhaseStatus, WorkerKind};

    #[test]
    fn the_largest_status_stays_under_64_kib_and_a_usual_one_is_left_alone() {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let phases = PhaseName::ALL.map(|name| PhaseStatus {
            name,
            state: PhaseState::Succeeded,
            started_at: Some(now.clone()),
            completed_at: Some(now.clone()),
            attempts: 1_000_000,
            message: "\"".repeat(1024),
        });
        let imports = (0..96).map(|n| ImportStatus {
            name: format!("{n:063}"),
            rows: i64::MAX,
            rows_total: Some(i64::MAX),
            rejected: i64::MAX,
            percent: Some(100),
            rows_per_second: Some(i64::MAX),
            remaining_seconds: Some(i64::MAX),
            job: Some("j".repeat(63)),
            state: PhaseState::Succeeded,
        });
        let workloads = (0..64).map(|n| FrozenWorkload { kind: WorkerKind::StatefulSet, name: format!("{n:0253}"), replicas: i32::MAX });
        let condition = |n: usize| Condition {
            type_: format!("Condition{n}"),
            status: "Unknown".to_owned(),
            reason: "r".repeat(63),
            message: "m".repeat(2048),
            observed_generation: Some(i64::MAX),
            last_transition_time: now.clone(),
        };
        let largest = PortalReleaseStatus {
            message: "m".repeat(2048),
            phases: phases.to_vec(),
            imports: imports.collect(),
            frozen_workloads: workloads.collect(),
            conditions: (0..12).map(condition).collect(),
            ..PortalReleaseStatus::default()
        };
        let size = |status: &PortalReleaseStatus| serde_json::to_vec(status).unwrap().len();
        assert!(size(&largest) > LIMIT);
        let fitted = fit(largest.clone());
        assert!(size(&fitted) <= LIMIT, "{}", size(&fitted));
        assert_eq!((&fitted.message, &fitted.imports), (&largest.message, &largest.imports));

        let usual = PortalReleaseStatus { imports: Vec::new(), frozen_workloads: Vec::new(), ..largest };
        let usual = PortalReleaseStatus { phases: usual.phases.into_iter().take(4).collect(), ..usual };
        assert_eq!(fit(usual.clone()), usual);
    }
}
