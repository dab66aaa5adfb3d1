//! Looking through all keys: how many there are, one after the other, in steps.
//!
//! Over the store, where each shard is locked for its own turn; and over a view of all shards, which are locked already.

use std::ops::ControlFlow;

use crate::entry::{Entry, Key};
use crate::store::shard::Shard;
use crate::store::{Counts, SHARDS_LEN};

/// Where the next step of a scan begins. As a number it fits into 53 bits, which even a client that takes every number for a float keeps.
///
/// Each step goes through the places of the shards' tables in their order. An entry keeps its place until its table moves its entries: then the scan begins
/// anew with that shard. So whoever goes from 0 to 0 meets every key that is there all along at least once, and nothing is remembered between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    shard: usize,
    moves: u16,
    place: usize,
}

impl Cursor {
    const SHARD_BITS: u32 = SHARDS_LEN.ilog2();
    const PLACE_BITS: u32 = 53 - 16 - Self::SHARD_BITS;

    /// Any number is a cursor: one that no step has returned begins somewhere.
    pub fn from_bits(bits: u64) -> Cursor {
        let place = bits >> (16 + Self::SHARD_BITS);
        Cursor {
            shard: bits as usize % SHARDS_LEN,
            moves: (bits >> Self::SHARD_BITS) as u16,
            place: usize::try_from(place).unwrap_or(usize::MAX),
        }
    }

    pub fn to_bits(self) -> u64 {
        // A shard of more places would need more memory than any machine has.
        let place = (self.place as u64).min((1 << Self::PLACE_BITS) - 1);
        (place << 16 | u64::from(self.moves)) << Self::SHARD_BITS | self.shard as u64
    }
}

/// All keys.
pub trait Keyspace {
    /// Looks at one shard, of [`SHARDS_LEN`].
    #[doc(hidden)]
    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T;

    /// How much there is at this time.
    fn counts(&self, wall_ms: u64) -> Counts {
        let mut counts = Counts::default();
        for shard in 0..SHARDS_LEN {
            self.with_shard(shard, |shard| {
                counts.keys += shard.live(wall_ms);
                counts.tombstones += shard.tombstones();
            });
        }
        counts
    }

    /// How many live keys expire, and after how many milliseconds on average.
    fn expiring(&self, wall_ms: u64) -> (usize, u64) {
        let (mut keys, mut left) = (0, 0);
        for shard in 0..SHARDS_LEN {
            let (more, longer) = self.with_shard(shard, |shard| shard.expiring(wall_ms));
            (keys, left) = (keys + more, left + longer);
        }
        (keys, (left / (keys as u128).max(1)) as u64)
    }

    /// Meets the next `count` live keys, fewer only at the end. Returns where to go on; `None` at the end.
    fn scan(&self, from: Cursor, count: usize, wall_ms: u64, mut meet: impl FnMut(&Entry)) -> Option<Cursor> {
        let mut left = count.max(1);
        self.scan_while(from, wall_ms, |entry| {
            let has_room = left > 0;
            if has_room {
                left -= 1;
                meet(entry);
            }
            has_room
        })
    }

    /// Meets live keys until `meet` will not take one, with which the next step begins. Returns where that is; `None` at the end.
    fn scan_while(&self, from: Cursor, wall_ms: u64, mut meet: impl FnMut(&Entry) -> bool) -> Option<Cursor> {
        let mut place = from.place;
        for shard in from.shard..SHARDS_LEN {
            let next = self.with_shard(shard, |table| {
                let start = if shard == from.shard && table.moves() != from.moves { 0 } else { place };
                for place in start..table.places() {
                    let entry = table.at(place).filter(|entry| entry.is_live(|| wall_ms));
                    if entry.is_some_and(|entry| !meet(entry)) {
                        return Some(Cursor { shard, moves: table.moves(), place });
                    }
                }
                None
            });
            if next.is_some() {
                return next;
            }
            place = 0;
        }
        None
    }

    /// Some live key, every one about as likely; `random` bits decide.
    fn random_key(&self, random: u64, wall_ms: u64) -> Option<Key> {
        let first = random as usize % SHARDS_LEN;
        for shard in (first..SHARDS_LEN).chain(0..first) {
            let found = self.with_shard(shard, |shard| {
                let places = shard.places();
                let first = (random >> 16) as usize % places.max(1);
                let found = (first..places).chain(0..first).try_for_each(|place| match shard.at(place) {
                    Some(entry) if entry.is_live(|| wall_ms) => ControlFlow::Break(entry.shared_key()),
                    _ => ControlFlow::Continue(()),
                });
                found.break_value()
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
