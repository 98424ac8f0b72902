//! Files in an S3-compatible object store.

use std::{collections::BTreeMap, error::Error as _, sync::Arc};

use futures::TryStreamExt;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
    prefix::PrefixStore,
};

use super::{File, FileError};
use crate::storage::guard::Outbound;

/// Opens `s3://bucket/prefix` with the Secret's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where it applies,
/// `AWS_SESSION_TOKEN`, `AWS_REGION` and `AWS_ENDPOINT_URL`. Unencrypted HTTP only when the endpoint says `http://`.
///
/// # Errors
/// When the URL is none, a key is missing from the Secret, or the endpoint may not be called.
pub fn open(outbound: &Outbound, url: &str, secrets: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>, FileError> {
    let wrong = |problem: &str| FileError::lasting(&format!("object store {url}"), problem);
    let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("the URL must look like s3://bucket/prefix; correct it in the Portal"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let secret = |key: &str| secrets.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    let required = |key: &str| secret(key).ok_or_else(|| wrong(&format!("its Secret has no {key}; add it")));
    let mut builder = AmazonS3Builder::new()
        .with_http_connector(outbound.clone())
        .with_retry(RetryConfig { retry_timeout: outbound.stall(), ..RetryConfig::default() })
        .with_bucket_name(bucket)
        .with_access_key_id(required("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(required("AWS_SECRET_ACCESS_KEY")?)
        .with_region(secret("AWS_REGION").unwrap_or("us-east-1"));
    if let Some(token) = secret("AWS_SESSION_TOKEN") {
        builder = builder.with_config(AmazonS3ConfigKey::Token, token);
    }
    if let Some(endpoint) = secret("AWS_ENDPOINT_URL") {
        let refused = |refusal| wrong(&format!("its Secret's AWS_ENDPOINT_URL: {refusal}"));
        outbound.admit(endpoint).map_err(refused)?;
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = builder.build().map_err(|error| wrong(&format!("{error}; correct its Secret or its URL")))?;
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| wrong(&format!("{error}; correct it in the Portal")))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

/// Opens an object of the store at `url`. An interrupted transfer resumes where it stopped as long as the object is unchanged.
///
/// # Errors
/// When it is not there, not for us, or the store does not answer.
pub async fn read(store: &dyn ObjectStore, url: &str, key: &str) -> Result<File, FileError> {
    let name = format!("{}/{key}", url.trim_end_matches('/'));
    let path = Path::parse(key).map_err(|error| FileError::lasting(&name, format!("{error}; correct csv.path in the Portal")))?;
    let found = store.get(&path).await.map_err(|error| explained(&name, error))?;
    let (of, size) = (name.clone(), found.meta.size);
    let revision = found.meta.e_tag.as_ref().map(|tag| format!("{tag} {size}"));
    Ok(File::new(name, found.into_stream().map_err(move |error| explained(&of, error))).of_revision(revision))
}

/// The store's own text is not repeated: it may be long, and contains the access key's name.
fn explained(name: &str, error: Error) -> FileError {
    match &error {
        Error::NotFound { .. } => FileError::lasting(
            name,
            "there is no such bucket or object; correct the object store's url or csv.path, or upload it, then retry",
        ),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FileError::lasting(
            name,
            "the object store refuses the access key; correct the object store's Secret, or let the key read the object, then retry",
        ),
        Error::Precondition { .. } => FileError::passing(name, "it was replaced while it was read; retry"),
        _ => match status(&error) {
            Some(status) => FileError::passing(
                name,
                format!("the object store answered {status}; check the store, its region and its Secret, then retry"),
            ),
            None => FileError::of_request(name, error.source().unwrap_or(&error)),
        },
    }
}

/// The HTTP status of an answer. The crate keeps it to itself, but says it.
fn status(error: &Error) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status code: ")?;
    Some(rest.chars().take_while(char::is_ascii_digit).collect())
}
