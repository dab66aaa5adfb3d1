//! Several shards, locked together.

use parking_lot::RwLockWriteGuard;

use crate::entry::Entry;
use crate::store::keyspace::Keyspace;
use crate::store::shard::Shard;
use crate::store::{Store, place_of};

/// Which keys are locked.
#[derive(Clone, Copy)]
pub enum Span<'a> {
    Keys(&'a [&'a [u8]]),
    All,
}

/// What is locked, to be read and written. Every key that is asked for must be within its span.
pub struct View<'a> {
    store: &'a Store,
    /// In rising order of their numbers.
    shards: Vec<(usize, RwLockWriteGuard<'a, Shard>)>,
}

impl<'a> View<'a> {
    pub(super) fn new(store: &'a Store, shards: Vec<(usize, RwLockWriteGuard<'a, Shard>)>) -> View<'a> {
        View { store, shards }
    }

    /// What is known of a key.
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let hash = self.store.hash(key);
        self.shards[self.index(place_of(hash))].1.find(hash, key)
    }

    /// A local write: its version must be greater than what is there.
    pub fn put(&mut self, entry: Entry) {
        let hash = self.store.hash(&entry.key);
        let index = self.index(place_of(hash));
        let slot = self.shards[index].1.slot(hash, &entry.key);
        debug_assert!(slot.current().is_none_or(|current| current.version < entry.version));
        self.store.put(slot, entry);
    }

    fn index(&self, shard: usize) -> usize {
        let found = self.shards.binary_search_by_key(&shard, |(shard, _)| *shard);
        found.expect("only what is locked is asked for")
    }
}

impl Keyspace for View<'_> {
    fn with_shard<T>(&self, shard: usize, look: impl FnOnce(&Shard) -> T) -> T {
        look(&self.shards[self.index(shard)].1)
    }
}
