//! The connections between nodes: for each peer one that this node speaks on and one that it listens on.

pub mod incoming;
pub mod outbox;
pub mod outgoing;
mod unidentified;
