//! The hand-off to the write-ahead log, and what may be claimed once records are durable.
//!
//! **I7** is carried out here: where the configuration says so, no write is claimed before the log
//! reports it durable, neither an own one nor a peer's. Never waits under a lock, and waits for the
//! disk itself only in [`Persistence::await_durable`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::budget::Permit;
use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::data::version::{Origin, VersionVector};
use crate::replication::acks::Acks;
use crate::replication::links::{DueAck, Links};
use crate::replication::persistence::record::{self, Proven};
use crate::testing::broken_rules::BrokenRule;
use crate::wal::{QueuedRecords, Wal};

/// Longest wait of a caller of [`Persistence::await_durable`].
const DURABLE_WAIT: Duration = Duration::from_secs(30);

/// One node's way to its disk. A node without a log keeps nothing, and no session waits for a disk.
pub struct Persistence {
    origin: Origin,
    wal: Option<Arc<Wal>>,
    acks: Arc<Acks>,
    links: Arc<Links>,
    marks: Marks,
    /// Held while a snapshot is written: one at a time.
    snapshotting: Mutex<()>,
    /// The head of the snapshot on the disk says that incarnations may be folded in it.
    is_snapshot_folded: AtomicBool,
    /// Bytes read of the disk, and of how many, while it is read at the start.
    replaying: Mutex<Option<(u64, u64)>>,
}

/// Marks say which of the version vectors that peers were told is on the disk (**I6**). A heartbeat
/// names the mark that its vector waits for, and the last mark that became durable.
#[derive(Default)]
struct Marks {
    /// The last mark that was noted. It stands for the vector of that moment.
    noted: AtomicU64,
    /// Own writes up to this stamp were handed to the log.
    handed: AtomicU64,
}

impl Persistence {
    pub fn new(origin: Origin, wal: Option<Arc<Wal>>, acks: Arc<Acks>, links: Arc<Links>) -> Persistence {
        Persistence {
            origin,
            wal,
            acks,
            links,
            marks: Marks::default(),
            snapshotting: Mutex::default(),
            is_snapshot_folded: AtomicBool::new(false),
            replaying: Mutex::default(),
        }
    }

    /// The log, if there is one.
    pub fn wal(&self) -> Option<&Wal> {
        self.wal.as_deref()
    }

    /// Hands records to the log. Never blocks: may be called under any lock.
    pub fn record(&self, bytes: Arc<Vec<u8>>, permit: Option<Permit>) {
        if let Some(wal) = &self.wal
            && !bytes.is_empty()
        {
            wal.append(QueuedRecords { bytes, reached: None, permit });
        }
    }

