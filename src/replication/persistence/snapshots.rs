//! Snapshots: written when the log has outgrown the last one, when `COMPACT` asks for one, and when
//! a node comes back from a full disk.
//!
//! A snapshot is a full dump that this node serves to its own disk. One step under the peer table's
//! lock and the vector's begins a new log, and notes the vector and the GC horizon that the
//! snapshot will claim. What the vector covers is in the store by then, so the scan finds it or
//! what superseded it. Everything else goes to the new log.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::MutexGuard;

use crate::data::clock::elapsed;
use crate::data::version::VersionVector;
use crate::replication::replica::Replica;
use crate::replication::sync::scan::DumpScan;
use crate::replication::sync::serving::Serving;
use crate::wal::files::resuming_log_name;
use crate::wal::snapshot::SnapshotWriter;
use crate::wal::{Condition, NotSwitched, Wal};
use crate::wire::dump::{DumpKind, Header};

/// Bytes of lines between two writes to the file.
const STEP_LEN: usize = 256 << 10;

/// Longest wait for the new log.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a snapshot that failed, before the next one that no client has asked for.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Pause between two looks at the log's length.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A snapshot that was written.
#[derive(Clone, Copy, Debug)]
pub struct Compacted {
    pub entries: u64,
    pub len: u64,
    pub took: Duration,
}

/// Why no snapshot was written, in a sentence for the client or the log.
#[derive(Debug)]
pub enum NotCompacted {
    /// The disk has failed: nothing is logged.
    ReadOnly(String),
    /// Another one is being written, or this one could not be; the log goes on.
    Failed(String),
}

impl From<NotSwitched> for NotCompacted {
    fn from(why: NotSwitched) -> NotCompacted {
        match why {
            NotSwitched::Stopped(why) => NotCompacted::ReadOnly(why),
            NotSwitched::Failed(why) => NotCompacted::Failed(why),
            NotSwitched::TooSlow => NotCompacted::Failed("the disk is too slow to begin a new log".to_owned()),
        }
    }
}

/// Writes a snapshot and begins a new log behind it; writes go on meanwhile. An error says why not.
pub fn compact(replica: &Replica) -> Result<Compacted, NotCompacted> {
    begin_compaction(replica)?.complete()
}

/// Resumes after a full disk: begins a new log, and writes a snapshot of everything, without which
/// that log is invalid. Writes are taken again when the snapshot is durable. If nothing has failed,
/// this is [`compact`].
pub fn resume(replica: &Replica) -> Result<Compacted, NotCompacted> {
    begin_resume(replica)?.complete()
}

/// Begins a snapshot; the caller takes its steps. An error says why not.
pub fn begin_compaction(replica: &Replica) -> Result<Snapshot<'_>, NotCompacted> {
    let wal = kept(replica)?;
    let one_at_a_time = only_snapshot(replica)?;
    let Condition { stopped, is_resuming, .. } = wal.condition();
    match stopped {
        Some(stopped) => Err(NotCompacted::ReadOnly(stopped.sentence)),
        // While resuming, a new log does not continue the old ones, as long as it has no snapshot
        // in front: writes in between were never logged.
        None => Ok(begin_snapshot(replica, wal, is_resuming, one_at_a_time)),
    }
}

/// Begins the snapshot of [`resume`]; the caller takes its steps.
pub fn begin_resume(replica: &Replica) -> Result<Snapshot<'_>, NotCompacted> {
    let wal = kept(replica)?;
    let one_at_a_time = only_snapshot(replica)?;
    let Condition { stopped, is_resuming, .. } = wal.condition();
    match stopped {
        Some(stopped) if !stopped.is_resumable => Err(NotCompacted::ReadOnly(stopped.sentence)),
        stopped => Ok(begin_snapshot(replica, wal, stopped.is_some() || is_resuming, one_at_a_time)),
    }
}

fn kept(replica: &Replica) -> Result<&Wal, NotCompacted> {
    replica.persistence.wal().ok_or_else(|| NotCompacted::Failed("this node keeps nothing on disk".to_owned()))
}

/// Takes the right to write a snapshot. Called before the write-ahead log's condition is looked at:
/// another snapshot may be about to change it.
fn only_snapshot(replica: &Replica) -> Result<MutexGuard<'_, ()>, NotCompacted> {
    let busy = || NotCompacted::Failed("a snapshot is being written already; try again later".to_owned());
    replica.persistence.try_snapshot().ok_or_else(busy)
}

