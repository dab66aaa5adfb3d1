//! From the bytes of one connection to typed requests, by whichever protocol they come.
//!
//! Owns how far an unfinished request has been looked at. From here on a command is a typed one.

use crate::server::authorization::Needed;
use crate::server::commands::refused::refusal;
use crate::server::commands::spec::{Parser, Spec};
use crate::server::commands::table;
use crate::server::evaluation::RoundTime;
use crate::server::multi_queue;
use crate::wire::bytes::Limits;
use crate::wire::command::Request;
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::arguments::Arguments;
use crate::wire::resp::request::{self, Partial};
use crate::wire::text::{self, VerbSpec};

/// The beginning of a read buffer.
pub(crate) enum ParsedRequest<'a, 's> {
    /// Not all of a request is there.
    Incomplete,
    /// There is nothing to be answered.
    Empty,
    Request(Row, Request<'a>),
    /// A request to be kept until EXEC.
    Queued(multi_queue::QueuedRequest<'a, 's>),
    /// An error is its answer, and the next request may be right. The row, if it is known.
    Wrong(Option<Row>, Wrong),
    /// Answered with an error; the connection closes, since it is unknown where the next request
    /// begins.
    Fatal(Wrong),
    /// A replica of Redis asks for all data, in a line. Answered in RESP, and the connection
    /// closed: the replica takes for data whatever does not begin with a minus sign.
    ReplicaOfRedis(Wrong),
}

/// The row of a command in the table of its protocol.
#[derive(Clone, Copy)]
pub(crate) enum Row {
    Text(&'static VerbSpec),
    Resp(&'static Spec),
}

/// The parser of the requests of one connection.
#[derive(Default)]
pub(crate) struct RequestParser {
    partial: Partial,
    /// So many bytes of a text line that is not whole are known to hold no end.
    scanned: usize,
}

impl Row {
    /// The name of the command; `None` if it is a line of text.
    pub fn resp_name(self) -> Option<&'static str> {
        match self {
            Row::Text(_) => None,
            Row::Resp(spec) => Some(spec.name),
        }
    }

    /// The command and its role.
    pub fn needed(self) -> Needed {
        match self {
            Row::Text(spec) => Needed { name: spec.name, role: spec.role },
            Row::Resp(spec) => spec.needed(),
        }
    }

    /// Returns true if a node that has not caught up yet answers the command.
    pub fn is_allowed_while_loading(self) -> bool {
        match self {
            Row::Text(spec) => spec.is_allowed_while_loading,
            Row::Resp(spec) => spec.is_allowed_while_loading(),
        }
    }
}

impl RequestParser {
    /// Bytes that the longest request can need.
    pub fn len_max(limits: &Limits) -> usize {
        text::line_len_max(limits).max(request::request_len_max(limits))
    }

    /// The first request in `buffer`, and how many bytes of it are done with. After
    /// [`ParsedRequest::Incomplete`] the next call gets the same bytes and more. `queues`: the
    /// connection is between MULTI and EXEC.
    #[inline]
    pub fn next<'a, 's>(&'s mut self, buffer: &'a [u8], queues: bool, limits: &Limits, time: &RoundTime) -> (ParsedRequest<'a, 's>, usize) {
        match buffer.first() {
            Some(b'*') => self.next_resp(buffer, queues, limits, time),
            _ => self.next_line(buffer, limits, time),
        }
    }

    #[inline]
    fn next_resp<'a, 's>(
        &'s mut self,
        buffer: &'a [u8],
        queues: bool,
        limits: &Limits,
        time: &RoundTime,
    ) -> (ParsedRequest<'a, 's>, usize) {
        let (words, consumed) = match request::parse(buffer, &mut self.partial, limits) {
            request::ParsedWords::Incomplete => return (ParsedRequest::Incomplete, 0),
            request::ParsedWords::Empty { consumed } => return (ParsedRequest::Empty, consumed),
            request::ParsedWords::Fatal { wrong } => return (ParsedRequest::Fatal(wrong), 0),
            request::ParsedWords::Request { words, consumed } => (words, consumed),
        };
        let parsed = match table::check(words) {
            Ok((spec, Parser::Command(parser))) if queues => ParsedRequest::Queued(multi_queue::QueuedRequest { spec, parser, words }),
            Ok((spec, parser)) => {
                let now_ms = || time.wall_ms() as i64;
                match parser.parse(&Arguments { name: spec.name, words, limits, now_ms: &now_ms }) {
                    Ok(request) => ParsedRequest::Request(Row::Resp(spec), request),
                    Err(wrong) => ParsedRequest::Wrong(Some(Row::Resp(spec)), wrong),
                }
            }
            Err(wrong) => ParsedRequest::Wrong(None, wrong),
        };
        (parsed, consumed)
    }

    fn next_line<'a, 's>(&'s mut self, buffer: &'a [u8], limits: &Limits, time: &RoundTime) -> (ParsedRequest<'a, 's>, usize) {
        match text::parse(buffer, std::mem::take(&mut self.scanned), limits, || time.wall_ms()) {
            text::ParsedLine::Incomplete { scanned } => {
                self.scanned = scanned;
                (ParsedRequest::Incomplete, 0)
            }
            text::ParsedLine::Empty { consumed } => (ParsedRequest::Empty, consumed),
            text::ParsedLine::Request { verb, request, consumed } => (ParsedRequest::Request(Row::Text(verb.spec()), request), consumed),
            text::ParsedLine::Wrong { wrong, consumed } => match replica_of_redis(&buffer[..consumed]) {
                Some(refused) => (ParsedRequest::ReplicaOfRedis(refused), consumed),
                None => (ParsedRequest::Wrong(None, wrong), consumed),
            },
            text::ParsedLine::Fatal { wrong } => (ParsedRequest::Fatal(wrong), 0),
        }
    }
}

/// The refusal of a line that asks to be sent everything, as `redis-cli --rdb` and replicas of
/// Redis do; `None` for any other line.
fn replica_of_redis(line: &[u8]) -> Option<Wrong> {
    let word = line.split(u8::is_ascii_whitespace).next()?;
    let is_sync = word.eq_ignore_ascii_case(b"sync") || word.eq_ignore_ascii_case(b"psync");
    is_sync.then(|| refusal(word)).flatten().map(|sentence| Wrong::new(ErrorCode::Err, sentence))
}
