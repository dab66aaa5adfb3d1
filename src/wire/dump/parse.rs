//! One line of a dump, from bytes to values.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::{EndLine, FORMAT, Header, Line, NAME};
use crate::data::clock::Stamp;
use crate::data::entry::{Entry, Expiry};
use crate::data::formats::OtherVersion;
use crate::data::version::{NodeId, Origin, Version};
use crate::wire::quoting::{shown, told};

/// The formats that this build reads.
const READ: RangeInclusive<u32> = 1..=FORMAT;

const HEADER_START: &[u8] = b"{\"dump\"";
const END_START: &[u8] = b"{\"end\"";

/// An entry's line as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine<'a> {
    #[serde(borrow, default)]
    k: Option<Text<'a>>,
    #[serde(borrow, default)]
    k64: Option<Text<'a>>,
    #[serde(borrow, default)]
    v: Option<Text<'a>>,
    #[serde(borrow, default)]
    v64: Option<Text<'a>>,
    #[serde(borrow, default)]
    x: Option<Text<'a>>,
    s: Stamp,
    o: Origin,
}

/// A string that borrows from the line unless it had escapes. (Serde borrows for a `Cow`, but not
/// for one inside an `Option`.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Parses one line, without its line feed. An error says what is wrong with it.
pub(super) fn parse_line(line: &[u8]) -> Result<Line, String> {
    match read_entry(line) {
        Some(entry) => Ok(Line::Entry(entry)),
        None => parse_json_line(line),
    }
}

/// Parses one line as JSON: the one definition of what is legal.
pub(super) fn parse_json_line(line: &[u8]) -> Result<Line, String> {
    if line.starts_with(HEADER_START) {
        if let Some(other) = other_version(line) {
            return Err(format!("it {other}"));
        }
        let header: Header = from_json(line)?;
        if !READ.contains(&header.format) {
            return Err(format!("a dump of format {}, which none has", header.format));
        }
        if header.dump != NAME {
            return Err(format!("a dump of {}, expected \"{NAME}\"", shown(header.dump.as_bytes())));
        }
        return Ok(Line::Header(header));
    }
    if line.starts_with(END_START) {
        let end: EndLine = from_json(line)?;
        if end.end != NAME {
            return Err(format!("the end of a dump of {}, expected \"{NAME}\"", shown(end.end.as_bytes())));
        }
        return Ok(Line::End(end));
    }
    let EntryLine { k, k64, v, v64, x, s, o } = from_json(line)?;
    let key = bytes(k, k64)?.ok_or("an entry without a key")?;
    let expires = x.map(|Text(x)| expiry(&x)).transpose()?;
    Ok(Line::Entry(Entry::new(&key, bytes(v, v64)?.as_deref(), expires, Version { stamp: s, origin: o })))
}

/// Finds out whether a line is the header of a dump in a format that this build does not read,
/// whatever else that header holds.
pub fn other_version(line: &[u8]) -> Option<OtherVersion> {
    #[derive(Deserialize)]
    struct FormatField {
        format: u32,
    }
    let field: Option<FormatField> = line.starts_with(HEADER_START).then(|| from_json(line).ok()).flatten();
    field.and_then(|field| OtherVersion::found(field.format, READ))
}

/// Returns whether a line is a well-formed end line. Whether it is the right one of its dump, only
/// a [`DumpReader`](super::DumpReader) can tell.
pub fn is_end_line(line: &[u8]) -> bool {
    matches!(parse_line(line), Ok(Line::End(_)))
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    // Validated once as a whole, rather than string by string.
    let line = std::str::from_utf8(line).map_err(|error| format!("a dump line that is not UTF-8: {error}"))?;
    // This one line is all that serde_json sees. Words of the line may be in the error.
    let in_words = |error: serde_json::Error| told(&error.to_string().replace(" at line 1 column ", " at column "));
    serde_json::from_str(line).map_err(|error| format!("a dump line that is not as expected: {}", in_words(error)))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    let wall_ms = text.parse().map_err(|_| format!("{} is no expiry; expected milliseconds since 1970", shown(text.as_bytes())))?;
    // As it is written, so that what is read is what was written.
    if wall_ms == 0 { Err("an expiry of 0".to_owned()) } else { Ok(Expiry::from_wall_ms(wall_ms)) }
}

