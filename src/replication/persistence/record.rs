//! Records of the write-ahead log, and what they mean.
//!
//! | kind | payload | on replay |
//! |---|---|---|
//! | batch | as it travels between peers | its writes are merged; if it joins, the vector moves |
//! | lines | dump lines, as they came | entries are merged; header and end lines are skipped |
//! | healed | dump lines of entries | merged though covered; the greater bytes win |
//! | removed | dump lines of keys and versions | that version is taken out: dropped or collected |
//! | proven | JSON: a vector and a GC horizon | both are joined |
//! | incarnation | JSON: the writer from here on | another node's or cluster's is refused |
//!
//! A new kind, or a new form of one, makes the log that holds it one of a later format
//! ([`crate::wal::log`]). Batches and lines are the peers' own messages ([`crate::wire::peer`]);
//! the others exist only here.

use serde::{Deserialize, Serialize};

use crate::data::entry::Entry;
use crate::data::key_order::Order;
use crate::data::version::{Origin, VersionVector};
use crate::wire::dump;
use crate::wire::frame::seal;
use crate::wire::peer::{LINES, WRITE_BATCH, WriteBatch, decode_batch};

const HEALED: u8 = 64;
const REMOVED: u8 = 65;
const PROVEN: u8 = 66;
const INCARNATION: u8 = 67;

/// Bytes of dump lines in one record, about.
const LINES_LEN: usize = 1 << 20;

/// One record, decoded.
#[derive(Debug, PartialEq)]
pub enum Record {
    Writes(WriteBatch),
    Lines(Vec<Entry>),
    Healed(Vec<Entry>),
    /// Keys and versions, in the form of tombstones.
    Removed(Vec<Entry>),
    Proven(Proven),
    Incarnation(Incarnation),
}

/// Coverage and collection that hold from here on: by a dump's end line, or because nothing was
/// missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proven {
    pub vector: VersionVector,
    pub horizon: VersionVector,
}

/// The beginning of an incarnation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incarnation {
    pub cluster: String,
    pub origin: Origin,
    /// The version of kvmesh.
    pub version: String,
    /// The scan order; `None` as long as there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

impl Record {
    /// Decodes a body whose checksum was right. An error says what is malformed.
    pub fn decode(body: &[u8]) -> Result<Record, String> {
        let (kind, payload) = body.split_first().ok_or("an empty record")?;
        match *kind {
            WRITE_BATCH => decode_batch(payload).map(Record::Writes),
            LINES => dump::entries(payload).map(Record::Lines),
            HEALED => dump::entries(payload).map(Record::Healed),
            REMOVED => dump::entries(payload).map(Record::Removed),
            PROVEN => from_json(payload).map(Record::Proven),
            INCARNATION => from_json(payload).map(Record::Incarnation),
            other => Err(format!("a record of unknown kind {other}")),
        }
    }
}

/// Encodes whole dump lines of entries, as a peer would send them.
pub fn lines(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    seal(&mut out, LINES, |out| out.extend_from_slice(lines));
    out
}

/// Encodes what healing changed.
pub fn healed(entries: &[Entry]) -> Vec<u8> {
    of_entries(HEALED, entries)
}

/// Encodes what was taken out: keys and versions, in the form of tombstones.
pub fn removed(entries: &[Entry]) -> Vec<u8> {
    let without_values: Vec<Entry> = entries.iter().map(|entry| Entry::new(entry.key(), None, None, entry.version())).collect();
    of_entries(REMOVED, &without_values)
}

/// Encodes what was proven.
pub fn proven(proven: &Proven) -> Vec<u8> {
    of_json(PROVEN, proven)
}

/// Encodes the beginning of an incarnation.
pub fn incarnation(incarnation: &Incarnation) -> Vec<u8> {
    of_json(INCARNATION, incarnation)
}

fn of_entries(kind: u8, mut entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    while !entries.is_empty() {
        seal(&mut out, kind, |out| {
            let full = out.len() + LINES_LEN;
            while out.len() < full
                && let Some((entry, rest)) = entries.split_first()
            {
                dump::write_entry(out, entry);
                entries = rest;
            }
        });
    }
    out
}

fn of_json(kind: u8, value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    // Cannot fail: plain types, into a Vec.
    seal(&mut out, kind, |out| serde_json::to_writer(out, value).expect("records are plain JSON"));
    out
}

fn from_json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("a record that is not the JSON expected: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::clock::Stamp;
    use crate::data::version::{NodeId, Version};
    use crate::testing::entries::any_entry;
    use crate::wire::frame::{self, HEAD_LEN};
    use proptest::prelude::*;

    fn decoded(mut bytes: &[u8]) -> Vec<Record> {
        let (mut records, mut record) = (Vec::new(), Vec::new());
        while frame::read(&mut bytes, &mut record, 1 << 30).unwrap() {
            records.push(Record::decode(&record[HEAD_LEN..]).unwrap());
        }
        records
    }

    proptest! {
        #[test]
        fn entries_survive(entries in prop::collection::vec(any_entry(), 1..9)) {
            prop_assert_eq!(decoded(&healed(&entries)), [Record::Healed(entries.clone())]);
            let keys = entries.iter().map(|entry| Entry::new(entry.key(), None, None, entry.version())).collect();
            prop_assert_eq!(decoded(&removed(&entries)), [Record::Removed(keys)]);
        }

        #[test]
        fn garbage_never_panics(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Record::decode(&body);
        }
    }

    #[test]
    fn many_entries_are_several_records() {
        let version = Version { stamp: Stamp::from_bits(1), origin: Origin { node: NodeId(1), nonce: 1 } };
        let entries = vec![Entry::new(&[b'k'; 1000], None, None, version); 3000];
        let records = decoded(&removed(&entries));
        assert_eq!(records.len(), 3);
        let total: usize = records.iter().map(|record| if let Record::Removed(entries) = record { entries.len() } else { 0 }).sum();
        assert_eq!(total, 3000);
    }

    #[test]
    fn what_was_proven_and_the_incarnation_survive() {
        let origin = Origin { node: NodeId(2), nonce: 9 };
        let vector: VersionVector = [(origin, Stamp::from_bits(7))].into_iter().collect();
        let what = Proven { vector: vector.clone(), horizon: vector };
        let writer = Incarnation { cluster: "c".to_owned(), origin, version: "1".to_owned(), order: None };
        assert_eq!(decoded(&[proven(&what), incarnation(&writer)].concat()), [Record::Proven(what), Record::Incarnation(writer)]);
    }
}
