//! Requests: what is taken, what is refused in whose words, and that nothing depends on how the
//! bytes arrive.

use super::*;
use crate::wire::resp::encoding;
use proptest::prelude::*;

mod fuzz;

const LIMITS: Limits = Limits { key_len_max: 100, value_len_max: 200_000 };

type Owned = Vec<Vec<u8>>;

/// One request that takes all of the bytes.
fn one(bytes: &[u8]) -> Owned {
    match parse(bytes, &mut Partial::default(), &LIMITS) {
        ParsedWords::Request { words, consumed } if consumed == bytes.len() => words.iter().map(<[u8]>::to_vec).collect(),
        other => panic!("{} gave {other:?}", bytes.escape_ascii()),
    }
}

fn fatal(bytes: &[u8]) -> String {
    match parse(bytes, &mut Partial::default(), &LIMITS) {
        ParsedWords::Fatal { wrong: Wrong { code: ErrorCode::Err, sentence } } => sentence,
        other => panic!("{} gave {other:?}", bytes.escape_ascii()),
    }
}

fn is_incomplete(bytes: &[u8], partial: &mut Partial) -> bool {
    matches!(parse(bytes, partial, &LIMITS), ParsedWords::Incomplete)
}

fn encoded(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    encoding::request(words, &mut out);
    out
}

#[test]
fn words_are_any_bytes_and_lie_where_they_came() {
    assert_eq!(one(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), [&b"GET"[..], b"a"]);
    assert_eq!(one(b"*1\r\n$0\r\n\r\n"), [b""]);
    assert_eq!(one(b"*2\r\n$4\r\n\r\n\0$\r\n$1\r\n\xff\r\n"), [&b"\r\n\0$"[..], b"\xff"]);
    let pipeline = b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n";
    let mut partial = Partial::default();
    let ParsedWords::Request { words, consumed: 14 } = parse(pipeline, &mut partial, &LIMITS) else { panic!() };
    assert_eq!(words.get(0), Some(&b"PING"[..]));
}

#[test]
fn a_key_is_seen_early_in_a_whole_request_and_in_no_other() {
    let set = encoded(&["SET", "key", "value"]);
    assert_eq!(peek_key(&[&set[..], b"*1"].concat()), Some((&b"key"[..], set.len())));
    assert!((0..set.len()).all(|len| peek_key(&set[..len]).is_none()));
    // Without a second word, and lines that hardly any client sends.
    for other in ["*1\r\n$4\r\nPING\r\n", "*0\r\n", "GET a\r\n", "*02\r\n$3\r\nGET\r\n$1\r\na\r\n"] {
        assert_eq!(peek_key(other.as_bytes()), None, "{other:?}");
    }
}

/// Redis looks at the `\r` of a line alone, and at nothing behind a bulk; so does this.
#[test]
fn bytes_in_the_place_of_line_ends_are_not_looked_at() {
    assert_eq!(one(b"*1\rx$1\rya__"), [b"a"]);
    assert_eq!(one(b"*2\r\n$1\r\naXY$1\r\nb\0\0"), [b"a", b"b"]);
}

#[test]
fn an_array_of_nothing_is_skipped() {
    for (empty, behind) in [("*0\r\n", ""), ("*-1\r\n", "*1\r\n"), ("*-9223372036854775808\r\n", "$")] {
        let bytes = format!("{empty}{behind}");
        let mut partial = Partial::default();
        let parsed = parse(bytes.as_bytes(), &mut partial, &LIMITS);
        assert!(matches!(parsed, ParsedWords::Empty { consumed } if consumed == empty.len()), "{parsed:?}");
    }
}

/// All but the last two were sent to Redis 7.0.15, which answers so.
#[test]
fn what_is_malformed_is_refused_in_the_words_of_redis() {
    for count in ["", "x", " 1", "1 ", "+1", "01", "-0", "-01", "00", "-9223372036854775809", "2147483648", "99999999999999999999", "1\n"] {
        assert_eq!(fatal(format!("*{count}\r\n").as_bytes()), "Protocol error: invalid multibulk length", "{count:?}");
    }
    for len in ["", "x", "-1", "-0", "+1", "01", "1 ", "9223372036854775808", "99999999999", "5\nhello"] {
        assert_eq!(fatal(format!("*1\r\n${len}\r\na\r\n").as_bytes()), "Protocol error: invalid bulk length", "{len:?}");
    }
    for (line, got) in [("+OK", "+"), ("*1", "*"), ("", " "), ("\n", " "), ("\t", "\t"), ("\u{1}", "\u{1}"), ("'", "'"), ("abc", "a")] {
        assert_eq!(fatal(format!("*1\r\n{line}\r\n").as_bytes()), format!("Protocol error: expected '$', got '{got}'"));
    }
    // Redis sends this byte as it is.
    assert_eq!(fatal(b"*1\r\n\xff\r\n"), "Protocol error: expected '$', got '\u{fffd}'");
    // Redis looks for line ends up to a zero alone, and would wait for more.
    assert_eq!(fatal(b"*1\r\n\0\r\n"), "Protocol error: expected '$', got '\0'");
}

