//! One shard: its entries in their order, and what must be known of it without a look at every entry.
//!
//! Every change goes through [`Slot`], the `remove`s of [`Shard`] or [`Shard::spend`], so that the counts and the index of expiries are always those of the entries.

use std::collections::BTreeSet;

use crate::data::entry::{Entry, EntryRef, Expiry, Key};
use crate::data::key_order::OrderKey;
use crate::data::version::Version;
use crate::store::cells::{Cells, Place};

/// What an entry takes beside the bytes of its key and value: its position and the pointer to it with their share of empty places, what is in front of the bytes, and the allocator's rounding.
/// For [`footprint`] only.
const ENTRY_OVERHEAD: usize = (size_of::<u32>() + size_of::<Entry>()) * 9 / 8 + Entry::OVERHEAD + 8;
/// What its place in the index takes, if it expires.
const EXPIRY_OVERHEAD: usize = size_of::<(Expiry, Key)>() * 3 / 2;

pub struct Shard {
    /// Invariant: what the positions in `cells` are by.
    order: OrderKey,
    cells: Cells,
    /// Invariant: the number of tombstones in `cells`.
    tombstones: usize,
    /// Invariant: the values in `cells` that expire.
    expiring: BTreeSet<(Expiry, Key)>,
}

/// Bytes that an entry takes, by estimate.
pub(super) fn footprint(entry: &Entry) -> usize {
    entry.memory() - Entry::OVERHEAD + ENTRY_OVERHEAD + if entry.ends().is_some() { EXPIRY_OVERHEAD } else { 0 }
}

/// The same of a value where key and value have so many bytes together.
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

    /// Entries, tombstones included.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Keys that readers can see at this time.
    pub fn live(&self, wall_ms: u64) -> usize {
        self.cells.len() - self.tombstones - self.expiring.iter().take_while(|(expires, _)| expires.is_over(wall_ms)).count()
    }

    /// Live keys that expire, at this time; and the sum of what is left to them, in milliseconds.
    pub fn expiring(&self, wall_ms: u64) -> (usize, u128) {
        let live = self.expiring.iter().rev().take_while(|(expires, _)| !expires.is_over(wall_ms));
        live.fold((0, 0), |(count, left), (expires, _)| (count + 1, left + u128::from(expires.wall_ms() - wall_ms)))
    }

    pub fn find(&self, position: u32, key: &[u8]) -> Option<&Entry> {
        self.cells.find(position, key)
    }

    /// In the order of positions.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.cells.iter()
    }

    /// From a position on, with the positions.
    pub fn entries_from(&self, position: u32) -> impl Iterator<Item = (u32, &Entry)> {
        self.cells.iter_from(position)
    }

    /// The one with so many in front of it.
    pub fn nth(&self, index: usize) -> Option<&Entry> {
        self.cells.nth(index)
    }

    /// The place of a key, looked up once: to see what is there, and to put something else there.
    pub fn slot(&mut self, position: u32, key: &[u8]) -> Slot<'_> {
        let Shard { cells, tombstones, expiring, .. } = self;
        let place = cells.place(position, key);
        Slot { cells, place, position, tombstones, expiring }
    }

    /// Takes the entries out that `which` picks.
    pub fn remove(&mut self, which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed = self.cells.extract(which);
        for entry in &removed {
            self.tombstones -= usize::from(entry.is_tombstone());
            unindex(&mut self.expiring, entry);
        }
        removed
    }

    /// Takes a key out if this version of it is there, and no other.
    pub fn remove_version(&mut self, position: u32, key: &[u8], version: Version) -> Option<Entry> {
        let slot = self.slot(position, key);
        slot.current().is_some_and(|entry| entry.version() == version).then(|| slot.take())?
    }

    /// Takes everything out, and begins anew with another order.
    pub fn empty(&mut self, order: OrderKey) -> Shard {
        std::mem::replace(self, Shard::new(order))
    }

    /// All entries, of a shard that is not needed any more.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.cells.into_entries()
    }

    /// Whether a value has expired by then.
    pub fn has_expired(&self, upto_ms: u64) -> bool {
        self.expiring.first().is_some_and(|(expires, _)| expires.is_over(upto_ms))
    }

    /// The values of at most `max` entries that have expired by then are let go: they are tombstones in place. Calls `each` with the bytes that it took before and takes now. `position_of` is the
    /// position of a key.
    pub fn spend(&mut self, upto_ms: u64, max: usize, position_of: impl Fn(&[u8]) -> u32, mut each: impl FnMut(usize, usize)) {
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

/// The place of one key in its shard, and the counts that go with what is put there.
pub struct Slot<'a> {
    cells: &'a mut Cells,
    place: Place,
    position: u32,
    tombstones: &'a mut usize,
    expiring: &'a mut BTreeSet<(Expiry, Key)>,
}

impl Slot<'_> {
    pub fn current(&self) -> Option<&Entry> {
        self.cells.at(self.place)
    }

    /// Puts a value there into the memory of the one that it replaces, if it can be: nothing is allocated and nothing else in the cache makes way for it. Whether it was.
    pub fn overwrite(&mut self, by: EntryRef<'_>) -> bool {
        self.cells.at_mut(self.place).is_some_and(|current| current.overwrite(by))
    }

    /// Leaves nothing there; returns what was.
    pub fn take(self) -> Option<Entry> {
        let entry = self.cells.remove(self.place)?;
        *self.tombstones -= usize::from(entry.is_tombstone());
        unindex(self.expiring, &entry);
        Some(entry)
    }

    /// Puts an entry there; returns what it replaced.
    pub fn put(self, entry: Entry) -> Option<Entry> {
        *self.tombstones += usize::from(entry.is_tombstone());
        match self.cells.at_mut(self.place) {
            None => {
                index(self.expiring, &entry);
                self.cells.insert(self.place, self.position, entry);
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

/// Out of the way of the writes that have none, which are most.
#[inline(never)]
fn note_expiry(expiring: &mut BTreeSet<(Expiry, Key)>, ends: Expiry, entry: &Entry) {
    expiring.insert((ends, entry.shared_key()));
}

#[inline(never)]
fn forget_expiry(expiring: &mut BTreeSet<(Expiry, Key)>, ends: Expiry, entry: &Entry) {
    expiring.remove(&(ends, entry.shared_key()));
}
