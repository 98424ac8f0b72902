//! The locks of a swap: which, in what order, and how long other sessions are made to wait for them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::{blocker::Blocker, error::SwapError, renames::Object};
use crate::database::{
    dependents::Dependent,
    identifiers::{Relations, qualified, quote_ident},
};

/// How long the swap may make others wait, and how long it may try.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The total time for getting the locks.
    pub budget: Duration,
    /// The longest that one attempt waits in the queue, and readers behind it; half as long again beside a slow session. As long as
    /// there is none, a quarter of it.
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
            attempt: Duration::from_millis(130),
            statement: Duration::from_secs(300),
            idle: Duration::from_secs(5),
        }
    }
}

/// The attempts so far.
///
/// Most readers finish at once, and what looks like a slow one may be a deadlock, which only backing off resolves: so patience is
/// short, grows only after many failed attempts, and starts over.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    started: Instant,
    pub(super) attempts: u32,
    pub(super) patience: Duration,
    /// The relations that slow sessions have held, by their names.
    slow: BTreeSet<String>,
    /// How often a relation was found locked.
    met: HashMap<String, u32>,
    /// By process id, how many attempts in a row a session has blocked.
    seen: HashMap<i32, u32>,
    blockers: Vec<Blocker>,
}

/// A session is slow when its transaction has been open for this many seconds ...
const SLOW_SECONDS: i64 = 2;
/// ... or when it has blocked this many attempts in a row.
const SLOW_TIMES: u32 = 5;
/// After this many failed attempts, the next ones are more patient.
const IN_VAIN: u32 = 16;

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            started: Instant::now(),
            attempts: 0,
            patience: limits.attempt / 4,
            slow: BTreeSet::new(),
            met: HashMap::new(),
            seen: HashMap::new(),
            blockers: Vec::new(),
        }
    }

    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Remembers which relations slow sessions hold. Autovacuum does not count: Postgres cancels it as soon as the swap waits for it.
    fn remember(&mut self, holders: &[Blocker]) {
        let again = |pid: i32| self.seen.get(&pid).map_or(1, |times| times + 1);
        self.seen = holders.iter().map(|holder| (holder.pid, again(holder.pid))).collect();
        // Without pg_read_all_stats the age of other roles' transactions is hidden; then those count that block every attempt.
        let is_slow = |holder: &&Blocker| match holder.seconds {
            Some(seconds) => seconds >= SLOW_SECONDS,
            None => self.seen.get(&holder.pid).is_some_and(|times| *times >= SLOW_TIMES),
        };
        let slow = holders.iter().filter(|holder| holder.role.is_some()).filter(is_slow);
        self.slow.extend(slow.flat_map(|holder| holder.held.iter().cloned()));
        for relation in holders.iter().flat_map(|holder| &holder.held) {
            *self.met.entry(relation.clone()).or_default() += 1;
        }
    }

    /// The relations to lock last, the one that is read most first: once the swap waits in the queue for it, its other readers wait
    /// behind it, and hold nothing.
    pub(super) fn last(&self) -> Vec<&str> {
        let mut last: Vec<&str> = self.slow.iter().map(String::as_str).collect();
        last.sort_by_key(|name| std::cmp::Reverse(self.met.get(*name)));
        last
    }

    /// The pause before the next attempt, after `blockers` blocked one while `holders` held something.
    ///
    /// # Errors
    /// [`SwapError::Blocked`] when the time is used up.
    pub(super) fn next_pause(&mut self, blockers: &[Blocker], holders: &[Blocker], in_deadlock: bool) -> Result<Duration, SwapError> {
        if !blockers.is_empty() {
            self.blockers = blockers.to_vec();
        }
        self.remember(holders);
        // Half to one and a half times as long, so that two that collide do not collide again. A slow session releases its locks only
        // for a moment, so there the pause is shorter, and shorter still after a deadlock, which ended soon.
        let share = match (self.slow.is_empty(), in_deadlock) {
            (true, _) => 1,
            (false, false) => 2,
            (false, true) => 16,
        };
        let [random, ..] = uuid::Uuid::new_v4().into_bytes();
        let pause = (self.patience / 2 + self.patience * u32::from(random) / 256) / share;
        if self.waited() + pause >= self.limits.budget {
            return Err(SwapError::Blocked {
                waited: self.waited(),
                attempts: self.attempts,
                blockers: std::mem::take(&mut self.blockers),
            });
        }
        let longest = self.limits.attempt;
        self.patience = match self.attempts / IN_VAIN % 3 {
            _ if !self.slow.is_empty() => longest,
            0 => longest / 4,
            1 => longest / 2,
            _ => longest,
        };
        Ok(pause)
    }
}

/// The lock of one relation.
#[derive(Debug)]
pub(super) struct Lock {
    /// Its name, quoted and qualified.
    pub(super) name: String,
    /// A statement that locks it and changes nothing; `None` for a table, which is locked together with the others.
    own: Option<String>,
}

impl Lock {
    /// The statement that locks this relation alone.
    pub(super) fn alone(&self) -> String {
        self.own.clone().unwrap_or_else(|| format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", self.name))
    }
}

/// Everything that is to be locked, in order. Views come first, as readers of a view take the view before its tables.
pub(super) fn list(relations: &Relations, dependents: &[Dependent], objects: &[Object]) -> Vec<Lock> {
    let (mut views, mut tables, mut sequences) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for dependent in dependents {
        match (&dependent.locked, &dependent.relkind, &dependent.owner) {
            (Some(view), Some(kind), Some(owner)) if kind == "v" => drop(views.insert(view.clone(), owner.clone())),
            (Some(table), ..) => drop(tables.insert(table.clone())),
            _ => {}
        }
    }
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
    let owned = |(name, owner): (String, String)| Lock { own: Some(format!("ALTER TABLE {name} OWNER TO {owner};")), name };
    let tables = tables.into_iter().map(|name| Lock { name, own: None });
    views.into_iter().map(owned).chain(tables).chain(sequences.into_iter().map(owned)).collect()
}

/// The body of a block that locks all of them: the tables in one statement.
pub(super) fn statements(locks: &[&Lock]) -> Vec<String> {
    let tables: Vec<&str> = locks.iter().filter(|lock| lock.own.is_none()).map(|lock| lock.name.as_str()).collect();
    let mut together = (!tables.is_empty()).then(|| format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;", tables.join(", ")));
    locks.iter().filter_map(|lock| lock.own.clone().or_else(|| together.take())).collect()
}
