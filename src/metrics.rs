//! The process's metrics. Labels are words from fixed sets and names of the Portal's imports, never names of objects or texts of errors.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::api::{ImportStatus, PhaseName, PhaseState, ReleaseState};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
/// Seconds since 1970; NaN until it is known, because a 0 would look like a very old moment.
type Moment = Gauge<f64, AtomicU64>;
type Amount = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseOutcome {
    phase: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImporterLabel {
    importer: String,
}

/// How an attempt to lock the tables of a swap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockAttempt {
    /// All locks were granted.
    Acquired,
    /// A reader or writer held one for longer than an attempt waits.
    TimedOut,
    /// Another error.
    Failed,
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver took it.
    Sent,
    /// The receiver refused it or did not answer, also when it was sent again.
    Failed,
    /// The queue was full.
    Dropped,
}

/// Every metric. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    completed: Family<Outcome, Counter>,
    duration: Histograms<Outcome>,
    phase_duration: Histograms<PhaseOutcome>,
    swap_lock_attempts: Family<ResultLabel, Counter>,
    swap_lock_held: Histogram,
    worker_freeze: Histogram,
    import_rows: Family<ImporterLabel, Counter>,
    import_rows_rejected: Family<ImporterLabel, Counter>,
    import_progress: Family<ImporterLabel, Amount>,
    import_rate: Family<ImporterLabel, Amount>,
    import_remaining: Family<ImporterLabel, Amount>,
    last_success: Moment,
    last_progress: Moment,
    notifications: Family<ResultLabel, Counter>,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics without values.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            completed: Family::default(),
            duration: Family::new_with_constructor(long),
            phase_duration: Family::new_with_constructor(long),
            swap_lock_attempts: Family::default(),
            swap_lock_held: Histogram::new([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]),
            worker_freeze: long(),
            import_rows: Family::default(),
            import_rows_rejected: Family::default(),
            import_progress: Family::default(),
            import_rate: Family::default(),
            import_remaining: Family::default(),
            last_success: unknown(),
            last_progress: unknown(),
            notifications: Family::default(),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0]),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("portalrelease");
        registry.register("completed", "Finished runs of releases, by their final state", self.completed.clone());
        registry.register("duration_seconds", "Time from start to end of a run", self.duration.clone());
        registry.register("phase_duration_seconds", "Time of one attempt of a phase", self.phase_duration.clone());
        registry.register("swap_lock_attempts", "Attempts to lock the tables of a swap", self.swap_lock_attempts.clone());
        registry.register("swap_lock_held_seconds", "Time for which a swap blocked readers", self.swap_lock_held.clone());
        registry.register(
            "worker_freeze_seconds",
            "Time from stopping the first worker to restoring the last one",
            self.worker_freeze.clone(),
        );
        registry.register("import_rows", "Rows imported into staged tables", self.import_rows.clone());
        registry.register("import_rows_rejected", "Rows rejected by an import", self.import_rows_rejected.clone());
        registry.register("import_progress_ratio", "Share of its rows that a running import has processed", self.import_progress.clone());
        registry.register("import_rows_per_second", "Rows that a running import processes per second", self.import_rate.clone());
        registry.register(
            "import_remaining_seconds",
            "Estimated time until a running import finishes; NaN while unknown",
            self.import_remaining.clone(),
        );
        registry.register("last_success_timestamp_seconds", "When a release last went live", self.last_success.clone());
        registry.register("last_progress_timestamp_seconds", "When a running release last made progress", self.last_progress.clone());
        registry.register("notifications", "Notifications, by result", self.notifications.clone());
        registry.register("reconciles", "Reconciliations", self.reconciles.clone());
        registry.register("reconcile_duration_seconds", "Time of one reconciliation", self.reconcile_duration.clone());
        registry
    }

    /// A run of a release ended in `state` after `took`. `Live` also sets the time of the last success.
    pub fn release_ended(&self, state: ReleaseState, took: Duration) {
        let outcome = Outcome { outcome: state.as_str() };
        self.completed.get_or_create(&outcome).inc();
        self.duration.get_or_create(&outcome).observe(took.as_secs_f64());
        if state == ReleaseState::Live {
            set_to_now(&self.last_success);
        }
    }

    /// One attempt of a phase ended in `state` after `took`.
    pub fn phase_ended(&self, phase: PhaseName, state: PhaseState, took: Duration) {
        let labels = PhaseOutcome { phase: phase.as_str(), outcome: state.as_str() };
        self.phase_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// An attempt to lock the tables of a swap ended.
    pub fn swap_lock_attempted(&self, attempt: LockAttempt) {
        let result = match attempt {
            LockAttempt::Acquired => "acquired",
            LockAttempt::TimedOut => "timed_out",
            LockAttempt::Failed => "failed",
        };
        self.swap_lock_attempts.get_or_create(&ResultLabel { result }).inc();
    }

    /// A swap held its locks for that long.
    pub fn swap_lock_held(&self, held: Duration) {
        self.swap_lock_held.observe(held.as_secs_f64());
    }

    /// Workers were frozen for that long.
    pub fn workers_frozen(&self, frozen: Duration) {
        self.worker_freeze.observe(frozen.as_secs_f64());
    }

    /// More rows of an import were imported or rejected.
    pub fn rows_imported(&self, importer: &str, imported: i64, rejected: i64) {
        let label = ImporterLabel { importer: importer.to_owned() };
        let number = |rows: i64| u64::try_from(rows).unwrap_or_default();
        self.import_rows.get_or_create(&label).inc_by(number(imported));
        self.import_rows_rejected.get_or_create(&label).inc_by(number(rejected));
    }

    /// How far the imports of a running release are, as its status says.
    #[allow(clippy::cast_precision_loss)]
    pub fn importing(&self, imports: &[ImportStatus]) {
        for import in imports {
            let label = ImporterLabel { importer: import.name.clone() };
            let (rate, remaining) = match import.state {
                PhaseState::Running => {
                    (import.rows_per_second.unwrap_or_default() as f64, import.remaining_seconds.map(|seconds| seconds as f64))
                }
                PhaseState::Succeeded => (0.0, Some(0.0)),
                _ => (0.0, None),
            };
            self.import_progress.get_or_create(&label).set(f64::from(import.percent.unwrap_or_default()) / 100.0);
            self.import_rate.get_or_create(&label).set(rate);
            self.import_remaining.get_or_create(&label).set(remaining.unwrap_or(f64::NAN));
        }
    }

    /// A running release got on just now.
    pub fn progressed(&self) {
        set_to_now(&self.last_progress);
    }

    /// A notification was sent, failed for good or was dropped.
    pub fn notification(&self, delivery: Delivery) {
        let result = match delivery {
            Delivery::Sent => "sent",
            Delivery::Failed => "failed",
            Delivery::Dropped => "dropped",
        };
        self.notifications.get_or_create(&ResultLabel { result }).inc();
    }

    /// A reconciliation ended, well or with an error.
    pub fn reconciled(&self, well: bool, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { result: if well { "ok" } else { "error" } }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            tracing::error!("metrics could not be written as text");
        }
        out
    }
}

