//! The commands that RESP clients may send: one table, for parsing, for the check of how many words there are and for COMMAND.
//!
//! arguments.rs has an arm for every `Verb`, and the compiler warns of a verb that is in no table: a command cannot be in one and not in the
//! other. What Redis has and is not here is in refused.rs.

mod answers;
mod connection;
mod keys;
mod keyspace;
mod server;
mod strings;
mod usage;

use std::fmt;

use crate::wire::command::Command;
use keys::Keys;

pub use answers::answer;

/// The command, or the subcommand, that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(super) enum Verb {
    Get, Set, SetNx, SetEx, PSetEx, GetSet, GetDel, GetEx, MGet, MSet, MSetNx, Append, StrLen, GetRange, SubStr, SetRange,
    Incr, Decr, IncrBy, DecrBy, IncrByFloat,

    Del, Unlink, Exists, Type, Touch, Rename, RenameNx, RandomKey, Keys, Scan, DbSize, FlushDb, FlushAll, ObjectEncoding, MemoryUsage,
    Expire, PExpire, ExpireAt, PExpireAt, Ttl, PTtl, ExpireTime, PExpireTime, Persist,

    Ping, Echo, Quit, Reset, Select, Auth, Hello,
    ClientId, ClientGetName, ClientSetName, ClientSetInfo, ClientList, ClientInfo, ClientKill, ClientNoEvict, ClientNoTouch,
    Multi, Exec, Discard, Watch, Unwatch,

    Command, CommandCount, CommandList, CommandInfo, CommandDocs, ConfigGet, DebugSleep, Info, Role, Time, Lolwut, Wait, WaitAof,
    Upd, Put, Ack, Status, Peers, Digest, Compact, Resume,

    /// Has subcommands, and means nothing without one.
    Container,
}

/// What is known of a command.
#[derive(PartialEq, Eq)]
pub struct Spec {
    /// In lower case, of at most 16 bytes; `client|id` for a subcommand.
    pub name: &'static str,
    /// How many words it has with its name and that of its container; negative: at least so many.
    pub arity: i8,
    pub(super) verb: Verb,
    /// As COMMAND INFO shows them, with spaces between.
    flags: &'static str,
    keys: &'static [Keys],
    /// ACL categories that do not follow from the flags.
    categories: &'static str,
    tips: &'static str,
    group: &'static str,
    since: &'static str,
    complexity: &'static str,
    /// The words behind the name, in the notation of usage.rs.
    usage: &'static str,
    summary: &'static str,
    subcommands: &'static [Spec],
}

const TABLES: [&[Spec]; 4] = [strings::COMMANDS, keyspace::COMMANDS, connection::COMMANDS, server::COMMANDS];

/// All commands; subcommands are in them.
pub fn commands() -> impl Iterator<Item = &'static Spec> {
    TABLES.into_iter().flatten()
}

