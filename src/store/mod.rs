//! The map: every key with the newest thing known about it, behind one door.
//!
//! Keys lie in the order of a keyed hash (data/key_order.rs), which is the same on all nodes of a
//! cluster. The uppermost bits of a position say in which shard a key lies, the others where in it.
//!
//! Owns the shards and their locks; no guard leaves this folder. Local writes go through
//! [`Store::write`] and [`Store::transact`], everything that arrives from elsewhere through
//! [`Store::merge`] or [`Store::merge_write`]. All keep the greater version. No sockets, no log
//! lines, no vector, no clock. Whether an entry is *covered* is the caller's question: it is asked
//! here under the shard's lock, so that the answer cannot go stale. Time is an argument.

mod cells;
mod digest;
mod expiries;
mod keyspace;
mod shard;
mod view;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::data::entry::{Entry, EntryRef};
use crate::data::key_order::{OrderKey, POSITION_BITS};
use crate::data::version::Version;
use crate::lock_order::{Rank, RwLock};
use crate::store::shard::{Shard, Slot, footprint};
use crate::testing::broken_rules::BrokenRule;

pub use digest::Digest;
pub use keyspace::{Cursor, Keyspace};
pub use shard::footprint_of;
pub use view::{Span, View};

/// The number of shards. Enough that two sessions rarely meet, and that one shard of ten million
/// keys is read within a few milliseconds.
const SHARDS_LEN: usize = 1 << (POSITION_BITS - u32::BITS);

/// Bytes of key and value that merging copies under a lock. Beyond this the copy is made before.
const COPIED_LEN_MAX: usize = 16 << 10;

/// Keys that are asked for together. Beyond this, the first would be waited for no less, and the
/// processor has no more waits at a time.
pub const PREFETCH_MAX: usize = 16;

/// Values that expire under one lock hold.
const EXPIRED_PER_STEP: usize = 1024;

/// All entries of one node.
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    /// The halves of the order's key. It may change at any time while no shard is locked, so
    /// whoever locks a shard compares it with the shard's own.
    order: [AtomicU64; 2],
    /// Shared with every walk from shard to shard that is under way.
    walks: Walk,
    /// The spread of keys in a simulation.
    #[cfg(feature = "testing")]
    key_spread: Option<KeySpread>,
    memory: AtomicMemory,
}

/// Bytes that entries take, by estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub values: usize,
    pub tombstones: usize,
}

impl Memory {
    pub fn total(self) -> usize {
        self.values + self.tombstones
    }
}

#[derive(Default)]
struct AtomicMemory {
    values: AtomicUsize,
    tombstones: AtomicUsize,
}

impl AtomicMemory {
    fn of(&self, is_tombstone: bool) -> &AtomicUsize {
        if is_tombstone { &self.tombstones } else { &self.values }
    }

    /// Notes that so many bytes of a value or a tombstone are now so many of another, or of the
    /// same. Kept out of the common path, which needs none of it.
    #[inline(never)]
    fn change(&self, (before, was_tombstone): (usize, bool), (after, is_tombstone): (usize, bool)) {
        if was_tombstone == is_tombstone {
            // Wraps into a subtraction where it has become less.
            self.of(is_tombstone).fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        } else {
            self.of(was_tombstone).fetch_sub(before, Ordering::Relaxed);
            self.of(is_tombstone).fetch_add(after, Ordering::Relaxed);
        }
    }

    fn remove(&self, entry: &Entry) {
        self.of(entry.is_tombstone()).fetch_sub(footprint(entry), Ordering::Relaxed);
    }
}

/// Held while shards are looked at one by one and none may be missed: no entry moves from one shard
/// into another meanwhile.
#[derive(Clone, Default)]
pub struct Walk(Arc<()>);

/// The outcome of merging an entry that arrived from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The entry is the newest of its key now.
    Won,
    /// A greater version was here already.
    Lost { winner: Version },
    /// This very version was here already.
    Same,
    /// The caller's vector covers it: it was not looked at.
    Covered,
}

