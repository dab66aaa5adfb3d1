//! The map: every key with the newest thing known about it, behind one door.
//!
//! Owns the shards and their locks; no guard leaves this file. Local writes go through [`Store::write`], everything that arrives from
//! elsewhere through [`Store::merge`], and both keep the greater version. No sockets, no log lines, no vector: whether an entry is *covered* is
//! the caller's question, asked here under the shard's lock so that the answer cannot go stale.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table;
use parking_lot::RwLock;
use rapidhash::v3::rapidhash_v3;

use crate::entry::{Entry, Key, Value, Version};

/// Enough that two sessions rarely meet, and that one shard of ten million keys is read within a few milliseconds.
const SHARDS_LEN: usize = 256;

/// The most entries that room is made for on a mere announcement.
pub const ENTRIES_BELIEVED: u64 = 1 << 22;

/// What an entry takes beside the bytes of its key and value: the slot with its share of empty ones, and two reference counts with
/// their allocator's rounding. For [`Store::memory`] only.
const ENTRY_OVERHEAD: usize = std::mem::size_of::<Held>() * 8 / 6 + 2 * 24;

/// All entries of one node.
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    memory: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    table: HashTable<Held>,
    /// Invariant: the number of tombstones in `table`.
    tombstones: usize,
}

/// An entry where it is held. With its hash: a table that grows moves its slots without a look at their keys, which lie all over the memory.
struct Held {
    hash: u64,
    entry: Entry,
}

/// What became of an entry that arrived from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is the newest now; what it replaced, if there was anything.
    Won { replaced: Option<Version> },
    /// A greater version was here already.
    Lost { winner: Version },
    /// This very version was here already.
    Same,
    /// The caller's vector covers it: not looked at.
    Covered,
}

/// How much there is, at about the moment of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live keys.
    pub keys: usize,
    pub tombstones: usize,
}

/// A fingerprint of live keys and values, in no order: equal on any two nodes that hold the same data.
///
/// The wrapping sum over all live entries of `rapidhash_v3(rapidhash_v3(key) ++ rapidhash_v3(value))`, both as little-endian bytes.
/// Source: the crate `rapidhash`, whose `v3` functions are specified not to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub sum: u64,
    pub keys: u64,
}

