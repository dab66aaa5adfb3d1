//! Walking through all keys: how many there are, one after the other, in steps, and one at random.
//!
//! Implemented by the store, where each shard is locked for its own turn, and by a view of all
//! shards, which are locked already.

use crate::data::entry::{Entry, Key};
use crate::data::key_order::{OrderKey, POSITION_BITS};
use crate::store::shard::Shard;
use crate::store::{Counts, SHARDS_LEN, position_in, shard_of};

/// The most draws of an entry before dead ones are left out. If one entry in a hundred is live, one
/// is found in two of three tries.
const DRAWS_MAX: usize = 100;

/// The point where the next step of a scan begins: a position in the order of keys, and which order
/// that is.
///
/// Each step goes through the keys in their order, which is one for all nodes of a cluster, and
/// stays the same whatever is written. So a client that scans from 0 to 0, at any nodes, meets
/// every key that is there all along, and no node remembers anything between two steps. In another
/// order a position means nothing: there the scan begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// Makes a cursor. Any number is one: one that no step has returned begins somewhere.
    pub fn from_bits(bits: u64) -> Cursor {
        Cursor(bits)
    }

    /// Returns the number of the cursor: less than 2^53, and never 0 where there is more.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    fn at(order: OrderKey, position: u64) -> Cursor {
        Cursor(order.fingerprint() << POSITION_BITS | position)
    }

    fn position(self, order: OrderKey) -> u64 {
        let is_of_it = self.0 >> POSITION_BITS == order.fingerprint();
        if is_of_it { self.0 & ((1 << POSITION_BITS) - 1) } else { 0 }
    }
}

/// All keys of a store, as they are or as they come.
pub trait Keyspace {
    /// Returns the order in which keys lie.
    fn order(&self) -> OrderKey;

    /// Looks at one shard, of [`SHARDS_LEN`].
    #[doc(hidden)]
    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T;

    /// Counts keys and tombstones at this time.
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

    /// Returns how many live keys expire, and after how many milliseconds on average.
    fn expiring(&self, wall_ms: u64) -> (usize, u64) {
        let (mut keys, mut left) = (0, 0);
        for shard in 0..SHARDS_LEN {
            let (more, longer) = self.with_shard(shard, |shard| shard.expiring(wall_ms));
            (keys, left) = (keys + more, left + longer);
        }
        (keys, (left / (keys as u128).max(1)) as u64)
    }

    /// Meets the next `count` live keys, fewer only at the end. Returns where to go on; `None` at
    /// the end.
    fn scan(&self, from: Cursor, count: usize, wall_ms: u64, mut meet: impl FnMut(&Entry)) -> Option<Cursor> {
        let mut met = 0;
        self.scan_while(from, wall_ms, |entry| {
            met += 1;
            meet(entry);
            met < count
        })
    }

    /// Meets live keys until `meet` wants no more. Keys at one and the same position are met in one
    /// step, wanted or not, since no cursor can part them. It takes millions of keys for two to
    /// share one. Returns where to go on; `None` at the end.
    fn scan_while(&self, from: Cursor, wall_ms: u64, mut meet: impl FnMut(&Entry) -> bool) -> Option<Cursor> {
        let order = self.order();
        let from = from.position(order);
        let (mut wants_more, mut last) = (true, None);
        for shard in shard_of(from)..SHARDS_LEN {
            let next = self.with_shard(shard, |table| {
                if table.order() != order {
                    // All keys were moved since the step began.
                    return Some(Cursor::at(table.order(), 0));
                }
                let start = if shard == shard_of(from) { position_in(from) } else { 0 };
                for (position, entry) in table.entries_from(start).filter(|(_, entry)| entry.is_live(|| wall_ms)) {
                    let here = Some((shard, position));
                    if !wants_more && last != here {
                        return Some(Cursor::at(order, (shard as u64) << u32::BITS | u64::from(position)));
                    }
                    wants_more &= meet(entry);
                    last = here;
                }
                None
            });
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Returns a live key at random, each as likely as any other; `random` bits decide.
    ///
    /// An entry is drawn again until it is a live one. Where nearly all are dead, the live ones are
    /// counted instead, and one shard is gone through.
    fn random_key(&self, random: u64, wall_ms: u64) -> Option<Key> {
        let mut random = fastrand::Rng::with_seed(random);
        let entries: Vec<usize> = (0..SHARDS_LEN).map(|shard| self.with_shard(shard, Shard::len)).collect();
        let is_live = |entry: &&Entry| entry.is_live(|| wall_ms);
        for _ in 0..DRAWS_MAX {
            let (shard, index) = draw(&entries, &mut random)?;
            let found = self.with_shard(shard, |shard| shard.nth(index).filter(is_live).map(Entry::shared_key));
            if found.is_some() {
                return found;
            }
        }
        let live: Vec<usize> = (0..SHARDS_LEN).map(|shard| self.with_shard(shard, |shard| shard.live(wall_ms))).collect();
        let (first, index) = draw(&live, &mut random)?;
        // Some may have gone since they were counted.
        (first..SHARDS_LEN)
            .chain(0..first)
            .find_map(|shard| self.with_shard(shard, |shard| shard.entries().filter(is_live).take(index + 1).last().map(Entry::shared_key)))
    }
}

/// Draws one of as many as all shards have together. Returns its shard, and how many are in front
/// of it there; `None` if there are none.
fn draw(lens: &[usize], random: &mut fastrand::Rng) -> Option<(usize, usize)> {
    let total: usize = lens.iter().sum();
    let mut index = if total == 0 { return None } else { random.usize(..total) };
    for (shard, len) in lens.iter().enumerate() {
        if index < *len {
            return Some((shard, index));
        }
        index -= len;
    }
    None
}
