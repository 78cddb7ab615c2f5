//! Connections between coordinator and workers: bounded waits, and mutual TLS.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use datafusion::common::{DataFusionError, exec_datafusion_err};
use datafusion_distributed::{ChannelResolver, WorkerChannel, grpc};
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};
use url::{Host, Url};

/// A worker that does not take a connection in this time is not there.
pub const CONNECT: Duration = Duration::from_secs(2);
/// How often the other end is asked whether it lives, and how long it may take to say so.
pub const ALIVE_EVERY: Duration = Duration::from_secs(3);
/// See [`ALIVE_EVERY`].
pub const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Who may reach whom.
#[derive(Args, Clone, Debug, Default)]
pub struct Access {
    /// This end's certificate, PEM; for both uses, server and client: workers also connect to one another.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "tls_ca")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM, readable by its owner only.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authority that signed the certificates of coordinator and workers, PEM. Whoever it signs may ask anything.
    #[arg(long, alias = "client-ca", value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Allows plain connections beyond this machine: every row is open to whoever reaches a worker or listens.
    #[arg(long)]
    pub insecure_network: bool,
}

/// Why a connection is refused before it is made. Names the option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A file of keys cannot be used.
    #[error("{option} {path}: {why}")]
    File {
        /// Its option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// In one sentence.
        why: String,
    },
    /// Not the address of a worker.
    #[error("--workers {url}: {why}")]
    Url {
        /// As given.
        url: String,
        /// In one sentence.
        why: &'static str,
    },
}

/// Certificates and key of one end.
#[derive(Clone)]
pub struct Tls {
    identity: Identity,
    authority: Certificate,
}

impl Access {
    /// Reads certificates and key, if there are any.
    ///
    /// # Errors
    /// [`LinkError::File`].
    pub fn tls(&self) -> Result<Option<Tls>, LinkError> {
        let (Some(cert), Some(key), Some(ca)) = (&self.tls_cert, &self.tls_key, &self.tls_ca)
        else {
            return Ok(None);
        };
        let certificate = read("--tls-cert", cert, "CERTIFICATE")?;
        let authority = read("--tls-ca", ca, "CERTIFICATE")?;
        let secret = read("--tls-key", key, "PRIVATE KEY")?;
        let mode = std::fs::metadata(key).map_or(0, |m| m.permissions().mode());
        if mode & 0o077 != 0 {
            return Err(LinkError::File {
                option: "--tls-key",
                path: key.clone(),
                why: format!("others may read it (mode {:03o}); chmod 600", mode & 0o777),
            });
        }
        Ok(Some(Tls {
            identity: Identity::from_pem(certificate, secret),
            authority: Certificate::from_pem(authority),
        }))
    }
}

fn read(option: &'static str, path: &Path, kind: &str) -> Result<Vec<u8>, LinkError> {
    let wrong = |why: String| LinkError::File {
        option,
        path: path.to_path_buf(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    if !text.contains(&format!("{kind}-----")) {
        return Err(wrong(format!("no PEM block of kind {kind} in it")));
    }
    Ok(text.into_bytes())
}

impl Tls {
    /// For the end that is connected to: whoever has no certificate of the authority is refused.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.authority.clone())
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity.clone())
            .ca_certificate(self.authority.clone())
    }
}

