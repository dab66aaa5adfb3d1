use super::digest::DumpDigest;
use super::parse::{parse_json_line, parse_line, read_entry};
use super::write::write_line;
use super::*;
use crate::data::clock::Stamp;
use crate::data::entry::Expiry;
use crate::data::key_order::OrderKey;
use crate::data::version::Version;
use crate::testing::entries::any_entry;
use proptest::prelude::*;

/// As from a client that stores text, or what is not text at all.
fn plain_entry() -> impl Strategy<Value = Entry> {
    let value = prop_oneof!["[ !#-\\[\\]-~]{0,80}".prop_map(|text| Some(text.into_bytes())), Just(Some(b"\xff\0".to_vec())), Just(None)];
    let expires = prop::option::of(1..i64::MAX as u64);
    ("[ !#-\\[\\]-~]{0,20}", value, expires, 1..Stamp::LIMIT.to_bits(), 1..=u16::MAX, any::<u64>()).prop_map(
        |(key, value, expires, stamp, node, nonce)| {
            let version = Version { stamp: Stamp::from_bits(stamp), origin: Origin { node: NodeId(node), nonce } };
            Entry::new(key.as_bytes(), value.as_deref(), expires.map(Expiry::from_wall_ms), version)
        },
    )
}

fn check_by_hand(line: &[u8]) -> Result<(), TestCaseError> {
    if let Some(entry) = read_entry(line) {
        prop_assert_eq!(parse_json_line(line), Ok(Line::Entry(entry)));
    }
    prop_assert_eq!(parse_line(line), parse_json_line(line));
    Ok(())
}

fn origin() -> Origin {
    Origin { node: NodeId(1), nonce: 0x9f86 }
}

fn header() -> Header {
    Header::new(DumpKind::Full, origin(), VersionVector::default(), 0, Some(3))
}

/// Reads lines as one dump, to its end.
fn read(lines: &[u8]) -> Result<Vec<Line>, String> {
    let mut reader = DumpReader::default();
    let lines = whole_lines(lines)?.map(|line| reader.line(line)).collect::<Result<Vec<_>, _>>()?;
    reader.finish().map(|()| lines)
}