impl Digest {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&rapidhash_v3(key).to_le_bytes());
        pair[8..].copy_from_slice(&rapidhash_v3(value).to_le_bytes());
        self.sum = self.sum.wrapping_add(rapidhash_v3(&pair));
        self.keys += 1;
    }

    /// The digest of two disjoint parts together.
    pub fn join(&mut self, other: Digest) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.keys += other.keys;
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    pub fn new() -> Store {
        Store { shards: (0..SHARDS_LEN).map(|_| RwLock::default()).collect(), hasher: RandomState::new(), memory: AtomicUsize::new(0) }
    }

    /// The live value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Value> {
        self.entry(key).and_then(|entry| entry.value)
    }

    /// What is known of a key, tombstones included.
    pub fn entry(&self, key: &[u8]) -> Option<Entry> {
        let hash = self.hash(key);
        self.shard(hash).read().find(hash, key).cloned()
    }

    /// A local write. `decide` sees what is there, under the shard's lock, and returns the entry to put in its place, whose version
    /// must be greater (it has just been stamped), or a refusal.
    pub fn write<R>(&self, key: &[u8], decide: impl FnOnce(Option<&Entry>) -> Result<Entry, R>) -> Result<Version, R> {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        let slot = self.slot(&mut shard, hash, key);
        let current = slot.current();
        let entry = decide(current)?;
        debug_assert!(current.is_none_or(|current| current.version < entry.version));
        let version = entry.version;
        self.put(slot, entry);
        Ok(version)
    }

    /// An entry from elsewhere: the greater version stays. `covered` is asked under the shard's lock: a tombstone that the collector takes away
    /// is covered by then, so an older line that was already on its way cannot slip in behind it.
    pub fn merge(&self, entry: Entry, covered: impl FnOnce(Version) -> bool) -> Merged {
        let hash = self.hash(&entry.key);
        let mut shard = self.shard(hash).write();
        if covered(entry.version) {
            return Merged::Covered;
        }
        let slot = self.slot(&mut shard, hash, &entry.key);
        match slot.current().map(|current| current.version) {
            Some(winner) if winner > entry.version => Merged::Lost { winner },
            Some(same) if same == entry.version => Merged::Same,
            replaced => {
                self.put(slot, entry);
                Merged::Won { replaced }
            }
        }
    }

    /// Merges for healing: as [`Store::merge`], but at equal versions, which then hold different data, the greater bytes win and any value
    /// beats a tombstone. Returns whether anything changed.
    pub fn heal(&self, entry: Entry) -> bool {
        let hash = self.hash(&entry.key);
        let mut shard = self.shard(hash).write();
        let slot = self.slot(&mut shard, hash, &entry.key);
        let newer = slot.current().is_none_or(|current| (entry.version, &entry.value) > (current.version, &current.value));
        if newer {
            self.put(slot, entry);
        }
        newer
    }

    /// How many shards there are: they are scanned one by one, each under one lock hold, so that no key is skipped by a resize.
    pub fn shards_len(&self) -> usize {
        self.shards.len()
    }

    /// Copies out of one shard what `keep` picks. Holds the shard's read lock meanwhile.
    pub fn scan(&self, shard: usize, mut keep: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        self.shards[shard].read().entries().filter(|entry| keep(entry)).cloned().collect()
    }

    /// Counts the tombstones of one shard that `which` picks; costs nothing where there are none.
    pub fn count_tombstones(&self, shard: usize, mut which: impl FnMut(Version) -> bool) -> usize {
        let shard = self.shards[shard].read();
        if shard.tombstones == 0 {
            return 0;
        }
        shard.entries().filter(|entry| entry.is_tombstone() && which(entry.version)).count()
    }

    /// Takes the tombstones out of one shard that `which` picks, and returns them.
    pub fn collect(&self, shard: usize, mut which: impl FnMut(Version) -> bool) -> Vec<Entry> {
        if self.shards[shard].read().tombstones == 0 {
            return Vec::new();
        }
        self.remove(shard, |entry| entry.is_tombstone() && which(entry.version))
    }

    /// Takes the entries out of one shard that `which` picks, and returns them.
    pub fn remove(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut shard = self.shards[shard].write();
        let removed: Vec<Entry> = shard.table.extract_if(|held| which(&held.entry)).map(|held| held.entry).collect();
        shard.tombstones -= removed.iter().filter(|entry| entry.is_tombstone()).count();
        self.memory.fetch_sub(removed.iter().map(footprint).sum(), Ordering::Relaxed);
        removed
    }

    /// Takes a key out if this version of it is there, and no other.
    pub fn remove_version(&self, key: &[u8], version: Version) {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        let is_it = |held: &Held| held.is(hash, key) && held.entry.version == version;
        let Ok(place) = shard.table.find_entry(hash, is_it) else { return };
        let (Held { entry: removed, .. }, _) = place.remove();
        shard.tombstones -= usize::from(removed.is_tombstone());
        self.memory.fetch_sub(footprint(&removed), Ordering::Relaxed);
    }

    /// The digest of one shard's live entries.
    pub fn digest_shard(&self, shard: usize) -> Digest {
        let mut digest = Digest::default();
        for entry in self.shards[shard].read().entries() {
            if let Some(value) = &entry.value {
                digest.add(&entry.key, value);
            }
        }
        digest
    }

    /// The digest of all live entries, shard by shard: exact once writes pause.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for shard in 0..self.shards_len() {
            digest.join(self.digest_shard(shard));
        }
        digest
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            let shard = shard.read();
            counts.keys += shard.table.len() - shard.tombstones;
            counts.tombstones += shard.tombstones;
        }
        counts
    }

    /// Entries held, tombstones included.
    pub fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().table.len() as u64).sum()
    }

    /// Whether nothing at all is held, tombstones included.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for so many entries more, which saves a table from moving them again and again while it grows. Only a hint: far too many are not
    /// believed.
    pub fn reserve(&self, entries: u64) {
        let per_shard = entries.min(ENTRIES_BELIEVED) as usize / SHARDS_LEN;
        for shard in &self.shards {
            // An eighth more, as shards do not fill evenly.
            shard.write().table.reserve(per_shard + per_shard / 8, |held| held.hash);
        }
    }

    /// Bytes that the entries take, by estimate: what `memory_max` is held against.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The table inside uses the low and the top seven bits of the hash; the shard comes from bits between.
    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS_LEN]
    }

    /// The place of a key, looked up once: to see what is there, and to put something else there.
    fn slot<'a>(&self, shard: &'a mut Shard, hash: u64, key: &[u8]) -> Slot<'a> {
        let Shard { table, tombstones } = shard;
        let place = table.entry(hash, |held| held.is(hash, key), |held| held.hash);
        Slot { place, hash, tombstones }
    }

    fn put(&self, slot: Slot<'_>, entry: Entry) {
        self.memory.fetch_add(footprint(&entry), Ordering::Relaxed);
        *slot.tombstones += usize::from(entry.is_tombstone());
        match slot.place {
            hash_table::Entry::Vacant(place) => {
                place.insert(Held { hash: slot.hash, entry });
            }
            hash_table::Entry::Occupied(mut place) => {
                let held = &mut place.get_mut().entry;
                let key = Key::clone(&held.key);
                let old = std::mem::replace(held, Entry { key, ..entry });
                *slot.tombstones -= usize::from(old.is_tombstone());
                self.memory.fetch_sub(footprint(&old), Ordering::Relaxed);
            }
        }
    }
}

