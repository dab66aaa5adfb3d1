//! The text protocol of clients: a line a command, readable with telnet.
//!
//! Parsing takes what a session has read and returns commands that borrow from it; it knows nothing of sockets or of what a command does.
//! What is written is in encoding.rs: [`encode_reply`] and [`encode_command`].

mod encoding;

use std::borrow::Cow;

use memchr::memchr;

use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Action, Command, ExpireOnly, ExpiryUnit, Only, Several};
use crate::wire::help::{Help, Verb};
use crate::wire::quoting::{shown, split_quoted, unquote};
use crate::wire::reply::{ErrorCode, Wrong};

use encoding::ends_in_http;
pub use encoding::{encode_command, encode_reply, write_reply};

/// What a line may hold beside its key and value; also the longest line that no verb begins.
const LINE_LEN_MIN: usize = 1024;

/// The longest line: every byte of key and value may be escaped as four.
pub fn line_len_max(limits: &Limits) -> usize {
    LINE_LEN_MIN.saturating_add(written_len_max(limits.key_len_max, true)).saturating_add(written_len_max(limits.value_len_max, true))
}

/// How long a text of so many bytes can be when it is written: in quotes, every byte may be escaped as four.
fn written_len_max(len_max: usize, is_quoted: bool) -> usize {
    if is_quoted { len_max.saturating_mul(4) } else { len_max }
}

/// What the beginning of a read buffer holds. `consumed` bytes of it are done with then.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Part of a line; its first `scanned` bytes hold no line end and need not be looked at again.
    Incomplete {
        scanned: usize,
    },
    Empty {
        consumed: usize,
    },
    Command {
        command: Command<'a>,
        consumed: usize,
    },
    /// Not a command: to be answered, and the next line may be one.
    Wrong {
        wrong: Wrong,
        consumed: usize,
    },
    /// Where the next command begins cannot be known, or this is no client of ours: to be answered, and the connection closed.
    Fatal {
        wrong: Wrong,
    },
}

fn syntax(help: &Help, wrong: impl AsRef<str>) -> Wrong {
    Wrong::new(ErrorCode::Syntax, format!("{}; usage: {}", wrong.as_ref(), help.usage))
}

/// Looks at the first line of `buffer`, of which `scanned` bytes are known to hold no line end. `now_ms` is asked where something is to expire.
pub fn parse<'a>(buffer: &'a [u8], scanned: usize, limits: &Limits, now_ms: impl Fn() -> u64) -> Parsed<'a> {
    let Some(first) = buffer.first() else { return Parsed::Incomplete { scanned: 0 } };
    if is_binary(*first) {
        return Parsed::Fatal { wrong: no_command(buffer) };
    }
    let scanned = scanned.min(buffer.len());
    let Some(end) = memchr(b'\n', &buffer[scanned..]).map(|at| scanned + at) else {
        // A peer that has come to this port is told at once, and not when it has waited in vain.
        if begins_binary(buffer) {
            return Parsed::Fatal { wrong: no_command(buffer) };
        }
        // The last byte may be the `\r` of a line end.
        return match check_line_len(buffer, buffer.len() - 1, limits) {
            Ok(()) => Parsed::Incomplete { scanned: buffer.len() },
            Err(wrong) => Parsed::Fatal { wrong },
        };
    };
    let consumed = end + 1;
    let line = &buffer[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Err(wrong) = check_line_len(line, line.len(), limits) {
        return Parsed::Fatal { wrong };
    }
    let line = trim_start(line);
    if line.is_empty() {
        return Parsed::Empty { consumed };
    }
    if ends_in_http(line) {
        return Parsed::Fatal { wrong: http() };
    }
    match parse_line(line, limits, now_ms) {
        Ok(command) => Parsed::Command { command, consumed },
        Err(_) if begins_binary(&buffer[..end]) => Parsed::Fatal { wrong: no_command(line) },
        Err(wrong) => match foreign(line, &wrong) {
            Some(wrong) => Parsed::Fatal { wrong },
            None => Parsed::Wrong { wrong, consumed },
        },
    }
}

/// Checks a line, or the beginning of one, of which `len` bytes count. How long it may be depends on its verb and on whether key and value
/// begin with a quote, so that only who sends a value, escaped, can make a session hold the memory for one.
fn check_line_len(line: &[u8], len: usize, limits: &Limits) -> Result<(), Wrong> {
    if len <= LINE_LEN_MIN { Ok(()) } else { check_long_line(line, len, limits) }
}

