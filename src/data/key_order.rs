//! The order in which keys lie in a store, and so in which a scan meets them: the same on all nodes
//! of a cluster.
//!
//! It is the order of a keyed hash. The hash's key is secret, so nobody can choose keys that all
//! fall into one shard. It belongs to the cluster, so a scan may go on at another node. Pure
//! values.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// Bits of a position, which keys are ordered by. A collision of two keys costs nothing but a
/// comparison.
pub const POSITION_BITS: u32 = 40;

/// The number of fingerprints. One fits with a position into 53 bits, which even a client that
/// takes every number for a float keeps.
const FINGERPRINTS: u64 = (1 << 13) - 1;

/// The key of the hash. Never shown to clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct OrderKey(u64, u64);

impl OrderKey {
    pub const fn from_halves([first, second]: [u64; 2]) -> OrderKey {
        OrderKey(first, second)
    }

    pub fn halves(self) -> [u64; 2] {
        [self.0, self.1]
    }

    /// Makes a new key, which nobody can foresee.
    pub fn random() -> OrderKey {
        let random = RandomState::new();
        OrderKey(random.hash_one(1), random.hash_one(2))
    }

    /// Returns the position of a key, a number of [`POSITION_BITS`] bits: the uppermost of its
    /// SipHash-1-3.
    pub fn position(self, key: &[u8]) -> u64 {
        self.hasher().hash(key) >> (64 - POSITION_BITS)
    }

    /// Returns a number by which two orders can be told apart, nearly always. Never 0, and reveals
    /// nothing of the key.
    pub fn fingerprint(self) -> u64 {
        1 + self.hasher().hash(b"fingerprint of an order") % FINGERPRINTS
    }

    fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

impl From<OrderKey> for String {
    fn from(OrderKey(first, second): OrderKey) -> String {
        format!("{first:016x}{second:016x}")
    }
}

impl TryFrom<String> for OrderKey {
    type Error = String;

    fn try_from(text: String) -> Result<OrderKey, String> {
        let half = |range| text.get(range).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match (text.len(), half(0..16), half(16..32)) {
            (32, Some(first), Some(second)) => Ok(OrderKey(first, second)),
            _ => Err("expected a key of 32 hexadecimal digits".to_owned()),
        }
    }
}

/// Shows the fingerprint alone: clients may read logs.
impl fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrderKey({:04x})", self.fingerprint())
    }
}

/// The order of a cluster. Of two the lesser counts, on every node: it is the older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Order {
    /// When it was minted, in milliseconds since 1970, by the wall clock of the node that did.
    pub since_ms: u64,
    pub key: OrderKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down so that a change of the hash, which would make old and new nodes scan in
    /// different orders, fails here.
    #[test]
    fn the_order_is_the_specified_one() {
        // The vectors of SipHash-1-3 in its authors' repository: the key is 00 01 … 0f, the input
        // 00 01 … of this length.
        let key = OrderKey::from_halves([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let input: Vec<u8> = (0..64).collect();
        assert_eq!(key.position(&input[..0]), 0xabac_0158_050f_c4dc >> 24);
        assert_eq!(key.position(&input[..15]), 0xd320_d86d_2a51_9956 >> 24);
    }

    #[test]
    fn a_key_survives_json_and_nothing_else_is_one() {
        let key = OrderKey::random();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<OrderKey>(&text).unwrap(), key);
        assert!(!text.contains('-') && text.len() == 34);
        for wrong in ["\"\"", "\"1\"", "7", "\"0000000000000000000000000000000g\"", "\"0000000000000000000000000000000é\""] {
            assert!(serde_json::from_str::<OrderKey>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fingerprint_and_a_position_fit_into_53_bits() {
        for _ in 0..1000 {
            let key = OrderKey::random();
            assert!((1..1 << 13).contains(&key.fingerprint()) && key.position(b"k") < 1 << POSITION_BITS);
        }
    }
}
