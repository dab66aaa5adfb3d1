//! The replicator: the one place where submitted writes become write batches.
//!
//! A batch is made under one lock: everything that waits in the channel becomes *one* batch, and
//! the same bytes go to the log and to every peer's outbox. **I4**: nothing is
//! waited for meanwhile, no socket and no disk. What a socket takes at once it sends itself.
//!
//! The thread `replicator` does so whenever something is submitted. As long as no session waits for
//! a peer, for the disk or for the back-pressure budget, it lets some writes come together first. A
//! batch costs every thread that it passes a turn, here and on the peers, whether it holds one
//! write or hundreds.
//!
//! A session that writes alone and is about to wait does it in the thread's place: nothing could
//! come together, and one change of threads less is some 10 of 95 microseconds at `majority`.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::data::version::Origin;
use crate::replication::links::outbox::EncodedBatch;
use crate::replication::replica::Replica;
use crate::replication::submit::Submitted;
use crate::sync::unbounded::Receiver;
use crate::sync::{Mutex, MutexGuard};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::peer::encode_batch;

/// Reserved bytes after which a batch is closed. One write larger than this still makes a batch of
/// its own.
const BATCH_LEN: usize = 1 << 20;
/// Pause in which writes that no session waits for come together. A session that begins to wait
/// meanwhile waits so much longer.
const GATHER_PAUSE: Duration = Duration::from_micros(300);

/// The replicator of one node.
pub struct Replicator {
    write_rx: Receiver<Submitted>,
    /// Held while a batch is made and handed over. That alone keeps no order (**I2**): the thread
    /// takes from the channel before it locks this. So every write says which one it follows.
    batcher: Mutex<Batcher>,
}

/// Makes the batches of this node's own writes.
struct Batcher {
    origin: Origin,
    /// The stamp at which the last batch ended.
    after: Stamp,
    /// The stamp of the last write, of those of the batch that is being made, too.
    upto: Stamp,
    /// A write that a session took out of the channel when the thread had the one before it in its
    /// hands, and had yet to lock this. The thread hands it over behind that one.
    early: Option<Submitted>,
    /// The writes of the batch that is being made; kept for its memory.
    writes: Vec<Entry>,
}

impl Replicator {
    pub fn new(origin: Origin, write_rx: Receiver<Submitted>) -> Replicator {
        let batcher = Batcher { origin, after: Stamp::ZERO, upto: Stamp::ZERO, early: None, writes: Vec::new() };
        Replicator { write_rx, batcher: Mutex::new(batcher) }
    }

    /// Runs the thread `replicator`. Ends when the channel is closed and empty.
    pub fn run(&self, replica: &Replica) {
        while let Ok(first) = self.write_rx.recv() {
            let is_waited_for = replica.acks().is_awaited() || replica.submit().is_budget_awaited();
            if first.reserved < BATCH_LEN && !is_waited_for {
                #[expect(clippy::disallowed_methods, reason = "less than any wait that a stop could notice")]
                thread::sleep(GATHER_PAUSE);
            }
            self.hand_over(replica, self.batcher.lock(), first);
        }
        // A session may have taken the last writes, and hand them over just now.
        drop(self.batcher.lock());
    }

    /// Hands over one batch of what waits, if the thread does not do so just now. For a session
    /// that is about to wait for its writes, and knows of no other that writes.
    pub fn hand_over_early(&self, replica: &Replica) {
        let Some(mut batcher) = self.batcher.try_lock() else { return };
        if batcher.early.is_some() && !BrokenHandOver::EarlyWriteReplaced.is_on() {
            return;
        }
        let Ok(first) = self.write_rx.try_recv() else { return };
        if first.after == batcher.upto || BrokenHandOver::ThreadOvertaken.is_on() {
            self.hand_over(replica, batcher, first);
        } else {
            batcher.early = Some(first);
        }
    }

    /// Hands over one batch of what waits. For tests that drive a node by themselves.
    #[cfg(any(test, feature = "testing"))]
    pub fn step(&self, replica: &Replica) {
        if let Ok(first) = self.write_rx.try_recv() {
            self.hand_over(replica, self.batcher.lock(), first);
        }
    }

    /// Hands over one batch of `first` and what waits behind it.
    fn hand_over(&self, replica: &Replica, mut batcher: MutexGuard<'_, Batcher>, first: Submitted) {
        let early = if BrokenHandOver::EarlyWriteLeft.is_on() { None } else { batcher.early.take() };
        let mut reserved = batcher.add(first);
        reserved += early.map_or(0, |early| batcher.add(early));
        while reserved < BATCH_LEN
            && let Ok(next) = self.write_rx.try_recv()
        {
            if next.after != batcher.upto && !BrokenHandOver::DrainOvertakesThread.is_on() {
                batcher.early = Some(next);
                break;
            }
            reserved += batcher.add(next);
        }
        replica.hand_over(&batcher.batch(), replica.submit().held(reserved));
    }
}

