//! Dumps that this node serves: to a peer, to a client, and to its own disk.

use crate::data::version::VersionVector;
use crate::replication::replica::Replica;
use crate::replication::sync::scan::DumpScan;
use crate::wire::dump::{DumpKind, Header};
use crate::wire::peer::DumpRequest;

/// Begins to serve a peer's request. It chooses full or delta by the asker's vector, notes vector
/// and GC horizon, and stops the tombstone GC until the result is dropped: in one step under the
/// peer table's lock (I6).
pub fn serve(replica: &Replica, request: DumpRequest) -> Serving<'_> {
    let mut table = replica.peers.table();
    table.serving += 1;
    let full = !request.vector.covers_all(&table.horizon);
    let kind = match (request.heal, full) {
        // Below the GC horizon absence must be proof, which a heal dump is not.
        (_, true) => DumpKind::Full,
        (true, false) => DumpKind::Heal,
        (false, false) => DumpKind::Delta,
    };
    let header = Header::new(kind, replica.origin, replica.vector(), replica.store.len(), Some(request.id));
    let asker = if kind == DumpKind::Delta { request.vector } else { VersionVector::default() };
    Serving { replica, scan: DumpScan::new(header, asker, table.horizon.clone()), beside_gc: None }
}

/// Begins to serve a client's `DUMP`, which holds everything. A client may take its time, so the
/// tombstone GC goes on meanwhile. That is safe: in a full dump the absence of a key is proof,
/// whether its tombstone was there when the dump began or not. The end line has the GC horizon of
/// the end, as far as the header's vector covers it.
pub fn dump(replica: &Replica) -> Serving<'_> {
    let table = replica.peers.table();
    let vector = replica.vector();
    let header = Header::new(DumpKind::Full, replica.origin, vector.clone(), replica.store.len(), None);
    let scan = DumpScan::new(header, VersionVector::default(), table.horizon.clone());
    Serving { replica, scan, beside_gc: Some(vector) }
}

/// A dump being served. The tombstone GC rests until it is dropped, unless it is a client's.
pub struct Serving<'a> {
    replica: &'a Replica,
    scan: DumpScan,
    /// The header's vector, if the tombstone GC goes on meanwhile.
    beside_gc: Option<VersionVector>,
}

impl<'a> Serving<'a> {
    /// Wraps a scan. Called where `serving` was counted, under the same lock.
    pub(in crate::replication) fn new(replica: &'a Replica, scan: DumpScan) -> Serving<'a> {
        Serving { replica, scan, beside_gc: None }
    }

    /// Appends about `len` bytes of whole lines. Returns whether there are more.
    pub fn write(&mut self, len: usize, out: &mut Vec<u8>) -> bool {
        if let Some(vector) = &self.beside_gc {
            let horizon = self.replica.peers.table().horizon.clone();
            self.scan.set_horizon(horizon.iter().map(|(origin, stamp)| (origin, stamp.min(vector.get(origin)))).collect());
        }
        self.scan.write(&self.replica.store, len, out)
    }

    /// Entries written so far.
    pub fn count(&self) -> u64 {
        self.scan.count()
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if self.beside_gc.is_none() {
            self.replica.peers.table().serving -= 1;
        }
    }
}
