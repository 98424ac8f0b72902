//! A session that blocks the swap, and the sessions that the Portal allows to cancel.

use std::{fmt, time::Duration};

/// A session that blocks the swap.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blocker {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it is logged in as; `None` for a process of the server itself.
    pub role: Option<String>,
    /// Its `application_name`; for a process of the server itself its type, such as `autovacuum worker`.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, ...; hidden by Postgres for sessions of other roles without `pg_read_all_stats`.
    pub state: Option<String>,
    /// When its query began, as text.
    pub since: Option<String>,
    /// For how many seconds its transaction has been open.
    pub seconds: Option<i64>,
    /// The head of its query, without the values of parameters.
    pub query: Option<String>,
    /// A relation that it has locked and others wait for.
    pub relation: Option<String>,
    /// Those of the swap's relations that it has locked; empty when that was not read.
    pub(super) held: Vec<String>,
}

impl Blocker {
    /// Its transaction has been open for a while, or Postgres hides since when (other roles, without `pg_read_all_stats`).
    pub(super) fn stays(&self) -> bool {
        self.seconds.is_none_or(|seconds| seconds >= 1)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (role {}, application {}", self.pid, or_unknown(&self.role), or_unknown(&self.application))?;
        write!(f, ", {}, since {}", or_unknown(&self.state), or_unknown(&self.since))?;
        if let Some(seconds) = self.seconds {
            write!(f, ", open for {seconds} s")?;
        }
        write!(f, ")")?;
        if let Some(relation) = &self.relation {
            write!(f, " on {relation}")?;
        }
        Ok(())
    }
}

/// The sessions, for an error.
pub(super) fn named(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "sessions that ended before they could be identified".to_owned();
    }
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The sessions that a swap may cancel when they block it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CancelBlockers {
    /// Sessions of these roles only.
    pub roles: Vec<String>,
    /// Only transactions that have been open for at least this long.
    pub after: Duration,
}

/// A session that was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct CancelledBlocker {
    /// Its process id in Postgres.
    pub pid: i32,
    /// The role it was logged in as.
    pub role: String,
    /// The session was ended, because it was idle in a transaction; otherwise only its statement was cancelled.
    pub ended: bool,
}

impl fmt::Display for CancelledBlocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, role, ended } = self;
        if *ended {
            write!(f, "ended the session pid {pid} of role {role}, which was idle in a transaction")
        } else {
            write!(f, "cancelled the statement of pid {pid} of role {role}")
        }
    }
}

/// A detail of a session, which Postgres may hide.
pub(super) fn or_unknown(text: &Option<String>) -> &str {
    text.as_deref().filter(|text| !text.is_empty()).unwrap_or("unknown")
}
