//! The log file: what it looks like, how it grows, and how its end is told from damage.
//!
//! ```text
//! magic  8 bytes  "kvmesh-l"
//! format u32      1, little-endian; every later format begins with these twelve bytes, too,
//!                 and is refused in words
//! then records, each a frame (frame.rs): length u32 | crc32 u32 | body
//! ```
//!
//! Knows nothing of what a body means. A process or a machine that dies while it appends leaves a
//! *torn tail*: bytes after the last whole record, with no whole record behind them. It was never
//! acknowledged and is cut off. Damage with whole records behind it is another thing: what was
//! acknowledged may be gone, and the node must not start as if nothing had happened.

use std::io::{self, BufReader, Read};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::data::formats::OtherVersion;
use crate::wal::disk::{Disk, DiskFile};
use crate::wire::frame::{self, FrameHead, HEAD_LEN};

const MAGIC: &[u8; 8] = b"kvmesh-l";
/// The newest format of a log. A log that holds kinds of records which earlier builds do not know
/// is of a later one; the format before is still read.
const FORMAT: u32 = 1;
const READ: RangeInclusive<u32> = 1..=FORMAT;

/// Bytes in front of the first record.
pub const HEADER_LEN: u64 = 12;

/// Bytes of a record, at most: the longest message between peers fits.
pub const RECORD_LEN_MAX: usize = 320 << 20;

/// Bytes whose checksum is computed while whole records are looked for behind damage: some seconds.
/// Beyond this the search gives up, undecided.
const SEARCH_LEN_MAX: u64 = 16 << 30;

/// A log file that is open to append.
pub struct LogFile {
    file: Box<dyn DiskFile>,
    /// Bytes of whole records, the header included. Invariant: the file has this length, unless an
    /// append has failed just now.
    len: u64,
}

/// Why an append failed.
#[derive(Debug)]
pub struct AppendFailed {
    pub error: io::Error,
    /// The file was cut back to its last whole record, so it can go on once the cause is gone.
    pub was_cut: bool,
}

impl LogFile {
    /// Creates a log, durable by name and header when this returns.
    pub fn create(disk: &dyn Disk, name: &str) -> io::Result<LogFile> {
        let mut file = disk.create(name)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT.to_le_bytes());
        file.append(&header)?;
        file.sync()?;
        disk.sync_names()?;
        Ok(LogFile { file, len: HEADER_LEN })
    }

    /// Goes on with a log that was read. What lies behind its whole records is cut off.
    pub fn resume(disk: &dyn Disk, name: &str, found: &FoundLog) -> io::Result<LogFile> {
        if found.len < HEADER_LEN {
            return LogFile::create(disk, name);
        }
        let mut file = disk.append_to(name)?;
        if found.torn > 0 {
            file.truncate(found.len)?;
        }
        // What was read may have been in the system's memory only. A process that dies does not
        // lose that; the machine would.
        file.sync()?;
        disk.sync_names()?;
        Ok(LogFile { file, len: found.len })
    }

    /// Appends whole records. After an error none of them is there, if the file could be cut back.
    pub fn append(&mut self, records: &[u8]) -> Result<(), AppendFailed> {
        match self.file.append(records) {
            Ok(()) => {
                self.len += records.len() as u64;
                Ok(())
            }
            Err(error) => Err(AppendFailed { error, was_cut: self.file.truncate(self.len).is_ok() }),
        }
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Checks that the file still has a name; `NotFound` if it has none.
    pub fn check(&self) -> io::Result<()> {
        self.file.check()
    }

    /// Returns the bytes of header and whole records.
    pub fn whole_len(&self) -> u64 {
        self.len
    }
}

/// The contents of a log file, as far as they are whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundLog {
    pub records: u64,
    /// Bytes of header and whole records; less than [`HEADER_LEN`] for a file that died while it
    /// was made.
    pub len: u64,
    /// Bytes of a torn tail behind them.
    pub torn: u64,
}

