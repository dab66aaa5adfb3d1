//! The text protocol of clients: a line a command, readable with telnet.
//!
//! [`parse`] takes what a session has read and returns a command that borrows from it; it knows
//! nothing of sockets or of what a command does. [`VERBS`] has a row for each verb. A server writes
//! with [`encode_reply`], a client with [`RequestLine`].

mod http;
mod replies;
mod request_line;
mod verbs;
mod words;

use std::borrow::Cow;

use memchr::memchr;

use crate::wire::bytes::Limits;
use crate::wire::command::Request;
use crate::wire::quoting::{shown, split_quoted};
use crate::wire::reply::{ErrorCode, Wrong};

use http::ends_in_http;
use words::{split_word, trim_start};

pub use replies::{encode_reply, write_reply};
pub use request_line::RequestLine;
pub use verbs::{HELP_NOTES, VERBS, Verb, VerbSpec};

/// The bytes that a line may hold beside its key and value; also the longest line that no verb
/// begins.
const LINE_LEN_MIN: usize = 1024;

/// The longest line: every byte of key and value may be escaped as four.
pub fn line_len_max(limits: &Limits) -> usize {
    LINE_LEN_MIN.saturating_add(written_len_max(limits.key_len_max, true)).saturating_add(written_len_max(limits.value_len_max, true))
}

/// The longest written form of a text of so many bytes: in quotes, every byte may be escaped as
/// four.
fn written_len_max(len_max: usize, is_quoted: bool) -> usize {
    if is_quoted { len_max.saturating_mul(4) } else { len_max }
}

/// The beginning of a read buffer. `consumed` bytes of it are done with then.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedLine<'a> {
    /// Part of a line. Its first `scanned` bytes hold no line end and need not be looked at again.
    Incomplete {
        scanned: usize,
    },
    /// A line without words, which is not answered.
    Empty {
        consumed: usize,
    },
    Request {
        verb: Verb,
        request: Request<'a>,
        consumed: usize,
    },
    /// A line that is no command. It is answered with an error, and the next line may be a command.
    Wrong {
        wrong: Wrong,
        consumed: usize,
    },
    /// Bytes of something else, or a line with no known end. Answered with an error; the connection
    /// closes.
    Fatal {
        wrong: Wrong,
    },
}

/// Looks at the first line of `buffer`, of which `scanned` bytes are known to hold no line end.
/// `now_ms` reads the wall clock where something is to expire.
pub fn parse<'a>(buffer: &'a [u8], scanned: usize, limits: &Limits, now_ms: impl Fn() -> u64) -> ParsedLine<'a> {
    let Some(first) = buffer.first() else { return ParsedLine::Incomplete { scanned: 0 } };
    if is_binary(*first) {
        return ParsedLine::Fatal { wrong: no_command(buffer) };
    }
    let scanned = scanned.min(buffer.len());
    let Some(end) = memchr(b'\n', &buffer[scanned..]).map(|at| scanned + at) else {
        // A peer that has come to this port is told at once, and not when it has waited in vain.
        if begins_binary(buffer) {
            return ParsedLine::Fatal { wrong: no_command(buffer) };
        }
        // The last byte may be the `\r` of a line end.
        return match check_line_len(buffer, buffer.len() - 1, limits) {
            Ok(()) => ParsedLine::Incomplete { scanned: buffer.len() },
            Err(wrong) => ParsedLine::Fatal { wrong },
        };
    };
    let consumed = end + 1;
    let line = &buffer[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Err(wrong) = check_line_len(line, line.len(), limits) {
        return ParsedLine::Fatal { wrong };
    }
    let line = trim_start(line);
    if line.is_empty() {
        return ParsedLine::Empty { consumed };
    }
    if ends_in_http(line) {
        return ParsedLine::Fatal { wrong: http() };
    }
    match parse_line(line, limits, now_ms) {
        Ok((verb, request)) => ParsedLine::Request { verb, request, consumed },
        Err(_) if begins_binary(&buffer[..end]) => ParsedLine::Fatal { wrong: no_command(line) },
        Err(wrong) => match foreign(line, &wrong) {
            Some(wrong) => ParsedLine::Fatal { wrong },
            None => ParsedLine::Wrong { wrong, consumed },
        },
    }
}

