//! The details of a relation, and when each is added to a staging relation.

use std::collections::BTreeSet;

use super::template::{Piece, Template};

/// When a detail is added to a staging relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Part of `CREATE TABLE` itself.
    Created,
    /// Needed before rows come in: sequences, defaults, checks, owner, policies, grants.
    Base,
    /// Faster after the load: indexes, primary keys, unique and exclusion constraints, extended statistics.
    Indexes,
    /// Needs the indexes of other tables: foreign keys.
    Keys,
    /// Must not act on the load: triggers, rules, forced row security.
    Last,
    /// Fits only once the names are live: keys to lookup tables, whose rows are published in the swap, and policies and
    /// rules that name relations.
    Swap,
}

/// The kinds of facts, in the order in which they are applied.
pub(super) const KINDS: &[(&str, Stage)] = &[
    ("table", Stage::Created),
    ("access", Stage::Created),
    ("column", Stage::Created),
    ("sequence", Stage::Base),
    ("default", Stage::Base),
    ("storage", Stage::Base),
    ("compression", Stage::Base),
    ("statistics target", Stage::Base),
    ("column option", Stage::Base),
    ("option", Stage::Base),
    ("check", Stage::Base),
    ("owner", Stage::Base),
    ("policy", Stage::Base),
    ("row security", Stage::Base),
    ("grant", Stage::Base),
    ("comment", Stage::Base),
    (INDEX, Stage::Indexes),
    ("constraint", Stage::Indexes),
    ("index option", Stage::Indexes),
    ("cluster", Stage::Indexes),
    ("replica identity", Stage::Indexes),
    ("statistics", Stage::Indexes),
    ("index comment", Stage::Indexes),
    ("foreign key", Stage::Keys),
    ("foreign key comment", Stage::Keys),
    ("trigger", Stage::Last),
    ("trigger state", Stage::Last),
    ("rule", Stage::Last),
    ("late comment", Stage::Last),
    ("policy comment", Stage::Last),
    ("forced row security", Stage::Last),
    ("policy with subquery", Stage::Swap),
    ("rule naming relations", Stage::Swap),
    (LOOKUP_KEY, Stage::Swap),
    (SWAP_COMMENT, Stage::Swap),
];

/// The statement that builds an index.
pub(in crate::database) const INDEX: &str = "index";
/// A foreign key to a lookup table.
pub(in crate::database) const LOOKUP_KEY: &str = "foreign key to a lookup table";
/// The comment on something that only the swap can make.
pub(super) const SWAP_COMMENT: &str = "comment on it";

/// One detail of a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// The base name of the relation.
    pub relation: String,
    pub(super) kind: usize,
    pub(super) place: i64,
    pub(super) name: Template,
    /// The SQL that makes it; of a column the part inside `CREATE TABLE`.
    pub definition: Template,
    /// The SQL that takes it away, where Postgres or a default could have added it unasked.
    pub undo: Option<Template>,
}

impl Fact {
    /// What it is: `column`, `index`, `grant`, ...
    #[must_use]
    pub fn kind(&self) -> &'static str {
        KINDS.get(self.kind).map_or("detail", |(kind, _)| kind)
    }

    /// When it is applied to a staging relation.
    #[must_use]
    pub fn stage(&self) -> Stage {
        KINDS.get(self.kind).map_or(Stage::Last, |(_, stage)| *stage)
    }

    /// What the detail is called in live; empty for a detail of the relation as a whole.
    #[must_use]
    pub fn name(&self) -> String {
        self.name
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Name { base, .. } => base.as_str(),
            })
            .collect()
    }

    /// What two generations are compared by. The undo is no part of the structure.
    pub(super) fn identity(&self) -> (&str, usize, i64, &Template, &Template) {
        (&self.relation, self.kind, self.place, &self.name, &self.definition)
    }

    /// Does it refer to one of these tables of `schema`, which are not swapped?
    pub(super) fn refers_to(&self, schema: &str, tables: &[String]) -> bool {
        self.definition.names().any(|(of, base, moves)| !moves && of == schema && tables.iter().any(|table| table == base))
    }
}

/// The facts of the relations of one generation.
#[derive(Debug, Clone, Default)]
pub struct Structure {
    /// All details, in the order in which they are applied.
    pub facts: Vec<Fact>,
}

impl Structure {
    /// The base names of relations, indexes, sequences and statistics objects: every name that moves in a swap.
    #[must_use]
    pub fn base_names(&self) -> BTreeSet<String> {
        self.facts
            .iter()
            .flat_map(|fact| fact.definition.names())
            .filter(|(_, _, moves)| *moves)
            .map(|(_, base, _)| base.to_owned())
            .collect()
    }

    /// Is this relation among those that were found?
    #[must_use]
    pub fn has(&self, relation: &str) -> bool {
        self.facts.iter().any(|fact| fact.relation == relation)
    }
}
