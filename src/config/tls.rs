//! The section `tls`: which connections are TLS, and with which files.
//!
//! Reads none of the files: a node does when it starts (`net::tls`).

use std::path::PathBuf;
use std::str::FromStr;

use super::refusal::ConfigRefusal;
use super::section::{FieldKind, FromField, Json, Section};

const CERT_FILE: FieldKind = FieldKind::Text { default: None, expected: "the path of a file of certificates in PEM, this node's first" };
const KEY_FILE: FieldKind = FieldKind::Text { default: None, expected: "the path of a file with the certificate's private key in PEM" };
const CA_FILE: FieldKind = FieldKind::Text { default: Some(""), expected: "the path of a file of CA certificates in PEM" };
const CLIENTS: FieldKind = FieldKind::Text { default: Some("required"), expected: "\"off\", \"optional\" or \"required\"" };
const CLIENT_CERTS: FieldKind = FieldKind::Text { default: Some("none"), expected: "\"none\", \"optional\" or \"required\"" };

const PEERS: FieldKind = FieldKind::Text { default: Some("off"), expected: "\"off\", \"accept\" or \"required\"" };

/// The names of the fields, in the order of the documents.
const FIELDS: &[&str] = &["cert_file", "key_file", "ca_file", "clients", "client_certs", "peers"];

/// The choices of the section `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate of this node, and those that lead from it to its CA.
    pub cert_file: PathBuf,
    /// The private key of the certificate. Nobody but its owner may read the file.
    pub key_file: PathBuf,
    /// The certificates of the CAs that sign for clients and peers. `None` where no certificate is
    /// asked for.
    pub ca_file: Option<PathBuf>,
    pub clients: ClientTls,
    pub client_certs: ClientCerts,
    pub peers: PeerTls,
}

/// How clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// Without TLS.
    Off,
    /// With TLS or without: the first byte tells.
    Optional,
    /// With TLS alone.
    Required,
}

/// How clients prove with a certificate who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCerts {
    /// They are not asked for one.
    None,
    /// They may have none. One that they have must be signed by a CA of `ca_file`.
    Optional,
    /// They must have one that is signed by a CA of `ca_file`.
    Required,
}

/// How peers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTls {
    /// Without TLS.
    Off,
    /// With TLS where the peer takes it, else without.
    Accept,
    /// With TLS alone.
    Required,
}

impl PeerTls {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            PeerTls::Off => "off",
            PeerTls::Accept => "accept",
            PeerTls::Required => "required",
        }
    }
}

impl FromStr for PeerTls {
    type Err = ();
    fn from_str(text: &str) -> Result<PeerTls, ()> {
        [PeerTls::Off, PeerTls::Accept, PeerTls::Required].into_iter().find(|choice| choice.name() == text).ok_or(())
    }
}

impl FromStr for ClientTls {
    type Err = ();
    fn from_str(text: &str) -> Result<ClientTls, ()> {
        match text {
            "off" => Ok(ClientTls::Off),
            "optional" => Ok(ClientTls::Optional),
            "required" => Ok(ClientTls::Required),
            _ => Err(()),
        }
    }
}

impl FromStr for ClientCerts {
    type Err = ();
    fn from_str(text: &str) -> Result<ClientCerts, ()> {
        match text {
            "none" => Ok(ClientCerts::None),
            "optional" => Ok(ClientCerts::Optional),
            "required" => Ok(ClientCerts::Required),
            _ => Err(()),
        }
    }
}

