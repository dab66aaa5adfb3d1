//! From the words of a RESP request to the typed command, with Redis's meaning; what is wrong with them is said in Redis's words.
//!
//! Knows no connection and executes nothing. What only execution can judge (whether a value is a number, whether a key is there) is left to
//! it; the clock is asked only where an expiry that was given from now on is made a time.

mod connection;
mod expiry;
mod keys;
mod server;
mod strings;

use std::borrow::Cow;

use crate::wire::bytes::{Bytes, Limits};
use crate::wire::command::Command;
use crate::wire::reply::{ErrorCode, Wrong};
use crate::wire::resp::Words;
use crate::wire::resp::catalogue::{self, Spec, Verb};
use crate::wire::resp::refused;
use crate::wire::resp::request::integer;

/// The command that a request asks for. `now_ms`: milliseconds since 1970.
pub fn command<'a>(words: Words<'a, '_>, limits: &Limits, now_ms: impl Fn() -> i64) -> Result<Command<'a>, Wrong> {
    checked(check(words)?, words, limits, now_ms)
}

/// The same where `spec` is known to be what [`check`] says of these words.
pub fn checked<'a>(spec: &'static Spec, words: Words<'a, '_>, limits: &Limits, now_ms: impl Fn() -> i64) -> Result<Command<'a>, Wrong> {
    dispatch(&Call { spec, words, limits, now_ms: &now_ms })
}

/// Whether there is such a command, and with so many words. Redis looks at nothing else before it queues a command in MULTI: what fails here
/// aborts the transaction; any other error of [`command`] is queued, and is this command's reply to EXEC.
#[inline]
pub fn check(words: Words<'_, '_>) -> Result<&'static Spec, Wrong> {
    let name = words.get(0).unwrap_or_default();
    let Some(mut spec) = catalogue::lookup(name) else { return Err(no_command(name, words)) };
    if let Some(word) = words.get(1)
        && spec.has_subcommands()
    {
        spec = spec.subcommand(word).ok_or_else(|| no_subcommand(spec, word))?;
    }
    match spec.verb {
        _ if spec.takes(words.len()) => Ok(spec),
        // The transaction ends even so.
        Verb::Exec => Err(Wrong::new(ErrorCode::ExecAbort, format!("Transaction discarded because of: {}", wrong_arity(spec).sentence))),
        _ => Err(wrong_arity(spec)),
    }
}

