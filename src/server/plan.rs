//! Commands that concern several keys, or several commands as one: what they come to, before anything is written.
//!
//! A plan sees the store as it is at one moment, with what the commands before have left, and collects the effects: at most one a key. They are applied together or not at
//! all, while every key that was looked at is locked: on this node nobody sees half of them. To the peers each effect travels by itself, like any other write.

use std::collections::HashMap;

use crate::data::entry::{Entry, Key, Update};
use crate::replication::submit::WRITE_OVERHEAD;
use crate::server::judge::{self, Live, Moment};
use crate::server::lookups::Lookups;
use crate::store::{Cursor, Keyspace, View};
use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Action, Command, Several};
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::glob;

pub(crate) struct Plan<'v> {
    view: &'v View<'v>,
    limits: &'v Limits,
    moment: &'v Moment,
    /// In the order in which their keys were written first.
    effects: Vec<Update>,
    places: HashMap<Key, usize>,
    /// What the commands so far have looked for.
    pub lookups: Lookups,
    /// Bytes that effects and replies may still take, and what was looked at counts for.
    left: usize,
}

/// Keys that may be named in one step, which all of them are locked for. Beyond this, who shares one of their shards would wait for longer than a peer may.
pub(crate) const KEYS_MAX: usize = 1 << 16;

/// What a reply or a key that was walked over counts for, about.
const STEP_COST: usize = 64;

/// What a command brings, copied before any lock is taken; each is taken at most once.
pub(crate) fn brought(command: &Command<'_>) -> Vec<Option<Update>> {
    match command {
        Command::One { key, action } => vec![judge::brought(key, action)],
        Command::Several(Several::Set { pairs, .. }) => pairs.iter().map(|(key, value)| Some(Update::put(key, value, None))).collect(),
        _ => Vec::new(),
    }
}

/// Bytes that a command's effects take, as far as it tells.
pub(crate) fn size(command: &Command<'_>) -> usize {
    match command {
        Command::One { key, action } => key.len() + judge::size(action) + WRITE_OVERHEAD,
        Command::Several(several) => {
            let values: usize = match several {
                Several::Set { pairs, .. } => pairs.iter().map(|(_, value)| value.len()).sum(),
                _ => 0,
            };
            values + several.keys().iter().map(|key| key.len() + WRITE_OVERHEAD).sum::<usize>()
        }
        _ => 0,
    }
}