/// A build from before the field reads past it, and the digest must still be right.
#[test]
fn a_header_with_an_order_counts_as_one_without() {
    let mut header = Header::new(DumpKind::Full, origin(), VersionVector::default(), 0, None);
    let without = DumpDigest::of(&header);
    header.order = Some(Order { since_ms: 5, key: OrderKey::from_halves([1, 2]) });
    let mut line = Vec::new();
    write_line(&mut line, &header);
    line.pop();
    assert!(String::from_utf8_lossy(&line).contains(r#""order":{"since_ms":5,"key":"00000000000000010000000000000002"}"#));
    assert_eq!(parse_line(&line), Ok(Line::Header(header.clone())));
    assert_eq!(DumpDigest::of(&header), without);
}

proptest! {
    #[test]
    fn entries_survive_a_line_and_every_truncation_is_an_error(entry in any_entry()) {
        let mut line = Vec::new();
        write_entry(&mut line, &entry);
        prop_assert_eq!(line.pop(), Some(b'\n'));
        prop_assert!(!line.contains(&b'\n'));
        prop_assert!(line.len() <= 2 * entry.size() + ENTRY_FIELDS_LEN_MAX);
        for len in 0..line.len() {
            prop_assert!(parse_line(&line[..len]).is_err());
        }
        prop_assert_eq!(parse_line(&line), Ok(Line::Entry(entry)));
    }

    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(any_entry(), 0..50), stamp in any::<u64>()) {
        let horizon: VersionVector = [(origin(), Stamp::from_bits(stamp))].into_iter().collect();
        let lines = read(&whole_dump(&header(), entries.clone(), horizon.clone())).unwrap();
        prop_assert_eq!(&lines[0], &Line::Header(header()));
        prop_assert_eq!(&lines[1..lines.len() - 1], &entries.into_iter().map(Line::Entry).collect::<Vec<_>>()[..]);
        prop_assert!(matches!(lines.last(), Some(Line::End(end)) if end.horizon == horizon));
    }

    /// Whatever line is missing, comes twice, or has changed places with the next: the end line
    /// does not prove it. (But the digest is the same in any order of the entries.)
    #[test]
    fn a_dump_that_is_not_whole_is_refused(entries in prop::collection::vec(plain_entry(), 0..8), at in any::<prop::sample::Index>(), edit in 0..3) {
        let dump = whole_dump(&header(), entries, VersionVector::default());
        let lines: Vec<&[u8]> = dump.split_inclusive(|byte| *byte == b'\n').collect();
        let at = at.index(lines.len());
        let mut edited = lines.clone();
        match edit {
            0 => drop(edited.remove(at)),
            1 => edited.insert(at, lines[at]),
            _ => edited.swap(at, (at + 1) % lines.len()),
        }
        let is_among_entries = |at: usize| (1..lines.len() - 1).contains(&at);
        let is_same = edit == 2 && is_among_entries(at) && is_among_entries(at + 1);
        prop_assert_eq!(read(&edited.concat()).is_ok(), is_same, "{:?}", String::from_utf8_lossy(&edited.concat()));
    }

    /// As a snapshot is read.
    #[test]
    fn entries_may_be_read_in_parts(entries in prop::collection::vec(any_entry(), 0..20), cut in any::<prop::sample::Index>()) {
        let dump = whole_dump(&header(), entries.clone(), VersionVector::default());
        let lines: Vec<&[u8]> = whole_lines(&dump).unwrap().collect();
        let (first, last) = lines[1..lines.len() - 1].split_at(cut.index(entries.len() + 1));
        let mut reader = DumpReader::default();
        reader.line(lines[0]).unwrap();
        for part in [last, first] {
            let mut entries = PartReader::default();
            part.iter().for_each(|line| drop(entries.entry(line).unwrap()));
            prop_assert!(entries.entry(lines[0]).is_err());
            reader.join(&entries);
        }
        prop_assert!(reader.line(lines[lines.len() - 1]).is_ok());
    }

    #[test]
    fn what_is_read_by_hand_is_what_json_says(
        entry in prop_oneof![any_entry(), plain_entry()],
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..5, prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{},:+-0aFkvso64\x7f "[..])]), 1..4),
    ) {
        let mut line = Vec::new();
        write_entry(&mut line, &entry);
        line.pop();
        prop_assert_eq!(parse_json_line(&line), Ok(Line::Entry(entry)));
        check_by_hand(&line)?;
        for (at, edit, byte) in edits {
            let at = at.index(line.len() + 1);
            match edit {
                0 => line.insert(at, byte),
                1 => line.truncate(at.max(line.len() / 2)),
                2 => {
                    // Other order, the fields whole: turned at a comma.
                    let mut fields: Vec<&[u8]> = line.strip_prefix(b"{").unwrap_or(&line).split(|byte| *byte == b',').collect();
                    let turn = at % fields.len();
                    fields.rotate_left(turn);
                    line = [b"{", &fields.join(&b","[..])[..]].concat();
                }
                _ if at == line.len() => line.push(byte),
                3 => line[at] = byte,
                _ => {
                    line.remove(at);
                }
            }
            check_by_hand(&line)?;
        }
    }

    #[test]
    fn ordinary_lines_are_read_by_hand(entry in plain_entry()) {
        let mut line = Vec::new();
        write_entry(&mut line, &entry);
        line.pop();
        prop_assert_eq!(read_entry(&line), Some(entry));
    }

    #[test]
    fn garbage_never_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse_line(&line);
    }
}

