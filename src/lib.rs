//! kvmesh
pub mod clock;
pub mod config;
pub mod entry;
pub mod protocol;
pub mod store;
