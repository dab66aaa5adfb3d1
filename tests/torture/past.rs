//! Past incarnations: a backup is restored first of a cluster whose nodes have been started many
//! times, so that the run has past incarnations to fold.

use std::time::Duration;

use kvmesh::data::entry::Entry;
use kvmesh::data::version::VersionVector;

use crate::checks::NodeDump;
use crate::keys::{Group, Key};
use crate::kit::backup::{backup, past_versions};
use crate::nodes::NodeHandle;
use crate::survey;

/// Past incarnations of each node. Each wrote one key. They are more than a node goes on naming,
/// and together no more than a cluster takes from a backup.
const INCARNATIONS: u32 = 120;
/// Entries that each node has in a version vector after folding, at most: 64 past incarnations and
/// the present one, those of the run that are too young, and one for all others.
pub const ENTRIES_LEFT: usize = 100;
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// Restores the backup through this node. An error is the refusal of the node.
pub fn restore(node: &NodeHandle, nodes: &[u16]) -> Result<(), String> {
    survey::restore(node, RESTORE_TIMEOUT, || Ok(past_backup(nodes)))
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

fn past_backup(nodes: &[u16]) -> Vec<u8> {
    let entries = past_versions(nodes, INCARNATIONS).map(|(owner, number, version)| {
        let key = Key { group: Group::Past, owner, number };
        Entry::new(key.to_string().as_bytes(), Some(key.value(1).as_bytes()), None, version)
    });
    backup(VersionVector::default(), entries.collect())
}
