//! What the rest of the mesh has to do with the disk: handing records over, and hearing when they are durable.
//!
//! **I7** is carried out here: nothing is claimed, of own writes or of peers', before the write-ahead log says that it is durable, where it is configured so. Never waits under a
//! lock, and never for the disk itself but where somebody asks for just that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budget::Permit;
use crate::data::clock::Stamp;
use crate::data::version::Origin;
use crate::replication::persistence::record::{self, Incarnation};
use crate::replication::replica::Replica;
use crate::wal;

/// How long somebody who asked for it waits for the disk.
const DURABLE_WAIT: Duration = Duration::from_secs(30);

/// Which of the vectors that peers are told is on the disk by now, in marks: a beat says which mark its vector waits for, and which was the last to become durable (**I6**).
#[derive(Default)]
pub(in crate::replication) struct Marks {
    /// The last mark that was noted: it stands for the vector of that moment.
    noted: AtomicU64,
    /// Own writes were handed to the log up to here.
    handed: AtomicU64,
}

impl Marks {
    /// Own writes up to here are in the log's queue.
    pub fn hand_over(&self, upto: Stamp) {
        self.handed.fetch_max(upto.to_bits(), Ordering::SeqCst);
    }

    /// The mark that what was told before waits for: one that will be noted after this.
    pub fn next(&self) -> u64 {
        self.noted.load(Ordering::SeqCst) + 1
    }
}

impl Replica {
    /// A beginning for the disk to know: who writes from here on.
    pub fn record_incarnation(&self) {
        let (cluster, version, order) = (self.config.cluster.clone(), env!("CARGO_PKG_VERSION").to_owned(), *self.order.lock());
        let incarnation = Incarnation { cluster, origin: self.origin, version, order };
        self.record(Arc::new(record::incarnation(&incarnation)), None, None);
    }

    /// Hands a record to the log. `reached` is what may be claimed once it, and all before it, are durable. Never blocks: may be called under any lock.
    pub(in crate::replication) fn record(&self, bytes: Arc<Vec<u8>>, reached: Option<(Origin, Stamp)>, room: Option<Permit>) {
        match &self.wal {
            Some(wal) if wal.is_waited_for() => wal.append(wal::Record { bytes, reached, room }),
            Some(wal) => {
                if !bytes.is_empty() {
                    wal.append(wal::Record { bytes, reached: None, room });
                }
                // Nobody waits for the disk, but nobody is told of what will never be there either.
                if wal.is_writable() {
                    self.durable(reached);
                }
            }
            None => self.durable(reached),
        }
    }

    /// At every beat: the log gets the mark that was noted last, and the next one is noted. What peers sent is handed to the log when the vector moves; own writes come later, so those are
    /// waited for that had been issued when the mark was noted: up to `waiting`.
    pub(in crate::replication) fn mark(&self, waiting: &mut Option<Stamp>) {
        let Some(wal) = &self.wal else { return };
        if waiting.is_some_and(|own| own.to_bits() <= self.marks.handed.load(Ordering::SeqCst)) {
            wal.mark(self.marks.noted.load(Ordering::SeqCst));
            *waiting = None;
        }
        if waiting.is_none() {
            self.marks.noted.fetch_add(1, Ordering::SeqCst);
            *waiting = Some(self.submit.position());
        }
    }

    /// The mark for which a vector waits that was read before, and the last one that is durable.
    pub(in crate::replication) fn marks(&self) -> (u64, u64) {
        self.wal.as_ref().map_or((0, 0), |wal| (self.marks.next(), wal.durable_mark()))
    }

    /// Everything of this origin up to this stamp may be claimed: it is durable, or nobody waits for that.
    pub fn durable(&self, reached: Option<(Origin, Stamp)>) {
        let Some((origin, upto)) = reached else { return };
        if origin == self.origin {
            self.acks.durable(upto);
        } else {
            self.links.durable(origin, upto);
        }
    }

    /// Waits until there is room for what a peer has sent; an error says that the log does not keep up.
    pub fn await_room(&self, len: usize, deadline: Instant) -> Result<Option<Permit>, String> {
        let Some(wal) = &self.wal else { return Ok(None) };
        wal.reserve(len, deadline).map(Some).ok_or_else(|| "the log does not keep up with what it sends".to_owned())
    }

    /// Waits until everything that was recorded is durable, whatever the configuration says; an error says why it is not.
    pub(in crate::replication) fn await_durable(&self) -> Result<(), String> {
        self.wal.as_ref().map_or(Ok(()), |wal| wal.await_durable(DURABLE_WAIT))
    }

    /// Whether writes can be logged; an error says why not, and what helps.
    pub fn writable(&self) -> Result<(), String> {
        match &self.wal {
            Some(wal) if !wal.is_writable() => Err(wal.condition().stopped.map_or_else(
                || "the log is being resumed: a snapshot is on its way to the disk; try again later".to_owned(),
                |stopped| stopped.sentence,
            )),
            _ => self.may_begin(),
        }
    }

    /// Whether this node's acks are worth something: it serves clients, and logs.
    pub(in crate::replication) fn vouches(&self) -> bool {
        self.is_open() && self.wal.as_ref().is_none_or(|wal| wal.is_writable())
    }

    pub(in crate::replication) fn note_replay(&self, progress: Option<(u64, u64)>) {
        *self.replaying.lock() = progress;
    }

    /// Bytes read of the disk, and of how many, while it is read.
    pub(in crate::replication) fn replaying(&self) -> Option<(u64, u64)> {
        *self.replaying.lock()
    }
}
