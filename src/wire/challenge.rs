//! Nonces and message authentication codes (MACs), which two peers send each other to prove who
//! they are, and their bytes.
//!
//! How a MAC is made and checked is in `replication::links::authentication`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::data::version::NodeId;

/// Bytes of a nonce, and of a MAC.
pub const MAC_LEN: usize = 32;

/// 32 bytes, which JSON has as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hexadecimal([u8; MAC_LEN]);

/// Random bytes that one side has made for one connection. A MAC is good for the two nonces of its
/// connection alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(Hexadecimal);

impl Nonce {
    /// Makes a nonce of bytes that nobody can guess, and that were never used before.
    pub fn of(random: [u8; MAC_LEN]) -> Nonce {
        Nonce(Hexadecimal(random))
    }

    pub fn bytes(&self) -> &[u8; MAC_LEN] {
        &self.0.0
    }
}

/// A message authentication code, by which its sender proves that it knows a secret. It is checked
/// by the code that makes it, in constant time, and never by `==`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac(Hexadecimal);

impl Mac {
    pub fn of(code: [u8; MAC_LEN]) -> Mac {
        Mac(Hexadecimal(code))
    }

    pub fn bytes(&self) -> &[u8; MAC_LEN] {
        &self.0.0
    }
}

/// A challenge: who sends it, and the nonce that the other side is to prove itself with.
///
/// The acceptor's carries its own MACs already: the dialler sends nothing of itself before it
/// knows whom it talks to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Challenge {
    pub node: NodeId,
    pub nonce: Nonce,
    /// A MAC by each secret that the acceptor has. None of the dialler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Mac>,
}

/// A HELLO with a MAC by its sender.
#[derive(Clone, PartialEq)]
pub struct AuthenticatedHello {
    pub mac: Mac,
    /// The JSON of a HELLO, which is not read before the MAC is checked.
    pub json: Vec<u8>,
}

impl fmt::Debug for AuthenticatedHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.mac, String::from_utf8_lossy(&self.json))
    }
}

impl fmt::Debug for Hexadecimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hexadecimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Hexadecimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hexadecimal, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(text.as_bytes()).map(Hexadecimal).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

fn decode(digits: &[u8]) -> Option<[u8; MAC_LEN]> {
    let mut bytes = [0; MAC_LEN];
    if digits.len() != 2 * MAC_LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_and_proofs_are_hexadecimal_in_json() {
        let bytes = std::array::from_fn(|index| index as u8 * 8);
        let challenge = Challenge { node: NodeId(2), nonce: Nonce::of(bytes), macs: Vec::new() };
        let json = serde_json::to_string(&challenge).unwrap();
        assert_eq!(json, r#"{"node":2,"nonce":"0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8"}"#);
        assert_eq!(serde_json::from_str::<Challenge>(&json).unwrap(), challenge);
        let proven = Challenge { macs: vec![Mac::of(bytes); 2], ..challenge };
        assert_eq!(serde_json::from_str::<Challenge>(&serde_json::to_string(&proven).unwrap()).unwrap(), proven);
        for digits in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"+1".repeat(32)] {
            assert!(serde_json::from_value::<Nonce>(digits.into()).is_err(), "{digits}");
        }
    }
}