/// The number of keys, at about the moment of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live keys.
    pub keys: usize,
    /// Tombstones, and values that have expired and were dropped.
    pub tombstones: usize,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    /// Makes an empty store, with an order of its own.
    pub fn new() -> Store {
        Store::ordered(OrderKey::random())
    }

    fn ordered(order: OrderKey) -> Store {
        Store {
            shards: (0..SHARDS_LEN).map(|shard| RwLock::new(Rank::Shard(shard), Shard::new(order))).collect(),
            order: order.halves().map(AtomicU64::new),
            walks: Walk::default(),
            #[cfg(feature = "testing")]
            key_spread: None,
            memory: AtomicMemory::default(),
        }
    }

    /// Makes an empty store in this order, with keys spread so. A key lies where it lies in every
    /// run that gives the same.
    #[cfg(feature = "testing")]
    pub fn repeatable(order: OrderKey, key_spread: KeySpread) -> Store {
        Store { key_spread: Some(key_spread), ..Store::ordered(order) }
    }

    /// Returns the order in which keys lie.
    pub fn order(&self) -> OrderKey {
        let [first, second] = &self.order;
        OrderKey::from_halves([first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)])
    }

    /// Moves all keys into another order, in one step: nothing is read or written meanwhile, which
    /// among a million keys takes about a second. Returns `false`, to be tried again, while a
    /// [`Walk`] is held.
    pub fn reorder(&self, order: OrderKey) -> bool {
        let mut shards: Vec<_> = self.shards.iter().map(|shard| shard.write()).collect();
        if self.order() == order {
            return true;
        }
        // A walk that begins from here on finds the first shard locked until all is done.
        if Arc::strong_count(&self.walks.0) > 1 {
            return false;
        }
        for (half, bits) in self.order.iter().zip(order.halves()) {
            half.store(bits, Ordering::Relaxed);
        }
        let before: Vec<Shard> = shards.iter_mut().map(|shard| shard.empty(order)).collect();
        for entry in before.into_iter().flat_map(Shard::into_entries) {
            let position = self.position(order, entry.key());
            shards[shard_of(position)].slot(position_in(position), entry.key()).put(entry.clone());
        }
        true
    }

    /// Begins a walk. To be held while shards are looked at one by one and nothing may be missed.
    pub fn walk(&self) -> Walk {
        self.walks.clone()
    }

    /// Asks the processor for the memory of keys that are looked up next, [`PREFETCH_MAX`] at most.
    /// Waits for nothing.
    ///
    /// Most of the time of a look-up is one wait for the entry's head, which is in no cache. The
    /// waits for several keys pass together, where they are known before: of a pipelined `GET`,
    /// that takes away a fifth of the processor time of this node.
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let order = self.order();
        let mut positions = [0; PREFETCH_MAX];
        let positions_len = positions.iter_mut().zip(keys).map(|(position, key)| *position = self.position(order, key)).count();
        // One alone is looked up before it could come.
        let positions = if positions_len > 1 { &positions[..positions_len] } else { &[] };
        // A shard that is being written is passed over. If the order changes meanwhile, it was in
        // vain, and nothing else.
        let shard_for = |position: u64| self.shards[shard_of(position)].try_read();
        for position in positions {
            if let Some(shard) = shard_for(*position) {
                shard.prefetch_slot(position_in(*position));
            }
        }
        // What was asked for above has come by now.
        for position in positions {
            if let Some(shard) = shard_for(*position) {
                shard.prefetch_entry(position_in(*position));
            }
        }
    }

    /// Looks at the entry of a key, under the shard's read lock: a tombstone and an expired value,
    /// too.
    pub fn read<T>(&self, key: &[u8], look: impl FnOnce(Option<&Entry>) -> T) -> T {
        let (position, shard) = self.shard_for(key, RwLock::read);
        look(shard.find(position, key))
    }

    /// Returns the entry of a key: a tombstone and an expired value, too.
    pub fn entry(&self, key: &[u8]) -> Option<Entry> {
        self.read(key, |entry| entry.cloned())
    }

    /// Returns the value, expired or not.
    #[cfg(test)]
    pub fn get(&self, key: &[u8]) -> Option<crate::data::entry::Value> {
        self.entry(key).and_then(|entry| entry.shared_value())
    }

    /// Makes a local write. `decide` gets the present entry, under the shard's lock. It returns the
    /// entry to put in its place, whose version must be greater (it has just been stamped), or a
    /// refusal.
    pub fn write<R>(&self, key: &[u8], decide: impl FnOnce(Option<&Entry>) -> Result<Entry, R>) -> Result<Version, R> {
        let (position, mut shard) = self.shard_for(key, RwLock::write);
        let slot = shard.slot(position, key);
        let current = slot.current();
        let entry = decide(current)?;
        debug_assert!(current.is_none_or(|current| current.version() < entry.version()));
        let version = entry.version();
        self.put(slot, entry);
        Ok(version)
    }

    /// Looks at several keys as they are at one moment. Nothing may be awaited in `look`.
    pub fn look<T>(&self, span: Span<'_>, look: impl FnOnce(&View<'_>) -> T) -> T {
        let (order, guards) = self.lock(span, RwLock::read);
        look(&View::new(self, order, guards.iter().map(|(shard, guard)| (*shard, &**guard)).collect()))
    }

    /// Makes local writes to several keys in one step: no key of `span` is read or written
    /// meanwhile. `decide` sees the present entries and returns the entries to put in their place,
    /// as in [`Store::write`]. Nothing may be awaited in it.
    pub fn transact<T, R>(&self, span: Span<'_>, decide: impl FnOnce(&View<'_>) -> Result<(Vec<Entry>, T), R>) -> Result<T, R> {
        let (order, mut guards) = self.lock(span, RwLock::write);
        let (entries, found) = decide(&View::new(self, order, guards.iter().map(|(shard, guard)| (*shard, &**guard)).collect()))?;
        for entry in entries {
            let position = self.position(order, entry.key());
            let index = guards.binary_search_by_key(&shard_of(position), |(shard, _)| *shard).expect("only what is locked is written");
            let slot = guards[index].1.slot(position_in(position), entry.key());
            debug_assert!(slot.current().is_none_or(|current| current.version() < entry.version()));
            self.put(slot, entry);
        }
        Ok(found)
    }

    /// Locks the shard of a key, to read or to write, and returns where in it the key lies.
    fn shard_for<'a, G: Deref<Target = Shard>>(&'a self, key: &[u8], lock: impl Fn(&'a RwLock<Shard>) -> G) -> (u32, G) {
        loop {
            let order = self.order();
            let position = self.position(order, key);
            let shard = lock(&self.shards[shard_of(position)]);
            if shard.order() == order {
                return (position_in(position), shard);
            }
        }
    }

    /// Locks the shards of a span. Always in the order of their numbers, so that two callers that
    /// lock several cannot wait for each other.
    fn lock<'a, G: Deref<Target = Shard>>(&'a self, span: Span<'_>, lock: impl Fn(&'a RwLock<Shard>) -> G) -> (OrderKey, Vec<(usize, G)>) {
        // Before anything is locked: the waits are no part of what others wait for.
        if let Span::Keys(keys) = span {
            keys.chunks(PREFETCH_MAX).for_each(|keys| self.prefetch(keys.iter().copied()));
        }
        loop {
            let order = self.order();
            let mut shards: Vec<usize> = match span {
                Span::Keys(keys) => keys.iter().map(|key| shard_of(self.position(order, key))).collect(),
                Span::All => (0..SHARDS_LEN).collect(),
            };
            shards.sort_unstable();
            shards.dedup();
            let guards: Vec<_> = shards.into_iter().map(|shard| (shard, lock(&self.shards[shard]))).collect();
            if guards.iter().all(|(_, shard)| shard.order() == order) {
                return (order, guards);
            }
        }
    }

    /// Merges an entry from elsewhere: the greater version stays. `covered` is asked under the
    /// shard's lock. A tombstone that is collected is covered by then, so an older line that was
    /// already on its way cannot slip in behind it.
    pub fn merge(&self, entry: Entry, covered: impl FnOnce(Version) -> bool) -> Merged {
        let arrived = entry.clone();
        self.merge_with(arrived.key(), arrived.version(), covered, |slot| self.put_arrived(slot, entry))
    }

    /// Merges a write that lies in its batch, as [`Store::merge`] does.
    pub fn merge_write(&self, write: EntryRef<'_>, covered: impl FnOnce(Version) -> bool) -> Merged {
        if write.size() > COPIED_LEN_MAX {
            return self.merge(write.to_entry(), covered);
        }
        self.merge_with(write.key, write.version, covered, |mut slot| {
            if BrokenRule::ReplicateCommands.is_on() || !slot.overwrite(write) {
                self.put_arrived(slot, write.to_entry());
            }
        })
    }

    fn merge_with(&self, key: &[u8], version: Version, covered: impl FnOnce(Version) -> bool, put: impl FnOnce(Slot<'_>)) -> Merged {
        let (position, mut shard) = self.shard_for(key, RwLock::write);
        if covered(version) && !BrokenRule::MergeCovered.is_on() {
            return Merged::Covered;
        }
        let slot = shard.slot(position, key);
        match slot.current().map(Entry::version) {
            Some(winner) if winner > version => Merged::Lost { winner },
            Some(same) if same == version => Merged::Same,
            _ => {
                put(slot);
                Merged::Won
            }
        }
    }

    fn put_arrived(&self, slot: Slot<'_>, entry: Entry) {
        #[cfg(feature = "testing")]
        let entry = executed(slot.current(), entry);
        self.put(slot, entry);
    }

    /// Merges for healing: as [`Store::merge`], but at equal versions, which then hold different
    /// data, the greater bytes win, and any value wins over a tombstone. Returns whether anything
    /// changed.
    pub fn heal(&self, entry: Entry) -> bool {
        let (position, mut shard) = self.shard_for(entry.key(), RwLock::write);
        let slot = shard.slot(position, entry.key());
        // The same write, whose value has expired and was dropped.
        let is_dropped = |current: &Entry| current.version() == entry.version() && current.value().is_none() && current.expires().is_some();
        let newer = slot.current().is_none_or(|current| {
            (entry.version(), entry.value()) > (current.version(), current.value())
                && !(is_dropped(current) && current.expires() == entry.expires())
        });
        if newer {
            self.put(slot, entry);
        }
        newer
    }

    /// Returns the number of shards. They are looked at one by one, each under one lock hold. A
    /// caller that must miss nothing holds a [`Walk`] from the first to the last.
    pub fn shards_len(&self) -> usize {
        self.shards.len()
    }

    /// Returns the number of entries in one shard, tombstones included.
    pub fn shard_len(&self, shard: usize) -> usize {
        self.shards[shard].read().len()
    }

    /// Returns the entries of one shard that `keep` picks. Holds the shard's read lock meanwhile.
    pub fn scan_shard(&self, shard: usize, mut keep: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        self.shards[shard].read().entries().filter(|entry| keep(entry)).cloned().collect()
    }

    /// Counts the tombstones of one shard that `which` picks. Costs nothing where there are none.
    pub fn count_tombstones(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> usize {
        let shard = self.shards[shard].read();
        if shard.tombstones() == 0 {
            return 0;
        }
        shard.entries().filter(|entry| entry.is_tombstone() && which(entry)).count()
    }

    /// Drops the values in one shard that have expired by then. What is left of each is a tombstone
    /// of the same version. Returns how many.
    pub fn expire_values(&self, shard: usize, upto_ms: u64) -> usize {
        let mut expired = 0;
        while self.shards[shard].read().has_expired(upto_ms) {
            let (mut before, mut after) = (0, 0);
            let each = |value, tombstone| {
                before += value;
                after += tombstone;
                expired += 1;
            };
            let mut shard = self.shards[shard].write();
            shard.expire_values(upto_ms, EXPIRED_PER_STEP, each);
            self.memory.values.fetch_sub(before, Ordering::Relaxed);
            self.memory.tombstones.fetch_add(after, Ordering::Relaxed);
        }
        expired
    }

    /// Removes the tombstones of one shard that `which` picks, and returns them.
    pub fn collect(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        if self.shards[shard].read().tombstones() == 0 {
            return Vec::new();
        }
        self.remove(shard, |entry| entry.is_tombstone() && which(entry))
    }

    /// Removes the entries of one shard that `which` picks, and returns them. Mostly there is none:
    /// that is found under the read lock, and no reader waits for it.
    pub fn remove(&self, shard: usize, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        if !self.shards[shard].read().entries().any(&mut which) {
            return Vec::new();
        }
        let removed = self.shards[shard].write().remove(which);
        removed.iter().for_each(|entry| self.memory.remove(entry));
        removed
    }

    /// Removes a key if it is there in this version, and in no other.
    pub fn remove_version(&self, key: &[u8], version: Version) {
        let (position, mut shard) = self.shard_for(key, RwLock::write);
        let removed = shard.remove_version(position, key, version);
        removed.iter().for_each(|entry| self.memory.remove(entry));
    }

    /// Returns the digest of the values in one shard that do not expire before then.
    pub fn digest_shard(&self, shard: usize, before_ms: u64) -> Digest {
        let mut digest = Digest::default();
        for entry in self.shards[shard].read().entries().filter(|entry| entry.is_live(|| before_ms)) {
            if let Some(value) = entry.value() {
                digest.add(entry.key(), value, entry.expires());
            }
        }
        digest
    }

    /// Returns the digest of the values in all shards, one after the other: exact once writes
    /// pause.
    pub fn digest(&self, before_ms: u64) -> Digest {
        let (_walk, mut digest) = (self.walk(), Digest::default());
        (0..self.shards.len()).for_each(|shard| digest.join(self.digest_shard(shard, before_ms)));
        digest
    }

    /// Returns the number of entries, tombstones included.
    pub fn len(&self) -> u64 {
        (0..self.shards.len()).map(|shard| self.shard_len(shard) as u64).sum()
    }

    /// Returns whether there is no entry at all, not even a tombstone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the memory that the entries take, which `memory_max` bounds.
    pub fn memory(&self) -> Memory {
        let [values, tombstones] = [false, true].map(|is_tombstone| self.memory.of(is_tombstone).load(Ordering::Relaxed));
        Memory { values, tombstones }
    }

    fn position(&self, order: OrderKey, key: &[u8]) -> u64 {
        let position = order.position(key);
        #[cfg(feature = "testing")]
        if let Some(key_spread) = self.key_spread {
            return key_spread.place(position);
        }
        position
    }

    fn put(&self, slot: Slot<'_>, entry: Entry) {
        let is_to_leave_nothing = BrokenRule::NoTombstones.is_on() && entry.is_tombstone();
        let is_tombstone = entry.is_tombstone();
        let (new, old) = if is_to_leave_nothing { (0, slot.take()) } else { (footprint(&entry), slot.put(entry)) };
        let old = old.as_ref().map_or((0, is_tombstone), |old| (footprint(old), old.is_tombstone()));
        // What is overwritten mostly took as much. Then there is nothing that all processors would
        // have to agree on.
        if old != (new, is_tombstone) {
            self.memory.change(old, (new, is_tombstone));
        }
    }
}

impl Keyspace for Store {
    fn order(&self) -> OrderKey {
        self.order()
    }

    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T {
        look(&self.shards[shard].read())
    }
}

/// The spread of keys in a simulation: with few keys, there is still more than one in each shard
/// that has any.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug)]
pub enum KeySpread {
    FourShards,
    /// All in one shard, which a dump copies at one time.
    OneShard,
    /// All in one shard, at eight positions.
    Crowded,
}

#[cfg(feature = "testing")]
impl KeySpread {
    /// Moves a position to where its key lies. Of four shards one is the last of all: then the end
    /// line of a dump comes in one message with entries, which no empty shard keeps apart.
    fn place(self, position: u64) -> u64 {
        match self {
            KeySpread::FourShards => position | (0x3f << u32::BITS),
            KeySpread::OneShard => position & u64::from(u32::MAX),
            KeySpread::Crowded => position & 7,
        }
    }
}

/// For [`BrokenRule::ReplicateCommands`]: executes what arrives as if it were a command.
#[cfg(feature = "testing")]
fn executed(current: Option<&Entry>, arrived: Entry) -> Entry {
    if !BrokenRule::ReplicateCommands.is_on() {
        return arrived;
    }
    let here = current.and_then(|current| current.value());
    let value = arrived.value().map(|value| crate::testing::broken_rules::command::execute(here, value));
    Entry::new(arrived.key(), value.as_deref(), arrived.expires(), arrived.version())
}

fn shard_of(position: u64) -> usize {
    (position >> u32::BITS) as usize
}

/// Returns the position within a shard.
fn position_in(position: u64) -> u32 {
    position as u32
}

#[cfg(test)]
mod tests;
