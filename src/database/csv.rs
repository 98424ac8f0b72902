//! CSV files in an object store, streamed through COPY. Bytes pass by in the chunks in which they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::checks::reason;
use super::import::{ImportError, Target, match_columns, quoted};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence in a download. There is no limit on the whole of it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HEADER_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A CSV file that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// The object store is not configured completely.
    #[error("object store {url}: {problem}")]
    Store {
        /// The store's URL.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The object cannot be read.
    #[error("import {import}: object {object} cannot be read: {source}; check the path, the store and its Secret, then retry")]
    Read {
        /// Name of the import.
        import: String,
        /// The object's key.
        object: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The header cannot be understood.
    #[error(
        "import {import}: the header of {object} {problem}; write the file's column names into its first line, as comma separated UTF-8"
    )]
    Header {
        /// Name of the import.
        import: String,
        /// The object's key.
        object: String,
        /// What is wrong.
        problem: String,
    },
    /// The header does not fit the target.
    #[error("object {object}: {source}")]
    Columns {
        /// The object's key.
        object: String,
        /// What does not fit.
        source: Box<ImportError>,
    },
    /// A line is wrong.
    #[error("import {import}: object {object} was refused: {}; correct the file, nothing of it was imported", reason(.source))]
    Content {
        /// Name of the import.
        import: String,
        /// The object's key.
        object: String,
        /// What the database said, with line and column.
        source: sqlx::Error,
    },
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Loaded {
    /// How many rows.
    pub rows: u64,
    /// How many bytes the object has.
    pub bytes: u64,
    /// Hexadecimal SHA-256 of the object.
    pub sha256: String,
}

