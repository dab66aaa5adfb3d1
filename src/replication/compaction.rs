//! Writing snapshots: what the log outgrows, what `COMPACT` asks for, and how a node comes back from a full disk.
//!
//! A snapshot is a full dump that this node serves to its own disk. Beginning a new log, and noting the vector and the horizon that the snapshot will claim, is one
//! step under the control lock and the vector's: what the vector covers is in the store by then, so the scan finds it or what superseded it; everything else goes to the
//! new log.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::elapsed;
use crate::dump::{Header, Kind, Scan};
use crate::entry::SeenVector;
use crate::journal::Journal;
use crate::journal::files::resuming_log_name;
use crate::journal::snapshot::SnapshotWriter;
use crate::replication::mesh::{Mesh, Serving};

/// Bytes of lines between two writes to the file.
const STEP_LEN: usize = 256 << 10;

/// The new log has to be there by then.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(30);

/// After a snapshot that failed, the next one that nobody asked for.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// How often the log's length is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A snapshot that was written.
#[derive(Clone, Copy, Debug)]
pub struct Compacted {
    pub entries: u64,
    pub len: u64,
    pub took: Duration,
}

/// Why no snapshot was written. In words for whoever asked.
#[derive(Debug)]
pub enum NotCompacted {
    /// The disk has failed: nothing is logged.
    ReadOnly(String),
    /// One is being written, or this one could not be; the log goes on.
    Failed(String),
}

impl Mesh {
    /// Writes a snapshot and begins a new log behind it; writes go on meanwhile. An error says why not.
    pub fn compact(&self) -> Result<Compacted, NotCompacted> {
        let journal = self.kept()?;
        match journal.condition().stopped {
            Some(stopped) => Err(NotCompacted::ReadOnly(stopped.sentence)),
            None => self.write_snapshot(journal, false),
        }
    }

    /// After a full disk: a new log, and a snapshot of everything, without which that log says nothing. Writes are taken again at once, and acknowledged when it is
    /// durable. Where nothing has failed this is [`Mesh::compact`].
    pub fn resume(&self) -> Result<Compacted, NotCompacted> {
        let journal = self.kept()?;
        match journal.condition().stopped {
            Some(stopped) if !stopped.is_resumable => Err(NotCompacted::ReadOnly(stopped.sentence)),
            stopped => self.write_snapshot(journal, stopped.is_some()),
        }
    }

    fn kept(&self) -> Result<&Journal, NotCompacted> {
        self.journal.as_deref().ok_or_else(|| NotCompacted::Failed("this node keeps nothing on disk".to_owned()))
    }

    fn write_snapshot(&self, journal: &Journal, is_resuming: bool) -> Result<Compacted, NotCompacted> {
        let Some(_one_at_a_time) = self.compacting.try_lock() else {
            return Err(NotCompacted::Failed("a snapshot is being written already; try again later".to_owned()));
        };
        let began = Instant::now();
        // Before any lock: it takes every shard's.
        let entries = self.store.len();
        let (generation, mut serving) = {
            let mut control = self.control.lock();
            control.serving += 1;
            let seen = self.seen.write();
            let generation = journal.switch(is_resuming);
            // Every log says whose it is.
            self.record_life();
            let mut vector = seen.clone();
            vector.advance(self.origin, self.submit.position());
            drop(seen);
            let header = Header::new(Kind::Full, self.origin, vector, entries, None);
            (generation, Serving::new(self, Scan::new(header, SeenVector::default(), control.horizon.clone())))
        };
        journal.await_switch(generation, began + SWITCH_TIMEOUT).map_err(NotCompacted::ReadOnly)?;
        let written = (|| {
            let mut writer = SnapshotWriter::create(&**journal.disk(), generation)?;
            let mut lines = Vec::new();
            while {
                lines.clear();
                let more = serving.write(STEP_LEN, &mut lines);
                writer.append(&lines)?;
                more
            } {}
            writer.finish(is_resuming.then(|| resuming_log_name(generation)))
        })();
        let (entries, took) = (serving.count(), began.elapsed());
        drop(serving);
        match written {
            Ok(len) => {
                journal.snapshot_written(generation, len, took);
                log::info!("wrote a snapshot of {entries} entries, {len} bytes, in {:.3} s", took.as_secs_f64());
                Ok(Compacted { entries, len, took })
            }
            Err(error) => {
                let what = format!("the snapshot could not be written: {error}");
                if is_resuming {
                    journal.resume_failed(&error);
                    return Err(NotCompacted::ReadOnly(what));
                }
                Err(NotCompacted::Failed(what))
            }
        }
    }

    /// Whether the log has outgrown the snapshot.
    fn is_compaction_due(&self, journal: &Journal) -> bool {
        let condition = journal.condition();
        let outgrown = condition.snapshot_len.saturating_mul(self.config.compact_factor).max(self.config.compact_log_min as u64);
        condition.stopped.is_none() && !condition.is_resuming && condition.log_len > outgrown
    }
}

/// The thread `snapshot`: writes one whenever the log has outgrown the last. Ends when the other end of `stop_rx` is dropped.
pub fn run_snapshots(mesh: &Mesh, journal: &Journal, stop_rx: &Receiver<()>) {
    let mut not_before = Duration::ZERO;
    while stop_rx.recv_timeout(LOOK_PAUSE) == Err(RecvTimeoutError::Timeout) {
        if elapsed() >= not_before
            && mesh.is_compaction_due(journal)
            && let Err(NotCompacted::ReadOnly(what) | NotCompacted::Failed(what)) = mesh.compact()
        {
            log::warn!("{what}; the log goes on, and the next try is in {} s", RETRY_PAUSE.as_secs());
            not_before = elapsed() + RETRY_PAUSE;
        }
    }
}
