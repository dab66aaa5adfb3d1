//! Making a dump of the store.

use std::vec;

use crate::data::entry::Entry;
use crate::data::version::VersionVector;
use crate::store::{Store, Walk};
use crate::wire::dump::{DumpWriter, Header};

/// Shards that one step looks at, however little they give: a scan must show progress.
const SHARDS_PER_STEP: usize = 16;

/// Entries that one step looks at, to within a shard: some milliseconds. Beyond this, what else is
/// to be sent has its turn. A step holds the link's sender, for which acks wait.
const ENTRIES_PER_STEP: usize = 10_000;

/// A dump being made: the store is scanned shard by shard while writes go on.
///
/// The header's vector must have been noted before this is made. Unless the dump is a full one,
/// tombstone GC must be stopped until this is dropped.
pub struct DumpScan {
    header: Header,
    /// Entries that this vector covers are left out.
    asker: VersionVector,
    horizon: VersionVector,
    /// `None` before the first step.
    writer: Option<DumpWriter>,
    /// Held from the first shard to the last.
    walk: Option<Walk>,
    shard: usize,
    entries: vec::IntoIter<Entry>,
}

impl DumpScan {
    pub fn new(header: Header, asker: VersionVector, horizon: VersionVector) -> DumpScan {
        DumpScan { header, asker, horizon, writer: None, walk: None, shard: 0, entries: Vec::new().into_iter() }
    }

    /// Replaces the GC horizon that the end line is to carry.
    pub fn set_horizon(&mut self, horizon: VersionVector) {
        self.horizon = horizon;
    }

    /// Appends whole lines, about `len` bytes of them or the entries of one shard. Returns whether
    /// there is more; when there is not, the end line has been written.
    pub fn write(&mut self, store: &Store, len: usize, out: &mut Vec<u8>) -> bool {
        let writer = self.writer.get_or_insert_with(|| DumpWriter::begin(&self.header, out));
        self.walk.get_or_insert_with(|| store.walk());
        let full = out.len() + len;
        let last_shard = self.shard + SHARDS_PER_STEP;
        let mut looked_at = 0;
        while out.len() < full {
            if let Some(entry) = self.entries.next() {
                writer.entry(&entry, out);
            } else if self.shard == store.shards_len() {
                writer.end(std::mem::take(&mut self.horizon), out);
                return false;
            } else if self.shard == last_shard || looked_at >= ENTRIES_PER_STEP {
                break;
            } else {
                looked_at += store.shard_len(self.shard);
                self.entries = store.scan_shard(self.shard, |entry| !self.asker.covers(entry.version())).into_iter();
                self.shard += 1;
            }
        }
        true
    }

    /// Entries that were written.
    pub fn count(&self) -> u64 {
        self.writer.as_ref().map_or(0, DumpWriter::count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::clock::Stamp;
    use crate::data::key_order::OrderKey;
    use crate::data::version::{NodeId, Origin, Version};
    use crate::store::Keyspace;
    use crate::testing::entries::any_entry;
    use crate::wire::dump::{self, DumpKind, DumpReader, Line};

    const ORIGIN: Origin = Origin { node: NodeId(1), nonce: 0x9f86 };

    fn filled() -> Store {
        let store = Store::new();
        for stamp in 1..=10 {
            let (version, value) = (Version { stamp: Stamp::from_bits(stamp), origin: ORIGIN }, [b'v']);
            store.merge(Entry::new(stamp.to_string().as_bytes(), (stamp % 3 > 0).then_some(&value), None, version), |_| false);
        }
        store
    }

    fn full(asker: VersionVector) -> DumpScan {
        DumpScan::new(Header::new(DumpKind::Full, ORIGIN, VersionVector::default(), 0, Some(3)), asker, VersionVector::default())
    }

    fn scanned(store: &Store, asker: VersionVector) -> Vec<Line> {
        let mut scan = full(asker);
        let mut lines = Vec::new();
        while scan.write(store, 100, &mut lines) {}
        assert_eq!(scan.count() as usize, lines.iter().filter(|byte| **byte == b'\n').count() - 2);
        let mut reader = DumpReader::default();
        let lines = dump::whole_lines(&lines).unwrap().map(|line| reader.line(line).unwrap()).collect();
        reader.finish().unwrap();
        lines
    }

    /// A delta of few entries went through sixteen shards in one step, however large they were, and
    /// acks to the same peer waited for that.
    #[test]
    fn a_step_looks_at_few_shards_of_many_entries() {
        let store = Store::new();
        let (len, version) =
            (2 * ENTRIES_PER_STEP / SHARDS_PER_STEP * store.shards_len(), Version { stamp: Stamp::from_bits(1), origin: ORIGIN });
        for key in 0..len {
            store.merge(Entry::new(key.to_string().as_bytes(), None, None, version), |_| false);
        }
        let (mut scan, mut lines, mut steps) = (full([(ORIGIN, version.stamp)].into_iter().collect()), Vec::new(), 1);
        let mut shard = 0;
        while scan.write(&store, 1 << 20, &mut lines) {
            let looked_at: usize = (shard..scan.shard).map(|shard| store.shard_len(shard)).sum();
            assert!(looked_at < ENTRIES_PER_STEP + store.shard_len(scan.shard - 1), "{looked_at}");
            (shard, steps) = (scan.shard, steps + 1);
        }
        assert!(steps > store.shards_len() / SHARDS_PER_STEP, "{steps}");
    }

    #[test]
    fn a_delta_leaves_out_what_the_asker_covers() {
        let asker = [(ORIGIN, Stamp::from_bits(8))].into_iter().collect();
        assert_eq!(scanned(&filled(), asker).len(), 1 + 2 + 1);
    }

    /// In another order a key could move to a shard that was scanned already, and be missing in the
    /// dump although the vector claims it. A snapshot is made by the same scan.
    #[test]
    fn keys_keep_their_order_while_a_dump_is_made() {
        let (store, mut scan, mut lines) = (filled(), full(VersionVector::default()), Vec::new());
        while scan.write(&store, 1, &mut lines) {
            assert!(!store.reorder(OrderKey::random()), "moved after {} entries", scan.count());
        }
        drop(scan);
        assert!(store.reorder(OrderKey::random()));
    }

    proptest! {
        #[test]
        fn a_store_survives_its_dump(entries in prop::collection::vec(any_entry(), 0..50)) {
            let (store, copy) = (Store::new(), Store::new());
            for entry in entries {
                store.merge(entry, |_| false);
            }
            for line in scanned(&store, VersionVector::default()) {
                match line {
                    Line::Header(header) => prop_assert_eq!(header.request, Some(3)),
                    Line::Entry(entry) => {
                        copy.merge(entry, |_| false);
                    }
                    Line::End(_) => {}
                }
            }
            prop_assert_eq!(copy.digest(0), store.digest(0));
            prop_assert_eq!(copy.counts(0), store.counts(0));
        }
    }
}
