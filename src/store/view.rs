//! Several shards, as they are at one moment.

use crate::data::entry::Entry;
use crate::data::key_order::OrderKey;
use crate::store::keyspace::Keyspace;
use crate::store::shard::Shard;
use crate::store::{Store, position_in, shard_of};

/// The keys that an operation locks.
#[derive(Clone, Copy)]
pub enum Span<'a> {
    Keys(&'a [&'a [u8]]),
    All,
}

/// A look at locked shards. Every key that is asked for must be within the span that was locked.
pub struct View<'a> {
    store: &'a Store,
    order: OrderKey,
    /// Invariant: in rising order of their numbers.
    shards: Vec<(usize, &'a Shard)>,
}

impl<'a> View<'a> {
    pub(super) fn new(store: &'a Store, order: OrderKey, shards: Vec<(usize, &'a Shard)>) -> View<'a> {
        View { store, order, shards }
    }

    /// Returns the entry of a key: a tombstone and an expired value, too.
    pub fn entry(&self, key: &[u8]) -> Option<&'a Entry> {
        let position = self.store.position(self.order, key);
        self.shard(shard_of(position)).find(position_in(position), key)
    }

    fn shard(&self, shard: usize) -> &'a Shard {
        let index = self.shards.binary_search_by_key(&shard, |(shard, _)| *shard);
        self.shards[index.expect("only what is locked is asked for")].1
    }
}

impl Keyspace for View<'_> {
    fn order(&self) -> OrderKey {
        self.order
    }

    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T {
        look(self.shard(shard))
    }
}