/// From a tenth of a second to a day.
fn long() -> Histogram {
    Histogram::new([0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0])
}

fn unknown() -> Moment {
    let moment = Moment::default();
    moment.set(f64::NAN);
    moment
}

fn set_to_now(moment: &Moment) {
    moment.set(Timestamp::now().as_duration().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_promised_names() {
        let metrics = Metrics::new();
        assert!(metrics.encode().contains("portalrelease_last_success_timestamp_seconds NaN"), "no success yet");
        metrics.release_ended(ReleaseState::Live, Duration::from_secs(60));
        metrics.phase_ended(PhaseName::Freeze, PhaseState::Succeeded, Duration::from_secs(2));
        metrics.swap_lock_attempted(LockAttempt::TimedOut);
        metrics.swap_lock_held(Duration::from_millis(20));
        metrics.workers_frozen(Duration::from_secs(9));
        metrics.rows_imported("protected_areas", 1000, 2);
        let import = |name: &str, state, percent, rate, remaining| ImportStatus {
            name: name.to_owned(),
            rows: 250,
            rows_total: None,
            rejected: 0,
            percent,
            rows_per_second: rate,
            remaining_seconds: remaining,
            job: None,
            state,
        };
        metrics.importing(&[
            import("protected_areas", PhaseState::Running, Some(25), Some(50), Some(15)),
            import("sources", PhaseState::Succeeded, Some(100), Some(50), None),
            import("by_job", PhaseState::Running, None, None, None),
        ]);
        metrics.progressed();
        metrics.notification(Delivery::Dropped);
        metrics.reconciled(true, Duration::from_millis(3));
        let text = metrics.encode();
        for line in [
            "portalrelease_completed_total{outcome=\"Live\"} 1",
            "portalrelease_duration_seconds_count{outcome=\"Live\"} 1",
            "portalrelease_phase_duration_seconds_count{phase=\"Freeze\",outcome=\"Succeeded\"} 1",
            "portalrelease_swap_lock_attempts_total{result=\"timed_out\"} 1",
            "portalrelease_swap_lock_held_seconds_count 1",
            "portalrelease_worker_freeze_seconds_count 1",
            "portalrelease_import_rows_total{importer=\"protected_areas\"} 1000",
            "portalrelease_import_rows_rejected_total{importer=\"protected_areas\"} 2",
            "portalrelease_import_progress_ratio{importer=\"protected_areas\"} 0.25",
            "portalrelease_import_rows_per_second{importer=\"protected_areas\"} 50.0",
            "portalrelease_import_remaining_seconds{importer=\"protected_areas\"} 15.0",
            "portalrelease_import_progress_ratio{importer=\"sources\"} 1.0",
            "portalrelease_import_rows_per_second{importer=\"sources\"} 0.0",
            "portalrelease_import_remaining_seconds{importer=\"sources\"} 0.0",
            "portalrelease_import_remaining_seconds{importer=\"by_job\"} NaN",
            "portalrelease_last_success_timestamp_seconds 1",
            "portalrelease_last_progress_timestamp_seconds 1",
            "portalrelease_notifications_total{result=\"dropped\"} 1",
            "portalrelease_reconciles_total{result=\"ok\"} 1",
            "portalrelease_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
