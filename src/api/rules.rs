//! Rules of the API that are made of lists: what may change when, and what the lists of tables may hold.
//!
//! The schema stores nothing that a user did not write, so each rule asks with `has()` before it reads a field.

use kube::core::Rule;

use super::ReleaseState;

/// Fields of a release that say what its run does.
const DEFINITION: [&str; 4] = ["phases", "imports", "views", "staging"];
/// The states in which a run is under way. Whatever the status says, a run works from what it was started with; this rule only says to
/// people at once that an edit would change nothing.
const UNDER_WAY: [ReleaseState; 2] = [ReleaseState::Running, ReleaseState::RollingBack];
/// The states in which a release that has run will do nothing more by itself.
const FINISHED: [ReleaseState; 5] =
    [ReleaseState::Live, ReleaseState::Superseded, ReleaseState::RolledBack, ReleaseState::Aborted, ReleaseState::Failed];

/// The lists of a Portal's `tables`.
const TABLES: [&str; 4] = ["independent", "main", "junction", "lookup"];

/// What a run does may not change while it is under way.
pub(super) fn definition_is_steady() -> Rule {
    let same = DEFINITION.map(|field| {
        let (new, old) = (format!("self.spec.{field}"), format!("oldSelf.spec.{field}"));
        format!("has({new}) == has({old}) && (!has({new}) || {new} == {old})")
    });
    Rule::new(format!("!({}) || ({})", state_is_one_of(&UNDER_WAY), same.join(" && "))).message(&*format!(
        "{} may not change while the release is {}: suspend it first, or wait until it has ended",
        in_words(&DEFINITION, "and"),
        in_words(&UNDER_WAY.map(ReleaseState::as_str), "or")
    ))
}

/// `abort` takes effect before it may be removed. One that came before the first run is no exception: without it the release would start.
pub(super) fn abort_is_kept() -> Rule {
    let raised = "has(self.spec.retry) && self.spec.retry > 0";
    Rule::new(format!(
        "!has(oldSelf.spec.abort) || has(self.spec.abort) || ({raised}) || ({} && has(oldSelf.status.startedAt))",
        state_is_one_of(&FINISHED)
    ))
    .message("abort may be removed once the release has ended, or when retry is raised to run it again")
}

/// A portal without a table has nothing to release.
pub(super) fn some_table() -> Rule {
    let swapped = TABLES.iter().filter(|list| **list != "lookup").map(|list| format!("has(self.{list}) && self.{list}.size() > 0"));
    Rule::new(swapped.map(|some| format!("({some})")).collect::<Vec<_>>().join(" || "))
        .message("tables must name at least one table to release")
}

/// Each list is a set; no two of them share a table.
pub(super) fn tables_are_distinct() -> Rule {
    let pairs = TABLES.iter().enumerate().flat_map(|(n, one)| TABLES.iter().skip(n + 1).map(move |other| (one, other)));
    let rule = pairs.map(|(one, other)| format!("(!has(self.{one}) || !has(self.{other}) || self.{one}.all(t, !(t in self.{other})))"));
    Rule::new(rule.collect::<Vec<_>>().join(" && ")).message("a table may be named only once in tables")
}

/// Names that the operator makes are not for tables of the portal.
pub(super) fn tables_are_live() -> Rule {
    let rule =
        TABLES.map(|list| format!("(!has(self.{list}) || self.{list}.all(t, !t.startsWith('staging_') && !t.matches('^bk[0-9]{{10}}_')))"));
    Rule::new(rule.join(" && ")).message("tables names live tables; staging_* and bkYYMMDDHHMM_* are made by the operator")
}

fn state_is_one_of(states: &[ReleaseState]) -> String {
    let states: Vec<String> = states.iter().map(|state| format!("'{state}'")).collect();
    format!("has(oldSelf.status) && has(oldSelf.status.state) && oldSelf.status.state in [{}]", states.join(", "))
}

/// `a, b and c`.
fn in_words(names: &[&str], last: &str) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [before @ .., end] => format!("{} {last} {end}", before.join(", ")),
    }
}
