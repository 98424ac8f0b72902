//! Files that imports read: wherever they come from, a stream of bytes that passes by in the chunks in which it arrives.

pub mod content;
pub mod guard;
pub mod http;
pub mod s3;

use std::{error::Error, io};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};

use crate::{classify::Classify, storage::guard::Refusal};

/// A file that is open for reading, still as it is stored.
pub struct File {
    /// Where it is, for people. Holds no secret.
    pub name: String,
    /// What its server says of exactly this content: another content has another revision. None where it says nothing of the kind.
    pub revision: Option<String>,
    /// Its bytes.
    pub bytes: BoxStream<'static, Result<Bytes, FileError>>,
}

impl File {
    /// A file from any stream of bytes.
    pub fn new(name: impl Into<String>, bytes: impl Stream<Item = Result<Bytes, FileError>> + Send + 'static) -> Self {
        Self { name: name.into(), revision: None, bytes: bytes.boxed() }
    }

    /// The same, with its revision. One that is longer than 256 bytes is ignored.
    #[must_use]
    pub fn of_revision(self, revision: Option<String>) -> Self {
        Self { revision: revision.filter(|revision| revision.len() <= 256), ..self }
    }

    /// A file that is in memory already.
    pub fn in_memory(name: impl Into<String>, content: impl Into<Bytes>) -> Self {
        Self::new(name, futures::stream::iter([Ok(content.into())]))
    }
}

/// A file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} cannot be read: {problem}")]
pub struct FileError {
    /// Where it is.
    pub file: String,
    /// The cause and the next step.
    pub problem: String,
    /// It may succeed when it is retried.
    pub transient: bool,
}

impl FileError {
    /// It stays so until a person changes something.
    pub fn lasting(file: &str, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), problem: problem.into(), transient: false }
    }

    /// It may pass.
    pub fn passing(file: &str, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), problem: problem.into(), transient: true }
    }

    /// A request or its answer broke off.
    pub fn of_request(file: &str, error: &(dyn Error + 'static)) -> Self {
        match Refusal::among(error) {
            Some(refusal) => Self::lasting(file, refusal.to_string()),
            None => Self::passing(file, format!("{}; check that its server is up and reachable, then retry", broken(error))),
        }
    }
}

impl Classify for FileError {
    fn is_transient(&self) -> bool {
        self.transient
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::other(error)
    }
}

/// What broke, without addresses and answers: those may hold secrets, and what strangers write.
fn broken(error: &(dyn Error + 'static)) -> String {
    let causes = || std::iter::successors(Some(error), |error| (*error).source());
    let request = causes().find_map(|error| error.downcast_ref::<reqwest::Error>());
    if request.is_some_and(reqwest::Error::is_timeout) {
        return "the server was silent for too long".to_owned();
    }
    let last = causes().last().map(ToString::to_string).unwrap_or_default();
    let what = if request.is_some_and(reqwest::Error::is_connect) { "no connection" } else { "the transfer was interrupted" };
    format!("{what}: {}", crate::text::truncate(&last, 200))
}
