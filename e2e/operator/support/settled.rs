//! What the ledger says once everything is over.

use std::fmt::Write as _;

use portal_release_operator::api::{PhaseState, PortalReleaseStatus};

use super::Stage;

/// The begin and the end of every phase that does something, in order.
pub fn points(status: &PortalReleaseStatus) -> Vec<String> {
    let phases = status.phases.iter().filter(|phase| phase.state != PhaseState::Skipped);
    phases.flat_map(|phase| [format!("{}:begin", phase.name), format!("{}:end", phase.name)]).collect()
}

impl Stage {
    /// How often relations were exchanged, by the ledger.
    pub async fn swaps(&self) -> String {
        self.text("SELECT count(*) FROM portal_release.release_events WHERE event = 'Swapped'").await
    }

    /// Nothing is held or stopped.
    pub async fn assert_nothing_held(&self) {
        assert_eq!(self.workers().await, Self::WORKERS, "workers are back at their own numbers");
        assert!(!self.is_locked().await, "the lock is free");
        assert_eq!(self.recorded().await, "", "no record of stopped workers is left");
        assert_eq!(self.open_runs().await, "0", "no run is open");
    }

    /// Nothing is held, stopped or half done.
    pub async fn assert_settled(&self) {
        self.assert_nothing_held().await;
        assert_eq!(self.text("SELECT count(*) FROM portal_release.checkpoints").await, "0", "no checkpoint is left");
    }

    /// What the ledger says of the imports, without times and numbers of attempts.
    pub async fn account(&self) -> String {
        let rows: Vec<(String, String, i64)> = sqlx::query_as("SELECT import, state, rows FROM portal_release.imports ORDER BY position")
            .fetch_all(&self.database)
            .await
            .expect("the ledger");
        rows.into_iter().fold(String::new(), |mut text, (import, state, rows)| {
            let _ = writeln!(text, "{import} {state} {rows}");
            text
        })
    }
}
