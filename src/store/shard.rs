//! One shard: its entries in their order, and what must be known of it without a look at every
//! entry.
//!
//! Every change goes through [`Slot`], the `remove`s of [`Shard`] or [`Shard::expire_values`], so
//! that the counts and the index of expiries always match the entries.

use std::collections::BTreeSet;

use crate::data::entry::{Entry, EntryRef, Expiry, Key};
use crate::data::key_order::OrderKey;
use crate::data::version::Version;
use crate::store::cells::{CellIndex, Cells};

/// Bytes of an entry beside those of key and value: its position and the pointer to it with their
/// share of spare room, its head, and the allocator's rounding. For [`footprint`] only.
const ENTRY_OVERHEAD: usize = (size_of::<u32>() + size_of::<Entry>()) * 9 / 8 + Entry::OVERHEAD + 8;
/// Bytes in the index of expiries, for a value that expires.
const EXPIRY_OVERHEAD: usize = size_of::<(Expiry, Key)>() * 3 / 2;

pub struct Shard {
    /// Invariant: the order of the positions in `cells`.
    order: OrderKey,
    cells: Cells,
    /// Invariant: the number of tombstones in `cells`.
    tombstones: usize,
    /// Invariant: exactly the values in `cells` that expire.
    expiring: BTreeSet<(Expiry, Key)>,
}

/// Estimates the bytes that an entry takes.
pub(super) fn footprint(entry: &Entry) -> usize {
    entry.memory() - Entry::OVERHEAD + ENTRY_OVERHEAD + if entry.ends().is_some() { EXPIRY_OVERHEAD } else { 0 }
}

/// Estimates the bytes of a value whose key and value have so many bytes together.
pub fn footprint_of(size: usize, expires: bool) -> usize {
    size + ENTRY_OVERHEAD + if expires { EXPIRY_OVERHEAD + size_of::<Expiry>() } else { 0 }
}

impl Shard {
    pub fn new(order: OrderKey) -> Shard {
        Shard { order, cells: Cells::default(), tombstones: 0, expiring: BTreeSet::new() }
    }

    pub fn order(&self) -> OrderKey {
        self.order
    }

    /// Returns the number of entries, tombstones included.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Returns how many keys readers can see at this time.
    pub fn live(&self, wall_ms: u64) -> usize {
        self.cells.len() - self.tombstones - self.expiring.iter().take_while(|(expires, _)| expires.is_over(wall_ms)).count()
    }

    /// Returns how many live keys expire, at this time, and the sum of what is left to them, in
    /// milliseconds.
    pub fn expiring(&self, wall_ms: u64) -> (usize, u128) {
        let live = self.expiring.iter().rev().take_while(|(expires, _)| !expires.is_over(wall_ms));
        live.fold((0, 0), |(count, left), (expires, _)| (count + 1, left + u128::from(expires.wall_ms() - wall_ms)))
    }

    pub fn find(&self, position: u32, key: &[u8]) -> Option<&Entry> {
        self.cells.find(position, key)
    }

    /// As [`Cells::prefetch_slot`].
    pub fn prefetch_slot(&self, position: u32) {
        self.cells.prefetch_slot(position);
    }

    /// As [`Cells::prefetch_entry`].
    pub fn prefetch_entry(&self, position: u32) {
        self.cells.prefetch_entry(position);
    }

