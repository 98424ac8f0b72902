//! Requests to addresses that a Portal names: redirects are not followed, and addresses of the host itself, link-local ones and those
//! of clouds' metadata services are refused, after DNS too, unless the installation allows them.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector},
};
use reqwest::{
    Method, RequestBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a server of files, before an answer and inside it. There is no limit on the whole of it.
pub const STALL: Duration = Duration::from_secs(60);
/// Metadata services of clouds outside of 169.254.0.0/16: Alibaba, Azure, and AWS by IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// An address that is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no URL.
    #[error("the URL is not valid ({0}); correct it in the Portal")]
    Invalid(String),
    /// It is neither `http` nor `https`.
    #[error("the URL begins with {0}:, and only http: and https: are allowed; correct it in the Portal")]
    Scheme(String),
    /// It is local to the host or a metadata service.
    #[error(
        "{host} is a local address ({address}), which the operator may not call; use another, or start the operator with --allow-local-addresses"
    )]
    Local {
        /// The name.
        host: String,
        /// What it resolves to.
        address: IpAddr,
    },
}

impl Refusal {
    /// The refusal among the causes of an error.
    pub fn among<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
    }
}

/// The clients for all of these requests. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    files: reqwest::Client,
    checks: reqwest::Client,
    allow_local: bool,
    stall: Duration,
}

impl Outbound {
    /// Clients of which the one for files gives up after a silence of `stall`, see [`STALL`].
    ///
    /// # Errors
    /// When the system's CA certificates cannot be read.
    pub fn new(allow_local: bool, stall: Duration) -> Result<Self, reqwest::Error> {
        // reqwest is built without a TLS provider of its own. A second installation is refused, which is what we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let files = client(allow_local, stall).read_timeout(stall).build()?;
        Ok(Self { files, checks: for_checks(allow_local, stall).build()?, allow_local, stall })
    }

    /// The same, whose checks also trust the CA certificates of a PEM text.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn trusting(&self, pem: &[u8]) -> Result<Self, reqwest::Error> {
        let mut builder = for_checks(self.allow_local, self.stall);
        let certificates = reqwest::Certificate::from_pem_bundle(pem)?;
        if certificates.is_empty() {
            // The words for a text that is no certificate.
            reqwest::Certificate::from_pem(pem)?;
        }
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(Self { checks: builder.build()?, ..self.clone() })
    }

    /// The longest silence of a server of files.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// The URL, when it may be called as far as it shows. What its name resolves to is checked when it is called.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn admit(&self, url: &str) -> Result<Url, Refusal> {
        let url = Url::parse(url).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme(url.scheme().to_owned()));
        }
        let host = url.host_str().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        match literal {
            Some(address) if !self.allow_local && is_local(address) => Err(Refusal::Local { host: host.to_owned(), address }),
            _ => Ok(url),
        }
    }

    /// A request for a file at an admitted URL.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn file(&self, url: &str) -> Result<RequestBuilder, Refusal> {
        Ok(self.files.request(Method::GET, self.admit(url)?))
    }

    /// The request of a check or a hook to an admitted URL. Only the timeout that it gets itself limits it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check(&self, method: Method, url: &str) -> Result<RequestBuilder, Refusal> {
        Ok(self.checks.request(method, self.admit(url)?))
    }
}

/// How every client of these requests is made.
fn client(allow_local: bool, stall: Duration) -> reqwest::ClientBuilder {
    let mut http = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .user_agent(concat!("portal-release-operator/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT.min(stall));
    if !allow_local {
        http = http.dns_resolver(Arc::new(Guarded));
    }
    http
}

/// A check is sent to its target itself: a proxy's answer is not that of the target, and what it connects to is not guarded.
fn for_checks(allow_local: bool, stall: Duration) -> reqwest::ClientBuilder {
    client(allow_local, stall).no_proxy()
}

/// Object stores are reached through the same client as files.
impl HttpConnector for Outbound {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.files.clone()))
    }
}

/// Resolves names as the system does, and refuses those that resolve to a local address.
struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            match found.iter().map(SocketAddr::ip).find(|address| is_local(*address)) {
                Some(address) => Err(Refusal::Local { host, address }.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

fn is_local(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_broadcast() || v4.is_multicast() || v4.octets().first() == Some(&0)
        }
        IpAddr::V6(v6) => {
            let embedded = match v6.segments() {
                // Mapped, compatible, and NAT64.
                [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
                    let [.., a, b, c, d] = v6.octets();
                    is_local(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
                }
                _ => false,
            };
            embedded || v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_and_of_clouds_are_local() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "::7f00:1",
        ] {
            assert!(is_local(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "172.20.0.1", "1.1.1.1", "fd12:3456::1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(!is_local(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_a_url_shows_is_refused_before_it_is_called() {
        let guarded = Outbound::new(false, STALL).unwrap();
        for (url, says) in [
            ("http://127.0.0.1:1/x", "local address"),
            ("http://2130706433/", "local address"),
            ("http://0x7f.1/", "local address"),
            ("http://[::ffff:127.0.0.1]/", "local address"),
            ("http://169.254.169.254/latest/meta-data", "local address"),
            ("file:///etc/passwd", "only http: and https:"),
            ("http://", "not valid"),
        ] {
            let refusal = guarded.admit(url).unwrap_err().to_string();
            assert!(refusal.contains(says), "{url}: {refusal}");
        }
        assert!(guarded.admit("https://example.org/x").is_ok());
        assert!(Outbound::new(true, STALL).unwrap().admit("http://127.0.0.1:1/x").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_local_address_is_refused() {
        let outbound = Outbound::new(false, STALL).unwrap();
        for request in [outbound.file("http://localhost:1/"), outbound.check(Method::GET, "http://localhost:1/")] {
            let error = request.unwrap().send().await.unwrap_err();
            assert!(matches!(Refusal::among(&error), Some(Refusal::Local { host, .. }) if host == "localhost"), "{error:?}");
        }
    }
}
