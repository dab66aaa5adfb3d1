//! The snapshot file: a full dump (wire/dump), written to a temporary file, made durable, and only
//! then given its name.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::data::clock::Stamp;
use crate::data::entry::Entry;
use crate::wal::disk::{Disk, DiskFile};
use crate::wal::files::{SNAPSHOT_TMP, log_name, remove_stale, snapshot_name};
use crate::wire::dump::{self, DumpReader, EndLine, Header, Line, PartReader};

/// Unsynced bytes while a snapshot is written. Many of them, synced at once at the end, would hold
/// up the log's own syncs for long.
const UNSYNCED_MAX: usize = 4 << 20;

/// Bytes of whole lines that a thread parses at a time when a snapshot is read.
const CHUNK_LEN: usize = 1 << 20;

/// The most threads that read a snapshot: they parse and merge the lines. One thread reads the
/// file.
const READERS_MAX: usize = 4;

/// A snapshot that is being written.
pub struct SnapshotWriter<'a> {
    disk: &'a dyn Disk,
    file: Box<dyn DiskFile>,
    generation: u64,
    unsynced: usize,
    len: u64,
}

impl<'a> SnapshotWriter<'a> {
    /// Begins a snapshot. `generation` is that of the log that holds what comes after it.
    pub fn create(disk: &'a dyn Disk, generation: u64) -> io::Result<SnapshotWriter<'a>> {
        Ok(SnapshotWriter { disk, file: disk.create(SNAPSHOT_TMP)?, generation, unsynced: 0, len: 0 })
    }

    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.file.append(lines)?;
        self.len += lines.len() as u64;
        self.unsynced += lines.len();
        if self.unsynced >= UNSYNCED_MAX {
            self.unsynced = 0;
            self.file.sync()?;
        }
        Ok(())
    }

    /// Gives back the space of a snapshot that could not be written: the log may need it.
    pub fn give_up(disk: &dyn Disk) {
        // What stays in spite of this is found stale at the next start.
        let _ = disk.remove(SNAPSHOT_TMP);
    }

    /// Makes it the snapshot that counts: what it supersedes is removed. A log that was only to
    /// count with this snapshot, whose name is `resuming_log`, counts from now on. Returns the
    /// length of the snapshot.
    pub fn finish(mut self, resuming_log: Option<String>) -> io::Result<u64> {
        self.file.sync()?;
        self.disk.rename(SNAPSHOT_TMP, &snapshot_name(self.generation))?;
        self.disk.sync_names()?;
        if let Some(name) = resuming_log {
            self.disk.rename(&name, &log_name(self.generation))?;
            self.disk.sync_names()?;
        }
        remove_stale(self.disk)?;
        Ok(self.len)
    }
}

/// A snapshot that was read, beside its entries.
#[derive(Debug)]
pub struct LoadedSnapshot {
    pub header: Header,
    pub end: EndLine,
    /// The greatest stamp of any entry.
    pub greatest: Stamp,
    pub len: u64,
}

