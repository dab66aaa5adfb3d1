//! kvmesh
pub mod arguments;
pub mod client;
pub mod clock;
pub mod config;
pub mod dump;
pub mod entry;
pub mod node;
pub mod protocol;
pub mod replication;
pub mod server;
pub mod store;