impl FromField for Option<TlsConfig> {
    /// No TLS without the section.
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Option<TlsConfig>, ConfigRefusal> {
        let object = match section.take(field) {
            None => return Ok(None),
            Some(Json::Object(object)) => object,
            found => return Err(section.refusal(field, found.as_ref(), kind)),
        };
        let mut tls = Section::new(format!("{field}."), object, FIELDS)?;
        let path = |tls: &mut Section, name: &str, kind: FieldKind| match String::from_field(tls, name, kind)? {
            path if path.is_empty() && kind != CA_FILE => Err(ConfigRefusal::new(format!("{field}.{name}"), "\"\"", kind)),
            path => Ok(PathBuf::from(path)),
        };
        let cert_file = path(&mut tls, "cert_file", CERT_FILE)?;
        let key_file = path(&mut tls, "key_file", KEY_FILE)?;
        let ca_file = Some(path(&mut tls, "ca_file", CA_FILE)?).filter(|path| !path.as_os_str().is_empty());
        let clients = tls.choice("clients", CLIENTS)?;
        let client_certs = tls.choice("client_certs", CLIENT_CERTS)?;
        let peers = tls.choice("peers", PEERS)?;
        if (client_certs != ClientCerts::None || peers != PeerTls::Off) && ca_file.is_none() {
            let expected =
                "the path of a file of CA certificates in PEM: client_certs or peers asks for certificates that they have signed";
            return Err(ConfigRefusal::new(format!("{field}.ca_file"), "nothing", expected));
        }
        if client_certs == ClientCerts::Required && clients != ClientTls::Required {
            let expected = "\"required\": client_certs is, and without TLS there is no certificate";
            let found = if clients == ClientTls::Off { "\"off\"" } else { "\"optional\"" };
            return Err(ConfigRefusal::new(format!("{field}.clients"), found, expected));
        }
        Ok(Some(TlsConfig { cert_file, key_file, ca_file, clients, client_certs, peers }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;

    /// A node with these fields beside those that it must have.
    fn config(more: Value) -> Result<Config, String> {
        let mut node = json!({ "id": 1, "client_addr": "127.0.0.1:7001", "peer_addr": "127.0.0.1:7101" });
        for (name, value) in more.as_object().unwrap() {
            node[name] = value.clone();
        }
        Config::from_json(&node.to_string(), "n.json").map_err(|error| error.to_string())
    }

    #[test]
    fn the_section_tls_is_taken_or_refused_in_words() {
        let files = json!({ "cert_file": "a.pem", "key_file": "a.key" });
        let tls = config(json!({ "tls": files })).unwrap().tls.unwrap();
        assert_eq!((tls.cert_file, tls.key_file, tls.ca_file), ("a.pem".into(), "a.key".into(), None));
        assert_eq!((tls.clients, tls.client_certs), (ClientTls::Required, ClientCerts::None));
        assert_eq!(config(json!({})).unwrap().tls, None);
        let with = |name: &str, value: &str| {
            let mut tls = files.clone();
            tls[name] = value.into();
            config(json!({ "tls": tls }))
        };
        assert_eq!(with("clients", "optional").unwrap().tls.unwrap().clients, ClientTls::Optional);
        assert_eq!(with("ca_file", "ca.pem").unwrap().tls.unwrap().ca_file, Some("ca.pem".into()));
        assert_eq!(
            with("clients", "maybe").unwrap_err(),
            "n.json: field \"tls.clients\": found \"maybe\", expected \"off\", \"optional\" or \"required\""
        );
        assert!(
            with("client_certs", "optional").unwrap_err().starts_with("n.json: field \"tls.ca_file\": found nothing, expected the path")
        );
        assert!(with("key_file", "").unwrap_err().starts_with("n.json: field \"tls.key_file\": found \"\", expected the path"));
        assert!(with("colour", "red").unwrap_err().contains("\"tls.colour\": found an unknown field, expected one of cert_file, key_file"));
        assert!(config(json!({ "tls": { "cert_file": "a.pem" } })).unwrap_err().contains("\"tls.key_file\": found nothing"));
        assert!(config(json!({ "tls": true })).unwrap_err().contains("\"tls\": found true, expected an object such as {"));
        let loose = json!({ "cert_file": "a", "key_file": "b", "ca_file": "c", "clients": "optional", "client_certs": "required" });
        assert!(
            config(json!({ "tls": loose }))
                .unwrap_err()
                .contains("\"tls.clients\": found \"optional\", expected \"required\": client_certs is")
        );
    }
}
