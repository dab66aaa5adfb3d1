//! The tombstone collector.
//!
//! **I6**: a tombstone goes only when every configured member is proven to cover it, when it is older than `tombstone_age_min`, and while no dump is served or taken
//! and all members that are up agree on who the members are. What was collected is remembered as the *horizon*: a node below it is given a full dump, in which
//! absence is proof.

use crate::clock::Now;
use crate::entry::Version;
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
        let mut collected = Vec::new();
        for _ in 0..SHARDS_PER_STEP {
            let may_go = |version: Version| version.stamp.wall_ms() < oldest && vector.covers(version) && control.all_cover(version);
            collected.extend(mesh.store.collect(self.shard, may_go));
            self.shard = (self.shard + 1) % mesh.store.shards_len();
        }
        for tombstone in &collected {
            control.horizon.advance(tombstone.version.origin, tombstone.version.stamp);
        }
        if !collected.is_empty() {
            mesh.record_removed(&collected, &control.horizon);
        }
        control.collected += collected.len() as u64;
        collected.len()
    }
}
