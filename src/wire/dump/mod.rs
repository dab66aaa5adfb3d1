//! The dump: a store, or what a vector lacks of it, as newline-delimited JSON.
//!
//! A dump catches a peer up, is the snapshot on the disk and the file of a backup; `DUMP` prints
//! one and `RESTORE` takes one. One object a line: a header, an entry a line, an end line.
//!
//! ```text
//! {"dump":"kvmesh","format":1,"kind":"full","node":1,"origin":"1-9f86d081884c7d65",...}
//! {"k":"colour","v":"green","s":"116069418624417792","o":"1-9f86d081884c7d65"}
//! {"k":"gone","s":"116069418624417793","o":"1-9f86d081884c7d65"}
//! {"k":"session","v":"7","x":"1771078165000","s":"116069418624417794","o":"1-9f86d081884c7d65"}
//! {"end":"kvmesh","count":3,"digest":"4c1d...","horizon":{}}
//! ```
//!
//! Keys and values that are not clean UTF-8 are carried as base64, under `k64` and `v64`. An entry
//! without a value is a tombstone. An entry with an `x` expires then, in milliseconds since 1970.
//! Stamps and expiries are strings: JSON numbers lose bits above 2^53.
//!
//! Everything that reads a dump reads it with [`DumpReader`], and everything that writes one uses
//! [`DumpWriter`]. Lines to values and back; no sockets, no files, no store, no merging.

use serde::{Deserialize, Serialize};

use crate::data::entry::Entry;
use crate::data::key_order::Order;
use crate::data::version::{NodeId, Origin, VersionVector};

mod digest;
mod parse;
mod read;
mod write;

#[cfg(test)]
mod tests;

use digest::DumpDigest;
pub use parse::{is_end_line, other_version};
pub use read::{BROKEN_OFF, DumpReader, PartReader, entries, whole_lines};
#[cfg(any(test, feature = "testing"))]
pub use write::whole_dump;
pub use write::{DumpWriter, write_entry};

/// The newest format of a dump.
///
/// Raised when a build that reads only earlier formats could misunderstand a dump; the format
/// before is still read. In every format the first line is JSON that begins with `dump` and holds
/// `format`. Format 2 may say something of all incarnations of a node in its vector, and format 1
/// may not. A dump that says nothing of the kind is written in format 1, which earlier builds read.
pub const FORMAT: u32 = 2;

/// The value of `dump` in the header, and of `end` in the end line.
const NAME: &str = "kvmesh";

/// Which entries a dump holds, and so what the absence of a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpKind {
    /// Everything. A key that the dump lacks and whose version the header's vector covers is proven
    /// deleted.
    Full,
    /// The entries that the asker's vector did not cover. Absence means nothing.
    Delta,
    /// Everything, after a divergence: merged without dropping and without skipping.
    Heal,
}

/// The first line of a dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    dump: String,
    pub format: u32,
    pub kind: DumpKind,
    /// The donor.
    pub node: NodeId,
    /// The donor's present incarnation.
    pub origin: Origin,
    /// The donor's version vector, noted before the scan.
    pub vector: VersionVector,
    /// The number of entries that the donor holds, so that a blank reader can make room for them at
    /// once. About so many follow at most.
    #[serde(default)]
    pub entries: u64,
    /// The request that the dump answers, if it answers one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// The order that the cluster scans in. Snapshots only: not for clients to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

impl Header {
    pub fn new(kind: DumpKind, origin: Origin, vector: VersionVector, entries: u64, request: Option<u64>) -> Header {
        let format = if vector.folded().next().is_some() { FORMAT } else { 1 };
        Header { dump: NAME.to_owned(), format, kind, node: origin.node, origin, vector, entries, request, order: None }
    }

    /// Returns whether the vector may say something of all incarnations of a node.
    pub fn is_folded(&self) -> bool {
        self.format > 1
    }
}

/// The last line of a dump.
///
/// Only a [`DumpReader`] hands one out, once it has found that count and digest are those of the
/// lines before. So an end line in hand proves that the dump was whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndLine {
    end: String,
    count: u64,
    /// The digest of everything before, see [`DumpDigest`]: 16 hexadecimal digits.
    digest: String,
    /// The donor's GC horizon: of each origin the greatest stamp that was collected.
    pub horizon: VersionVector,
}

/// One line of a dump.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Header(Header),
    Entry(Entry),
    End(EndLine),
}

/// Room for a header's or an end line's vector, which takes some 50 bytes for every incarnation of
/// every node: enough for twenty thousand.
const VECTOR_LINE_LEN_MAX: usize = 1 << 20;

/// Bytes of an entry's line beside those of key and value, at most.
const ENTRY_FIELDS_LEN_MAX: usize = 128;

/// Returns the length of the longest line of a dump whose keys and values are at most so long.
/// Text takes at most two bytes for one, and everything else is written as base64.
pub fn line_len_max(key_len_max: usize, value_len_max: usize) -> usize {
    let entry = key_len_max.saturating_add(value_len_max).saturating_mul(2).saturating_add(ENTRY_FIELDS_LEN_MAX);
    entry.max(VECTOR_LINE_LEN_MAX)
}