#[cold]
fn check_long_line(line: &[u8], len: usize, limits: &Limits) -> Result<(), Wrong> {
    let (word, rest) = split_word(trim_start(line));
    let Some(verb) = Verb::parse(word) else { return Err(no_command(line)) };
    let rest = trim_start(rest);
    let is_key_quoted = rest.first() == Some(&b'"');
    let mut max = LINE_LEN_MIN.saturating_add(written_len_max(limits.key_len_max, is_key_quoted));
    let mut limit = ("key_len_max", limits.key_len_max);
    if takes_value(verb) {
        // Up to here it is a legal line however it goes on; and the key, which may be long, is not read again for every piece that arrives.
        if len <= max.saturating_add(limits.value_len_max) {
            return Ok(());
        }
        if let Some(first) = value_begin(rest) {
            max = max.saturating_add(written_len_max(limits.value_len_max, first == b'"'));
            limit = ("value_len_max", limits.value_len_max);
        }
    }
    if len <= max {
        return Ok(());
    }
    let (name, (limit, len_max)) = (verb.help().name, limit);
    let sentence =
        format!("the line is longer than the {max} bytes that this {name} can need: {limit} is {len_max}; this connection is closed");
    Err(Wrong::new(ErrorCode::TooBig, sentence))
}

/// The first byte of the value in what follows the verb, if the line is so far and the key is well-formed.
fn value_begin(rest: &[u8]) -> Option<u8> {
    let (_, rest) = if rest.first() == Some(&b'"') { split_quoted(rest).ok()? } else { (Cow::Borrowed(&[][..]), split_word(rest).1) };
    rest.strip_prefix(b" ")?.first().copied()
}

fn parse_line<'a>(line: &'a [u8], limits: &Limits, now_ms: impl Fn() -> u64) -> Result<Command<'a>, Wrong> {
    let (word, rest) = split_word(line);
    let Some(verb) = Verb::parse(word) else {
        return Err(Wrong::new(ErrorCode::Unknown, format!("{} is no command; HELP lists them", shown(word))));
    };
    let mut words = Words { help: verb.help(), rest, limits };
    let command = match verb {
        Verb::Set => words.write(Only::IfAbsent)?,
        Verb::Upd => words.write(Only::IfPresent)?,
        Verb::Put => words.write(Only::Always)?,
        Verb::Del => words.one(Action::Delete { strict: true })?,
        Verb::Get => words.one(Action::Get)?,
        Verb::Mget => Command::Several(Several::Get(words.keys()?)),
        Verb::Exists => words.one(Action::Exists)?,
        Verb::Incr => Command::One { key: words.key()?, action: Action::Add { by: words.number()?.unwrap_or(1) } },
        Verb::Expire => {
            let key = words.key()?;
            let seconds = words.number()?.ok_or_else(|| syntax(words.help, "EXPIRE needs a number of seconds after the key"))?;
            let at = seconds.checked_mul(1000).and_then(|ms| ms.checked_add_unsigned(now_ms()));
            let at = at.ok_or_else(|| syntax(words.help, format!("{seconds} seconds are further away than any clock counts")))?;
            Command::One { key, action: Action::Expire { at, only: ExpireOnly::default() } }
        }
        Verb::Ttl => words.one(Action::Expiry(ExpiryUnit { absolute: false, milliseconds: false }))?,
        Verb::Persist => words.one(Action::Persist)?,
        Verb::Keys => Command::Keys { prefix: words.next()?.unwrap_or_default(), limit: words.parsed("limit; expected a number")? },
        Verb::Count => Command::Count,
        Verb::Ack => Command::Ack { level: words.parsed("ack level; expected local, majority or all")? },
        Verb::Status => Command::Status,
        Verb::Peers => Command::Peers,
        Verb::Digest => Command::Digest { before: words.time()? },
        Verb::Dump => Command::Dump,
        Verb::Restore => Command::Restore,
        Verb::Compact => Command::Compact,
        Verb::Resume => Command::Resume,
        Verb::Ping => Command::Ping { message: None },
        Verb::Help => Command::Help { verb: words.next()?.map(|verb| String::from_utf8_lossy(&verb).into_owned()) },
        Verb::Quit => Command::Quit,
    };
    words.end()?;
    Ok(command)
}

/// The rest of a line, taken word by word.
struct Words<'a, 'l> {
    help: &'static Help,
    rest: &'a [u8],
    limits: &'l Limits,
}

