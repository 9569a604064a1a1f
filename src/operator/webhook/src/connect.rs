//! The connection to a receiver: a checked address, and TLS.

use crate::lookup::{LookupError, Lookups};
use bailiwick_sys::network;
use bailiwick_targets::Webhook;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto};

/// How long the certificates of the system are used before they are read again.
const FRESH: Duration = Duration::from_secs(600);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The name has led to no addresses.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The name has no address.
    #[error("the name \"{host}\" has no address")]
    NoAddress { host: String },
    /// No address of the receiver may be reached.
    #[error("{address} is not reached: {what}; list it in \"allow\" if the receiver is there")]
    Refused { address: IpAddr, what: &'static str },
    /// Nobody knows which addresses are this host's own.
    #[error("cannot read the addresses of this host")]
    Own(#[source] io::Error),
    /// The receiver cannot be reached at the last address that was tried.
    #[error("cannot connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    /// The address did not answer before the others had to be tried.
    #[error("{address} does not answer")]
    Silent { address: SocketAddr },
    /// The file with the certificates of authorities cannot be used.
    #[error("cannot use the certificates of \"{}\": {why}", path.display())]
    Authorities { path: PathBuf, why: String },
    /// The host has no certificates of authorities.
    #[error("this host has no certificates of authorities; install the package ca-certificates")]
    NoAuthorities,
    /// The host of the address is none that a certificate can name.
    #[error("no certificate can name the host \"{host}\"")]
    Name { host: String },
    /// TLS could not be set up.
    #[error("cannot use TLS")]
    Setup(#[source] rustls::Error),
    /// The receiver is another one, or speaks no TLS.
    #[error("TLS with \"{host}\" failed")]
    Tls { host: String, source: io::Error },
}

/// Connects to the first address of the receiver that may be reached and answers.
pub(crate) async fn tcp(lookups: &Lookups, webhook: &Webhook, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let (host, port) = (webhook.url.host(), webhook.url.port());
    let addresses: Vec<SocketAddr> = match webhook.url.address() {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => lookups.find(host, port, deadline).await?,
    };
    // Read each time, because a host may get another one at any time.
    let own = network::addresses().map_err(ConnectError::Own)?;
    let mut last = ConnectError::NoAddress { host: host.to_owned() };
    for (index, address) in addresses.iter().enumerate() {
        if let Some(what) = webhook.refusal(address.ip(), &own) {
            // What an address that may be reached says is of more use.
            if matches!(last, ConnectError::NoAddress { .. }) {
                last = ConnectError::Refused { address: address.ip(), what };
            }
            continue;
        }
        // An address that is silent must leave time for the others.
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let time = deadline.saturating_duration_since(Instant::now()) / left;
        last = match tokio::time::timeout(time, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => ConnectError::Connect { address: *address, source },
            Err(_) => ConnectError::Silent { address: *address },
        };
    }
    Err(last)
}

/// Makes sure by TLS that a connection leads to the receiver.
pub(crate) async fn tls(
    authorities: &Authorities,
    webhook: &Webhook,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let host = || webhook.url.host().to_owned();
    let roots = match &webhook.roots {
        Some(path) => Arc::new(of_file(path)?),
        None => authorities.of_system()?,
    };
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(ConnectError::Setup)?.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host()).map_err(|_| ConnectError::Name { host: host() })?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|source| ConnectError::Tls { host: host(), source })
}

/// The certificates of authorities that the system trusts.
#[derive(Debug, Default)]
pub(crate) struct Authorities {
    read: Mutex<Option<(Instant, Arc<RootCertStore>)>>,
}

impl Authorities {
    fn of_system(&self) -> Result<Arc<RootCertStore>, ConnectError> {
        // Whoever panics while holding it leaves a whole value.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, store)) = read.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(store));
        }
        let mut store = RootCertStore::empty();
        // A file of the system with a damaged certificate has others that are good.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(ConnectError::NoAuthorities);
        }
        let store = Arc::new(store);
        *read = Some((Instant::now(), Arc::clone(&store)));
        Ok(store)
    }
}

fn of_file(path: &Path) -> Result<RootCertStore, ConnectError> {
    let failed = |why: String| ConnectError::Authorities { path: path.to_owned(), why };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        store.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if store.is_empty() { Err(failed("there is none in it".to_owned())) } else { Ok(store) }
}
