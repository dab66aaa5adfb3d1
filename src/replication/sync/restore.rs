//! Taking a dump from a client: `RESTORE`.
//!
//! A restored dump is a peer's full dump that comes from a file: the same doors, the same proofs (incoming.rs). What is its own is what is asked first, since nobody answers for what a client says.
//! Before anything is merged: whether the backup has seen every delete that was collected here (**I6**), how many incarnations it names, and how far ahead its stamps are. Before anything is claimed: which
//! of its incarnations are known here, or named by its entries; and whether it may say what is deleted. A restore that is given up half-way keeps what was merged, which is always right, and claims nothing.
//! Peers come first: what they have is asked for while a restore goes on. Never reads a socket or a file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::folding;
use crate::replication::peers::events::names;
use crate::replication::peers::table::PeerTable;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::status;
use crate::replication::sync::receiver;
use crate::replication::sync::receiver::Incoming;
use crate::wire::dump::{self, DumpKind, EndLine, Header};

/// Bytes of lines that are merged before the log gets them.
const UNLOGGED_MAX: usize = 1 << 20;

/// A disk that takes none of them for this long ends the restore.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// A restore that is under way. While it lives no other one begins, and the collector rests.
pub struct Restore<'a> {
    replica: &'a Replica,
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
    /// The backup says that keys of this node are deleted, and does not prove it.
    Unproven(String),
    /// No dump, or not a good one.
    Bad(String),
}

impl From<String> for NotRestored {
    fn from(wrong: String) -> NotRestored {
        NotRestored::Bad(wrong)
    }
}

/// Begins a restore, and stops the collector until the result is dropped.
pub fn begin_restore(replica: &Replica, now: Now) -> Result<Restore<'_>, NotRestored> {
    if !replica.is_open() {
        return Err(NotRestored::Loading(status::loading(replica, now)));
    }
    status::writable(replica).map_err(NotRestored::ReadOnly)?;
    let mut table = replica.peers.table();
    if let Some(transfer) = table.transfer() {
        let peer = names(&[table.peers[transfer.peer].id]);
        return Err(NotRestored::Busy(format!("this node is taking a dump from {peer}")));
    }
    if table.restoring {
        return Err(NotRestored::Busy("another restore is running on this node".to_owned()));
    }
    table.restoring = true;
    Ok(Restore { replica, dump: None, unlogged: Vec::new(), merged: 0, started: now.elapsed })
}

