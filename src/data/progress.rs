//! **I5**: the rule by which a version vector advances, live and when the log is replayed.
//!
//! An origin's writes come in batches. A batch holds all of them in (after, upto]. It joins if the
//! vector has reached `after`; else there is a gap, and what came is pending. A pending range is
//! joined as soon as the vector reaches its start: by a batch that fills the gap, or by what a dump
//! proves. Nothing else advances a vector.
//!
//! Pure values. Merging the writes, and logging that a range was joined, are the caller's.

use std::collections::BTreeMap;

use crate::data::clock::Stamp;
use crate::data::version::{Origin, VersionVector};

/// The gap in one origin's writes after a batch or a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nothing is missing, and nothing was.
    None,
    /// Writes are missing: a range is pending.
    Open,
    /// A pending range was joined just now.
    Closed,
}

/// The writes of one origin that arrived behind a gap.
///
/// One range is kept, the last. A batch behind a second gap replaces it: the dump that fills the
/// second gap fills the first, too.
///
/// The range is as true as its writes were merged. So a connection may keep one of its own, and
/// forget it with the connection: that loses a claim, never a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingRange {
    origin: Origin,
    /// Invariant: `(start, end)` says that every write of the origin in (start, end] was merged,
    /// and start <= end. The two are equal if only the start is known, from a HELLO or a heartbeat.
    range: Option<(Stamp, Stamp)>,
}

impl PendingRange {
    /// Nothing pending of this origin.
    pub const fn none(origin: Origin) -> PendingRange {
        PendingRange { origin, range: None }
    }

    /// Takes note of a batch: every write of the origin in (after, upto] has been merged.
    /// Advances the vector as far as that is contiguous; keeps the rest pending.
    pub fn batch(&mut self, vector: &mut VersionVector, after: Stamp, upto: Stamp) -> Gap {
        if vector.get(self.origin) >= after {
            vector.advance(self.origin, upto);
        } else {
            self.range = match self.range {
                Some((start, end)) if end >= after => Some((start, end.max(upto))),
                _ => Some((after, upto)),
            };
        }
        self.close(vector)
    }

    /// Joins the range if the vector has reached its start. To be called after the vector was
    /// joined with what a dump proves.
    pub fn close(&mut self, vector: &mut VersionVector) -> Gap {
        match self.range {
            None => Gap::None,
            Some((start, _)) if vector.get(self.origin) < start => Gap::Open,
            Some((_, end)) => {
                vector.advance(self.origin, end);
                self.range = None;
                Gap::Closed
            }
        }
    }

    /// Returns whether writes are missing between the vector and the range.
    pub const fn has_gap(&self) -> bool {
        self.range.is_some()
    }

    /// The start of the range, if the range reaches at least to `position`.
    pub fn start_if_reaching(&self, position: Stamp) -> Option<Stamp> {
        self.range.filter(|(_, end)| *end >= position).map(|(start, _)| start)
    }
}

/// A version vector, and of every origin the range that arrived behind a gap.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    vector: VersionVector,
    pending: BTreeMap<Origin, PendingRange>,
}

impl Progress {
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    pub fn into_vector(self) -> VersionVector {
        self.vector
    }

    /// Takes note of a batch, as [`PendingRange::batch`] does.
    pub fn batch(&mut self, origin: Origin, after: Stamp, upto: Stamp) -> Gap {
        let pending = self.pending.entry(origin).or_insert(PendingRange::none(origin));
        pending.batch(&mut self.vector, after, upto)
    }

    /// Takes over what a dump proves, and joins every pending range that the vector reaches by it.
    pub fn proven(&mut self, proven: &VersionVector) {
        self.vector.join(proven);
        for pending in self.pending.values_mut() {
            pending.close(&mut self.vector);
        }
    }
}

