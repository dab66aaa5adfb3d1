//! Requests of RESP clients: arrays of bulk strings, as Redis takes them, in whatever pieces they
//! arrive.
//!
//! What is refused, and in which words, is Redis's `processMultibulkBuffer` (networking.c, 7.0),
//! accidents included: a line ends at its `\r`, and neither the byte behind that nor the two behind
//! a bulk are looked at. Knows no command; copies and keeps no bytes of the buffer.

use std::ops::Range;

use super::Words;
use crate::wire::bytes::Limits;
use crate::wire::reply::{ErrorCode, Wrong};

/// The longest line without its end; a longer one is fatal.
const LINE_LEN_MAX: usize = 64 * 1024;
/// The most words of one request; more are fatal. Far more than fit into the bytes that one may
/// have.
const WORDS_MAX: usize = i32::MAX as usize;
/// The length of a bulk that is taken whatever the limits: it may be no key and no value, but the
/// message of an ECHO.
const BULK_LEN_MAX_LEAST: usize = 64 * 1024;
/// Words of a request that is looked into early. One of more, which may come in many pieces, would
/// be looked through at each of them.
const PEEKED_WORDS_MAX: usize = 16;
/// Spans whose memory is kept from one request to the next; that of more is given back.
const SPANS_KEPT_MAX: usize = 1024;

/// The longest request that is taken; a longer one is fatal. A few of the largest values fit. While
/// a request is incomplete its buffer needs at most this, a line and what was read behind it.
pub fn request_len_max(limits: &Limits) -> usize {
    limits.key_len_max.saturating_add(limits.value_len_max).saturating_mul(2).saturating_add(1024 * 1024)
}

/// The longest word that is taken.
fn word_len_max(limits: &Limits) -> usize {
    BULK_LEN_MAX_LEAST.max(limits.key_len_max).max(limits.value_len_max)
}

/// The beginning of a read buffer.
#[derive(Debug)]
pub enum ParsedWords<'a, 's> {
    /// Not all of a request is there. More bytes must come.
    Incomplete,
    /// An array of no words, which asks for nothing and is not answered.
    Empty { consumed: usize },
    /// At least one word.
    Request { words: Words<'a, 's>, consumed: usize },
    /// Bytes that are no request: the client hears why, and the connection closes.
    Fatal { wrong: Wrong },
}

/// The state of the request at the buffer's start: how far it has been parsed. One for each
/// connection.
#[derive(Debug, Default)]
pub struct Partial {
    /// The bytes in front of this index are done with, and never looked at again.
    at: usize,
    /// So many bytes from `at` on hold no line end.
    searched: usize,
    /// The words that are still to come, if the line with their number has come. With 0 the request
    /// was handed out, and the next call begins another.
    missing: Option<usize>,
    /// The length of the next word, if the line with it has come.
    len: Option<usize>,
    /// The words that have come.
    spans: Vec<Range<usize>>,
}

/// Parses the request that `buffer` begins with. Between two calls for the same request the buffer
/// may have moved and grown, no more; after [`ParsedWords::Empty`] and [`ParsedWords::Request`] the
/// caller takes `consumed` bytes off its front. Nothing is parsed twice, and a call that finds
/// nothing new costs the same for a word of a megabyte as for one of a byte.
pub fn parse<'a, 's>(buffer: &'a [u8], partial: &'s mut Partial, limits: &Limits) -> ParsedWords<'a, 's> {
    if partial.missing == Some(0) {
        partial.reset();
    }
    match partial.advance(buffer, limits) {
        Ok(false) => ParsedWords::Incomplete,
        Ok(true) => {
            let consumed = partial.at;
            match partial.spans.as_slice() {
                [] => ParsedWords::Empty { consumed },
                spans => ParsedWords::Request { words: Words::new(buffer, spans), consumed },
            }
        }
        Err(sentence) => {
            partial.reset();
            ParsedWords::Fatal { wrong: Wrong::new(ErrorCode::Err, format!("Protocol error: {sentence}")) }
        }
    }
}

/// Returns the key of the first request, if it is whole and like nearly all that have one: the
/// second word. Also how many bytes the request takes. Looks at the lengths alone: the request is
/// parsed when its turn comes.
#[inline]
pub fn peek_key(buffer: &[u8]) -> Option<(&[u8], usize)> {
    let (words, mut at) = COUNT.short(buffer)?;
    if words > PEEKED_WORDS_MAX {
        return None;
    }
    let mut key = None;
    for word in 0..words {
        let (len, line_len) = LENGTH.short(buffer.get(at..)?)?;
        let start = at + line_len;
        if word == 1 {
            key = Some(start..start + len);
        }
        at = start + len + 2;
    }
    Some((buffer.get(key?)?, at)).filter(|(_, len)| *len <= buffer.len())
}

impl Partial {
    fn reset(&mut self) {
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        *self = Partial { spans: std::mem::take(&mut self.spans), ..Partial::default() };
    }

