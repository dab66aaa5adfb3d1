//! Incarnations that are over, folded: what keeps vectors short.
//!
//! Every start that writes adds an incarnation to all vectors. Beyond `incarnations_kept` of them a node folds the oldest of its own into one place, that of [`Origin::all_incarnations`]: "all writes of this node up to this
//! stamp". For nodes that are no members, whose lives restored backups bring, the member with the least id does it.
//!
//! What it says must be true (**I1**), of incarnations that nobody remembers, too. So, before it is written, this node takes a dump of each member, one after another, and begins anew when any of them says
//! HELLO: then it has whatever a member has of those incarnations, and writes of an incarnation that ended half-way, which no vector covers, are among that. And only writes are covered that are older than what this
//! life itself has written, and than `tombstone_age_min` and twice what clocks may differ by: what is still under way is younger, and so is what an incarnation writes that nobody has heard of yet.
//!
//! The other members see that this node's vector is ahead, ask for a dump, and take the place over at its end line. What an older copy of a disk, or a node that nobody has heard since, alone holds of
//! that time is given up: it counts as seen. Where such a node returns, digests may differ, and healing bring it; below the horizon, it is dropped there, too. A build that knows of no place like this
//! would misread absence in a dump, so nothing is folded while a member speaks less than [`Protocol::FOLDED`], and none is met afterwards. A member that is away pins all of this. So there is an end: with
//! `incarnations_max` in the vector, a node that has not written yet does not begin to.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::data::clock::{Now, Stamp};
use crate::data::version::{NodeId, Origin, VersionVector};
use crate::replication::peers::events::names;
use crate::replication::peers::folding::Folding;
use crate::replication::peers::peer::Peer;
use crate::replication::peers::table::PeerTable;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::wire::peer::Protocol;

/// Whether many incarnations have been told of.
#[derive(Default)]
pub struct Folder {
    has_warned: bool,
}

impl Folder {
    /// Called at every beat.
    pub fn step(&mut self, replica: &Replica, now: Now) {
        let folded = fold(replica, now);
        if let Some((node, lives)) = folded {
            log::info!("folded {lives} lives of node {node} that are over into one");
        }
        let lives = incarnations_len(replica);
        let is_much = lives >= replica.config.incarnations_max / 2;
        if is_much && !self.has_warned {
            let waits = fold_help(replica);
            log::warn!(
                "the vector names {lives} lives of nodes; with {} a node that starts does not write. Those that are over are folded while all members are up: {waits}",
                replica.config.incarnations_max
            );
        }
        self.has_warned = is_much;
    }
}

/// Looks whether there is something to fold, and whether it can be done now. Returns whose incarnations were folded, and how many.
fn fold(replica: &Replica, now: Now) -> Option<(NodeId, usize)> {
    let mut table = replica.peers.table();
    if !table.may_collect(&replica.config.members()) {
        return None;
    }
    let vector = replica.vector();
    fold_horizon(replica, &mut table, &vector);
    let folding = table.folding.take();
    let Some(Folding { node, upto, .. }) = &folding else {
        table.folding = foldable(replica, &table, &vector, now);
        return None;
    };
    if !may_fold(replica, &table) {
        return None;
    }
    if !folding.as_ref().is_some_and(Folding::is_swept) {
        table.folding = folding;
        return None;
    }
    let lives = vector.incarnations(*node).filter(|(_, last)| last <= upto).count();
    let place: VersionVector = [(Origin::all_incarnations(*node), *upto)].into_iter().collect();
    let mut coverage = replica.coverage.advance();
    let proven = Proven { vector: place, horizon: VersionVector::default() };
    replica.persistence.record(Arc::new(record::proven(&proven)), None, None);
    coverage.proven(&proven.vector);
    Some((*node, lives))
}

/// Whether all members are up, and know what it means.
fn may_fold(replica: &Replica, table: &PeerTable) -> bool {
    replica.spoken_by(&table.peers) >= Protocol::FOLDED && table.peers.iter().all(|peer| peer.is_up())
}

