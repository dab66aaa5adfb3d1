//! The read buffer: what a session has read and not yet executed.
//!
//! Small while a client is idle, since ten thousand of them may be; larger while one sends much;
//! and as large as the line limit allows only while one large command arrives. Never parses.

use std::io::{self, Read};

use crate::budget::{ByteBudget, OutOfBudget, Share};

/// Bytes of the buffer of a client that sends little. It doubles while reads fill it.
const LEN_MIN: usize = 256;
/// Bytes that are kept between rounds.
const LEN_KEPT: usize = 16 << 10;
/// Bytes up to which the buffer grows when the socket holds more: beyond this, a round gains
/// nothing from more commands.
const LEN_BURST: usize = 64 << 10;

pub(crate) struct ReadBuffer<'a> {
    /// Bytes that are all initialized; `start..end` is unread.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Beyond this the buffer never grows: a longer line has been refused by then.
    len_max: usize,
    /// Invariant: as large as `bytes` is longer than [`LEN_BURST`].
    share: Share<'a>,
}

impl<'a> ReadBuffer<'a> {
    /// A buffer that holds at least one line of `line_len_max` bytes and its end.
    pub fn new(line_len_max: usize, budget: &'a ByteBudget) -> ReadBuffer<'a> {
        ReadBuffer { bytes: vec![0; LEN_MIN], start: 0, end: 0, len_max: line_len_max.saturating_add(LEN_MIN), share: Share::none(budget) }
    }

    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops the first `len` unread bytes, which are done with.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end);
    }

    /// Reads once, behind the unread bytes, after [`ReadBuffer::make_room`]. Returns 0 at the end
    /// of the stream.
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

    /// Moves the unread bytes to the front, and makes the rest longer or shorter as the last round
    /// suggests. The unread bytes stay when it fails.
    pub fn make_room(&mut self) -> Result<(), OutOfBudget> {
        let unread = self.end - self.start;
        let was_full = self.end == self.bytes.len();
        self.move_to_front();
        let len = self.bytes.len();
        if unread == len {
            self.resize(self.longer())?;
        } else if was_full && len < LEN_BURST {
            self.resize(len * 2)?;
        } else if (!was_full && len > LEN_KEPT || len > LEN_BURST) && unread < LEN_KEPT / 2 {
            self.resize(LEN_KEPT)?;
        }
        Ok(())
    }

    /// Makes room behind the unread bytes while nothing is executed. Returns false where there is
    /// none: beyond the longest line, and where others use up the budget.
    pub fn make_room_ahead(&mut self) -> bool {
        let len = self.bytes.len();
        if self.end < len {
            return true;
        }
        // Only where much is gained: all unread bytes are moved.
        if self.start >= len / 8 {
            self.move_to_front();
            return true;
        }
        let longer = self.longer();
        longer > len && self.resize(longer).is_ok()
    }

    /// The next length. It doubles at first. Beyond [`LEN_BURST`] what is new is new memory, which
    /// takes more time than the bytes that come, and is given back behind each large command; so it
    /// overshoots by half at most. What is there already is moved by the system, not copied.
    fn longer(&self) -> usize {
        let len = self.bytes.len();
        let more = if len < LEN_BURST { len } else { len / 2 };
        (len + more).min(self.len_max)
    }

    fn move_to_front(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    fn resize(&mut self, len: usize) -> Result<(), OutOfBudget> {
        self.share.set(large(len.max(self.bytes.len())))?;
        // Exactly, so that what is counted is what is taken.
        self.bytes.reserve_exact(len.saturating_sub(self.bytes.len()));
        self.bytes.resize(len, 0);
        self.bytes.shrink_to_fit();
        self.share.set(large(len))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of the common budget that a buffer of this length takes.
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
        let budget = ByteBudget::new(1 << 20);
        let mut first = ReadBuffer::new(4 << 20, &budget);
        let mut source = io::repeat(1);
        while first.make_room() == Ok(()) {
            first.fill(&mut source).unwrap();
        }
        // So much that it does not fit once more.
        let len = first.len();
        assert_eq!(first.unread().len(), len);
        assert!(len > 1 << 19);
        assert_eq!(budget.left(), (1 << 20) - (len - LEN_BURST));
        let rest = budget.left();
        budget.try_reserve(rest).unwrap();
        // Without it, a buffer is as large as many small commands want it.
        let mut second = ReadBuffer::new(4 << 20, &budget);
        while second.make_room() == Ok(()) {
            second.fill(&mut source).unwrap();
        }
        assert_eq!(second.len(), LEN_BURST);
        drop(second);
        budget.give_back(rest);
        first.consume(len);
        first.make_room().unwrap();
        assert_eq!(budget.left(), 1 << 20);
        drop(first);
        assert_eq!(budget.left(), 1 << 20);
    }

    #[test]
    fn it_grows_for_a_large_command_up_to_its_bound_and_shrinks_when_that_is_done() {
        let budget = ByteBudget::new(1 << 30);
        let mut buffer = ReadBuffer::new(1 << 20, &budget);
        let line = vec![7; 1 << 20];
        let mut source = &line[..];
        while fill(&mut buffer, &mut source) > 0 {
            assert!(buffer.len() <= 2 * LEN_BURST || buffer.len() * 2 <= buffer.unread().len() * 3);
        }
        assert_eq!(buffer.unread(), line);
        assert!(buffer.len() <= (1 << 20) + LEN_MIN);
        buffer.consume(line.len() - 3);
        fill(&mut buffer, &mut &b"next"[..]);
        assert_eq!(buffer.unread(), b"\x07\x07\x07next");
        assert_eq!(buffer.len(), LEN_KEPT);
    }

    #[test]
    fn what_is_read_ahead_grows_up_to_the_bound_and_goes_on_when_an_eighth_of_it_is_done_with() {
        let budget = ByteBudget::new(1 << 30);
        let mut buffer = ReadBuffer::new(1 << 20, &budget);
        let mut source = io::repeat(1);
        let mut fill_ahead = |buffer: &mut ReadBuffer<'_>| {
            while buffer.make_room_ahead() {
                assert!(buffer.fill(&mut source).unwrap() > 0);
            }
        };
        fill_ahead(&mut buffer);
        let len = (1 << 20) + LEN_MIN;
        assert_eq!((buffer.len(), buffer.unread().len()), (len, len));
        buffer.consume(len / 8 - 1);
        assert!(!buffer.make_room_ahead());
        buffer.consume(1);
        fill_ahead(&mut buffer);
        assert_eq!((buffer.len(), buffer.unread().len()), (len, len));
        // Nothing is read where others take all the memory; and what is unread is still there.
        budget.try_reserve(budget.left()).unwrap();
        let mut other = ReadBuffer::new(1 << 20, &budget);
        fill_ahead(&mut other);
        assert_eq!(other.unread().len(), LEN_BURST);
    }

    #[test]
    fn it_grows_while_reads_fill_it() {
        let budget = ByteBudget::new(1 << 30);
        let mut buffer = ReadBuffer::new(1 << 20, &budget);
        let mut source = io::repeat(1);
        for _ in 0..10 {
            let read = fill(&mut buffer, &mut source);
            buffer.consume(read);
        }
        assert_eq!(buffer.len(), LEN_BURST);
    }
}
