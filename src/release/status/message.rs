//! What happens, or what to do, in one sentence.

use super::super::{Blocker, LockView, Observed, RunRecord, Step};
use crate::api::{PhaseState, ReleaseState};

pub(super) fn of(observed: &Observed, step: &Step, state: ReleaseState) -> String {
    if let Some(task) = &observed.task {
        let what = task.phase.map_or("cleaning up a release whose object is gone".to_owned(), |phase| phase.to_string());
        let what = if task.message.is_empty() { what } else { format!("{what}: {}", task.message) };
        let what = task.blocked.as_ref().map_or(what.clone(), |by| format!("{what}: {by}"));
        return what + refused_abort(observed);
    }
    match step {
        Step::Acquire if let LockView::Busy(holder) = &observed.lock => holder.clone(),
        Step::Refuse(refusal) => refusal.message.clone(),
        Step::Queue(blocker) => waits_for(blocker),
        Step::Reap(_) => observed.blocker.as_ref().map_or_else(String::new, waits_for),
        Step::Hold if observed.open_run().is_some() => "suspended at a safe point; set spec.suspend: false to resume".to_owned(),
        Step::Hold => "suspended before it started; set spec.suspend: false to start".to_owned(),
        Step::End { message, .. } | Step::Close { message, .. } => message.clone(),
        Step::Wait { again: Some(_) } => observed
            .run
            .as_ref()
            .and_then(RunRecord::failed)
            .map_or_else(String::new, |phase| format!("{} will be retried: {}", phase.name, phase.message)),
        _ => match &observed.release {
            Some(release) if !observed.is_ours() => format!(
                "label {} has been released by PortalRelease {} and is {state}; nothing was run; choose a new label for a new release",
                observed.spec.label, release.name
            ),
            Some(release) if observed.open_run().is_some() => {
                observed.run.as_ref().map_or_else(|| release.message.clone(), |run| run_message(observed, run))
            }
            Some(release) if observed.is_aborted() && release.swapped && matches!(state, ReleaseState::Live | ReleaseState::Failed) => {
                format!("{}; abort is refused: the data is live already; use spec.rollback instead", release.message)
            }
            Some(release) => release.message.clone(),
            None => "accepted, not started yet".to_owned(),
        },
    }
}

fn run_message(observed: &Observed, run: &RunRecord) -> String {
    let what = run
        .phases
        .iter()
        .find(|phase| matches!(phase.state, PhaseState::Running | PhaseState::Pending))
        .map_or_else(|| run.message.clone(), |phase| phase.name.to_string());
    what + refused_abort(observed)
}

/// The addition to the message for an abort that comes too late, while the run continues.
fn refused_abort(observed: &Observed) -> &'static str {
    if observed.is_aborted() && observed.run.as_ref().is_some_and(RunRecord::has_swapped) {
        "; abort is refused: the data is live already; use spec.rollback once this run has ended"
    } else {
        ""
    }
}

fn waits_for(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Running { name } => format!("waiting for PortalRelease {name} to finish"),
        Blocker::Older { name } => format!("waiting for PortalRelease {name}, which was created earlier"),
        Blocker::Kept { name } => {
            format!("waiting for PortalRelease {name}: the staging that it keeps would be lost; resume it, abort it or delete it")
        }
        Blocker::Orphan { name, .. } => format!("waiting for the clean-up of deleted PortalRelease {name}"),
        Blocker::LabelInUse { name } => format!("the label is used by PortalRelease {name}"),
    }
}
