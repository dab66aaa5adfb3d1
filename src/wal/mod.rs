//! The write-ahead log: what this node knows, on its disk.
//!
//! # What is written, and when it counts
//!
//! Everything that changes the store or the version vector becomes a *record*: the write batches of
//! this node and of its peers, as they travel; the lines of dumps, as they came; what a dump's end
//! line proved; what was removed. Records are appended to the log ([`log`]) in the order in which
//! they were handed over. One thread takes everything that waits, writes it with one call, makes it
//! durable with one more (`fsync: always`), and then announces how far each origin's writes have
//! got. Only then are sessions answered and peers' writes acknowledged (I7).
//!
//! A *snapshot* ([`snapshot`]) is a dump in a file. Writing one begins a new log. When the snapshot
//! is durable under its name, it supersedes the logs before it ([`files`]). So the disk always
//! holds one snapshot, if any, and the logs since, without a gap.
//!
//! # When the disk fails
//!
//! After a failed append the file is cut back to its last whole record. After a failed sync nobody
//! knows what the disk holds. Either way nothing more is logged, so nothing more is acknowledged,
//! and this node refuses writes.
//!
//! After a failed append `resume` begins a new log, which counts only once a snapshot of everything
//! that was merged meanwhile is durable. After a failed sync only a restart helps, since a second
//! sync may report success for bytes that are gone.
//!
//! A file or a directory that is removed under the node is as good as failed, too: a start would
//! find neither what is written there nor the rest. A new log that cannot begin behind a good one
//! is no failure: the good one goes on, and the snapshot is tried again later.
//!
//! Owns the files and the queue of records. Knows nothing of what a record means, nor of peers and
//! clients.

pub mod disk;
pub mod files;
pub mod log;
pub mod snapshot;
pub mod writer;

#[cfg(all(test, feature = "interleavings"))]
mod interleavings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{ByteBudget, Permit};
use crate::data::clock::Stamp;
use crate::data::fsync::Fsync;
use crate::data::version::Origin;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, RecvTimeoutError, Sender, bounded};
use crate::testing::broken_hand_overs::BrokenHandOver;
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

/// The write-ahead log as its callers see it: threads hand records over, and ask for its condition.
pub struct Wal {
    disk: Arc<dyn Disk>,
    fsync: Fsync,
    /// The back-pressure budget for what peers send. Own writes bring a permit of their own.
    budget: Arc<ByteBudget>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    condition: Mutex<Condition>,
    changed: Condvar,
    /// The greatest mark that is durable, see [`Wal::mark`].
    durable_mark: AtomicU64,
    /// Writes may be taken. Read before every write, so kept beside the condition's lock.
    writable: AtomicBool,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// The generation of the log that records handed over now will go to.
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
    /// Writing the snapshot that resuming needs has failed. The log of this generation is invalid
    /// without it.
    ResumeFailed {
        generation: u64,
        error: io::Error,
    },
    /// A request to be answered when everything before it is durable, and never if it cannot be.
    Barrier(Sender<()>),
    /// A mark to be noted when everything before it is as durable as the configuration asks for.
    Mark(u64),
}

/// The condition of the write-ahead log, for STATUS and for refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Why nothing is logged; `None` while all is well.
    pub stopped: Option<Stopped>,
    /// A new log has begun after a full disk, and its snapshot is not durable yet: nothing is
    /// acknowledged.
    pub is_resuming: bool,
    /// The generation of the log that is written.
    pub generation: u64,
    /// Bytes of that log, and of those before it that still count.
    pub log_len: u64,
    /// Bytes of the snapshot; 0 if there is none.
    pub snapshot_len: u64,
    /// Bytes appended in this incarnation.
    pub appended: u64,
    pub syncs: u64,
    pub snapshots: u64,
    /// The time that the last snapshot took to write.
    pub snapshot_took: Duration,
    /// Why the new log that was last asked for could not begin. The one before goes on.
    pub not_switched: Option<String>,
}

/// Why there is no new log.
#[derive(Debug, PartialEq, Eq)]
pub enum NotSwitched {
    /// It did not begin before the deadline; it may yet.
    TooSlow,
    /// It could not begin. The one before goes on.
    Failed(String),
    /// Nothing is logged any more.
    Stopped(String),
}

