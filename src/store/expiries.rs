//! The index of expiries of one shard: where values lie that expire, the first to expire first.
//!
//! It names positions, not keys: so it holds no entry, an entry can be overwritten in its memory,
//! and nothing is compared but numbers. Several keys may lie at one position and expire together;
//! they are one line of the index, and counted.

use std::collections::BTreeMap;

use crate::data::entry::{Entry, Expiry};

/// The index of expiries of one shard.
#[derive(Default)]
pub struct Expiries(BTreeMap<(Expiry, u32), u32>);

impl Expiries {
    /// Bytes for a value that expires, with the spare room of the tree.
    pub const OVERHEAD: usize = (size_of::<(Expiry, u32)>() + size_of::<u32>()) * 3 / 2;

    /// Adds an entry that lies at a position, if it expires.
    #[inline]
    pub fn add(&mut self, position: u32, entry: &Entry) {
        if let Some(ends) = entry.ends() {
            self.add_expiry(position, ends);
        }
    }

    /// Removes an entry that lies at a position, if it expires.
    #[inline]
    pub fn remove(&mut self, position: u32, entry: &Entry) {
        if let Some(ends) = entry.ends() {
            self.remove_expiry(position, ends);
        }
    }

    /// Notes that the entry at a position, which expired then, expires at another time.
    pub fn replace(&mut self, position: u32, before: Option<Expiry>, after: Option<Expiry>) {
        before.into_iter().for_each(|ends| self.remove_expiry(position, ends));
        after.into_iter().for_each(|ends| self.add_expiry(position, ends));
    }

    /// Returns whether a value has expired by then.
    pub fn has_over(&self, wall_ms: u64) -> bool {
        self.0.first_key_value().is_some_and(|((expires, _), _)| expires.is_over(wall_ms))
    }

    /// Removes the values that expire first and lie at one position, if they have expired by then.
    /// Returns their expiry and position.
    pub fn pop_over(&mut self, wall_ms: u64) -> Option<(Expiry, u32)> {
        let first = self.0.first_entry().filter(|first| first.key().0.is_over(wall_ms));
        first.map(|first| first.remove_entry().0)
    }

    /// Returns how many values have expired by then.
    pub fn over(&self, wall_ms: u64) -> usize {
        self.0.iter().take_while(|((expires, _), _)| expires.is_over(wall_ms)).map(|(_, count)| *count as usize).sum()
    }

    /// Returns how many values have not expired by then, and the sum of what is left to them, in
    /// milliseconds.
    pub fn ahead(&self, wall_ms: u64) -> (usize, u128) {
        let ahead = self.0.iter().rev().take_while(|((expires, _), _)| !expires.is_over(wall_ms));
        ahead.fold((0, 0), |(sum, left), ((expires, _), count)| {
            (sum + *count as usize, left + u128::from(expires.wall_ms() - wall_ms) * u128::from(*count))
        })
    }

    // Kept out of the path of entries that do not expire, which are most.
    #[inline(never)]
    fn add_expiry(&mut self, position: u32, ends: Expiry) {
        *self.0.entry((ends, position)).or_default() += 1;
    }

    #[inline(never)]
    fn remove_expiry(&mut self, position: u32, ends: Expiry) {
        let count = self.0.get_mut(&(ends, position));
        match count {
            Some(1) | None => drop(self.0.remove(&(ends, position))),
            Some(count) => *count -= 1,
        }
    }
}
