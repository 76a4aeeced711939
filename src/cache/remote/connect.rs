//! From a URL to something that holds objects: schemes, credentials, time limits, TLS.

use super::RemoteSettings;
use super::fault::{Cause, RemoteFault};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, HeaderMap, HeaderValue, ObjectStore,
    ObjectStoreScheme, RetryConfig,
};
use std::time::Duration;
use url::{Host, Position, Url};

/// A remote's URL, understood.
#[derive(Debug)]
pub(super) struct Target {
    url: Url,
    scheme: ObjectStoreScheme,
    /// Where everything lies below.
    pub prefix: Path,
}

/// What a connection is for, which decides how long it may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Answers are small or flow.
    Read,
    /// A request may take this long to be sent.
    Write(Duration),
}

impl Target {
    pub fn parse(text: &str, settings: &RemoteSettings) -> Result<Target, RemoteFault> {
        let wrong = |url: String, why: &str| RemoteFault::Url {
            url,
            why: why.into(),
        };
        let url = Url::parse(text).map_err(|e| {
            let why = match e {
                url::ParseError::RelativeUrlWithoutBase => "it has no scheme".into(),
                e => e.to_string(),
            };
            // What cannot be parsed may hold a password anywhere.
            let shown = text.rsplit('@').next().unwrap_or_default();
            let shown = shown.split(['?', '#']).next().unwrap_or_default();
            wrong(shown.into(), &why)
        })?;
        let mut shown = url.clone();
        let secret = url.password().is_some();
        let _ = shown.set_password(None);
        shown.set_query(None);
        shown.set_fragment(None);
        let web = matches!(url.scheme(), "http" | "https");
        if secret || (web && !url.username().is_empty()) {
            let _ = shown.set_username("");
            return Err(wrong(
                shown.into(),
                "credentials in a URL end up in logs; give the header `Authorization` in TRTMUT_CACHE_AUTHORIZATION",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                shown.into(),
                "it has a query or a fragment, to which no path can be added",
            ));
        }
        // Engines are code, and credentials would be readable on the way.
        if url.scheme() == "http" && !settings.allow_http && !is_loopback(&url) {
            return Err(RemoteFault::PlainHttp { url: shown.into() });
        }
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| match e.to_string() {
            unknown if unknown.contains("recognise") => {
                wrong(shown.to_string(), "nothing here speaks to such a place")
            }
            path => wrong(shown.to_string(), &path),
        })?;
        if scheme == ObjectStoreScheme::Memory {
            return Err(wrong(shown.into(), "nothing here speaks to such a place"));
        }
        Ok(Target {
            url,
            scheme,
            prefix,
        })
    }

    /// The URL without what follows the host, and without the slash at its end.
    pub fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// Whether an object can only be sent in one request.
    pub fn whole_only(&self) -> bool {
        self.scheme == ObjectStoreScheme::Http
    }

    pub fn connect(
        &self,
        settings: &RemoteSettings,
        purpose: Purpose,
    ) -> Result<Box<dyn ObjectStore>, RemoteFault> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                // The crate's own pauses grow to 15 seconds, half of the time limit that is set by default.
                max_backoff: Duration::from_secs(3),
                ..BackoffConfig::default()
            },
            max_retries: 3,
            retry_timeout: settings.timeout,
        };
        let limits = limits(settings, purpose);
        // Only the first one counts, and there is no other in this program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = self.url.to_string();
        let connected: object_store::Result<Box<dyn ObjectStore>> = match self.scheme {
            ObjectStoreScheme::AmazonS3 => {
                let builder = AmazonS3Builder::from_env().with_url(url);
                let builder = plain_on_loopback(builder, settings)?;
                (limits.into_iter())
                    .fold(builder, |b, (k, v)| {
                        b.with_config(AmazonS3ConfigKey::Client(k), v)
                    })
                    .with_retry(retry)
                    .build()
                    .map(|s| Box::new(s) as _)
            }
            ObjectStoreScheme::GoogleCloudStorage => limits
                .into_iter()
                .fold(
                    GoogleCloudStorageBuilder::from_env().with_url(url),
                    |b, (k, v)| b.with_config(GoogleConfigKey::Client(k), v),
                )
                .with_retry(retry)
                .build()
                .map(|s| Box::new(s) as _),
            ObjectStoreScheme::MicrosoftAzure => limits
                .into_iter()
                .fold(
                    MicrosoftAzureBuilder::from_env().with_url(url),
                    |b, (k, v)| b.with_config(AzureConfigKey::Client(k), v),
                )
                .with_retry(retry)
                .build()
                .map(|s| Box::new(s) as _),
            // Synced, since others rely on what a record names as soon as they see it.
            ObjectStoreScheme::Local => Ok(Box::new(LocalFileSystem::new().with_fsync(true)) as _),
            _ => {
                let options = ClientOptions::new()
                    .with_allow_http(self.url.scheme() == "http")
                    .with_default_headers(self.headers(settings)?);
                let options = limits
                    .into_iter()
                    .fold(options, |o, (k, v)| o.with_config(k, v));
                HttpBuilder::new()
                    .with_url(&self.url[..Position::BeforePath])
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map(|s| Box::new(s) as _)
            }
        };
        connected.map_err(|e| RemoteFault::Failed {
            action: "use",
            url: self.shown().into(),
            source: Cause::of(&e),
        })
    }

    fn headers(&self, settings: &RemoteSettings) -> Result<HeaderMap, RemoteFault> {
        let mut headers = HeaderMap::new();
        if let Some(text) = &settings.authorization {
            let mut value = HeaderValue::from_str(text).map_err(|_| RemoteFault::Url {
                url: self.shown().into(),
                why: "TRTMUT_CACHE_AUTHORIZATION holds what a header cannot".into(),
            })?;
            // Debug output of the client shows headers, but for sensitive ones.
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        Ok(headers)
    }
}

