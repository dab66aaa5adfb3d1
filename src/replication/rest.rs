//! Whether the data is at rest, and its digest then.
//!
//! Two nodes with equal, resting vectors must hold equal data. Each says the digest of its data on its beats once its vector has stood still; who finds another one at an
//! equal vector raises the alarm (see inbound.rs). Reads the store a few shards at a time and never holds a lock of the mesh meanwhile.

use crate::entry::SeenVector;
use crate::replication::mesh::Mesh;
use crate::store::Digest;

/// Beats without a change after which the data counts as resting.
const BEATS: u32 = 2;

/// Shards that are read at one beat.
const SHARDS_PER_STEP: usize = 64;

/// The watch over one node's data.
#[derive(Default)]
pub struct Rest {
    vector: SeenVector,
    beats: u32,
    shard: usize,
    digest: Digest,
}

impl Rest {
    /// Called at every beat.
    pub fn step(&mut self, mesh: &Mesh) {
        let vector = mesh.vector();
        let (moving, settled) = {
            let control = mesh.control.lock();
            (control.is_moving(), control.settled.is_some())
        };
        if moving || vector != self.vector {
            *self = Rest { vector, ..Rest::default() };
            mesh.control.lock().settled = None;
            return;
        }
        self.beats += 1;
        if settled || self.beats < BEATS {
            return;
        }
        for _ in 0..SHARDS_PER_STEP {
            self.digest.join(mesh.store.digest_shard(self.shard));
            self.shard += 1;
            if self.shard == mesh.store.shards_len() {
                let digest = std::mem::take(&mut self.digest);
                self.shard = 0;
                let mut control = mesh.control.lock();
                // A write that came while this was read is in some shards and not in others.
                if !control.is_moving() && mesh.vector() == self.vector {
                    control.settled = Some((self.vector.clone(), digest));
                }
                return;
            }
        }
    }
}
