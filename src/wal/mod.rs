//! The write-ahead log: what this node knows, on its disk.
//!
//! # What is written, and when it counts
//!
//! Everything that changes the store or the vector becomes a *record*: the batches of this node's own writes and of its peers as they travel, the lines of dumps as they
//! came, what a dump's end line proved, what was removed. Records are appended to the log ([`log`]) in the order in which they were handed over: one thread takes
//! everything that waits, writes it with one call, makes it durable with one more (`fsync: always`), and then says how far each origin's writes have got. Only
//! then are sessions answered and peers' writes acknowledged (I7).
//!
//! A *snapshot* ([`snapshot`]) is a dump in a file. Writing one begins a new log; when it is durable under its name, it supersedes the logs before it ([`files`]).
//! So what is on the disk is always one snapshot, if any, and the logs since, in a row.
//!
//! # When the disk fails
//!
//! After a failed append the file is cut back to its last whole record; after a failed sync nobody knows what the disk holds. Either way nothing more is logged,
//! and so nothing more is acknowledged, and this node refuses writes. After a failed append `resume` begins a new log, which counts only once a snapshot of everything that was
//! merged meanwhile is durable; after a failed sync only a restart helps, since a second sync may report success for bytes that are gone. A file or a directory that is
//! removed under the node is as good as failed, too: a start would find neither what is written there nor the rest. A new log that cannot begin behind a good one is no such thing: the good one
//! goes on, and the snapshot is tried again later.
//!
//! Owns the files and the queue of records. Knows nothing of what a record means, nor of peers and clients.

pub mod disk;
pub mod files;
pub mod log;
pub mod snapshot;
pub mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::budget::{ByteBudget, Permit};
use crate::data::clock::Stamp;
use crate::data::fsync::Fsync;
use crate::data::version::Origin;
use crate::wal::disk::Disk;
use crate::wal::files::Files;

/// Records on their way to the log, and the claim that becomes true when they, and all before them,
/// are durable.
pub struct QueuedRecords {
    /// The frames of whole records. May be empty: then only the claim waits.
    pub bytes: Arc<Vec<u8>>,
    /// The claim: every write of this origin up to this stamp is in the log, or superseded.
    pub reached: Option<(Origin, Stamp)>,
    /// The share of the back-pressure budget that the bytes hold until they are written.
    pub permit: Option<Permit>,
}

/// The face of the write-ahead log: what threads hand over, and how it does.
pub struct Wal {
    disk: Arc<dyn Disk>,
    fsync: Fsync,
    /// For what peers send; own writes bring room of their own.
    room: Arc<ByteBudget>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    condition: Mutex<Condition>,
    changed: Condvar,
    /// The last mark that is durable, see [`Wal::mark`].
    durable_mark: AtomicU64,
    /// Whether the condition is one in which writes may be taken. Read before every write, so kept beside the lock.
    writable: AtomicBool,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// Of the log that records handed over now will go to.
    generation: u64,
    closed: bool,
}

enum Job {
    Append(QueuedRecords),
    /// Records from here on belong to a new log.
    Switch {
        generation: u64,
        is_resuming: bool,
    },
    /// The snapshot of this generation is durable.
    Snapshot(u64),
    /// The one without which the log of this generation says nothing could not be written.
    ResumeFailed {
        generation: u64,
        error: io::Error,
    },
    /// To be answered when everything before it is durable, and never if it cannot be.
    Barrier(Sender<()>),
    /// To be noted when everything before it is as durable as the configuration asks for.
    Mark(u64),
}

/// How the write-ahead log does, for STATUS and for refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Why nothing is logged, if nothing is.
    pub stopped: Option<Stopped>,
    /// A new log has begun after a full disk, and its snapshot is not durable yet: nothing is acknowledged.
    pub is_resuming: bool,
    /// The generation of the log that is written, and bytes in it and in those before that still count.
    pub generation: u64,
    pub log_len: u64,
    /// Bytes of the snapshot; 0 without one.
    pub snapshot_len: u64,
    /// Bytes appended in this incarnation.
    pub appended: u64,
    pub syncs: u64,
    pub snapshots: u64,
    /// How long the last snapshot took to write.
    pub snapshot_took: Duration,
    /// Why the new log that was last asked for could not begin; the one before goes on.
    pub not_switched: Option<String>,
}

/// Why there is no new log.
#[derive(Debug, PartialEq, Eq)]
pub enum NotSwitched {
    /// Not until the deadline; it may come yet.
    TooSlow,
    /// It could not begin: the one before goes on.
    Failed(String),
    /// Nothing is logged any more.
    Stopped(String),
}

/// Why nothing is logged any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// As a client hears it.
    pub sentence: String,
    /// Whether `resume` can help; otherwise only a restart does.
    pub is_resumable: bool,
}

impl Stopped {
    fn new(error: &io::Error, is_resumable: bool) -> Stopped {
        let (what, way_out) = match error.kind() {
            // Only what is in memory is left, and a restart would lose it.
            io::ErrorKind::NotFound => {
                let way_out = "if it was moved, put it back; then RESUME (kvctl resume) writes everything anew. A restart forgets what only this node holds: \
                               kvctl dump saves it before";
                ("gone from the disk", way_out)
            }
            io::ErrorKind::StorageFull => ("disk full", "free space, then RESUME (kvctl resume) or restart this node"),
            _ => ("the log cannot be written", "mend that, then RESUME (kvctl resume) or restart this node"),
        };
        let way_out = if is_resumable { way_out } else { "restart this node" };
        Stopped { sentence: format!("{what}: {error}; {way_out}"), is_resumable }
    }
}