impl<'v> Plan<'v> {
    /// `bound`: bytes that effects and replies may take together. All keys are locked meanwhile, so this bounds the time as well.
    pub fn new(view: &'v View<'v>, limits: &'v Limits, moment: &'v Moment, bound: usize) -> Plan<'v> {
        Plan { view, limits, moment, effects: Vec::new(), places: HashMap::new(), lookups: Lookups::default(), left: bound }
    }

    /// Whether the bound was passed: what was planned is not to be applied.
    pub fn is_too_large(&self) -> bool {
        self.left == 0
    }

    pub fn into_effects(self) -> Vec<Update> {
        self.effects
    }

    /// What a command comes to; `None` for those that do not concern data. `brought` is what [`brought`] made of it.
    pub fn run<'c>(&mut self, command: &'c Command<'_>, brought: &mut [Option<Update>]) -> Option<Reply<'c>> {
        if self.is_too_large() {
            return Some(Reply::Null);
        }
        let reply = self.answer(command, brought)?;
        self.spend(reply.own_size());
        Some(reply)
    }

    fn answer<'c>(&mut self, command: &'c Command<'_>, brought: &mut [Option<Update>]) -> Option<Reply<'c>> {
        Some(match command {
            Command::One { key, action } => self.one(key, action, brought.first_mut().unwrap_or(&mut None)),
            Command::Several(several) => self.several(several, brought),
            Command::Count => Reply::Integer(self.count()),
            Command::Matching { pattern } => {
                let keys = self.live_keys();
                // Under the locks, so what it takes is counted.
                self.spend(keys.iter().map(|key| key.len().saturating_mul(pattern.len()) / STEP_COST).sum());
                let is_wanted = |key: &Key| !self.is_too_large() && glob::matches(pattern, key);
                Reply::Array(keys.into_iter().filter(is_wanted).map(Reply::Value).collect())
            }
            Command::Scan { cursor, pattern, count, strings } => self.scan(*cursor, pattern.as_deref(), *count, *strings),
            Command::RandomKey => self.random_key().map_or(Reply::Null, Reply::Value),
            Command::Flush => {
                for key in self.live_keys() {
                    self.note(Update::delete(&key));
                }
                Reply::Ok
            }
            _ => return None,
        })
    }

    fn one<'c>(&mut self, key: &'c [u8], action: &Action<'_>, brought: &mut Option<Update>) -> Reply<'c> {
        let current = self.current(key);
        let is_there = current.is_some();
        let verdict = judge::judge(key, action, brought, current, self.limits, self.moment);
        self.lookups.note_action(action, is_there);
        if let Some(effect) = verdict.effect {
            self.note(effect);
        }
        verdict.reply
    }

    fn several<'c>(&mut self, several: &'c Several<'_>, brought: &mut [Option<Update>]) -> Reply<'c> {
        match several {
            Several::Get(keys) => Reply::Array(keys.iter().map(|key| self.one(key, &Action::Get, &mut None)).collect()),
            Several::Exists(keys) => {
                let there = keys.iter().filter(|key| self.current(key).is_some()).count();
                self.lookups.add(Lookups { hits: there as u64, misses: (keys.len() - there) as u64 });
                Reply::Integer(there as i64)
            }
            Several::Delete(keys) => {
                let mut deleted = 0;
                for key in keys {
                    if self.current(key).is_some() {
                        self.note(Update::delete(key));
                        deleted += 1;
                    }
                }
                Reply::Integer(deleted)
            }
            Several::Set { pairs, only_absent } => {
                if *only_absent && pairs.iter().any(|(key, _)| self.current(key).is_some()) {
                    return Reply::Integer(0);
                }
                for (place, (key, value)) in pairs.iter().enumerate() {
                    let brought = brought.get_mut(place).and_then(Option::take);
                    self.note(brought.unwrap_or_else(|| Update::put(key, value, None)));
                }
                if *only_absent { Reply::Integer(1) } else { Reply::Ok }
            }
            Several::Rename { from, to, only_absent } => self.rename(from, to, *only_absent),
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8], only_absent: bool) -> Reply<'static> {
        let Some(live) = self.current(from) else { return Reply::error(ErrorCode::Err, "no such key") };
        let done = || if only_absent { Reply::Integer(1) } else { Reply::Ok };
        if only_absent && self.current(to).is_some() {
            return Reply::Integer(0);
        }
        if from != to {
            let moved = Update::put(to, live.value(), live.expires());
            self.note(moved);
            self.note(Update::delete(from));
        }
        done()
    }

    fn scan(&mut self, cursor: u64, pattern: Option<&[u8]>, count: usize, strings: bool) -> Reply<'static> {
        let wanted = |key: &[u8]| strings && pattern.is_none_or(|pattern| glob::matches(pattern, key));
        let (mut keys, mut met) = (Vec::new(), 0);
        let next = self.view.scan(Cursor::from_bits(cursor), count, self.moment.wall_ms(), |entry| {
            met += 1;
            if wanted(entry.key()) && self.current(entry.key()).is_some() {
                keys.push(Reply::Value(entry.shared_key()));
            }
        });
        self.spend(met * STEP_COST);
        if next.is_none() {
            // What was made before in this transaction has no place yet.
            let made = self.effects.iter().map(Update::entry).filter(|made| Live::of(self.view.entry(made.key()), self.moment).is_none());
            let live = made.filter(|made| Live::of(Some(made), self.moment).is_some() && wanted(made.key()));
            keys.extend(live.map(|made| Reply::Value(made.shared_key())));
        }
        scanned(next, keys)
    }

    fn count(&self) -> i64 {
        let difference = |effect: &Update| {
            let before = Live::of(self.view.entry(effect.entry().key()), self.moment).is_some();
            i64::from(Live::of(Some(effect.entry()), self.moment).is_some()) - i64::from(before)
        };
        self.view.counts(self.moment.wall_ms()).keys as i64 + self.effects.iter().map(difference).sum::<i64>()
    }

    fn random_key(&mut self) -> Option<Key> {
        let random = random_bits(self.moment);
        let found = self.view.random_key(random, self.moment.wall_ms()).filter(|key| self.current(key).is_some());
        if found.is_some() || self.effects.is_empty() {
            return found;
        }
        // Only a transaction that has written needs more than one look.
        let mut keys = self.live_keys();
        if keys.is_empty() { None } else { Some(keys.swap_remove(random as usize % keys.len())) }
    }

    fn spend(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost + STEP_COST);
    }

    fn live_keys(&mut self) -> Vec<Key> {
        let mut keys = Vec::new();
        self.spend(self.view.counts(self.moment.wall_ms()).keys * STEP_COST);
        if self.is_too_large() {
            return keys;
        }
        self.view.scan(Cursor::default(), usize::MAX, self.moment.wall_ms(), |entry| {
            if !self.places.contains_key(entry.key()) {
                keys.push(entry.shared_key());
            }
        });
        let made = self.effects.iter().map(Update::entry).filter(|made| Live::of(Some(made), self.moment).is_some());
        keys.extend(made.map(Entry::shared_key));
        keys
    }

    fn current(&self, key: &[u8]) -> Option<Live<'_>> {
        match self.places.get(key) {
            Some(place) => Live::of(Some(self.effects[*place].entry()), self.moment),
            None => Live::of(self.view.entry(key), self.moment),
        }
    }

    fn note(&mut self, effect: Update) {
        self.spend(effect.entry().size());
        match self.places.get(effect.entry().key()) {
            Some(place) => self.effects[*place] = effect,
            None => {
                self.places.insert(effect.entry().shared_key(), self.effects.len());
                self.effects.push(effect);
            }
        }
    }
}

/// What decides which key RANDOMKEY names. Where the system gives no random bits, the time must do.
pub(crate) fn random_bits(moment: &Moment) -> u64 {
    getrandom::u64().unwrap_or_else(|_| moment.wall_ms())
}

/// What a step of SCAN answers.
pub(crate) fn scanned(next: Option<Cursor>, keys: Vec<Reply<'static>>) -> Reply<'static> {
    let cursor = next.map_or(0, Cursor::to_bits);
    Reply::Array(vec![Reply::Bytes(Bytes::Owned(cursor.to_string().into_bytes())), Reply::Array(keys)])
}
