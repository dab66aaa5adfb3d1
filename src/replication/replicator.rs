//! The replicator: the one thread that turns submitted writes into write batches.
//!
//! It drains the channel, takes everything that waits, encodes *one* batch, and hands the same
//! bytes to the log and to every peer's outbox. **I4**: it never waits for a socket or a disk. What
//! a socket takes at once it sends itself.
//!
//! As long as no session waits for a peer, for the disk or for the back-pressure budget, it lets
//! some writes come together first. A batch costs every thread that it passes a turn, here and on
//! the peers, whether it holds one write or hundreds.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::data::version::Origin;
use crate::replication::links::outbox::EncodedBatch;
use crate::replication::replica::Replica;
use crate::replication::submit::Submitted;
use crate::wire::peer::encode_batch;

/// Reserved bytes after which a batch is closed. One write larger than this still makes a batch of
/// its own.
const BATCH_LEN: usize = 1 << 20;
/// Pause in which writes that no session waits for come together. A session that begins to wait
/// meanwhile waits so much longer.
const GATHER_PAUSE: Duration = Duration::from_micros(300);

/// Makes the batches of this node's own writes.
struct Batcher {
    origin: Origin,
    /// The stamp at which the last batch ended.
    after: Stamp,
}

impl Batcher {
    fn new(origin: Origin) -> Batcher {
        Batcher { origin, after: Stamp::ZERO }
    }

    /// Makes one batch of the next writes, in stamp order.
    fn batch(&mut self, writes: &[Entry]) -> EncodedBatch {
        let upto = writes.last().map_or(self.after, |last| last.version().stamp);
        let mut bytes = Vec::with_capacity(writes.iter().map(|write| write.size() + 32).sum::<usize>() + 64);
        encode_batch(&mut bytes, self.origin, self.after, upto, writes);
        self.after = upto;
        EncodedBatch { bytes: Arc::new(bytes), upto }
    }
}

/// The state of the replicator.
pub struct Replicator {
    batcher: Batcher,
    /// The writes of the batch that is being made; kept for its memory.
    writes: Vec<Entry>,
}

impl Replicator {
    pub fn new(origin: Origin) -> Replicator {
        Replicator { batcher: Batcher::new(origin), writes: Vec::new() }
    }

    /// Hands over one batch of `first` and what waits behind it.
    pub fn forward(&mut self, replica: &Replica, first: Submitted, write_rx: &Receiver<Submitted>) {
        let mut reserved = first.reserved;
        self.writes.push(first.entry);
        while reserved < BATCH_LEN
            && let Ok(next) = write_rx.try_recv()
        {
            reserved += next.reserved;
            self.writes.push(next.entry);
        }
        replica.hand_over(&self.batcher.batch(&self.writes), replica.submit().held(reserved));
        self.writes.clear();
    }
}

/// Runs the thread `replicator`. Ends when the channel is closed and empty.
pub fn run_replicator(replica: &Replica, write_rx: &Receiver<Submitted>) {
    let mut replicator = Replicator::new(replica.origin());
    while let Ok(first) = write_rx.recv() {
        let is_waited_for = replica.acks().is_awaited() || replica.submit().is_budget_awaited();
        if first.reserved < BATCH_LEN && !is_waited_for {
            #[expect(clippy::disallowed_methods, reason = "less than any wait that a stop could notice")]
            thread::sleep(GATHER_PAUSE);
        }
        replicator.forward(replica, first, write_rx);
    }
}