impl From<VersionVector> for Progress {
    /// A whole dump proves this vector, and nothing is pending.
    fn from(vector: VersionVector) -> Progress {
        Progress { vector, pending: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::version::NodeId;
    use proptest::prelude::*;

    /// Stamps of an origin's writes are 1 to this.
    const LAST: u64 = 24;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The writes of an origin in (after, upto].
        Batch { origin: Origin, after: u64, upto: u64 },
        /// A dump proves that all writes of an origin up to this stamp are here.
        Proof { origin: Origin, upto: u64 },
    }

    fn origin(nonce: u64) -> Origin {
        Origin { node: NodeId(1), nonce }
    }

    fn stamp(stamp: u64) -> Stamp {
        Stamp::from_bits(stamp)
    }

    /// Proofs may speak of all incarnations of the node at once.
    fn event() -> impl Strategy<Value = Event> {
        let batch = (1..3u64, 0..=LAST, 0..=LAST).prop_map(|(nonce, one, other)| Event::Batch {
            origin: origin(nonce),
            after: one.min(other),
            upto: one.max(other),
        });
        let proof = (0..3u64, 0..=LAST).prop_map(|(nonce, upto)| Event::Proof { origin: origin(nonce), upto });
        prop_oneof![4 => batch, 1 => proof]
    }

    fn apply(progress: &mut Progress, event: Event) {
        match event {
            Event::Batch { origin, after, upto } => {
                let gap = progress.batch(origin, stamp(after), stamp(upto));
                assert_eq!(gap == Gap::Open, progress.pending[&origin].has_gap());
            }
            Event::Proof { origin, upto } => progress.proven(&[(origin, stamp(upto))].into_iter().collect()),
        }
    }

    fn applied(events: &[Event]) -> Progress {
        let mut progress = Progress::default();
        events.iter().for_each(|event| apply(&mut progress, *event));
        progress
    }

    /// Returns whether a write is here according to the events alone.
    fn is_here(events: &[Event], write: u64, of: Origin) -> bool {
        events.iter().any(|event| match *event {
            Event::Batch { origin, after, upto } => origin == of && after < write && write <= upto,
            Event::Proof { origin, upto } => (origin == of || origin.is_all_incarnations()) && write <= upto,
        })
    }

    /// The writes from the first to [`LAST`], cut into batches that join each other.
    fn chain() -> impl Strategy<Value = Vec<Event>> {
        prop::collection::btree_set(1..LAST, 0..8).prop_map(|cuts| {
            let ends = cuts.into_iter().chain([LAST]);
            let mut after = 0;
            ends.map(|upto| Event::Batch { origin: origin(1), after: std::mem::replace(&mut after, upto), upto }).collect()
        })
    }

    proptest! {
        /// The law that everything else rests on: I1 is never claimed of a write that is not here.
        #[test]
        fn nothing_is_claimed_that_was_neither_received_nor_proven(events in prop::collection::vec(event(), 0..40)) {
            let mut progress = Progress::default();
            for (count, event) in events.iter().enumerate() {
                let before = progress.vector().clone();
                apply(&mut progress, *event);
                prop_assert!(progress.vector().covers_all(&before), "it went back");
                for of in [origin(1), origin(2)] {
                    for write in 1..=progress.vector().get(of).to_bits() {
                        prop_assert!(is_here(&events[..=count], write, of), "write {write} of {of}");
                    }
                    let Some(PendingRange { range: Some((start, end)), .. }) = progress.pending.get(&of) else { continue };
                    prop_assert!(start <= end && *start > progress.vector().get(of), "what joins must not be left pending");
                    for write in start.to_bits() + 1..=end.to_bits() {
                        prop_assert!(is_here(&events[..=count], write, of), "pending write {write} of {of}");
                    }
                }
            }
        }

        #[test]
        fn an_event_that_comes_twice_changes_nothing(events in prop::collection::vec(event(), 1..40)) {
            let mut progress = Progress::default();
            for event in events {
                apply(&mut progress, event);
                let once = progress.clone();
                apply(&mut progress, event);
                prop_assert_eq!((&progress.vector, &progress.pending), (&once.vector, &once.pending));
            }
        }

        #[test]
        fn batches_in_a_row_leave_no_gap(chain in chain()) {
            let mut progress = Progress::default();
            for event in &chain {
                apply(&mut progress, *event);
                prop_assert!(!progress.pending[&origin(1)].has_gap());
            }
            prop_assert_eq!(progress.vector().get(origin(1)), stamp(LAST));
        }

        /// A gap is filled by a proof, wherever between the batches that comes.
        #[test]
        fn a_proof_closes_the_gap_before_between_or_behind_batches(
            chain in chain(),
            missing in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
        ) {
            let missing = missing.index(chain.len());
            let Event::Batch { upto, .. } = chain[missing] else { unreachable!() };
            let mut events = [&chain[..missing], &chain[missing + 1..]].concat();
            events.insert(at.index(events.len() + 1), Event::Proof { origin: origin(1), upto });
            let progress = applied(&events);
            prop_assert_eq!(progress.vector().get(origin(1)), stamp(LAST));
            prop_assert!(progress.pending.values().all(|pending| !pending.has_gap()));
        }

        /// Batches claim no more in any order than in a row, and once they came in a row, as much.
        #[test]
        fn batches_out_of_order_lose_claims_at_most_until_they_come_again(
            (chain, turned) in chain().prop_flat_map(|chain| (Just(chain.clone()), Just(chain).prop_shuffle())),
        ) {
            let mut progress = applied(&turned);
            prop_assert!(progress.vector().get(origin(1)) <= stamp(LAST));
            chain.iter().for_each(|event| apply(&mut progress, *event));
            prop_assert_eq!(progress.vector().get(origin(1)), stamp(LAST));
            prop_assert!(!progress.pending[&origin(1)].has_gap());
        }

        #[test]
        fn origins_do_not_meet(events in prop::collection::vec(event(), 0..40)) {
            let is_of = |event: &Event, of: Origin| match event {
                Event::Batch { origin, .. } => *origin == of,
                Event::Proof { origin, .. } => *origin == of || origin.is_all_incarnations(),
            };
            let together = applied(&events);
            for of in [origin(1), origin(2)] {
                let alone: Vec<Event> = events.iter().copied().filter(|event| is_of(event, of)).collect();
                prop_assert_eq!(together.vector().get(of), applied(&alone).vector().get(of));
            }
        }
    }

    /// A HELLO tells where a peer's writes are without bringing any: an empty batch there is a gap.
    #[test]
    fn an_empty_batch_behind_the_vector_is_a_gap() {
        let mut progress = Progress::default();
        assert_eq!(progress.batch(origin(1), stamp(5), stamp(5)), Gap::Open);
        assert_eq!(progress.batch(origin(1), stamp(5), stamp(7)), Gap::Open);
        assert_eq!(progress.pending[&origin(1)].start_if_reaching(stamp(7)), Some(stamp(5)));
        assert_eq!(progress.pending[&origin(1)].start_if_reaching(stamp(8)), None);
        assert_eq!(progress.vector().get(origin(1)), Stamp::ZERO);
        assert_eq!(progress.batch(origin(1), stamp(0), stamp(5)), Gap::Closed);
        assert_eq!(progress.vector().get(origin(1)), stamp(7));
        assert_eq!(progress.batch(origin(1), stamp(7), stamp(9)), Gap::None);
    }
}
