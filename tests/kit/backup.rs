//! Backups that no node has made, of entries that a test invents.

use std::time::Duration;

use kvmesh::data::clock::{Stamp, wall_ms};
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::wire::dump::{DumpKind, Header, whole_dump};

/// How long ago past incarnations were there.
const AGO: Duration = Duration::from_secs(3_600);

/// Makes a full dump of these entries, of which there is one at least. Its version vector covers
/// them, and what `vector` covers.
pub fn backup(mut vector: VersionVector, entries: Vec<Entry>) -> Vec<u8> {
    entries.iter().map(Entry::version).for_each(|version| vector.advance(version.origin, version.stamp));
    let donor = entries[entries.len() - 1].version().origin;
    let header = Header::new(DumpKind::Full, donor, vector, entries.len() as u64, None);
    whole_dump(&header, entries, VersionVector::default())
}

/// One write of each of so many past incarnations of each node, numbered from 1.
pub fn past_versions(nodes: &[u16], incarnations: u32) -> impl Iterator<Item = (u16, u32, Version)> {
    let began_ms = wall_ms().saturating_sub(AGO.as_millis() as u64);
    nodes.iter().flat_map(move |node| {
        (1..=incarnations).map(move |number| {
            let origin = Origin { node: NodeId(*node), nonce: number.into() };
            (*node, number, Version { stamp: Stamp::from_wall_ms(began_ms + u64::from(number)), origin })
        })
    })
}
