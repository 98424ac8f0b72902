//! What the server's error codes mean: the one list of those that are retried, and the few codes that are handled by name.

use std::borrow::Cow;

use crate::classify::Classify;

/// The transaction may not write: a check that tries to, or a server that has become a standby.
pub(super) const READ_ONLY: &str = "25006";
/// This transaction was the one that a deadlock cost.
pub(super) const DEADLOCK: &str = "40P01";
/// The relation, or another object, does not exist; a relation has that name already.
pub(super) const UNDEFINED_TABLE: &str = "42P01";
pub(super) const UNDEFINED_OBJECT: &str = "42704";
pub(super) const DUPLICATE_TABLE: &str = "42P07";
/// A row has the unique key of another.
pub(super) const UNIQUE_VIOLATION: &str = "23505";
/// Something depends on what is to be dropped.
pub(super) const DEPENDENTS_EXIST: &str = "2BP01";
/// What a class of errors that [`is_about_data`] knows is called in PL/pgSQL.
pub(super) const ABOUT_DATA: &str =
    "data_exception OR integrity_constraint_violation OR program_limit_exceeded OR plpgsql_error OR internal_error";

/// Whole classes that pass by themselves: connection exceptions, transactions that were rolled back (serialisation, deadlock),
/// operator intervention (shutdown, cancel), errors of the system below the server.
const CLASSES: [&str; 4] = ["08", "40", "57", "58"];
/// Single codes that do, beside their class.
const CODES: [&str; 12] = [
    READ_ONLY, // a pooled session to a primary that was demoted
    "25P03",   // idle_in_transaction_session_timeout
    "25P04",   // transaction_timeout
    "28000",   // the password was rotated, or the role is just being created
    "28P01", "53000", // insufficient resources; not 53400, a limit that the same statement meets again (temp_file_limit)
    "53100", "53200", "53300",
    "55006", // object in use; the rest of class 55 is about a state that stays (a view that was never filled)
    "55P03", // lock not available
    "72000", // snapshot too old
];
/// Internal errors (XX000) that another session's DDL causes. They are not translated.
const RACES: [&str; 4] =
    ["tuple concurrently updated", "tuple concurrently deleted", "could not open relation with OID", "cache lookup failed"];

/// The server's code, if the server said anything.
pub(super) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(|error| error.code())
}

/// Lock not available, deadlock detected, query cancelled (by the statement timeout): others are using it.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("55P03" | DEADLOCK | "57014"))
}

/// The database refuses a row, and not the statement: data exceptions, violated constraints, limits of a value, and the errors that
/// functions raise, for PostGIS reports broken geometries as internal errors. See [`ABOUT_DATA`].
pub(super) fn is_about_data(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| ["22", "23", "54", "P0", "XX000"].iter().any(|class| code.starts_with(class)))
}

/// The statement itself is to blame, in a transaction that was opened read-only: it is wrong, or it tries to write.
pub(crate) fn is_to_blame(error: &sqlx::Error) -> bool {
    !error.is_transient() || code(error).as_deref() == Some(READ_ONLY)
}

fn passes(code: &str, message: &str) -> bool {
    // HV00N: a foreign server cannot be reached.
    CLASSES.iter().any(|class| code.starts_with(class))
        || CODES.contains(&code)
        || code == "HV00N"
        || (code == "XX000" && RACES.iter().any(|race| message.contains(race)))
        || (code == "55000" && message.contains("recovery is in progress"))
}

impl Classify for sqlx::Error {
    /// What the server says of the statement is final, unless its code is in the list; without a server's word it is the connection.
    fn is_transient(&self) -> bool {
        self.as_database_error().is_none_or(|error| passes(&error.code().unwrap_or_default(), error.message()))
    }

    fn sentence(&self) -> String {
        match self.as_database_error() {
            Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().unwrap_or_default()),
            None => format!("database: {self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn what_passes_by_itself() {
        let passing = [
            "08006", "25006", "25P03", "25P04", "28000", "28P01", "40001", "40P01", "53100", "53300", "55006", "55P03", "57014", "57P01",
            "57P03", "58030", "72000", "HV00N",
        ];
        for code in passing {
            assert!(passes(code, ""), "{code}");
        }
        // A failed transaction, a missing database, a limit that is met again, a view that was never filled, wrong SQL, damage.
        for code in ["25P02", "3D000", "53400", "55000", "42P01", "42501", "22012", "23505", "0A000", "XX000", "XX001", ""] {
            assert!(!passes(code, "the message"), "{code}");
        }
        assert!(passes("XX000", "tuple concurrently updated"));
        assert!(passes("55000", "recovery is in progress"));
    }
}
