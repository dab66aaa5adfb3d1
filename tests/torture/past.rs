//! Past incarnations: a backup is restored first of a cluster whose nodes have been started many
//! times, so that the run has past incarnations to fold.

use std::time::Duration;

use kvmesh::data::clock::{Stamp, wall_ms};
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::store::Store;

use crate::checks::NodeDump;
use crate::clock_ahead;
use crate::keys::{Group, Key};
use crate::nodes::NodeHandle;
use crate::survey;

/// Past incarnations of each node. Each wrote one key. They are more than a node goes on naming,
/// and together no more than a cluster takes from a backup.
const INCARNATIONS: u32 = 120;
/// Entries that each node has in a version vector after folding, at most: 64 past incarnations and
/// the present one, those of the run that are too young, and one for all others.
pub const ENTRIES_LEFT: usize = 100;
const AGO: Duration = Duration::from_secs(3_600);
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// Restores the backup through this node. An error is the refusal of the node.
pub fn restore(node: &NodeHandle, nodes: &[u16]) -> Result<(), String> {
    survey::restore(node, RESTORE_TIMEOUT, || Ok(backup(nodes)))
}

/// Number of keys of the past incarnations. No client writes or deletes one.
pub fn keys_len(nodes: usize) -> usize {
    nodes * INCARNATIONS as usize
}

/// Number of these keys in a dump.
pub fn held(dump: &NodeDump) -> usize {
    let is_past =
        |name: &[u8]| std::str::from_utf8(name).ok().and_then(|name| name.parse::<Key>().ok()).is_some_and(|key| key.group == Group::Past);
    dump.entries.values().filter(|entry| is_past(entry.key()) && !entry.is_tombstone()).count()
}

fn backup(nodes: &[u16]) -> Vec<u8> {
    let began_ms = wall_ms().saturating_sub(AGO.as_millis() as u64);
    let (store, mut vector) = (Store::new(), VersionVector::default());
    for (node, number) in nodes.iter().flat_map(|node| (1..=INCARNATIONS).map(|number| (*node, number))) {
        let origin = Origin { node: NodeId(node), nonce: number.into() };
        let version = Version { stamp: Stamp::from_wall_ms(began_ms + u64::from(number)), origin };
        let key = Key { group: Group::Past, owner: node, number };
        store.merge(Entry::new(key.to_string().as_bytes(), Some(key.value(1).as_bytes()), None, version), |_| false);
        vector.advance(origin, version.stamp);
    }
    clock_ahead::lines_of(&store, Origin { node: NodeId(nodes[0]), nonce: INCARNATIONS.into() }, vector)
}
