//! The codec of the text protocol: what is legal, what is refused, and that nothing depends on how
//! the bytes arrive.

use super::*;
use crate::wire::ack_level::AckLevel;
use crate::wire::command::{
    Admin, Command, ConnectionCommand, ExpireOnly, ExpiryUnit, ExpiryWrite, KeyRead, KeyWrite, KeyspaceCommand, Login, MultiKey, Only,
    Password, SessionCommand, StringRead, StringWrite, TextCommand,
};
use proptest::prelude::*;

/// Some day in 2023.
const NOW_MS: u64 = 1_700_000_000_000;
const LIMITS: Limits = Limits { key_len_max: 100, value_len_max: 1000 };

fn cow(bytes: &[u8]) -> Cow<'_, [u8]> {
    Cow::Borrowed(bytes)
}

fn one(line: &str) -> Request<'_> {
    match parse(line.as_bytes(), 0, &LIMITS, || NOW_MS) {
        ParsedLine::Request { request, consumed, .. } if consumed == line.len() => request,
        other => panic!("{line:?} gave {other:?}"),
    }
}

fn wrong(line: &[u8]) -> (String, String) {
    match parse(line, 0, &LIMITS, || NOW_MS) {
        ParsedLine::Wrong { wrong, consumed } if consumed == line.len() => (wrong.code.to_string(), wrong.sentence),
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(line)),
    }
}

