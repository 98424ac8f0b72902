//! The texts of notifications. Plain text; the sender escapes it.

use std::time::Duration;

use crate::{api::PhaseName, text::truncate};

/// The longest cause of a failure, in bytes.
const MAX_CAUSE_BYTES: usize = 500;

/// A release starts.
pub fn start(portal: &str, label: &str, dry_run: bool) -> String {
    let kind = if dry_run { "Dry run of release" } else { "Release" };
    format!("{kind} {label} of {portal} has started.")
}

/// A phase is complete. `detail` says what it did and may be empty.
pub fn phase_complete(portal: &str, label: &str, phase: PhaseName, took: Duration, detail: &str) -> String {
    let detail = one_line(detail, MAX_CAUSE_BYTES);
    let separator = if detail.is_empty() { "" } else { ": " };
    format!("{portal} {label}: {phase} is complete after {}{separator}{detail}", in_words(took))
}

/// An import progresses. `total` is the number of rows in its source, once known.
pub fn import_progress(portal: &str, label: &str, import: &str, rows: i64, total: Option<i64>) -> String {
    let done = match total.filter(|total| *total > 0) {
        Some(total) => format!("{rows} of {total} rows ({}%)", (rows.clamp(0, total)).saturating_mul(100) / total),
        None => format!("{rows} rows"),
    };
    format!("{portal} {label}: import {import}: {done}")
}

/// A release is live.
pub fn success(portal: &str, label: &str, took: Duration, rows: i64) -> String {
    format!("Release {label} of {portal} is live after {}; {rows} rows were imported.", in_words(took))
}

/// A release failed. The cause says how to correct it.
pub fn failure(portal: &str, label: &str, phase: Option<PhaseName>, cause: &str) -> String {
    let place = phase.map(|phase| format!(" in {phase}")).unwrap_or_default();
    format!(
        "Release {label} of {portal} failed{place}: {}\nRaise spec.retry to resume from the failed phase.",
        one_line(cause, MAX_CAUSE_BYTES)
    )
}

/// A release was aborted, as the cause says.
pub fn aborted(portal: &str, label: &str, cause: &str) -> String {
    format!("Release {label} of {portal}: {}", one_line(cause, MAX_CAUSE_BYTES))
}

fn one_line(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    truncate(&line, max).to_owned()
}

/// Such as `1h2m3s`, or `0s`.
fn in_words(took: Duration) -> String {
    let seconds = took.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_well() {
        assert_eq!(start("genes", "Jul2026", false), "Release Jul2026 of genes has started.");
        assert_eq!(
            phase_complete("genes", "Jul2026", PhaseName::Freeze, Duration::from_secs(62), ""),
            "genes Jul2026: Freeze is complete after 1m2s"
        );
        assert_eq!(import_progress("genes", "Jul2026", "rows", 50, Some(200)), "genes Jul2026: import rows: 50 of 200 rows (25%)");
        assert_eq!(import_progress("genes", "Jul2026", "rows", 50, None), "genes Jul2026: import rows: 50 rows");
        assert_eq!(
            success("genes", "Jul2026", Duration::from_secs(3723), 9),
            "Release Jul2026 of genes is live after 1h2m3s; 9 rows were imported."
        );
        let text = failure("genes", "Jul2026", Some(PhaseName::Preflight), &"a\nb ".repeat(100_000));
        assert!(text.len() < 700 && text.lines().count() == 2, "{text}");
        assert_eq!(aborted("genes", "Jul2026", "aborted: wrong\nsource"), "Release Jul2026 of genes: aborted: wrong source");
    }
}
