//! A cluster whose nodes have been started often before the run, so that incarnations that are over are folded in it: a backup of such a one is restored first.

use std::time::Duration;

use kvmesh::data::clock::{Stamp, wall_ms};
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version, VersionVector};
use kvmesh::store::Store;

use crate::checks::Dumped;
use crate::clock_ahead;
use crate::keys::{Group, Key};
use crate::nodes::Place;
use crate::survey;

/// Of each node; in each it wrote one key. More than it goes on naming, and together no more than a cluster takes of a backup.
const LIVES: u32 = 120;
/// Places in a vector of each node that is left when they are folded: 64 lives and the present one, those of the run that are too young, and one place for the others.
pub const PLACES_LEFT: usize = 100;
const AGO: Duration = Duration::from_secs(3_600);
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// An error is the node's refusal.
pub fn restore(place: &Place, nodes: &[u16]) -> Result<(), String> {
    survey::restore(place, RESTORE_TIMEOUT, || Ok(backup(nodes)))
}

/// Keys of all those incarnations, which nobody writes or deletes.
pub fn keys_len(nodes: usize) -> usize {
    nodes * LIVES as usize
}

/// How many of them a node shows.
pub fn held(dump: &Dumped) -> usize {
    let is_past =
        |name: &[u8]| std::str::from_utf8(name).ok().and_then(|name| name.parse::<Key>().ok()).is_some_and(|key| key.group == Group::Past);
    dump.entries.values().filter(|entry| is_past(entry.key()) && !entry.is_tombstone()).count()
}

fn backup(nodes: &[u16]) -> Vec<u8> {
    let began_ms = wall_ms().saturating_sub(AGO.as_millis() as u64);
    let (store, mut vector) = (Store::new(), VersionVector::default());
    for (node, number) in nodes.iter().flat_map(|node| (1..=LIVES).map(|number| (*node, number))) {
        let origin = Origin { node: NodeId(node), nonce: number.into() };
        let version = Version { stamp: Stamp::from_wall_ms(began_ms + u64::from(number)), origin };
        let key = Key { group: Group::Past, owner: node, number };
        store.merge(Entry::new(key.to_string().as_bytes(), Some(key.value(1).as_bytes()), None, version), |_| false);
        vector.advance(origin, version.stamp);
    }
    clock_ahead::lines_of(&store, Origin { node: NodeId(nodes[0]), nonce: LIVES.into() }, vector)
}