impl<'a> Words<'a, '_> {
    /// The next word, bare or quoted; what follows it stays, the space in between included.
    fn next(&mut self) -> Result<Option<Cow<'a, [u8]>>, Wrong> {
        let rest = trim_start(self.rest);
        let (word, rest) = match rest.first() {
            None => return Ok(None),
            Some(b'"') => split_quoted(rest).map_err(|wrong| syntax(self.help, wrong))?,
            Some(_) => {
                let (word, rest) = split_word(rest);
                (Cow::Borrowed(word), rest)
            }
        };
        if rest.first().is_some_and(|byte| *byte != b' ') {
            let wrong = format!("{} follows the closing quote; a space must (a quote inside is written \\\")", shown(rest));
            return Err(syntax(self.help, wrong));
        }
        self.rest = rest;
        Ok(Some(word))
    }

    fn key(&mut self) -> Result<Cow<'a, [u8]>, Wrong> {
        let Some(key) = self.next()? else {
            return Err(syntax(self.help, format!("{} needs a key (the empty one is \"\")", self.help.name)));
        };
        if key.len() > self.limits.key_len_max {
            let sentence = format!("the key has {} bytes; at most {} are allowed", key.len(), self.limits.key_len_max);
            return Err(Wrong::new(ErrorCode::TooBig, sentence));
        }
        Ok(key)
    }

    fn keys(&mut self) -> Result<Vec<Bytes<'a>>, Wrong> {
        let mut keys = vec![self.key()?];
        while !trim_start(self.rest).is_empty() {
            keys.push(self.key()?);
        }
        Ok(keys)
    }

    fn one(&mut self, action: Action<'a>) -> Result<Command<'a>, Wrong> {
        Ok(Command::One { key: self.key()?, action })
    }

    /// A key, one space, and the rest of the line or one quoted string.
    fn write(&mut self, only: Only) -> Result<Command<'a>, Wrong> {
        let key = self.key()?;
        let rest = self.rest.strip_prefix(b" ").unwrap_or_default();
        if rest.is_empty() {
            let wrong = format!("{} needs a value after the key (the empty one is \"\")", self.help.name);
            return Err(syntax(self.help, wrong));
        }
        let value = unquote(rest).map_err(|wrong| syntax(self.help, wrong))?;
        if value.len() > self.limits.value_len_max {
            let sentence = format!("the value has {} bytes; at most {} are allowed", value.len(), self.limits.value_len_max);
            return Err(Wrong::new(ErrorCode::TooBig, sentence));
        }
        self.rest = &[];
        Ok(Command::set(key, value, only))
    }

    fn number(&mut self) -> Result<Option<i64>, Wrong> {
        self.parsed("integer; expected one between -9223372036854775808 and 9223372036854775807")
    }

    fn time(&mut self) -> Result<Option<u64>, Wrong> {
        self.parsed("time; expected milliseconds since 1970")
    }

    fn parsed<T: std::str::FromStr>(&mut self, what: &str) -> Result<Option<T>, Wrong> {
        let Some(word) = self.next()? else { return Ok(None) };
        let parsed = std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok());
        parsed.map(Some).ok_or_else(|| syntax(self.help, format!("{} is no {what}", shown(&word))))
    }

    #[inline]
    fn end(&self) -> Result<(), Wrong> {
        match trim_start(self.rest) {
            [] => Ok(()),
            rest => {
                let wrong = format!("{} is too much after {} (a key with spaces is quoted)", shown(rest), self.help.name);
                Err(syntax(self.help, wrong))
            }
        }
    }
}

/// Up to the first space, and what begins with it.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(memchr(b' ', line).unwrap_or(line.len()))
}

fn trim_start(mut line: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = line {
        line = rest;
    }
    line
}

/// No verb, and no sensible slip of one, begins like this: a TLS hello does, and so does telnet's answer to an interrupt.
fn is_binary(byte: u8) -> bool {
    !matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')
}

/// Whether one of the first three bytes is no text, as in every HELLO of a peer. All verbs are as long.
fn begins_binary(line: &[u8]) -> bool {
    line.iter().take(3).any(|byte| is_binary(*byte))
}

/// A line that was refused and whose sender speaks something else: reading on would give an error for every line of it.
fn foreign(line: &[u8], wrong: &Wrong) -> Option<Wrong> {
    const HOST: &[u8] = b"host:";
    if line.get(..HOST.len()).is_some_and(|word| word.eq_ignore_ascii_case(HOST)) {
        return Some(http());
    }
    let binary_verb = wrong.code == ErrorCode::Unknown && split_word(line).0.iter().any(|byte| is_binary(*byte));
    binary_verb.then(|| no_command(line))
}

fn http() -> Wrong {
    let sentence = "this is not an HTTP port; closing; a key or a value that ends its line with HTTP/1.1 must be in double quotes";
    Wrong::new(ErrorCode::Unknown, sentence)
}

fn no_command(bytes: &[u8]) -> Wrong {
    let bytes = bytes.get(..32).unwrap_or(bytes);
    let sentence = format!("what begins with {} is no command of this text protocol; HELP lists them; closing", shown(bytes));
    Wrong::new(ErrorCode::Unknown, sentence)
}

fn takes_value(verb: Verb) -> bool {
    matches!(verb, Verb::Set | Verb::Upd | Verb::Put)
}

#[cfg(test)]
mod tests;
