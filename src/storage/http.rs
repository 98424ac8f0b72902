//! Files behind a URL.

use futures::TryStreamExt;
use reqwest::{
    Response, StatusCode, Url, Version,
    header::{self, HeaderName, HeaderValue},
};

use super::{File, FileError};
use crate::{secret::SecretValue, storage::guard::Outbound};

/// Opens the file behind `url`. `header` is sent along, such as `Authorization`.
///
/// # Errors
/// When the URL may not be called, or the answer is no file.
pub async fn open(outbound: &Outbound, url: &str, header: Option<(&str, SecretValue)>) -> Result<File, FileError> {
    let admitted = outbound.admit(url).map_err(|refusal| FileError::lasting("the file of csv.url", refusal.to_string()))?;
    let name = without_secrets(&admitted);
    let mut request = outbound.file(url).map_err(|refusal| FileError::lasting(&name, refusal.to_string()))?;
    if let Some((key, value)) = header {
        let problem = "the request header cannot be sent; correct csv.requestHeader and its Secret: a name of letters and dashes, a value of one line";
        let key = HeaderName::try_from(key).map_err(|_| FileError::lasting(&name, problem))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| FileError::lasting(&name, problem))?;
        value.set_sensitive(true);
        request = request.header(key, value);
    }
    let answer = request.send().await.map_err(|error| FileError::of_request(&name, &error))?;
    accept(&name, &answer)?;
    let (of, revision) = (name.clone(), revision(&answer));
    Ok(File::new(name, answer.bytes_stream().map_err(move |error| FileError::of_request(&of, &error))).of_revision(revision))
}

/// The entity tag, unless it is weak, as several contents may share a weak one.
fn revision(answer: &Response) -> Option<String> {
    let tag = answer.headers().get(header::ETAG)?.to_str().ok()?;
    tag.starts_with('"').then(|| tag.to_owned())
}

/// The address without what may be secret: user, password, query and fragment.
fn without_secrets(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Only a complete file counts: an answer without a length could be truncated unnoticed.
fn accept(name: &str, answer: &Response) -> Result<(), FileError> {
    let status = answer.status();
    let lasting = |next: &str| Err(FileError::lasting(name, format!("the server answered {status}; {next}")));
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return lasting("correct csv.requestHeader or its Secret"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            return Err(FileError::passing(name, format!("the server answered {status}; retry later")));
        }
        _ if status.is_redirection() => return lasting("redirects are not followed: write the address of the file itself into csv.url"),
        _ if status.is_server_error() => {
            return Err(FileError::passing(name, format!("the server answered {status}; check the server, then retry")));
        }
        _ => return lasting("correct csv.url, or upload the file"),
    }
    if let Some(encoding) = answer.headers().get(header::CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
        let encoding = encoding.to_str().unwrap_or("unknown");
        return Err(FileError::lasting(
            name,
            format!(
                "the server sends it encoded ({}), which was not requested; configure it to send the file as it is",
                crate::text::truncate(encoding, 32)
            ),
        ));
    }
    let ends_by_itself = answer.version() >= Version::HTTP_2
        || answer.headers().contains_key(header::CONTENT_LENGTH)
        || answer.headers().contains_key(header::TRANSFER_ENCODING);
    if !ends_by_itself {
        return Err(FileError::lasting(
            name,
            "the server does not send Content-Length, so a truncated file would go unnoticed; make it send that header",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_url_holds_no_secret() {
        let url = Url::parse("https://user:canary@example.org:8443/a/b.csv.gz?token=canary#canary").unwrap();
        assert_eq!(without_secrets(&url), "https://example.org:8443/a/b.csv.gz");
    }
}
