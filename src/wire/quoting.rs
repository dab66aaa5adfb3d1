//! Keys and values as text: any bytes as one line, bare where that is unambiguous and in double
//! quotes where it is not.
//!
//! Inside quotes: `\"`, `\\`, `\n`, `\r`, `\t`, and `\xHH` for any byte. Written text is always
//! valid UTF-8 without control characters; text that is read may hold any byte but a line end.

use std::borrow::Cow;
use std::io::{self, Write};

/// Returns true if a value must be quoted in a reply: it is empty, begins with `"`, begins or ends
/// with a space, or holds a control byte or invalid UTF-8.
pub fn needs_quotes(bytes: &[u8]) -> bool {
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return true };
    // Most values are plain, which one look tells.
    let is_plain = !has(bytes, |byte| !matches!(byte, b' '..=b'~'));
    let is_text = || !has(bytes, is_control) && std::str::from_utf8(bytes).is_ok();
    *first == b'"' || *first == b' ' || *last == b' ' || !(is_plain || is_text())
}

/// Searches without an early end inside a chunk, so that it is compiled to vector instructions:
/// values are up to 16 MiB.
fn has(bytes: &[u8], is_wanted: impl Fn(u8) -> bool) -> bool {
    bytes.chunks(256).any(|chunk| chunk.iter().fold(false, |found, byte| found | is_wanted(*byte)))
}

/// Writes a value, or a key that ends its line, quoted only if it must be.
pub fn write_text(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if needs_quotes(bytes) { write_quoted(out, bytes) } else { out.write_all(bytes) }
}

/// Writes a key in front of other words: a space inside needs quotes there.
pub fn write_word(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if memchr::memchr(b' ', bytes).is_some() { write_quoted(out, bytes) } else { write_text(out, bytes) }
}

/// Writes the bytes in double quotes, whatever they are.
pub fn write_quoted(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(b"\"")?;
    for chunk in bytes.utf8_chunks() {
        let mut valid = chunk.valid().as_bytes();
        while let Some(at) = valid.iter().position(|byte| matches!(byte, b'"' | b'\\') || is_control(*byte)) {
            out.write_all(&valid[..at])?;
            write_escaped(out, valid[at])?;
            valid = &valid[at + 1..];
        }
        out.write_all(valid)?;
        for byte in chunk.invalid() {
            write_escaped(out, *byte)?;
        }
    }
    out.write_all(b"\"")
}

/// Bytes for people and for errors: always in quotes.
pub fn quoted(bytes: &[u8]) -> String {
    collect(|out| write_quoted(out, bytes))
}

/// Bytes as a reply shows them: quoted only if they must be.
pub fn text(bytes: &[u8]) -> String {
    collect(|out| write_text(out, bytes))
}

/// Bytes in quotes, and cut where they get too long for a sentence.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_LEN_MAX: usize = 64;
    shown_upto(bytes, SHOWN_LEN_MAX)
}

/// A whole sentence that another program has written, such as why a peer refuses this node: in
/// quotes, and cut later than a word.
pub fn told(sentence: &str) -> String {
    const TOLD_LEN_MAX: usize = 256;
    shown_upto(sentence.as_bytes(), TOLD_LEN_MAX)
}

fn shown_upto(bytes: &[u8], len_max: usize) -> String {
    let in_a_line = |bytes| collect(|out| write_line(out, &quoted(bytes)));
    match bytes.get(..len_max) {
        Some(head) if bytes.len() > len_max => format!("{}... ({} bytes)", in_a_line(head), bytes.len()),
        _ => in_a_line(bytes),
    }
}

