//! The text protocol as it is written: replies by a server, commands by a client. What a client reads is client.rs's.

use std::io::{self, Write as _};

use crate::wire::command::{Action, Command, Only, Several};
use crate::wire::quoting::{shown, write_line, write_quoted, write_text, write_word};
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

/// Appends a command with its line end, quoted where needed: what [`parse`](super::parse) makes of it is equal. For those that the text protocol has; it panics at any
/// other one.
pub fn encode_command(command: &Command<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write_command(out, command);
}

fn write_command(out: &mut Vec<u8>, command: &Command<'_>) -> io::Result<()> {
    let key_after = |out: &mut Vec<u8>, verb: &[u8], key: &[u8]| {
        out.write_all(verb)?;
        if is_http(key) { write_quoted(out, key) } else { write_word(out, key) }
    };
    match command {
        Command::One { key, action } => {
            let (verb, value) = match action {
                Action::Get => (&b"GET "[..], None),
                Action::Exists => (&b"EXISTS "[..], None),
                Action::Set(set) => (verb_of(set.only), Some(&set.value)),
                Action::Delete { .. } => (&b"DEL "[..], None),
                Action::Add { by } => {
                    key_after(out, b"INCR ", key)?;
                    write!(out, " {by}")?;
                    return out.write_all(b"\n");
                }
                Action::Expiry(_) => (&b"TTL "[..], None),
                Action::Persist => (&b"PERSIST "[..], None),
                other => panic!("the text protocol has no verb for {other:?}"),
            };
            key_after(out, verb, key)?;
            if let Some(value) = value {
                out.write_all(b" ")?;
                if is_http(value) { write_quoted(out, value)? } else { write_text(out, value)? }
            }
        }
        Command::Several(Several::Get(keys)) => {
            out.write_all(b"MGET")?;
            keys.iter().try_for_each(|key| key_after(out, b" ", key))?;
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
        Command::Digest { before: None } => out.write_all(b"DIGEST")?,
        Command::Digest { before: Some(time) } => write!(out, "DIGEST {time}")?,
        Command::Dump => out.write_all(b"DUMP")?,
        Command::Restore => out.write_all(b"RESTORE")?,
        Command::Compact => out.write_all(b"COMPACT")?,
        Command::Resume => out.write_all(b"RESUME")?,
        Command::Ping { .. } => out.write_all(b"PING")?,
        Command::Help { verb: None } => out.write_all(b"HELP")?,
        Command::Help { verb: Some(verb) } => key_after(out, b"HELP ", verb.as_bytes())?,
        Command::Quit => out.write_all(b"QUIT")?,
        other => panic!("the text protocol has no verb for {other:?}"),
    }
    out.write_all(b"\n")
}

/// Whether a line that ends with these bytes would be taken for HTTP.
fn is_http(bytes: &[u8]) -> bool {
    const VERSION_LEN: usize = b"HTTP/1.1".len();
    ends_in_http(bytes) || bytes.len() == VERSION_LEN && ends_in_http(&[b" ", bytes].concat())
}

/// Whether a line ends as the first line of an HTTP request does. That may read like a command, and the lines behind it, which a browser was tricked into posting, too. So no line
/// that ends like this is executed, and what legally ends like this is written in quotes.
pub(super) fn ends_in_http(line: &[u8]) -> bool {
    matches!(line, [.., b'.', b'0'..=b'9'])
        && matches!(line, [.., b' ', b'H', b'T', b'T', b'P', b'/', major, _, _] if major.is_ascii_digit())
}

fn verb_of(only: Only) -> &'static [u8] {
    match only {
        Only::IfAbsent => b"SET ",
        Only::IfPresent => b"UPD ",
        Only::Always => b"PUT ",
    }
}
