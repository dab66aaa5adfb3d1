//! The end of a full dump: what its end line proves is carried out in pieces.
//!
//! To find what a dump has proven deleted, the whole store is gone through. Among ten million keys
//! that takes a second or more, and the thread that does so also answers the donor's heartbeats and
//! acknowledges its batches. So it does a piece between two reads
//! ([`inbound`](crate::replication::inbound)).
//!
//! The order is that of **I6**: first the drops, then drops, GC horizon and vector in one step, in
//! memory and in the log. What has begun is always carried out, also when the connection ends or
//! the request is given up: an end line that was found good stays true. A node that dies before
//! that step has logged nothing of it, and asks anew.

use crate::data::entry::Entry;
use crate::replication::persistence::record::{self, Proven};
use crate::replication::replica::Replica;
use crate::replication::sync::receiver::DumpReceiver;
use crate::store::{Store, Walk};
use crate::wire::dump::EndLine;

/// A full dump whose end line has come. Until it is taken, it counts in `proving` of the peer
/// table: the tombstone GC rests, and no node opens.
pub(in crate::replication) struct Ending {
    dump: DumpReceiver,
    end: EndLine,
    /// Entries that were dropped so far.
    dropped: usize,
    stage: Stage,
}

enum Stage {
    /// Drops what the dump has proven deleted. `removed`: the records of that, for the log.
    Dropping { drops: Drops, removed: Vec<u8> },
    /// Drops once more, after the vector was joined. Between the drop in an entry's shard and the
    /// join, a live batch may have brought back what is gone. From the join on, none can.
    DroppingLate(Drops),
    /// Frees the memory of the dump's keys.
    Freeing,
}

/// How far the store was gone through.
struct Drops {
    /// No entry moves from one shard into another meanwhile.
    _walk: Walk,
    shard: usize,
}

/// A piece of work that was done, and what the caller has to do before the next one.
pub(in crate::replication) enum Piece {
    /// There is more to be done.
    Done,
    /// All is dropped that the dump has proven deleted, and `removed` has the records of that. What
    /// the dump proves is to be joined.
    Join { proven: Proven, removed: Vec<u8> },
    /// All is done that the dump proves, and so many entries were dropped: the dump is taken.
    Taken { dropped: usize },
    /// There is nothing left to do.
    Freed,
}

impl Ending {
    /// Begins with the end line of a full dump, after [`DumpReceiver::check`].
    pub fn begin(replica: &Replica, dump: DumpReceiver, end: EndLine) -> Ending {
        let stage = Stage::Dropping { drops: Drops::begin(&replica.store), removed: Vec::new() };
        Ending { dump, end, dropped: 0, stage }
    }

    pub fn dump(&self) -> &DumpReceiver {
        &self.dump
    }

    /// Returns whether the dump is taken: only memory is left to be freed, and another dump may be
    /// on its way.
    pub fn is_taken(&self) -> bool {
        matches!(self.stage, Stage::Freeing)
    }

    /// Does a piece of work: to within a shard, it goes through so many entries.
    pub fn work(&mut self, replica: &Replica, entries: usize) -> Piece {
        match &mut self.stage {
            Stage::Dropping { drops, removed } => {
                let some = drops.go_on(&self.dump, &replica.store, entries);
                self.dropped += some.len();
                removed.extend(record::removed(&some));
                if drops.has_more(&replica.store) {
                    return Piece::Done;
                }
                let proven = Proven { vector: self.dump.header().vector.clone(), horizon: self.end.horizon.clone() };
                let removed = std::mem::take(removed);
                self.stage = Stage::DroppingLate(Drops::begin(&replica.store));
                Piece::Join { proven, removed }
            }
            Stage::DroppingLate(drops) => {
                let late = drops.go_on(&self.dump, &replica.store, entries);
                self.dropped += late.len();
                replica.persistence.record_dropped(&late);
                if drops.has_more(&replica.store) {
                    return Piece::Done;
                }
                self.stage = Stage::Freeing;
                Piece::Taken { dropped: self.dropped }
            }
            Stage::Freeing if self.dump.free_some(entries) => Piece::Done,
            Stage::Freeing => Piece::Freed,
        }
    }
}

impl Drops {
    fn begin(store: &Store) -> Drops {
        Drops { _walk: store.walk(), shard: 0 }
    }

    /// Drops what the dump has proven deleted in the next shards, until so many entries were looked
    /// at. Returns what was dropped.
    fn go_on(&mut self, dump: &DumpReceiver, store: &Store, entries: usize) -> Vec<Entry> {
        let (mut dropped, mut seen) = (Vec::new(), 0);
        while seen < entries && self.has_more(store) {
            seen += store.shard_len(self.shard);
            dropped.extend(store.remove(self.shard, |entry| dump.lacks(entry)));
            self.shard += 1;
        }
        dropped
    }

    fn has_more(&self, store: &Store) -> bool {
        self.shard < store.shards_len()
    }
}
