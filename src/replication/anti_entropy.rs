//! The anti-entropy check: finds out whether two nodes have diverged.
//!
//! Two nodes with equal version vectors that stand still must hold equal data. When a node's vector
//! has not changed for two heartbeats, its data is quiescent, and its heartbeats carry a digest of
//! it. A peer that finds another digest at an equal vector raises the alarm
//! ([`inbound`](super::inbound)). What is about to expire is left out, since clocks differ: what
//! they compare must exist for both. Reads the store a few shards at a time, and holds no other
//! lock meanwhile.

use crate::data::clock::Now;
use crate::data::version::VersionVector;
use crate::replication::peers::table::QuiescentState;
use crate::replication::replica::Replica;
use crate::store::{Digest, Walk};

/// Heartbeats without a change after which the data counts as quiescent.
const HEARTBEATS: u32 = 2;

/// Entries that expire within this are not compared, and will soon need no comparison. From time to
/// time the digest is taken anew, for another span of this length. The span is so long that nodes
/// whose clocks differ nearly always take the same one.
const SPAN_MS: u64 = 600_000;

/// Entries that are read at one heartbeat, to within a shard: some 20 ms of the thread that the
/// next heartbeat waits for.
const ENTRIES_PER_STEP: usize = 100_000;

/// The check of one node's data, and how far its digest is.
#[derive(Default)]
pub struct AntiEntropy {
    vector: VersionVector,
    heartbeats: u32,
    /// Held while a digest is being taken.
    walk: Option<Walk>,
    shard: usize,
    digest: Digest,
    before_ms: u64,
}

impl AntiEntropy {
    /// Takes one step. Called at every heartbeat.
    pub fn step(&mut self, replica: &Replica, now: Now) {
        let vector = replica.vector();
        // Later than any member's clock, as far as they may differ.
        let soon = now.wall_ms.saturating_add(2 * replica.config.clock_offset_max.as_millis() as u64);
        let before_ms = soon.next_multiple_of(SPAN_MS);
        let (moving, is_digested) = {
            let table = replica.peers.table();
            (table.is_moving(), table.quiescent.as_ref().is_some_and(|state| state.before_ms == before_ms))
        };
        if moving || vector != self.vector {
            *self = AntiEntropy { vector, ..AntiEntropy::default() };
            replica.peers.table().quiescent = None;
            return;
        }
        self.heartbeats += 1;
        if is_digested || self.heartbeats < HEARTBEATS {
            return;
        }
        if self.before_ms != before_ms {
            (self.before_ms, self.shard, self.digest) = (before_ms, 0, Digest::default());
        }
        self.walk.get_or_insert_with(|| replica.store.walk());
        let mut read = 0;
        while read < ENTRIES_PER_STEP {
            read += replica.store.shard_len(self.shard);
            self.digest.join(replica.store.digest_shard(self.shard, before_ms));
            self.shard += 1;
            if self.shard == replica.store.shards_len() {
                let digest = std::mem::take(&mut self.digest);
                (self.shard, self.walk) = (0, None);
                let mut table = replica.peers.table();
                // A write that came while this was read is in some shards and not in others.
                if !table.is_moving() && replica.vector() == self.vector {
                    table.quiescent = Some(QuiescentState { vector: self.vector.clone(), digest, before_ms });
                }
                return;
            }
        }
    }
}
