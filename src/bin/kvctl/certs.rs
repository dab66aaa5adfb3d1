//! `kvctl certs`: a CA of one's own, and certificates that it signs, as PEM files in a folder.
//!
//! Keys are on the curve P-256. Nothing is ever overwritten, and nothing is sent anywhere.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use kvmesh::net::certificates;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::command_line::{CertsArgs, CertsClientArgs, CertsInitArgs, CertsSubcommand};
use crate::terminal::print_lines;
use crate::{Code, Failure, Options};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// From one day before the moment at which a certificate is made: clocks differ.
const BEFORE: Duration = DAY;
const CA_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const VALID: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);

/// Modes of the files that are made.
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

pub fn run(options: &Options, args: &CertsArgs) -> Result<(), Failure> {
    let made = match &args.subcommand {
        CertsSubcommand::Init(args) => init(args)?,
        CertsSubcommand::Client(args) => client(args)?,
    };
    let lines: Vec<String> = made.iter().map(|path| format!("made {path}")).collect();
    Ok(print_lines(options.json, &lines, &json!({ "made": made }))?)
}

/// Makes a CA, and a certificate for each node. Returns the files.
fn init(args: &CertsInitArgs) -> Result<Vec<String>, Failure> {
    let CertsInitArgs { nodes, cluster, dir } = args;
    let ids = 1..=nodes.0.len();
    let names: Vec<String> = std::iter::once("ca".to_owned()).chain(ids.clone().map(|id| format!("node{id}"))).collect();
    none_is_there(dir, &names)?;
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(|error| cannot_write(dir, &error))?;
    let key = KeyPair::generate().map_err(|error| unmade(&error))?;
    let ca = ca_params(&key)?;
    let certificate = ca.self_signed(&key).map_err(|error| unmade(&error))?;
    let mut made = write_pair(dir, "ca", certificate.der(), &key)?.to_vec();
    let issuer = Issuer::new(ca, key);
    for (id, host) in ids.zip(&nodes.0) {
        let mut params = leaf_params(&format!("node{id}.{cluster}"))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![host_name(host)?, uri(&format!("kvmesh://{cluster}/node/{id}"))?];
        let key = KeyPair::generate().map_err(|error| unmade(&error))?;
        let certificate = params.signed_by(&key, &issuer).map_err(|error| unmade(&error))?;
        made.extend(write_pair(dir, &format!("node{id}"), certificate.der(), &key)?);
    }
    Ok(made)
}

/// Makes a certificate for a client. Returns the files.
fn client(args: &CertsClientArgs) -> Result<Vec<String>, Failure> {
    let CertsClientArgs { name, dir } = args;
    let is_name = !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !is_name || name.starts_with('.') {
        return Err(Failure::new(Code::Usage, "--name: expected 1 to 64 letters, digits, dots, dashes and underscores, no dot in front"));
    }
    none_is_there(dir, std::slice::from_ref(name))?;
    let key = certificates::read_key(&dir.join("ca.key")).map_err(|why| Failure::new(Code::Usage, why))?;
    let key = KeyPair::try_from(&key).map_err(|error| unmade(&error))?;
    let issuer = Issuer::new(ca_params(&key)?, key);
    let mut params = leaf_params(name)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(|error| unmade(&error))?;
    let certificate = params.signed_by(&key, &issuer).map_err(|error| unmade(&error))?;
    Ok(write_pair(dir, name, certificate.der(), &key)?.to_vec())
}

/// Fails if one of these pairs of files is there already, before anything is made.
fn none_is_there(dir: &Path, names: &[String]) -> Result<(), Failure> {
    for path in names.iter().flat_map(|name| [dir.join(format!("{name}.pem")), dir.join(format!("{name}.key"))]) {
        if fs::symlink_metadata(&path).is_ok() {
            let text = format!("{} is there already, and nothing is overwritten; choose another folder, or move it away", path.display());
            return Err(Failure::new(Code::Usage, text));
        }
    }
    Ok(())
}

/// The certificate of the CA with this key. Its name ends with a hash of the key: two CAs of one
/// name would be taken for each other.
fn ca_params(key: &KeyPair) -> Result<CertificateParams, Failure> {
    let hash: String = Sha256::digest(key.public_key_raw()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(&format!("kvmesh CA {hash}"), CA_VALID)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(name: &str) -> Result<CertificateParams, Failure> {
    let mut params = params(name, VALID)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(name: &str, valid: Duration) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|error| unmade(&error))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + valid;
    Ok(params)
}

fn host_name(host: &str) -> Result<SanType, Failure> {
    match host.parse() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(host.try_into().map_err(|error| unmade(&error))?)),
    }
}

fn uri(uri: &str) -> Result<SanType, Failure> {
    Ok(SanType::URI(uri.try_into().map_err(|error| unmade(&error))?))
}

/// Writes a certificate and its key. Returns both files.
fn write_pair(dir: &Path, name: &str, certificate: &[u8], key: &KeyPair) -> Result<[String; 2], Failure> {
    let (certificate_file, key_file) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    write(&key_file, KEY_MODE, &pem("PRIVATE KEY", &key.serialize_der()))?;
    write(&certificate_file, CERTIFICATE_MODE, &pem("CERTIFICATE", certificate))?;
    Ok([certificate_file, key_file].map(|path| path.display().to_string()))
}

/// Writes a new file, and waits until it is on disk.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| cannot_write(path, &error))
}

/// The textual form of RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    const LINE_LEN: usize = 48;
    let lines: String = der.chunks(LINE_LEN).map(|line| STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn unmade(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::Refused, format_args!("the certificate cannot be made: {error}"))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Refused, format_args!("cannot write {}: {error}", path.display()))
}
