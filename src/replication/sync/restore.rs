//! `RESTORE`: taking a dump from a client.
//!
//! A restored dump is a full dump that comes from a file instead of a peer. Entries enter and
//! proofs apply as with a peer's ([`receiver`]). What is special is what is checked first, since no
//! member answers for what a client sends.
//!
//! Before anything is merged: whether the backup covers every delete that was collected here
//! (**I6**), how many incarnations it names, and how far ahead its stamps are. Before anything is
//! claimed: which of its incarnations are known here, or named by its entries, and whether it may
//! prove deletes.
//!
//! A restore that is given up half-way keeps what was merged, which is always right, and claims
//! nothing. Peers come first: their writes are requested while a restore goes on. Never reads a
//! socket or a file.

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
use crate::replication::sync::receiver::{self, DumpReceiver};
use crate::wire::dump::{self, DumpKind, EndLine, Header};

/// Bytes of lines that are merged before the log gets them.
const UNLOGGED_MAX: usize = 1 << 20;

/// Longest wait for the log to take lines. A disk that takes none for this long ends the restore.
const PERMIT_WAIT: Duration = Duration::from_secs(10);

/// A restore under way. Until it is dropped no other one begins, and the tombstone GC rests.
pub struct Restore<'a> {
    replica: &'a Replica,
    /// `None` before the header.
    dump: Option<DumpReceiver>,
    /// Lines of entries that were merged and are not yet in the log.
    unlogged: Vec<u8>,
    merged: u64,
    started: Duration,
}

/// The result of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Entries in the dump.
    pub entries: u64,
    /// Entries of the dump that are the newest of their keys here now.
    pub merged: u64,
    /// Entries of this node that the dump proved deleted.
    pub dropped: usize,
}

/// Why a restore was refused or broken off, in a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRestored {
    /// This node has not caught up.
    Loading(String),
    /// The disk has failed.
    ReadOnly(String),
    /// Another dump is being taken, or the disk is too slow.
    Busy(String),
    /// The backup is older than the GC horizon.
    Stale(String),
    /// The backup claims that keys of this node are deleted, and does not prove it.
    Unproven(String),
    /// It is no dump, or a malformed one.
    Bad(String),
}

impl From<String> for NotRestored {
    fn from(wrong: String) -> NotRestored {
        NotRestored::Bad(wrong)
    }
}