impl Batcher {
    /// Adds the write that follows the last one. Returns the bytes that it holds of the
    /// back-pressure budget.
    fn add(&mut self, Submitted { entry, reserved, .. }: Submitted) -> usize {
        self.upto = entry.version().stamp;
        self.writes.push(entry);
        reserved
    }

    /// Makes one batch of the writes that were added.
    fn batch(&mut self) -> EncodedBatch {
        let Batcher { origin, after, upto, writes, .. } = self;
        let mut bytes = Vec::with_capacity(writes.iter().map(|write| write.size() + 32).sum::<usize>() + 64);
        encode_batch(&mut bytes, *origin, *after, *upto, writes);
        *after = *upto;
        writes.clear();
        EncodedBatch { bytes: Arc::new(bytes), upto: *upto }
    }
}

#[cfg(all(test, feature = "interleavings"))]
mod interleavings;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::data::clock::Now;
    use crate::replication::links::outbox::Outbox;
    use crate::store::Store;
    use crate::testing::simulated_disk::SimulatedDisk;
    use crate::testing::simulated_node::{SimulatedNode, config, submit};
    use crate::wire::ack_level::AckLevel;
    use crate::wire::frame::HEAD_LEN;
    use crate::wire::peer::{Message, Protocol, Protocols};

    /// A node with one peer, to which batches are queued.
    pub(super) fn node() -> SimulatedNode {
        let (config, now) = (Arc::new(config(1, 2, &json!({}))), Now { wall_ms: 1, elapsed: Duration::ZERO });
        let node =
            SimulatedNode::start(config, Store::new(), 7, Protocols::OURS, (now, Instant::now()), &SimulatedDisk::default()).unwrap();
        outbox(&node).open();
        node
    }

    fn outbox(node: &SimulatedNode) -> &Outbox {
        node.replica.links().outbox(0)
    }

    fn write(node: &SimulatedNode, len: usize) -> Stamp {
        submit(&node.replica, "key", Some("v".repeat(len).as_bytes()), Duration::ZERO)
    }

    /// Takes the batches that are queued: where each begins, and its stamps.
    pub(super) fn batches(node: &SimulatedNode) -> Vec<(Stamp, Vec<Stamp>)> {
        let mut batches = Vec::new();
        loop {
            let taken = outbox(node).take().unwrap().batches;
            if taken.is_empty() {
                return batches;
            }
            batches.extend(taken.iter().map(|batch| match Message::decode(&batch.bytes[HEAD_LEN..], Protocol::OLDEST) {
                Ok(Message::Writes(batch)) => (batch.after, batch.writes.iter().map(|write| write.version.stamp).collect()),
                // It says what is out of order.
                other => panic!("no batch that a peer takes: {other:?}"),
            }));
        }
    }

    #[test]
    fn a_session_hands_over_what_waits() {
        let node = node();
        let first = write(&node, 1);
        node.replicator.hand_over_early(&node.replica);
        assert_eq!(batches(&node), [(Stamp::ZERO, vec![first])]);
        let (second, third) = (write(&node, 1), write(&node, 1));
        node.replicator.hand_over_early(&node.replica);
        assert_eq!(batches(&node), [(first, vec![second, third])]);
        node.replicator.hand_over_early(&node.replica);
        assert_eq!(batches(&node), []);
    }

    #[test]
    fn a_session_overtakes_no_write_that_the_thread_has_in_its_hands() {
        for len in [1, BATCH_LEN] {
            let node = node();
            let stamps = [write(&node, len), write(&node, 1), write(&node, 1)];
            let in_hand = node.write_rx.try_recv().unwrap();
            for _ in 0..2 {
                node.replicator.hand_over_early(&node.replica);
                assert_eq!(batches(&node), []);
            }
            node.replicator.hand_over(&node.replica, node.replicator.batcher.lock(), in_hand);
            node.replicator.hand_over_early(&node.replica);
            let all: Vec<Stamp> = batches(&node).into_iter().flat_map(|(_, stamps)| stamps).collect();
            assert_eq!(all, stamps, "{len}");
        }
    }

    #[test]
    fn batches_follow_each_other_whoever_makes_them() {
        let node = node();
        let (replica, replicator) = (&node.replica, &node.replicator);
        thread::scope(|scope| {
            scope.spawn(|| replicator.run(replica));
            let writers = [(); 3].map(|()| {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        // Somebody waits, so the thread does not pause.
                        let _round = replica.acks().open_round(AckLevel::Majority);
                        submit(replica, "key", Some(b"v"), Duration::ZERO);
                        replicator.hand_over_early(replica);
                    }
                })
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            // The thread hands over the rest and ends.
            replica.submit().close();
        });
        let (mut after, mut count) = (Stamp::ZERO, 0);
        for (begin, stamps) in batches(&node) {
            assert_eq!(begin, after);
            assert!(stamps.is_sorted_by(|a, b| a < b));
            (after, count) = (*stamps.last().unwrap(), count + stamps.len());
        }
        assert_eq!((after, count), (replica.submit().position(), 3_000));
    }
}
