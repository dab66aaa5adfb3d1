//! Stamps ahead of the wall clock: first those of one node, and soon those of all. Then only what
//! nodes receive from each other orders their writes, and no longer the one clock of this machine.
//!
//! It is done as a user could: a backup of the node is restored into it, with one more entry whose
//! stamp is some seconds in the future.

use std::io;
use std::time::Duration;

use kvmesh::data::clock::{Stamp, wall_ms};
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{NodeId, Origin, Version};

use crate::checks::NodeDump;
use crate::keys::{Group, Key};
use crate::kit::backup::backup;
use crate::nodes::NodeHandle;
use crate::survey;

/// Far above what it takes. Who gives up earlier finds the restore still running.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// Pushes the clock of a node ahead. An error is the refusal of the node.
pub fn push(node: &NodeHandle, ahead: Duration) -> Result<(), String> {
    // Begun before the backup is made, so that tombstone GC pauses meanwhile: a node takes no
    // backup that is older than its GC horizon.
    survey::restore(node, RESTORE_TIMEOUT, || {
        let dump = survey::dump(node).map_err(io::Error::other)?;
        Ok(with_one_more(dump, node.id, Stamp::from_wall_ms(wall_ms() + ahead.as_millis() as u64)))
    })
}

/// The backup with one more entry, of this stamp, by an incarnation of the node that never ran.
fn with_one_more(dump: NodeDump, node: u16, stamp: Stamp) -> Vec<u8> {
    let origin = Origin { node: NodeId(node), nonce: fastrand::u64(..) };
    let key = Key { group: Group::Ahead, owner: node, number: origin.nonce as u32 };
    let entry = Entry::new(key.to_string().as_bytes(), Some(key.value(1).as_bytes()), None, Version { stamp, origin });
    backup(dump.vector, dump.entries.into_values().chain([entry]).collect())
}
