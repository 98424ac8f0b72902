//! What one generation lacks of another, and how two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::fact::{Fact, Stage, Structure};
use crate::database::identifiers::Generation;

/// A detail in which two generations differ. Its text is a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The relation, as it is called in the generation that ought to be.
    pub relation: String,
    /// `column`, `index`, `grant`, ...
    pub kind: &'static str,
    /// The detail's name; empty for the relation as a whole.
    pub name: String,
    /// What is found, as SQL.
    pub found: Option<String>,
    /// What ought to be, as SQL.
    pub expected: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relation, kind, name, found, expected } = self;
        write!(f, "{relation}: {kind}")?;
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        match (found, expected) {
            (None, Some(expected)) => write!(f, " is missing (expected: {expected})"),
            (Some(found), None) => write!(f, " should not be there ({found})"),
            (found, expected) => write!(
                f,
                " differs (expected: {}, found: {})",
                expected.as_deref().unwrap_or_default(),
                found.as_deref().unwrap_or_default()
            ),
        }
    }
}

/// The facts of `live` that `other` lacks, apart from what is left to the swap.
pub(in crate::database) fn lacking<'a>(live: &'a Structure, other: &Structure) -> Vec<&'a Fact> {
    let present: BTreeSet<_> = other.facts.iter().map(Fact::identity).collect();
    live.facts.iter().filter(|fact| fact.stage() != Stage::Swap && !present.contains(&fact.identity())).collect()
}

/// What was left to the swap, and what `other` does not have under any definition.
pub(in crate::database) fn left_to_swap<'a>(live: &'a Structure, other: &Structure) -> Vec<&'a Fact> {
    let key = |fact: &Fact| (fact.relation.clone(), fact.kind, fact.name());
    let present: BTreeSet<_> = other.facts.iter().map(key).collect();
    live.facts.iter().filter(|fact| fact.stage() == Stage::Swap && !present.contains(&key(fact))).collect()
}

/// What differs between live and the relations of `generation`, one entry for each detail.
pub(super) fn compare(generation: &Generation, live: &Structure, other: &Structure) -> Vec<Difference> {
    type Key = (String, usize, String, i64);
    let key = |fact: &Fact| -> Key {
        // A column is the same column when it has moved; for other kinds the place distinguishes facts with the same name.
        let place = if fact.kind() == "column" { 0 } else { fact.place };
        (fact.relation.clone(), fact.kind, fact.name(), place)
    };
    let expected: BTreeMap<Key, &Fact> = lacking(live, other).into_iter().map(|fact| (key(fact), fact)).collect();
    let found: BTreeMap<Key, &Fact> = lacking(other, live).into_iter().map(|fact| (key(fact), fact)).collect();
    let keys: BTreeSet<&Key> = expected.keys().chain(found.keys()).collect();
    let show = |fact: &&Fact| {
        let definition = fact.definition.render(generation);
        if fact.kind() == "column" { format!("{definition} as column {}", fact.place) } else { definition }
    };
    keys.into_iter()
        .filter_map(|key| {
            let (expected, found) = (expected.get(key), found.get(key));
            let fact = expected.or(found)?;
            Some(Difference {
                relation: generation.name(&fact.relation),
                kind: fact.kind(),
                name: fact.name(),
                found: found.map(show),
                expected: expected.map(show),
            })
        })
        .collect()
}