/// Opens `s3://bucket/prefix` with the Secret's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where it applies,
/// `AWS_SESSION_TOKEN`, `AWS_REGION` and `AWS_ENDPOINT_URL`. Unencrypted HTTP only when the endpoint says `http://`.
///
/// # Errors
/// When the URL is none, or a key is missing from the Secret.
pub fn open(url: &str, secrets: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, CsvError> {
    let wrong = |problem: &str| CsvError::Store { url: url.to_owned(), problem: problem.to_owned() };
    let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("the URL must look like s3://bucket/prefix; correct it in the Portal"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let secret = |key: &str| secrets.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    let required = |key: &str| secret(key).ok_or_else(|| wrong(&format!("its Secret has no {key}; add it")));
    // reqwest is built without a TLS provider of its own. A second installation is refused, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT).with_read_timeout(READ_TIMEOUT);
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_retry(RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() })
        .with_bucket_name(bucket)
        .with_access_key_id(required("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(required("AWS_SECRET_ACCESS_KEY")?)
        .with_region(secret("AWS_REGION").unwrap_or("us-east-1"));
    if let Some(token) = secret("AWS_SESSION_TOKEN") {
        builder = builder.with_config(AmazonS3ConfigKey::Token, token);
    }
    if let Some(endpoint) = secret("AWS_ENDPOINT_URL") {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build().map_err(|error| wrong(&format!("{error}; correct its Secret or its URL")))?;
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| wrong(&format!("{error}; correct it in the Portal")))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

/// Loads the object into the target. Its first line names the target's columns.
///
/// On an error nothing remains once the caller rolls its transaction back. A future that is dropped halfway leaves the
/// connection in the middle of a COPY: close it.
///
/// # Errors
/// With the object, and the line and column where Postgres knows them.
pub async fn load(conn: &mut PgConnection, target: Target<'_>, store: &dyn ObjectStore, object: &str) -> Result<Loaded, CsvError> {
    let read = |source| CsvError::Read { import: target.import.to_owned(), object: object.to_owned(), source };
    let path = Path::parse(object).map_err(|source| read(source.into()))?;
    let found = store.get(&path).await.map_err(read)?;
    load_stream(conn, target, object, found.into_stream()).await
}

/// Like [`load`], from any stream of bytes.
///
/// # Errors
/// With the object, and the line and column where Postgres knows them.
pub async fn load_stream<S, B>(conn: &mut PgConnection, target: Target<'_>, object: &str, mut stream: S) -> Result<Loaded, CsvError>
where
    S: Stream<Item = Result<B, object_store::Error>> + Unpin,
    B: AsRef<[u8]>,
{
    let read = |source| CsvError::Read { import: target.import.to_owned(), object: object.to_owned(), source };
    let refused = |source| CsvError::Content { import: target.import.to_owned(), object: object.to_owned(), source };
    let bad_header = |problem| CsvError::Header { import: target.import.to_owned(), object: object.to_owned(), problem };

    let mut head = Vec::new();
    while header_end(&head).is_none() && head.len() <= MAX_HEADER_BYTES {
        match stream.next().await {
            Some(chunk) => head.extend_from_slice(chunk.map_err(read)?.as_ref()),
            None => break,
        }
    }
    let columns = parse_header(&head).map_err(bad_header)?;
    match_columns(conn, target, &columns)
        .await
        .map_err(|source| CsvError::Columns { object: object.to_owned(), source: Box::new(source) })?;

    let mut digest = Sha256::new_with_prefix(&head);
    let mut bytes = head.len() as u64;
    // The header is sent too, so that Postgres counts lines as an editor does; it skips the line unread.
    let copy = format!("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER true, ENCODING 'UTF8')", target.relation(), quoted(&columns, ""));
    let mut copy = conn.copy_in_raw(&copy).await.map_err(refused)?;
    copy.send(head.as_slice()).await.map_err(refused)?;
    let mut interrupted = None;
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                digest.update(chunk.as_ref());
                bytes += chunk.as_ref().len() as u64;
                copy.send(chunk.as_ref()).await.map_err(refused)?;
            }
            Err(error) => {
                interrupted = Some(error);
                // No encoding accepts a NUL, so the COPY fails whatever came before, and nobody can commit the half.
                // `abort` would leave a reply unread when the server has already found a bad line.
                copy.send([0_u8].as_slice()).await.map_err(refused)?;
                break;
            }
        }
    }
    let finished = copy.finish().await;
    if let Some(error) = interrupted {
        return Err(read(error));
    }
    let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Loaded { rows: finished.map_err(refused)?, bytes, sha256 })
}

/// Where the first line ends that is not inside quotes.
fn header_end(bytes: &[u8]) -> Option<usize> {
    let mut in_quotes = false;
    bytes.iter().position(|byte| {
        in_quotes ^= *byte == b'"';
        !in_quotes && matches!(byte, b'\n' | b'\r')
    })
}

/// The column names of the first line, as COPY would read them.
fn parse_header(bytes: &[u8]) -> Result<Vec<String>, String> {
    if bytes.is_empty() {
        return Err("is missing: the object is empty".to_owned());
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let end = header_end(bytes).unwrap_or(bytes.len());
    if end > MAX_HEADER_BYTES {
        return Err(format!("is longer than {MAX_HEADER_BYTES} bytes"));
    }
    let line = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).map_err(|_| "is not UTF-8".to_owned())?;
    let (mut names, mut name, mut in_quotes) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if in_quotes && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => names.push(std::mem::take(&mut name)),
            other => name.push(other),
        }
    }
    names.push(name);
    if in_quotes {
        return Err("has a quote that is never closed".to_owned());
    }
    match names.iter().position(String::is_empty) {
        Some(at) => Err(format!("has no name for column {}", at + 1)),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_like_csv() {
        let read = |text: &str| parse_header(text.as_bytes());
        let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(read("a,b\n1,2\n"), names(&["a", "b"]));
        assert_eq!(read("\u{feff}a,b\r\n1,2\r\n"), names(&["a", "b"]));
        assert_eq!(read("\"a,\"\"x\"\"\",\"b\nc\"\n"), names(&["a,\"x\"", "b\nc"]));
        assert_eq!(read("only"), names(&["only"]));
        assert_eq!(read(""), Err("is missing: the object is empty".to_owned()));
        assert_eq!(read("a,,b\n"), Err("has no name for column 2".to_owned()));
        assert_eq!(read("\n1\n"), Err("has no name for column 1".to_owned()));
        assert_eq!(read("\"a,b\n"), Err("has a quote that is never closed".to_owned()));
        assert_eq!(parse_header(b"\xff,b\n"), Err("is not UTF-8".to_owned()));
        assert!(read(&"a".repeat(MAX_HEADER_BYTES + 1)).is_err_and(|problem| problem.contains("longer")));
    }
}
