//! Requests and what they mean. Every error here is one that redis-server 7.0.15 gave, except where
//! it says that it is kvmesh's own.

mod data;
mod introspection;
mod node;
mod rights;
mod specs;

use std::borrow::Cow;
use std::ops::Range;

use proptest::prelude::*;

use super::table::{self, check};
use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Command, DataCommand, Read, Request, StringWrite, Write};
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::Words;
use crate::wire::resp::request::integer;

const NOW_MS: i64 = 1_700_000_000_000;
const LIMITS: Limits = Limits { key_len_max: 16, value_len_max: 1000 };

/// The words of a request, as they lie in a buffer.
struct RequestWords {
    buffer: Vec<u8>,
    spans: Vec<Range<usize>>,
}

impl RequestWords {
    fn new<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> RequestWords {
        let (mut buffer, mut spans) = (Vec::new(), Vec::new());
        for word in words {
            spans.push(buffer.len()..buffer.len() + word.len());
            buffer.extend_from_slice(word);
        }
        RequestWords { buffer, spans }
    }

    fn words(&self) -> Words<'_, '_> {
        Words::new(&self.buffer, &self.spans)
    }

    fn parse(&self) -> Result<Request<'_>, Wrong> {
        table::parse(self.words(), &LIMITS, || NOW_MS)
    }
}

/// Words stand between spaces; `''` is an empty one.
fn request(line: &str) -> RequestWords {
    RequestWords::new(line.split(' ').map(|word| if word == "''" { &b""[..] } else { word.as_bytes() }))
}

#[track_caller]
fn takes<'a>(line: &str, expected: impl Into<Request<'a>>) {
    assert_eq!(request(line).parse().as_ref(), Ok(&expected.into()), "{line}");
}

#[track_caller]
fn refuses(line: &str, sentence: &str) {
    assert_eq!(request(line).parse().map_err(|wrong| wrong.sentence).as_ref(), Err(&sentence.to_owned()), "{line}");
}

#[track_caller]
fn refuses_words(words: &[&[u8]], sentence: &str) {
    let request = RequestWords::new(words.iter().copied());
    assert_eq!(request.parse().map_err(|wrong| wrong.sentence).as_ref(), Err(&sentence.to_owned()), "{words:?}");
}

fn bytes(word: &str) -> Bytes<'_> {
    Cow::Borrowed(word.as_bytes())
}

fn all<'a>(words: &[&'a str]) -> Vec<Bytes<'a>> {
    words.iter().copied().map(bytes).collect()
}

fn read(read: impl Into<Read>) -> Command<'static> {
    Command::read(bytes("k"), read)
}

fn write<'a>(write: impl Into<Write<'a>>) -> Command<'a> {
    Command::write(bytes("k"), write)
}

#[test]
fn errors_have_the_codes_that_choose_their_prefix() {
    for (line, code) in [
        ("HELLO 1", ErrorCode::NoProto),
        ("EXEC now", ErrorCode::ExecAbort),
        ("GET", ErrorCode::Syntax),
        ("nosuch", ErrorCode::Unknown),
        ("CLIENT nosuch", ErrorCode::Unknown),
        ("LPUSH k v", ErrorCode::Err),
        ("INCRBY k x", ErrorCode::NotNumber),
        ("GET 12345678901234567", ErrorCode::TooBig),
    ] {
        assert_eq!(request(line).parse().map_err(|wrong| wrong.code), Err(code), "{line}");
    }
}

#[test]
fn arity_comes_before_all_else_and_is_redis_s() {
    for spec in table::all().filter(|spec| !spec.has_subcommands()) {
        let arity = usize::from(spec.arity.unsigned_abs());
        let name = spec.name.to_ascii_uppercase();
        let mut words = vec![name.as_bytes()];
        words.resize(arity.saturating_sub(1).max(1), b"x");
        let prefix = if spec.name == "exec" { "Transaction discarded because of: " } else { "" };
        let sentence = format!("{prefix}wrong number of arguments for '{}' command", spec.name);
        if words.len() < arity {
            refuses_words(&words, &sentence);
        }
        if spec.arity > 0 {
            words.resize(arity + 1, b"x");
            refuses_words(&words, &sentence);
        }
    }
    refuses("CLIENT", "wrong number of arguments for 'client' command");
    refuses("CLIENT ID x", "wrong number of arguments for 'client|id' command");
    refuses("config get", "wrong number of arguments for 'config|get' command");
    refuses("OBJECT ENCODING", "wrong number of arguments for 'object|encoding' command");
    refuses("SET 12345678901234567", "wrong number of arguments for 'set' command");
}

#[test]
fn what_redis_does_not_know_is_named_with_its_words() {
    refuses("foo", "unknown command 'foo', with args beginning with: ");
    refuses("Foo a b", "unknown command 'Foo', with args beginning with: 'a' 'b' ");
    refuses("''", "unknown command '', with args beginning with: ");
    refuses_words(&[], "unknown command '', with args beginning with: ");
    refuses_words(&[b"fo\ro", b"a\nb"], "unknown command 'fo o', with args beginning with: 'a b' ");
    refuses_words(&[b"get\0", b"a\0b"], "unknown command 'get', with args beginning with: 'a' ");
    let long = "x".repeat(200);
    let (name, all, rest) = (&long[..128], &long[..128], &long[..124]);
    refuses(&format!("{long} {long} b"), &format!("unknown command '{name}', with args beginning with: '{all}' "));
    refuses(&format!("foo a {long} b"), &format!("unknown command 'foo', with args beginning with: 'a' '{rest}' "));
    refuses("CLIENT foo bar", "unknown subcommand 'foo'. Try CLIENT HELP.");
    refuses("config FOO", "unknown subcommand 'FOO'. Try CONFIG HELP.");
    refuses(&format!("OBJECT {long}"), &format!("unknown subcommand '{name}'. Try OBJECT HELP."));
}

