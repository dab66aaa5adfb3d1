//! The words behind a verb, taken one by one.

use std::borrow::Cow;
use std::str::FromStr;

use memchr::memchr;

use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::{Command, Only, Read, Request, Write};
use crate::wire::quoting::{shown, split_quoted, unquote};
use crate::wire::reply::{ErrorCode, Wrong};

/// The words of a line that are left.
pub(super) struct Words<'a, 'l> {
    /// The verb, as errors name it.
    pub name: &'static str,
    /// The verb with its words, as SYNTAX errors show it.
    pub usage: &'static str,
    pub rest: &'a [u8],
    pub limits: &'l Limits,
    /// Reads the wall clock, in milliseconds since 1970. Called only where something is to expire.
    pub now_ms: &'l dyn Fn() -> u64,
}

impl<'a> Words<'a, '_> {
    /// The next word, bare or quoted; what follows it stays, the space in between included.
    pub fn next(&mut self) -> Result<Option<Cow<'a, [u8]>>, Wrong> {
        let rest = trim_start(self.rest);
        let (word, rest) = match rest.first() {
            None => return Ok(None),
            Some(b'"') => split_quoted(rest).map_err(|wrong| self.syntax(wrong))?,
            Some(_) => {
                let (word, rest) = split_word(rest);
                (Cow::Borrowed(word), rest)
            }
        };
        if rest.first().is_some_and(|byte| *byte != b' ') {
            let wrong = format!("{} follows the closing quote; a space must (a quote inside is written \\\")", shown(rest));
            return Err(self.syntax(wrong));
        }
        self.rest = rest;
        Ok(Some(word))
    }

    pub fn key(&mut self) -> Result<Cow<'a, [u8]>, Wrong> {
        let Some(key) = self.next()? else {
            return Err(self.syntax(format!("{} needs a key (the empty one is \"\")", self.name)));
        };
        if key.len() > self.limits.key_len_max {
            return Err(Wrong::too_big("key", key.len(), self.limits.key_len_max));
        }
        Ok(key)
    }

    pub fn keys(&mut self) -> Result<Vec<Bytes<'a>>, Wrong> {
        let mut keys = vec![self.key()?];
        while !trim_start(self.rest).is_empty() {
            keys.push(self.key()?);
        }
        Ok(keys)
    }

    /// A read of the key that comes next.
    pub fn read(&mut self, read: impl Into<Read>) -> Result<Request<'a>, Wrong> {
        Ok(Request::Command(Command::read(self.key()?, read)))
    }

    /// A write to the key that comes next.
    pub fn write(&mut self, write: impl Into<Write<'a>>) -> Result<Request<'a>, Wrong> {
        Ok(Request::Command(Command::write(self.key()?, write)))
    }

    /// A write of a value: a key, one space, and the rest of the line or one quoted string.
    pub fn set(&mut self, only: Only) -> Result<Request<'a>, Wrong> {
        let key = self.key()?;
        let rest = self.rest.strip_prefix(b" ").unwrap_or_default();
        if rest.is_empty() {
            let wrong = format!("{} needs a value after the key (the empty one is \"\")", self.name);
            return Err(self.syntax(wrong));
        }
        let value = unquote(rest).map_err(|wrong| self.syntax(wrong))?;
        if value.len() > self.limits.value_len_max {
            return Err(Wrong::too_big("value", value.len(), self.limits.value_len_max));
        }
        self.rest = &[];
        Ok(Request::Command(Command::set(key, value, only)))
    }

    pub fn number(&mut self) -> Result<Option<i64>, Wrong> {
        self.parsed("integer; expected one between -9223372036854775808 and 9223372036854775807")
    }

    pub fn time(&mut self) -> Result<Option<u64>, Wrong> {
        self.parsed("time; expected milliseconds since 1970")
    }

    pub fn parsed<T: FromStr>(&mut self, what: &str) -> Result<Option<T>, Wrong> {
        let Some(word) = self.next()? else { return Ok(None) };
        let parsed = std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok());
        parsed.map(Some).ok_or_else(|| self.syntax(format!("{} is no {what}", shown(&word))))
    }

    #[inline]
    pub fn end(&self) -> Result<(), Wrong> {
        match trim_start(self.rest) {
            [] => Ok(()),
            rest => {
                let wrong = format!("{} is too much after {} (a key with spaces is quoted)", shown(rest), self.name);
                Err(self.syntax(wrong))
            }
        }
    }

    pub fn syntax(&self, wrong: impl AsRef<str>) -> Wrong {
        Wrong::new(ErrorCode::Syntax, format!("{}; usage: {}", wrong.as_ref(), self.usage))
    }
}

/// Splits a line into what is before the first space and the rest, which begins with it.
pub(super) fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(memchr(b' ', line).unwrap_or(line.len()))
}

pub(super) fn trim_start(mut line: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = line {
        line = rest;
    }
    line
}
