//! Commands on keys, whatever their values.

use super::key_specs;
use super::spec::Spec;
use crate::data::entry::Update;
use crate::server::evaluation::{Evaluation, Live};
use crate::store;
use crate::wire::bytes::Bytes;
use crate::wire::command::{Command, KeyRead, KeyWrite, MultiKey};
use crate::wire::reply::{Reply, Wrong};
use crate::wire::resp::arguments::{Arguments, is, syntax};
use crate::wire::resp::request::integer;

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("del", -2, "write", parse_del)
        .keys(key_specs::ALL_DELETED)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Deletes keys."),
    Spec::command("unlink", -2, "write fast", parse_del)
        .keys(key_specs::ALL_DELETED)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "4.0.0", "O(N) where N is the number of keys")
        .help("key...", "Deletes keys, as DEL does."),
    Spec::command("exists", -2, "readonly fast", parse_exists)
        .keys(key_specs::ALL_LOOKED_UP)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Counts which of the keys exist."),
    Spec::command("type", 2, "readonly fast", |words| Ok(Command::read(words.key(1)?, KeyRead::Type)))
        .keys(key_specs::LOOKED_UP)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key", "Returns string for a key that exists, and none for one that does not."),
    Spec::command("touch", -2, "readonly fast", parse_exists)
        .keys(key_specs::ALL_LOOKED_UP)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "3.2.1", "O(N) where N is the number of keys")
        .help("key...", "Counts which of the keys exist, as EXISTS does."),
    Spec::command("rename", 3, "write", |words| parse_rename(words, false))
        .keys(key_specs::RENAMED)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key newkey", "Renames a key, over one that has the new name."),
    Spec::command("renamenx", 3, "write fast", |words| parse_rename(words, true))
        .keys(key_specs::RENAMED_NX)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key newkey", "Renames a key, unless one has the new name."),
    Spec::container("object", "", "generic", "2.2.3", &OBJECT),
    Spec::container("memory", "", "server", "4.0.0", &MEMORY),
];

static OBJECT: [Spec; 1] = [Spec::command("object|encoding", 3, "readonly", |words| Ok(Command::read(words.key(2)?, KeyRead::Encoding)))
    .keys(key_specs::SECOND_LOOKED_UP)
    .categories("keyspace")
    .tips("nondeterministic_output")
    .docs("generic", "2.2.3", "O(1)")
    .help("key", "Returns how Redis would keep a value in memory.")];

static MEMORY: [Spec; 1] = [Spec::command("memory|usage", -3, "readonly", parse_memory_usage)
    .keys(key_specs::SECOND_LOOKED_UP)
    .docs("server", "4.0.0", "O(1)")
    .help("key [SAMPLES count]", "Estimates how many bytes of memory a key and its value take.")];

/// The reply to a read of a key.
pub(super) fn read<'c>(read: KeyRead, key: &'c [u8], live: Option<Live<'_>>) -> Reply<'c> {
    let absent = || Reply::Absent(Bytes::Borrowed(key));
    match read {
        KeyRead::Exists => Reply::Integer(live.is_some().into()),
        KeyRead::Type => Reply::Status(if live.is_some() { "string" } else { "none" }),
        KeyRead::Encoding => live.map_or_else(absent, |live| Reply::Bytes(encoding(live.value()).as_bytes().into())),
        KeyRead::Footprint => live.map_or_else(absent, |live| {
            Reply::Integer(store::footprint_of(key.len() + live.value().len(), live.expires().is_some()) as i64)
        }),
    }
}

/// Returns false for a read that Redis does not count as a lookup of the key.
pub(super) fn is_lookup(read: KeyRead) -> bool {
    read != KeyRead::Footprint
}

/// Evaluates a write.
pub(super) fn write<'c>(write: KeyWrite, key: &'c [u8], live: Option<Live<'_>>) -> Evaluation<'c> {
    match (write, live) {
        (KeyWrite::Delete { strict: true }, Some(_)) => Evaluation::write(Update::delete(key), Reply::Ok),
        (KeyWrite::Delete { strict: true }, None) => Evaluation::reply(Reply::Absent(Bytes::Borrowed(key))),
        (KeyWrite::Delete { strict: false }, Some(_)) => Evaluation::write(Update::delete(key), Reply::Integer(1)),
        (KeyWrite::Delete { strict: false }, None) => Evaluation::number(0),
    }
}

/// The encoding that Redis has for what was just SET. How a value came about is not part of an
/// entry, and the other nodes could not say it.
fn encoding(value: &[u8]) -> &'static str {
    const EMBEDDED_LEN_MAX: usize = 44;
    if integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_LEN_MAX {
        "embstr"
    } else {
        "raw"
    }
}

fn parse_del<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    match words.len() {
        2 => Ok(Command::write(words.key(1)?, KeyWrite::Delete { strict: false })),
        _ => Ok(MultiKey::Delete(words.keys()?).into()),
    }
}

fn parse_exists<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    match words.len() {
        2 => Ok(Command::read(words.key(1)?, KeyRead::Exists)),
        _ => Ok(MultiKey::Exists(words.keys()?).into()),
    }
}

fn parse_rename<'a>(words: &Arguments<'a, '_>, only_absent: bool) -> Result<Command<'a>, Wrong> {
    Ok(MultiKey::Rename { from: words.key(1)?, to: words.key(2)?, only_absent }.into())
}

/// `MEMORY USAGE key [SAMPLES n]`: a value is one whole, so that there is nothing to sample.
fn parse_memory_usage<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let mut index = 3;
    while index < words.len() {
        if !is(words.word(index), "SAMPLES") || index + 1 >= words.len() || words.integer(index + 1)? < 0 {
            return Err(syntax());
        }
        index += 2;
    }
    Ok(Command::read(words.key(2)?, KeyRead::Footprint))
}
