//! What a check found. It becomes text only where people read it.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// A release succeeds, with a drawback.
    Warn,
    /// A release would be rejected or fail.
    Fail,
}

/// One thing that was found. For people it is `{object} {problem}; {next step}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was checked: a relation, a gate. May be empty.
    pub object: String,
    /// What is wrong with it, as a predicate: `does not exist`. At level `Ok`, how it is.
    pub problem: String,
    /// What to do about it. Empty at level `Ok`.
    pub next_step: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(state: impl Into<String>) -> Self {
        Self { level: Level::Ok, object: String::new(), problem: state.into(), next_step: String::new() }
    }

    /// A drawback.
    pub fn warn(object: impl Into<String>, problem: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { level: Level::Warn, object: object.into(), problem: problem.into(), next_step: next_step.into() }
    }

    /// Blocks a release.
    pub fn fail(object: impl Into<String>, problem: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(object, problem, next_step) }
    }

    /// Blocks a release.
    pub fn is_failure(&self) -> bool {
        self.level == Level::Fail
    }

    /// The same, at another level.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// The object and the problem, without the next step.
    pub fn statement(&self) -> String {
        if self.object.is_empty() { self.problem.clone() } else { format!("{} {}", self.object, self.problem) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.statement())?;
        if self.next_step.is_empty() { Ok(()) } else { write!(f, "; {}", self.next_step) }
    }
}

/// The sentences of several findings, at most `most` of them, and how many more there are.
pub fn listed(findings: &[Finding], most: usize) -> String {
    let mut text = findings.iter().take(most).map(ToString::to_string).collect::<Vec<_>>().join(". ");
    if findings.len() > most {
        text.push_str(&format!(". And {} more", findings.len() - most));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Finding, listed};

    #[test]
    fn a_sentence_has_its_parts_that_exist() {
        assert_eq!(Finding::ok("all exist").to_string(), "all exist");
        assert_eq!(Finding::fail("a", "is empty", "fill it").to_string(), "a is empty; fill it");
        assert_eq!(Finding::warn("", "it is late", "hurry").to_string(), "it is late; hurry");
        let many: Vec<Finding> = (1..=3).map(|n| Finding::fail(n.to_string(), "no", "wait")).collect();
        assert_eq!(listed(&many, 2), "1 no; wait. 2 no; wait. And 1 more");
    }
}