fn bytes<'a>(text: Option<Text<'a>>, base64: Option<Text<'a>>) -> Result<Option<Cow<'a, [u8]>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("an entry that carries the same thing as text and as base64".to_owned()),
        (Some(Text(text)), None) => Ok(Some(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })),
        (None, Some(Text(base64))) => {
            BASE64.decode(base64.as_bytes()).map(|bytes| Some(bytes.into())).map_err(|error| format!("bad base64: {error}"))
        }
        (None, None) => Ok(None),
    }
}

/// Parses by hand the line of an entry, if it is written as [`super::write_entry`] writes plain
/// text and base64: of a million lines nearly every one is. The entry is the one that
/// [`parse_json_line`] makes of the line; `None` says nothing about the line.
pub(super) fn read_entry(line: &[u8]) -> Option<Entry> {
    let (key, rest) = read_bytes(line, b"{\"k\":\"", b"{\"k64\":\"")?;
    let (value, rest) = match rest.starts_with(b",\"v") {
        true => read_bytes(rest, b",\"v\":\"", b",\"v64\":\"").map(|(value, rest)| (Some(value), rest))?,
        false => (None, rest),
    };
    let (expires, rest) = match rest.strip_prefix(b",\"x\":\"") {
        Some(rest) => split_at_quote(rest).and_then(|(digits, rest)| Some((Some(Expiry::from_wall_ms(read_decimal(digits)?)), rest)))?,
        None => (None, rest),
    };
    let (stamp, rest) = split_at_quote(rest.strip_prefix(b",\"s\":\"")?)?;
    let (node, nonce) = rest.strip_prefix(b",\"o\":\"")?.strip_suffix(b"\"}")?.split_last_chunk::<16>()?;
    let stamp = Stamp::from_bits(read_decimal(stamp)?);
    let node = NodeId(read_decimal(node.strip_suffix(b"-")?)?.try_into().ok()?);
    let origin = Origin { node, nonce: read_digits::<16>(nonce)? };
    Some(Entry::new(&key, value.as_deref(), expires, Version { stamp, origin }))
}

fn read_bytes<'a>(line: &'a [u8], as_text: &[u8], as_base64: &[u8]) -> Option<(Cow<'a, [u8]>, &'a [u8])> {
    if let Some(rest) = line.strip_prefix(as_text) {
        let (text, rest) = split_at_quote(rest)?;
        return is_plain(text).then_some((Cow::Borrowed(text), rest));
    }
    let (base64, rest) = split_at_quote(line.strip_prefix(as_base64)?)?;
    Some((Cow::Owned(BASE64.decode(base64).ok()?), rest))
}

fn split_at_quote(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let quote = memchr::memchr(b'"', line)?;
    Some((&line[..quote], &line[quote + 1..]))
}

/// Reads a decimal number without a leading zero, of at most 19 digits: so many always fit, and no
/// honest stamp has more.
fn read_decimal(digits: &[u8]) -> Option<u64> {
    let is_short = digits.len() <= 19 && *digits.first()? != b'0';
    if is_short { read_digits::<10>(digits) } else { None }
}

/// Returns the number that the digits make, if each is one. Without a branch a digit: the digits of
/// a nonce are random. Wraps only where a digit is none.
fn read_digits<const BASE: u64>(digits: &[u8]) -> Option<u64> {
    let (number, are_digits) = digits.iter().fold((0_u64, true), |(number, are_digits), digit| {
        let digit = u64::from(DIGITS[usize::from(*digit)]);
        (number.wrapping_mul(BASE).wrapping_add(digit), are_digits & (digit < BASE))
    });
    are_digits.then_some(number)
}

pub(super) const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

/// The value of each byte as a digit; 255 if it is none.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut digit = 0;
    while digit < HEXADECIMAL.len() {
        digits[HEXADECIMAL[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

/// Returns whether the bytes are ASCII that JSON takes as it is, as most keys and values are. Looks
/// through them without a branch a byte.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |plain, byte| plain & (b' '..=b'~').contains(byte) & (*byte != b'"') & (*byte != b'\\'))
}
