//! Lives that are over, folded: what keeps vectors short.
//!
//! Every start that writes adds a life to all vectors. Beyond `lives_kept` of them a node folds the oldest of its own into one place, that of [`Origin::all_lives`]: "all writes of this node up to this
//! stamp". For nodes that are no members, whose lives restored backups bring, the member with the least id does it.
//!
//! What it says must be true (**I1**), of lives that nobody remembers, too. So, before it is written, this node takes a dump of each member, one after another, and begins anew when any of them says
//! HELLO: then it has whatever a member has of those lives, and writes of a life that ended half-way, which no vector covers, are among that. And only writes are covered that are older than
//! `tombstone_age_min`, and than what this life itself has written: what may still be under way is younger.
//!
//! The other members see that this node's vector is ahead, ask for a dump, and take the place over at its end line. What an older copy of a disk alone still holds of such lives is given up; if the copy
//! comes back after all, the digests differ, and healing brings it. A member that is away pins all of this. So there is an end: with `lives_max` in the vector, a node that has not written yet does not
//! begin to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Now, Stamp};
use crate::entry::{NodeId, Origin, SeenVector};
use crate::replication::control::{Control, names};
use crate::replication::mesh::Mesh;
use crate::replication::record::{self, Proven};

/// Lives of a node that are to be folded.
pub struct Folding {
    node: NodeId,
    upto: Stamp,
    since: Duration,
    /// The peers that this node has taken a dump of since then.
    swept: Vec<bool>,
}

impl Folding {
    /// Whether a dump of this peer is still to be taken.
    pub fn wants(&self, peer: usize) -> bool {
        !self.swept[peer]
    }

    /// A dump of this peer that was asked for at that time has been taken whole.
    pub fn took(&mut self, peer: usize, asked: Duration) {
        self.swept[peer] |= asked >= self.since;
    }
}

/// Whether many lives have been told of.
#[derive(Default)]
pub struct Folder {
    has_warned: bool,
}

impl Folder {
    /// Called at every beat.
    pub fn step(&mut self, mesh: &Mesh, now: Now) {
        let folded = mesh.fold(now);
        if let Some((node, lives)) = folded {
            log::info!("folded {lives} lives of node {node} that are over into one");
        }
        let lives = mesh.lives_len();
        let is_much = lives >= mesh.config.lives_max / 2;
        if is_much && !self.has_warned {
            let waits = match mesh.away() {
                Some(nodes) => format!("{nodes} must be up for that"),
                None => "it goes on as soon as they are old enough".to_owned(),
            };
            log::warn!(
                "the vector names {lives} lives of nodes; with {} a node that starts does not write. Those that are over are folded while all members are up: {waits}",
                mesh.config.lives_max
            );
        }
        self.has_warned = is_much;
    }
}

impl Mesh {
    /// Looks whether there is something to fold, and whether it can be done now. Returns whose lives were folded, and how many.
    fn fold(&self, now: Now) -> Option<(NodeId, usize)> {
        let mut control = self.control.lock();
        if !control.may_collect(&self.config.members()) {
            return None;
        }
        let vector = self.vector();
        self.fold_horizon(&mut control, &vector);
        let folding = control.folding.take();
        let Some(Folding { node, upto, swept, .. }) = &folding else {
            control.folding = self.foldable(&control, &vector, now);
            return None;
        };
        if !swept.iter().all(|swept| *swept) {
            control.folding = folding;
            return None;
        }
        let lives = vector.lives(*node).filter(|(_, last)| last <= upto).count();
        let place: SeenVector = [(Origin::all_lives(*node), *upto)].into_iter().collect();
        let mut seen = self.seen.write();
        let proven = Proven { vector: place.clone(), horizon: SeenVector::default() };
        self.record(Arc::new(record::proven(&proven)), None, None);
        seen.join(&place);
        Some((*node, lives))
    }

    /// Lives that are over, old, and enough to be worth the dumps.
    fn foldable(&self, control: &Control, vector: &SeenVector, now: Now) -> Option<Folding> {
        if control.peers.iter().any(|peer| !peer.up) {
            return None;
        }
        let (id, members, kept) = (self.config.id, self.config.members(), self.config.lives_kept);
        let is_mine = |node: &NodeId| *node == id || !members.contains(node) && members.first() == Some(&id);
        let nodes: BTreeSet<NodeId> = vector.iter().map(|(origin, _)| origin.node).filter(is_mine).collect();
        let age_min = self.config.tombstone_age_min.as_millis() as u64;
        let oldest = (self.clock.read(now.elapsed).stamp_us / 1_000).saturating_sub(age_min);
        nodes.into_iter().find_map(|node| {
            let mut last: Vec<Stamp> = vector.lives(node).filter(|(life, _)| *life != self.origin).map(|(_, last)| last).collect();
            if last.len() <= kept {
                return None;
            }
            last.sort();
            last.truncate(last.len() - kept / 2);
            last.retain(|last| last.wall_ms() < oldest && self.submit.first().is_none_or(|first| *last < first));
            let upto = *last.last()?;
            let is_worth_it = last.len() >= (kept / 2).max(1);
            let swept = vec![false; control.peers.len()];
            is_worth_it.then_some(Folding { node, upto, since: now.elapsed, swept })
        })
    }

    /// The horizon's, once every member's own vector says it like this: to whoever lists them one by one, it would be a horizon above what it has.
    fn fold_horizon(&self, control: &mut Control, vector: &SeenVector) {
        let mut folded = SeenVector::default();
        for (place, upto) in vector.iter().filter(|(origin, _)| origin.is_all_lives()) {
            let over: Vec<Stamp> = control.horizon.lives(place.node).map(|(_, last)| last).filter(|last| *last <= upto).collect();
            let is_known = control.peers.iter().all(|peer| peer.proof().is_some_and(|proof| proof.get(place) >= upto));
            if is_known
                && over.len() > self.config.lives_kept
                && let Some(greatest) = over.into_iter().max()
            {
                folded.advance(place, greatest);
            }
        }
        if !folded.is_empty() {
            let proven = Proven { vector: SeenVector::default(), horizon: folded };
            self.record(Arc::new(record::proven(&proven)), None, None);
            control.horizon.join(&proven.horizon);
        }
    }

    /// Places in the vector.
    pub(super) fn lives_len(&self) -> usize {
        self.seen.read().len()
    }

    /// The members that pin folding, if there are any.
    fn away(&self) -> Option<String> {
        let control = self.control.lock();
        let nodes: Vec<NodeId> = control.peers.iter().filter(|peer| !peer.up).map(|peer| peer.id).collect();
        (!nodes.is_empty()).then(|| names(&nodes))
    }

    /// Whether this life may write: once it has, it is in the vector. An error says why not, and what helps.
    pub(super) fn may_begin(&self) -> Result<(), String> {
        let (lives, lives_max) = (self.lives_len(), self.config.lives_max);
        if self.submit.written() > 0 || lives < lives_max {
            return Ok(());
        }
        let help = match self.away() {
            Some(nodes) => format!("start {nodes}, or remove what will not come back from every configuration"),
            None => "all members are up, so that is under way".to_owned(),
        };
        Err(format!(
            "the vector names {lives} lives of nodes, {lives_max} at most, and this start of the node would be another one. They are folded while all members are up: {help}"
        ))
    }
}
