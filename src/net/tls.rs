//! TLS: what a connection begins with, made of the files that a configuration names.
//!
//! Owns the certificate and key that are in force. A reload replaces them; a connection keeps what
//! it has begun with. Sessions are never resumed, so that no connection leaves anything behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, Error, ServerConfig};

use crate::config::{ClientCerts, ClientTls, Config, PeerTls, TlsConfig};
use crate::net::certificates::{node_named, not_after, read_certificates, read_key, read_roots};
use crate::net::tls_error::in_words;
use crate::net::tls_peers::PeerIdentity;
use crate::net::tls_stream::TlsStream;

/// The first byte of a TLS connection: that of a record with a handshake message. No command
/// begins with it.
pub const FIRST_BYTE: u8 = 0x16;
/// A record with the fatal alert `handshake_failure`: the answer to a hello where no TLS is spoken.
pub const REFUSAL: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];
/// A record with the fatal alert `internal_error`: the answer to a client for which there is no
/// room.
pub const TLS_BUSY: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x50];

const DAY_S: u64 = 24 * 60 * 60;
/// Days before the end of the certificate from which on it is warned of.
const WARNED_DAYS: i64 = 30;

/// TLS as this node speaks it.
pub struct NodeTls {
    in_force: Mutex<Option<Arc<LoadedTls>>>,
    /// The day since 1970 on which the end of the certificate was warned of last.
    warned_day: AtomicU64,
}

/// The files of one configuration, read and checked.
pub struct LoadedTls {
    /// How clients may connect.
    pub clients: ClientTls,
    for_clients: Arc<ServerConfig>,
    /// How peers connect. They do so without TLS where `for_peers` is `None`.
    pub peers: PeerTls,
    pub for_peers: Option<PeerIdentity>,
    cert_file: PathBuf,
    /// The end of this node's certificate, as time since 1970.
    not_after: Option<Duration>,
}

impl NodeTls {
    /// Begins with what was loaded; `None` is without TLS.
    pub fn new(loaded: Option<LoadedTls>) -> Arc<NodeTls> {
        Arc::new(NodeTls { in_force: Mutex::new(loaded.map(Arc::new)), warned_day: AtomicU64::new(0) })
    }

    /// Puts other files in force, for the connections that begin from now on.
    pub fn replace(&self, loaded: Option<LoadedTls>) {
        *self.in_force.lock() = loaded.map(Arc::new);
        self.warned_day.store(0, Ordering::Relaxed);
    }

    /// Returns the files that are in force; `None` is without TLS.
    pub fn current(&self) -> Option<Arc<LoadedTls>> {
        self.in_force.lock().clone()
    }

    /// Returns a warning if this node's certificate ends soon, once a day. `now`: time since 1970.
    pub fn warning(&self, now: Duration) -> Option<String> {
        let current = self.current()?;
        let (days, today) = (current.days_left(now)?, now.as_secs() / DAY_S);
        if days > WARNED_DAYS || self.warned_day.swap(today, Ordering::Relaxed) == today {
            return None;
        }
        let when = if days < 0 { format!("ended {} days ago", -days) } else { format!("ends in {days} days") };
        Some(format!("that in {} {when}; put a new one there, with its key, and reload the configuration", current.cert_file.display()))
    }
}

impl LoadedTls {
    /// Reads and checks the files of a configuration. An error names the file and says what would
    /// be right.
    pub fn of(node: &Config, config: &TlsConfig) -> Result<LoadedTls, String> {
        let (chain, key) = read_identity(&config.cert_file, &config.key_file)?;
        let not_after = chain.first().and_then(not_after);
        let for_peers = match &config.ca_file {
            Some(ca_file) if config.peers != PeerTls::Off => {
                check_own_name(node, &config.cert_file, chain.first().and_then(node_named))?;
                let identity = PeerIdentity::new(&provider(), chain.clone(), key.clone_key(), read_roots(ca_file)?);
                Some(identity.map_err(|error| unfit(&error, &config.cert_file, &config.key_file))?)
            }
            _ => None,
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(in_words)?;
        let verifier = match (&config.ca_file, config.client_certs) {
            (Some(ca_file), ClientCerts::Optional | ClientCerts::Required) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(ca_file)?), provider());
                let verifier = if config.client_certs == ClientCerts::Optional { verifier.allow_unauthenticated() } else { verifier };
                verifier.build().map_err(|error| format!("{}: {error}", ca_file.display()))?
            }
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let for_clients = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key);
        let for_clients = for_clients.map_err(|error| unfit(&error, &config.cert_file, &config.key_file))?;
        let for_clients = Arc::new(without_resumption(for_clients));
        Ok(LoadedTls {
            clients: config.clients,
            for_clients,
            peers: config.peers,
            for_peers,
            cert_file: config.cert_file.clone(),
            not_after,
        })
    }

    /// Returns the days from `now`, which is time since 1970, to the end of this node's
    /// certificate: fewer than none once it has ended.
    pub fn days_left(&self, now: Duration) -> Option<i64> {
        let day = |time: Duration| (time.as_secs() / DAY_S) as i64;
        Some(day(self.not_after?) - day(now))
    }

    /// Begins a connection of a client.
    pub fn accept_client(&self) -> Result<TlsStream, Error> {
        TlsStream::server(Arc::clone(&self.for_clients))
    }
}

/// TLS as a client speaks it to a node.
#[derive(Clone)]
pub struct ClientIdentity {
    config: Arc<ClientConfig>,
}

impl ClientIdentity {
    /// Trusts the nodes whose certificates a CA of `ca_file` has signed. `own`: the files of the
    /// client's certificate and key.
    pub fn load(ca_file: &Path, own: Option<(&Path, &Path)>) -> Result<ClientIdentity, String> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(in_words)?;
        let builder = builder.with_root_certificates(read_roots(ca_file)?);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert_file, key_file)) => {
                let (chain, key) = read_identity(cert_file, key_file)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unfit(&error, cert_file, key_file))?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(ClientIdentity { config: Arc::new(config) })
    }

    /// Begins a connection to `host`, a name or an address, for which the certificate must be.
    pub fn connect(&self, host: &str) -> Result<TlsStream, String> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| format!("{host} is no name that a certificate can have"))?;
        TlsStream::client(Arc::clone(&self.config), name).map_err(in_words)
    }
}

/// Refuses a certificate by which no peer would know this node.
fn check_own_name(node: &Config, cert_file: &Path, named: Option<(String, u16)>) -> Result<(), String> {
    let wanted = format!("kvmesh://{}/node/{}", node.cluster, node.id);
    match named {
        Some((cluster, id)) if cluster == node.cluster && id == node.id.0 => Ok(()),
        Some((cluster, id)) => {
            let found = format!("kvmesh://{cluster}/node/{id}");
            Err(format!("{}: the certificate is that of {found}; expected {wanted} among its alternative names", cert_file.display()))
        }
        None => Err(format!("{}: the certificate names no node; expected {wanted} among its alternative names", cert_file.display())),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn read_identity(cert_file: &Path, key_file: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    Ok((read_certificates(cert_file)?, read_key(key_file)?))
}

/// Says what is wrong with a certificate and its key.
fn unfit(error: &Error, cert_file: &Path, key_file: &Path) -> String {
    match error {
        Error::InconsistentKeys(_) => {
            format!("{}: is not the private key of the first certificate in {}", key_file.display(), cert_file.display())
        }
        error => format!("{} and {}: cannot be used: {error}", cert_file.display(), key_file.display()),
    }
}