/// Reads all records. `each` is given every body and the bytes read so far.
///
/// Damage is `InvalidData` that names file and offset. What another version wrote is `Unsupported`:
/// a log of another format, and a record that `each` does not understand although its checksum is
/// right.
pub fn read(disk: &Arc<dyn Disk>, name: &str, mut each: impl FnMut(&[u8], u64) -> Result<(), String>) -> io::Result<FoundLog> {
    let (source, file_len) = disk.read(name)?;
    let mut reader = BufReader::with_capacity(file_len.clamp(1, 1 << 20) as usize, source);
    let damaged = |offset: u64, what: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged at byte {offset} of {file_len}: {what}", disk.path(name)))
    };
    let mut found = FoundLog::default();
    if !read_header(&mut reader, file_len).map_err(|unreadable| match unreadable {
        Unreadable::Damaged(what) => damaged(0, what),
        Unreadable::Other(other) => other.in_file(&disk.path(name)),
        Unreadable::Failed(error) => error,
    })? {
        return Ok(FoundLog { torn: file_len, ..found });
    }
    found.len = HEADER_LEN;
    let mut record = Vec::new();
    loop {
        match frame::read(&mut reader, &mut record, RECORD_LEN_MAX) {
            // No node appends an empty record. These are zeros: the file had grown before what
            // belongs there was written.
            Ok(true) if record.len() == HEAD_LEN => break,
            Ok(true) => {
                each(&record[HEAD_LEN..], found.len).map_err(|what| {
                    let why = "its checksum is right, so it was written by another version of kvmesh: run the build that wrote it, or a newer one";
                    let what = format!("{}, the record at byte {}: {what}. Nothing is damaged: {why}", disk.path(name), found.len);
                    io::Error::new(io::ErrorKind::Unsupported, what)
                })?;
                found.records += 1;
                found.len += record.len() as u64;
            }
            Ok(false) => return Ok(found),
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => break,
            Err(error) => return Err(error),
        }
    }
    found.torn = file_len.saturating_sub(found.len);
    if found.torn > 2 * RECORD_LEN_MAX as u64 {
        return Err(damaged(found.len, "no whole record begins there, and no torn end is so long"));
    }
    let (mut source, _) = disk.read(name)?;
    io::copy(&mut (&mut source).take(found.len), &mut io::sink())?;
    let mut tail = Vec::new();
    source.read_to_end(&mut tail)?;
    match whole_record_in(&tail, SEARCH_LEN_MAX) {
        Ok(None) => Ok(found),
        Ok(Some(at)) => Err(damaged(found.len, &format!("no whole record begins there, but one does at byte {}", found.len + at as u64))),
        Err(Undecided) => Err(damaged(found.len, "no whole record begins there, and whether one follows would take too long to find out")),
    }
}

/// Why a log is not read at all.
enum Unreadable {
    Damaged(&'static str),
    Other(OtherVersion),
    Failed(io::Error),
}

/// Reads the header. Returns `false` for one that is cut off.
fn read_header(reader: &mut impl Read, file_len: u64) -> Result<bool, Unreadable> {
    let mut header = Vec::new();
    reader.take(HEADER_LEN).read_to_end(&mut header).map_err(Unreadable::Failed)?;
    let (magic, format) = header.split_at(header.len().min(MAGIC.len()));
    if !MAGIC.starts_with(magic) {
        return Err(Unreadable::Damaged("it does not begin as a log of kvmesh does"));
    }
    let Ok(format) = format.try_into().map(u32::from_le_bytes) else {
        return if file_len < HEADER_LEN { Ok(false) } else { Err(Unreadable::Damaged("its header cannot be read")) };
    };
    match OtherVersion::found(format, READ) {
        Some(other) => Err(Unreadable::Other(other)),
        None if READ.contains(&format) => Ok(true),
        None => Err(Unreadable::Damaged("its header cannot be read")),
    }
}

/// The search has taken too long.
#[derive(Debug, PartialEq, Eq)]
struct Undecided;

/// Looks for the beginning of a whole record, behind the first byte.
///
/// Almost nothing looks like a head that fits. Bytes that were made to, or happen to (a value that
/// is a row of small numbers), would take the square of their length. The search gives up after
/// checksums of `search_len` bytes.
fn whole_record_in(tail: &[u8], mut search_len: u64) -> Result<Option<usize>, Undecided> {
    for at in 1..tail.len() {
        let Some(head) = plausible(&tail[at..]) else { continue };
        search_len = search_len.checked_sub(head.len as u64).ok_or(Undecided)?;
        if head.fits(&tail[at + HEAD_LEN..at + HEAD_LEN + head.len]) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Returns the head at the beginning of these bytes, if its record may end within them.
fn plausible(bytes: &[u8]) -> Option<FrameHead> {
    let head = FrameHead::decode(*bytes.first_chunk()?);
    (head.len > 0 && head.len <= bytes.len() - HEAD_LEN).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::seal;

    #[test]
    fn a_search_that_would_take_too_long_is_given_up() {
        let mut torn = Vec::new();
        seal(&mut torn, 1, |out| (0..20_000).for_each(|_| out.extend_from_slice(&1_000u32.to_le_bytes())));
        torn.pop();
        assert_eq!(whole_record_in(&torn, SEARCH_LEN_MAX), Ok(None));
        assert_eq!(whole_record_in(&torn, 1 << 20), Err(Undecided));
    }

    #[test]
    fn a_long_whole_record_is_found_whatever_follows_it() {
        let mut tail = vec![b'x'];
        seal(&mut tail, 1, |out| out.resize((1 << 20) + 10, b'y'));
        tail.extend_from_slice(b"torn");
        assert_eq!(whole_record_in(&tail, SEARCH_LEN_MAX), Ok(Some(1)));
    }
}
