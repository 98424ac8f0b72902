//! Can the release be rolled back, and what would be lost? The condition `RollbackAvailable`.

use super::{Observed, written::seconds};

/// Status, reason and message of `RollbackAvailable`. It describes when the live tables were last counted: at the end of the last run,
/// and when a rollback was requested.
pub(in crate::release) fn rollback_available(observed: &Observed) -> (&'static str, &'static str, String) {
    if !observed.current {
        return ("False", "NotLive", "another release is live; only the live release can be rolled back".to_owned());
    }
    let own = observed.release.as_ref().filter(|_| observed.is_ours()).and_then(|release| release.backup.as_deref());
    let Some(backup) = observed.backups.iter().find(|kept| Some(kept.stamp.as_str()) == own).or_else(|| observed.backups.first()) else {
        return ("False", "NoBackup", "there is no backup to roll back to".to_owned());
    };
    let goes_to = match &backup.label {
        Some(label) => format!("backup {}, the data of {label}", backup.stamp),
        None => format!("backup {}", backup.stamp),
    };
    match &observed.written {
        None => (
            "True",
            "BackupKept",
            format!("spec.rollback restores {goes_to}; rows written since the swap are counted when the rollback starts"),
        ),
        Some(written) if written.is_nothing() => {
            ("True", "BackupKept", format!("spec.rollback restores {goes_to}; {}, as of {}", written.sentence(), seconds(written.at)))
        }
        Some(written) if written.tables.is_empty() => (
            "Unknown",
            "WritesUnknown",
            format!("{goes_to} is kept; {}; set rollback.acceptDataLoss: true to roll back anyway", written.sentence()),
        ),
        Some(written) => (
            "False",
            "WouldLoseData",
            format!(
                "{goes_to} is kept, but as of {} a rollback would discard: {}; set rollback.acceptDataLoss: true to roll back anyway",
                seconds(written.at),
                written.sentence()
            ),
        ),
    }
}
