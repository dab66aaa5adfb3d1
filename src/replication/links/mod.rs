//! The connections between nodes: for each peer one that this node speaks on and one that it
//! listens on.
//!
//! [`Links`] is what the rest of replication sees of them: an [`outbox`] for each peer, and the
//! [`traffic`] with it. The threads [`outgoing`] and [`incoming`] own the sockets.

pub mod handshake;
pub mod incoming;
pub mod outbox;
pub mod outgoing;
pub mod traffic;
mod unidentified;

use crate::data::clock::Stamp;
use crate::data::version::Origin;
use crate::replication::links::outbox::{EncodedBatch, Outbox};
use crate::replication::links::traffic::{Traffic, TrafficNotes};

/// Both directions of every link, as far as other threads may use them. Peers are numbered by their
/// position in the configuration.
pub struct Links {
    outboxes: Vec<Outbox>,
    traffic: Vec<TrafficNotes>,
}

impl Links {
    /// `queue_len_max`: bytes of batches that may wait for one peer.
    pub fn new(peers: usize, queue_len_max: usize) -> Links {
        Links {
            outboxes: (0..peers).map(|_| Outbox::new(queue_len_max)).collect(),
            traffic: (0..peers).map(|_| TrafficNotes::default()).collect(),
        }
    }

    /// The queue to one peer.
    pub fn outbox(&self, peer: usize) -> &Outbox {
        &self.outboxes[peer]
    }

    /// The queues to all peers, in their order.
    pub fn outboxes(&self) -> impl Iterator<Item = &Outbox> {
        self.outboxes.iter()
    }

    /// The notes on what moves on the connections with one peer.
    pub fn traffic_with(&self, peer: usize) -> &TrafficNotes {
        &self.traffic[peer]
    }

    /// The traffic on the connections with each peer.
    pub fn traffic(&self) -> Vec<Traffic> {
        self.traffic.iter().map(TrafficNotes::read).collect()
    }

    /// Queues own writes for every peer that listens.
    pub fn push(&self, batch: &EncodedBatch) {
        self.outboxes.iter().for_each(|outbox| outbox.push(batch));
    }

    /// A heartbeat is due on every link, ahead of its time.
    pub fn heartbeat(&self) {
        self.outboxes.iter().for_each(Outbox::heartbeat);
    }

    /// Everything of `origin` up to `upto` that is here may be acknowledged.
    pub fn durable(&self, origin: Origin, upto: Stamp) {
        self.outboxes.iter().for_each(|outbox| outbox.durable(origin, upto));
    }

    /// This node serves clients from now on, and acknowledges what it has.
    pub fn vouch(&self) {
        for outbox in &self.outboxes {
            outbox.vouch();
            outbox.heartbeat();
        }
    }
}
