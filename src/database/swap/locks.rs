//! The locks of a swap: which, in what order, and how long anybody is made to wait for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{SwapError, blockers::Blocker, renames::Object};
use crate::database::{
    dependents::Dependent,
    identifiers::{Relations, qualified, quote_ident},
};

/// How long the swap may make others wait, and how long it may try.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The total time for getting the locks.
    pub budget: Duration,
    /// The longest that one attempt stands in the queue, and readers behind it. The first attempts are shorter.
    pub attempt: Duration,
    /// The longest that a statement may run once everything is locked.
    pub statement: Duration,
    /// The longest that the swap may hold its locks without sending a statement: a frozen operator blocks no longer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(30),
            attempt: Duration::from_millis(150),
            statement: Duration::from_secs(300),
            idle: Duration::from_secs(5),
        }
    }
}

/// The attempts so far.
///
/// Most readers are gone at once, and what looks like a slow one may be a deadlock, which only giving way resolves: so patience
/// grows from attempt to attempt, and begins again.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    started: Instant,
    pub(super) attempts: u32,
    pub(super) patience: Duration,
    blockers: Vec<Blocker>,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, started: Instant::now(), attempts: 0, patience: Self::shortest(&limits), blockers: Vec::new() }
    }

    fn shortest(limits: &Limits) -> Duration {
        limits.attempt.min(Duration::from_millis(20))
    }

    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// The attempt gave way. How long to leave the others alone before the next one.
    ///
    /// # Errors
    /// [`SwapError::Blocked`] when the time is used up.
    pub(super) fn gave_way(&mut self, blockers: &[Blocker]) -> Result<Duration, SwapError> {
        if !blockers.is_empty() {
            self.blockers = blockers.to_vec();
        }
        // Half to one and a half times as long, so that two that collide do not collide again.
        let [random, ..] = uuid::Uuid::new_v4().into_bytes();
        let pause = self.patience / 2 + self.patience * u32::from(random) / 256;
        if self.waited() + pause >= self.limits.budget {
            return Err(SwapError::Blocked {
                waited: self.waited(),
                attempts: self.attempts,
                blockers: std::mem::take(&mut self.blockers),
            });
        }
        let longest = self.limits.attempt;
        self.patience = if self.patience < longest { longest.min(self.patience * 2) } else { Self::shortest(&self.limits) };
        Ok(pause)
    }
}

/// The body of a block that locks everything, in one statement. Views come first, as readers of a view take the view before its
/// tables.
pub(super) fn statements(relations: &Relations, dependents: &[Dependent], objects: &[Object]) -> Vec<String> {
    let mut views = BTreeMap::new();
    let mut tables = BTreeSet::new();
    for dependent in dependents {
        match (&dependent.locked, &dependent.relkind, &dependent.owner) {
            (Some(view), Some(kind), Some(owner)) if kind == "v" => drop(views.insert(view.clone(), owner.clone())),
            (Some(table), ..) => drop(tables.insert(table.clone())),
            _ => {}
        }
    }
    let mut sequences = BTreeMap::new();
    for object in objects {
        let name = qualified(&relations.schema, &object.name);
        match object.kind.as_str() {
            "table" => drop(tables.insert(name)),
            "view" | "materialized view" => drop(views.insert(name, quote_ident(&object.owner))),
            "sequence" => drop(sequences.insert(name, quote_ident(&object.owner))),
            _ => {}
        }
    }
    // LOCK TABLE takes no materialized view and locks the tables beneath a view; giving a relation to the owner it has
    // locks it and nothing else, and changes nothing.
    let own = |map: BTreeMap<String, String>| -> Vec<String> {
        map.into_iter().map(|(name, owner)| format!("ALTER TABLE {name} OWNER TO {owner};")).collect()
    };
    let mut body = own(views);
    if !tables.is_empty() {
        body.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.into_iter().collect::<Vec<_>>().join(", ")));
    }
    body.extend(own(sequences));
    body
}