#[test]
fn a_line_is_refused_when_it_is_too_long_and_not_before() {
    for (head, sentence) in [("*", "Protocol error: too big mbulk count string"), ("*1\r\n$", "Protocol error: too big bulk count string")]
    {
        // The line's first byte is in the head.
        let line = |digits| format!("{head}{}", "1".repeat(digits)).into_bytes();
        assert!(is_incomplete(&line(65_535), &mut Partial::default()));
        assert_eq!(fatal(&line(65_536)), sentence);
        let with_end = [&line(65_535)[..], b"\r\n"].concat();
        assert!(fatal(&with_end).ends_with("bulk length"));
    }
}

#[test]
fn bounds_are_exact() {
    let bulk = |len| [format!("*1\r\n${len}\r\n").as_bytes(), &vec![b'x'; len], b"\r\n"].concat();
    assert_eq!(one(&bulk(LIMITS.value_len_max))[0].len(), LIMITS.value_len_max);
    assert_eq!(fatal(format!("*1\r\n${}\r\n", LIMITS.value_len_max + 1).as_bytes()), "Protocol error: invalid bulk length");
    // With limits below 64 KiB, that is the bound.
    let tight = Limits { key_len_max: 1, value_len_max: 1 };
    assert!(matches!(parse(&bulk(65_536), &mut Partial::default(), &tight), ParsedWords::Request { .. }));
    assert!(matches!(parse(b"*1\r\n$65537\r\n", &mut Partial::default(), &tight), ParsedWords::Fatal { .. }));

    assert!(is_incomplete(b"*1048576\r\n", &mut Partial::default()));
    assert_eq!(fatal(b"*2147483648\r\n"), "Protocol error: invalid multibulk length");
}

#[test]
fn a_request_is_refused_where_it_grows_too_long() {
    let max = request_len_max(&tight());
    assert_eq!(max, 1024 * 1024 + 22);
    fn tight() -> Limits {
        Limits { key_len_max: 1, value_len_max: 10 }
    }
    let word = [b"$65000\r\n", &[b'x'; 65_000][..], b"\r\n"].concat();
    let mut request = [&b"*17\r\n"[..], &word.repeat(16)].concat();
    // The last word fills it up.
    let len = max - request.len() - "$8000\r\n\r\n".len();
    assert!((1000..10_000).contains(&len));
    let head = request.clone();
    request.extend(format!("${len}\r\n{}\r\n", "y".repeat(len)).bytes());
    assert_eq!(request.len(), max);
    assert!(matches!(parse(&request, &mut Partial::default(), &tight()), ParsedWords::Request { consumed, .. } if consumed == max));
    let longer = [head, format!("${}\r\n", len + 1).into_bytes()].concat();
    let ParsedWords::Fatal { wrong } = parse(&longer, &mut Partial::default(), &tight()) else { panic!() };
    assert_eq!(wrong.sentence, format!("Protocol error: request longer than {max} bytes; split it into several"));
}

/// Parsed bytes are overwritten before the rest comes: nothing may look there.
#[test]
fn nothing_is_parsed_twice() {
    let request = encoded(&vec![b"word"; 50]);
    for split in 1..request.len() {
        let mut partial = Partial::default();
        assert!(is_incomplete(&request[..split], &mut partial));
        let (at, searched) = (partial.at, partial.at + partial.searched);
        assert!(split - at <= 4 + 2, "{} bytes of {split} are to be parsed again", split - at);
        let mut moved = request.clone();
        moved[..at].fill(b'?');
        assert!(searched <= split);
        let ParsedWords::Request { words, consumed } = parse(&moved, &mut partial, &LIMITS) else { panic!("split at {split}") };
        assert_eq!((words.len(), consumed), (50, request.len()));
    }
}

/// A line is searched for its end only where it has grown: another end that appears in front of
/// that is not found.
#[test]
fn no_line_is_searched_twice() {
    let mut line = [b"*1\r\n$", &[b'1'; 60_000][..]].concat();
    let mut partial = Partial::default();
    for end in [3, 4, 5, 100, 30_000, line.len()] {
        assert!(is_incomplete(&line[..end], &mut partial));
    }
    line[5..].fill(b'\r');
    assert!(is_incomplete(&line, &mut partial));
    line.extend_from_slice(b"1\r\n");
    let ParsedWords::Fatal { wrong } = parse(&line, &mut partial, &LIMITS) else { panic!() };
    assert_eq!(wrong.sentence, "Protocol error: invalid bulk length");
}

/// A megabyte a byte at a time: looking through it each time would take hours.
#[test]
fn a_long_word_costs_no_more_each_time_it_grows() {
    let limits = Limits { key_len_max: 1, value_len_max: 1024 * 1024 };
    let request = encoded(&[vec![b'\n'; limits.value_len_max]]);
    let mut partial = Partial::default();
    for end in 0..request.len() {
        assert!(matches!(parse(&request[..end], &mut partial, &limits), ParsedWords::Incomplete));
    }
    assert!(matches!(parse(&request, &mut partial, &limits), ParsedWords::Request { .. }));
}