impl Wal {
    /// Over a disk whose files were read: `files` says which there are. `room_len` bytes of peers' records may wait.
    pub fn new(disk: Arc<dyn Disk>, fsync: Fsync, room_len: usize, files: &Files) -> Wal {
        let generation = files.logs.last().copied().unwrap_or(1);
        Wal {
            disk,
            fsync,
            room: ByteBudget::new(room_len),
            queue: Mutex::new(Queue { jobs: VecDeque::new(), generation, closed: false }),
            arrived: Condvar::new(),
            condition: Mutex::new(Condition { generation, ..Condition::default() }),
            changed: Condvar::new(),
            durable_mark: AtomicU64::new(0),
            writable: AtomicBool::new(true),
        }
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Whether anybody has to wait for the disk.
    pub fn is_waited_for(&self) -> bool {
        self.fsync == Fsync::Always
    }

    /// Budget for a record of a peer's; `None` if there was none until the deadline.
    pub fn reserve(&self, len: usize, deadline: Instant) -> Option<Permit> {
        self.room.hold(len, deadline)
    }

    /// Hands records over. Never blocks.
    pub fn append(&self, records: QueuedRecords) {
        self.push(Job::Append(records));
    }

    /// Marks what was handed over so far: [`Wal::durable_mark`] comes to the mark once that is as durable as the configuration asks for. Marks rise. Never blocks.
    pub fn mark(&self, mark: u64) {
        self.push(Job::Mark(mark));
    }

    pub fn durable_mark(&self) -> u64 {
        self.durable_mark.load(Ordering::Acquire)
    }

    /// Waits until everything that was handed over before is written and synced, whatever the configuration says; an error says why it is not.
    pub fn await_durable(&self, timeout: Duration) -> Result<(), String> {
        let (done_tx, done_rx) = bounded(1);
        self.push(Job::Barrier(done_tx));
        match done_rx.recv_timeout(timeout) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err("the disk is too slow".to_owned()),
            Err(RecvTimeoutError::Disconnected) => {
                Err(self.condition().stopped.map_or_else(|| "the log is being resumed".to_owned(), |stopped| stopped.sentence))
            }
        }
    }

    /// Begins a new log: what was handed over before goes to the old one, what comes after to the new. Returns its generation. To be called under the lock
    /// under which the vector is read that the snapshot will claim. Never blocks.
    pub fn switch(&self, is_resuming: bool) -> u64 {
        let mut queue = self.queue.lock();
        self.change(|condition| {
            condition.is_resuming |= is_resuming;
            condition.not_switched = None;
        });
        queue.generation += 1;
        let generation = queue.generation;
        queue.jobs.push_back(Job::Switch { generation, is_resuming });
        self.arrived.notify_one();
        generation
    }

    /// The log of this generation could not begin. What is handed over from here on belongs to the one before, as what was since it was asked for; the next one that is asked
    /// for has this generation again, since logs are numbered in a row. Returns whether that is so: another one may have been asked for already.
    fn take_back(&self, generation: u64, why: String) -> bool {
        let mut queue = self.queue.lock();
        if queue.generation != generation {
            return false;
        }
        queue.generation -= 1;
        self.change(|condition| condition.not_switched = Some(why));
        true
    }

    /// The snapshot of this generation is durable, and the logs before it are gone.
    pub fn snapshot_written(&self, generation: u64, len: u64, took: Duration) {
        self.change(|condition| {
            condition.snapshot_len = len;
            condition.snapshots += 1;
            condition.snapshot_took = took;
        });
        self.push(Job::Snapshot(generation));
    }

    /// The snapshot without which the log that resumes says nothing could not be written.
    pub fn resume_failed(&self, generation: u64, error: io::Error) {
        self.push(Job::ResumeFailed { generation, error });
    }

    /// Waits until the new log of this generation is there.
    pub fn await_switch(&self, generation: u64, deadline: Instant) -> Result<(), NotSwitched> {
        let mut condition = self.condition.lock();
        loop {
            if condition.generation >= generation {
                return Ok(());
            }
            if let Some(stopped) = condition.stopped.as_ref().filter(|_| !condition.is_resuming) {
                return Err(NotSwitched::Stopped(stopped.sentence.clone()));
            }
            if let Some(why) = &condition.not_switched {
                return Err(NotSwitched::Failed(why.clone()));
            }
            if self.changed.wait_until(&mut condition, deadline).timed_out() {
                return Err(NotSwitched::TooSlow);
            }
        }
    }

    /// Whether there is something to write.
    #[cfg(feature = "testing")]
    pub fn has_waiting(&self) -> bool {
        !self.queue.lock().jobs.is_empty()
    }

    /// Whether writes may be taken, and peers' acknowledged: everything is logged, in a log that counts.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// No more records: the writer takes what waits, makes it durable and ends.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_one();
    }

    fn push(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.arrived.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        let mut condition = self.condition.lock();
        change(&mut condition);
        self.writable.store(condition.stopped.is_none() && !condition.is_resuming, Ordering::Release);
        drop(condition);
        self.changed.notify_all();
    }
}
