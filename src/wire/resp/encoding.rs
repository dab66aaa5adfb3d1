//! Replies as RESP clients read them, in either version; and requests, for tests and tools.

use std::io::{self, Write};

use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::RespVersion;

/// Writes one reply.
pub fn write_reply(out: &mut impl Write, reply: &Reply<'_>, version: RespVersion) -> io::Result<()> {
    match reply {
        Reply::Ok => out.write_all(b"+OK\r\n"),
        Reply::Status(word) => write_line(out, b'+', word),
        Reply::Value(value) => write_bulk(out, value),
        Reply::Bytes(bytes) => write_bulk(out, bytes),
        Reply::Text(text) => match version {
            RespVersion::Two => write_bulk(out, text.as_bytes()),
            RespVersion::Three => write_verbatim(out, text),
        },
        Reply::Integer(number) => write_number(out, b':', *number),
        Reply::Absent(_) | Reply::Null => out.write_all(match version {
            RespVersion::Two => b"$-1\r\n",
            RespVersion::Three => b"_\r\n",
        }),
        Reply::NullArray => out.write_all(match version {
            RespVersion::Two => b"*-1\r\n",
            RespVersion::Three => b"_\r\n",
        }),
        Reply::Array(elements) => write_elements(out, b'*', elements, version),
        Reply::Set(elements) => write_elements(out, if version == RespVersion::Two { b'*' } else { b'~' }, elements, version),
        Reply::Map(pairs) => {
            match version {
                RespVersion::Two => write_number(out, b'*', 2 * pairs.len() as u64)?,
                RespVersion::Three => write_number(out, b'%', pairs.len() as u64)?,
            }
            pairs.iter().try_for_each(|(key, value)| {
                write_reply(out, key, version)?;
                write_reply(out, value, version)
            })
        }
        Reply::Key(key) => write_bulk(out, key),
        Reply::Ack(level) => write_bulk(out, level.to_string().as_bytes()),
        Reply::Digest { sum, keys } => write_bulk(out, format!("{sum:016x} {keys}").as_bytes()),
        Reply::Line(line) => write_bulk(out, line.as_bytes()),
        // An array says how long it is.
        Reply::End => Ok(()),
        Reply::Error { code, sentence } => {
            out.write_all(b"-")?;
            out.write_all(prefix(*code).as_bytes())?;
            write_line(out, b' ', sentence)
        }
    }
}

/// Writes the head of an array whose elements are written one by one.
pub fn write_array_head(out: &mut impl Write, len: usize) -> io::Result<()> {
    write_number(out, b'*', len as u64)
}

/// Puts one reply behind what is in `out`.
pub fn encode_reply(reply: &Reply<'_>, version: RespVersion, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write_reply(out, reply, version);
}

/// Puts one request behind what is in `out`.
pub fn request(words: &[impl AsRef<[u8]>], out: &mut Vec<u8>) {
    let head = write_number(out, b'*', words.len() as u64);
    // Writing to memory does not fail.
    let _ = head.and_then(|()| words.iter().try_for_each(|word| write_bulk(out, word.as_ref())));
}

/// The first word of an error, by which client libraries tell what to do.
fn prefix(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NoQuorum => "NOREPLICAS",
        ErrorCode::Full => "OOM",
        ErrorCode::ReadOnly => "READONLY",
        ErrorCode::Loading => "LOADING",
        ErrorCode::Timeout => "TIMEOUT",
        ErrorCode::Busy => "BUSY",
        ErrorCode::ExecAbort => "EXECABORT",
        ErrorCode::NoProto => "NOPROTO",
        ErrorCode::WrongPass => "WRONGPASS",
        ErrorCode::NoAuth => "NOAUTH",
        ErrorCode::NoPerm => "NOPERM",
        ErrorCode::Exists => "EXISTS",
        ErrorCode::NotFound => "NOTFOUND",
        ErrorCode::Stale => "STALE",
        ErrorCode::BadDump => "BADDUMP",
        ErrorCode::BadConfig => "BADCONFIG",
        ErrorCode::Syntax | ErrorCode::Unknown | ErrorCode::TooBig | ErrorCode::NotNumber | ErrorCode::Err => "ERR",
    }
}

fn write_elements(out: &mut impl Write, kind: u8, elements: &[Reply<'_>], version: RespVersion) -> io::Result<()> {
    write_number(out, kind, elements.len() as u64)?;
    elements.iter().try_for_each(|element| write_reply(out, element, version))
}

fn write_bulk(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_number(out, b'$', bytes.len() as u64)?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

/// Writes text that the client is to show as it is.
fn write_verbatim(out: &mut impl Write, text: &str) -> io::Result<()> {
    const FORM: &str = "txt:";
    write_number(out, b'=', (FORM.len() + text.len()) as u64)?;
    out.write_all(FORM.as_bytes())?;
    out.write_all(text.as_bytes())?;
    out.write_all(b"\r\n")
}

/// Writes a line within which no other may begin: as in Redis, spaces stand where it holds line
/// ends.
fn write_line(out: &mut impl Write, kind: u8, text: &str) -> io::Result<()> {
    out.write_all(&[kind])?;
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        out.write_all(&rest[..at])?;
        out.write_all(b" ")?;
        rest = &rest[at + 1..];
    }
    out.write_all(rest)?;
    out.write_all(b"\r\n")
}

fn write_number(out: &mut impl Write, kind: u8, number: impl itoa::Integer) -> io::Result<()> {
    out.write_all(&[kind])?;
    out.write_all(itoa::Buffer::new().format(number).as_bytes())?;
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests;
