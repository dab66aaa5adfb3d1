//! The replicator: the one place where submitted writes become write batches.
//!
//! A batch is made under one lock: everything that waits in the channel becomes *one* batch, and
//! the same bytes go to the log and to every peer's outbox. **I2**: nobody takes from the channel
//! without that lock, so batches leave in the order of their writes, whoever makes them. **I4**:
//! nothing is waited for meanwhile, no socket and no disk. What a socket takes at once it sends
//! itself.
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
use crate::sync::unbounded::{Receiver, TryRecvError, await_item};
use crate::sync::{Mutex, MutexGuard};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::peer::encode_batch;

/// Reserved bytes after which a batch is closed. Only its last write may be larger than what is
/// left of them.
const BATCH_LEN: usize = 1 << 20;
/// Pause in which writes that no session waits for come together. A session that begins to wait
/// meanwhile waits so much longer.
const GATHER_PAUSE: Duration = Duration::from_micros(300);

/// The replicator of one node.
pub struct Replicator {
    write_rx: Receiver<Submitted>,
    /// Held from when the first write of a batch is taken out of the channel until the batch is
    /// handed over.
    batcher: Mutex<Batcher>,
}

/// Makes the batches of this node's own writes.
struct Batcher {
    origin: Origin,
    /// The stamp at which the last batch ended.
    after: Stamp,
    /// The writes of the batch that is being made; kept for its memory.
    writes: Vec<Entry>,
}

impl Replicator {
    pub fn new(origin: Origin, write_rx: Receiver<Submitted>) -> Replicator {
        Replicator { write_rx, batcher: Mutex::new(Batcher { origin, after: Stamp::ZERO, writes: Vec::new() }) }
    }

    /// Runs the thread `replicator`. Ends when the channel is closed and all that was in it is
    /// handed over, by whomever.
    pub fn run(&self, replica: &Replica) {
        loop {
            await_item(&self.write_rx);
            if !replica.acks().is_awaited() && !replica.submit().is_budget_awaited() {
                #[expect(clippy::disallowed_methods, reason = "less than any wait that a stop could notice")]
                thread::sleep(GATHER_PAUSE);
            }
            if !self.step(replica) {
                return;
            }
        }
    }

    /// Hands over one batch of what waits, if nobody does so just now. For a session that is about
    /// to wait for its writes, and knows of no other that writes.
    pub fn hand_over_early(&self, replica: &Replica) {
        if let Some(batcher) = self.batcher.try_lock() {
            self.hand_over(replica, batcher, None);
        }
    }

    /// Hands over one batch of what waits. Returns false if nothing waits and nothing will come.
    pub fn step(&self, replica: &Replica) -> bool {
        let taken = if BrokenHandOver::TakenUnlocked.is_on() { self.write_rx.try_recv().ok() } else { None };
        self.hand_over(replica, self.batcher.lock(), taken)
    }

    /// As [`Replicator::step`]; `taken` is in front of what waits.
    fn hand_over(&self, replica: &Replica, mut batcher: MutexGuard<'_, Batcher>, mut taken: Option<Submitted>) -> bool {
        let (mut reserved, mut is_over) = (0, false);
        while reserved < BATCH_LEN && !is_over {
            match taken.take().map_or_else(|| self.write_rx.try_recv(), Ok) {
                Ok(Submitted { entry, reserved: bytes }) => {
                    reserved += bytes;
                    batcher.writes.push(entry);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => is_over = true,
            }
        }
        if let Some(batch) = batcher.batch() {
            replica.hand_over(&batch, replica.submit().held(reserved));
        }
        !is_over
    }
}

impl Batcher {
    /// Makes one batch of the writes that were taken; `None` if there are none.
    fn batch(&mut self) -> Option<EncodedBatch> {
        let Batcher { origin, after, writes } = self;
        let upto = writes.last()?.version().stamp;
        let mut bytes = Vec::with_capacity(writes.iter().map(|write| write.size() + 32).sum::<usize>() + 64);
        encode_batch(&mut bytes, *origin, *after, upto, writes);
        *after = upto;
        writes.clear();
        Some(EncodedBatch { bytes: Arc::new(bytes), upto })
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
