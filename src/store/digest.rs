//! The fingerprint of data, by which nodes are compared.

use rapidhash::v3::rapidhash_v3;

use crate::data::entry::Expiry;

/// A fingerprint of keys, values and expiries, in no order: equal on any two nodes that hold the
/// same data.
///
/// It is the wrapping sum over all keys of `rapidhash_v3(rapidhash_v3(key) ++
/// rapidhash_v3(value))`, as little-endian bytes, followed by the milliseconds of the expiry, if
/// there is one.
///
/// Source: the crate `rapidhash`, whose `v3` functions are specified not to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub sum: u64,
    pub keys: u64,
}

impl Digest {
    pub fn add(&mut self, key: &[u8], value: &[u8], expires: Option<Expiry>) {
        let mut fields = [0; 24];
        fields[..8].copy_from_slice(&rapidhash_v3(key).to_le_bytes());
        fields[8..16].copy_from_slice(&rapidhash_v3(value).to_le_bytes());
        let mut len = 16;
        if let Some(expires) = expires {
            fields[16..].copy_from_slice(&expires.wall_ms().to_le_bytes());
            len = 24;
        }
        self.sum = self.sum.wrapping_add(rapidhash_v3(&fields[..len]));
        self.keys += 1;
    }

    /// Joins the digest of other keys.
    pub fn join(&mut self, other: Digest) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.keys += other.keys;
    }
}
