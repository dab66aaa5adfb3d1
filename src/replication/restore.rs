//! Taking a dump from a client: `RESTORE`.
//!
//! A restored dump is a peer's full dump that comes from a file: the same doors, the same proofs (incoming.rs), and one dump at a time with the peers'. What is
//! its own is what must be asked before anything is merged: whether the backup has seen every delete that was collected here (**I6**). A restore that is given up
//! half-way keeps what was merged, which is always right, and claims nothing. Never reads a socket or a file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::dump::{self, End, Header, Kind};
use crate::entry::{Entry, NodeId};
use crate::replication::control::names;
use crate::replication::incoming::Incoming;
use crate::replication::mesh::Mesh;
use crate::replication::outbox::Outbox;
use crate::replication::record::{self, Proven};

/// Bytes of lines that are merged before the log gets them.
const UNLOGGED_MAX: usize = 1 << 20;

/// A disk that takes none of them for this long ends the restore.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// A restore that is under way. While it lives this node takes no other dump, and the collector rests.
pub struct Restore<'a> {
    mesh: &'a Mesh,
    /// None before the header.
    dump: Option<Incoming>,
    /// Merged, and not yet in the log.
    unlogged: Vec<u8>,
    merged: u64,
    started: Duration,
}

/// What a restore came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// In the dump.
    pub entries: u64,
    /// Of them, those that are the newest of their keys here now.
    pub merged: u64,
    /// Entries of this node that the dump proved deleted.
    pub dropped: usize,
}

/// Why a dump is not taken, or not any further. In words for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRestored {
    /// This node has not caught up.
    Loading(String),
    /// The disk has failed.
    ReadOnly(String),
    /// Another dump is being taken, or the disk is too slow.
    Busy(String),
    /// The backup is older than the horizon.
    Stale(String),
    /// No dump, or not a good one.
    Bad(String),
}

impl From<String> for NotRestored {
    fn from(wrong: String) -> NotRestored {
        NotRestored::Bad(wrong)
    }
}

impl Mesh {
    /// Begins a restore, and stops the collector and the requests for other dumps until the result is dropped.
    pub fn begin_restore(&self, now: Now) -> Result<Restore<'_>, NotRestored> {
        if !self.is_open() {
            return Err(NotRestored::Loading(self.loading(now)));
        }
        self.writable().map_err(NotRestored::ReadOnly)?;
        let mut control = self.control.lock();
        if let Some(taking) = &control.taking {
            let peer = names(&[control.peers[taking.peer].id]);
            return Err(NotRestored::Busy(format!("this node is taking a dump from {peer}")));
        }
        if control.restoring {
            return Err(NotRestored::Busy("another restore is running on this node".to_owned()));
        }
        control.restoring = true;
        Ok(Restore { mesh: self, dump: None, unlogged: Vec::new(), merged: 0, started: now.elapsed })
    }
}

impl Restore<'_> {
    /// The first line. Nothing has been merged when it is refused.
    pub fn begin(&mut self, header: Header, now: Now) -> Result<(), NotRestored> {
        if self.dump.is_some() {
            return Err(NotRestored::Bad("a dump within a dump".to_owned()));
        }
        if header.kind != Kind::Full {
            return Err(NotRestored::Bad("this is a part of a node's data and not all of it; expected a dump of kind full".to_owned()));
        }
        // It cannot move until the restore ends.
        let unseen = self.mesh.control.lock().horizon.ahead_of(&header.vector);
        if !unseen.is_empty() {
            let nodes: BTreeSet<_> = unseen.iter().map(|(origin, _)| origin.node).collect();
            let nodes = Vec::from_iter(nodes);
            return Err(NotRestored::Stale(format!(
                "this backup is older than the horizon: it has not seen deletes made by {} that all members have since seen and forgotten, so it \
                 could bring deleted keys back",
                names(&nodes)
            )));
        }
        self.dump = Some(Incoming::begin(self.mesh, header, now)?);
        Ok(())
    }

    /// The next entry.
    pub fn take(&mut self, entry: Entry, now: Now) -> Result<(), NotRestored> {
        let dump = self.dump.as_mut().ok_or_else(|| "an entry where the header of a dump should be".to_owned())?;
        dump::write_entry(&mut self.unlogged, &entry);
        self.merged += u64::from(dump.take(self.mesh, entry, now)?);
        if self.unlogged.len() >= UNLOGGED_MAX { self.settle() } else { Ok(()) }
    }

    /// To be called when no entry is at hand: the log gets what was merged, once it has room.
    pub fn settle(&mut self) -> Result<(), NotRestored> {
        if !self.unlogged.is_empty() {
            let lines = std::mem::take(&mut self.unlogged);
            let room = self.mesh.await_room(lines.len(), Instant::now() + ROOM_WAIT).map_err(NotRestored::Busy)?;
            self.mesh.record(Arc::new(record::lines(&lines)), None, room);
        }
        Ok(())
    }

    /// Entries that came so far.
    pub fn count(&self) -> u64 {
        self.dump.as_ref().map_or(0, Incoming::count)
    }

    /// The end line: the drops, the horizon, and only then the vector, from which the other members see that they lack something.
    pub fn end(mut self, end: &End, now: Now) -> Result<Restored, NotRestored> {
        let (node, restored) = self.prove(end)?;
        self.mesh.await_durable().map_err(NotRestored::ReadOnly)?;
        if let Some(more) = self.mesh.said.admit("restored", 0, now.elapsed) {
            log::info!(
                "restored a dump of node {node}: {} entries in {:.3} s, {} of them new here, {} dropped{more}",
                restored.entries,
                now.elapsed.saturating_sub(self.started).as_secs_f64(),
                restored.merged,
                restored.dropped
            );
        }
        Ok(restored)
    }

    /// All that the end line means, but for waiting until it is durable.
    pub fn prove(&mut self, end: &End) -> Result<(NodeId, Restored), NotRestored> {
        self.settle()?;
        let dump = self.dump.take().ok_or_else(|| "an end line where the header of a dump should be".to_owned())?;
        dump.check(end)?;
        let dropped = dump.drop_absent(self.mesh);
        let proven = Proven { vector: dump.header().vector.clone(), horizon: end.horizon.clone() };
        self.mesh.join_proven(&mut self.mesh.control.lock(), &mut self.mesh.seen.write(), proven, &dropped, None);
        let dropped = dropped.len() + dump.drop_late(self.mesh);
        self.mesh.outboxes.iter().for_each(Outbox::beat);
        let restored = Restored { entries: dump.count(), merged: self.merged, dropped };
        Ok((dump.header().node, restored))
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let mut control = self.mesh.control.lock();
        control.restoring = false;
        // Data may have changed without moving the vector: look again before comparing.
        control.settled = None;
    }
}

#[cfg(test)]
mod tests;
