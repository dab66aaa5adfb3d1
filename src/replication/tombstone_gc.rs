//! Tombstone GC: collects tombstones, and frees the memory of expired values.
//!
//! No node deletes what has expired, for no node's clock may decide over another's write. That a
//! write has expired is part of the write, and every reader knows it. What is left to do is to free
//! memory. A value is freed when a majority of the members is up, and the clocks of all that are up
//! agree that it has expired, by more than clocks may be apart. What is left is a tombstone in
//! place, under the same version.
//!
//! **I6**: a tombstone is collected only when all of this holds.
//!
//! - Every configured member is proven to cover it. What a peer reports is proof while the peer is
//!   up, as far as it is on the peer's disk, and if it was reported after the last HELLO of any
//!   peer ([`peers`](crate::replication::peers)).
//! - It is older than `tombstone_age_min`.
//! - No dump is served to a peer or taken, and no snapshot is written.
//! - All members that are up agree on who the members are.
//! - If it has an expiry, that is over by the clock of every member, as the member itself reports
//!   it, and by `tombstone_age_min` on top.
//!
//! What was collected is remembered as the *GC horizon*: a node below it is given a full dump, in
//! which absence is proof.

use std::sync::atomic::Ordering;

use crate::data::clock::Now;
use crate::data::entry::Entry;
use crate::replication::replica::Replica;
use crate::testing::broken_rules::BrokenRule;

/// Shards that are looked at in one step, under the peer table's lock, for which acks wait.
const SHARDS_PER_STEP: usize = 16;
/// Entries after which no further shard is looked at in a step: some milliseconds.
const ENTRIES_PER_STEP: usize = 20_000;
/// Values that are freed in one step, to within a shard; the next heartbeat waits for them. With
/// the default heartbeat that is half a million a second.
const EXPIRED_PER_STEP: usize = 1 << 18;

/// Walks round the shards, some at every heartbeat.
#[derive(Default)]
pub struct TombstoneGc {
    /// The next shard in which tombstones are looked at.
    shard: usize,
    /// The next shard in which expired values are freed.
    expiring_shard: usize,
}

impl TombstoneGc {
    /// Frees expired values, and collects in the next few shards the tombstones that may be
    /// collected. Returns how many those were.
    pub fn step(&mut self, replica: &Replica, now: Now) -> usize {
        self.expire_values(replica, now);
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

    fn expire_values(&mut self, replica: &Replica, now: Now) {
        let Some(clocks) = replica.peers.table().majority_clocks_ms(replica.config.majority(), now) else { return };
        let upto_ms = clocks.saturating_sub(replica.config.clock_offset_max.as_millis() as u64);
        let mut freed = 0;
        for _ in 0..replica.store.shards_len() {
            freed += replica.store.expire_values(self.expiring_shard, upto_ms);
            self.expiring_shard = (self.expiring_shard + 1) % replica.store.shards_len();
            if freed >= EXPIRED_PER_STEP {
                break;
            }
        }
        replica.expired.fetch_add(freed as u64, Ordering::Relaxed);
    }
}