    /// As [`Persistence::record`]. Once the records and all before them are durable, everything of
    /// the origin up to the stamp may be claimed; where no session waits for the disk, at once. An
    /// ack that is due by that is sent when the result is dropped.
    pub fn record_reaching(&self, bytes: Arc<Vec<u8>>, reached: (Origin, Stamp), permit: Option<Permit>) -> DueAck<'_> {
        let Some(wal) = &self.wal else { return self.claim(reached) };
        if wal.is_waited_for() {
            wal.append(QueuedRecords { bytes, reached: Some(reached), permit });
            return DueAck::NONE;
        }
        self.record(bytes, permit);
        // Nothing is claimed that will never be there.
        if wal.is_writable() { self.claim(reached) } else { DueAck::NONE }
    }

    /// Hands own writes to the log: those up to `upto`, encoded. `permit` is what they hold of the
    /// back-pressure budget until the log has taken them.
    pub fn record_own(&self, bytes: Arc<Vec<u8>>, upto: Stamp, permit: Permit) {
        drop(self.record_reaching(bytes, (self.origin, upto), Some(permit)));
        self.marks.handed.fetch_max(upto.to_bits(), Ordering::SeqCst);
    }

    /// Entries that were dropped after a dump's end line.
    pub fn record_dropped(&self, late: &[Entry]) {
        if !late.is_empty() && !BrokenRule::DropsNotLogged.is_on() {
            self.record(Arc::new(record::removed(late)), None);
        }
    }

    /// Tombstones that were collected, and the GC horizon that is left by that. Called with the
    /// peer table locked. The horizon comes first: a power cut may leave the one without the other,
    /// and a node that lacks a tombstone and does not know it would let a peer keep the deleted
    /// key.
    pub fn record_removed(&self, removed: &[Entry], horizon: &VersionVector) {
        let mut records = record::proven(&Proven { vector: VersionVector::default(), horizon: horizon.clone() });
        records.extend(record::removed(removed));
        self.record(Arc::new(records), None);
    }

    /// Everything of an origin up to a stamp is durable: it may be claimed.
    pub fn durable(&self, origin: Origin, upto: Stamp) {
        drop(self.claim((origin, upto)));
    }

    fn claim(&self, (origin, upto): (Origin, Stamp)) -> DueAck<'_> {
        if origin != self.origin {
            return self.links.durable(origin, upto);
        }
        self.acks.durable(upto);
        DueAck::NONE
    }

    /// At every heartbeat: the log gets the mark that was noted last, and the next one is noted.
    ///
    /// What peers sent is handed to the log when the vector moves. Own writes come later, so those
    /// are waited for that had been issued when the mark was noted: up to `waiting`. `position` is
    /// the last own write issued by now.
    pub fn mark(&self, waiting: &mut Option<Stamp>, position: impl FnOnce() -> Stamp) {
        let Some(wal) = &self.wal else { return };
        if waiting.is_some_and(|own| own.to_bits() <= self.marks.handed.load(Ordering::SeqCst)) {
            wal.mark(self.marks.noted.load(Ordering::SeqCst));
            *waiting = None;
        }
        if waiting.is_none() {
            self.marks.noted.fetch_add(1, Ordering::SeqCst);
            *waiting = Some(position());
        }
    }

    /// The mark that a vector waits for that was read before this call, and the last durable mark.
    pub fn marks(&self) -> (u64, u64) {
        self.wal.as_ref().map_or((0, 0), |wal| (self.marks.noted.load(Ordering::SeqCst) + 1, wal.durable_mark()))
    }

    /// Waits until the log's budget has room for `len` bytes of a peer's. An error says that the
    /// log does not keep up.
    pub fn await_permit(&self, len: usize, deadline: Instant) -> Result<Option<Permit>, String> {
        let Some(wal) = &self.wal else { return Ok(None) };
        wal.reserve(len, deadline).map(Some).ok_or_else(|| "the log does not keep up with what it sends".to_owned())
    }

    /// Waits until everything that was recorded is durable, whatever the fsync policy. An error
    /// says why it is not.
    pub fn await_durable(&self) -> Result<(), String> {
        self.wal.as_ref().map_or(Ok(()), |wal| wal.await_durable(DURABLE_WAIT))
    }

    /// Writes can be logged, and peers' writes acknowledged.
    pub fn is_writable(&self) -> bool {
        self.wal.as_ref().is_none_or(|wal| wal.is_writable())
    }

    /// Checks that writes can be logged. An error says why not, and what helps.
    pub fn writable(&self) -> Result<(), String> {
        match &self.wal {
            Some(wal) if !wal.is_writable() => Err(wal.condition().stopped.map_or_else(
                || "the log is being resumed: a snapshot is on its way to the disk; try again later".to_owned(),
                |stopped| stopped.sentence,
            )),
            _ => Ok(()),
        }
    }

    /// The right to write a snapshot, of which there is one. `None`: another one is being written.
    pub fn try_snapshot(&self) -> Option<MutexGuard<'_, ()>> {
        self.snapshotting.try_lock()
    }

    pub fn is_snapshotting(&self) -> bool {
        self.snapshotting.is_locked()
    }

    pub fn is_snapshot_folded(&self) -> bool {
        self.is_snapshot_folded.load(Ordering::Acquire)
    }

    /// There is a snapshot on the disk. `is_folded`: incarnations may be folded in it.
    pub fn note_snapshot(&self, is_folded: bool) {
        self.is_snapshot_folded.store(is_folded, Ordering::Release);
    }

    /// How far the disk has been read at the start: bytes, and of how many. `None` at the end.
    pub fn note_replay(&self, progress: Option<(u64, u64)>) {
        *self.replaying.lock() = progress;
    }

    /// Bytes read of the disk, and of how many, while it is read at the start.
    pub fn replaying(&self) -> Option<(u64, u64)> {
        *self.replaying.lock()
    }
}
