//! The checksum of a dump: what its writer puts into the end line, and its reader holds against it.

use rapidhash::v3::rapidhash_v3;
use serde::Serialize;

use super::write::write_line;
use super::{EndLine, Header, NAME};
use crate::data::entry::Entry;
use crate::data::version::{Version, VersionVector};

/// Count and digest of a dump's lines, or of some of its entries.
///
/// The digest is the wrapping sum of `rapidhash_v3` of
/// - the header, as it is written, but without `order`;
/// - of each entry: hash of the key, stamp, nonce, node, hash of the value (none for a tombstone),
///   and expiry (none for most), as little-endian bytes;
/// - the end line's horizon, as it is written.
///
/// Source: the crate `rapidhash`, whose `v3` functions are specified not to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DumpDigest {
    count: u64,
    sum: u64,
}

impl DumpDigest {
    /// Begins with the header.
    pub fn of(header: &Header) -> DumpDigest {
        // Builds from before `order` read past it, and must come to the same sum.
        DumpDigest { count: 0, sum: hash(&Header { order: None, ..header.clone() }) }
    }

    pub fn add(&mut self, entry: &Entry) {
        let Version { stamp, origin } = entry.version();
        let mut fields = [0; 44];
        let mut len = 28;
        fields[..8].copy_from_slice(&rapidhash_v3(entry.key()).to_le_bytes());
        fields[8..16].copy_from_slice(&stamp.to_bits().to_le_bytes());
        fields[16..24].copy_from_slice(&origin.nonce.to_le_bytes());
        fields[24..26].copy_from_slice(&origin.node.0.to_le_bytes());
        if let Some(value) = entry.value() {
            fields[len..len + 8].copy_from_slice(&rapidhash_v3(value).to_le_bytes());
            len += 8;
        }
        if let Some(expires) = entry.expires() {
            fields[len..len + 8].copy_from_slice(&expires.wall_ms().to_le_bytes());
            len += 8;
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(rapidhash_v3(&fields[..len]));
    }

    /// Entries that were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds other entries of the same dump.
    pub fn join(&mut self, other: &DumpDigest) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Makes the end line of a dump that held this.
    pub fn end_line(&self, horizon: VersionVector) -> EndLine {
        EndLine { end: NAME.to_owned(), count: self.count, digest: self.with(&horizon), horizon }
    }

    /// Checks that an end line belongs to a dump that held this. An error says how they differ.
    pub fn check(&self, end: &EndLine) -> Result<(), String> {
        let digest = self.with(&end.horizon);
        if (end.count, &end.digest) == (self.count, &digest) {
            return Ok(());
        }
        Err(format!("a dump of {} entries with digest {digest} whose end line says {} and {}", self.count, end.count, end.digest))
    }

    fn with(&self, horizon: &VersionVector) -> String {
        format!("{:016x}", self.sum.wrapping_add(hash(horizon)))
    }
}

fn hash(value: &impl Serialize) -> u64 {
    let mut line = Vec::new();
    write_line(&mut line, value);
    rapidhash_v3(&line)
}