/// The place of one key in its shard, and the count that goes with what is put there.
struct Slot<'a> {
    place: hash_table::Entry<'a, Held>,
    hash: u64,
    tombstones: &'a mut usize,
}

impl Slot<'_> {
    fn current(&self) -> Option<&Entry> {
        match &self.place {
            hash_table::Entry::Occupied(place) => Some(&place.get().entry),
            hash_table::Entry::Vacant(_) => None,
        }
    }
}

impl Shard {
    fn find(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.table.find(hash, |held| held.is(hash, key)).map(|held| &held.entry)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.table.iter().map(|held| &held.entry)
    }
}

impl Held {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.entry.key == *key
    }
}

fn footprint(entry: &Entry) -> usize {
    entry.size() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stamp;
    use crate::entry::{NodeId, Origin};
    use proptest::prelude::*;

    fn entry(key: &str, value: Option<&str>, stamp: u64, node: u16) -> Entry {
        let origin = Origin { node: NodeId(node), nonce: u64::from(node) };
        let version = Version { stamp: Stamp::from_bits(stamp), origin };
        Entry { key: key.as_bytes().into(), value: value.map(|value| value.as_bytes().into()), version }
    }

    fn contents(store: &Store) -> Vec<Entry> {
        let mut all: Vec<Entry> = (0..store.shards_len()).flat_map(|shard| store.scan(shard, |_| true)).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Few keys, stamps and nodes, so that collisions are common; the value follows from the version, as in the mesh.
    fn any_entry() -> impl Strategy<Value = Entry> {
        (0..4u8, 0..8u64, 1..4u16).prop_map(|(key, stamp, node)| {
            let value = format!("{stamp}/{node}");
            entry(&format!("key{key}"), (stamp % 3 != 0).then_some(value.as_str()), stamp, node)
        })
    }

    fn merged(entries: &[Entry]) -> Store {
        let store = Store::new();
        for entry in entries {
            store.merge(entry.clone(), |_| false);
        }
        store
    }

    proptest! {
        #[test]
        fn merge_commutes_and_is_idempotent(entries in prop::collection::vec(any_entry(), 0..40), seed in any::<u64>()) {
            let store = merged(&entries);
            let mut shuffled = entries.clone();
            shuffled.sort_by_key(|entry| rapidhash_v3(format!("{seed}{entry:?}").as_bytes()));
            shuffled.extend(entries.iter().take(7).cloned());
            let other = merged(&shuffled);
            prop_assert_eq!(contents(&store), contents(&other));
            prop_assert_eq!(store.digest(), other.digest());
            prop_assert_eq!(store.counts(), other.counts());
            prop_assert_eq!(store.memory(), other.memory());
        }

        #[test]
        fn merge_associates(a in prop::collection::vec(any_entry(), 0..20), b in prop::collection::vec(any_entry(), 0..20), c in prop::collection::vec(any_entry(), 0..20)) {
            let left = merged(&[contents(&merged(&[a.clone(), b.clone()].concat())), c.clone()].concat());
            let right = merged(&[a, contents(&merged(&[b, c].concat()))].concat());
            prop_assert_eq!(contents(&left), contents(&right));
        }

        #[test]
        fn the_counts_and_the_digest_are_those_of_a_plain_map(entries in prop::collection::vec(any_entry(), 0..60)) {
            let store = merged(&entries);
            let mut plain = std::collections::BTreeMap::new();
            for entry in entries {
                let newest = plain.entry(entry.key.clone()).or_insert(entry.clone());
                if entry.version > newest.version {
                    *newest = entry;
                }
            }
            let mut digest = Digest::default();
            for entry in plain.values() {
                if let Some(value) = &entry.value {
                    digest.add(&entry.key, value);
                }
            }
            prop_assert_eq!(store.digest(), digest);
            prop_assert_eq!(store.counts().keys, digest.keys as usize);
            prop_assert_eq!(store.counts().tombstones, plain.len() - digest.keys as usize);
            prop_assert_eq!(contents(&store), plain.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn merge_says_what_became_of_the_entry() {
        let store = Store::new();
        let (old, new) = (entry("k", Some("old"), 1, 1), entry("k", None, 2, 1));
        assert_eq!(store.merge(new.clone(), |_| true), Merged::Covered);
        assert_eq!(store.merge(old.clone(), |_| false), Merged::Won { replaced: None });
        assert_eq!(store.merge(new.clone(), |_| false), Merged::Won { replaced: Some(old.version) });
        assert_eq!(store.merge(new.clone(), |_| false), Merged::Same);
        assert_eq!(store.merge(old, |_| false), Merged::Lost { winner: new.version });
        assert_eq!(store.get(b"k"), None);
    }

    #[test]
    fn healing_adds_and_prefers_the_greater_bytes() {
        let store = merged(&[entry("k", Some("b"), 5, 1), entry("gone", None, 6, 1)]);
        assert!(!store.heal(entry("k", Some("a"), 5, 1)));
        assert!(store.heal(entry("k", Some("c"), 5, 1)));
        assert!(store.heal(entry("gone", Some("back"), 6, 1)));
        assert!(!store.heal(entry("gone", None, 6, 1)));
        assert_eq!(store.get(b"k").as_deref(), Some(&b"c"[..]));
    }

    #[test]
    fn a_refused_write_changes_nothing_and_a_removed_entry_is_gone() {
        let store = merged(&[entry("k", Some("v"), 1, 1), entry("dead", None, 1, 1)]);
        assert_eq!(store.write(b"k", |current| Err::<Entry, _>(current.cloned())), Err(Some(entry("k", Some("v"), 1, 1))));
        for shard in 0..store.shards_len() {
            store.collect(shard, |_| true);
        }
        assert_eq!(store.counts(), Counts { keys: 1, tombstones: 0 });
        for shard in 0..store.shards_len() {
            store.remove(shard, |_| true);
        }
        assert!(store.is_empty());
        assert_eq!(store.memory(), 0);
    }

    #[test]
    fn the_digest_is_the_specified_one() {
        // Written down so that a change of the hash, which would make old and new nodes disagree, fails here.
        let store = merged(&[entry("a", Some("1"), 1, 1), entry("b", Some(""), 2, 1)]);
        assert_eq!((store.digest().sum, store.digest().keys), (DIGEST_OF_A1_AND_B, 2));
    }
    const DIGEST_OF_A1_AND_B: u64 = 14_149_382_231_522_247_967;
}
