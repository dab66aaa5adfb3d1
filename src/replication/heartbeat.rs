//! The heartbeat: the one thread that looks at everything at regular times.
//!
//! Beats themselves are sent by the links and answered by the thread that applies (inbound.rs), so that a peer that merely accepts connections does not look alive.

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::data::clock::{Now, Stamp};
use crate::replication::anti_entropy::AntiEntropy;
use crate::replication::folding::Folder;
use crate::replication::replica::Replica;
use crate::replication::tombstone_gc::TombstoneGc;

/// What is done at every beat, beside what every event brings about.
#[derive(Default)]
pub struct HeartbeatLoop {
    collector: TombstoneGc,
    folder: Folder,
    rest: AntiEntropy,
    /// Own writes that the log must get before the mark that was noted last.
    marking: Option<Stamp>,
}

impl HeartbeatLoop {
    pub fn beat(&mut self, replica: &Replica, now: Now) {
        replica.persistence.mark(&mut self.marking, || replica.submit.position());
        replica.tick(now);
        self.collector.step(replica, now);
        self.folder.step(replica, now);
        self.rest.step(replica, now);
    }
}

/// Ends when the other end of `stop_rx` is dropped.
pub fn run_heartbeat(replica: &Replica, stop_rx: &Receiver<()>) {
    let mut heartbeat = HeartbeatLoop::default();
    while stop_rx.recv_timeout(replica.config().heartbeat) == Err(RecvTimeoutError::Timeout) {
        heartbeat.beat(replica, Now::read());
    }
}