/// An S3 server on this machine may be spoken to without TLS, as a web server may; one elsewhere only where the user said so.
fn plain_on_loopback(
    builder: AmazonS3Builder,
    settings: &RemoteSettings,
) -> Result<AmazonS3Builder, RemoteFault> {
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let Some(endpoint) = endpoint.and_then(|text| Url::parse(&text).ok()) else {
        return Ok(builder);
    };
    if endpoint.scheme() != "http" || settings.allow_http {
        return Ok(builder);
    }
    if is_loopback(&endpoint) {
        return Ok(builder.with_allow_http(true));
    }
    let mut shown = endpoint;
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    Err(RemoteFault::PlainHttp { url: shown.into() })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Time limits of one request. They are the crate's settings by name, since setting its options whole would drop those that
/// it took from the environment (proxies, plain HTTP).
fn limits(settings: &RemoteSettings, purpose: Purpose) -> Vec<(ClientConfigKey, String)> {
    let text = |d: Duration| format!("{} ms", d.as_millis().max(1));
    let mut limits = vec![(ClientConfigKey::ConnectTimeout, text(settings.timeout / 3))];
    match purpose {
        Purpose::Read => {
            // A third, so that a lost connection is tried again before the time is over.
            limits.push((ClientConfigKey::ReadTimeout, text(settings.timeout / 3)));
            // A download may take long as long as it flows; its whole time is bounded by who asks for it.
            limits.push((ClientConfigKey::Timeout, text(Duration::from_hours(24))));
        }
        // A read limit would count while the request is still being sent.
        Purpose::Write(whole) => limits.push((ClientConfigKey::Timeout, text(whole))),
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, RemoteFault> {
        Target::parse(url, &RemoteSettings::default())
    }

    #[test]
    fn schemes_and_prefixes() {
        for (url, scheme, prefix) in [
            ("s3://bucket", ObjectStoreScheme::AmazonS3, ""),
            ("s3://bucket/a/b/", ObjectStoreScheme::AmazonS3, "a/b"),
            ("gs://bucket/a", ObjectStoreScheme::GoogleCloudStorage, "a"),
            ("az://container/a", ObjectStoreScheme::MicrosoftAzure, "a"),
            ("https://host/a/b", ObjectStoreScheme::Http, "a/b"),
            ("http://127.0.0.1:8080/a", ObjectStoreScheme::Http, "a"),
            ("http://localhost/a", ObjectStoreScheme::Http, "a"),
            ("http://[::1]/a", ObjectStoreScheme::Http, "a"),
            ("file:///a/b", ObjectStoreScheme::Local, "a/b"),
        ] {
            let target = parse(url).unwrap();
            assert_eq!(target.scheme, scheme, "{url}");
            assert_eq!(target.prefix.as_ref(), prefix, "{url}");
            assert_eq!(target.shown(), url.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_cannot_be_a_remote_is_refused_without_showing_secrets() {
        for url in [
            "bucket/prefix",
            "/folder",
            "",
            "ftp://host/a",
            "memory:///a",
            "file://host/a",
            "https://me:hunter2@host/a",
            "https://hunter2@host/a",
            "https://host/a?sig=hunter2",
            "https://host/a#hunter2",
            "https://me:hunter2@host:port/a",
            "https://host:port/a?sig=hunter2",
        ] {
            let fault = parse(url).unwrap_err();
            assert!(matches!(fault, RemoteFault::Url { .. }), "{url}: {fault:?}");
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for url in [
            "http://host/a",
            "http://10.0.0.1/a",
            "http://127.0.0.1.example/a",
        ] {
            let fault = parse(url).unwrap_err();
            assert!(matches!(fault, RemoteFault::PlainHttp { .. }), "{url}");
            let allowed = RemoteSettings {
                allow_http: true,
                ..RemoteSettings::default()
            };
            assert!(Target::parse(url, &allowed).is_ok());
        }
    }

    #[test]
    fn every_scheme_can_be_connected_to() {
        // Nothing is sent by that; the clouds' keys come from the environment, which Azure wants already here.
        for url in [
            "s3://b/p",
            "http://127.0.0.1/p",
            "https://host/p",
            "file:///p",
        ] {
            for purpose in [Purpose::Read, Purpose::Write(Duration::from_secs(1))] {
                parse(url)
                    .unwrap()
                    .connect(&RemoteSettings::default(), purpose)
                    .unwrap();
            }
        }
    }
}
