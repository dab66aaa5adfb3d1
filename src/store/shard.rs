//! One shard: its entries in their order, and what must be known of it without a look at every
//! entry.
//!
//! Every change goes through [`Slot`], the `remove`s of [`Shard`] or [`Shard::expire_values`], so
//! that the counts and the index of expiries always match the entries.

use crate::data::entry::{Entry, EntryRef, Expiry};
use crate::data::key_order::OrderKey;
use crate::data::version::Version;
use crate::store::cells::{CellIndex, Cells};
use crate::store::expiries::Expiries;

/// Bytes of an entry beside those of key and value: its position and the pointer to it with their
/// share of spare room, its head, and the allocator's rounding. For [`footprint`] only.
const ENTRY_OVERHEAD: usize = (size_of::<u32>() + size_of::<Entry>()) * 9 / 8 + Entry::OVERHEAD + 8;

pub struct Shard {
    /// Invariant: the order of the positions in `cells`.
    order: OrderKey,
    cells: Cells,
    /// Invariant: the number of tombstones in `cells`.
    tombstones: usize,
    /// Invariant: exactly the values in `cells` that expire.
    expiries: Expiries,
}

/// Estimates the bytes that an entry takes.
pub(super) fn footprint(entry: &Entry) -> usize {
    entry.memory() - Entry::OVERHEAD + ENTRY_OVERHEAD + if entry.ends().is_some() { Expiries::OVERHEAD } else { 0 }
}

/// Estimates the bytes of a value whose key and value have so many bytes together.
pub fn footprint_of(size: usize, expires: bool) -> usize {
    size + ENTRY_OVERHEAD + if expires { Expiries::OVERHEAD + size_of::<Expiry>() } else { 0 }
}

impl Shard {
    pub fn new(order: OrderKey) -> Shard {
        Shard { order, cells: Cells::default(), tombstones: 0, expiries: Expiries::default() }
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
        self.cells.len() - self.tombstones - self.expiries.over(wall_ms)
    }

    /// Returns how many live keys expire, at this time, and the sum of what is left to them, in
    /// milliseconds.
    pub fn expiring(&self, wall_ms: u64) -> (usize, u128) {
        self.expiries.ahead(wall_ms)
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
        let Shard { cells, tombstones, expiries, .. } = self;
        let index = cells.locate(position, key);
        Slot { cells, index, position, tombstones, expiries }
    }

    /// Removes the entries that `which` picks, and returns them.
    pub fn remove(&mut self, which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed = self.cells.extract(which);
        for (position, entry) in &removed {
            self.tombstones -= usize::from(entry.is_tombstone());
            self.expiries.remove(*position, entry);
        }
        removed.into_iter().map(|(_, entry)| entry).collect()
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
        self.expiries.has_over(upto_ms)
    }

    /// Drops the values of entries that have expired by then, at `max` positions at most: they are
    /// tombstones in place. Calls `each` with the bytes that the entry took before and takes now.
    pub fn expire_values(&mut self, upto_ms: u64, max: usize, mut each: impl FnMut(usize, usize)) {
        for _ in 0..max {
            let Some((expires, position)) = self.expiries.pop_over(upto_ms) else { return };
            for entry in self.cells.at_position_mut(position).iter_mut().filter(|entry| entry.ends() == Some(expires)) {
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
    expiries: &'a mut Expiries,
}

impl Slot<'_> {
    pub fn current(&self) -> Option<&Entry> {
        self.cells.at(self.index)
    }

    /// Puts a value into the memory of the one that it replaces, if possible: nothing is allocated,
    /// and nothing else in the cache makes way for it. Returns whether it did.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        let Some(current) = self.cells.at_mut(self.index) else { return false };
        let ends = current.ends();
        let is_done = current.overwrite(by);
        if is_done && ends != by.expires {
            self.expiries.replace(self.position, ends, by.expires);
        }
        is_done
    }

    /// Empties the slot, and returns what was there.
    pub fn take(self) -> Option<Entry> {
        let entry = self.cells.remove(self.index)?;
        *self.tombstones -= usize::from(entry.is_tombstone());
        self.expiries.remove(self.position, &entry);
        Some(entry)
    }

    /// Puts an entry there, and returns the one that it replaced.
    pub fn put(self, entry: Entry) -> Option<Entry> {
        *self.tombstones += usize::from(entry.is_tombstone());
        match self.cells.at_mut(self.index) {
            None => {
                self.expiries.add(self.position, &entry);
                self.cells.insert(self.index, self.position, entry);
                None
            }
            Some(held) => {
                self.expiries.remove(self.position, held);
                self.expiries.add(self.position, &entry);
                let old = std::mem::replace(held, entry);
                *self.tombstones -= usize::from(old.is_tombstone());
                Some(old)
            }
        }
    }
}