    /// Goes on as far as the bytes go. Returns true if the request is whole.
    fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, String> {
        let (word_len_max, len_max) = (word_len_max(limits), request_len_max(limits));
        if self.missing.is_none() {
            self.missing = self.number(buffer, &COUNT, WORDS_MAX)?;
        }
        let Some(mut missing) = self.missing else { return Ok(false) };
        while missing > 0 {
            if self.len.is_none() {
                self.len = self.number(buffer, &LENGTH, word_len_max)?;
            }
            let Some(len) = self.len else { break };
            if self.at.saturating_add(len).saturating_add(2) > len_max {
                return Err(format!("request longer than {len_max} bytes; split it into several"));
            }
            let end = self.at + len;
            if buffer.len() < end + 2 {
                break;
            }
            // Grows with the words that came, not with those that were announced.
            self.spans.push(self.at..end);
            self.len = None;
            self.at = end + 2;
            missing -= 1;
        }
        self.missing = Some(missing);
        Ok(missing == 0)
    }

    /// Takes the next line, if its end has come, and the byte behind that. Returns its number,
    /// which is at most `max`.
    #[inline]
    fn number(&mut self, buffer: &[u8], line: &Line, max: usize) -> Result<Option<usize>, String> {
        match line.short(buffer.get(self.at..).unwrap_or_default()) {
            Some((number, len)) if number <= max => {
                self.searched = 0;
                self.at += len;
                Ok(Some(number))
            }
            _ => self.any_number(buffer, line, max),
        }
    }

    /// Takes the next line as [`Partial::number`] does, without a guess at what it looks like.
    #[cold]
    fn any_number(&mut self, buffer: &[u8], line: &Line, max: usize) -> Result<Option<usize>, String> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        let window = &rest[..rest.len().min(LINE_LEN_MAX + 1)];
        let unsearched = window.get(self.searched..).unwrap_or_default();
        match memchr::memchr(b'\r', unsearched) {
            Some(place) => {
                let len = self.searched + place;
                if rest.len() < len + 2 {
                    self.searched = len;
                    return Ok(None);
                }
                self.searched = 0;
                self.at += len + 2;
                line.number(&rest[..len], max).map(Some)
            }
            None if window.len() > LINE_LEN_MAX => Err(line.too_long.to_owned()),
            None => {
                self.searched = window.len();
                Ok(None)
            }
        }
    }
}

/// A line that holds a number, and the errors of Redis where it does not.
struct Line {
    /// Its first byte.
    kind: u8,
    /// The least number. One below zero stands for zero.
    min: i64,
    too_long: &'static str,
    invalid: &'static str,
}

/// `*3`. Redis takes every count below one for an empty request.
const COUNT: Line = Line { kind: b'*', min: i64::MIN, too_long: "too big mbulk count string", invalid: "invalid multibulk length" };
/// `$3`
const LENGTH: Line = Line { kind: b'$', min: 0, too_long: "too big bulk count string", invalid: "invalid bulk length" };

impl Line {
    /// The number of a line that is like nearly every one: whole, right, and of at most three
    /// digits. Also how many of the bytes it takes.
    #[inline]
    fn short(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let digit = |byte: &u8| usize::from(byte - b'0');
        let (number, len) = match bytes {
            [kind, ..] if *kind != self.kind => return None,
            [_, a @ b'0'..=b'9', b'\r', _, ..] => (digit(a), 4),
            [_, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..] => (digit(a) * 10 + digit(b), 5),
            [_, a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', _, ..] => (digit(a) * 100 + digit(b) * 10 + digit(c), 6),
            _ => return None,
        };
        Some((number, len))
    }

    /// The number of a line that has come whole.
    fn number(&self, line: &[u8], max: usize) -> Result<usize, String> {
        let digits = match line {
            [kind, digits @ ..] if *kind == self.kind => digits,
            _ => return Err(unexpected(self.kind, line)),
        };
        let number = integer(digits).filter(|number| *number >= self.min).and_then(|number| usize::try_from(number.max(0)).ok());
        number.filter(|number| *number <= max).ok_or_else(|| self.invalid.to_owned())
    }
}

/// The error about a byte where another was expected. Redis sends the byte as it is; a sentence
/// here is text, in which a byte that is none is shown as U+FFFD.
fn unexpected(wanted: u8, line: &[u8]) -> String {
    let wanted = char::from(wanted);
    match line.first() {
        // The line was empty, and Redis looks at its end, which no error can hold.
        None | Some(b'\n') => format!("expected '{wanted}', got ' '"),
        Some(0x80..) => format!("expected '{wanted}', got '\u{fffd}'"),
        Some(byte) => format!("expected '{wanted}', got '{}'", char::from(*byte)),
    }
}

/// The integer that Redis reads wherever it wants one (`string2ll`): written as it would be
/// printed, and in no other way.
pub fn integer(text: &[u8]) -> Option<i64> {
    /// So many digits fit 64 bits, and no number of 63 bits has more.
    const LEN_MAX: usize = 19;
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        _ => (false, text),
    };
    match digits {
        b"0" if !negative => Some(0),
        [b'1'..=b'9', rest @ ..] if digits.len() <= LEN_MAX && rest.iter().all(u8::is_ascii_digit) => {
            let size = digits.iter().fold(0, |size: u64, digit| size * 10 + u64::from(digit - b'0'));
            if negative { 0_i64.checked_sub_unsigned(size) } else { i64::try_from(size).ok() }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
