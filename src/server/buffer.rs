//! What a session has read and not yet executed.
//!
//! Small while a client is idle, since ten thousand of them may be; larger while one sends much; and as large as the line limit allows only
//! while one large command arrives. Never parses.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of a client that sends little.
const LEN_MIN: usize = 4 << 10;
/// Kept between rounds.
const LEN_KEPT: usize = 16 << 10;
/// Reads grow up to here when the socket holds more: beyond this, a round gains nothing from more commands.
const LEN_BURST: usize = 64 << 10;

/// What all read buffers together may take above [`LEN_BURST`] each. Any legal command fits, or dozens that are usual; beyond this, who sends a
/// large command hears `ERROR BUSY` and is closed, and small ones are served as ever.
pub(super) const ROOM: usize = 1 << 30;

/// The memory that large commands take while they arrive: one for all sessions.
pub(super) struct ReadRoom {
    left: AtomicUsize,
}

impl ReadRoom {
    pub fn new(len: usize) -> ReadRoom {
        ReadRoom { left: AtomicUsize::new(len) }
    }

    pub fn take(&self, len: usize) -> Result<(), NoRoom> {
        let take = |left: usize| left.checked_sub(len);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(|_| ()).map_err(|_| NoRoom)
    }

    pub fn give_back(&self, len: usize) {
        self.left.fetch_add(len, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// A large command is arriving, and [`ReadRoom`] is used up by others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

pub(super) struct ReadBuffer<'a> {
    /// All of it is initialized; `start..end` is unread.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Beyond this it never grows: a longer line has been refused by then.
    len_max: usize,
    /// Invariant: of it, as much is taken as `bytes` is longer than [`LEN_BURST`].
    room: &'a ReadRoom,
}

impl<'a> ReadBuffer<'a> {
    /// A buffer that holds at least one line of `line_len_max` bytes and its end.
    pub fn new(line_len_max: usize, room: &'a ReadRoom) -> ReadBuffer<'a> {
        ReadBuffer { bytes: vec![0; LEN_MIN], start: 0, end: 0, len_max: line_len_max.saturating_add(LEN_MIN), room }
    }

    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `len` unread bytes are done with.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end);
    }

    /// Reads once, behind what is unread, after [`ReadBuffer::make_room`]. Returns 0 at the end of the stream.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let read = loop {
            match source.read(&mut self.bytes[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.end += read;
        Ok(read)
    }

    /// Moves what is unread to the front, and makes the rest longer or shorter as the last round suggests. What is unread stays when it fails.
    pub fn make_room(&mut self) -> Result<(), NoRoom> {
        let unread = self.end - self.start;
        let was_full = self.end == self.bytes.len();
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        let len = self.bytes.len();
        if unread == len {
            self.resize((len * 2).min(self.len_max))?;
        } else if was_full && len < LEN_BURST {
            self.resize(len * 2)?;
        } else if (!was_full && len > LEN_KEPT || len > LEN_BURST) && unread < LEN_KEPT / 2 {
            self.resize(LEN_KEPT)?;
        }
        Ok(())
    }

    fn resize(&mut self, len: usize) -> Result<(), NoRoom> {
        let (before, after) = (large(self.bytes.len()), large(len));
        if after > before {
            self.room.take(after - before)?;
        }
        // Exactly, so that what is counted is what is taken.
        self.bytes.reserve_exact(len.saturating_sub(self.bytes.len()));
        self.bytes.resize(len, 0);
        self.bytes.shrink_to_fit();
        self.room.give_back(before.saturating_sub(after));
        Ok(())
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for ReadBuffer<'_> {
    fn drop(&mut self) {
        self.room.give_back(large(self.bytes.len()));
    }
}

/// What a buffer of this length takes of the common room.
fn large(len: usize) -> usize {
    len.saturating_sub(LEN_BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut ReadBuffer<'_>, source: &mut impl Read) -> usize {
        buffer.make_room().unwrap();
        buffer.fill(source).unwrap()
    }

    #[test]
    fn large_buffers_share_a_room_and_give_it_back() {
        let room = ReadRoom::new(1 << 20);
        let mut first = ReadBuffer::new(4 << 20, &room);
        let mut source = io::repeat(1);
        while first.make_room() == Ok(()) {
            first.fill(&mut source).unwrap();
        }
        assert_eq!(first.len(), 1 << 20);
        assert_eq!(first.unread().len(), 1 << 20);
        assert_eq!(room.left(), LEN_BURST);
        // Without it, a buffer is as large as many small commands want it.
        let mut second = ReadBuffer::new(4 << 20, &room);
        while second.make_room() == Ok(()) {
            second.fill(&mut source).unwrap();
        }
        assert_eq!(second.len(), 2 * LEN_BURST);
        drop(second);
        first.consume(1 << 20);
        first.make_room().unwrap();
        assert_eq!(room.left(), 1 << 20);
        drop(first);
        assert_eq!(room.left(), 1 << 20);
    }

    #[test]
    fn it_grows_for_a_large_command_up_to_its_bound_and_shrinks_when_that_is_done() {
        let room = ReadRoom::new(ROOM);
        let mut buffer = ReadBuffer::new(1 << 20, &room);
        let line = vec![7; 1 << 20];
        let mut source = &line[..];
        while fill(&mut buffer, &mut source) > 0 {}
        assert_eq!(buffer.unread(), line);
        assert!(buffer.len() <= (1 << 20) + LEN_MIN);
        buffer.consume(line.len() - 3);
        fill(&mut buffer, &mut &b"next"[..]);
        assert_eq!(buffer.unread(), b"\x07\x07\x07next");
        assert_eq!(buffer.len(), LEN_KEPT);
    }

    #[test]
    fn it_grows_while_reads_fill_it() {
        let room = ReadRoom::new(ROOM);
        let mut buffer = ReadBuffer::new(1 << 20, &room);
        let mut source = io::repeat(1);
        for _ in 0..10 {
            let read = fill(&mut buffer, &mut source);
            buffer.consume(read);
        }
        assert_eq!(buffer.len(), LEN_BURST);
    }
}