/// Checks a line, or the beginning of one, of which `len` bytes count. The limit depends on its
/// verb and on whether key and value begin with a quote: only a client that sends a value, escaped,
/// can make a session hold the memory for one.
fn check_line_len(line: &[u8], len: usize, limits: &Limits) -> Result<(), Wrong> {
    if len <= LINE_LEN_MIN { Ok(()) } else { check_long_line(line, len, limits) }
}

#[cold]
fn check_long_line(line: &[u8], len: usize, limits: &Limits) -> Result<(), Wrong> {
    let (word, rest) = split_word(trim_start(line));
    let Some(spec) = VerbSpec::find(word) else { return Err(no_command(line)) };
    let rest = trim_start(rest);
    let is_key_quoted = rest.first() == Some(&b'"');
    let mut max = LINE_LEN_MIN.saturating_add(written_len_max(limits.key_len_max, is_key_quoted));
    let mut limit = ("key_len_max", limits.key_len_max);
    if spec.takes_value {
        // Up to here it is a legal line however it goes on; and the key, which may be long, is not
        // read again for every piece that arrives.
        if len <= max.saturating_add(limits.value_len_max) {
            return Ok(());
        }
        if let Some(first) = value_begin(rest) {
            max = max.saturating_add(written_len_max(limits.value_len_max, first == b'"'));
            limit = ("value_len_max", limits.value_len_max);
        }
    }
    if len <= max {
        return Ok(());
    }
    let (name, (limit, len_max)) = (spec.name, limit);
    let sentence =
        format!("the line is longer than the {max} bytes that this {name} can need: {limit} is {len_max}; this connection is closed");
    Err(Wrong::new(ErrorCode::TooBig, sentence))
}

/// The first byte of the value in what follows the verb, if the line is so far and the key is
/// well-formed.
fn value_begin(rest: &[u8]) -> Option<u8> {
    let (_, rest) = if rest.first() == Some(&b'"') { split_quoted(rest).ok()? } else { (Cow::Borrowed(&[][..]), split_word(rest).1) };
    rest.strip_prefix(b" ")?.first().copied()
}

fn parse_line<'a>(line: &'a [u8], limits: &Limits, now_ms: impl Fn() -> u64) -> Result<(Verb, Request<'a>), Wrong> {
    let (word, rest) = split_word(line);
    let Some(spec) = VerbSpec::find(word) else {
        return Err(Wrong::new(ErrorCode::Unknown, format!("{} is no command; HELP lists them", shown(word))));
    };
    Ok((spec.verb, spec.parse(rest, limits, &now_ms)?))
}

/// Returns true if no verb, and no sensible slip of one, begins with a byte. A TLS hello does, and
/// so does telnet's answer to an interrupt.
fn is_binary(byte: u8) -> bool {
    !matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')
}

/// Returns true if one of the first three bytes is no text, as in every HELLO of a peer. All verbs
/// are as long.
fn begins_binary(line: &[u8]) -> bool {
    line.iter().take(3).any(|byte| is_binary(*byte))
}

/// The error for a refused line whose sender speaks another protocol: reading on would give an
/// error for every line of it.
fn foreign(line: &[u8], wrong: &Wrong) -> Option<Wrong> {
    const HOST: &[u8] = b"host:";
    if line.get(..HOST.len()).is_some_and(|word| word.eq_ignore_ascii_case(HOST)) {
        return Some(http());
    }
    let binary_verb = wrong.code == ErrorCode::Unknown && split_word(line).0.iter().any(|byte| is_binary(*byte));
    binary_verb.then(|| no_command(line))
}

fn http() -> Wrong {
    let sentence = "this is not an HTTP port; closing; a key or a value that ends its line with HTTP/1.1 must be in double quotes";
    Wrong::new(ErrorCode::Unknown, sentence)
}

fn no_command(bytes: &[u8]) -> Wrong {
    let bytes = bytes.get(..32).unwrap_or(bytes);
    let sentence = format!("what begins with {} is no command of this text protocol; HELP lists them; closing", shown(bytes));
    Wrong::new(ErrorCode::Unknown, sentence)
}

#[cfg(test)]
mod tests;
