//! What is in a file, decompressed on its way. Memory stays flat whatever the size.

use std::{io, pin::Pin};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};
use tokio_util::io::StreamReader;

use super::{File, FileError};

/// Bytes that are handed on at once.
const CHUNK: usize = 64 * 1024;
/// The window that a zstd file may ask for, as a power of two: 8 MiB, which is what level 19 uses.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, also several in a row.
    Gzip,
    /// Zstandard, also several frames in a row.
    Zstd,
}

impl Compression {
    /// What the name says: `.gz` and `.zst` are compressed.
    pub fn of_name(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, "gz")) => Self::Gzip,
            Some((_, "zst")) => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What the first bytes say.
    pub fn of_content(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A stored file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// How many bytes it has, as it is stored.
    pub bytes: u64,
    /// Hexadecimal SHA-256 of them.
    pub sha256: String,
}

/// The content of a file, in chunks of bounded size.
pub struct Content {
    name: String,
    revision: Option<String>,
    compression: Compression,
    reader: Pin<Box<dyn AsyncRead + Send>>,
    fingerprint: oneshot::Receiver<Fingerprint>,
    buffer: Vec<u8>,
}

impl Content {
    /// Begins to read.
    pub fn new(file: File, compression: Compression) -> Self {
        let File { name, revision, bytes } = file;
        let (sender, fingerprint) = oneshot::channel();
        let stored = StreamReader::new(fingerprinted(bytes, sender).boxed());
        let reader: Pin<Box<dyn AsyncRead + Send>> = match compression {
            Compression::None => Box::pin(stored),
            Compression::Gzip => {
                let mut decoder = GzipDecoder::new(stored);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::with_params(stored, &[DParameter::window_log_max(ZSTD_WINDOW_LOG)]);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        };
        Self { name, revision, compression, reader, fingerprint, buffer: vec![0; CHUNK] }
    }

    /// The file's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its server says of exactly this content; see [`File::revision`].
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read on, or not be decompressed.
    pub async fn next(&mut self) -> Result<&[u8], FileError> {
        match self.reader.read(&mut self.buffer).await {
            Ok(count) => Ok(self.buffer.get(..count).unwrap_or_default()),
            Err(error) => Err(self.explained(error)),
        }
    }

    /// Reads to the end and returns the fingerprint.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn into_fingerprint(mut self) -> Result<Option<Fingerprint>, FileError> {
        while !self.next().await?.is_empty() {}
        Ok(self.fingerprint())
    }

    /// The fingerprint of the file, once it was read to its end.
    pub fn fingerprint(mut self) -> Option<Fingerprint> {
        self.fingerprint.try_recv().ok()
    }

    fn explained(&self, error: io::Error) -> FileError {
        match error.downcast::<FileError>() {
            Ok(read) => read,
            Err(error) => {
                let what = self.compression.what();
                let cause = match error.kind() {
                    io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
                    _ => error.to_string(),
                };
                let window = if self.compression == Compression::Zstd { ", without --ultra and --long" } else { "" };
                FileError::lasting(
                    &self.name,
                    format!("it is not a complete {what} file ({cause}); correct csv.compression, or compress it again{window}"),
                )
            }
        }
    }
}

/// The stream, whose fingerprint is sent when it ends well.
fn fingerprinted(
    bytes: impl Stream<Item = Result<Bytes, FileError>> + Send + Unpin + 'static,
    sender: oneshot::Sender<Fingerprint>,
) -> impl Stream<Item = Result<Bytes, FileError>> + Send + 'static {
    stream::unfold((bytes, Sha256::new(), 0_u64, sender), |(mut bytes, mut digest, mut count, sender)| async move {
        let Some(chunk) = bytes.next().await else {
            let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            // Nothing waits for it if reading was given up.
            let _ = sender.send(Fingerprint { bytes: count, sha256 });
            return None;
        };
        if let Ok(chunk) = &chunk {
            digest.update(chunk);
            count = count.saturating_add(chunk.len() as u64);
        }
        Some((chunk, (bytes, digest, count, sender)))
    })
}
