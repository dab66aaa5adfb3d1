//! Dumps on their way in: from a peer, to catch up with it, and from a client that restores a backup.

pub mod receiver;
pub mod restore;
pub mod scan;
pub mod serving;
