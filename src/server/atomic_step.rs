//! Commands that are one step on this node, before anything is written.
//!
//! A step sees the store as it is at one moment, with what the commands before have left, and
//! collects updates: at most one a key. They are applied together or not at all, while every key
//! that was looked at is locked: no client of this node sees half of them. To the peers each update
//! travels by itself, like any other write.

use std::collections::HashMap;

use crate::data::entry::{Entry, Key, Update};
use crate::server::counters::Lookups;
use crate::server::evaluation::{Context, Live, RoundTime};
use crate::store::{Cursor, Keyspace, View};

pub(crate) struct AtomicStep<'v> {
    view: &'v View<'v>,
    context: Context<'v>,
    /// The updates in the order in which their keys were written first.
    updates: Vec<Update>,
    /// The index in `updates` of each key.
    indexes: HashMap<Key, usize>,
    /// The keys that the commands so far have looked for.
    pub lookups: Lookups,
    /// Bytes that updates and replies may still take; looking at much counts, too.
    left: usize,
}

/// Keys that may be named in one step, which all of them are locked for. Beyond this, a client that
/// shares one of their shards would wait for longer than a peer may.
pub(crate) const KEYS_MAX: usize = 1 << 16;

/// Bytes that a reply or a key that was walked over counts for, about.
const STEP_COST: usize = 64;

impl<'v> AtomicStep<'v> {
    /// `bound`: bytes that updates and replies may take together. All keys are locked meanwhile, so
    /// this bounds the time as well.
    pub fn new(view: &'v View<'v>, context: Context<'v>, bound: usize) -> AtomicStep<'v> {
        AtomicStep { view, context, updates: Vec::new(), indexes: HashMap::new(), lookups: Lookups::default(), left: bound }
    }

    pub fn context(&self) -> Context<'v> {
        self.context
    }

    /// Returns true if the bound was passed: the updates are not to be applied.
    pub fn is_too_large(&self) -> bool {
        self.left == 0
    }

    pub fn into_updates(self) -> Vec<Update> {
        self.updates
    }

    /// The key as the commands before have left it.
    pub fn current(&self, key: &[u8]) -> Option<Live<'_>> {
        match self.indexes.get(key) {
            Some(index) => self.live(Some(self.updates[*index].entry())),
            None => self.live(self.view.entry(key)),
        }
    }

    pub fn put(&mut self, update: Update) {
        self.charge(update.entry().size());
        match self.indexes.get(update.entry().key()) {
            Some(index) => self.updates[*index] = update,
            None => {
                self.indexes.insert(update.entry().shared_key(), self.updates.len());
                self.updates.push(update);
            }
        }
    }

    /// Uses up so many bytes of the bound, and those that any reply costs.
    pub fn charge(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost + STEP_COST);
    }

    /// All keys that are there.
    pub fn live_keys(&mut self) -> Vec<Key> {
        let mut keys = Vec::new();
        self.charge(self.view.counts(self.time().wall_ms()).keys * STEP_COST);
        if self.is_too_large() {
            return keys;
        }
        self.view.scan(Cursor::default(), usize::MAX, self.time().wall_ms(), |entry| {
            if !self.indexes.contains_key(entry.key()) {
                keys.push(entry.shared_key());
            }
        });
        let made = self.updates.iter().map(Update::entry).filter(|made| self.live(Some(made)).is_some());
        keys.extend(made.map(Entry::shared_key));
        keys
    }

    /// The keys that are there and that `is_wanted`. Matching takes time while all keys are locked:
    /// `cost` is charged for each byte of each key.
    pub fn keys_matching(&mut self, cost: usize, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Key> {
        let mut keys = self.live_keys();
        self.charge(keys.iter().map(|key| key.len().saturating_mul(cost) / STEP_COST).sum());
        keys.retain(|key| !self.is_too_large() && is_wanted(key));
        keys
    }

    /// One step through all keys, as [`Store::scan`](crate::store::Store) takes it, and where the
    /// next one begins.
    pub fn scan(&mut self, cursor: Cursor, count: usize, is_wanted: impl Fn(&[u8]) -> bool) -> (Option<Cursor>, Vec<Key>) {
        let (mut keys, mut met) = (Vec::new(), 0);
        let next = self.view.scan(cursor, count, self.time().wall_ms(), |entry| {
            met += 1;
            if is_wanted(entry.key()) && self.current(entry.key()).is_some() {
                keys.push(entry.shared_key());
            }
        });
        self.charge(met * STEP_COST);
        if next.is_none() {
            // A key that was made before in this step has no position yet.
            let made = self.updates.iter().map(Update::entry).filter(|made| self.live(self.view.entry(made.key())).is_none());
            let live = made.filter(|made| self.live(Some(made)).is_some() && is_wanted(made.key()));
            keys.extend(live.map(Entry::shared_key));
        }
        (next, keys)
    }

    /// The number of keys that are there.
    pub fn count(&self) -> i64 {
        let difference = |update: &Update| {
            let before = self.live(self.view.entry(update.entry().key())).is_some();
            i64::from(self.live(Some(update.entry())).is_some()) - i64::from(before)
        };
        self.view.counts(self.time().wall_ms()).keys as i64 + self.updates.iter().map(difference).sum::<i64>()
    }

    /// Any key that is there.
    pub fn random_key(&mut self, random: u64) -> Option<Key> {
        let found = self.view.random_key(random, self.time().wall_ms()).filter(|key| self.current(key).is_some());
        if found.is_some() || self.updates.is_empty() {
            return found;
        }
        // Only a transaction that has written needs more than one look.
        let mut keys = self.live_keys();
        if keys.is_empty() { None } else { Some(keys.swap_remove(random as usize % keys.len())) }
    }

    fn live<'e>(&self, entry: Option<&'e Entry>) -> Option<Live<'e>> {
        Live::of(entry, self.context.time)
    }

    fn time(&self) -> &'v RoundTime {
        self.context.time
    }
}
