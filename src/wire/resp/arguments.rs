//! The words of a RESP request, taken by index, and what Redis says where they are wrong.
//!
//! Knows no command and executes nothing. The clock is asked only where an expiry that was given
//! from now on becomes a time.

use std::borrow::Cow;

use crate::wire::bytes::{Bytes, Limits};
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::Words;
use crate::wire::resp::request::integer;

/// The most names or numbers in one request about commands, settings or clients; with more it is
/// refused.
const FEW_MAX: usize = 1024;

/// A request whose command is known and that has as many words as it takes.
pub struct Arguments<'a, 's> {
    /// The name of the command, as errors show it.
    pub name: &'static str,
    pub words: Words<'a, 's>,
    pub limits: &'s Limits,
    /// Reads the wall clock, in milliseconds since 1970.
    pub now_ms: &'s dyn Fn() -> i64,
}

impl<'a> Arguments<'a, '_> {
    /// The number of words, that of the command included.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The word at an index; that of the command is at 0. Empty if there is none, which the arity
    /// rules out.
    pub fn word(&self, index: usize) -> &'a [u8] {
        debug_assert!(index < self.len(), "{} has no word {index}", self.name);
        self.words.get(index).unwrap_or_default()
    }

    /// The words from an index on.
    pub fn rest(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + use<'a, '_> {
        self.words.iter().skip(index)
    }

    /// The words from an index on, where each is answered by much more than itself.
    pub fn few(&self, index: usize) -> Result<impl Iterator<Item = &'a [u8]> + use<'a, '_>, Wrong> {
        let len = self.len().saturating_sub(index);
        if len > FEW_MAX {
            return Err(Wrong::new(ErrorCode::TooBig, format!("{len} names are too many; at most {FEW_MAX} are allowed in one request")));
        }
        Ok(self.rest(index))
    }

    /// A word that is data, of any length.
    pub fn data(&self, index: usize) -> Bytes<'a> {
        Cow::Borrowed(self.word(index))
    }

    pub fn key(&self, index: usize) -> Result<Bytes<'a>, Wrong> {
        self.as_key(self.word(index))
    }

    /// All words behind that of the command.
    pub fn keys(&self) -> Result<Vec<Bytes<'a>>, Wrong> {
        let mut keys = Vec::with_capacity(self.len().saturating_sub(1));
        for word in self.rest(1) {
            keys.push(self.as_key(word)?);
        }
        Ok(keys)
    }

    pub fn value(&self, index: usize) -> Result<Bytes<'a>, Wrong> {
        self.as_value(self.word(index))
    }

    pub fn as_key(&self, word: &'a [u8]) -> Result<Bytes<'a>, Wrong> {
        within("key", word, self.limits.key_len_max)
    }

    pub fn as_value(&self, word: &'a [u8]) -> Result<Bytes<'a>, Wrong> {
        within("value", word, self.limits.value_len_max)
    }

    pub fn integer(&self, index: usize) -> Result<i64, Wrong> {
        integer(self.word(index)).ok_or_else(not_integer)
    }

    pub fn wrong_arity(&self) -> Wrong {
        wrong_arity(self.name)
    }
}

/// A word of at most `len_max` bytes, or what is wrong with this `what`.
pub fn within<'a>(what: &str, word: &'a [u8], len_max: usize) -> Result<Bytes<'a>, Wrong> {
    if word.len() > len_max { Err(Wrong::too_big(what, word.len(), len_max)) } else { Ok(Cow::Borrowed(word)) }
}

/// Returns true if a word is this option, in upper or lower case. Redis compares up to the first
/// zero byte, and so does this.
pub fn is(word: &[u8], option: &str) -> bool {
    word.get(..option.len()).is_some_and(|head| head.eq_ignore_ascii_case(option.as_bytes()))
        && matches!(word.get(option.len()), None | Some(0))
}

/// A word inside an error, as Redis shows it: up to the first zero byte. Bytes that are no UTF-8
/// cannot be kept, errors being text.
pub fn shown(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(up_to_zero(word))
}

/// A word up to its first zero byte, which ends it in Redis.
pub fn up_to_zero(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A word that is compared with ours, which are all in lower case.
pub fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

pub fn wrong_arity(name: &str) -> Wrong {
    Wrong::new(ErrorCode::Syntax, format!("wrong number of arguments for '{name}' command"))
}

pub fn syntax() -> Wrong {
    Wrong::new(ErrorCode::Syntax, "syntax error")
}

pub fn not_integer() -> Wrong {
    Wrong::new(ErrorCode::NotNumber, "value is not an integer or out of range")
}

/// An error without a code of its own. Words of clients may be in the sentence.
pub fn wrong(sentence: impl AsRef<str>) -> Wrong {
    Wrong::new(ErrorCode::Err, one_line(sentence.as_ref().trim_matches(['\r', '\n'])))
}

/// A sentence without line ends: an error is one line of the protocol.
pub fn one_line(sentence: &str) -> String {
    sentence.replace(['\r', '\n'], " ")
}
