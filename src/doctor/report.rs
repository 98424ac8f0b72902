//! What was found, for people and for programs.

use serde::Serialize;

use crate::finding::{Finding, Level};

/// A finding, and the check that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was checked, in a word or two.
    pub check: &'static str,
    /// What was found.
    pub finding: Finding,
}

impl Line {
    /// As it should be.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, finding: Finding::ok(message) }
    }

    /// A drawback, and what to do about it.
    pub fn warn(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, finding: Finding::warn("", message, next) }
    }

    /// Blocks a release, and what to do about it.
    pub fn fail(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, finding: Finding::fail("", message, next) }
    }

    /// It could not be checked.
    pub fn unchecked(check: &'static str, error: &impl std::fmt::Display) -> Self {
        Self::fail(check, format!("could not be checked: {error}"), "fix the cause and run doctor again")
    }

    fn next(&self) -> Option<&str> {
        Some(self.finding.next_step.as_str()).filter(|next| !next.is_empty())
    }
}

/// Everything that was found about one portal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `namespace/name` of the Portal.
    pub portal: String,
    /// The findings, in the order in which they were made.
    pub checks: Vec<Line>,
}

impl Report {
    /// Nothing was checked yet.
    pub fn new(portal: &str) -> Self {
        Self { portal: portal.to_owned(), checks: Vec::new() }
    }

    /// One more finding.
    pub fn add(&mut self, line: Line) {
        self.checks.push(line);
    }

    /// Findings of one check, or that it could not be made.
    pub fn found<E: std::fmt::Display>(&mut self, check: &'static str, findings: Result<Vec<Finding>, E>) {
        self.take(check, findings.map(|findings| findings.into_iter().map(|finding| Line { check, finding }).collect()));
    }

    /// The lines of one check, or that it could not be made.
    pub fn take<E: std::fmt::Display>(&mut self, check: &'static str, lines: Result<Vec<Line>, E>) {
        match lines {
            Ok(lines) => self.checks.extend(lines),
            Err(error) => self.add(Line::unchecked(check, &error)),
        }
    }

    /// Nothing blocks a release.
    pub fn is_good(&self) -> bool {
        self.count(Level::Fail) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.checks.iter().filter(|line| line.finding.level == level).count()
    }

    /// Aligned lines, the next step under each that needs one.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|line| line.check.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for line in &self.checks {
            let level = match line.finding.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            text.push_str(&format!("{level:<4}  {:<width$}  {}\n", line.check, line.finding.statement()));
            if let Some(next) = line.next() {
                text.push_str(&format!("{:4}  {:<width$}  → {next}\n", "", ""));
            }
        }
        let (ok, warn, fail) = (self.count(Level::Ok), self.count(Level::Warn), self.count(Level::Fail));
        let verdict = if fail == 0 { "ready to release" } else { "a release would fail" };
        text.push_str(&format!("{}: {ok} ok, {warn} warn, {fail} fail: {verdict}\n", self.portal));
        text
    }

    /// One JSON document.
    ///
    /// # Errors
    /// Never for what a report can hold.
    pub fn json<'a>(&'a self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Shown<'b> {
            level: Level,
            check: &'static str,
            message: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            next: Option<&'b str>,
        }
        #[derive(Serialize)]
        struct Document<'b> {
            portal: &'b str,
            checks: Vec<Shown<'b>>,
            good: bool,
        }
        let shown =
            |line: &'a Line| Shown { level: line.finding.level, check: line.check, message: line.finding.statement(), next: line.next() };
        let checks = self.checks.iter().map(shown).collect();
        serde_json::to_string_pretty(&Document { portal: &self.portal, checks, good: self.is_good() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_the_worst_decides() {
        let mut report = Report::new("ns/p");
        report.add(Line::ok("server", "15.4"));
        report.add(Line::warn("lock", "held", "wait"));
        assert!(report.is_good());
        report.take("disk space", Err("no"));
        assert!(!report.is_good());
        let lines = [
            "ok    server      15.4",
            "warn  lock        held",
            "                  → wait",
            "FAIL  disk space  could not be checked: no",
            "                  → fix the cause and run doctor again",
            "ns/p: 1 ok, 1 warn, 1 fail: a release would fail",
            "",
        ];
        assert_eq!(report.text(), lines.join("\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(
            (&json["good"], &json["checks"][1]["level"], &json["checks"][1]["next"]),
            (&false.into(), &"warn".into(), &"wait".into())
        );
    }
}