fn dispatch<'a>(call: &Call<'a, '_>) -> Result<Command<'a>, Wrong> {
    match call.spec.verb {
        Verb::Get => strings::get(call),
        Verb::Set => strings::set(call),
        Verb::SetNx => strings::setnx(call),
        Verb::SetEx => strings::setex(call, expiry::Unit::Seconds),
        Verb::PSetEx => strings::setex(call, expiry::Unit::Milliseconds),
        Verb::GetSet => strings::getset(call),
        Verb::GetDel => strings::getdel(call),
        Verb::GetEx => strings::getex(call),
        Verb::MGet => strings::mget(call),
        Verb::MSet => strings::mset(call, false),
        Verb::MSetNx => strings::mset(call, true),
        Verb::Append => strings::append(call),
        Verb::StrLen => strings::strlen(call),
        Verb::GetRange | Verb::SubStr => strings::getrange(call),
        Verb::SetRange => strings::setrange(call),
        Verb::Incr => strings::add(call, 1),
        Verb::Decr => strings::add(call, -1),
        Verb::IncrBy => strings::incrby(call),
        Verb::DecrBy => strings::decrby(call),
        Verb::IncrByFloat => strings::incrbyfloat(call),
        Verb::Upd => strings::upd(call),
        Verb::Put => strings::put(call),

        Verb::Expire => expiry::expire(call, expiry::Unit::Seconds, expiry::Since::Now),
        Verb::PExpire => expiry::expire(call, expiry::Unit::Milliseconds, expiry::Since::Now),
        Verb::ExpireAt => expiry::expire(call, expiry::Unit::Seconds, expiry::Since::Epoch),
        Verb::PExpireAt => expiry::expire(call, expiry::Unit::Milliseconds, expiry::Since::Epoch),
        Verb::Ttl => expiry::ttl(call, expiry::Unit::Seconds, expiry::Since::Now),
        Verb::PTtl => expiry::ttl(call, expiry::Unit::Milliseconds, expiry::Since::Now),
        Verb::ExpireTime => expiry::ttl(call, expiry::Unit::Seconds, expiry::Since::Epoch),
        Verb::PExpireTime => expiry::ttl(call, expiry::Unit::Milliseconds, expiry::Since::Epoch),
        Verb::Persist => expiry::persist(call),

        Verb::Del | Verb::Unlink => keys::del(call),
        Verb::Exists | Verb::Touch => keys::exists(call),
        Verb::Type => keys::type_of(call),
        Verb::Rename => keys::rename(call, false),
        Verb::RenameNx => keys::rename(call, true),
        Verb::RandomKey => Ok(Command::RandomKey),
        Verb::Keys => keys::matching(call),
        Verb::Scan => keys::scan(call),
        Verb::DbSize => Ok(Command::Count),
        Verb::FlushDb | Verb::FlushAll => keys::flush(call),
        Verb::ObjectEncoding => keys::encoding(call),
        Verb::MemoryUsage => keys::usage(call),
        Verb::Digest => Ok(Command::Digest { before: None }),

        Verb::Ping => connection::ping(call),
        Verb::Echo => Ok(Command::Echo { message: call.data(1) }),
        Verb::Quit => Ok(Command::Quit),
        Verb::Reset => Ok(Command::Reset),
        Verb::Select => connection::select(call),
        Verb::Auth => connection::auth(call),
        Verb::Hello => connection::hello(call),
        Verb::ClientId => connection::client_id(call),
        Verb::ClientGetName => connection::client_getname(call),
        Verb::ClientSetName => connection::client_setname(call),
        Verb::ClientSetInfo => connection::client_setinfo(call),
        Verb::ClientList => connection::client_list(call),
        Verb::ClientInfo => connection::client_info(call),
        Verb::ClientKill => connection::client_kill(call),
        Verb::ClientNoEvict => connection::client_no_evict(call),
        Verb::ClientNoTouch => connection::client_no_touch(call),
        Verb::Multi => Ok(Command::Multi),
        Verb::Exec => Ok(Command::Exec),
        Verb::Discard => Ok(Command::Discard),
        Verb::Watch => Ok(Command::Watch { keys: call.keys()? }),
        Verb::Unwatch => Ok(Command::Unwatch),

        Verb::Command => Ok(server::all_commands()),
        Verb::CommandCount => Ok(server::command_count()),
        Verb::CommandList => server::command_list(call),
        Verb::CommandInfo => server::command_info(call),
        Verb::CommandDocs => server::command_docs(call),
        Verb::ConfigGet => server::config_get(call),
        Verb::DebugSleep => server::debug_sleep(call),
        Verb::Info => server::info(call),
        Verb::Role => Ok(Command::Role),
        Verb::Time => Ok(Command::Time),
        Verb::Lolwut => server::lolwut(call),
        Verb::Wait => server::wait(call),
        Verb::WaitAof => server::waitaof(call),
        Verb::Ack => server::ack(call),
        Verb::Status => Ok(Command::Status),
        Verb::Peers => Ok(Command::Peers),
        Verb::Compact => Ok(Command::Compact),
        Verb::Resume => Ok(Command::Resume),

        // `check` has found a subcommand, or refused the lone word.
        Verb::Container => Err(wrong_arity(call.spec)),
    }
}

/// Names or numbers in one request about commands, settings or clients; with more it is refused.
const FEW_MAX: usize = 1024;

/// A request whose command is known and that has as many words as it takes.
struct Call<'a, 's> {
    spec: &'static Spec,
    words: Words<'a, 's>,
    limits: &'s Limits,
    now_ms: &'s dyn Fn() -> i64,
}

