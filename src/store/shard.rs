//! One shard: a hash table, and what must be known of it without a look at every entry.
//!
//! Every change goes through [`Slot`], the `remove`s of [`Shard`] or [`Shard::spend`], so that the counts and the index of expiries are always those of the table.

use std::collections::BTreeSet;

use hashbrown::HashTable;
use hashbrown::hash_table;

use crate::entry::{Entry, EntryRef, Expiry, Key, Version};

/// What an entry takes beside the bytes of its key and value: the slot with its share of empty ones, what is in front of the bytes, and the allocator's rounding. For
/// [`footprint`] only.
const ENTRY_OVERHEAD: usize = size_of::<Entry>() * 8 / 6 + Entry::OVERHEAD + 8;
/// What its place in the index takes, if it expires.
const EXPIRY_OVERHEAD: usize = size_of::<(Expiry, Key)>() * 3 / 2;

#[derive(Default)]
pub struct Shard {
    table: HashTable<Entry>,
    /// Invariant: the number of tombstones in `table`.
    tombstones: usize,
    /// Invariant: the values in `table` that expire.
    expiring: BTreeSet<(Expiry, Key)>,
    /// Changes whenever entries may have changed their places in the table.
    moves: u16,
}

/// Bytes that an entry takes, by estimate.
pub(super) fn footprint(entry: &Entry) -> usize {
    footprint_of(entry.size(), entry.ends().is_some())
}

/// The same of an entry whose key and value have so many bytes together.
pub fn footprint_of(size: usize, expires: bool) -> usize {
    size + ENTRY_OVERHEAD + if expires { EXPIRY_OVERHEAD } else { 0 }
}

impl Shard {
    /// Entries, tombstones included.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Keys that readers can see at this time.
    pub fn live(&self, wall_ms: u64) -> usize {
        self.table.len() - self.tombstones - self.expiring.iter().take_while(|(expires, _)| expires.is_over(wall_ms)).count()
    }

    /// Live keys that expire, at this time; and the sum of what is left to them, in milliseconds.
    pub fn expiring(&self, wall_ms: u64) -> (usize, u128) {
        let live = self.expiring.iter().rev().take_while(|(expires, _)| !expires.is_over(wall_ms));
        live.fold((0, 0), |(count, left), (expires, _)| (count + 1, left + u128::from(expires.wall_ms() - wall_ms)))
    }

    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.table.find(hash, |entry| entry.key() == key)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.table.iter()
    }

    /// Places in the table; the entry in one of them stays there as long as [`Shard::moves`] does not change.
    pub fn places(&self) -> usize {
        self.table.num_buckets()
    }

    pub fn at(&self, place: usize) -> Option<&Entry> {
        self.table.get_bucket(place)
    }

    pub fn moves(&self) -> u16 {
        self.moves
    }

    /// The place of a key, looked up once: to see what is there, and to put something else there. `hash_of` is the hash of a key, for those that move when the table grows.
    pub fn slot(&mut self, hash: u64, key: &[u8], hash_of: impl Fn(&[u8]) -> u64) -> Slot<'_> {
        let Shard { table, tombstones, expiring, moves } = self;
        if table.len() == table.capacity() {
            // Room for one more is made before the key is looked for, also if it is found.
            *moves = moves.wrapping_add(1);
        }
        let place = table.entry(hash, |entry| entry.key() == key, |entry| hash_of(entry.key()));
        Slot { place, tombstones, expiring }
    }

    pub fn reserve(&mut self, more: usize, hash_of: impl Fn(&[u8]) -> u64) {
        self.table.reserve(more, |entry| hash_of(entry.key()));
        self.moves = self.moves.wrapping_add(1);
    }

    /// Takes the entries out that `which` picks.
    pub fn remove(&mut self, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed: Vec<Entry> = self.table.extract_if(|entry| which(entry)).collect();
        for entry in &removed {
            self.forget(entry);
        }
        removed
    }

    /// Takes a key out if this version of it is there, and no other.
    pub fn remove_version(&mut self, hash: u64, key: &[u8], version: Version) -> Option<Entry> {
        let is_it = |entry: &Entry| entry.key() == key && entry.version() == version;
        let (entry, _) = self.table.find_entry(hash, is_it).ok()?.remove();
        self.forget(&entry);
        Some(entry)
    }

    fn forget(&mut self, removed: &Entry) {
        self.tombstones -= usize::from(removed.is_tombstone());
        unindex(&mut self.expiring, removed);
    }

    /// Whether a value has expired by then.
    pub fn has_expired(&self, upto_ms: u64) -> bool {
        self.expiring.first().is_some_and(|(expires, _)| expires.is_over(upto_ms))
    }

    /// The values of at most `max` entries that have expired by then are let go: they are tombstones in place. Calls `each` with the bytes that went. `hash_of` is the
    /// hash of a key.
    pub fn spend(&mut self, upto_ms: u64, max: usize, hash_of: impl Fn(&[u8]) -> u64, mut each: impl FnMut(usize)) {
        for _ in 0..max {
            if !self.has_expired(upto_ms) {
                return;
            }
            let Some((_, key)) = self.expiring.pop_first() else { return };
            if let Some(entry) = self.table.find_mut(hash_of(&key), |entry| entry.key() == &*key) {
                let before = footprint(entry);
                *entry = entry.spent();
                self.tombstones += 1;
                each(before - footprint(entry));
            }
        }
    }
}

