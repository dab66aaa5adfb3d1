//! The map: every key with the newest thing known about it, behind one door.
//!
//! Owns the shards and their locks; no guard leaves this folder. Local writes go through [`Store::write`] and [`Store::transact`], everything that arrives from
//! elsewhere through [`Store::merge`] or [`Store::merge_write`], and all keep the greater version. No sockets, no log lines, no vector, no clock: whether an entry is *covered* is
//! the caller's question, asked here under the shard's lock so that the answer cannot go stale, and the time is an argument.

mod digest;
mod keyspace;
mod shard;
mod view;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::entry::{Entry, EntryRef, Version};
use crate::sabotage::Sabotage;
use crate::store::shard::{Shard, Slot, footprint};

pub use digest::Digest;
pub use keyspace::{Cursor, Keyspace};
pub use shard::footprint_of;
pub use view::{Span, View};

/// Enough that two sessions rarely meet, and that one shard of ten million keys is read within a few milliseconds.
const SHARDS_LEN: usize = 256;

/// The most entries that room is made for on a mere announcement.
pub const ENTRIES_BELIEVED: u64 = 1 << 22;

/// Of key and value together, what merging copies under a lock.
const COPIED_LEN_MAX: usize = 16 << 10;

/// Values that are let go under one lock hold.
const SPENT_PER_STEP: usize = 1024;