impl Restore<'_> {
    /// The first line. Nothing has been merged when it is refused.
    pub fn begin(&mut self, header: Header, now: Now) -> Result<(), NotRestored> {
        if self.dump.is_some() {
            return Err(NotRestored::Bad("a dump within a dump".to_owned()));
        }
        if header.kind != DumpKind::Full {
            return Err(NotRestored::Bad("this is a part of a node's data and not all of it; expected a dump of kind full".to_owned()));
        }
        {
            let table = self.replica.peers.table();
            check_horizon(&table, &header)?;
            let known = known(self.replica, &table);
            check_incarnations(self.replica, &known.vector, &header.vector)?;
        }
        self.dump = Some(Incoming::begin(self.replica, header, true, now)?);
        Ok(())
    }

    /// The next entry.
    pub fn take(&mut self, entry: Entry, now: Now) -> Result<(), NotRestored> {
        let dump = self.dump.as_mut().ok_or_else(|| "an entry where the header of a dump should be".to_owned())?;
        let before = self.unlogged.len();
        dump::write_entry(&mut self.unlogged, &entry);
        match dump.take(self.replica, entry, now) {
            Ok(is_kept) => self.merged += u64::from(is_kept),
            Err(wrong) => {
                self.unlogged.truncate(before);
                return Err(wrong.into());
            }
        }
        if self.unlogged.len() >= UNLOGGED_MAX { self.settle() } else { Ok(()) }
    }

    /// To be called when no entry is at hand: the log gets what was merged, once it has room.
    pub fn settle(&mut self) -> Result<(), NotRestored> {
        if !self.unlogged.is_empty() {
            let lines = std::mem::take(&mut self.unlogged);
            let room = self.replica.persistence().await_room(lines.len(), Instant::now() + ROOM_WAIT).map_err(NotRestored::Busy)?;
            self.replica.persistence.record(Arc::new(record::lines(&lines)), None, room);
        }
        Ok(())
    }

    /// Entries that came so far.
    pub fn count(&self) -> u64 {
        self.dump.as_ref().map_or(0, Incoming::count)
    }

    /// The end line: the drops, the horizon, and only then the vector, from which the other members see that they lack something.
    pub fn end(mut self, end: &EndLine, now: Now) -> Result<Restored, NotRestored> {
        let (node, restored) = self.prove(end, now)?;
        self.replica.persistence.await_durable().map_err(NotRestored::ReadOnly)?;
        if let Some(more) = self.replica.said.admit("restored", 0, now.elapsed) {
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
    pub fn prove(&mut self, end: &EndLine, now: Now) -> Result<(NodeId, Restored), NotRestored> {
        self.settle()?;
        let dump = self.dump.take().ok_or_else(|| "an end line where the header of a dump should be".to_owned())?;
        dump.check(end)?;
        let Judged { proven, unseen, present, may_drop } = judge(self.replica, &dump, end, now)?;
        // What the dump has proved deleted: what a delete took away that was collected elsewhere, and that this node has not seen.
        let is_deleted = |entry: &Entry| {
            let Version { stamp, origin } = entry.version();
            stamp < unseen && !present.contains(&origin) && dump.lacks(entry)
        };
        let shards = || 0..if unseen == Stamp::ZERO { 0 } else { self.replica.store.shards_len() };
        if !may_drop {
            let deleted: usize = shards().map(|shard| self.replica.store.scan_shard(shard, is_deleted).len()).sum();
            if deleted > 0 {
                return Err(NotRestored::Unproven(format!(
                    "this backup says that {deleted} keys of this node are deleted, and what the members know of is not all in it, so it is not for it to say"
                )));
            }
        }
        let drop_deleted = || shards().flat_map(|shard| self.replica.store.remove(shard, is_deleted)).collect::<Vec<Entry>>();
        let dropped = drop_deleted();
        receiver::join_proven(self.replica, &mut self.replica.peers.table(), &mut self.replica.coverage.advance(), proven, &dropped, None);
        // As when a peer sends it: a live batch may have brought back what is gone before the vector was joined.
        let late = drop_deleted();
        self.replica.persistence.record_dropped(&late);
        let dropped = dropped.len() + late.len();
        self.replica.links.beat();
        let restored = Restored { entries: dump.count(), merged: self.merged, dropped };
        Ok((dump.header().node, restored))
    }
}

/// What a dump may claim.
struct Judged {
    proven: Proven,
    /// The greatest delete that was collected elsewhere and that this node has not seen.
    unseen: Stamp,
    /// Lives whose own word alone counts.
    present: Vec<Origin>,
    may_drop: bool,
}

/// What the members know, as far as this node has heard.
struct Known {
    vector: VersionVector,
    /// The incarnations that they live.
    present: Vec<Origin>,
}

fn check_horizon(table: &PeerTable, header: &Header) -> Result<(), NotRestored> {
    let unseen = table.horizon.ahead_of(&header.vector);
    if unseen.is_empty() {
        return Ok(());
    }
    let nodes: BTreeSet<_> = unseen.iter().map(|(origin, _)| origin.node).collect();
    let nodes = Vec::from_iter(nodes);
    Err(NotRestored::Stale(format!(
        "this backup is older than the horizon: it has not seen deletes made by {} that all members have since seen and forgotten, so it could bring \
         deleted keys back",
        names(&nodes)
    )))
}

fn known(replica: &Replica, table: &PeerTable) -> Known {
    let mut vector = replica.vector();
    table.peers.iter().for_each(|peer| vector.join(&peer.vector));
    let present = table.peers.iter().filter_map(|peer| peer.origin).chain([replica.origin]).collect();
    Known { vector, present }
}

/// Incarnations that a restore would add. Where something is known already three quarters of what a vector may name are left to restores through other nodes at the same time, and to
/// the starts of nodes.
fn check_incarnations(replica: &Replica, known: &VersionVector, said: &VersionVector) -> Result<(), NotRestored> {
    let incarnations_max = if known.is_empty() { replica.config.incarnations_max } else { replica.config.incarnations_max / 4 };
    let added = said.ahead_of(known).iter().filter(|(origin, _)| !known.names(*origin)).count();
    if added > 0 && known.len() + added > incarnations_max {
        return Err(NotRestored::Bad(format!(
            "it names {added} lives of nodes that this cluster has not heard of, and with those that it has no more than {incarnations_max} are taken; \
             kvctl restore --as-new-writes writes its keys anew"
        )));
    }
    Ok(())
}

/// What a restored dump may claim, of all that it says. Nothing of an incarnation that a member lives now, whose own batches say it. A later state of this cluster, and any where nobody knows of an incarnation, is
/// believed in everything else; of another one an incarnation counts only as far as it is here or an entry goes, and nothing of what was deleted. What it says of all incarnations of a node is believed only
/// where all members are up and nobody knows of an incarnation, for it covers those that are lived now, too; else each incarnation counts as far as an entry goes.
fn judge(replica: &Replica, dump: &Incoming, end: &EndLine, now: Now) -> Result<Judged, NotRestored> {
    let table = replica.peers.table();
    // A peer's dump may have moved it meanwhile.
    check_horizon(&table, dump.header())?;
    let (known, own) = (known(replica, &table), replica.vector());
    let said = &dump.header().vector;
    let is_present = |origin: &Origin| known.present.contains(origin);
    let past: VersionVector = known.vector.iter().filter(|(origin, _)| !is_present(origin)).collect();
    let is_later = !past.is_empty() && said.covers_all(&past) && replica.config.members().contains(&dump.header().node);
    let may_drop = is_later || known.vector.is_empty();
    let is_blank = known.vector.is_empty() && table.peers.iter().all(|peer| peer.is_up());
    let is_believed =
        |(origin, stamp): &(Origin, Stamp)| !origin.is_all_incarnations() || is_blank && folding::is_settled(replica, *stamp, now);
    let (believed, rest): (Vec<_>, Vec<_>) = said.iter().filter(|(origin, _)| !is_present(origin)).partition(is_believed);
    let claim = |(origin, stamp): (Origin, Stamp)| (origin, if may_drop { stamp } else { stamp.min(own.get(origin)) });
    let mut vector: VersionVector = believed.into_iter().map(claim).collect();
    if !may_drop || !rest.is_empty() {
        let named = dump.named().ok_or_else(|| "its entries are of more lives of nodes than are taken".to_owned())?;
        vector.join(
            &named
                .iter()
                .filter(|(incarnation, _)| !is_present(incarnation))
                .map(|(incarnation, last)| (*incarnation, said.get(*incarnation).min(*last)))
                .collect(),
        );
    }
    check_incarnations(replica, &known.vector, &vector)?;
    let mut covered = own.clone();
    covered.join(&vector);
    let horizon: VersionVector = end.horizon.iter().filter(|(origin, stamp)| covered.get(*origin) >= *stamp).collect();
    let unseen = horizon.ahead_of(&own).greatest();
    let horizon = if may_drop { horizon } else { VersionVector::default() };
    Ok(Judged { proven: Proven { vector, horizon }, unseen, present: known.present, may_drop })
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // What was merged stays, also where the dump breaks off.
        if !self.unlogged.is_empty() {
            self.replica.persistence.record(Arc::new(record::lines(&self.unlogged)), None, None);
        }
        let mut table = self.replica.peers.table();
        table.restoring = false;
        // Data may have changed without moving the vector: look again before comparing.
        table.quiescent = None;
    }
}

#[cfg(test)]
mod tests;
