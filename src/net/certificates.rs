//! Certificates and keys in PEM files, and what a certificate says of its owner.
//!
//! Every error is a sentence that names the file and what would be right. Knows no connection.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::process::private_file::open_to_others;

/// Bytes of a file of certificates or of a key. A longer one is refused rather than read to its
/// end.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Reads the certificates of a file, in their order: at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path).map_err(|error| unreadable(path, &error, "certificates"))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = found.map_err(|error| format!("{}: is not PEM: {error}; expected certificates in PEM", path.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "{}: holds no certificate; expected one in PEM, which begins with -----BEGIN CERTIFICATE-----",
            path.display()
        ));
    }
    Ok(certificates)
}

/// Reads the private key of a file that nobody but its owner may read.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let file = File::open(path).map_err(|error| unreadable(path, &error, "a private key"))?;
    if let Some(mode) = open_to_others(&file).map_err(|error| unreadable(path, &error, "a private key"))? {
        let path = path.display();
        return Err(format!("{path}: others than its owner may use this private key (mode {mode:04o}); chmod 600 {path}"));
    }
    let bytes = read_open(file).map_err(|error| unreadable(path, &error, "a private key"))?;
    // Without the parser's words: they could show a part of the key.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        format!(
            "{}: holds no private key; expected one in PEM, not encrypted, which begins with -----BEGIN PRIVATE KEY-----",
            path.display()
        )
    })
}

/// Reads the certificates of the CAs that are trusted.
pub fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{}: holds a certificate that cannot be a CA's: {error}", path.display()))?;
    }
    Ok(roots)
}

/// Returns when a certificate ends, as time since 1970. `None` where it cannot be read.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_unix_duration())
}

/// Returns the common name in a certificate.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    Some(name.value().into_owned())
}

/// Returns the cluster and the node that a certificate names in a URI, `kvmesh://CLUSTER/node/ID`.
pub fn node_named(certificate: &CertificateDer<'_>) -> Option<(String, u16)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let (_, names) = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()??;
    names.0.iter().find_map(|name| {
        let GeneralName::UniformResourceIdentifier(uri) = name else { return None };
        let (cluster, id) = uri.as_str().strip_prefix("kvmesh://")?.rsplit_once("/node/")?;
        Some((cluster.to_owned(), id.parse().ok()?))
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?)
}

fn read_open(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error, expected: &str) -> String {
    format!("{}: cannot be read: {error}; expected a file of {expected} in PEM", path.display())
}
