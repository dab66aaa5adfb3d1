//! TLS between peers: both ends show a certificate that the cluster's CA has signed, and that names
//! their node.
//!
//! The name is a URI among the alternative names, `kvmesh://CLUSTER/node/ID`. The host that is
//! dialled is not compared: peers may reach each other by other addresses than clients do.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};

use crate::net::tls_stream::TlsStream;

/// TLS as this node speaks it to its peers, in both directions.
pub struct PeerIdentity {
    accepting: Arc<ServerConfig>,
    dialing: Arc<ClientConfig>,
}

impl PeerIdentity {
    pub fn new(
        provider: &Arc<CryptoProvider>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: RootCertStore,
    ) -> Result<PeerIdentity, Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider)).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        let accepting = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])?;
        let mut accepting = accepting.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key())?;
        accepting.session_storage = Arc::new(NoServerSessionStorage {});
        accepting.send_tls13_tickets = 0;
        let verifier = Arc::new(PeerVerifier { roots, provider: Arc::clone(provider) });
        let dialing = ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])?;
        let dialing = dialing.dangerous().with_custom_certificate_verifier(verifier);
        let mut dialing = dialing.with_client_auth_cert(chain, key)?;
        dialing.resumption = Resumption::disabled();
        Ok(PeerIdentity { accepting: Arc::new(accepting), dialing: Arc::new(dialing) })
    }

    /// Begins a connection that a peer has made.
    pub fn accept(&self) -> Result<TlsStream, Error> {
        TlsStream::server(Arc::clone(&self.accepting))
    }

    /// Begins a connection to a peer at this address.
    pub fn dial(&self, ip: IpAddr) -> Result<TlsStream, Error> {
        TlsStream::client(Arc::clone(&self.dialing), ServerName::from(ip))
    }
}

/// Checks the certificate of the other end as far as its host does not matter.
struct PeerVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns true if these are the first bytes of a TLS connection. A message of a peer begins with
/// its length, and one that is as long as these bytes would say differs in what follows: the record
/// must hold a hello that is four bytes shorter than itself.
pub fn is_hello(head: &[u8; HELLO_HEAD_LEN]) -> bool {
    let [0x16, 3, 1..=3, record_high, record_low, 1, 0, hello_high, hello_low] = *head else { return false };
    let (record, hello) = (u16::from_be_bytes([record_high, record_low]), u16::from_be_bytes([hello_high, hello_low]));
    record.checked_sub(4) == Some(hello)
}

/// Bytes by which TLS is told from the messages of peers.
pub const HELLO_HEAD_LEN: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_told_from_a_message_that_is_as_long() {
        let hello = [0x16, 3, 1, 0, 0xf4, 1, 0, 0, 0xf0];
        assert!(is_hello(&hello));
        for (at, byte) in [(0, 0x15), (1, 2), (2, 4), (4, 0xf5), (5, 2), (6, 1), (8, 0xf1)] {
            let mut other = hello;
            other[at] = byte;
            assert!(!is_hello(&other), "{at}");
        }
    }
}