/// The place of one key in its shard, and the counts that go with what is put there.
pub struct Slot<'a> {
    place: hash_table::Entry<'a, Entry>,
    tombstones: &'a mut usize,
    expiring: &'a mut BTreeSet<(Expiry, Key)>,
}

impl Slot<'_> {
    pub fn current(&self) -> Option<&Entry> {
        match &self.place {
            hash_table::Entry::Occupied(place) => Some(place.get()),
            hash_table::Entry::Vacant(_) => None,
        }
    }

    /// Puts a value there that does not expire, into the memory of the one that it replaces: nothing is allocated and nothing else in the cache makes way for it. Whether it could: the two
    /// must be equally long, the older one may not expire either, and nobody may hold it.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        match &mut self.place {
            hash_table::Entry::Occupied(place) if by.value.is_some() && by.expires.is_none() => {
                let current = place.get_mut();
                !current.is_tombstone() && current.expires().is_none() && current.overwrite(by)
            }
            _ => false,
        }
    }

    /// Leaves nothing there; returns what was. For [`Sabotage::NoTombstones`](crate::sabotage::Sabotage::NoTombstones) alone.
    pub fn take(self) -> Option<Entry> {
        let hash_table::Entry::Occupied(place) = self.place else { return None };
        let (entry, _) = place.remove();
        *self.tombstones -= usize::from(entry.is_tombstone());
        unindex(self.expiring, &entry);
        Some(entry)
    }

    /// Puts an entry there; returns what it replaced.
    pub fn put(self, entry: Entry) -> Option<Entry> {
        *self.tombstones += usize::from(entry.is_tombstone());
        match self.place {
            hash_table::Entry::Vacant(place) => {
                index(self.expiring, &entry);
                place.insert(entry);
                None
            }
            hash_table::Entry::Occupied(mut place) => {
                let held = place.get_mut();
                unindex(self.expiring, held);
                index(self.expiring, &entry);
                let old = std::mem::replace(held, entry);
                *self.tombstones -= usize::from(old.is_tombstone());
                Some(old)
            }
        }
    }
}

fn index(expiring: &mut BTreeSet<(Expiry, Key)>, entry: &Entry) {
    if let Some(ends) = entry.ends() {
        expiring.insert((ends, entry.shared_key()));
    }
}

fn unindex(expiring: &mut BTreeSet<(Expiry, Key)>, entry: &Entry) {
    if let Some(ends) = entry.ends() {
        expiring.remove(&(ends, entry.shared_key()));
    }
}
