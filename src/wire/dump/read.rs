//! Reading a dump: the one place that knows which lines make a whole one.

use super::parse::parse_line;
use super::{DumpDigest, Line};
use crate::data::entry::Entry;

/// The error for a dump whose end line does not come.
pub const BROKEN_OFF: &str = "the dump breaks off before its end line";

/// Reads one dump, line by line: a header, then entries, then an end line that agrees with them.
///
/// Never reads past the end line: the next dump has a reader of its own. After an error the dump is
/// worth nothing more, and neither is the reader. Its caller bounds the length of a line, see
/// [`line_len_max`](super::line_len_max).
#[derive(Default)]
pub struct DumpReader {
    stage: Stage,
    digest: DumpDigest,
}

/// The lines that a [`DumpReader`] has had.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Nothing,
    Header,
    EndLine,
}

impl DumpReader {
    /// Takes the next line, without its line feed; a carriage return at its end is dropped. An
    /// error says what is wrong.
    pub fn line(&mut self, line: &[u8]) -> Result<Line, String> {
        let line = parse_line(line.strip_suffix(b"\r").unwrap_or(line))?;
        match (self.stage, &line) {
            (Stage::Header, Line::Entry(entry)) => self.digest.add(entry),
            (Stage::Nothing, Line::Header(header)) => (self.stage, self.digest) = (Stage::Header, DumpDigest::of(header)),
            (Stage::Header, Line::End(end)) => {
                self.digest.check(end)?;
                self.stage = Stage::EndLine;
            }
            (Stage::Nothing, Line::Entry(_) | Line::End(_)) => return Err("a dump begins with its header, and this is none".to_owned()),
            (Stage::Header, Line::Header(_)) => return Err("a dump within a dump".to_owned()),
            (Stage::EndLine, _) => return Err("a line behind the end line: this is not one dump".to_owned()),
        }
        Ok(line)
    }

    /// Adds entries that another thread has read.
    pub fn join(&mut self, part: &PartReader) {
        self.digest.join(&part.digest);
    }

    /// Entries that came so far.
    pub fn count(&self) -> u64 {
        self.digest.count()
    }

    /// Returns whether the header has come.
    pub fn has_begun(&self) -> bool {
        self.stage != Stage::Nothing
    }

    /// Returns whether the end line has come.
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::EndLine
    }

    /// Checks, where no line follows, that the dump is whole.
    pub fn finish(&self) -> Result<(), String> {
        if self.has_ended() { Ok(()) } else { Err(BROKEN_OFF.to_owned()) }
    }
}

/// Reads some of a dump's entries beside others, to be joined to the dump's reader before its end
/// line.
#[derive(Default)]
pub struct PartReader {
    digest: DumpDigest,
}

impl PartReader {
    /// Takes the line of an entry, without its line feed.
    pub fn entry(&mut self, line: &[u8]) -> Result<Entry, String> {
        let Line::Entry(entry) = parse_line(line)? else { return Err("a header or an end line among the entries".to_owned()) };
        self.digest.add(&entry);
        Ok(entry)
    }

    /// Adds another part.
    pub fn join(&mut self, other: &PartReader) {
        self.digest.join(&other.digest);
    }
}

/// Cuts bytes into lines, without their line feeds. An error if the last one has none.
pub fn whole_lines(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, String> {
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        return Err("a dump line that is cut off".to_owned());
    }
    let mut start = 0;
    Ok(memchr::memchr_iter(b'\n', bytes).map(move |end| &bytes[std::mem::replace(&mut start, end + 1)..end]))
}

/// Reads the entries among some whole lines of a dump, of which nothing is proven: headers and end
/// lines are passed over.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for line in whole_lines(bytes)? {
        if let Line::Entry(entry) = parse_line(line)? {
            entries.push(entry);
        }
    }
    Ok(entries)
}
