//! The writer: the one thread that appends to the log.
//!
//! It takes everything that waits, writes it with one call, syncs once, and then announces how far
//! each origin has got. It alone decides when the disk has failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::data::clock::{Stamp, elapsed};
use crate::data::fsync::Fsync;
use crate::data::version::Origin;
use crate::process::logging::LogLimit;
use crate::testing::broken_rules::BrokenRule;
use crate::wal::files::{Files, log_name, remove_stale, resuming_log_name, snapshot_name};
use crate::wal::log::{AppendFailed, FoundLog, LogFile};
use crate::wal::{Job, QueuedRecords, Stopped, Wal};

/// Bytes of records that are gathered into one write. A larger record is a write of its own.
const WRITE_LEN: usize = 1 << 20;

/// The time between two syncs of `everysec`.
const SYNC_PAUSE: Duration = Duration::from_secs(1);

/// The time between two checks that everything is still where a start would find it.
const CHECK_PAUSE: Duration = Duration::from_millis(250);

/// The longest wait for something to write.
const IDLE_WAIT: Duration = CHECK_PAUSE;

/// The state of the log's thread.
pub struct Writer {
    wal: Arc<Wal>,
    file: LogFile,
    generation: u64,
    /// Bytes of the logs before this one that still count.
    older_len: u64,
    /// The names of these logs, and of the snapshot in front of them.
    older: Vec<String>,
    buffer: Vec<u8>,
    /// Claims whose records are written, or in the buffer, and not yet durable.
    reached: Vec<(Origin, Stamp)>,
    /// The last mark that has come.
    mark: u64,
    is_dirty: bool,
    synced: Instant,
    checked: Instant,
    /// Nothing is logged: what comes is dropped.
    is_stopped: bool,
    /// The log does not count yet: its snapshot is not durable.
    is_resuming: bool,
    said: LogLimit,
}

/// Lines in the node's own log about a disk that has failed.
const LINES_PER_MINUTE: u32 = 5;

impl Writer {
    /// Goes on with the log that was read last. `older_len` and `last` are the bytes of all logs
    /// that count, the last one's as it was found.
    pub fn open(wal: Arc<Wal>, files: &Files, older_len: u64, last: &FoundLog, snapshot_len: u64, now: Instant) -> io::Result<Writer> {
        let disk = &**wal.disk();
        let generation = files.logs.last().copied().unwrap_or(1);
        if files.is_resuming
            && let Some(first) = files.logs.first()
        {
            disk.rename(&resuming_log_name(*first), &log_name(*first))?;
            disk.sync_names()?;
        }
        // Stale files go first: a disk may be full. What supersedes them is durable by then.
        disk.sync_names()?;
        remove_stale(disk)?;
        let file = LogFile::resume(disk, &log_name(generation), last)?;
        let older_logs = files.logs.iter().filter(|older| **older != generation);
        let writer = Writer {
            wal: Arc::clone(&wal),
            file,
            generation,
            older_len,
            older: files.snapshot.map(snapshot_name).into_iter().chain(older_logs.map(|older| log_name(*older))).collect(),
            buffer: Vec::new(),
            reached: Vec::new(),
            mark: 0,
            is_dirty: false,
            synced: now,
            checked: now,
            is_stopped: false,
            is_resuming: false,
            said: LogLimit::new(LINES_PER_MINUTE),
        };
        wal.change(|condition| {
            condition.generation = generation;
            condition.snapshot_len = snapshot_len;
        });
        writer.note_len();
        Ok(writer)
    }

    /// Runs the thread `log`. Ends when the write-ahead log is closed and everything is written.
    pub fn run(mut self, mut reached: impl FnMut(Origin, Stamp)) {
        while self.step(IDLE_WAIT, Instant::now, &mut reached) {}
    }

    /// Takes one turn: everything that waits. `now` is asked for the time after the wait; `reached`
    /// gets what is durable now. Returns whether there can be more.
    pub fn step(&mut self, wait: Duration, now: impl Fn() -> Instant, reached: &mut impl FnMut(Origin, Stamp)) -> bool {
        let Some(jobs) = self.wal.take(wait) else {
            self.sync(now());
            return false;
        };
        let now = now();
        let mut barriers = Vec::new();
        for job in jobs {
            match job {
                Job::Append(records) => self.add(records),
                Job::Switch { generation, is_resuming } => self.switch(generation, is_resuming, now),
                Job::Snapshot(generation) => self.note_snapshot(generation),
                Job::ResumeFailed { generation, error } if generation == self.generation => self.stop(&error, true),
                Job::ResumeFailed { .. } => {}
                Job::Barrier(done_tx) => barriers.push(done_tx),
                // What was handed over while nothing was logged is not there.
                Job::Mark(_) if self.is_stopped => {}
                Job::Mark(mark) => self.mark = mark,
            }
        }
        self.write();
        let is_due = match self.wal.fsync {
            Fsync::Always if !BrokenRule::AckBeforeFsync.is_on() => true,
            Fsync::Always | Fsync::EverySecond => now.saturating_duration_since(self.synced) >= SYNC_PAUSE,
            Fsync::Never => false,
        };
        if is_due || !barriers.is_empty() {
            self.sync(now);
        }
        if now.saturating_duration_since(self.checked) >= CHECK_PAUSE {
            self.checked = now;
            self.check();
        }
        if !self.is_stopped && !self.is_resuming {
            self.reached.drain(..).for_each(|(origin, stamp)| reached(origin, stamp));
            // Fails when the caller has stopped waiting.
            for done_tx in barriers {
                let _ = done_tx.try_send(());
            }
            if !self.is_dirty || self.wal.fsync == Fsync::Never {
                self.wal.durable_mark.fetch_max(self.mark, Ordering::AcqRel);
            }
        }
        self.note_len();
        true
    }

