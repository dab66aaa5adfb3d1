//! Coverage: which writes of other origins this node has, or had before something newer superseded
//! them (**I1**).
//!
//! The version vector of one node, behind its lock. It is read under a shard's lock for every write
//! that arrives, and it moves in the few ways of [`Advance`] only (**I5**). This node's own entry
//! is not in it: every own write is here, up to the last one issued.

use crate::data::clock::Stamp;
use crate::data::progress::{Gap, PendingRange};
use crate::data::version::{Origin, Version, VersionVector};
use crate::lock_order::{Guard, Rank, RwLock};
use crate::sync::RwLockWriteGuard;

/// The version vector of the other origins.
pub struct Coverage {
    own: Origin,
    vector: RwLock<VersionVector>,
}

/// The vector, locked to move. Between the move and what has to happen with it in one step (the
/// record for the log, the ack) the caller keeps this.
pub struct Advance<'a> {
    own: Origin,
    vector: Guard<RwLockWriteGuard<'a, VersionVector>>,
}

impl Coverage {
    /// `own` is the origin of this node's own writes.
    pub fn new(own: Origin) -> Coverage {
        Coverage { own, vector: RwLock::new(Rank::VersionVector, VersionVector::default()) }
    }

    /// The write with this version is here, or was and is superseded. Every version of its own
    /// origin this node has issued itself.
    pub fn covers(&self, version: Version) -> bool {
        version.origin == self.own || self.vector.read().covers(version)
    }

    /// The write is covered only because incarnations of its node are folded: whether it ever was
    /// here is not known.
    pub fn covers_by_folding(&self, version: Version) -> bool {
        let vector = self.vector.read();
        vector.covers(version) && !vector.names(version.origin)
    }

    /// A copy, with this node's own writes up to `position` in it.
    pub fn vector(&self, position: Stamp) -> VersionVector {
        with_own(&self.vector.read(), self.own, position)
    }

    /// Entries of the vector: one for each incarnation, or for the folded ones of a node.
    pub fn len(&self) -> usize {
        self.vector.read().len()
    }

    /// Nothing of any other origin is known here.
    pub fn is_empty(&self) -> bool {
        self.vector.read().is_empty()
    }

    /// Incarnations of some node are folded.
    pub fn has_folded(&self) -> bool {
        self.vector.read().folded().next().is_some()
    }

    /// Locks the vector to move it.
    pub fn advance(&self) -> Advance<'_> {
        Advance { own: self.own, vector: self.vector.write() }
    }
}

impl Advance<'_> {
    pub fn get(&self, origin: Origin) -> Stamp {
        self.vector.get(origin)
    }

    /// As [`Coverage::vector`].
    pub fn vector(&self, position: Stamp) -> VersionVector {
        with_own(&self.vector, self.own, position)
    }

    /// Every write of an origin in (after, upto] has been merged; `pending` is what came behind a
    /// gap on the same connection.
    pub fn batch(&mut self, pending: &mut PendingRange, after: Stamp, upto: Stamp) -> Gap {
        pending.batch(&mut self.vector, after, upto)
    }

    /// Joins what a dump's end line proves, or a folding that all members know of.
    pub fn proven(&mut self, proven: &VersionVector) {
        self.vector.join(proven);
    }

    /// Joins what came behind a gap, if the vector has reached it.
    pub fn close(&mut self, pending: &mut PendingRange) -> Gap {
        pending.close(&mut self.vector)
    }

    /// Takes over the vector that the disk knew, at the start.
    pub fn restore(&mut self, vector: VersionVector) {
        *self.vector = vector;
    }
}

fn with_own(vector: &VersionVector, own: Origin, position: Stamp) -> VersionVector {
    let mut vector = vector.clone();
    vector.advance(own, position);
    vector
}