    /// Returns all entries, in the order of their positions.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.cells.iter()
    }

    /// Returns the entries from a position on, with their positions.
    pub fn entries_from(&self, position: u32) -> impl Iterator<Item = (u32, &Entry)> {
        self.cells.iter_from(position)
    }

    /// Returns the entry with so many others in front of it.
    pub fn nth(&self, index: usize) -> Option<&Entry> {
        self.cells.nth(index)
    }

    /// Returns the slot of a key, looked up once: to see what is there, and to put something else
    /// there.
    pub fn slot(&mut self, position: u32, key: &[u8]) -> Slot<'_> {
        let Shard { cells, tombstones, expiring, .. } = self;
        let index = cells.locate(position, key);
        Slot { cells, index, position, tombstones, expiring }
    }

    /// Removes the entries that `which` picks, and returns them.
    pub fn remove(&mut self, which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed = self.cells.extract(which);
        for entry in &removed {
            self.tombstones -= usize::from(entry.is_tombstone());
            unindex(&mut self.expiring, entry);
        }
        removed
    }

    /// Removes a key if it is there in this version, and in no other.
    pub fn remove_version(&mut self, position: u32, key: &[u8], version: Version) -> Option<Entry> {
        let slot = self.slot(position, key);
        slot.current().is_some_and(|entry| entry.version() == version).then(|| slot.take())?
    }

    /// Empties the shard, and begins anew with another order. Returns what it held.
    pub fn empty(&mut self, order: OrderKey) -> Shard {
        std::mem::replace(self, Shard::new(order))
    }

    /// Returns all entries of a shard that is not needed any more.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.cells.into_entries()
    }

    /// Returns whether a value has expired by then.
    pub fn has_expired(&self, upto_ms: u64) -> bool {
        self.expiring.first().is_some_and(|(expires, _)| expires.is_over(upto_ms))
    }

    /// Drops the values of at most `max` entries that have expired by then: they are tombstones in
    /// place. Calls `each` with the bytes that the entry took before and takes now. `position_of`
    /// gives the position of a key.
    pub fn expire_values(&mut self, upto_ms: u64, max: usize, position_of: impl Fn(&[u8]) -> u32, mut each: impl FnMut(usize, usize)) {
        for _ in 0..max {
            if !self.has_expired(upto_ms) {
                return;
            }
            let Some((_, key)) = self.expiring.pop_first() else { return };
            if let Some(entry) = self.cells.find_mut(position_of(&key), &key) {
                let before = footprint(entry);
                *entry = entry.without_value();
                self.tombstones += 1;
                each(before, footprint(entry));
            }
        }
    }
}

/// The slot of one key in its shard, and the counts that change with it.
pub struct Slot<'a> {
    cells: &'a mut Cells,
    index: CellIndex,
    position: u32,
    tombstones: &'a mut usize,
    expiring: &'a mut BTreeSet<(Expiry, Key)>,
}

impl Slot<'_> {
    pub fn current(&self) -> Option<&Entry> {
        self.cells.at(self.index)
    }

    /// Puts a value into the memory of the one that it replaces, if possible: nothing is allocated,
    /// and nothing else in the cache makes way for it. Returns whether it did.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        self.cells.at_mut(self.index).is_some_and(|current| current.overwrite(by))
    }

    /// Empties the slot, and returns what was there.
    pub fn take(self) -> Option<Entry> {
        let entry = self.cells.remove(self.index)?;
        *self.tombstones -= usize::from(entry.is_tombstone());
        unindex(self.expiring, &entry);
        Some(entry)
    }

    /// Puts an entry there, and returns the one that it replaced.
    pub fn put(self, entry: Entry) -> Option<Entry> {
        *self.tombstones += usize::from(entry.is_tombstone());
        match self.cells.at_mut(self.index) {
            None => {
                index(self.expiring, &entry);
                self.cells.insert(self.index, self.position, entry);
                None
            }
            Some(held) => {
                unindex(self.expiring, held);
                index(self.expiring, &entry);
                let old = std::mem::replace(held, entry);
                *self.tombstones -= usize::from(old.is_tombstone());
                Some(old)
            }
        }
    }
}

#[inline]
fn index(expiring: &mut BTreeSet<(Expiry, Key)>, entry: &Entry) {
    if let Some(ends) = entry.ends() {
        note_expiry(expiring, ends, entry);
    }
}

#[inline]
fn unindex(expiring: &mut BTreeSet<(Expiry, Key)>, entry: &Entry) {
    if let Some(ends) = entry.ends() {
        forget_expiry(expiring, ends, entry);
    }
}

/// Adds an expiry to the index. Kept out of the path of writes without one, which are most.
#[inline(never)]
fn note_expiry(expiring: &mut BTreeSet<(Expiry, Key)>, ends: Expiry, entry: &Entry) {
    expiring.insert((ends, entry.shared_key()));
}

#[inline(never)]
fn forget_expiry(expiring: &mut BTreeSet<(Expiry, Key)>, ends: Expiry, entry: &Entry) {
    expiring.remove(&(ends, entry.shared_key()));
}
