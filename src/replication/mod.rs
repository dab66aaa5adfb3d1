//! Replication.
pub mod acks;
pub mod collector;
pub mod control;
pub mod heartbeat;
pub mod inbound;
pub mod link;
pub mod listener;
pub mod mesh;
pub mod outbox;
pub mod replicator;
pub mod report;
pub mod rest;
pub mod submit;

#[cfg(test)]
mod tests;