impl<'a> Call<'a, '_> {
    fn len(&self) -> usize {
        self.words.len()
    }

    /// The word at a place; that of the command is at 0. Empty if there is none, which the arity rules out.
    fn word(&self, place: usize) -> &'a [u8] {
        debug_assert!(place < self.len(), "{:?} has no word {place}", self.spec);
        self.words.get(place).unwrap_or_default()
    }

    /// The words from a place on.
    fn rest(&self, place: usize) -> impl Iterator<Item = &'a [u8]> + use<'a, '_> {
        self.words.iter().skip(place)
    }

    /// The words from a place on, where each is answered by much more than itself.
    fn few(&self, place: usize) -> Result<impl Iterator<Item = &'a [u8]> + use<'a, '_>, Wrong> {
        let len = self.len().saturating_sub(place);
        if len > FEW_MAX {
            return Err(Wrong::new(ErrorCode::TooBig, format!("{len} names are too many; at most {FEW_MAX} are allowed in one request")));
        }
        Ok(self.rest(place))
    }

    /// A word that is data, of any length.
    fn data(&self, place: usize) -> Bytes<'a> {
        Cow::Borrowed(self.word(place))
    }

    fn key(&self, place: usize) -> Result<Bytes<'a>, Wrong> {
        self.as_key(self.word(place))
    }

    /// All words behind that of the command.
    fn keys(&self) -> Result<Vec<Bytes<'a>>, Wrong> {
        let mut keys = Vec::with_capacity(self.len().saturating_sub(1));
        for word in self.rest(1) {
            keys.push(self.as_key(word)?);
        }
        Ok(keys)
    }

    fn value(&self, place: usize) -> Result<Bytes<'a>, Wrong> {
        self.as_value(self.word(place))
    }

    fn as_key(&self, word: &'a [u8]) -> Result<Bytes<'a>, Wrong> {
        within("key", word, self.limits.key_len_max)
    }

    fn as_value(&self, word: &'a [u8]) -> Result<Bytes<'a>, Wrong> {
        within("value", word, self.limits.value_len_max)
    }

    fn integer(&self, place: usize) -> Result<i64, Wrong> {
        integer(self.word(place)).ok_or_else(not_integer)
    }
}

fn within<'a>(what: &str, word: &'a [u8], len_max: usize) -> Result<Bytes<'a>, Wrong> {
    if word.len() > len_max { Err(too_big(what, word.len(), len_max)) } else { Ok(Cow::Borrowed(word)) }
}

#[cold]
fn too_big(what: &str, len: usize, len_max: usize) -> Wrong {
    Wrong::new(ErrorCode::TooBig, format!("the {what} has {len} bytes; at most {len_max} are allowed"))
}

/// Whether an option is that one, in any case. Redis compares up to the first zero byte, and so does this.
fn is(word: &[u8], option: &str) -> bool {
    word.get(..option.len()).is_some_and(|head| head.eq_ignore_ascii_case(option.as_bytes()))
        && matches!(word.get(option.len()), None | Some(0))
}

/// A word inside an error, as Redis shows it: up to the first zero byte. Bytes that are no UTF-8 cannot be kept, errors being text.
fn shown(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(up_to_zero(word))
}

fn up_to_zero(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Redis's limit for words that are shown in the errors about unknown commands.
const SHOWN_LEN_MAX: usize = 128;

fn cut(word: &[u8], len_max: usize) -> &[u8] {
    let word = up_to_zero(word);
    word.get(..len_max).unwrap_or(word)
}

fn no_command(name: &[u8], words: Words<'_, '_>) -> Wrong {
    if let Some(sentence) = refused::refusal(name) {
        return Wrong::new(ErrorCode::Err, sentence);
    }
    // In bytes, for Redis counts and cuts them: `args` may end within a character.
    let mut args = Vec::new();
    for word in words.iter().skip(1) {
        let Some(room @ 1..) = SHOWN_LEN_MAX.checked_sub(args.len()) else { break };
        args.push(b'\'');
        args.extend_from_slice(cut(word, room));
        args.extend_from_slice(b"' ");
    }
    let name = cut(name, SHOWN_LEN_MAX);
    let sentence = [b"unknown command '", name, b"', with args beginning with: ", &args].concat();
    Wrong::new(ErrorCode::Unknown, one_line(&String::from_utf8_lossy(&sentence)))
}

fn no_subcommand(container: &Spec, word: &[u8]) -> Wrong {
    if let Some(sentence) = refused::subcommand_refusal(container.name, word) {
        return Wrong::new(ErrorCode::Err, sentence);
    }
    let shown = String::from_utf8_lossy(cut(word, SHOWN_LEN_MAX));
    let container = container.name.to_ascii_uppercase();
    Wrong::new(ErrorCode::Unknown, one_line(&format!("unknown subcommand '{shown}'. Try {container} HELP.")))
}

fn wrong_arity(spec: &Spec) -> Wrong {
    Wrong::new(ErrorCode::Syntax, format!("wrong number of arguments for '{}' command", spec.name))
}

fn syntax() -> Wrong {
    Wrong::new(ErrorCode::Syntax, "syntax error")
}

fn not_integer() -> Wrong {
    Wrong::new(ErrorCode::NotNumber, "value is not an integer or out of range")
}

/// Whatever is wrong with a request and has no code of its own. Words of clients may be in the sentence.
fn wrong(sentence: impl AsRef<str>) -> Wrong {
    Wrong::new(ErrorCode::Err, one_line(sentence.as_ref().trim_matches(['\r', '\n'])))
}

/// An error is one line of the protocol.
fn one_line(sentence: &str) -> String {
    sentence.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests;
