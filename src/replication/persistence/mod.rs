//! Persistence: what replication keeps on disk. Records for the write-ahead log, snapshots, and how
//! both are read at the start.

pub mod hand_off;
pub mod record;
pub mod replay;
pub mod snapshots;
