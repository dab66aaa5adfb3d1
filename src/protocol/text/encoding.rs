//! The text protocol as it is written, and as a client reads it.

use std::io::{self, Write as _};

use memchr::memchr;

use crate::entry::Value;
use crate::protocol::command::{AckLevel, Command, ErrorCode, Reply, Write};
use crate::protocol::quoting::{shown, unquote, write_text, write_word};

/// What [`Reply::Ok`] looks like: a session that answered too early replaces exactly these bytes.
pub const OK: &[u8] = b"OK\n";

/// Appends a reply with its line end.
pub fn encode_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write_reply(out, reply);
}

/// Writes a reply with its line end.
pub fn write_reply(out: &mut impl io::Write, reply: &Reply<'_>) -> io::Result<()> {
    match reply {
        Reply::Ok => return out.write_all(OK),
        Reply::Value(value) => {
            out.write_all(b"VALUE ")?;
            write_text(out, value)?;
        }
        Reply::Integer(number) => write!(out, "{number}")?,
        Reply::Pong => out.write_all(b"PONG")?,
        Reply::Key(key) => {
            out.write_all(b"KEY ")?;
            write_text(out, key)?;
        }
        Reply::Ack(level) => write!(out, "ACK {level}")?,
        Reply::Digest { sum, keys } => write!(out, "DIGEST {sum:016x} {keys}")?,
        Reply::Line(line) => out.write_all(line.as_bytes())?,
        Reply::End => out.write_all(b"END")?,
        Reply::Error { code, sentence } => write!(out, "ERROR {code} {sentence}")?,
    }
    out.write_all(b"\n")
}

/// Appends a command with its line end, quoted where needed: what [`parse`](super::parse) makes of it is equal.
pub fn encode_command(command: &Command<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write_command(out, command);
}

fn write_command(out: &mut Vec<u8>, command: &Command<'_>) -> io::Result<()> {
    let key_after = |out: &mut Vec<u8>, verb: &[u8], key: &[u8]| {
        out.write_all(verb)?;
        write_word(out, key)
    };
    match command {
        Command::Get { key } => key_after(out, b"GET ", key)?,
        Command::Exists { key } => key_after(out, b"EXISTS ", key)?,
        Command::Write { key, write } => {
            let (verb, value) = match write {
                Write::Set(value) => (&b"SET "[..], Some(value)),
                Write::Update(value) => (&b"UPD "[..], Some(value)),
                Write::Put(value) => (&b"PUT "[..], Some(value)),
                Write::Delete => (&b"DEL "[..], None),
            };
            key_after(out, verb, key)?;
            if let Some(value) = value {
                out.write_all(b" ")?;
                write_text(out, value)?;
            }
        }
        Command::Keys { prefix, limit } => {
            key_after(out, b"KEYS ", prefix)?;
            if let Some(limit) = limit {
                write!(out, " {limit}")?;
            }
        }
        Command::Count => out.write_all(b"COUNT")?,
        Command::Ack { level: None } => out.write_all(b"ACK")?,
        Command::Ack { level: Some(level) } => write!(out, "ACK {level}")?,
        Command::Status => out.write_all(b"STATUS")?,
        Command::Peers => out.write_all(b"PEERS")?,
        Command::Digest => out.write_all(b"DIGEST")?,
        Command::Dump => out.write_all(b"DUMP")?,
        Command::Ping => out.write_all(b"PING")?,
        Command::Help { verb: None } => out.write_all(b"HELP")?,
        Command::Help { verb: Some(verb) } => key_after(out, b"HELP ", verb.as_bytes())?,
        Command::Quit => out.write_all(b"QUIT")?,
    }
    out.write_all(b"\n")
}

/// One line of a reply as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok,
    Value(Value),
    Integer(u64),
    Pong,
    Key(Vec<u8>),
    Ack(AckLevel),
    Digest {
        sum: u64,
        keys: u64,
    },
    /// A line of a long answer, and whatever else this client does not know.
    Line(String),
    End,
    Error {
        code: ErrorCode,
        sentence: String,
    },
}

/// Reads one line of a reply, without its line end. The error says what is wrong with it: then this is no kvmesh node.
///
/// What a line means also depends on the command: the lines of STATUS, PEERS, HELP and DUMP are text and never look like another reply but
/// [`Answer::End`].
pub fn parse_answer(line: &[u8]) -> Result<Answer, String> {
    let (word, rest) = line.split_at(memchr(b' ', line).unwrap_or(line.len()));
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let text = std::str::from_utf8(rest).unwrap_or_default();
    let malformed = || format!("{} is no reply of a kvmesh node", shown(line));
    Ok(match (word, rest) {
        (b"OK", []) => Answer::Ok,
        (b"PONG", []) => Answer::Pong,
        (b"END", []) => Answer::End,
        (b"VALUE", text) => Answer::Value(unquote(text)?.into()),
        (b"KEY", text) => Answer::Key(unquote(text)?.into_owned()),
        (b"ACK", _) => Answer::Ack(text.parse()?),
        (b"DIGEST", _) => {
            let (sum, keys) = text.split_once(' ').ok_or_else(malformed)?;
            let sum = u64::from_str_radix(sum, 16).map_err(|_| malformed())?;
            Answer::Digest { sum, keys: keys.parse().map_err(|_| malformed())? }
        }
        (b"ERROR", _) => {
            let (code, sentence) = text.split_once(' ').ok_or_else(malformed)?;
            let code = ERROR_CODES.into_iter().find(|known| known.to_string() == code).ok_or_else(malformed)?;
            Answer::Error { code, sentence: sentence.to_owned() }
        }
        (digits, []) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            Answer::Integer(number.ok_or_else(malformed)?)
        }
        _ => Answer::Line(String::from_utf8(line.to_vec()).map_err(|_| malformed())?),
    })
}

pub(super) const ERROR_CODES: [ErrorCode; 10] = [
    ErrorCode::Syntax,
    ErrorCode::Unknown,
    ErrorCode::Exists,
    ErrorCode::NotFound,
    ErrorCode::TooBig,
    ErrorCode::Full,
    ErrorCode::NoQuorum,
    ErrorCode::Timeout,
    ErrorCode::Loading,
    ErrorCode::Busy,
];
