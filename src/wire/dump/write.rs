//! Writing a dump.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::parse::{HEXADECIMAL, is_plain};
use super::{DumpDigest, Header};
use crate::data::entry::Entry;
use crate::data::version::{Version, VersionVector};

/// Writes one dump: the header when it is made, then entries, then the end line.
pub struct DumpWriter {
    digest: DumpDigest,
}

impl DumpWriter {
    /// Appends the header.
    pub fn begin(header: &Header, out: &mut Vec<u8>) -> DumpWriter {
        write_line(out, header);
        DumpWriter { digest: DumpDigest::of(header) }
    }

    /// Appends one entry.
    pub fn entry(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        self.digest.add(entry);
        write_entry(out, entry);
    }

    /// Appends the end line. `horizon` is the donor's GC horizon.
    pub fn end(&self, horizon: VersionVector, out: &mut Vec<u8>) {
        write_line(out, &self.digest.end_line(horizon));
    }

    /// Entries that were written.
    pub fn count(&self) -> u64 {
        self.digest.count()
    }
}

/// Makes a whole dump of these entries.
#[cfg(any(test, feature = "testing"))]
pub fn whole_dump(header: &Header, entries: impl IntoIterator<Item = Entry>, horizon: VersionVector) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut writer = DumpWriter::begin(header, &mut lines);
    entries.into_iter().for_each(|entry| writer.entry(&entry, &mut lines));
    writer.end(horizon, &mut lines);
    lines
}

pub(super) fn write_line(out: &mut Vec<u8>, line: &impl Serialize) {
    // Cannot fail: the types are plain, and a Vec takes every write.
    serde_json::to_writer(&mut *out, line).expect("dump lines are plain JSON");
    out.push(b'\n');
}

/// Appends the line of one entry. By hand, field by field: a million of these are a node's
/// recovery.
pub fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(b'{');
    write_bytes(out, b"\"k\":", b"\"k64\":", entry.key());
    if let Some(value) = entry.value() {
        out.push(b',');
        write_bytes(out, b"\"v\":", b"\"v64\":", value);
    }
    if let Some(expires) = entry.expires() {
        out.extend_from_slice(b",\"x\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(expires.wall_ms()).as_bytes());
        out.push(b'"');
    }
    let Version { stamp, origin } = entry.version();
    out.extend_from_slice(b",\"s\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(stamp.to_bits()).as_bytes());
    out.extend_from_slice(b"\",\"o\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(origin.node.0).as_bytes());
    out.push(b'-');
    out.extend((0..16).rev().map(|digit| HEXADECIMAL[(origin.nonce >> (4 * digit)) as usize & 0xf]));
    out.extend_from_slice(b"\"}\n");
}

fn write_bytes(out: &mut Vec<u8>, as_text: &[u8], as_base64: &[u8], bytes: &[u8]) {
    if is_plain(bytes) {
        out.extend_from_slice(as_text);
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else if let Some(text) = text(bytes) {
        out.extend_from_slice(as_text);
        // Cannot fail: a Vec takes every write.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.extend_from_slice(as_base64);
        // Cannot fail: as above.
        let _ = write!(out, "\"{}\"", BASE64.encode(bytes));
    }
}

/// Returns the bytes as text if they are clean: valid UTF-8 without control characters, which JSON
/// would blow up to six bytes.
fn text(bytes: &[u8]) -> Option<&str> {
    let clean = bytes.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r'));
    if clean { std::str::from_utf8(bytes).ok() } else { None }
}