fn fatal(bytes: &[u8]) -> ErrorCode {
    match parse(bytes, 0, &LIMITS, || NOW_MS) {
        ParsedLine::Fatal { wrong } => wrong.code,
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::set(cow(key), cow(value), Only::IfAbsent)
}

#[test]
fn the_rest_of_the_line_is_the_value_and_quotes_hold_the_rest() {
    assert_eq!(one("SET a 1\n"), set(b"a", b"1").into());
    assert_eq!(one("set a 1\r\n"), set(b"a", b"1").into());
    assert_eq!(one("SET a two  words \n"), set(b"a", b"two  words ").into());
    assert_eq!(one("SET a  b\n"), set(b"a", b" b").into());
    assert_eq!(one("SET a x\"y\n"), set(b"a", b"x\"y").into());
    assert_eq!(one("SET \"a b\" \"c\\n\\x00\\\"\"\r\n"), set(b"a b", b"c\n\0\"").into());
    assert_eq!(one("SET \"\" \"\"\n"), set(b"", b"").into());
    assert_eq!(one("  PUT a 1\n"), Command::set(cow(b"a"), cow(b"1"), Only::Always).into());
    assert_eq!(one("uPd a 1\n"), Command::set(cow(b"a"), cow(b"1"), Only::IfPresent).into());
    assert_eq!(one("DEL a \n"), Command::write(cow(b"a"), KeyWrite::Delete { strict: true }).into());
    assert_eq!(one("GET \"a\"\n"), Command::read(cow(b"a"), StringRead::Get).into());
}

#[test]
fn the_other_commands_take_the_words_that_they_may() {
    assert_eq!(one("KEYS\n"), TextCommand::Keys { prefix: cow(b""), limit: None }.into());
    assert_eq!(one("KEYS user: 10\n"), TextCommand::Keys { prefix: cow(b"user:"), limit: Some(10) }.into());
    assert_eq!(one("KEYS \"\" 10\n"), TextCommand::Keys { prefix: cow(b""), limit: Some(10) }.into());
    assert_eq!(one("ack LOCAL\n"), SessionCommand::Ack { level: Some(AckLevel::Local) }.into());
    assert_eq!(one("ACK\n"), SessionCommand::Ack { level: None }.into());
    assert_eq!(one("HELP set\n"), TextCommand::Help { verb: Some("set".to_owned()) }.into());
    assert_eq!(one("quit\n"), SessionCommand::Quit.into());
    assert_eq!(one("INCR a\n"), Command::write(cow(b"a"), StringWrite::Add { by: 1 }).into());
    assert_eq!(one("INCR a -5\n"), Command::write(cow(b"a"), StringWrite::Add { by: -5 }).into());
    let expire = |at| Command::write(cow(b"a"), ExpiryWrite::Expire { at, only: ExpireOnly::default() });
    assert_eq!(one("EXPIRE a 10\n"), expire(NOW_MS as i64 + 10_000).into());
    assert_eq!(one("EXPIRE a -1\n"), expire(NOW_MS as i64 - 1_000).into());
    assert_eq!(one("mget a \"b c\"\n"), MultiKey::Get(vec![cow(b"a"), cow(b"b c")]).into());
    assert_eq!(one("DIGEST 17\n"), Admin::Digest { before: Some(17) }.into());
    for (line, sentence) in [
        ("INCR a b\n", "\"b\" is no integer; expected one between -9223372036854775808 and 9223372036854775807; usage: INCR key [by]"),
        ("EXPIRE a\n", "EXPIRE needs a number of seconds after the key; usage: EXPIRE key seconds"),
        ("EXPIRE a 9223372036854775807\n", "9223372036854775807 seconds are further away than any clock counts; usage: EXPIRE key seconds"),
        ("MGET\n", "MGET needs a key (the empty one is \"\"); usage: MGET key [key ...]"),
    ] {
        assert_eq!(wrong(line.as_bytes()), ("SYNTAX".to_owned(), sentence.to_owned()));
    }
}

#[test]
fn what_is_wrong_and_what_would_be_right_is_said() {
    for (line, code, said) in [
        ("FOO a\n", "UNKNOWN", "\"FOO\" is no command; HELP lists them"),
        ("SET\n", "SYNTAX", "SET needs a key"),
        ("SET a\n", "SYNTAX", "SET needs a value after the key (the empty one is \"\"); usage: SET key value"),
        ("SET a \n", "SYNTAX", "the empty one is \"\""),
        ("SET a \"b\" c\n", "SYNTAX", "\" c\" follows the closing quote"),
        ("SET a \"b\n", "SYNTAX", "not closed"),
        ("SET \"a\"b c\n", "SYNTAX", "follows the closing quote"),
        ("GET\n", "SYNTAX", "GET needs a key"),
        ("GET a b\n", "SYNTAX", "\"b\" is too much after GET"),
        ("PING now\n", "SYNTAX", "usage: PING"),
        ("KEYS a b\n", "SYNTAX", "\"b\" is no limit"),
        ("KEYS a -1\n", "SYNTAX", "\"-1\" is no limit"),
        ("KEYS a 1 2\n", "SYNTAX", "too much"),
        ("ACK two\n", "SYNTAX", "\"two\" is no ack level; expected local, majority or all; usage: ACK [local|majority|all]"),
    ] {
        let (got, sentence) = wrong(line.as_bytes());
        assert_eq!(got, code, "{line:?}: {sentence}");
        assert!(sentence.contains(said), "{line:?}: {sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn limits_hold_for_what_is_meant_not_for_how_it_is_written() {
    let escaped = |len: usize| "\\x41".repeat(len);
    one(&format!("SET \"{}\" \"{}\"\n", escaped(100), escaped(1000)));
    let (code, sentence) = wrong(format!("SET {} v\n", "k".repeat(101)).as_bytes());
    assert_eq!((code.as_str(), sentence.as_str()), ("TOOBIG", "the key has 101 bytes; at most 100 are allowed"));
    let (code, sentence) = wrong(format!("SET k {}\n", "v".repeat(1001)).as_bytes());
    assert_eq!((code.as_str(), sentence.as_str()), ("TOOBIG", "the value has 1001 bytes; at most 1000 are allowed"));
}

#[test]
fn a_line_without_end_and_foreign_bytes_end_the_connection() {
    let line = |verb: &str, len| format!("{verb}{}", "x".repeat(len - verb.len())).into_bytes();
    let max = line_len_max(&LIMITS);
    assert_eq!(parse(&line("SET \"k\" \"", max), 0, &LIMITS, || NOW_MS), ParsedLine::Incomplete { scanned: max });
    assert_eq!(fatal(&line("SET \"k\" \"", max + 2)), ErrorCode::TooBig);
    // Only who sends a value gets the room for one; who sends no command, none.
    assert_eq!(fatal(&line("GET ", 2_000)), ErrorCode::TooBig);
    assert_eq!(fatal(&line("NONSENSE ", 2_000)), ErrorCode::Unknown);
    assert_eq!(fatal(b"\x16\x03\x01\x02\x00"), ErrorCode::Unknown);
    assert_eq!(fatal(b"\0"), ErrorCode::Unknown);
    assert_eq!(fatal(b"\xff\xf4\xff\xfd\x06"), ErrorCode::Unknown);
    assert_eq!(fatal(b"S\0T a 1\n"), ErrorCode::Unknown);
    // A HELLO of a peer, which ends no line.
    assert_eq!(fatal(b"A\x01\0\0\x12\x34\x56\x78\x01{\"cluster\":"), ErrorCode::Unknown);
}

#[test]
fn http_ends_the_connection_also_where_it_reads_like_a_command() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "POST /keys HTTP/1.0\r\n",
        "PUT /x HTTP/1.1\r\n",
        "put /x HTTP/1.0\n",
        "  PUT \"/x\" HTTP/1.1\n",
        "PRI * HTTP/2.0\r\n",
        "SET a GET / HTTP/1.1\n",
        "KEYS HTTP/1.1\n",
        "Host: localhost\r\n",
        "HOST:localhost:7001\n",
        "host:\n",
    ] {
        match parse(line.as_bytes(), 0, &LIMITS, || NOW_MS) {
            ParsedLine::Fatal { wrong } => {
                assert_eq!(wrong.code, ErrorCode::Unknown, "{line:?}");
                assert!(wrong.sentence.contains("not an HTTP port") && !wrong.sentence.contains('\n'), "{line:?}: {}", wrong.sentence);
            }
            other => panic!("{line:?}: {other:?}"),
        }
    }
    // Such data is written in quotes, and anything that is not at the end of a line means nothing.
    assert_eq!(one("SET a \"GET / HTTP/1.1\"\n"), set(b"a", b"GET / HTTP/1.1").into());
    assert_eq!(one("SET a HTTP/1.1 200\n"), set(b"a", b"HTTP/1.1 200").into());
    assert_eq!(one("SET a xHTTP/1.1\n"), set(b"a", b"xHTTP/1.1").into());
    assert_eq!(one("SET a Host: b\n"), set(b"a", b"Host: b").into());
    assert_eq!(one("SET Host: b\n"), set(b"Host:", b"b").into());
}

#[test]
fn only_a_quote_makes_room_for_escapes_and_the_limit_is_named() {
    let (key, value) = (LIMITS.key_len_max, LIMITS.value_len_max);
    for (begin, max, limit) in [
        ("SET k ", key + value, "value_len_max is 1000"),
        ("SET k \"", key + 4 * value, "value_len_max is 1000"),
        ("PUT \"k k\" v", 4 * key + value, "value_len_max is 1000"),
        ("PUT \"k \\\" k\" \"", 4 * (key + value), "value_len_max is 1000"),
        // One space more is the value's own.
        ("UPD k  \"", key + value, "value_len_max is 1000"),
        ("GET ", key, "key_len_max is 100"),
        ("KEYS \"", 4 * key, "key_len_max is 100"),
        // The value may begin at any later byte: only beyond its length is it plain that none will.
        ("SET ", key + value, "key_len_max is 100"),
        ("SET \"", 4 * key + value, "key_len_max is 100"),
    ] {
        let max = max + LINE_LEN_MIN;
        let line = |len: usize| format!("{begin}{}", "x".repeat(len - begin.len())).into_bytes();
        // One more, which may be the `\r` of the line's end.
        assert_eq!(parse(&line(max + 1), 0, &LIMITS, || NOW_MS), ParsedLine::Incomplete { scanned: max + 1 }, "{begin}");
        match parse(&line(max + 2), 0, &LIMITS, || NOW_MS) {
            ParsedLine::Fatal { wrong } => {
                assert_eq!(wrong.code, ErrorCode::TooBig);
                assert!(wrong.sentence.contains(limit) && wrong.sentence.ends_with("this connection is closed"), "{}", wrong.sentence);
            }
            other => panic!("{begin}: {other:?}"),
        }
    }
}

#[test]
fn empty_lines_are_not_commands() {
    for line in ["\n", "\r\n", "   \n", " \r\n"] {
        assert_eq!(parse(line.as_bytes(), 0, &LIMITS, || NOW_MS), ParsedLine::Empty { consumed: line.len() });
    }
}

/// All that a stream holds when it arrives in pieces of `len` bytes, as a session reads it.
fn read_in_pieces(stream: &[u8], len: usize) -> Vec<String> {
    let (mut buffer, mut scanned, mut seen) = (Vec::new(), 0, Vec::new());
    for piece in stream.chunks(len) {
        buffer.extend_from_slice(piece);
        loop {
            let parsed = parse(&buffer, scanned, &LIMITS, || NOW_MS);
            let consumed = match &parsed {
                ParsedLine::Incomplete { scanned: upto } => {
                    scanned = *upto;
                    break;
                }
                ParsedLine::Fatal { wrong } => {
                    seen.push(format!("closed: {}", wrong.code));
                    return seen;
                }
                ParsedLine::Request { consumed, .. } | ParsedLine::Wrong { consumed, .. } | ParsedLine::Empty { consumed } => *consumed,
            };
            seen.push(format!("{parsed:?}"));
            scanned = 0;
            buffer.drain(..consumed);
        }
    }
    seen
}

#[test]
fn a_script_gives_the_same_commands_however_it_arrives() {
    let script = b"SET a 1\r\nGET a\n\nSET \"k \\x0A\" \"v \\\" w\"\nNOPE\r\n  PING\nSET k\nDEL a\r\nKEYS a 3\nACK all\nSET v  x \nGET / HTTP/1.1\nPING\n";
    let whole = read_in_pieces(script, script.len());
    assert_eq!(whole.len(), 12);
    for len in 1..script.len() {
        assert_eq!(read_in_pieces(script, len), whole);
    }
    for end in 0..script.len() {
        let truncated = read_in_pieces(&script[..end], 1);
        assert_eq!(truncated, whole[..truncated.len()]);
    }
}

fn any_bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..len),
        prop::collection::vec(prop::sample::select(b" \"\\\n\r\tax\x00\xc3\xbc".to_vec()), 0..len),
        prop::sample::select(vec![&b"HTTP/1.1"[..], b"a HTTP/1.0", b"HTTP/1.1 "]).prop_map(<[u8]>::to_vec)
    ]
}

