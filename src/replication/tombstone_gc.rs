//! The collector of what is over: tombstones, and values that have expired.
//!
//! Nobody deletes what has expired, for no node's clock may decide over another's write: that it is over is part of the write, and everybody who reads knows. What is
//! left to do is to free memory. A value is let go when the clocks of all who are up, and who are a majority, agree that it is over, by more than clocks may be apart; what is left is a
//! tombstone in place, under the same version.
//!
//! **I6**: a tombstone goes only when every configured member is proven to cover it (what a peer says proves something while it is up, as far as it is on the peer's disk, and if it was said after the
//! last HELLO of any peer: peers/mod.rs), when it is older than `tombstone_age_min`, and while no dump is served or taken
//! and all members that are up agree on who the members are. What was collected is remembered as the *horizon*: a node below it is given a full dump, in which
//! absence is proof. A tombstone that has been a value must, besides, have expired by the clock of every member, by its own word.

use std::sync::atomic::Ordering;

use crate::data::clock::Now;
use crate::data::entry::Entry;
use crate::replication::replica::Replica;
use crate::testing::broken_rules::BrokenRule;

/// Shards that are looked at in one step, under the collector's lock, for which acks wait.
const SHARDS_PER_STEP: usize = 16;
/// Entries after which no further shard is: some milliseconds.
const ENTRIES_PER_STEP: usize = 20_000;
/// Values that are let go in one step, to within a shard; the next beat waits for them. With the default heartbeat that is half a million a second.
const SPENT_PER_STEP: usize = 1 << 18;

/// Walks round the shards, some at every beat.
#[derive(Default)]
pub struct TombstoneGc {
    /// The next one in which tombstones are looked at, and the next one in which values are let go.
    shard: usize,
    spending: usize,
}

impl TombstoneGc {
    /// Lets go of what has expired, and collects in the next few shards what may be collected; how many tombstones that were.
    pub fn step(&mut self, replica: &Replica, now: Now) -> usize {
        self.spend(replica, now);
        let mut table = replica.peers.table();
        let at_once = BrokenRule::CollectAtOnce.is_on();
        if !table.may_collect(&replica.config.members()) && !at_once {
            return 0;
        }
        let vector = replica.vector();
        let age_min = replica.config.tombstone_age_min.as_millis() as u64;
        let oldest = (replica.clock.read(now.elapsed).stamp_us / 1_000).saturating_sub(age_min);
        let expired = table.all_clocks_ms(now).saturating_sub(age_min);
        let (mut collected, mut entries) = (Vec::new(), 0);
        for _ in 0..SHARDS_PER_STEP {
            let may_go = |entry: &Entry| {
                let version = entry.version();
                let is_over = version.stamp.wall_ms() < oldest && entry.expires().is_none_or(|expires| expires.is_over(expired));
                at_once || is_over && vector.covers(version) && table.all_cover(version)
            };
            entries += replica.store.shard_len(self.shard);
            collected.extend(replica.store.collect(self.shard, may_go));
            self.shard = (self.shard + 1) % replica.store.shards_len();
            if entries >= ENTRIES_PER_STEP {
                break;
            }
        }
        for tombstone in &collected {
            table.horizon.advance(tombstone.version().origin, tombstone.version().stamp);
        }
        if !collected.is_empty() {
            replica.persistence.record_removed(&collected, &table.horizon);
        }
        table.collected += collected.len() as u64;
        collected.len()
    }

    fn spend(&mut self, replica: &Replica, now: Now) {
        let Some(clocks) = replica.peers.table().majority_clocks_ms(replica.config.majority(), now) else { return };
        let upto_ms = clocks.saturating_sub(replica.config.clock_offset_max.as_millis() as u64);
        let mut spent = 0;
        for _ in 0..replica.store.shards_len() {
            spent += replica.store.expire_values(self.spending, upto_ms);
            self.spending = (self.spending + 1) % replica.store.shards_len();
            if spent >= SPENT_PER_STEP {
                break;
            }
        }
        replica.expired.fetch_add(spent as u64, Ordering::Relaxed);
    }
}
