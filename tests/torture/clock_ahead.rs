//! A node whose stamps run ahead of the wall clock, and soon those of all nodes: then only what they hear of each other orders their writes, and no longer the one
//! clock of this machine.
//!
//! It is done as a user could: a backup of the node is restored into it, with one entry more, the stamp of which is some seconds from now.

use std::io;
use std::time::Duration;

use kvmesh::data::clock::{Stamp, wall_ms};
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::store::Store;
use kvmesh::wire::dump::{DumpKind, Header, whole_dump};

use crate::checks::Dumped;
use crate::keys::{Group, Key};
use crate::nodes::Place;
use crate::survey;

const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

/// An error is the node's refusal.
pub fn push(place: &Place, ahead: Duration) -> Result<(), String> {
    // Begun before the backup is made, so that the collector rests meanwhile: a node takes no
    // backup that is older than what it has forgotten.
    survey::restore(place, RESTORE_TIMEOUT, || {
        let backup = survey::dump(place).map_err(io::Error::other)?;
        Ok(with_one_more(backup, place.id, Stamp::from_wall_ms(wall_ms() + ahead.as_millis() as u64)))
    })
}

/// The backup with an entry more, of this stamp, by an incarnation of the node that never was.
fn with_one_more(backup: Dumped, node: u16, stamp: Stamp) -> Vec<u8> {
    let origin = Origin { node: NodeId(node), nonce: fastrand::u64(..) };
    let key = Key { group: Group::Ahead, owner: node, number: origin.nonce as u32 };
    let store = Store::new();
    let entry = Entry::new(key.to_string().as_bytes(), Some(key.value(1).as_bytes()), None, Version { stamp, origin });
    let mut vector = backup.vector;
    vector.advance(origin, stamp);
    for entry in backup.entries.into_values().chain([entry]) {
        store.merge(entry, |_| false);
    }
    lines_of(&store, origin, vector)
}

/// A full dump of all this, as this donor would give it.
pub fn lines_of(store: &Store, donor: Origin, vector: VersionVector) -> Vec<u8> {
    let header = Header::new(DumpKind::Full, donor, vector, store.len(), None);
    let entries = (0..store.shards_len()).flat_map(|shard| store.scan_shard(shard, |_| true));
    whole_dump(&header, entries, VersionVector::default())
}
