//! One peer, as far as decisions go.

use std::time::Duration;

use crate::data::clock::Now;
use crate::data::version::{NodeId, Origin, VersionVector};
use crate::replication::peers::catch_up::CatchUp;
use crate::replication::peers::clocks::PeerClocks;
use crate::replication::peers::liveness::Liveness;
use crate::replication::peers::proof::Proof;
use crate::wire::bytes::Limits;
use crate::wire::peer::{Hello, Protocol};

/// Second processes in a row that take a peer's place, before an operator is told; and again after
/// so many more.
const CONTESTED_AFTER: u32 = 3;
const CONTESTED_AGAIN: u32 = 100;

/// One peer, as far as this node knows it.
pub struct Peer {
    pub id: NodeId,
    /// Counts the peer's incoming connections. What an older one still delivers is told by it.
    pub epoch: u64,
    pub linked_in: bool,
    pub linked_out: bool,
    /// The peer has proven who it is, on its last connection to this node.
    pub is_proven_in: bool,
    /// The peer has proven who it is, on this node's last connection to it.
    pub is_proven_out: bool,
    /// The peer's present incarnation, from its last HELLO.
    pub origin: Option<Origin>,
    /// The greatest protocol that the peer speaks, by its last HELLO; the oldest, if it never said
    /// HELLO.
    pub spoken: Protocol,
    pub members: Vec<NodeId>,
    /// The longest key and value that the peer takes, by its last HELLO; `None` if it never said.
    pub limits: Option<Limits>,
    /// The peer's newest known vector. A HELLO replaces it, lower or not.
    pub vector: VersionVector,
    /// The peer's wall clock when it was heard last, in milliseconds since 1970; 0 if never. A
    /// HELLO replaces it, lower or not.
    pub wall_ms: u64,
    /// The peer serves clients, by its last heartbeat. While it catches up it vouches for nothing,
    /// and does not count towards a quorum.
    pub open: bool,
    /// The peer was last reported as one that counts towards a quorum.
    pub counts: bool,
    /// The last error on the links with the peer, and when it happened.
    pub last_error: Option<(Duration, String)>,
    /// How often a second process took this peer's place, in a row.
    replaced: u32,
    pub liveness: Liveness,
    pub catch_up: CatchUp,
    pub proof: Proof,
    pub clocks: PeerClocks,
}

impl Peer {
    pub fn new(id: NodeId, now: Now) -> Peer {
        Peer {
            id,
            epoch: 0,
            linked_in: false,
            linked_out: false,
            is_proven_in: false,
            is_proven_out: false,
            origin: None,
            spoken: Protocol::OLDEST,
            members: Vec::new(),
            limits: None,
            vector: VersionVector::default(),
            wall_ms: 0,
            open: false,
            counts: false,
            last_error: None,
            replaced: 0,
            liveness: Liveness::new(now),
            catch_up: CatchUp::new(now),
            proof: Proof::default(),
            clocks: PeerClocks::default(),
        }
    }

    /// An incoming connection whose HELLO was found good. `gap`: the peer has writes of its own
    /// that are missing here. Returns true if two processes keep taking each other's place.
    pub fn accepted(&mut self, hello: &Hello, gap: bool, now: Now) -> bool {
        let contested = self.linked_in && self.origin.is_some_and(|origin| origin != hello.origin);
        self.replaced = if contested { self.replaced + 1 } else { 0 };
        self.epoch += 1;
        self.linked_in = true;
        self.origin = Some(hello.origin);
        self.spoken = hello.spoken().max;
        self.members = hello.members.clone();
        self.vector = hello.vector.clone();
        self.wall_ms = hello.wall_ms;
        self.open = false;
        self.liveness.accepted();
        self.catch_up.accepted(&hello.vector, gap);
        self.proof.withdraw();
        if self.epoch == 1 {
            // Only the first: a peer that is restarted again and again brings no other node
            // forward.
            self.catch_up.progressed = now.elapsed;
        }
        self.replaced >= CONTESTED_AFTER && self.replaced % CONTESTED_AGAIN == CONTESTED_AFTER
    }

    pub fn is_up(&self) -> bool {
        self.liveness.is_up()
    }

    /// The vector that the peer is proven to have on its disk, for as long as it is up.
    pub fn proof(&self) -> Option<&VersionVector> {
        self.proof.get(self.is_up())
    }

    /// This node has what the peer had at its HELLO, over links that work both ways.
    pub fn is_caught_up_with(&self, own: &VersionVector) -> bool {
        self.is_up() && own.covers_all(&self.catch_up.target)
    }

    /// The peer has said that it speaks no protocol as late as this one.
    pub fn is_of_build_before(&self, protocol: Protocol) -> bool {
        self.origin.is_some() && self.spoken < protocol
    }
}
