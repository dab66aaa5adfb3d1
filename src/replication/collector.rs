//! The tombstone collector.
//!
//! **I6**: a tombstone goes only when every configured member is proven to cover it, when it is older than `tombstone_age_min`, and while no dump is served or taken
//! and all members that are up agree on who the members are. What was collected is remembered as the *horizon*: a node below it is given a full dump, in which
//! absence is proof.

use crate::clock::Now;
use crate::replication::mesh::Mesh;

/// Shards that are looked at in one step, under the collector's lock: a few milliseconds at ten million keys.
const SHARDS_PER_STEP: usize = 16;

/// Walks round the shards, some at every beat.
#[derive(Default)]
pub struct Collector {
    shard: usize,
}

impl Collector {
    /// Collects in the next few shards what may be collected; how many tombstones that were.
    pub fn step(&mut self, mesh: &Mesh, now: Now) -> usize {
        let mut control = mesh.control.lock();
        if !control.may_collect(&mesh.config.members()) {
            return 0;
        }
        let vector = mesh.vector();
        let oldest = now.wall_ms.saturating_sub(mesh.config.tombstone_age_min.as_millis() as u64);
        let mut collected = 0;
        for _ in 0..SHARDS_PER_STEP {
            let gone = mesh
                .store
                .collect(self.shard, |version| version.stamp.wall_ms() < oldest && vector.covers(version) && control.all_cover(version));
            for version in &gone {
                control.horizon.advance(version.origin, version.stamp);
            }
            collected += gone.len();
            self.shard = (self.shard + 1) % mesh.store.shards_len();
        }
        control.collected += collected as u64;
        collected
    }
}
