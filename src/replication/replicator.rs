//! The replicator: the one thread that turns submitted writes into frames.
//!
//! It drains the channel, takes everything that waits, encodes *one* frame, and hands the same bytes to the log and to every peer's outbox. **I4**: it never touches a socket
//! or a disk, so nobody can slow it down. As long as no session waits for a peer, for the disk or for room it lets some writes come together first: a frame costs every thread that it passes a
//! turn, here and on the peers, whether it holds one write or hundreds.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::data::clock::Stamp;
use crate::data::entry::{Entry, Origin};
use crate::replication::mesh::Mesh;
use crate::replication::outbox::EncodedFrame;
use crate::replication::submit::Submitted;
use crate::wire::peer::encode_frame;

/// Reserved bytes after which a frame is closed. One write larger than this still makes a frame of its own.
const FRAME_LEN: usize = 1 << 20;
/// How long writes that nobody waits for come together. A session that begins to wait meanwhile waits so much longer.
const GATHER_PAUSE: Duration = Duration::from_micros(300);

/// Makes the frames of this node's own writes.
pub struct Framer {
    origin: Origin,
    /// Where the last frame ended.
    after: Stamp,
}

impl Framer {
    pub fn new(origin: Origin) -> Framer {
        Framer { origin, after: Stamp::ZERO }
    }

    /// One frame of the writes that came next, in stamp order.
    pub fn frame(&mut self, writes: &[Entry]) -> EncodedFrame {
        let upto = writes.last().map_or(self.after, |last| last.version().stamp);
        let mut bytes = Vec::with_capacity(writes.iter().map(|write| write.size() + 32).sum::<usize>() + 64);
        encode_frame(&mut bytes, self.origin, self.after, upto, writes);
        self.after = upto;
        EncodedFrame { bytes: Arc::new(bytes), upto }
    }
}

/// What the replicator owns.
pub struct Replicator {
    framer: Framer,
    /// Those of the frame that is being made; kept for its memory.
    writes: Vec<Entry>,
}

impl Replicator {
    pub fn new(origin: Origin) -> Replicator {
        Replicator { framer: Framer::new(origin), writes: Vec::new() }
    }

    /// One frame of `first` and what waits behind it.
    pub fn forward(&mut self, mesh: &Mesh, first: Submitted, write_rx: &Receiver<Submitted>) {
        let mut reserved = first.reserved;
        self.writes.push(first.entry);
        while reserved < FRAME_LEN
            && let Ok(next) = write_rx.try_recv()
        {
            reserved += next.reserved;
            self.writes.push(next.entry);
        }
        mesh.hand_over(&self.framer.frame(&self.writes), mesh.submit().held(reserved));
        self.writes.clear();
    }
}

/// Ends when the channel is closed and empty.
pub fn run_replicator(mesh: &Mesh, write_rx: &Receiver<Submitted>) {
    let mut replicator = Replicator::new(mesh.origin());
    while let Ok(first) = write_rx.recv() {
        let is_waited_for = mesh.acks().is_awaited() || mesh.submit().is_room_awaited();
        if first.reserved < FRAME_LEN && !is_waited_for {
            thread::sleep(GATHER_PAUSE);
        }
        replicator.forward(mesh, first, write_rx);
    }
}
