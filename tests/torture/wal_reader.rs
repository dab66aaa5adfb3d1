//! A reader of the nodes' write-ahead logs, beside the nodes that write them. So every version is
//! known that any node ever had on disk, even after its log was compacted away or its disk was
//! lost.
//!
//! A log is found within [`LOOK_PAUSE`] of its creation and kept open, so it can be read to its end
//! after the node has removed it. A log that is written, superseded and removed in less time is
//! missed; the logs of a run last far longer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvmesh::replication::persistence::record::Record;
use kvmesh::wal::log::{HEADER_LEN, RECORD_LEN_MAX};
use kvmesh::wire::frame::{self, HEAD_LEN};
use parking_lot::Mutex;

use crate::checks::coverage::Universe;

const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Appended records are read every so many looks.
const READ_EVERY: u32 = 8;

pub struct WalReader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    data_dirs: Vec<PathBuf>,
    universe: Mutex<Universe>,
    /// By device and inode: a file may be renamed, and its name given to another one.
    open: Mutex<HashMap<(u64, u64), Log>>,
    ends: AtomicBool,
}

struct Log {
    file: File,
    /// Bytes read so far.
    read: u64,
}

impl WalReader {
    pub fn watch(data_dirs: Vec<PathBuf>) -> io::Result<WalReader> {
        let shared = Arc::new(Shared { data_dirs, universe: Mutex::default(), open: Mutex::default(), ends: AtomicBool::new(false) });
        let watching = Arc::clone(&shared);
        let thread = thread::Builder::new().name("logs".into()).spawn(move || {
            for turn in 0_u32.. {
                if watching.ends.load(Ordering::Relaxed) {
                    return;
                }
                watching.look();
                if turn.is_multiple_of(READ_EVERY) {
                    watching.read();
                }
                thread::sleep(LOOK_PAUSE);
            }
        })?;
        Ok(WalReader { shared, thread: Some(thread) })
    }

    /// Gives access to all versions that are in the logs by now, or were added otherwise.
    pub fn with_universe<T>(&self, work: impl FnOnce(&mut Universe) -> T) -> T {
        self.shared.look();
        self.shared.read();
        work(&mut self.shared.universe.lock())
    }
}

impl Drop for WalReader {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Opens the logs that are new. The records of a file that is gone before it is opened are in a
    /// snapshot.
    fn look(&self) {
        let files = self.data_dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().filter_map(Result::ok);
        let logs = files.filter(|file| file.file_name().as_encoded_bytes().starts_with(b"log-"));
        let mut open = self.open.lock();
        for log in logs {
            if let Ok(file) = File::open(log.path())
                && let Ok(data) = file.metadata()
            {
                open.entry((data.dev(), data.ino())).or_insert(Log { file, read: 0 });
            }
        }
    }

    fn read(&self) {
        let mut open = self.open.lock();
        let mut universe = self.universe.lock();
        open.retain(|_, log| {
            // A removed log gets no more records once it has been read to its end.
            let is_removed = log.file.metadata().is_ok_and(|data| data.nlink() == 0);
            log.advance(&mut universe).is_ok() && !is_removed
        });
    }
}

impl Log {
    /// Reads the complete records that were appended since. An error is the disk's.
    fn advance(&mut self, universe: &mut Universe) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len < self.read {
            // Truncated after a failed append: read again from the start, which adds no version
            // twice.
            self.read = 0;
        }
        if len == self.read {
            return Ok(());
        }
        let from = self.read.max(HEADER_LEN);
        self.file.seek(SeekFrom::Start(from))?;
        self.read = from;
        let mut reader = BufReader::new(&self.file);
        let mut record = Vec::new();
        loop {
            match frame::read(&mut reader, &mut record, RECORD_LEN_MAX) {
                Ok(true) => {
                    self.read += record.len() as u64;
                    note(&record[HEAD_LEN..], universe);
                }
                Ok(false) => return Ok(()),
                // A record is being written, or the file was truncated and has grown again
                // meanwhile.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.read = 0;
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
    }
}

fn note(body: &[u8], universe: &mut Universe) {
    match Record::decode(body) {
        Ok(Record::Writes(frame)) => frame.writes.iter().for_each(|write| universe.add(&write.to_entry())),
        Ok(Record::Lines(entries) | Record::Healed(entries)) => entries.iter().for_each(|entry| universe.add(entry)),
        // Removed entries were known before; that a log is complete is checked at a start.
        Ok(Record::Removed(_) | Record::Proven(_) | Record::Incarnation(_)) | Err(_) => {}
    }
}
