//! The connections between nodes: for each peer one that this node speaks on and one that it
//! listens on.
//!
//! [`Links`] is what the rest of replication sees of them: an [`outbox`] for each peer, and the
//! [`traffic`] with it. The threads [`outgoing`] and [`incoming`] open the sockets and close them;
//! a [`sender`] is where any thread gives bytes to one. By [`authentication`] the two ends prove to
//! each other who they are, and [`handshake`] says which HELLOs are good.

mod arriving;
pub mod authentication;
mod dialed;
pub mod handshake;
pub mod incoming;
pub mod outbox;
pub mod outgoing;
pub mod sender;
mod tls_socket;
pub mod traffic;
mod unidentified;

#[cfg(all(test, feature = "interleavings"))]
mod interleavings;

use std::io;
use std::sync::Arc;

use crate::config::Config;
use crate::data::clock::{Clock, Stamp};
use crate::data::version::Origin;
use crate::replication::links::outbox::{EncodedBatch, Outbox};
use crate::replication::links::sender::Sender;
use crate::replication::links::traffic::{Traffic, TrafficNotes};
use crate::wire::challenge::{MAC_LEN, Nonce};
use crate::wire::peer::MESSAGE_LEN_MAX;

/// Bytes that a message may have beside two writes of the greatest length: the other writes of a
/// batch, or the vectors of a dump and the lines before the longest one.
const MESSAGE_BESIDE: usize = 4 << 20;

/// An ack that is due. Dropping it sends the ack. Better when no lock is held that others want:
/// that costs a system call.
#[must_use]
pub struct DueAck<'a>(Option<(&'a Links, usize)>);

impl DueAck<'_> {
    pub const NONE: DueAck<'static> = DueAck(None);
}

impl Drop for DueAck<'_> {
    fn drop(&mut self) {
        if let Some((links, peer)) = self.0 {
            links.send_now(peer);
        }
    }
}

/// Both directions of every link, as far as other threads may use them. Peers are numbered by their
/// position in the configuration.
pub struct Links {
    /// For the acks that are sent here.
    clock: Arc<Clock>,
    outboxes: Vec<Outbox>,
    senders: Vec<Sender>,
    traffic: Vec<TrafficNotes>,
}

impl Links {
    /// `queue_len_max`: bytes of batches that may wait for one peer.
    pub fn new(peers: usize, queue_len_max: usize, clock: Arc<Clock>) -> Links {
        Links {
            clock,
            outboxes: (0..peers).map(|_| Outbox::new(queue_len_max)).collect(),
            senders: (0..peers).map(|_| Sender::default()).collect(),
            traffic: (0..peers).map(|_| TrafficNotes::default()).collect(),
        }
    }

    /// The queue to one peer.
    pub fn outbox(&self, peer: usize) -> &Outbox {
        &self.outboxes[peer]
    }

    /// The sender on the connection to one peer.
    pub fn sender(&self, peer: usize) -> &Sender {
        &self.senders[peer]
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

    /// Sends own writes to every peer that listens, or queues them. Never waits (**I4**).
    pub fn push(&self, batch: &EncodedBatch) {
        self.outboxes.iter().for_each(|outbox| outbox.push(batch));
        (0..self.outboxes.len()).for_each(|peer| self.send_now(peer));
    }

    /// Sends batches and the ack that wait for a peer, or has the link's thread do it. Never waits.
    fn send_now(&self, peer: usize) {
        let outbox = &self.outboxes[peer];
        if !self.senders[peer].send_now(outbox, &self.clock) {
            outbox.call_thread();
        }
    }

    /// A heartbeat is due on every link, ahead of its time.
    pub fn heartbeat(&self) {
        self.outboxes.iter().for_each(Outbox::heartbeat);
    }

    /// Everything of `origin` up to `upto` that is here may be acknowledged.
    pub fn durable(&self, origin: Origin, upto: Stamp) -> DueAck<'_> {
        let peer = self.outboxes.iter().position(|outbox| outbox.durable(origin, upto));
        DueAck(peer.map(|peer| (self, peer)))
    }

    /// This node serves clients from now on, and acknowledges what it has.
    pub fn vouch(&self) {
        for outbox in &self.outboxes {
            outbox.vouch();
            outbox.heartbeat();
        }
    }
}

/// Bytes of a message that this node takes of a peer, at most: as long as one can be by this node's
/// own limits. A batch ends with the write by which it is full, and a dump line may take twice the
/// bytes of its key and value.
fn message_len_max(config: &Config) -> usize {
    MESSAGE_LEN_MAX.min(MESSAGE_BESIDE + 2 * (config.key_len_max + config.value_len_max))
}

/// Draws a nonce for one side of one connection.
fn random_nonce() -> io::Result<Nonce> {
    let mut random = [0; MAC_LEN];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(Nonce::of(random))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{KEY_LEN_MAX, VALUE_LEN_MAX};
    use crate::testing::simulated_node::config;
    use crate::wire::dump::line_len_max;

    #[test]
    fn the_longest_line_by_the_limits_is_taken_and_not_much_more() {
        let one_write = (KEY_LEN_MAX + VALUE_LEN_MAX + 1024) as usize;
        let greatest =
            json!({ "key_len_max": KEY_LEN_MAX, "value_len_max": VALUE_LEN_MAX, "link_queue_max": one_write, "write_room": one_write });
        for fields in [json!({}), json!({ "key_len_max": 10, "value_len_max": 10 }), greatest] {
            let config = config(1, 3, &fields);
            let longest_line = line_len_max(config.key_len_max, config.value_len_max);
            let len_max = message_len_max(&config);
            // A message begins with the header and shorter lines.
            assert!(len_max > longest_line + (2 << 20) && len_max < longest_line + (5 << 20), "{len_max} for lines of {longest_line}");
            assert!(len_max < MESSAGE_LEN_MAX);
        }
    }
}
