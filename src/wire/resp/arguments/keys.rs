//! Commands on keys, whatever their values.

use super::strings::one;
use super::{Call, is, syntax, up_to_zero, within, wrong};
use crate::wire::bytes::Bytes;
use crate::wire::command::{Action, Command, Several};
use crate::wire::reply::Wrong;

/// What SCAN looks at where nothing is said.
const SCAN_COUNT: usize = 10;

pub fn del<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one_or_several(call, Action::Delete { strict: false }, Several::Delete)
}

pub fn exists<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one_or_several(call, Action::Exists, Several::Exists)
}

pub fn type_of<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(1)?, Action::Type)
}

pub fn encoding<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    one(call.key(2)?, Action::Encoding)
}

/// MEMORY USAGE key [SAMPLES n]: a value is one whole, so that there is nothing to sample.
pub fn usage<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut place = 3;
    while place < call.len() {
        if !is(call.word(place), "SAMPLES") || place + 1 >= call.len() || call.integer(place + 1)? < 0 {
            return Err(syntax());
        }
        place += 2;
    }
    one(call.key(2)?, Action::Footprint)
}

pub fn rename<'a>(call: &Call<'a, '_>, only_absent: bool) -> Result<Command<'a>, Wrong> {
    Ok(Command::Several(Several::Rename { from: call.key(1)?, to: call.key(2)?, only_absent }))
}

pub fn matching<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    Ok(Command::Matching { pattern: pattern(call, 1)? })
}

/// SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]; of several the last counts.
pub fn scan<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    let cursor = as_cursor(call.word(1)).ok_or_else(|| wrong("invalid cursor"))?;
    let mut matching = None;
    let mut count = SCAN_COUNT;
    let mut strings = true;
    let mut place = 2;
    while place < call.len() {
        let word = call.word(place);
        if place + 1 >= call.len() {
            return Err(syntax());
        }
        if is(word, "COUNT") {
            count = usize::try_from(call.integer(place + 1)?).ok().filter(|count| *count >= 1).ok_or_else(syntax)?;
        } else if is(word, "MATCH") {
            matching = Some(pattern(call, place + 1)?).filter(|pattern| **pattern != *b"*");
        } else if is(word, "TYPE") {
            strings = is(call.word(place + 1), "string");
        } else {
            return Err(syntax());
        }
        place += 2;
    }
    Ok(Command::Scan { cursor, pattern: matching, count, strings })
}

/// Matching takes time that grows with its length, for every byte of every key.
const PATTERN_LEN_MAX: usize = 1024;

fn pattern<'a>(call: &Call<'a, '_>, place: usize) -> Result<Bytes<'a>, Wrong> {
    within("pattern", call.word(place), PATTERN_LEN_MAX)
}

/// FLUSHALL [ASYNC | SYNC]: it is the same for kvmesh.
pub fn flush<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    match call.len() {
        1 => Ok(Command::Flush),
        2 if is(call.word(1), "ASYNC") || is(call.word(1), "SYNC") => Ok(Command::Flush),
        _ => Err(syntax()),
    }
}

fn one_or_several<'a>(call: &Call<'a, '_>, action: Action<'a>, several: fn(Vec<Bytes<'a>>) -> Several<'a>) -> Result<Command<'a>, Wrong> {
    if call.len() == 2 { one(call.key(1)?, action) } else { Ok(Command::Several(several(call.keys()?))) }
}

/// As strtoul takes it, which Redis asks: a sign is allowed (a minus wraps around), and nothing at all is 0; a space in front is not.
fn as_cursor(word: &[u8]) -> Option<u64> {
    let word = up_to_zero(word);
    if word.is_empty() {
        return Some(0);
    }
    let digits = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"+")).unwrap_or(word);
    // `parse` would take another sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if word.starts_with(b"-") { number.wrapping_neg() } else { number })
}
