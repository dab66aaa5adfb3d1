//! Replication.
pub mod acks;
pub mod submit;