/// A request, and the line that asks for it.
fn any_request() -> impl Strategy<Value = (Request<'static>, RequestLine)> {
    let key = any_bytes(100);
    let value = any_bytes(1000);
    let level = prop::option::of(prop::sample::select(vec![AckLevel::Local, AckLevel::Majority, AckLevel::All]));
    (key, value, level, prop::option::of(any::<usize>()), 0..25).prop_map(|(key, value, level, number, which)| {
        let (line, key_line) = (RequestLine::new, |verb| RequestLine::new(verb).key(&key));
        let value_line = |verb| RequestLine::new(verb).key(&key).value(&value);
        let with_number = |line: RequestLine| number.into_iter().fold(line, RequestLine::word);
        let (key, value) = (Cow::Owned(key.clone()), Cow::Owned(value.clone()));
        match which {
            0 => (Command::set(key, value, Only::IfAbsent).into(), value_line(Verb::Set)),
            1 => (Command::set(key, value, Only::IfPresent).into(), value_line(Verb::Upd)),
            2 => (Command::set(key, value, Only::Always).into(), value_line(Verb::Put)),
            3 => (Command::write(key, KeyWrite::Delete { strict: true }).into(), key_line(Verb::Del)),
            4 => (Command::read(key, StringRead::Get).into(), key_line(Verb::Get)),
            5 => (Command::read(key, KeyRead::Exists).into(), key_line(Verb::Exists)),
            6 => (TextCommand::Keys { prefix: key, limit: number }.into(), with_number(key_line(Verb::Keys))),
            7 => (SessionCommand::Ack { level }.into(), level.into_iter().fold(line(Verb::Ack), RequestLine::word)),
            8 => (TextCommand::Help { verb: number.map(|word| word.to_string()) }.into(), with_number(line(Verb::Help))),
            9 => (KeyspaceCommand::Count.into(), line(Verb::Count)),
            10 => (Admin::Status.into(), line(Verb::Status)),
            11 => (Admin::Peers.into(), line(Verb::Peers)),
            12 => (Admin::Digest { before: number.map(|time| time as u64) }.into(), with_number(line(Verb::Digest))),
            13 => (TextCommand::Dump.into(), line(Verb::Dump)),
            14 => (TextCommand::Restore.into(), line(Verb::Restore)),
            15 => (ConnectionCommand::Ping { message: None }.into(), line(Verb::Ping)),
            16 => (Admin::Compact.into(), line(Verb::Compact)),
            17 => (Admin::Resume.into(), line(Verb::Resume)),
            18 => {
                let by = number.map_or(1, |by| by as i64);
                (Command::write(key, StringWrite::Add { by }).into(), key_line(Verb::Incr).word(by))
            }
            19 => (Command::write(key, ExpiryWrite::Persist).into(), key_line(Verb::Persist)),
            20 => {
                let unit = ExpiryUnit { absolute: false, milliseconds: false };
                (Command::read(key, unit).into(), key_line(Verb::Ttl))
            }
            21 => {
                let line = key_line(Verb::Mget).key(&key);
                (MultiKey::Get(vec![key.clone(), key]).into(), line)
            }
            22 => (Admin::Reload.into(), line(Verb::Reload)),
            23 => {
                let line = if number.is_some() { key_line(Verb::Auth) } else { line(Verb::Auth) }.key(&key);
                let login = Login { user: number.map(|_| key.clone()), password: Password(key) };
                (ConnectionCommand::Authenticate(Box::new(login)).into(), line)
            }
            _ => (SessionCommand::Quit.into(), line(Verb::Quit)),
        }
    })
}

