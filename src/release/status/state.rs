//! The state of the release as a whole.

use super::super::{Observed, RunKind, Step};
use crate::api::ReleaseState;

pub(super) fn of(observed: &Observed, step: &Step) -> ReleaseState {
    match (step, &observed.release) {
        (Step::Hold, _) => ReleaseState::Suspended,
        (Step::Queue(_) | Step::Reap(_), Some(release)) if observed.is_ours() && release.state != ReleaseState::Pending => release.state,
        (Step::Queue(_) | Step::Reap(_), _) => ReleaseState::Queued,
        (Step::Refuse(refusal), _) if refusal.reason == "LabelInUse" => ReleaseState::Failed,
        (Step::Refuse(refusal), _) if refusal.reason == "Aborted" => ReleaseState::Aborted,
        (_, Some(release)) if observed.open_run().is_some() && release.state == ReleaseState::Pending => ReleaseState::Running,
        (_, Some(_)) if observed.open_run().is_some() => match observed.run.as_ref().map(|run| run.kind) {
            Some(RunKind::Rollback) => ReleaseState::RollingBack,
            _ => ReleaseState::Running,
        },
        (_, Some(release)) => release.state,
        (_, None) => ReleaseState::Pending,
    }
}

/// No phase of it will run again by itself, and none needs attention.
pub(super) fn is_over(state: ReleaseState) -> bool {
    matches!(state, ReleaseState::Live | ReleaseState::Superseded | ReleaseState::RolledBack)
}