/// All entries of one node.
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    /// Keys are chosen by clients, so where they lie is not to be foreseen.
    hasher: RandomState,
    /// But in a simulation.
    #[cfg(feature = "testing")]
    places: Option<Places>,
    memory: AtomicUsize,
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
    /// Tombstones; among them what has expired and let its value go.
    pub tombstones: usize,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    pub fn new() -> Store {
        Store {
            shards: (0..SHARDS_LEN).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            #[cfg(feature = "testing")]
            places: None,
            memory: AtomicUsize::new(0),
        }
    }

    /// One in which every key lies where it lies in every run.
    #[cfg(feature = "testing")]
    pub fn repeatable(places: Places) -> Store {
        Store { places: Some(places), ..Store::new() }
    }

    /// Looks at what is known of a key: a tombstone and what has expired, too. Under the shard's read lock.
    pub fn read<T>(&self, key: &[u8], look: impl FnOnce(Option<&Entry>) -> T) -> T {
        let hash = self.hash(key);
        look(self.shards[place_of(hash)].read().find(hash, key))
    }

    /// What is known of a key.
    pub fn entry(&self, key: &[u8]) -> Option<Entry> {
        self.read(key, |entry| entry.cloned())
    }

    /// The value that is held, expired or not.
    #[cfg(test)]
    pub fn get(&self, key: &[u8]) -> Option<crate::entry::Value> {
        self.entry(key).and_then(|entry| entry.shared_value())
    }

    /// A local write. `decide` sees what is there, under the shard's lock, and returns the entry to put in its place, whose version
    /// must be greater (it has just been stamped), or a refusal.
    pub fn write<R>(&self, key: &[u8], decide: impl FnOnce(Option<&Entry>) -> Result<Entry, R>) -> Result<Version, R> {
        let hash = self.hash(key);
        let mut shard = self.shards[place_of(hash)].write();
        let slot = shard.slot(hash, key, |key| self.hash(key));
        let current = slot.current();
        let entry = decide(current)?;
        debug_assert!(current.is_none_or(|current| current.version() < entry.version()));
        let version = entry.version();
        self.put(slot, entry);
        Ok(version)
    }

    /// Looks at several keys as they are at one moment. Nothing may be awaited in `look`.
    pub fn look<T>(&self, span: Span<'_>, look: impl FnOnce(&View<'_>) -> T) -> T {
        let guards: Vec<_> = self.span(span).into_iter().map(|shard| (shard, self.shards[shard].read())).collect();
        look(&View::new(self, guards.iter().map(|(shard, guard)| (*shard, &**guard)).collect()))
    }

    /// Local writes to several keys in one step: nobody reads or writes any key of `span` meanwhile. `decide` sees what is there and returns the entries to put in its
    /// place, as in [`Store::write`]. Nothing may be awaited in it.
    pub fn transact<T, R>(&self, span: Span<'_>, decide: impl FnOnce(&View<'_>) -> Result<(Vec<Entry>, T), R>) -> Result<T, R> {
        let mut guards: Vec<_> = self.span(span).into_iter().map(|shard| (shard, self.shards[shard].write())).collect();
        let (entries, found) = decide(&View::new(self, guards.iter().map(|(shard, guard)| (*shard, &**guard)).collect()))?;
        for entry in entries {
            let hash = self.hash(entry.key());
            let index = guards.binary_search_by_key(&place_of(hash), |(shard, _)| *shard).expect("only what is locked is written");
            let slot = guards[index].1.slot(hash, entry.key(), |key| self.hash(key));
            debug_assert!(slot.current().is_none_or(|current| current.version() < entry.version()));
            self.put(slot, entry);
        }
        Ok(found)
    }

    /// The shards of these keys. Always in the same order, so that two who lock several cannot wait for each other.
    fn span(&self, span: Span<'_>) -> Vec<usize> {
        let mut shards: Vec<usize> = match span {
            Span::Keys(keys) => keys.iter().map(|key| place_of(self.hash(key))).collect(),
            Span::All => (0..SHARDS_LEN).collect(),
        };
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// An entry from elsewhere: the greater version stays. `covered` is asked under the shard's lock: a tombstone that the collector takes away
    /// is covered by then, so an older line that was already on its way cannot slip in behind it.
    pub fn merge(&self, entry: Entry, covered: impl FnOnce(Version) -> bool) -> Merged {
        let arrived = entry.clone();
        self.merge_with(arrived.key(), arrived.version(), covered, |slot| self.put_arrived(slot, entry))
    }

    /// The same of a write that lies in its frame.
    pub fn merge_write(&self, write: EntryRef<'_>, covered: impl FnOnce(Version) -> bool) -> Merged {
        if write.size() > COPIED_LEN_MAX {
            return self.merge(write.to_entry(), covered);
        }
        self.merge_with(write.key, write.version, covered, |mut slot| {
            if Sabotage::ReplicateCommands.is_on() || !slot.overwrite(write) {
                self.put_arrived(slot, write.to_entry());
            }
        })
    }

    fn merge_with(&self, key: &[u8], version: Version, covered: impl FnOnce(Version) -> bool, put: impl FnOnce(Slot<'_>)) -> Merged {
        let hash = self.hash(key);
        let mut shard = self.shards[place_of(hash)].write();
        if covered(version) && !Sabotage::MergeCovered.is_on() {
            return Merged::Covered;
        }
        let slot = shard.slot(hash, key, |key| self.hash(key));
        match slot.current().map(Entry::version) {
            Some(winner) if winner > version => Merged::Lost { winner },
            Some(same) if same == version => Merged::Same,
            replaced => {
                put(slot);
                Merged::Won { replaced }
            }
        }
    }

    fn put_arrived(&self, slot: Slot<'_>, entry: Entry) {
        #[cfg(feature = "testing")]
        let entry = executed(slot.current(), entry);
        self.put(slot, entry);
    }

    /// Merges for healing: as [`Store::merge`], but at equal versions, which then hold different data, the greater bytes win and any value
    /// beats a tombstone. Returns whether anything changed.
    pub fn heal(&self, entry: Entry) -> bool {
        let hash = self.hash(entry.key());
        let mut shard = self.shards[place_of(hash)].write();
        let slot = shard.slot(hash, entry.key(), |key| self.hash(key));
        // The same write, of which only the value has been let go.
        let is_spent = |current: &Entry| current.version() == entry.version() && current.value().is_none() && current.expires().is_some();
        let newer = slot.current().is_none_or(|current| {
            (entry.version(), entry.value()) > (current.version(), current.value())
                && !(is_spent(current) && current.expires() == entry.expires())
        });
        if newer {
            self.put(slot, entry);
        }
        newer
    }

    /// How many shards there are: they are scanned one by one, each under one lock hold, so that no key is skipped by a resize.
    pub fn shards_len(&self) -> usize {
        self.shards.len()
    }

    /// Entries in one shard, tombstones included.
    pub fn shard_len(&self, shard: usize) -> usize {
        self.shards[shard].read().len()
    }

    /// Copies out of one shard what `keep` picks. Holds the shard's read lock meanwhile.
    pub fn scan_shard(&self, shard: usize, mut keep: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        self.shards[shard].read().entries().filter(|entry| keep(entry)).cloned().collect()
    }

    /// Counts the tombstones of one shard that `which` picks; costs nothing where there are none.
    pub fn count_tombstones(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> usize {
        let shard = self.shards[shard].read();
        if shard.tombstones() == 0 {
            return 0;
        }
        shard.entries().filter(|entry| entry.is_tombstone() && which(entry)).count()
    }

    /// The values in one shard that have expired by then are let go; what is left of each is a tombstone of the same version. Returns how many.
    pub fn spend(&self, shard: usize, upto_ms: u64) -> usize {
        let mut spent = 0;
        while self.shards[shard].read().has_expired(upto_ms) {
            let mut freed = 0;
            let each = |bytes| {
                freed += bytes;
                spent += 1;
            };
            self.shards[shard].write().spend(upto_ms, SPENT_PER_STEP, |key| self.hash(key), each);
            self.memory.fetch_sub(freed, Ordering::Relaxed);
        }
        spent
    }

    /// Takes the tombstones out of one shard that `which` picks, and returns them.
    pub fn collect(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        if self.shards[shard].read().tombstones() == 0 {
            return Vec::new();
        }
        self.remove(shard, |entry| entry.is_tombstone() && which(entry))
    }

    /// Takes the entries out of one shard that `which` picks, and returns them.
    pub fn remove(&self, shard: usize, which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed = self.shards[shard].write().remove(which);
        self.memory.fetch_sub(removed.iter().map(footprint).sum(), Ordering::Relaxed);
        removed
    }

    /// Takes a key out if this version of it is there, and no other.
    pub fn remove_version(&self, key: &[u8], version: Version) {
        let hash = self.hash(key);
        let removed = self.shards[place_of(hash)].write().remove_version(hash, key, version);
        self.memory.fetch_sub(removed.as_ref().map_or(0, footprint), Ordering::Relaxed);
    }

    /// The digest of what does not expire before then in one shard.
    pub fn digest_shard(&self, shard: usize, before_ms: u64) -> Digest {
        let mut digest = Digest::default();
        for entry in self.shards[shard].read().entries().filter(|entry| entry.is_live(|| before_ms)) {
            if let Some(value) = entry.value() {
                digest.add(entry.key(), value, entry.expires());
            }
        }
        digest
    }

    /// The same of all of them, one after the other: exact once writes pause.
    pub fn digest(&self, before_ms: u64) -> Digest {
        let mut digest = Digest::default();
        (0..self.shards.len()).for_each(|shard| digest.join(self.digest_shard(shard, before_ms)));
        digest
    }

    /// Entries held, tombstones included.
    pub fn len(&self) -> u64 {
        (0..self.shards.len()).map(|shard| self.shard_len(shard) as u64).sum()
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
            shard.write().reserve(per_shard + per_shard / 8, |key| self.hash(key));
        }
    }

    /// Bytes that the entries take, by estimate: what `memory_max` is held against.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        #[cfg(feature = "testing")]
        if let Some(places) = self.places {
            return repeatable_hash(key, places);
        }
        // The bytes alone: `hash_one` would put their length in front of them, which only costs.
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    fn put(&self, slot: Slot<'_>, entry: Entry) {
        let is_to_leave_nothing = Sabotage::NoTombstones.is_on() && entry.is_tombstone();
        let (new, old) = if is_to_leave_nothing { (0, slot.take()) } else { (footprint(&entry), slot.put(entry)) };
        let old = old.as_ref().map_or(0, footprint);
        // What is overwritten mostly took as much, and then there is nothing that all processors would have to agree on.
        if new != old {
            // Wraps into a subtraction where it has become less.
            self.memory.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        }
    }
}

impl Keyspace for Store {
    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T {
        look(&self.shards[shard].read())
    }
}

/// Where keys lie in a simulation: with few keys, there is still more than one in each shard that has any.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug)]
pub enum Places {
    FourShards,
    /// A dump copies them all at one time.
    OneShard,
}

#[cfg(feature = "testing")]
fn repeatable_hash(key: &[u8], places: Places) -> u64 {
    use std::hash::{DefaultHasher, Hash};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let unused: u64 = match places {
        Places::FourShards => 0x3f,
        Places::OneShard => 0xff,
    };
    hasher.finish() & !(unused << 32)
}

/// For [`Sabotage::ReplicateCommands`]: what arrives is a command.
#[cfg(feature = "testing")]
fn executed(current: Option<&Entry>, arrived: Entry) -> Entry {
    if !Sabotage::ReplicateCommands.is_on() {
        return arrived;
    }
    let here = current.and_then(|current| current.value());
    let value = arrived.value().map(|value| crate::sabotage::command::execute(here, value));
    Entry::new(arrived.key(), value.as_deref(), arrived.expires(), arrived.version())
}

/// The table inside uses the low and the top seven bits of the hash; the shard comes from bits between.
fn place_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS_LEN
}

#[cfg(test)]
mod tests;
