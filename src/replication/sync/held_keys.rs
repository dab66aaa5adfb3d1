//! The keys of a full dump, in as many sets as the store has shards.
//!
//! In one set of ten million keys each look-up would wait for memory, and a set that grows moves
//! all that it has at once. The sets follow the order of the store: the keys of one shard are
//! looked up in one set, which fits into the cache. Pure values.

use std::collections::HashSet;

use crate::data::entry::Key;
use crate::data::key_order::{OrderKey, POSITION_BITS};

/// The number of sets, as a power of two: as many as a store has shards.
const SETS_BITS: u32 = POSITION_BITS - u32::BITS;

/// The keys that a dump held.
pub struct HeldKeys {
    /// By the uppermost bits of a key's position in this order. If the store takes over another
    /// one, look-ups take longer, and nothing else.
    order: OrderKey,
    sets: Vec<HashSet<Key>>,
}

impl HeldKeys {
    pub fn new(order: OrderKey) -> HeldKeys {
        HeldKeys { order, sets: (0..1 << SETS_BITS).map(|_| HashSet::new()).collect() }
    }

    pub fn insert(&mut self, key: Key) {
        let set = self.set_of(&key);
        self.sets[set].insert(key);
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.sets[self.set_of(key)].contains(key)
    }

    /// Frees the memory of about so many keys, of at least one set. Only when no key is looked up
    /// any more. Returns whether there is more.
    pub fn free_some(&mut self, keys: usize) -> bool {
        let mut freed = 0;
        while freed < keys
            && let Some(set) = self.sets.pop()
        {
            freed += set.len();
        }
        !self.sets.is_empty()
    }

    fn set_of(&self, key: &[u8]) -> usize {
        (self.order.position(key) >> (POSITION_BITS - SETS_BITS)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_until_their_set_is_freed() {
        let mut held = HeldKeys::new(OrderKey::from_halves([1, 2]));
        let key = |number: usize| Key::from(format!("key{number}").as_bytes());
        (0..1000).for_each(|number| held.insert(key(number)));
        assert!((0..1000).all(|number| held.contains(&key(number))) && !held.contains(b"key1000"));
        assert!(held.free_some(500) && !held.free_some(usize::MAX) && !held.free_some(1));
    }
}
