//! Commands on all keys.

mod flush;
mod listing;

use super::spec::Spec;
use crate::data::entry::{Entry, Key, Update};
use crate::server::atomic_step::{AtomicStep, KEYS_MAX};
use crate::server::authorization::Scope;
use crate::server::evaluation::RoundTime;
use crate::server::shared::Services;
use crate::store::{Cursor, Keyspace};
use crate::wire::bytes::Bytes;
use crate::wire::command::{Command, KeyspaceCommand, ScanStep};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, syntax, up_to_zero, within, wrong};
use crate::wire::resp::glob;

pub(super) use flush::flush;
pub(super) use listing::{write_keys, write_matching};

/// The number of keys that SCAN looks at by default.
const SCAN_COUNT: usize = 10;
/// The longest pattern. Matching takes time that grows with its length, for every byte of every
/// key.
const PATTERN_LEN_MAX: usize = 1024;

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("randomkey", 1, "readonly", |_| Ok(KeyspaceCommand::RandomKey.into()))
        .categories("keyspace")
        .tips("request_policy:all_shards nondeterministic_output")
        .docs("generic", "1.0.0", "O(1)")
        .help("", "Returns any key."),
    Spec::command("keys", 2, "readonly", |words| Ok(KeyspaceCommand::Matching { pattern: parse_pattern(words, 1)? }.into()))
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards nondeterministic_output_order")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys there are")
        .help("pattern", "Returns the keys that a pattern matches."),
    Spec::command("scan", -2, "readonly", parse_scan)
        .categories("keyspace")
        .tips("nondeterministic_output request_policy:special")
        .docs("generic", "2.8.0", "O(COUNT) for every call; O(N) for all of them")
        .help("cursor [MATCH pattern] [COUNT count] [TYPE type]", "Returns some of the keys, and where to go on."),
    Spec::command("dbsize", 1, "readonly fast", |_| Ok(KeyspaceCommand::Count.into()))
        .categories("keyspace")
        .tips("request_policy:all_shards response_policy:agg_sum")
        .docs("server", "1.0.0", "O(1)")
        .help("", "Returns how many keys there are."),
    Spec::command("flushdb", -1, "write", parse_flush)
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("server", "1.0.0", "O(N) where N is the number of keys")
        .help("[ASYNC|SYNC]", "Deletes every key, on every node."),
    Spec::command("flushall", -1, "write", parse_flush)
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("server", "1.0.0", "O(N) where N is the number of keys")
        .help("[ASYNC|SYNC]", "Deletes every key, on every node."),
];

pub(super) fn count(services: &Services, time: &RoundTime) -> Reply<'static> {
    Reply::Integer(services.store.counts(time.wall_ms()).keys as i64)
}

pub(super) fn random_key(services: &Services, time: &RoundTime) -> Reply<'static> {
    services.store.random_key(random_bits(time), time.wall_ms()).map_or(Reply::Null, Reply::Value)
}

/// Takes one step of SCAN.
#[inline(never)]
pub(super) fn scan(services: &Services, scan: &ScanStep<'_>, scope: &Scope, time: &RoundTime) -> Reply<'static> {
    let mut keys = Vec::new();
    let met = |entry: &Entry| keys.push(entry.shared_key());
    // However many are asked for: a step must not take much.
    let count = scan.count.min(KEYS_MAX);
    let next = services.store.scan(Cursor::from_bits(scan.cursor), count, time.wall_ms(), met);
    // Outside of the locks: matching a pattern takes time.
    keys.retain(|key| is_wanted(scan, key, scope));
    scanned(next, keys)
}

/// Executes a command as part of a step.
pub(super) fn run(step: &mut AtomicStep<'_>, command: &KeyspaceCommand<'_>, scope: &Scope) -> Reply<'static> {
    match command {
        KeyspaceCommand::Count => Reply::Integer(step.count()),
        KeyspaceCommand::Scan(scan) => {
            let (next, keys) = step.scan(Cursor::from_bits(scan.cursor), scan.count, |key| is_wanted(scan, key, scope));
            scanned(next, keys)
        }
        KeyspaceCommand::RandomKey => {
            let random = random_bits(step.context().time);
            step.random_key(random).map_or(Reply::Null, Reply::Value)
        }
        KeyspaceCommand::Matching { pattern } => {
            let keys = step.keys_matching(pattern.len(), |key| scope.covers(key) && glob::matches(pattern, key));
            Reply::Array(keys.into_iter().map(Reply::Value).collect())
        }
        KeyspaceCommand::Flush => {
            for key in step.live_keys() {
                step.put(Update::delete(&key));
            }
            Reply::Ok
        }
    }
}

/// The random bits that decide which key RANDOMKEY names. Where the system gives none, the time
/// must do.
fn random_bits(time: &RoundTime) -> u64 {
    getrandom::u64().unwrap_or_else(|_| time.wall_ms())
}

fn is_wanted(scan: &ScanStep<'_>, key: &[u8], scope: &Scope) -> bool {
    scan.strings && scope.covers(key) && scan.pattern.as_deref().is_none_or(|pattern| glob::matches(pattern, key))
}

/// The reply to a step of SCAN.
fn scanned(next: Option<Cursor>, keys: Vec<Key>) -> Reply<'static> {
    let cursor = next.map_or(0, Cursor::to_bits);
    let keys = keys.into_iter().map(Reply::Value).collect();
    Reply::Array(vec![Reply::Bytes(Bytes::Owned(cursor.to_string().into_bytes())), Reply::Array(keys)])
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`; of several the last counts.
fn parse_scan<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let cursor = parse_cursor(words.word(1)).ok_or_else(|| wrong("invalid cursor"))?;
    let mut scan = ScanStep { cursor, pattern: None, count: SCAN_COUNT, strings: true };
    let mut index = 2;
    while index < words.len() {
        let word = words.word(index);
        if index + 1 >= words.len() {
            return Err(syntax());
        }
        if is(word, "COUNT") {
            scan.count = usize::try_from(words.integer(index + 1)?).ok().filter(|count| *count >= 1).ok_or_else(syntax)?;
        } else if is(word, "MATCH") {
            scan.pattern = Some(parse_pattern(words, index + 1)?).filter(|pattern| **pattern != *b"*");
        } else if is(word, "TYPE") {
            scan.strings = is(words.word(index + 1), "string");
        } else {
            return Err(syntax());
        }
        index += 2;
    }
    Ok(KeyspaceCommand::Scan(scan).into())
}

/// A cursor as strtoul takes it, which Redis asks: a sign is allowed (a minus wraps around), and
/// nothing at all is 0; a space in front is not.
fn parse_cursor(word: &[u8]) -> Option<u64> {
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

fn parse_pattern<'a>(words: &Arguments<'a, '_>, index: usize) -> Result<Bytes<'a>, Wrong> {
    within("pattern", words.word(index), PATTERN_LEN_MAX)
}

/// `FLUSHALL [ASYNC | SYNC]`: both are the same for kvmesh.
fn parse_flush<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    match words.len() {
        1 => Ok(KeyspaceCommand::Flush.into()),
        2 if is(words.word(1), "ASYNC") || is(words.word(1), "SYNC") => Ok(KeyspaceCommand::Flush.into()),
        _ => Err(syntax()),
    }
}
