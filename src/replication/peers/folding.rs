//! Past incarnations of a node that are to be folded, once dumps of all peers have been taken.

use std::time::Duration;

use crate::data::clock::Stamp;
use crate::data::version::NodeId;

/// A folding that is under way: "all incarnations of `node` up to `upto`" may be claimed once this
/// node has taken a dump of every peer since the folding began.
pub struct Folding {
    pub node: NodeId,
    pub upto: Stamp,
    since: Duration,
    /// The peers that this node has taken a dump of since then.
    swept: Vec<bool>,
}

impl Folding {
    pub fn new(node: NodeId, upto: Stamp, since: Duration, peers: usize) -> Folding {
        Folding { node, upto, since, swept: vec![false; peers] }
    }

    /// A dump of this peer is still to be taken.
    pub fn wants(&self, peer: usize) -> bool {
        !self.swept[peer]
    }

    /// A dump of this peer that was asked for at this time has been taken whole.
    pub fn took(&mut self, peer: usize, asked: Duration) {
        self.swept[peer] |= asked >= self.since;
    }

    /// A dump of every peer has been taken.
    pub fn is_swept(&self) -> bool {
        self.swept.iter().all(|swept| *swept)
    }
}
