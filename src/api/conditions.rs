//! The conditions of a status, built in one way for every kind.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::text::{bounded, whole_seconds};

/// As the schema says.
const MESSAGE: usize = 2048;

/// The conditions of one status, as they are collected.
pub struct Conditions<'a> {
    now: Timestamp,
    generation: i64,
    before: &'a [Condition],
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// No conditions yet. `before` are those of the former status: a condition whose status has not changed keeps its transition time.
    pub fn new(now: Timestamp, generation: i64, before: &'a [Condition]) -> Self {
        Self { now, generation, before, list: Vec::new() }
    }

    /// Adds one.
    pub fn push(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let same = self.before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        let since = same.map_or_else(|| Time(whole_seconds(self.now)), |condition| condition.last_transition_time.clone());
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: bounded(message.to_owned(), MESSAGE),
            observed_generation: Some(self.generation),
            last_transition_time: since,
        });
    }

    /// Those that were added, followed by the former ones of other types, which still hold.
    pub fn and_the_former(mut self) -> Vec<Condition> {
        for condition in self.before {
            if self.list.iter().all(|new| new.type_ != condition.type_) {
                self.list.push(Condition { observed_generation: Some(self.generation), ..condition.clone() });
            }
        }
        self.list
    }

    /// Those that were added.
    pub fn finish(self) -> Vec<Condition> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_is_kept_while_the_status_is_the_same() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let build = |now, word: &str, reason: &str, before: &[Condition]| {
            let mut conditions = Conditions::new(at(now), now, before);
            conditions.push("Ready", word, reason, "a sentence");
            conditions.and_the_former()
        };
        let since = |conditions: &[Condition]| conditions[0].last_transition_time.0;
        let first = build(1, "Unknown", "Running", &[]);
        let other_reason = build(2, "Unknown", "Suspended", &first);
        assert_eq!((since(&other_reason), other_reason[0].reason.as_str()), (at(1), "Suspended"));
        let other_status = build(3, "True", "Live", &other_reason);
        assert_eq!(since(&other_status), at(3));
        let mut more = Conditions::new(at(4), 4, &other_status);
        more.push("Stalled", "False", "Live", "");
        let more = more.and_the_former();
        assert_eq!((more[1].type_.as_str(), more[1].observed_generation, since(&more[1..])), ("Ready", Some(4), at(3)));
    }
}
