//! Dumps: how they are served, and how they are taken, from a peer to catch up with it, or from a
//! client that restores a backup.

pub mod ending;
mod held_keys;
pub mod receiver;
pub mod restore;
pub mod scan;
pub mod serving;