    fn add(&mut self, records: QueuedRecords) {
        if self.is_stopped {
            // Merged, and not logged: a snapshot will hold it, or a peer.
            return;
        }
        if let Some((origin, stamp)) = records.reached {
            match self.reached.iter_mut().find(|(other, _)| *other == origin) {
                Some((_, reached)) => *reached = stamp.max(*reached),
                None => self.reached.push((origin, stamp)),
            }
        }
        self.buffer.extend_from_slice(&records.bytes);
        if self.buffer.len() >= WRITE_LEN {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.buffer.is_empty() || self.is_stopped {
            return;
        }
        let appended = self.file.append(&self.buffer);
        let len = self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(WRITE_LEN);
        match appended {
            Ok(()) => {
                self.is_dirty = true;
                self.wal.change(|condition| condition.appended += len);
            }
            Err(AppendFailed { error, was_cut: true }) => self.stop(&error, true),
            Err(AppendFailed { error, was_cut: false }) => self.stop(&error, false),
        }
    }

    fn sync(&mut self, now: Instant) {
        if !self.is_dirty || self.is_stopped {
            return;
        }
        // Synced or not: a file without a name is never found again.
        match self.file.sync().and_then(|()| self.file.check()) {
            Ok(()) => {
                self.is_dirty = false;
                self.synced = now;
                self.wal.change(|condition| condition.syncs += 1);
            }
            Err(error) => self.stop(&error, error.kind() == io::ErrorKind::NotFound),
        }
    }

    /// Ends the old log, durably whatever the configuration says, since the new one must not begin
    /// behind a hole. Then begins the new one.
    fn switch(&mut self, generation: u64, is_resuming: bool, now: Instant) {
        self.write();
        self.sync(now);
        let is_resumable = self.wal.condition().stopped.is_none_or(|stopped| stopped.is_resumable);
        if self.is_stopped && !(is_resuming && is_resumable) {
            return;
        }
        let name = if is_resuming { resuming_log_name(generation) } else { log_name(generation) };
        match LogFile::create(&**self.wal.disk(), &name) {
            Ok(file) => {
                self.older_len += self.file.whole_len();
                self.older.push(log_name(self.generation));
                self.file = file;
                self.generation = generation;
                self.is_dirty = false;
                self.is_stopped = false;
                self.is_resuming = is_resuming;
                self.wal.change(|condition| {
                    condition.generation = generation;
                    condition.stopped = None;
                    condition.is_resuming = is_resuming;
                });
            }
            // Its directory is gone; or nothing was logged in between, so that there is no log to
            // go on with.
            Err(error) if is_resuming || error.kind() == io::ErrorKind::NotFound => self.stop(&error, true),
            Err(error) => self.keep(generation, &name, &error),
        }
    }

    /// Goes on with the present log, which is as good as before, if nothing of the new one is left:
    /// a start would take that for what came after.
    fn keep(&mut self, generation: u64, name: &str, error: &io::Error) {
        let disk = self.wal.disk();
        let is_removed = match disk.remove(name) {
            Ok(()) => disk.sync_names().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let why = format!("a new log could not begin: {error}");
        if !is_removed || !self.wal.take_back(generation, why) {
            self.stop(error, true);
        }
    }

    /// Notices when a file that a start would read was removed.
    fn check(&mut self) {
        if !self.is_stopped
            && let Err(error) = self.file.check().and_then(|()| self.wal.disk().check()).and_then(|()| self.check_older())
        {
            self.stop(&error, true);
        }
    }

    /// Checks the files before this log; `NotFound` if one of them was removed by another program.
    fn check_older(&self) -> io::Result<()> {
        let disk = self.wal.disk();
        let missing = self.older.iter().find(|name| !disk.exists(name));
        // Looked for afterwards: a snapshot has its name before anything is removed because of it,
        // and this thread is told of it last.
        let Some(missing) = missing.filter(|_| !self.is_resuming && !disk.exists(&snapshot_name(self.generation))) else { return Ok(()) };
        Err(io::Error::new(io::ErrorKind::NotFound, format!("{} was removed", disk.path(missing))))
    }

    fn note_snapshot(&mut self, generation: u64) {
        if generation != self.generation {
            return;
        }
        self.older_len = 0;
        self.older = vec![snapshot_name(generation)];
        if std::mem::take(&mut self.is_resuming) {
            self.wal.change(|condition| condition.is_resuming = false);
        }
    }

    fn stop(&mut self, error: &io::Error, is_resumable: bool) {
        let stopped = Stopped::new(error, is_resumable);
        // RESUME on a full disk brings it about again, as often as a client likes.
        if let Some(more) = self.said.admit("stopped", 0, elapsed()) {
            log::error!("{}. Until then this node takes no writes and acknowledges none{more}", stopped.sentence);
        }
        self.buffer.clear();
        self.reached.clear();
        self.mark = 0;
        (self.is_stopped, self.is_resuming) = (true, false);
        self.wal.change(|condition| {
            condition.stopped = Some(stopped);
            condition.is_resuming = false;
        });
    }

    fn note_len(&self) {
        let len = self.older_len + self.file.whole_len();
        self.wal.change(|condition| condition.log_len = len);
    }
}