#[test]
fn room_is_taken_for_words_that_came_and_given_back() {
    let mut partial = Partial::default();
    assert!(is_incomplete(b"*1048576\r\n$1\r\na\r\n", &mut partial));
    assert!(partial.spans.capacity() < 10);
    let mut partial = Partial::default();
    assert!(matches!(parse(&encoded(&vec![b"a"; 20_000]), &mut partial, &LIMITS), ParsedWords::Request { .. }));
    assert!(partial.spans.capacity() >= 20_000);
    assert!(is_incomplete(b"", &mut partial));
    assert!(partial.spans.capacity() <= SPANS_KEPT_MAX);
    // After a fatal one, at once.
    let broken = [b"*20001\r\n", &encoded(&vec![b"a"; 20_000])["*20000\r\n".len()..], b"?\r\n"].concat();
    assert!(matches!(parse(&broken, &mut partial, &LIMITS), ParsedWords::Fatal { .. }));
    assert!(partial.spans.capacity() <= SPANS_KEPT_MAX);
    assert!(matches!(parse(b"*1\r\n$1\r\na\r\n", &mut partial, &LIMITS), ParsedWords::Request { .. }));
}

#[test]
fn integers_are_as_they_would_be_printed() {
    for number in [0, 1, -1, 10, i64::MAX, i64::MIN] {
        assert_eq!(integer(number.to_string().as_bytes()), Some(number));
    }
    for text in [
        "",
        "-",
        "-0",
        "+1",
        "00",
        "01",
        "-01",
        " 1",
        "1 ",
        "1_0",
        "0x1",
        "1.0",
        "1e3",
        "9223372036854775808",
        "-9223372036854775809",
        "1\0",
    ] {
        assert_eq!(integer(text.as_bytes()), None, "{text:?}");
    }
}

/// The short way to read a line makes the same of the bytes as the general one.
fn both_ways(line: &Line, bytes: &[u8]) -> [Option<(usize, usize)>; 2] {
    let mut partial = Partial::default();
    let number = partial.any_number(bytes, line, WORDS_MAX).ok().flatten();
    [line.short(bytes), number.map(|number| (number, partial.at))]
}

#[test]
fn lines_with_up_to_three_digits_are_short() {
    for number in 0..2000 {
        let line = format!("${number}\r\n");
        let [short, any] = both_ways(&LENGTH, line.as_bytes());
        assert_eq!(any, Some((number, line.len())));
        assert_eq!(short, any.filter(|_| number < 1000));
    }
}

fn words() -> impl Strategy<Value = Owned> {
    let bytes = prop_oneof![any::<Vec<u8>>(), "[\r\n$*0-9]{0,12}".prop_map(String::into_bytes)];
    prop::collection::vec(bytes, 1..6)
}

proptest! {
    #[test]
    fn requests_come_back_however_they_are_split(requests in prop::collection::vec(words(), 1..4)) {
        let bytes: Vec<u8> = requests.iter().flat_map(|words| encoded(words)).collect();
        for split in 0..=bytes.len() {
            let (mut partial, mut start, mut found) = (Partial::default(), 0, Vec::new());
            for end in [split, bytes.len()] {
                while let ParsedWords::Request { words, consumed } = parse(&bytes[start..end], &mut partial, &LIMITS) {
                    found.push(words.iter().map(<[u8]>::to_vec).collect::<Owned>());
                    start += consumed;
                }
            }
            prop_assert_eq!(&found, &requests);
            prop_assert_eq!(start, bytes.len());
        }
    }

    #[test]
    fn a_short_line_is_read_as_any_other(line in "[*$]-?[0-9]{0,5}[\r\n]{0,3}", like_one in "[*$0-9\r\n-]{0,8}", any: Vec<u8>) {
        for bytes in [line.as_bytes(), like_one.as_bytes(), &any] {
            for line in [&COUNT, &LENGTH] {
                let [short, any] = both_ways(line, bytes);
                prop_assert!(short.is_none() || short == any, "{} is {:?}, not {:?}", bytes.escape_ascii(), any, short);
            }
        }
    }

    #[test]
    fn a_part_of_a_request_is_incomplete(words in words()) {
        let bytes = encoded(&words);
        for end in 0..bytes.len() {
            prop_assert!(is_incomplete(&bytes[..end], &mut Partial::default()), "up to {}", end);
        }
    }

    #[test]
    fn garbage_is_one_of_the_four(bytes in "[*$0-9\r\n -]{0,40}", any: Vec<u8>) {
        for bytes in [bytes.as_bytes(), &any] {
            match parse(bytes, &mut Partial::default(), &LIMITS) {
                ParsedWords::Request { consumed, .. } | ParsedWords::Empty { consumed } => prop_assert!(consumed > 0 && consumed <= bytes.len()),
                ParsedWords::Fatal { wrong } => prop_assert!(wrong.sentence.starts_with("Protocol error: ")),
                ParsedWords::Incomplete => {}
            }
        }
    }
}
