//! The heartbeat: the one thread that looks at everything at regular times.
//!
//! The links send the heartbeat messages, and the thread that applies a peer's messages answers
//! them ([`inbound`](super::inbound)). So a peer that merely accepts connections does not look
//! alive.

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::data::clock::{Now, Stamp};
use crate::data::version::VersionVector;
use crate::replication::anti_entropy::AntiEntropy;
use crate::replication::folding::Folder;
use crate::replication::peers::table::QuiescentState;
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::replication::tombstone_gc::TombstoneGc;
use crate::wire::peer::{Heartbeat, QuiescentDigest};

/// The work of every heartbeat, beside what follows from single events.
#[derive(Default)]
pub struct HeartbeatLoop {
    gc: TombstoneGc,
    folder: Folder,
    anti_entropy: AntiEntropy,
    /// Own writes that the log must get before the mark that was noted last.
    marking: Option<Stamp>,
}

impl HeartbeatLoop {
    pub fn step(&mut self, replica: &Replica, now: Now) {
        replica.persistence.mark(&mut self.marking, || replica.submit.position());
        tick(replica, now);
        self.gc.step(replica, now);
        self.folder.step(replica, now);
        self.anti_entropy.step(replica, now);
    }
}

/// Looks at everything: which peers lag, which are up, which to ask for a dump, whether to open.
pub fn tick(replica: &Replica, now: Now) {
    replica.clock.slew(now);
    stamps::rebase_clock(replica, now);
    replica.acks.observe_lag(replica.submit.position(), replica.submit.written(), now.elapsed);
    replica.decide(now, |_| ());
    replica.scan_order.apply();
    replica.links.heartbeat();
}

/// Builds the next heartbeat for a connection to this peer. `sent_vector` is what the peer was sent
/// of the vector, and is brought up to date. All batches up to `upto` have passed on the
/// connection.
pub fn next(replica: &Replica, peer: usize, upto: Stamp, sent_vector: &mut VersionVector, now: Now) -> Heartbeat {
    let vector = replica.vector();
    // Read after the vector, which may claim more than what was noted until then.
    let (mark, durable_mark) = replica.persistence.marks();
    let changes = vector.ahead_of(sent_vector);
    sent_vector.join(&changes);
    let settled = match &replica.peers.table().quiescent {
        Some(QuiescentState { vector: settled, digest, before_ms }) if *settled == vector => {
            Some(QuiescentDigest { sum: digest.sum, keys: digest.keys, before_ms: *before_ms })
        }
        _ => None,
    };
    Heartbeat {
        sent: now.elapsed.as_micros() as u64,
        wall_ms: now.wall_ms,
        clocks: Some(replica.clock.read(now.elapsed)),
        open: replica.vouches(),
        upto,
        vector: changes,
        settled,
        taken: replica.links.traffic_with(peer).heard_len(),
        mark,
        durable_mark,
        order: replica.scan_order.get(),
    }
}

/// Runs the thread `heartbeat`. Ends when the other end of `stop_rx` is dropped.
pub fn run_heartbeat(replica: &Replica, stop_rx: &Receiver<()>) {
    let mut heartbeat = HeartbeatLoop::default();
    while stop_rx.recv_timeout(replica.config().heartbeat) == Err(RecvTimeoutError::Timeout) {
        heartbeat.step(replica, Now::read());
    }
}
