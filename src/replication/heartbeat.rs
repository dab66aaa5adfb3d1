//! The heartbeat: the one thread that looks at everything at regular times.
//!
//! Beats themselves are sent by the links and answered by the thread that applies (inbound.rs), so that a peer that merely accepts connections does not look alive.

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::data::clock::{Now, Stamp};
use crate::replication::collector::Collector;
use crate::replication::folding::Folder;
use crate::replication::mesh::Mesh;
use crate::replication::rest::Rest;

/// What is done at every beat, beside what every event brings about.
#[derive(Default)]
pub struct Heartbeat {
    collector: Collector,
    folder: Folder,
    rest: Rest,
    /// Own writes that the log must get before the mark that was noted last.
    marking: Option<Stamp>,
}

impl Heartbeat {
    pub fn beat(&mut self, mesh: &Mesh, now: Now) {
        mesh.mark(&mut self.marking);
        mesh.tick(now);
        self.collector.step(mesh, now);
        self.folder.step(mesh, now);
        self.rest.step(mesh, now);
    }
}

/// Ends when the other end of `stop_rx` is dropped.
pub fn run_heartbeat(mesh: &Mesh, stop_rx: &Receiver<()>) {
    let mut heartbeat = Heartbeat::default();
    while stop_rx.recv_timeout(mesh.config().heartbeat) == Err(RecvTimeoutError::Timeout) {
        heartbeat.beat(mesh, Now::read());
    }
}
