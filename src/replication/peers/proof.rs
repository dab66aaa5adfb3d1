//! Proof of what a peer has on its disk: the only word of a peer that the tombstone GC believes
//! (**I6** a).

use crate::data::version::VersionVector;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::peer::Heartbeat;

/// Vectors of one peer, on their way to be a proof.
///
/// A vector counts once it is durable at the peer and this node covers it in every origin. A busy
/// mesh never stands still, so one vector is held until it is both, and then the next.
#[derive(Default)]
pub struct Proof {
    candidate: Option<Candidate>,
    proven: Option<VersionVector>,
}

struct Candidate {
    vector: VersionVector,
    /// The peer's disk has all of the vector once a heartbeat says so of this mark.
    mark: u64,
    is_durable: bool,
}

impl Proof {
    /// The peer has said in a heartbeat how far it is. `vector` is what it has said of its vector
    /// so far. It is believed only if `is_answer`: if it comes after the echo of a heartbeat that
    /// this node has sent since the last HELLO of any peer. If the disk behind that HELLO was lost,
    /// the vector then says what the peer had taken from it.
    pub fn heard(&mut self, vector: &VersionVector, heartbeat: &Heartbeat, is_answer: bool) {
        if self.candidate.is_none() && is_answer && self.proven.as_ref() != Some(vector) {
            self.candidate = Some(Candidate { vector: vector.clone(), mark: heartbeat.mark, is_durable: false });
        }
        if let Some(candidate) = &mut self.candidate {
            candidate.is_durable |= candidate.mark <= heartbeat.durable_mark;
        }
    }

    /// Makes the candidate the proof, if it is durable and this node's own vector covers it.
    pub fn review(&mut self, own: &VersionVector) {
        let is_proof =
            |candidate: &mut Candidate| candidate.is_durable && (own.covers_all(&candidate.vector) || BrokenRule::CollectUncovered.is_on());
        if let Some(candidate) = self.candidate.take_if(is_proof) {
            self.proven = Some(candidate.vector);
        }
    }

    /// The proven vector, for as long as the peer is up.
    pub fn get(&self, is_up: bool) -> Option<&VersionVector> {
        self.proven.as_ref().filter(|_| is_up || BrokenRule::CountAbsent.is_on())
    }

    /// Some peer has said HELLO: nothing that was said before proves anything.
    pub fn withdraw(&mut self) {
        *self = Proof::default();
    }
}
