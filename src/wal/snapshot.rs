//! The snapshot file: a full dump (dump.rs), written to a temporary file, made durable, and only then given its name.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::data::clock::Stamp;
use crate::store::Store;
use crate::wal::disk::{Disk, DiskFile};
use crate::wal::files::{SNAPSHOT_TMP, log_name, remove_stale, snapshot_name};
use crate::wire::dump::{self, End, Header, Line, Tally};

/// Unsynced bytes while it is written: more of them, synced at once at the end, would hold up the log's own syncs for long.
const UNSYNCED_MAX: usize = 4 << 20;

/// Bytes of whole lines that a thread parses at a time when a snapshot is read.
const CHUNK_LEN: usize = 1 << 20;

/// The most threads that read one: the lines are theirs to parse and merge, the file is read by one.
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
    /// `generation` is that of the log that holds what comes after it.
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

    /// Gives back the space of one that could not be written: the log may need it.
    pub fn give_up(disk: &dyn Disk) {
        // What stays in spite of this is found stale at the next start.
        let _ = disk.remove(SNAPSHOT_TMP);
    }

    /// Makes it the one that counts: what it supersedes is removed. A log that was only to count with this snapshot, whose name is `resuming_log`, counts from now on.
    /// Returns its length.
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

/// What a snapshot says beside its entries.
#[derive(Debug)]
pub struct Loaded {
    pub header: Header,
    pub end: End,
    /// The greatest stamp of any entry.
    pub greatest: Stamp,
    pub len: u64,
}

/// Reads a snapshot into an empty store, with several threads. `progress` is told the bytes read so far, and of how many; an error of it ends the reading. Damage is
/// `InvalidData` that names the file and the place; what another version wrote is `Unsupported`.
pub fn load(
    disk: &Arc<dyn Disk>,
    generation: u64,
    store: &Store,
    mut progress: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<Loaded> {
    let name = snapshot_name(generation);
    let (source, len) = disk.read(&name)?;
    let damaged = |offset: u64, what: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged at byte {offset} of {len}: {what}", disk.path(&name)))
    };
    let (mut header, mut end): (Option<Header>, Option<End>) = (None, None);
    let sum = Mutex::new(Part::default());
    let mut chunks = Chunks { source, at: 0, rest: Vec::new() };
    let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX);
    let (chunk_tx, chunk_rx) = bounded::<(u64, Vec<u8>)>(readers);
    thread::scope(|scope| {
        // Ends the readers, also when this ends early.
        let chunk_tx = chunk_tx;
        for _ in 0..readers {
            let (chunk_rx, sum) = (chunk_rx.clone(), &sum);
            thread::Builder::new().name("snapshot".to_owned()).spawn_scoped(scope, move || {
                let mut part = Part::default();
                for (offset, chunk) in chunk_rx {
                    if let Err(fault) = part.take(offset, &chunk, store) {
                        part.fault.get_or_insert(fault);
                    }
                }
                sum.lock().join(part);
            })?;
        }
        while let Some((offset, mut chunk)) = chunks.next()? {
            if end.is_some() {
                return Err(damaged(offset, "more lines behind the end line"));
            }
            let mut from = 0;
            if header.is_none() {
                let line = chunk.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if let Some(other) = dump::other_version(line) {
                    return Err(other.in_file(&disk.path(&name)));
                }
                match dump::parse_line(line).map_err(|what| damaged(offset, &what))? {
                    Line::Header(found) => {
                        if let Some(order) = found.order {
                            // Before the first entry: there is nothing to move.
                            store.reorder(order.key);
                        }
                        sum.lock().tally.join(&Tally::of(&found));
                        header = Some(found);
                    }
                    _ => return Err(damaged(offset, "it does not begin with the header of a dump")),
                }
                from = (line.len() + 1).min(chunk.len());
            }
            // The end line is the last one of the last chunk.
            let last = chunk[..chunk.len().saturating_sub(1)].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1).max(from);
            if chunk.len() as u64 + offset == len && chunk[last..].starts_with(b"{\"end\"") {
                let line = chunk[last..].strip_suffix(b"\n").ok_or_else(|| damaged(len, "an end line that is cut off"))?;
                match dump::parse_line(line).map_err(|what| damaged(offset + last as u64, &what))? {
                    Line::End(found) => end = Some(found),
                    _ => return Err(damaged(offset + last as u64, "no end line")),
                }
                chunk.truncate(last);
            }
            let read = offset + chunk.len() as u64;
            if from > 0 {
                chunk.drain(..from);
            }
            // Fails only when every reader is gone.
            let _ = chunk_tx.send((offset + from as u64, chunk));
            progress(read, len)?;
        }
        Ok(())
    })?;
    let Part { tally, greatest, fault } = sum.into_inner();
    if let Some((offset, what)) = fault {
        return Err(damaged(offset, &what));
    }
    let (Some(header), Some(end)) = (header, end) else { return Err(damaged(len, "it ends without an end line")) };
    tally.check(&end).map_err(|what| damaged(len, &what))?;
    Ok(Loaded { header, end, greatest, len })
}

/// What one reader has found in its chunks, or all of them.
#[derive(Default)]
struct Part {
    tally: Tally,
    greatest: Stamp,
    /// The first place that is wrong, and what is.
    fault: Option<(u64, String)>,
}

impl Part {
    /// The entries of a chunk of whole lines, which begins at `offset`.
    fn take(&mut self, offset: u64, chunk: &[u8], store: &Store) -> Result<(), (u64, String)> {
        let mut start = 0;
        while start < chunk.len() {
            let fault = |what: &str| (offset + start as u64, what.to_owned());
            let Some(len) = memchr::memchr(b'\n', &chunk[start..]) else { return Err(fault("a line that is cut off")) };
            match dump::parse_line(&chunk[start..start + len]).map_err(|what| fault(&what))? {
                Line::Entry(entry) => {
                    self.tally.add(&entry);
                    self.greatest = self.greatest.max(entry.version().stamp);
                    store.merge(entry, |_| false);
                }
                _ => return Err(fault("a header or an end line among the entries")),
            }
            start += len + 1;
        }
        Ok(())
    }

    fn join(&mut self, other: Part) {
        self.tally.join(&other.tally);
        self.greatest = self.greatest.max(other.greatest);
        self.fault = [self.fault.take(), other.fault].into_iter().flatten().min();
    }
}

/// A source in pieces of whole lines; the last one may lack its line feed.
struct Chunks {
    source: Box<dyn Read + Send>,
    /// Where `rest` begins in the file.
    at: u64,
    rest: Vec<u8>,
}

impl Chunks {
    /// The next piece and where it begins; as many bytes as it takes to have a whole line.
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