/// Writes a text as one line, whatever is in it: control characters are escaped, so that it neither
/// ends the line nor commands the terminal that shows it.
pub fn write_line(out: &mut impl Write, text: &str) -> io::Result<()> {
    let mut rest = text;
    while let Some((at, control)) = rest.char_indices().find(|(_, char)| char.is_control()) {
        let (before, after) = rest.split_at(at);
        let (control, after) = after.split_at(control.len_utf8());
        out.write_all(before.as_bytes())?;
        control.bytes().try_for_each(|byte| write_escaped(out, byte))?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// The bytes that a text which ends its line stands for: the text itself, or what the quotes hold.
/// The error is a clause that says what is wrong.
pub fn unquote(text: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if text.first() != Some(&b'"') {
        return Ok(Cow::Borrowed(text));
    }
    match split_quoted(text)? {
        (bytes, []) => Ok(bytes),
        (_, rest) => Err(format!("{} follows the closing quote, and nothing may (a quote inside is written \\\")", shown(rest))),
    }
}

/// Splits a text that begins with a quote into what the quotes hold and what follows them.
pub fn split_quoted(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), String> {
    let inside = &text[1..];
    let mut bytes = Cow::Borrowed(&[][..]);
    let mut rest = inside;
    loop {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else { return Err("a double quote is not closed".to_owned()) };
        let (plain, special) = rest.split_at(at);
        if bytes.is_empty() {
            bytes = Cow::Borrowed(plain);
        } else {
            bytes.to_mut().extend_from_slice(plain);
        }
        if special[0] == b'"' {
            return Ok((bytes, &special[1..]));
        }
        let (byte, len) = unescape(special)?;
        bytes.to_mut().push(byte);
        rest = &special[len..];
    }
}

/// The byte that an escape stands for, and how long the escape is.
fn unescape(escape: &[u8]) -> Result<(u8, usize), String> {
    let byte = match escape.get(1) {
        Some(b'"') => b'"',
        Some(b'\\') => b'\\',
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'x') => {
            let digit = |at: usize| escape.get(at).and_then(|digit| char::from(*digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(2), digit(3)) else {
                return Err("\\x needs two hex digits, as in \\x0A".to_owned());
            };
            return Ok(((high * 16 + low) as u8, 4));
        }
        Some(other) => return Err(format!("a backslash and {} is no escape; expected \\\" \\\\ \\n \\r \\t or \\xHH", quoted(&[*other]))),
        None => return Err("a double quote is not closed".to_owned()),
    };
    Ok((byte, 2))
}

fn write_escaped(out: &mut impl Write, byte: u8) -> io::Result<()> {
    match byte {
        b'"' => out.write_all(b"\\\""),
        b'\\' => out.write_all(b"\\\\"),
        b'\n' => out.write_all(b"\\n"),
        b'\r' => out.write_all(b"\\r"),
        b'\t' => out.write_all(b"\\t"),
        other => {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.write_all(&[b'\\', b'x', DIGITS[usize::from(other >> 4)], DIGITS[usize::from(other & 15)]])
        }
    }
}

fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

fn collect(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_appear_only_where_they_must() {
        for bare in ["a", "two words", "ünï", "in\"side", "back\\slash"] {
            assert_eq!(text(bare.as_bytes()), bare);
        }
        for (bytes, written) in [
            (&b""[..], r#""""#),
            (b" a", r#"" a""#),
            (b"a ", r#""a ""#),
            (b"\"a", r#""\"a""#),
            (b"a\nb\r\t\\", r#""a\nb\r\t\\""#),
            (b"\x00\xff\x7fz", r#""\x00\xFF\x7Fz""#),
            ("ü\u{1}".as_bytes(), r#""ü\x01""#),
        ] {
            assert_eq!(text(bytes), written);
            assert_eq!(unquote(written.as_bytes()).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wrong) in [
            (r#""a"#, "not closed"),
            (r#""a\"#, "not closed"),
            (r#""a" b"#, "follows the closing quote"),
            (r#""\q""#, "no escape"),
            (r#""\x4""#, "two hex digits"),
            (r#""\x+1""#, "two hex digits"),
        ] {
            let error = unquote(text.as_bytes()).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_is_one_whatever_is_in_it() {
        for (text, line) in [
            ("", ""),
            ("plain, \"quoted\", \\ and ünï", "plain, \"quoted\", \\ and ünï"),
            ("a\r\nb\u{1b}[2J", r"a\r\nb\x1B[2J"),
            ("\u{9b}31m\u{7f}\0", r"\xC2\x9B31m\x7F\x00"),
        ] {
            assert_eq!(collect(|out| write_line(out, text)), line);
        }
        assert_eq!(told(&"\n".repeat(300)), format!("\"{}\"... (300 bytes)", r"\n".repeat(256)));
        assert_eq!(shown(&[b'\n'; 65]), format!("\"{}\"... (65 bytes)", r"\n".repeat(64)));
    }

    proptest! {
        #[test]
        fn text_without_control_characters_is_bare(text in "a\\PC{0,300}b", place: prop::sample::Index, byte: u8) {
            prop_assert!(!needs_quotes(text.as_bytes()));
            let mut bytes = text.into_bytes();
            bytes.insert(place.index(bytes.len() - 1) + 1, byte);
            let is_text = std::str::from_utf8(&bytes).is_ok() && !is_control(byte);
            prop_assert_eq!(needs_quotes(&bytes), !is_text);
        }

        #[test]
        fn any_bytes_survive(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for written in [text(&bytes), quoted(&bytes)] {
                prop_assert_eq!(&*unquote(written.as_bytes()).unwrap(), &*bytes);
            }
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(prop::sample::select(b"\"\\nx0 aZ\xff".to_vec()), 0..20)) {
            let _ = unquote(&bytes);
        }
    }
}
