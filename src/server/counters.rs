//! Counts of what clients did, for STATUS and INFO.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters for STATUS and INFO. Sessions add to them once a round.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commands: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) writes_refused: AtomicU64,
    pub(crate) writes_unknown: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// Clients beyond `clients_max`.
    pub(crate) clients_refused: AtomicU64,
    /// Clients that were closed because they did not take their replies.
    pub(crate) clients_deaf: AtomicU64,
    /// Requests that were refused for want of rights.
    pub(crate) commands_denied: AtomicU64,
    pub(crate) logins_failed: AtomicU64,
    /// Clients that were closed since they had not said who they are.
    pub(crate) newcomers_closed: AtomicU64,
    /// No such client is logged before this many seconds of
    /// [`elapsed`](crate::data::clock::elapsed).
    pub(crate) deaf_logged_next_s: AtomicU64,
}

impl Counters {
    /// Adds what happened in a round of one session.
    pub(crate) fn add(&self, round: &RoundTally) {
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.commands, round.commands);
        add(&self.writes, round.writes);
        add(&self.writes_refused, round.refused);
        add(&self.hits, round.lookups.hits);
        add(&self.misses, round.lookups.misses);
    }

    /// Counts writes that were applied, and then not acknowledged in time.
    pub(crate) fn add_unknown(&self, writes: usize) {
        if writes > 0 {
            self.writes_unknown.fetch_add(writes as u64, Ordering::Relaxed);
        }
    }
}

/// The counts of one round of a connection.
#[derive(Default)]
pub(crate) struct RoundTally {
    pub commands: u64,
    pub writes: u64,
    pub refused: u64,
    pub lookups: Lookups,
    /// True if something was refused for want of a quorum.
    pub no_quorum: bool,
}

/// Keys that were looked for, and how many of them were there, as Redis counts them.
///
/// Commands that read a value or ask something of one count; not those that only write, MEMORY
/// USAGE, or walks through all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

impl Lookups {
    pub fn note(&mut self, is_there: bool) {
        *(if is_there { &mut self.hits } else { &mut self.misses }) += 1;
    }

    pub fn add(&mut self, more: Lookups) {
        self.hits += more.hits;
        self.misses += more.misses;
    }
}