/// Reads the address of a worker.
///
/// # Errors
/// [`LinkError::Url`].
pub fn worker_url(text: &str, tls: bool, insecure: bool) -> Result<Url, LinkError> {
    let wrong = |why| {
        Err(LinkError::Url {
            url: text.to_owned(),
            why,
        })
    };
    let Ok(url) = Url::parse(text) else {
        return wrong("write http://HOST:PORT, or https://HOST:PORT with TLS");
    };
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.port_or_known_default().is_none() || !bare {
        return wrong(
            "write http://HOST:PORT, or https://HOST:PORT with TLS, and nothing after it",
        );
    }
    match (url.scheme() == "https", tls) {
        (true, false) => {
            return wrong("https needs --tls-cert, --tls-key and --tls-ca");
        }
        (false, true) => return wrong("with --tls-cert the address starts with https://"),
        _ => {}
    }
    let local = match url.host() {
        Some(Host::Ipv4(a)) => a.is_loopback(),
        Some(Host::Ipv6(a)) => a.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if !local && !tls && !insecure {
        return wrong(
            "not on this machine, and plain connections show every row to whoever listens; use https:// with --tls-cert, --tls-key and --tls-ca, or say --insecure-network",
        );
    }
    Ok(url)
}

/// Connections by address, made when they are needed.
#[derive(Clone, Default)]
pub struct Links {
    tls: Option<Tls>,
    known: Arc<Mutex<HashMap<Url, Channel>>>,
}

impl Links {
    /// With TLS or without.
    pub fn new(tls: Option<Tls>) -> Self {
        Self {
            tls,
            known: Arc::default(),
        }
    }

    fn endpoint(&self, url: &Url) -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::new(url.to_string())?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(ALIVE_EVERY)
            .keep_alive_timeout(ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        match &self.tls {
            Some(tls) => endpoint.tls_config(tls.client()),
            None => Ok(endpoint),
        }
    }

    /// A connection that is made now.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn connect(&self, url: &Url) -> Result<Channel, String> {
        let endpoint = self.endpoint(url).map_err(|e| chain(&e))?;
        endpoint.connect().await.map_err(|e| chain(&e))
    }

    /// A connection that is made when it is used, and again when it breaks.
    fn lazy(&self, url: &Url) -> Result<Channel, tonic::transport::Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = known.get(url) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(url)?.connect_lazy();
        known.insert(url.clone(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl ChannelResolver for Links {
    async fn get_worker_client_for_url(
        &self,
        url: &Url,
    ) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        let channel = self
            .lazy(url)
            .map_err(|e| exec_datafusion_err!("{url}: {}", chain(&e)))?;
        Ok(grpc::create_worker_client(grpc::BoxCloneSyncChannel::new(
            channel,
        )))
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_elsewhere_need_tls() {
        for (text, tls, insecure, good) in [
            ("http://127.0.0.1:50050", false, false, true),
            ("http://[::1]:50050/", false, false, true),
            ("http://localhost:50050", false, false, true),
            ("http://10.0.0.2:50050", false, false, false),
            ("http://10.0.0.2:50050", false, true, true),
            ("http://localhost.example:1", false, false, false),
            ("https://10.0.0.2:50050", true, false, true),
            ("https://10.0.0.2:50050", false, true, false),
            ("http://127.0.0.1:50050", true, false, false),
            ("127.0.0.1:50050", false, false, false),
            ("http://127.0.0.1:50050/x", false, false, false),
            ("http://user@127.0.0.1:50050", false, false, false),
            ("ftp://127.0.0.1:50050", false, false, false),
        ] {
            let got = worker_url(text, tls, insecure);
            assert_eq!(got.is_ok(), good, "{text} {tls} {insecure}: {got:?}");
        }
    }

    #[test]
    fn keys_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, kind) in [("cert", "CERTIFICATE"), ("key", "PRIVATE KEY")] {
            let block = format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n");
            std::fs::write(path(name), block).unwrap();
        }
        let access = Access {
            tls_cert: Some(path("cert")),
            tls_key: Some(path("key")),
            tls_ca: Some(path("cert")),
            insecure_network: false,
        };
        let mode = |m| std::fs::Permissions::from_mode(m);
        std::fs::set_permissions(path("key"), mode(0o644)).unwrap();
        let error = access.tls().err().unwrap().to_string();
        assert!(
            error.contains("--tls-key") && error.contains("644"),
            "{error}"
        );
        std::fs::set_permissions(path("key"), mode(0o600)).unwrap();
        assert!(access.tls().unwrap().is_some());
        let swapped = Access {
            tls_ca: Some(path("key")),
            ..access
        };
        assert!(
            swapped
                .tls()
                .err()
                .unwrap()
                .to_string()
                .contains("--tls-ca")
        );
    }
}
