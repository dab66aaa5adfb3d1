//! What clients ask, whichever protocol carries it.
//!
//! Parsing (text.rs, resp/) makes a [`Command`] out of bytes; execution (server/execute.rs) makes [`Reply`](super::reply::Reply)s out of it; neither knows the other.

use std::time::Duration;

use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Bytes;
use crate::wire::reply::Wrong;
use crate::wire::resp::RespVersion;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Concerns one key, and is decided by what is there alone.
    One {
        key: Bytes<'a>,
        action: Action<'a>,
    },
    /// Concerns several keys, and is one step on the node that executes it.
    Several(Several<'a>),
    /// The keys that begin with something, and at most so many.
    Keys {
        prefix: Bytes<'a>,
        limit: Option<usize>,
    },
    /// The keys that a pattern matches (protocol/resp/glob.rs).
    Matching {
        pattern: Bytes<'a>,
    },
    /// One step through all keys.
    Scan {
        /// 0 begins; else what the step before returned.
        cursor: u64,
        pattern: Option<Bytes<'a>>,
        /// How many keys to look at. At least 1.
        count: usize,
        /// Whether keys that hold strings are wanted, which is all that there are.
        strings: bool,
    },
    RandomKey,
    Count,
    /// Deletes every key.
    Flush,
    /// Without the keys that expire before this (milliseconds since 1970); `None`: before soon.
    Digest {
        before: Option<u64>,
    },

    /// What follows is queued until EXEC.
    Multi,
    Exec,
    Discard,
    Watch {
        keys: Vec<Bytes<'a>>,
    },
    Unwatch,

    /// Sets this connection's level, or asks for it.
    Ack {
        level: Option<AckLevel>,
    },
    /// Waits until so many peers have this connection's writes.
    Wait {
        peers: usize,
        /// `None`: for ever.
        timeout: Option<Duration>,
    },
    /// Waits until this connection's writes are on this node's disk, if `local`, and on those of so many peers.
    WaitDurable {
        local: bool,
        peers: usize,
        timeout: Option<Duration>,
    },
    Status,
    Peers,
    Dump,
    /// The lines of a dump follow, up to its end line.
    Restore,
    /// Writes a snapshot.
    Compact,
    /// Logs again after a full disk.
    Resume,

    Ping {
        message: Option<Bytes<'a>>,
    },
    Echo {
        message: Bytes<'a>,
    },
    /// What needs no doing: AUTH where there is no password, SELECT of the only database.
    Nothing,
    /// Chooses the version of RESP, if one is named, and names the connection.
    Hello {
        version: Option<RespVersion>,
        name: Option<Bytes<'a>>,
    },
    /// The connection as it was when it began.
    Reset,
    Client(ClientCommand<'a>),
    /// On one command, or on all of them.
    Help {
        verb: Option<String>,
    },
    Quit,

    Time,
    Role,
    /// Sections by name, in lower case; all if there are none.
    Info {
        sections: Vec<String>,
    },
    /// `CONFIG GET`: names and values that one of these patterns matches.
    Config {
        patterns: Vec<Bytes<'a>>,
    },
    Catalogue(Catalogue),
    Lolwut,
    /// `DEBUG SLEEP`: of this connection alone.
    Sleep {
        time: Duration,
    },
}

/// What is done with one key. A key that is not there, or has expired, is *absent*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// The value.
    Get,
    /// 1 or 0.
    Exists,
    /// The length of the value, 0 if absent.
    Len,
    /// Of the value, the bytes from `start` to `end`, both included; negative ones count from the end.
    Range {
        start: i64,
        end: i64,
    },
    /// When it expires. -1: never; -2: absent.
    Expiry(ExpiryUnit),
    /// `string` or `none`.
    Type,
    /// How Redis would keep the value.
    Encoding,
    /// Bytes that the entry takes, by estimate.
    Footprint,

    Set(Set<'a>),
    /// Deletes. `strict`: OK, or an error if absent; else 1 or 0.
    Delete {
        strict: bool,
    },
    /// The value, and deletes it.
    GetDelete,
    /// Null if absent, else this error: GETEX looks for the key before it looks at the expiry.
    GetWrong {
        wrong: Wrong,
    },
    /// The value, and changes when it expires.
    GetExpire {
        lifetime: Lifetime,
    },
    /// Puts bytes behind the value; its length.
    Append {
        tail: Bytes<'a>,
    },
    /// Puts bytes over those of the value from there on, zeros between; its length.
    Overwrite {
        offset: usize,
        bytes: Bytes<'a>,
    },
    /// Adds to the number that the value spells; the sum.
    Add {
        by: i64,
    },
    /// The same with a decimal fraction, as it was spelt.
    AddDecimal {
        by: Bytes<'a>,
    },
    /// Has it expire at that time, in milliseconds since 1970; at once if that is over. 1 or 0.
    Expire {
        at: i64,
        only: ExpireOnly,
    },
    /// Has it never expire. 1 or 0.
    Persist,
}

/// What a key is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    pub value: Bytes<'a>,
    pub only: Only,
    pub lifetime: Lifetime,
    pub answer: SetAnswer,
}

/// Where a key is set at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Only {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
}

/// What becomes of a key's expiry when the key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// It never expires.
    #[default]
    Endless,
    /// As it was.
    Kept,
    /// In milliseconds since 1970; may be over.
    Until(i64),
}