/// Reads a snapshot, with several threads. `begin` gets the header before any entry is taken;
/// `take` gets the entries, from several threads at once. `progress` gets the bytes read so far,
/// and of how many; an error of it ends the reading.
///
/// Damage is `InvalidData` that names file and offset. What another version wrote is `Unsupported`.
pub fn load(
    disk: &Arc<dyn Disk>,
    generation: u64,
    mut begin: impl FnMut(&Header),
    take: impl Fn(Entry) + Sync,
    mut progress: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<LoadedSnapshot> {
    let name = snapshot_name(generation);
    let (source, len) = disk.read(&name)?;
    let damaged = |offset: u64, what: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged at byte {offset} of {len}: {what}", disk.path(&name)))
    };
    let (mut reader, mut header, mut last_line) = (DumpReader::default(), None, None);
    let sum = Mutex::new(LoadedPart::default());
    let mut chunks = Chunks { source, at: 0, rest: Vec::new() };
    let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX);
    let (chunk_tx, chunk_rx) = bounded::<(u64, Vec<u8>)>(readers);
    thread::scope(|scope| {
        // Ends the readers, also when this ends early.
        let chunk_tx = chunk_tx;
        for number in 1..=readers {
            let (chunk_rx, sum, take) = (chunk_rx.clone(), &sum, &take);
            thread::Builder::new().name(format!("replay-{number}")).spawn_scoped(scope, move || {
                let mut part = LoadedPart::default();
                for (offset, chunk) in chunk_rx {
                    part.read(offset, &chunk, take);
                }
                sum.lock().join(part);
            })?;
        }
        while let Some((offset, mut chunk)) = chunks.next()? {
            if last_line.is_some() {
                return Err(damaged(offset, "it grows while it is read"));
            }
            let mut from = 0;
            if header.is_none() {
                let line = chunk.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if let Some(other) = dump::other_version(line) {
                    return Err(other.in_file(&disk.path(&name)));
                }
                let Line::Header(found) = reader.line(line).map_err(|what| damaged(offset, &what))? else {
                    return Err(damaged(offset, "it does not begin with the header of a dump"));
                };
                begin(&found);
                header = Some(found);
                from = (line.len() + 1).min(chunk.len());
            }
            let read = offset + chunk.len() as u64;
            if read == len {
                // The end line, which says nothing before all entries have been read.
                let start = chunk[..chunk.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1).max(from);
                last_line = Some((offset + start as u64, chunk.split_off(start)));
            }
            if from > 0 {
                chunk.drain(..from);
            }
            // Fails only when every reader is gone.
            let _ = chunk_tx.send((offset + from as u64, chunk));
            progress(read, len)?;
        }
        Ok(())
    })?;
    let LoadedPart { entries, greatest, fault } = sum.into_inner();
    if let Some((offset, what)) = fault {
        return Err(damaged(offset, &what));
    }
    reader.join(&entries);
    let (Some(header), Some((offset, line))) = (header, last_line) else { return Err(damaged(len, dump::BROKEN_OFF)) };
    let line = line.strip_suffix(b"\n").ok_or_else(|| damaged(len, "its last line is cut off"))?;
    let Line::End(end) = reader.line(line).map_err(|what| damaged(offset, &what))? else { return Err(damaged(len, dump::BROKEN_OFF)) };
    Ok(LoadedSnapshot { header, end, greatest, len })
}

/// The entries that one thread has read and merged, or all threads.
#[derive(Default)]
struct LoadedPart {
    entries: PartReader,
    greatest: Stamp,
    /// The offset of the first fault, and what is wrong there.
    fault: Option<(u64, String)>,
}

impl LoadedPart {
    /// Takes the entries of a chunk of whole lines, which begins at `offset`.
    fn read(&mut self, offset: u64, chunk: &[u8], take: impl Fn(Entry)) {
        if let Err(fault) = self.try_read(offset, chunk, take) {
            self.fault.get_or_insert(fault);
        }
    }

    fn try_read(&mut self, mut offset: u64, chunk: &[u8], take: impl Fn(Entry)) -> Result<(), (u64, String)> {
        for line in dump::whole_lines(chunk).map_err(|what| (offset, what))? {
            let entry = self.entries.entry(line).map_err(|what| (offset, what))?;
            self.greatest = self.greatest.max(entry.version().stamp);
            take(entry);
            offset += line.len() as u64 + 1;
        }
        Ok(())
    }

    fn join(&mut self, other: LoadedPart) {
        self.entries.join(&other.entries);
        self.greatest = self.greatest.max(other.greatest);
        self.fault = [self.fault.take(), other.fault].into_iter().flatten().min();
    }
}

/// A source in pieces of whole lines. The last one may lack its line feed.
struct Chunks {
    source: Box<dyn Read + Send>,
    /// The offset of `rest` in the file.
    at: u64,
    rest: Vec<u8>,
}

impl Chunks {
    /// Returns the next piece and its offset: as many bytes as it takes to have a whole line.
    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let before = self.rest.len();
            let got = (&mut self.source).take(CHUNK_LEN as u64).read_to_end(&mut self.rest)?;
            let end = match memchr::memrchr(b'\n', &self.rest[before..]) {
                Some(end) => before + end + 1,
                None if got > 0 => continue,
                None => self.rest.len(),
            };
            if end == 0 {
                return Ok(None);
            }
            let rest = self.rest.split_off(end);
            let chunk = std::mem::replace(&mut self.rest, rest);
            let offset = self.at;
            self.at += chunk.len() as u64;
            return Ok(Some((offset, chunk)));
        }
    }
}
