//! Reading backups: what `kvctl backup` wrote, or `kvctl dump` printed. Only a complete dump is a
//! backup, so every line is checked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use kvmesh::config::{KEY_LEN_MAX, VALUE_LEN_MAX};
use kvmesh::wire::dump::{self, DumpReader, Line};

use crate::{Code, Failure};

/// Bytes read from the file at a time.
const READ_LEN: usize = 256 << 10;

/// Reads a backup from its first line to its last.
pub struct BackupReader {
    name: String,
    input: Box<dyn BufRead>,
    /// The length of a regular file.
    size: Option<u64>,
    reader: DumpReader,
    line: Vec<u8>,
    lines: u64,
    bytes: u64,
}

impl BackupReader {
    /// Opens a file, or stdin for `-`.
    pub fn open(path: &str) -> Result<BackupReader, Failure> {
        if path == "-" {
            return Ok(BackupReader::over("stdin", Box::new(BufReader::with_capacity(READ_LEN, io::stdin())), None));
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| Failure::new(Code::Usage, format_args!("cannot open {path}: {error}")))?;
        let size = metadata.is_file().then_some(metadata.len());
        Ok(BackupReader::over(path, Box::new(BufReader::with_capacity(READ_LEN, file)), size))
    }

    fn over(name: &str, input: Box<dyn BufRead>, size: Option<u64>) -> BackupReader {
        BackupReader { name: name.to_string(), input, size, reader: DumpReader::default(), line: Vec::new(), lines: 0, bytes: 0 }
    }

    /// Returns the next line, its line end included, and what it says. `None` when the dump has
    /// been read and is complete. The end line is returned only if it is the last and correct.
    pub fn next(&mut self) -> Result<Option<(&[u8], Line)>, Failure> {
        let line_len_max = dump::line_len_max(KEY_LEN_MAX as usize, VALUE_LEN_MAX as usize) as u64;
        self.line.clear();
        let read = self.input.by_ref().take(line_len_max + 1).read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| self.wrong(&error.to_string()))? as u64;
        if read == 0 {
            return self.reader.finish().map(|()| None).map_err(|wrong| self.wrong(&wrong));
        }
        if read > line_len_max {
            return Err(self.wrong(&format!("a line of more than {line_len_max} bytes; no dump has such a line")));
        }
        let bytes = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = self.reader.line(bytes).map_err(|wrong| self.wrong(&wrong))?;
        if !self.line.ends_with(b"\n") {
            self.line.push(b'\n');
        }
        self.bytes += read;
        self.lines += 1;
        if matches!(line, Line::End(_)) && self.input.fill_buf().is_ok_and(|more| !more.is_empty()) {
            return Err(self.wrong("something follows the end line (the END of a reply is not part of a backup)"));
        }
        Ok(Some((&self.line, line)))
    }

    fn wrong(&self, wrong: &str) -> Failure {
        Failure::new(Code::Refused, format_args!("{}, line {}: {wrong}", self.name, self.lines + 1))
    }

    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn entries(&self) -> u64 {
        self.reader.count()
    }
}

/// Returns false if a regular file does not end with an end line. One look finds most files that
/// were cut off, before anything is sent. A file that cannot be read so counts as complete.
pub fn seems_whole(path: &str) -> bool {
    fn last_line(path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let tail_len = dump::line_len_max(0, 0) as u64;
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(tail_len)))?;
        let mut tail = Vec::new();
        file.take(tail_len).read_to_end(&mut tail)?;
        let tail = tail.trim_ascii_end();
        let start = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Ok(Some(tail[start..].to_vec()))
    }
    match last_line(path) {
        Ok(Some(line)) => dump::is_end_line(&line),
        Ok(None) | Err(_) => true,
    }
}
