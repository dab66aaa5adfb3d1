//! Folding of past incarnations, which keeps version vectors short.
//!
//! Every start that writes adds an incarnation to all vectors. Beyond `incarnations_kept` of them a
//! node folds the oldest of its own into one entry, that of [`Origin::all_incarnations`]: "all
//! writes of this node up to this stamp". Nodes that are no members have incarnations, too, which
//! restored backups bring: the member with the least id folds those.
//!
//! The claim must be true (**I1**), of incarnations that no member remembers, too. So, before it is
//! written, this node takes a dump of each member, one after another, and begins anew when any of
//! them says HELLO. Then it has whatever a member has of those incarnations. That includes writes
//! of an incarnation that ended half-way, which no vector covers. And only writes are covered that
//! are older than those of this incarnation itself, and older than `tombstone_age_min` and twice
//! what clocks may differ by. What is still under way is younger, and so is what an incarnation
//! writes that no member knows of yet.
//!
//! The other members see that this node's vector is ahead, ask for a dump, and take the entry over
//! at its end line. Some writes of that time may exist only in an older copy of a disk, or at a
//! node that no member has heard since. They are given up: they count as covered. If such a node
//! returns, digests may differ, and healing bring the writes back; below the GC horizon they are
//! dropped there, too.
//!
//! A build that knows of no such entry would misread absence in a dump. So nothing is folded while
//! a member speaks less than [`Protocol::FOLDED`], and such members are refused afterwards. A
//! member that is away pins all of this. So there is an end: with `incarnations_max` entries in the
//! vector, a node that has not written yet does not begin to.

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

/// Folds incarnations at heartbeats, and remembers whether it has warned of too many.
#[derive(Default)]
pub struct Folder {
    has_warned: bool,
}

impl Folder {
    /// Takes one step. Called at every heartbeat.
    pub fn step(&mut self, replica: &Replica, now: Now) {
        let folded = fold(replica, now);
        if let Some((node, count)) = folded {
            log::info!("folded {count} past incarnations of node {node} into one");
        }
        let len = replica.coverage.len();
        let is_much = len >= replica.config.incarnations_max / 2;
        if is_much && !self.has_warned {
            let waits = fold_help(replica);
            log::warn!(
                "the vector names {len} incarnations; with {} a node that starts does not write. Past ones are folded while all members are up: {waits}",
                replica.config.incarnations_max
            );
        }
        self.has_warned = is_much;
    }
}

/// Folds incarnations if there are some to fold, and it can be done now. Returns whose incarnations
/// were folded, and how many.
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
    let count = vector.incarnations(*node).filter(|(_, last)| last <= upto).count();
    let entry: VersionVector = [(Origin::all_incarnations(*node), *upto)].into_iter().collect();
    let mut coverage = replica.coverage.advance();
    let proven = Proven { vector: entry, horizon: VersionVector::default() };
    replica.persistence.record(Arc::new(record::proven(&proven)), None);
    coverage.proven(&proven.vector);
    Some((*node, count))
}

/// Returns whether all members are up, and speak the protocol that has folding.
fn may_fold(replica: &Replica, table: &PeerTable) -> bool {
    replica.spoken_by(&table.peers) >= Protocol::FOLDED && table.peers.iter().all(|peer| peer.is_up())
}

/// Looks for past incarnations that are old, and numerous enough to be worth the dumps.
fn foldable(replica: &Replica, table: &PeerTable, vector: &VersionVector, now: Now) -> Option<Folding> {
    if now.elapsed < table.fold_after || !may_fold(replica, table) {
        return None;
    }
    let (id, members) = (replica.config.id, replica.config.members());
    let is_mine = |node: &NodeId| *node == id || !members.contains(node) && members.first() == Some(&id);
    let nodes: BTreeSet<NodeId> = vector.iter().map(|(origin, _)| origin.node).filter(is_mine).collect();
    nodes.into_iter().find_map(|node| {
        // Of a node that is no member none are kept: it begins no more.
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

/// Returns whether everything with a stamp this old has arrived wherever it will, and no
/// incarnation issues such stamps any more.
pub(in crate::replication) fn is_settled(replica: &Replica, stamp: Stamp, now: Now) -> bool {
    let age_min = replica.config.tombstone_age_min + 2 * replica.config.clock_offset_max;
    stamp.wall_ms() < (replica.clock.read(now.elapsed).stamp_us / 1_000).saturating_sub(age_min.as_millis() as u64)
}

/// Folds entries of the GC horizon, once every member's own vector has the folded entry. To a
/// member that lists the incarnations one by one, it would be a horizon above what it has.
fn fold_horizon(replica: &Replica, table: &mut PeerTable, vector: &VersionVector) {
    let mut folded = VersionVector::default();
    for (origin, upto) in vector.folded() {
        let over: Vec<Stamp> = table.horizon.incarnations(origin.node).map(|(_, last)| last).filter(|last| *last <= upto).collect();
        let is_known = table.peers.iter().all(|peer| peer.proof().is_some_and(|proof| proof.get(origin) >= upto));
        if is_known
            && over.len() > replica.config.incarnations_kept
            && let Some(greatest) = over.into_iter().max()
        {
            folded.advance(origin, greatest);
        }
    }
    if !folded.is_empty() {
        let proven = Proven { vector: VersionVector::default(), horizon: folded };
        replica.persistence.record(Arc::new(record::proven(&proven)), None);
        table.horizon.join(&proven.horizon);
    }
}

/// A sentence for operators that says what makes folding go on.
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

/// Checks that this incarnation may write: once it has, it is in the vector. An error says why not,
/// and what helps. While a member runs the build before folding, which begins incarnations without
/// end, this node does not refuse to.
pub(in crate::replication) fn may_begin(replica: &Replica) -> Result<(), String> {
    if replica.submit.written() > 0 {
        return Ok(());
    }
    let (len, incarnations_max) = (replica.coverage.len(), replica.config.incarnations_max);
    if len < incarnations_max || replica.peers.table().peers.iter().any(|peer| peer.is_of_build_before(Protocol::FOLDED)) {
        return Ok(());
    }
    Err(format!(
        "the vector names {len} incarnations, {incarnations_max} at most, and this start of the node would be another one. Past ones are folded while all members are up: {}",
        fold_help(replica)
    ))
}