/// Incarnations that are over, old, and enough to be worth the dumps.
fn foldable(replica: &Replica, table: &PeerTable, vector: &VersionVector, now: Now) -> Option<Folding> {
    if now.elapsed < table.fold_after || !may_fold(replica, table) {
        return None;
    }
    let (id, members) = (replica.config.id, replica.config.members());
    let is_mine = |node: &NodeId| *node == id || !members.contains(node) && members.first() == Some(&id);
    let nodes: BTreeSet<NodeId> = vector.iter().map(|(origin, _)| origin.node).filter(is_mine).collect();
    nodes.into_iter().find_map(|node| {
        // Of a node that is no member, none: it begins no more.
        let kept = if node == id { replica.config.incarnations_kept } else { 0 };
        let mut last: Vec<Stamp> =
            vector.incarnations(node).filter(|(incarnation, _)| *incarnation != replica.origin).map(|(_, last)| last).collect();
        if last.len() <= kept {
            return None;
        }
        last.sort();
        last.truncate(last.len() - kept / 2);
        last.retain(|last| is_settled(replica, *last, now) && replica.submit.first().is_none_or(|first| *last < first));
        let upto = *last.last()?;
        let is_worth_it = last.len() >= (kept / 2).max(1);
        is_worth_it.then(|| Folding::new(node, upto, now.elapsed, table.peers.len()))
    })
}

/// Whether all that was stamped so early has arrived wherever it will, and no incarnation writes so early any more.
pub(in crate::replication) fn is_settled(replica: &Replica, stamp: Stamp, now: Now) -> bool {
    let age_min = replica.config.tombstone_age_min + 2 * replica.config.clock_offset_max;
    stamp.wall_ms() < (replica.clock.read(now.elapsed).stamp_us / 1_000).saturating_sub(age_min.as_millis() as u64)
}

/// Whether something is said here of all incarnations of a node.
pub(in crate::replication) fn has_folded(replica: &Replica) -> bool {
    replica.coverage.has_folded()
}

/// The horizon's, once every member's own vector says it like this: to whoever lists them one by one, it would be a horizon above what it has.
fn fold_horizon(replica: &Replica, table: &mut PeerTable, vector: &VersionVector) {
    let mut folded = VersionVector::default();
    for (place, upto) in vector.folded() {
        let over: Vec<Stamp> = table.horizon.incarnations(place.node).map(|(_, last)| last).filter(|last| *last <= upto).collect();
        let is_known = table.peers.iter().all(|peer| peer.proof().is_some_and(|proof| proof.get(place) >= upto));
        if is_known
            && over.len() > replica.config.incarnations_kept
            && let Some(greatest) = over.into_iter().max()
        {
            folded.advance(place, greatest);
        }
    }
    if !folded.is_empty() {
        let proven = Proven { vector: VersionVector::default(), horizon: folded };
        replica.persistence.record(Arc::new(record::proven(&proven)), None, None);
        table.horizon.join(&proven.horizon);
    }
}

/// Places in the vector.
pub(in crate::replication) fn incarnations_len(replica: &Replica) -> usize {
    replica.coverage.len()
}

/// What makes folding go on.
fn fold_help(replica: &Replica) -> String {
    let table = replica.peers.table();
    let those = |which: fn(&Peer) -> bool| -> Vec<NodeId> { table.peers.iter().filter(|peer| which(peer)).map(|peer| peer.id).collect() };
    let (away, older) = (those(|peer| !peer.is_up()), those(|peer| peer.is_of_build_before(Protocol::FOLDED)));
    match (&*away, &*older) {
        ([], []) => "they are, and what is old enough is being folded".to_owned(),
        (_, []) => format!("start {}, or remove what will not come back from every configuration", names(&away)),
        _ => format!("upgrade {}, of a build that does not know of it", names(&older)),
    }
}

/// Whether this incarnation may write: once it has, it is in the vector. An error says why not, and what helps. A build before begins lives without end, and beside it they are begun, too.
pub(in crate::replication) fn may_begin(replica: &Replica) -> Result<(), String> {
    if replica.submit.written() > 0 {
        return Ok(());
    }
    let (lives, incarnations_max) = (incarnations_len(replica), replica.config.incarnations_max);
    if lives < incarnations_max || replica.peers.table().peers.iter().any(|peer| peer.is_of_build_before(Protocol::FOLDED)) {
        return Ok(());
    }
    Err(format!(
        "the vector names {lives} lives of nodes, {incarnations_max} at most, and this start of the node would be another one. They are folded while all members are up: {}",
        fold_help(replica)
    ))
}
