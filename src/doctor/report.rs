//! What was found, for people and for programs.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// A release goes, with a drawback.
    Warn,
    /// A release would be refused or fail.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How bad it is.
    pub level: Level,
    /// What was checked, in a word or two.
    pub check: &'static str,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Line {
    /// As it should be.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, message: message.into(), next: None }
    }

    /// A drawback, and what to do about it.
    pub fn warn(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Warn, check, message: message.into(), next: Some(next.into()) }
    }

    /// Stands against a release, and what to do about it.
    pub fn fail(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level: Level::Fail, check, message: message.into(), next: Some(next.into()) }
    }

    /// It could not be checked.
    pub fn blind(check: &'static str, error: &impl std::fmt::Display) -> Self {
        Self::fail(check, format!("could not be checked: {error}"), "fix the cause and run doctor again")
    }
}

/// Everything that was found about one portal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

    /// The findings of one check, or that it could not be made.
    pub fn take<E: std::fmt::Display>(&mut self, check: &'static str, lines: Result<Vec<Line>, E>) {
        match lines {
            Ok(lines) => self.checks.extend(lines),
            Err(error) => self.add(Line::blind(check, &error)),
        }
    }

    /// No check failed.
    pub fn is_good(&self) -> bool {
        self.count(Level::Fail) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.checks.iter().filter(|line| line.level == level).count()
    }

    /// Aligned lines, the next step under each that needs one.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|line| line.check.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for line in &self.checks {
            let level = match line.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            text.push_str(&format!("{level:<4}  {:<width$}  {}\n", line.check, line.message));
            if let Some(next) = &line.next {
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
    pub fn json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            report: &'a Report,
            good: bool,
        }
        serde_json::to_string_pretty(&Document { report: self, good: self.is_good() })
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