#[test]
fn an_error_is_one_line_whatever_its_sentence_holds() {
    let mut line = Vec::new();
    let sentence = "no a\r\nERROR b \u{1b}[2J \u{9b}2J";
    encode_reply(&crate::wire::reply::Reply::error(ErrorCode::BadDump, sentence), &mut line);
    assert_eq!(String::from_utf8(line).unwrap(), "ERROR BADDUMP no a\\r\\nERROR b \\x1B[2J \\xC2\\x9B2J\n");
}

proptest! {
    #[test]
    fn requests_round_trip(requests in prop::collection::vec(any_request(), 1..8), len in 1..40usize) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (request, line) in requests {
            let start = stream.len();
            line.write(&mut stream);
            let verb = VerbSpec::find(split_word(line.as_bytes()).0).unwrap_or_else(|| panic!("{line:?}")).verb;
            expected.push(format!("{:?}", ParsedLine::Request { verb, request, consumed: stream.len() - start }));
        }
        prop_assert_eq!(read_in_pieces(&stream, len), expected);
    }

    #[test]
    fn random_bytes_never_panic_and_never_hold_more_than_a_line(bytes in prop::collection::vec(any::<u8>(), 0..3000), verb in 0..27usize) {
        let verb = VERBS.get(verb).map_or("", |spec| spec.name);
        let stream = [verb.as_bytes(), b" ", &bytes].concat();
        prop_assert_eq!(read_in_pieces(&stream, 1), read_in_pieces(&stream, stream.len()));
    }
}
