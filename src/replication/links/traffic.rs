//! When bytes last moved on the connections with each peer, noted without a lock.
//!
//! The threads of the links write here, and the look at all peers reads. Times are those of
//! [`Now::elapsed`](crate::data::clock::Now), kept in microseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When something last moved on the connections with a peer.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes of the peer arrived.
    pub heard: Duration,
    /// Bytes of the peer that have arrived on its present connection.
    pub heard_len: u64,
    /// More of a long message to the peer left, and some of it still waits. That proves nothing:
    /// the operating system also takes bytes for a peer that is long gone.
    pub leaving: Duration,
}

/// The notes on one peer.
#[derive(Default)]
pub struct TrafficNotes {
    heard: AtomicU64,
    heard_len: AtomicU64,
    leaving: AtomicU64,
}

impl TrafficNotes {
    /// Bytes of the peer have arrived: `len` so far on this connection, behind its HELLO.
    pub fn heard(&self, len: u64, elapsed: Duration) {
        self.heard_len.store(len, Ordering::Release);
        note(&self.heard, elapsed);
    }

    /// More of a long message to the peer has left, and some of it still waits.
    pub fn leaving(&self, elapsed: Duration) {
        note(&self.leaving, elapsed);
    }

    /// Bytes of the peer that have arrived on its present connection.
    pub fn heard_len(&self) -> u64 {
        self.heard_len.load(Ordering::Acquire)
    }

    pub fn read(&self) -> Traffic {
        let time = |noted: &AtomicU64| Duration::from_micros(noted.load(Ordering::Acquire));
        Traffic { heard: time(&self.heard), heard_len: self.heard_len(), leaving: time(&self.leaving) }
    }
}

/// Notes a time. If several threads do, the latest stays.
fn note(at: &AtomicU64, elapsed: Duration) {
    at.fetch_max(elapsed.as_micros() as u64, Ordering::AcqRel);
}
