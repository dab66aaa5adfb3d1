//! Replies of the text protocol, as a server writes them.

use std::io;

use crate::wire::quoting::{shown, write_line, write_text};
use crate::wire::reply::{ErrorCode, Reply};

/// Appends a reply with its line end.
pub fn encode_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write_reply(out, reply);
}

/// Writes a reply with its line end.
pub fn write_reply(out: &mut impl io::Write, reply: &Reply<'_>) -> io::Result<()> {
    match reply {
        Reply::Ok => out.write_all(b"OK")?,
        Reply::Status(word) => out.write_all(word.as_bytes())?,
        Reply::Value(value) => write_value(out, value)?,
        Reply::Bytes(bytes) => write_value(out, bytes)?,
        Reply::Text(text) => {
            for line in text.lines() {
                out.write_all(line.as_bytes())?;
                out.write_all(b"\n")?;
            }
            out.write_all(b"END")?;
        }
        Reply::Integer(number) => write!(out, "{number}")?,
        Reply::Absent(key) => write!(out, "ERROR {} key {} does not exist", ErrorCode::NotFound, shown(key))?,
        Reply::Null | Reply::NullArray => out.write_all(b"NONE")?,
        Reply::Array(replies) | Reply::Set(replies) => {
            for reply in replies {
                match reply {
                    // Not an error: that would be the answer to the whole command.
                    Reply::Absent(_) => out.write_all(b"NONE\n")?,
                    reply => write_reply(out, reply)?,
                }
            }
            out.write_all(b"END")?;
        }
        Reply::Map(pairs) => {
            pairs.iter().try_for_each(|(key, value)| write_reply(out, key).and_then(|()| write_reply(out, value)))?;
            out.write_all(b"END")?;
        }
        Reply::Key(key) => {
            out.write_all(b"KEY ")?;
            write_text(out, key)?;
        }
        Reply::Ack(level) => write!(out, "ACK {level}")?,
        Reply::Digest { sum, keys } => write!(out, "DIGEST {sum:016x} {keys}")?,
        Reply::Line(line) => out.write_all(line.as_bytes())?,
        Reply::End => out.write_all(b"END")?,
        Reply::Error { code, sentence } => {
            write!(out, "ERROR {code} ")?;
            write_line(out, sentence)?;
        }
    }
    out.write_all(b"\n")
}

fn write_value(out: &mut impl io::Write, value: &[u8]) -> io::Result<()> {
    out.write_all(b"VALUE ")?;
    write_text(out, value)
}