/// What the client hears of a [`Set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAnswer {
    /// OK, or an error that says why not.
    Strict,
    /// OK, or null.
    OkOrNull,
    /// 1 or 0.
    Number,
    /// The value before it, or null if there was none; whether it was set or not.
    Former,
}

/// Which expiries EXPIRE may replace. All that are true must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireOnly {
    /// Only of a key that never expires.
    pub endless: bool,
    /// Only of a key that expires.
    pub expiring: bool,
    /// Only by a later one; never is the latest.
    pub later: bool,
    /// Only by an earlier one.
    pub earlier: bool,
}

/// How TTL and its kin count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryUnit {
    /// Since 1970, and not from now.
    pub absolute: bool,
    pub milliseconds: bool,
}

/// What is done with several keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Several<'a> {
    Get(Vec<Bytes<'a>>),
    /// How many there are; one that is named twice counts twice.
    Exists(Vec<Bytes<'a>>),
    /// How many were deleted.
    Delete(Vec<Bytes<'a>>),
    /// All or, where one exists and `only_absent`, none.
    Set {
        pairs: Vec<(Bytes<'a>, Bytes<'a>)>,
        only_absent: bool,
    },
    /// Value and expiry move. `only_absent`: unless there is a key of the new name.
    Rename {
        from: Bytes<'a>,
        to: Bytes<'a>,
        only_absent: bool,
    },
}

/// `CLIENT …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand<'a> {
    Id,
    Info,
    /// Those with these ids, or all.
    List {
        ids: Option<Vec<u64>>,
        kind: Option<ClientKind>,
    },
    GetName,
    SetName(Bytes<'a>),
    /// `lib-name` or `lib-ver`.
    SetInfo {
        version: bool,
        value: Bytes<'a>,
    },
    Kill(Box<KillClients<'a>>),
    /// Nothing is ever evicted, and nothing is touched: these are taken and change nothing.
    NoEvict(bool),
    NoTouch(bool),
}

/// Which clients a command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    Normal,
    /// Replicas, masters, subscribers: there are none.
    Other,
}

/// Which clients are closed: those to whom everything applies that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillClients<'a> {
    /// `CLIENT KILL addr`: OK, or an error if there is none. Else the number of those killed.
    pub strict: bool,
    pub id: Option<u64>,
    pub addr: Option<Bytes<'a>>,
    pub laddr: Option<Bytes<'a>>,
    pub kind: Option<ClientKind>,
    pub user: Option<Bytes<'a>>,
    /// Also the one that asks.
    pub also_me: bool,
}

/// `COMMAND …`: what commands there are. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Catalogue {
    Count,
    /// All, or those that the filter names.
    List(Option<ListFilter>),
    /// Of these, or of all.
    Info(Option<Vec<String>>),
    Docs(Vec<String>),
}

/// `COMMAND LIST FILTERBY …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListFilter {
    /// A glob-like pattern.
    Pattern(Vec<u8>),
    /// An ACL category.
    Category(String),
    /// Modules, of which there are none.
    Module,
}

impl Action<'_> {
    /// Whether it can have an effect at all.
    pub fn may_write(&self) -> bool {
        match self {
            Action::Get
            | Action::Exists
            | Action::Len
            | Action::Range { .. }
            | Action::Expiry(_)
            | Action::Type
            | Action::Encoding
            | Action::Footprint
            | Action::GetWrong { .. } => false,
            Action::Set(_)
            | Action::Delete { .. }
            | Action::GetDelete
            | Action::GetExpire { .. }
            | Action::Append { .. }
            | Action::Overwrite { .. }
            | Action::Add { .. }
            | Action::AddDecimal { .. }
            | Action::Expire { .. }
            | Action::Persist => true,
        }
    }
}

impl Several<'_> {
    /// Whether it can have an effect at all.
    pub fn may_write(&self) -> bool {
        match self {
            Several::Get(_) | Several::Exists(_) => false,
            Several::Delete(_) | Several::Set { .. } | Several::Rename { .. } => true,
        }
    }

    /// The keys, in the order in which they were named.
    pub fn keys(&self) -> Vec<&[u8]> {
        match self {
            Several::Get(keys) | Several::Exists(keys) | Several::Delete(keys) => keys.iter().map(|key| &**key).collect(),
            Several::Set { pairs, .. } => pairs.iter().map(|(key, _)| &**key).collect(),
            Several::Rename { from, to, .. } => vec![from, to],
        }
    }
}

impl<'a> Command<'a> {
    /// The text protocol's `SET`, `UPD` and `PUT`: OK, or an error that says why not.
    pub fn set(key: Bytes<'a>, value: Bytes<'a>, only: Only) -> Command<'a> {
        let set = Set { value, only, lifetime: Lifetime::Endless, answer: SetAnswer::Strict };
        Command::One { key, action: Action::Set(set) }
    }

    /// Its `DEL`.
    pub fn delete(key: Bytes<'a>) -> Command<'a> {
        Command::One { key, action: Action::Delete { strict: true } }
    }
}

impl Command<'_> {
    /// Whether it can have an effect on data at all.
    pub fn may_write(&self) -> bool {
        match self {
            Command::One { action, .. } => action.may_write(),
            Command::Several(several) => several.may_write(),
            Command::Flush => true,
            _ => false,
        }
    }
}
