//! Errors that know whether they may pass by themselves.

/// An error that knows whether the same work may succeed later without anyone changing anything.
pub trait Classify: std::error::Error {
    /// It may pass by itself: trying again is worth it.
    fn is_transient(&self) -> bool;

    /// The error for people.
    fn sentence(&self) -> String {
        self.to_string()
    }
}
