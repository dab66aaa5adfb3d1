//! How peers prove who they are: the choice `peer_auth`, and the secrets of `peer_secret_file`.
//!
//! Reads no file: `Config::load` does. A secret is compared and hashed, and never shown.

use std::fmt;
use std::str::FromStr;

use super::refusal::ConfigRefusal;

/// Bytes of the shortest secret. A file of `openssl rand -hex 32` has twice as many.
const SECRET_LEN_MIN: usize = 32;

/// Secrets in the file: the cluster's, and another one while it is changed.
const SECRETS_MAX: usize = 2;

/// Bytes of a file of secrets. A longer one is refused rather than read to its end.
pub(super) const SECRET_FILE_LEN_MAX: u64 = 4 << 10;

pub(super) const SECRET_FILE_EXPECTED: &str = "the path of a file with the secret of the cluster";

const SECRETS_EXPECTED: &str = "one secret of at least 32 bytes on a line, or two while it is changed; \"openssl rand -hex 32\" makes one";

/// The choice of how peers prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerAuth {
    /// Nobody proves anything.
    #[default]
    Off,
    /// This node proves who it is to peers that ask, and asks those that can. It believes those
    /// that cannot.
    Accept,
    /// A peer that does not prove who it is is refused.
    Required,
}

impl PeerAuth {
    /// The values that a configuration may hold, for its errors.
    pub const NAMES: &str = "\"off\", \"accept\" or \"required\"";
}

impl fmt::Display for PeerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PeerAuth::Off => "off",
            PeerAuth::Accept => "accept",
            PeerAuth::Required => "required",
        })
    }
}

impl FromStr for PeerAuth {
    type Err = String;
    fn from_str(text: &str) -> Result<PeerAuth, String> {
        [PeerAuth::Off, PeerAuth::Accept, PeerAuth::Required]
            .into_iter()
            .find(|auth| auth.to_string() == text)
            .ok_or_else(|| format!("\"{text}\" is no choice; expected {}", PeerAuth::NAMES))
    }
}

/// The secrets of a cluster, of which any one that two nodes have in common will do: none, one, or
/// two while it is changed node by node.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerSecrets(Vec<Vec<u8>>);

impl PeerSecrets {
    /// Reads the content of a file: a secret on each line, without the white space around it.
    pub(super) fn parse(content: &[u8]) -> Result<PeerSecrets, ConfigRefusal> {
        let refusal = |found: String| ConfigRefusal::new("peer_secret_file", found, SECRETS_EXPECTED);
        let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let secrets: Vec<Vec<u8>> = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
        if secrets.is_empty() || secrets.len() > SECRETS_MAX {
            return Err(refusal(format!("a file of {} secrets", secrets.len())));
        }
        match secrets.iter().map(Vec::len).find(|len| *len < SECRET_LEN_MIN) {
            Some(len) => Err(refusal(format!("a secret of {len} bytes"))),
            None => Ok(PeerSecrets(secrets)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

#[cfg(any(test, feature = "testing"))]
impl PeerSecrets {
    /// Makes secrets of words, however short they are.
    pub fn of(secrets: &[&str]) -> PeerSecrets {
        PeerSecrets(secrets.iter().map(|secret| secret.as_bytes().to_vec()).collect())
    }
}

impl fmt::Debug for PeerSecrets {
    /// Shows how many there are, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "8d1f0a3c55f2b7e6a9c4d0e1f2a3b4c58d1f0a3c55f2b7e6a9c4d0e1f2a3b4c5";
    const OLD: &str = "the old secret, which is a sentence";

    fn parse(content: &str) -> Result<PeerSecrets, String> {
        PeerSecrets::parse(content.as_bytes()).map_err(|refusal| format!("{}: {}", refusal.field, refusal.found))
    }

    #[test]
    fn a_secret_stands_on_each_line() {
        assert_eq!(parse(NEW), Ok(PeerSecrets::of(&[NEW])));
        assert_eq!(parse(&format!("  {NEW}\r\n\n")), Ok(PeerSecrets::of(&[NEW])));
        assert_eq!(parse(&format!("{NEW}\n{OLD}\n")), Ok(PeerSecrets::of(&[NEW, OLD])));
        let mut bytes = vec![0xff; 32];
        assert!(PeerSecrets::parse(&bytes).is_ok());
        bytes.pop();
        assert!(PeerSecrets::parse(&bytes).is_err());
    }

    #[test]
    fn too_few_too_many_and_too_short_ones_are_refused_and_not_shown() {
        assert_eq!(parse(" \n"), Err("peer_secret_file: a file of 0 secrets".to_owned()));
        assert_eq!(parse(&format!("{NEW}\n{OLD}\n{NEW}")), Err("peer_secret_file: a file of 3 secrets".to_owned()));
        assert_eq!(parse("hunter2"), Err("peer_secret_file: a secret of 7 bytes".to_owned()));
        assert_eq!(parse(&format!("{NEW}\nhunter2")), Err("peer_secret_file: a secret of 7 bytes".to_owned()));
        assert_eq!(format!("{:?}", parse(NEW).unwrap()), "1 secrets");
    }
}