#[test]
fn limits_are_kept() {
    let (key, value) = ("k".repeat(16), "v".repeat(1000));
    assert!(request(&format!("SET {key} {value}")).parse().is_ok());
    let long_key = "the key has 17 bytes; at most 16 are allowed";
    let long_value = "the value has 1001 bytes; at most 1000 are allowed";
    for line in ["GET {k}", "DEL a {k}", "RENAME a {k}", "MSET a b {k} c", "WATCH {k}", "EXPIRE {k} 5", "OBJECT ENCODING {k}", "UPD {k} v"]
    {
        refuses(&line.replace("{k}", &format!("{key}k")), long_key);
    }
    for line in ["SET k {v}", "APPEND k {v}", "MSET a b c {v}", "SETNX k {v}", "SETEX k 5 {v}", "GETSET k {v}", "PUT k {v}"] {
        refuses(&line.replace("{v}", &format!("{value}v")), long_value);
    }
}

#[test]
fn what_is_answered_by_more_than_itself_is_asked_in_small_numbers() {
    let few = " get".repeat(1024);
    for line in ["COMMAND INFO", "COMMAND DOCS", "CONFIG GET", "INFO"] {
        assert!(request(&format!("{line}{few}")).parse().is_ok(), "{line}");
        refuses(&format!("{line}{few} get"), "1025 names are too many; at most 1024 are allowed in one request");
    }
    refuses(&format!("CLIENT LIST ID{}", " 1".repeat(1025)), "1025 names are too many; at most 1024 are allowed in one request");
    let name = "x".repeat(1025);
    refuses(&format!("CLIENT SETNAME {name}"), "the name has 1025 bytes; at most 1024 are allowed");
    refuses(&format!("HELLO 3 SETNAME {name}"), "the name has 1025 bytes; at most 1024 are allowed");
    refuses(&format!("CLIENT SETINFO lib-ver {name}"), "the value has 1025 bytes; at most 1024 are allowed");
}

/// The way of every read and write.
#[test]
fn keys_and_values_are_not_copied() {
    let request = request("SET k v");
    let Ok(Request::Command(Command::Data(DataCommand::Write { key: Cow::Borrowed(key), write: Write::String(StringWrite::Set(set)) }))) =
        request.parse()
    else {
        panic!("no SET that borrows")
    };
    let Cow::Borrowed(value) = set.value else { panic!("a value that is a copy") };
    assert_eq!((key, value), (&b"k"[..], &b"v"[..]));
}

#[test]
fn only_what_is_unknown_or_of_the_wrong_length_aborts_a_transaction() {
    let is_known = |line: &str| check(request(line).words()).is_ok();
    for line in ["SET k v foo", "INCRBY k x", "MSET k v l", "PING a b", "CLIENT LIST foo", "SELECT 5"] {
        assert!(is_known(line), "{line}");
    }
    for line in ["SET k", "nosuch", "LPUSH k v", "CLIENT", "CLIENT nosuch", "CLIENT ID x"] {
        assert!(!is_known(line), "{line}");
    }
}

proptest! {
    #[test]
    fn no_words_make_it_panic(
        name in prop_oneof![proptest::sample::select(names()).prop_map(String::into_bytes), any::<Vec<u8>>()],
        rest in prop::collection::vec(word(), 0..8),
        now_ms in any::<i64>(),
    ) {
        // A subcommand is a word of its own.
        let request = RequestWords::new(name.split(|byte| *byte == b'|').chain(rest.iter().map(Vec::as_slice)));
        if let Err(wrong) = table::parse(request.words(), &LIMITS, || now_ms) {
            prop_assert!(!wrong.sentence.contains(['\r', '\n']), "{:?}", wrong.sentence);
        }
    }

    #[test]
    fn numbers_are_those_that_are_written_as_they_are_read(word in "[-+ 0-9x]{0,21}") {
        let expected = word.parse::<i64>().ok().filter(|number| number.to_string() == word);
        prop_assert_eq!(integer(word.as_bytes()), expected);
    }
}

fn names() -> Vec<String> {
    let subcommands = table::all().flat_map(|spec| spec.subcommands);
    table::all().chain(subcommands).map(|spec| spec.name.to_owned()).collect()
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    let options = [
        "NX", "XX", "GET", "EX", "PX", "EXAT", "PXAT", "KEEPTTL", "PERSIST", "GT", "LT", "MATCH", "COUNT", "TYPE", "SAMPLES", "AUTH",
        "SETNAME", "ID", "ADDR", "LADDR", "USER", "SKIPME", "yes", "on", "default", "normal", "FILTERBY", "PATTERN", "VERSION", "lib-name",
        "0", "1", "-1", "",
    ];
    prop_oneof![
        proptest::sample::select(options.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        any::<f64>().prop_map(|number| number.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..20),
        prop::collection::vec(prop::sample::select(vec![b'\r', b'\n', 0, b'\'', 0xff]), 0..4),
    ]
}