/// Begins a restore, and stops the tombstone GC until the result is dropped.
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
    /// Takes the header. If it is refused, nothing has been merged.
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
        self.dump = Some(DumpReceiver::begin(self.replica, header, true, now)?);
        Ok(())
    }

    /// Takes the next entry.
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
        if self.unlogged.len() >= UNLOGGED_MAX { self.log_merged() } else { Ok(()) }
    }

    /// Hands to the log what was merged, once the log has room. Called when no entry is at hand.
    pub fn log_merged(&mut self) -> Result<(), NotRestored> {
        if !self.unlogged.is_empty() {
            let lines = std::mem::take(&mut self.unlogged);
            let permit = self.replica.persistence().await_permit(lines.len(), Instant::now() + PERMIT_WAIT).map_err(NotRestored::Busy)?;
            self.replica.persistence.record(Arc::new(record::lines(&lines)), permit);
        }
        Ok(())
    }

    /// Entries that came so far.
    pub fn count(&self) -> u64 {
        self.dump.as_ref().map_or(0, DumpReceiver::count)
    }

    /// Takes the end line: the drops, the GC horizon, and only then the vector, from which the
    /// other members see that they lack something. Returns once all of it is durable.
    pub fn end(mut self, end: &EndLine, now: Now) -> Result<Restored, NotRestored> {
        let (node, restored) = self.prove(end, now)?;
        self.replica.persistence.await_durable().map_err(NotRestored::ReadOnly)?;
        if let Some(more) = self.replica.log_limit.admit("restored", 0, now.elapsed) {
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

    /// As [`Restore::end`], without waiting until it is durable.
    pub fn prove(&mut self, end: &EndLine, now: Now) -> Result<(NodeId, Restored), NotRestored> {
        self.log_merged()?;
        let dump = self.dump.take().ok_or_else(|| "an end line where the header of a dump should be".to_owned())?;
        dump.check(end)?;
        let Claims { proven, unseen, present, may_drop } = assess(self.replica, &dump, end, now)?;
        // An entry that the dump has proven deleted: the delete was collected elsewhere, and this
        // node does not have it.
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
        let due = receiver::join_proven(
            self.replica,
            &mut self.replica.peers.table(),
            &mut self.replica.coverage.advance(),
            proven,
            record::removed(&dropped),
            None,
        );
        drop(due);
        // As with a peer's dump: a live batch may have brought back what is gone before the vector
        // was joined.
        let late = drop_deleted();
        self.replica.persistence.record_dropped(&late);
        let dropped = dropped.len() + late.len();
        self.replica.links.heartbeat();
        let restored = Restored { entries: dump.count(), merged: self.merged, dropped };
        Ok((dump.header().node, restored))
    }
}

/// The claims of a restored dump that are accepted.
struct Claims {
    proven: Proven,
    /// The stamp of the last delete that was collected elsewhere and is not known here.
    unseen: Stamp,
    /// Present incarnations of the members: of these only their own batches prove anything.
    present: Vec<Origin>,
    may_drop: bool,
}

/// The members' knowledge, as far as this node has received it.
struct Known {
    vector: VersionVector,
    /// The present incarnations of the members.
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
        "this backup is older than the GC horizon: it does not cover deletes made by {} that all members have since received and forgotten, so it could bring \
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

/// Refuses a restore that would add too many incarnations. Where something is known already, the
/// restore may fill a quarter of what a vector may name. The rest is left to restores through other
/// nodes at the same time, and to the starts of nodes.
fn check_incarnations(replica: &Replica, known: &VersionVector, claimed: &VersionVector) -> Result<(), NotRestored> {
    let incarnations_max = if known.is_empty() { replica.config.incarnations_max } else { replica.config.incarnations_max / 4 };
    let added = claimed.ahead_of(known).iter().filter(|(origin, _)| !known.names(*origin)).count();
    if added > 0 && known.len() + added > incarnations_max {
        return Err(NotRestored::Bad(format!(
            "it names {added} incarnations of nodes that this cluster does not know, and with those that it knows no more than {incarnations_max} are taken; \
             kvctl restore --as-new-writes writes its keys anew"
        )));
    }
    Ok(())
}

/// Decides which claims of a restored dump are accepted.
///
/// A dump is *believed* if it is a later state of this cluster, or if no incarnation is known here.
///
/// - The present incarnation of a member: no claim. Its own batches prove what is here.
/// - All incarnations of a node: only if all members are up, no incarnation is known, and the stamp
///   is old enough. The claim covers the present ones, too. Otherwise each incarnation counts as
///   far as an entry goes.
/// - Everything else of a dump that is believed: as it is claimed, deletes included.
/// - Everything else of any other dump: an incarnation counts only as far as it is here or an entry
///   goes, and no delete counts.
fn assess(replica: &Replica, dump: &DumpReceiver, end: &EndLine, now: Now) -> Result<Claims, NotRestored> {
    let table = replica.peers.table();
    // A peer's dump may have moved the GC horizon meanwhile.
    check_horizon(&table, dump.header())?;
    let (known, own) = (known(replica, &table), replica.vector());
    let claimed = &dump.header().vector;
    let is_present = |origin: &Origin| known.present.contains(origin);
    let past: VersionVector = known.vector.iter().filter(|(origin, _)| !is_present(origin)).collect();
    let is_later = !past.is_empty() && claimed.covers_all(&past) && replica.config.members().contains(&dump.header().node);
    let may_drop = is_later || known.vector.is_empty();
    let is_blank = known.vector.is_empty() && table.peers.iter().all(|peer| peer.is_up());
    let is_believed =
        |(origin, stamp): &(Origin, Stamp)| !origin.is_all_incarnations() || is_blank && folding::is_settled(replica, *stamp, now);
    let (believed, rest): (Vec<_>, Vec<_>) = claimed.iter().filter(|(origin, _)| !is_present(origin)).partition(is_believed);
    let claim = |(origin, stamp): (Origin, Stamp)| (origin, if may_drop { stamp } else { stamp.min(own.get(origin)) });
    let mut vector: VersionVector = believed.into_iter().map(claim).collect();
    if !may_drop || !rest.is_empty() {
        let named = dump.named().ok_or_else(|| "its entries are of more incarnations of nodes than are taken".to_owned())?;
        vector.join(
            &named
                .iter()
                .filter(|(incarnation, _)| !is_present(incarnation))
                .map(|(incarnation, last)| (*incarnation, claimed.get(*incarnation).min(*last)))
                .collect(),
        );
    }
    check_incarnations(replica, &known.vector, &vector)?;
    let mut covered = own.clone();
    covered.join(&vector);
    let horizon: VersionVector = end.horizon.iter().filter(|(origin, stamp)| covered.get(*origin) >= *stamp).collect();
    let unseen = horizon.ahead_of(&own).greatest();
    let horizon = if may_drop { horizon } else { VersionVector::default() };
    Ok(Claims { proven: Proven { vector, horizon }, unseen, present: known.present, may_drop })
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // What was merged stays, also where the dump breaks off.
        if !self.unlogged.is_empty() {
            self.replica.persistence.record(Arc::new(record::lines(&self.unlogged)), None);
        }
        let mut table = self.replica.peers.table();
        table.restoring = false;
        // The data may have changed without moving the vector: look again before comparing.
        table.quiescent = None;
    }
}

#[cfg(test)]
mod tests;
