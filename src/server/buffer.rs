//! What a session has read and not yet executed.
//!
//! Small while a client is idle, since ten thousand of them may be; larger while one sends much; and as large as the line limit allows only
//! while one large command arrives. Never parses.

use std::io::{self, Read};

/// Of a client that sends little.
const LEN_MIN: usize = 4 << 10;
/// Kept between rounds.
const LEN_KEPT: usize = 16 << 10;
/// Reads grow up to here when the socket holds more: beyond this, a round gains nothing from more commands.
const LEN_BURST: usize = 64 << 10;

pub(super) struct ReadBuffer {
    /// All of it is initialized; `start..end` is unread.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Beyond this it never grows: a longer line has been refused by then.
    len_max: usize,
}

impl ReadBuffer {
    /// A buffer that holds at least one line of `line_len_max` bytes and its end.
    pub fn new(line_len_max: usize) -> ReadBuffer {
        ReadBuffer { bytes: vec![0; LEN_MIN], start: 0, end: 0, len_max: line_len_max.saturating_add(LEN_MIN) }
    }

    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `len` unread bytes are done with.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end);
    }

    /// Reads once, behind what is unread. Returns 0 at the end of the stream.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.make_room();
        let read = loop {
            match source.read(&mut self.bytes[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += read;
        Ok(read)
    }

    /// Moves what is unread to the front, and makes the rest longer or shorter as the last round suggests.
    fn make_room(&mut self) {
        let unread = self.end - self.start;
        let was_full = self.end == self.bytes.len();
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        let len = self.bytes.len();
        if unread == len {
            self.bytes.resize((len * 2).min(self.len_max), 0);
        } else if was_full && len < LEN_BURST {
            self.bytes.resize(len * 2, 0);
        } else if (!was_full && len > LEN_KEPT || len > LEN_BURST) && unread < LEN_KEPT / 2 {
            self.bytes.truncate(LEN_KEPT);
            self.bytes.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_for_a_large_command_up_to_its_bound_and_shrinks_when_that_is_done() {
        let mut buffer = ReadBuffer::new(1 << 20);
        let line = vec![7; 1 << 20];
        let mut source = &line[..];
        while buffer.fill(&mut source).unwrap() > 0 {}
        assert_eq!(buffer.unread(), line);
        assert!(buffer.len() <= (1 << 20) + LEN_MIN);
        buffer.consume(line.len() - 3);
        buffer.fill(&mut &b"next"[..]).unwrap();
        assert_eq!(buffer.unread(), b"\x07\x07\x07next");
        assert_eq!(buffer.len(), LEN_KEPT);
    }

    #[test]
    fn it_grows_while_reads_fill_it() {
        let mut buffer = ReadBuffer::new(1 << 20);
        let mut source = io::repeat(1);
        for _ in 0..10 {
            let read = buffer.fill(&mut source).unwrap();
            buffer.consume(read);
        }
        assert_eq!(buffer.len(), LEN_BURST);
    }
}