fn begin_snapshot<'a>(replica: &'a Replica, wal: &'a Wal, is_resuming: bool, one_at_a_time: MutexGuard<'a, ()>) -> Snapshot<'a> {
    let began = Instant::now();
    // Read before any lock: it takes every shard's.
    let entries = replica.store.len();
    let (generation, is_folded, serving) = {
        let mut table = replica.peers.table();
        table.serving += 1;
        let coverage = replica.coverage.advance();
        let generation = wal.switch(is_resuming);
        // Every log says which incarnation writes it.
        replica.record_incarnation();
        let vector = coverage.vector(replica.submit.position());
        drop(coverage);
        let mut header = Header::new(DumpKind::Full, replica.origin, vector, entries, None);
        header.order = replica.scan_order.get();
        let is_folded = header.is_folded();
        (generation, is_folded, Serving::new(replica, DumpScan::new(header, VersionVector::default(), table.horizon.clone())))
    };
    Snapshot { replica, wal, generation, is_resuming, is_folded, began, serving, file: None, _one_at_a_time: one_at_a_time }
}

/// Returns whether the log has outgrown its snapshot, or a snapshot must say that incarnations are
/// folded.
pub fn is_compaction_due(replica: &Replica, wal: &Wal) -> bool {
    let condition = wal.condition();
    let config = replica.live().current();
    let outgrown = condition.snapshot_len.saturating_mul(config.compact_factor).max(config.compact_log_min as u64);
    // A build that does not know of folding would misread what the log holds then.
    let is_due = condition.log_len > outgrown || replica.coverage.has_folded() && !replica.persistence.is_snapshot_folded();
    condition.stopped.is_none() && !condition.is_resuming && is_due
}

/// A snapshot being written. The tombstone GC rests until it is dropped.
pub struct Snapshot<'a> {
    replica: &'a Replica,
    wal: &'a Wal,
    generation: u64,
    is_resuming: bool,
    is_folded: bool,
    began: Instant,
    serving: Serving<'a>,
    /// `None` before the first step.
    file: Option<SnapshotWriter<'a>>,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Snapshot<'_> {
    fn complete(mut self) -> Result<Compacted, NotCompacted> {
        self.await_log(self.began + SWITCH_TIMEOUT)?;
        loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(len)) => {
                    let (wal, is_resuming) = (self.wal, self.is_resuming);
                    let compacted = self.end(Ok(len))?;
                    if is_resuming {
                        // A client that is told so can write at once.
                        wal.await_durable(SWITCH_TIMEOUT).map_err(NotCompacted::ReadOnly)?;
                    }
                    return Ok(compacted);
                }
                Err(error) => return self.end(Err(error)),
            }
        }
    }

    /// Waits for the new log, without which there is no snapshot in front of it.
    pub fn await_log(&self, deadline: Instant) -> Result<(), NotSwitched> {
        self.wal.await_switch(self.generation, deadline)
    }

    /// Writes some lines, once the new log is there. Returns the length of the whole when that is
    /// durable under its name.
    pub fn step(&mut self) -> io::Result<Option<u64>> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => SnapshotWriter::create(&**self.wal.disk(), self.generation)?,
        };
        let mut lines = Vec::new();
        let more = self.serving.write(STEP_LEN, &mut lines);
        file.append(&lines)?;
        if more {
            self.file = Some(file);
            return Ok(None);
        }
        file.finish(self.is_resuming.then(|| resuming_log_name(self.generation))).map(Some)
    }

    /// Ends the snapshot, after the last step or one that failed.
    pub fn end(self, written: io::Result<u64>) -> Result<Compacted, NotCompacted> {
        let (entries, took) = (self.serving.count(), self.began.elapsed());
        match written {
            Ok(len) => {
                self.wal.snapshot_written(self.generation, len, took);
                self.replica.persistence.note_snapshot(self.is_folded);
                if let Some(more) = self.replica.log_limit.admit("snapshot", 0, elapsed()) {
                    log::info!("wrote a snapshot of {entries} entries, {len} bytes, in {:.3} s{more}", took.as_secs_f64());
                }
                Ok(Compacted { entries, len, took })
            }
            Err(error) => {
                SnapshotWriter::give_up(&**self.wal.disk());
                let what = format!("the snapshot could not be written: {error}");
                if self.is_resuming {
                    self.wal.resume_failed(self.generation, error);
                    return Err(NotCompacted::ReadOnly(what));
                }
                Err(NotCompacted::Failed(what))
            }
        }
    }
}

/// Runs the thread `snapshot`: writes one whenever the log has outgrown the last. Ends when the
/// other end of `stop_rx` is dropped.
pub fn run_snapshots(replica: &Replica, wal: &Wal, stop_rx: &Receiver<()>) {
    let mut not_before = Duration::ZERO;
    while stop_rx.recv_timeout(LOOK_PAUSE) == Err(RecvTimeoutError::Timeout) {
        if elapsed() >= not_before
            && is_compaction_due(replica, wal)
            && let Err(why) = compact(replica)
        {
            // That nothing is logged any more is reported where it is noticed.
            if let NotCompacted::Failed(what) = why {
                log::warn!("{what}; the log goes on, and the next try is in {} s", RETRY_PAUSE.as_secs());
            }
            not_before = elapsed() + RETRY_PAUSE;
        }
    }
}
