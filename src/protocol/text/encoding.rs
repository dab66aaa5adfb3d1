//! The text protocol as it is written: replies by a server, commands by a client. What a client reads is client.rs's.

use std::io::{self, Write as _};

use crate::protocol::command::{Command, Reply, Write};
use crate::protocol::quoting::{write_text, write_word};

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
        Command::Restore => out.write_all(b"RESTORE")?,
        Command::Compact => out.write_all(b"COMPACT")?,
        Command::Resume => out.write_all(b"RESUME")?,
        Command::Ping => out.write_all(b"PING")?,
        Command::Help { verb: None } => out.write_all(b"HELP")?,
        Command::Help { verb: Some(verb) } => key_after(out, b"HELP ", verb.as_bytes())?,
        Command::Quit => out.write_all(b"QUIT")?,
    }
    out.write_all(b"\n")
}