/// The command of that name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let packed = packed(name)?;
    let mut slot = slot(packed);
    while let Some(spec) = INDEX[slot] {
        // Lengths differ where a name ends in zeros.
        if PACKED[slot] == packed && spec.name.len() == name.len() {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

impl Spec {
    /// The subcommand of that name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        self.subcommands.iter().find(|spec| spec.own_name().as_bytes().eq_ignore_ascii_case(name))
    }

    pub fn subcommands(&self) -> &'static [Spec] {
        self.subcommands
    }

    pub fn has_subcommands(&self) -> bool {
        !self.subcommands.is_empty()
    }

    /// Whether a request of so many words, that of the command and its container included, is not too short and not too long.
    pub fn takes(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }

    /// Whether it is answered by a node that has not caught up yet.
    pub fn is_allowed_while_loading(&self) -> bool {
        self.has_flag("loading")
    }

    /// Whether it waits for EXEC on a connection where MULTI was said; the others are executed at once even there.
    pub fn is_queued_in_multi(&self) -> bool {
        !matches!(self.verb, Verb::Multi | Verb::Exec | Verb::Discard | Verb::Watch | Verb::Quit | Verb::Reset | Verb::Ack)
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|word| word == flag)
    }

    /// Without that of its container.
    fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, name)| name)
    }

    const fn new(verb: Verb, name: &'static str, arity: i8, flags: &'static str) -> Spec {
        let (categories, tips, group, since, complexity, usage, summary) = ("", "", "", "", "", "", "");
        Spec { name, arity, verb, flags, keys: &[], categories, tips, group, since, complexity, usage, summary, subcommands: &[] }
    }

    const fn keys(self, keys: &'static [Keys]) -> Spec {
        Spec { keys, ..self }
    }

    const fn categories(self, categories: &'static str) -> Spec {
        Spec { categories, ..self }
    }

    /// Redis's hints to clients that speak to several nodes.
    const fn tips(self, tips: &'static str) -> Spec {
        Spec { tips, ..self }
    }

    /// `since`: the version of Redis that had it first, or of kvmesh for its own.
    const fn docs(self, group: &'static str, since: &'static str, complexity: &'static str) -> Spec {
        Spec { group, since, complexity, ..self }
    }

    const fn help(self, usage: &'static str, summary: &'static str) -> Spec {
        Spec { usage, summary, ..self }
    }

    const fn containing(self, subcommands: &'static [Spec]) -> Spec {
        Spec { subcommands, ..self }
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a command is answered by a node that has not caught up yet: what concerns the connection, and what says how the node is.
pub fn answers_while_loading(command: &Command<'_>) -> bool {
    match command {
        Command::One { .. }
        | Command::Several(_)
        | Command::Keys { .. }
        | Command::Matching { .. }
        | Command::Scan { .. }
        | Command::RandomKey
        | Command::Count
        | Command::Flush
        | Command::Digest { .. }
        | Command::Wait { .. }
        | Command::WaitDurable { .. }
        | Command::Peers
        | Command::Dump
        | Command::Compact
        | Command::Resume
        | Command::Lolwut => false,
        Command::Multi
        | Command::Exec
        | Command::Discard
        | Command::Watch { .. }
        | Command::Unwatch
        | Command::Ack { .. }
        | Command::Status
        | Command::Ping { .. }
        | Command::Echo { .. }
        | Command::Nothing
        | Command::Hello { .. }
        | Command::Reset
        | Command::Client(_)
        | Command::Help { .. }
        | Command::Quit
        | Command::Time
        | Command::Role
        | Command::Info { .. }
        | Command::Config { .. }
        | Command::Catalogue(_)
        | Command::Sleep { .. } => true,
        // Refused where the lines behind it are looked after.
        Command::Restore => true,
    }
}

/// More than twice the number of commands, and a power of two, so that hardly two of them want the same slot.
const SLOTS: usize = 256;

/// Where each command is found; one whose slot is taken is in the next that is free.
static INDEX: [Option<&Spec>; SLOTS] = {
    let mut index: [Option<&Spec>; SLOTS] = [None; SLOTS];
    let mut table = 0;
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            let spec = &TABLES[table][row];
            let Some(packed) = packed(spec.name.as_bytes()) else { panic!("a name is too long") };
            let mut slot = slot(packed);
            while index[slot].is_some() {
                slot = (slot + 1) % SLOTS;
            }
            index[slot] = Some(spec);
            row += 1;
        }
        table += 1;
    }
    index
};

/// The names of [`INDEX`].
static PACKED: [u128; SLOTS] = {
    let mut names = [0; SLOTS];
    let mut slot = 0;
    while slot < SLOTS {
        if let Some(spec) = INDEX[slot]
            && let Some(packed) = packed(spec.name.as_bytes())
        {
            names[slot] = packed;
        }
        slot += 1;
    }
    names
};

/// A name in lower case as one number; `None` if it is longer than any command's.
const fn packed(name: &[u8]) -> Option<u128> {
    let mut bytes = [0; 16];
    if name.len() > bytes.len() {
        return None;
    }
    let mut at = 0;
    while at < name.len() {
        bytes[at] = name[at].to_ascii_lowercase();
        at += 1;
    }
    Some(u128::from_le_bytes(bytes))
}

const fn slot(packed: u128) -> usize {
    // The upper bits of a product depend on all bits of its factor (Fibonacci hashing).
    let folded = packed as u64 ^ (packed >> 64) as u64;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize
}

#[cfg(test)]
mod tests;
