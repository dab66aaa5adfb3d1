//! Which protocol a request speaks, told by its first byte; and its reply in the same words.
//!
//! Owns how far an unfinished request has been looked at. From here on a command is a [`Command`], whoever asked.

use std::io;

use crate::server::judge::Moment;
use crate::wire::bytes::Limits;
use crate::wire::command::Command;
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::request::{self, Partial};
use crate::wire::resp::{arguments, encoding, refused};
use crate::wire::text;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Text,
    Resp(RespVersion),
}

/// What the beginning of a read buffer holds.
pub(crate) enum Asked<'a> {
    /// Not all of a request.
    Incomplete,
    /// Nothing to be answered.
    Empty,
    /// What is wrong with it is its answer, and the next one may be right.
    Command(Result<Command<'a>, Wrong>),
    /// To be kept until EXEC.
    Queued,
    /// To be answered, and the connection closed: where the next request begins cannot be known.
    Fatal(Wrong),
    /// A replica of Redis asks for all data, in a line. To be answered in RESP, and the connection closed: it takes for data whatever does not begin with a minus sign.
    Replica(Wrong),
}

/// The requests of one connection.
#[derive(Default)]
pub(crate) struct Requests {
    partial: Partial,
    /// Of a text line that is not whole, so much is known to hold no end.
    scanned: usize,
    /// The command that was asked for last, by name; `None` if that was a line of text.
    command: Option<&'static str>,
}

impl Wire {
    /// No text command begins with an asterisk, and every request of a Redis client does.
    pub fn of(first: Option<&u8>, version: RespVersion) -> Wire {
        if first == Some(&b'*') { Wire::Resp(version) } else { Wire::Text }
    }

    /// Appends a reply.
    pub fn encode(self, reply: &Reply<'_>, out: &mut Vec<u8>) {
        match self {
            Wire::Text => text::encode_reply(reply, out),
            Wire::Resp(version) => encoding::encode_reply(reply, version, out),
        }
    }

    pub fn write(self, out: &mut impl io::Write, reply: &Reply<'_>) -> io::Result<()> {
        match self {
            Wire::Text => text::write_reply(out, reply),
            Wire::Resp(version) => encoding::write_reply(out, reply, version),
        }
    }
}

impl Requests {
    /// Bytes that the longest request can need.
    pub fn len_max(limits: &Limits) -> usize {
        text::line_len_max(limits).max(request::request_len_max(limits))
    }

    /// The first request in `buffer`, and how many bytes of it are done with. After [`Asked::Incomplete`] the next call gets the same bytes and more. `queues`:
    /// MULTI was said.
    #[inline]
    pub fn next<'a>(&mut self, buffer: &'a [u8], queues: bool, limits: &Limits, moment: &Moment) -> (Asked<'a>, usize) {
        match buffer.first() {
            Some(b'*') => self.next_resp(buffer, queues, limits, moment),
            _ => self.next_line(buffer, limits, moment),
        }
    }

    pub fn command(&self) -> Option<&'static str> {
        self.command
    }

    #[inline]
    fn next_resp<'a>(&mut self, buffer: &'a [u8], queues: bool, limits: &Limits, moment: &Moment) -> (Asked<'a>, usize) {
        let (words, consumed) = match request::parse(buffer, &mut self.partial, limits) {
            request::Parsed::Incomplete => return (Asked::Incomplete, 0),
            request::Parsed::Empty { consumed } => return (Asked::Empty, consumed),
            request::Parsed::Fatal { wrong } => return (Asked::Fatal(wrong), 0),
            request::Parsed::Request { words, consumed } => (words, consumed),
        };
        let spec = arguments::check(words);
        self.command = spec.as_ref().ok().map(|spec| spec.name).or(self.command);
        let asked = match spec {
            Ok(spec) if queues && spec.is_queued_in_multi() => Asked::Queued,
            Ok(spec) => Asked::Command(arguments::checked(spec, words, limits, || moment.wall_ms() as i64)),
            Err(wrong) => Asked::Command(Err(wrong)),
        };
        (asked, consumed)
    }

    fn next_line<'a>(&mut self, buffer: &'a [u8], limits: &Limits, moment: &Moment) -> (Asked<'a>, usize) {
        match text::parse(buffer, std::mem::take(&mut self.scanned), limits, || moment.wall_ms()) {
            text::Parsed::Incomplete { scanned } => {
                self.scanned = scanned;
                (Asked::Incomplete, 0)
            }
            text::Parsed::Empty { consumed } => (Asked::Empty, consumed),
            text::Parsed::Command { command, consumed } => {
                self.command = None;
                (Asked::Command(Ok(command)), consumed)
            }
            text::Parsed::Wrong { wrong, consumed } => match replica(&buffer[..consumed]) {
                Some(refused) => (Asked::Replica(refused), consumed),
                None => (Asked::Command(Err(wrong)), consumed),
            },
            text::Parsed::Fatal { wrong } => (Asked::Fatal(wrong), 0),
        }
    }
}

/// Why a line that asks to be sent everything, as `redis-cli --rdb` and replicas of Redis do, is refused; `None` for any other line.
fn replica(line: &[u8]) -> Option<Wrong> {
    let word = line.split(u8::is_ascii_whitespace).next()?;
    let is_sync = word.eq_ignore_ascii_case(b"sync") || word.eq_ignore_ascii_case(b"psync");
    is_sync.then(|| refused::refusal(word)).flatten().map(|sentence| Wrong::new(ErrorCode::Err, sentence))
}

/// A request once more that was whole when it came, and how long it is.
pub(crate) fn parse_again<'a>(buffer: &'a [u8], limits: &Limits, moment: &Moment) -> (Result<Command<'a>, Wrong>, usize) {
    match Requests::default().next(buffer, false, limits, moment) {
        (Asked::Command(command), consumed) => (command, consumed),
        _ => panic!("what was a request is none: {}", buffer[..buffer.len().min(100)].escape_ascii()),
    }
}