#[test]
fn lines_look_as_documented() {
    let mut out = Vec::new();
    let version = Version { stamp: Stamp::from_bits(7), origin: origin() };
    write_entry(&mut out, &Entry::new(b"a", Some(b"\xff"), None, version));
    write_entry(&mut out, &Entry::new(b"", None, None, version));
    let expected =
        "{\"k\":\"a\",\"v64\":\"/w==\",\"s\":\"7\",\"o\":\"1-0000000000009f86\"}\n{\"k\":\"\",\"s\":\"7\",\"o\":\"1-0000000000009f86\"}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn lines_out_of_order_are_refused_in_words() {
    let dump = whole_dump(&header(), [], VersionVector::default());
    let [header, end]: [&[u8]; 2] = dump.split_inclusive(|byte| *byte == b'\n').collect::<Vec<_>>().try_into().unwrap();
    for (lines, reason) in [
        (&[end][..], "a dump begins with its header, and this is none"),
        (&[header, header], "a dump within a dump"),
        (&[header, end, end], "a line behind the end line: this is not one dump"),
        (&[header], "the dump breaks off before its end line"),
        (&[], "the dump breaks off before its end line"),
        (&[header, &end[..20]], "a dump line that is cut off"),
    ] {
        assert_eq!(read(&lines.concat()), Err(reason.to_owned()));
    }
    let with_returns = String::from_utf8(dump.clone()).unwrap().replace('\n', "\r\n");
    assert!(read(with_returns.as_bytes()).is_ok());
    assert!(is_end_line(end.trim_ascii_end()) && !is_end_line(header.trim_ascii_end()) && !is_end_line(&end[..20]));
    assert_eq!(entries(&dump), Ok(Vec::new()));
    assert!(entries(&dump[..dump.len() - 1]).is_err());
}

#[test]
fn odd_lines_are_left_to_json() {
    let line = |key: &str, stamp: &str, origin: &str| format!(r#"{{"k":{key},"s":"{stamp}","o":"{origin}"}}"#).into_bytes();
    assert!(read_entry(&line(r#""a""#, "9999999999999999999", "65535-0123456789abcdef")).is_some());
    for (key, stamp, origin) in [
        (r#""a\n""#, "1", "1-0123456789abcdef"),
        ("\"a\u{1}\"", "1", "1-0123456789abcdef"),
        (r#""ä""#, "1", "1-0123456789abcdef"),
        (r#" "a""#, "1", "1-0123456789abcdef"),
        (r#""a""#, "", "1-0123456789abcdef"),
        (r#""a""#, "01", "1-0123456789abcdef"),
        (r#""a""#, "+1", "1-0123456789abcdef"),
        (r#""a""#, "1f", "1-0123456789abcdef"),
        (r#""a""#, "18446744073709551615", "1-0123456789abcdef"),
        (r#""a""#, "18446744073709551616", "1-0123456789abcdef"),
        (r#""a""#, "1", "65536-0123456789abcdef"),
        (r#""a""#, "1", "-0123456789abcdef"),
        (r#""a""#, "1", "1-0123456789abcdeF"),
        (r#""a""#, "1", "1-+123456789abcdef"),
        (r#""a""#, "1", "1-00123456789abcdef"),
    ] {
        let line = line(key, stamp, origin);
        assert_eq!(read_entry(&line), None);
        check_by_hand(&line).unwrap();
    }
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let header = r#"{"dump":"kvmesh","format":3,"kind":"full","node":1,"origin":"1-0","vector":{}}"#;
    let said = parse_line(header.as_bytes()).unwrap_err();
    assert!(
        said.starts_with("it was written by another version of kvmesh: it is of format 3, and this build reads format 1 to 2."),
        "{said}"
    );
    // Whatever a header holds by then.
    assert_eq!(parse_line(br#"{"dump":"kvmesh","format":3,"rest":7}"#), Err(said));
    assert_eq!(parse_line(header.replace(":3", ":0").as_bytes()).unwrap_err(), "a dump of format 0, which none has");
}
