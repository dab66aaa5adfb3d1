//! Whether the data is at rest, and its digest then.
//!
//! Two nodes with equal, resting vectors must hold equal data. Each says the digest of its data on its beats once its vector has stood still; who finds another one at an
//! equal vector raises the alarm (see inbound.rs). What is about to expire is left out, since clocks differ: what they compare must be there for both. Reads the store a few shards at a time and never holds a lock of the mesh meanwhile.

use crate::data::clock::Now;
use crate::data::version::VersionVector;
use crate::replication::peers::table::QuiescentState;
use crate::replication::replica::Replica;
use crate::store::{Digest, Walk};

/// Beats without a change after which the data counts as resting.
const BEATS: u32 = 2;

/// What expires within this is not compared, and soon needs not be. From time to time the digest is taken anew, for another span of this length: long enough that nodes whose clocks differ take the
/// same one nearly always.
const SPAN_MS: u64 = 600_000;

/// Entries that are read at one beat, to within a shard: some 20 ms of the thread that the next beat waits for.
const ENTRIES_PER_STEP: usize = 100_000;

/// The watch over one node's data.
#[derive(Default)]
pub struct AntiEntropy {
    vector: VersionVector,
    beats: u32,
    /// While a digest is being taken.
    walk: Option<Walk>,
    shard: usize,
    digest: Digest,
    before_ms: u64,
}

impl AntiEntropy {
    /// Called at every beat.
    pub fn step(&mut self, replica: &Replica, now: Now) {
        let vector = replica.vector();
        // Later than any member's clock, as far as they may differ.
        let soon = now.wall_ms.saturating_add(2 * replica.config.clock_offset_max.as_millis() as u64);
        let before_ms = soon.next_multiple_of(SPAN_MS);
        let (moving, settled) = {
            let table = replica.peers.table();
            (table.is_moving(), table.quiescent.as_ref().is_some_and(|settled| settled.before_ms == before_ms))
        };
        if moving || vector != self.vector {
            *self = AntiEntropy { vector, ..AntiEntropy::default() };
            replica.peers.table().quiescent = None;
            return;
        }
        self.beats += 1;
        if settled || self.beats < BEATS {
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