/// Why nothing is logged any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The sentence that clients get.
    pub sentence: String,
    /// `resume` can help. Otherwise only a restart does.
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
    /// Makes the log over a disk whose files were read: `files` lists them. `budget_len` bytes of
    /// peers' records may wait.
    pub fn new(disk: Arc<dyn Disk>, fsync: Fsync, budget_len: usize, files: &Files) -> Wal {
        let generation = files.logs.last().copied().unwrap_or(1);
        Wal {
            disk,
            fsync,
            budget: ByteBudget::new(budget_len),
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

    /// Returns whether anything waits for the disk.
    pub fn is_waited_for(&self) -> bool {
        self.fsync == Fsync::Always
    }

    /// Takes budget for a record of a peer's. `None` if there was none until the deadline.
    pub fn reserve(&self, len: usize, deadline: Instant) -> Option<Permit> {
        self.budget.hold(len, deadline)
    }

    /// Hands records over. Never blocks.
    pub fn append(&self, records: QueuedRecords) {
        self.push(Job::Append(records));
    }

    /// Marks what was handed over so far: [`Wal::durable_mark`] reaches the mark once that is as
    /// durable as the configuration asks for. Marks rise. Never blocks.
    pub fn mark(&self, mark: u64) {
        self.push(Job::Mark(mark));
    }

    pub fn durable_mark(&self) -> u64 {
        self.durable_mark.load(Ordering::Acquire)
    }

    /// Waits until everything that was handed over before is written and synced, whatever the
    /// configuration. An error says why it is not.
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

    /// Begins a new log: what was handed over before goes to the old one, what comes after to the
    /// new. Returns its generation. To be called under the lock under which the vector is read that
    /// the snapshot will claim. Never blocks.
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

    /// Takes a switch back: the log of this generation could not begin, and everything since the
    /// switch belongs to the one before. The next one that is asked for has this generation again,
    /// since logs are numbered without a gap. Returns `false`, and does nothing, if another one has
    /// been asked for already.
    fn take_back(&self, generation: u64, why: String) -> bool {
        let mut queue = self.queue.lock();
        if queue.generation != generation {
            return false;
        }
        queue.generation -= 1;
        self.change(|condition| condition.not_switched = Some(why));
        true
    }

    /// Notes that the snapshot of this generation is durable, and that the logs before it are gone.
    pub fn snapshot_written(&self, generation: u64, len: u64, took: Duration) {
        self.change(|condition| {
            condition.snapshot_len = len;
            condition.snapshots += 1;
            condition.snapshot_took = took;
        });
        self.push(Job::Snapshot(generation));
    }

    /// Notes that the snapshot that resuming needs could not be written: the log of this generation
    /// is invalid without it.
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

    /// Returns whether there is something to write.
    #[cfg(feature = "testing")]
    pub fn has_waiting(&self) -> bool {
        !self.queue.lock().jobs.is_empty()
    }

    /// Returns whether writes may be taken, and peers' acknowledged: everything is logged, in a log
    /// that counts.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// Closes the log to further records: the writer takes what waits, makes it durable and ends.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        if !BrokenHandOver::ClosingWakesNobody.is_on() {
            self.arrived.notify_one();
        }
    }

    fn push(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.arrived.notify_one();
    }

    /// Takes the jobs that wait, for the writer; waits for some until `wait` is over. `None` once
    /// the log is closed and no job is left.
    fn take(&self, wait: Duration) -> Option<Vec<Job>> {
        let mut queue = self.queue.lock();
        if queue.jobs.is_empty() && !queue.closed && !wait.is_zero() {
            if BrokenHandOver::QueueLetGo.is_on() {
                MutexGuard::unlocked(&mut queue, || ());
            }
            self.arrived.wait_for(&mut queue, wait);
        }
        if queue.jobs.is_empty() && queue.closed { None } else { Some(queue.jobs.drain(..).collect()) }
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        let mut condition = self.condition.lock();
        change(&mut condition);
        self.writable.store(condition.stopped.is_none() && !condition.is_resuming, Ordering::Release);
        drop(condition);
        self.changed.notify_all();
    }
}
