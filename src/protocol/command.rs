//! What clients ask and what they are told, whichever protocol carries it.
//!
//! Parsing (text.rs) makes a [`Command`] out of bytes; execution (server/execute.rs) makes [`Reply`]s out of it; neither knows the other.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::Value;

/// How many members must hold a write before the client hears `OK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// This node alone.
    Local,
    /// More than half of the configured members, this node included.
    #[default]
    Majority,
    /// Every member that is up, and never fewer than a majority.
    All,
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AckLevel::Local => "local",
            AckLevel::Majority => "majority",
            AckLevel::All => "all",
        })
    }
}

impl FromStr for AckLevel {
    type Err = String;
    /// In any case, as clients type it.
    fn from_str(text: &str) -> Result<AckLevel, String> {
        [AckLevel::Local, AckLevel::Majority, AckLevel::All]
            .into_iter()
            .find(|level| level.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("\"{text}\" is no ack level; expected local, majority or all"))
    }
}

/// One request of a client. Keys and values borrow from the read buffer where they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Get {
        key: Cow<'a, [u8]>,
    },
    Exists {
        key: Cow<'a, [u8]>,
    },
    Write {
        key: Cow<'a, [u8]>,
        write: Write<'a>,
    },
    Keys {
        prefix: Cow<'a, [u8]>,
        limit: Option<usize>,
    },
    Count,
    /// Sets this connection's level, or asks for it.
    Ack {
        level: Option<AckLevel>,
    },
    Status,
    Peers,
    Digest,
    Dump,
    /// The lines of a dump follow, up to its end line.
    Restore,
    /// Writes a snapshot.
    Compact,
    /// Logs again after a full disk.
    Resume,
    Ping,
    /// On one command, or on all of them.
    Help {
        verb: Option<String>,
    },
    Quit,
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Creates; refuses a key that exists.
    Set(Cow<'a, [u8]>),
    /// Updates; refuses a key that does not exist.
    Update(Cow<'a, [u8]>),
    /// Sets either way.
    Put(Cow<'a, [u8]>),
    /// Deletes; refuses a key that does not exist.
    Delete,
}

/// One answer. Long answers (KEYS, DUMP, RESTORE, COMPACT, RESUME, STATUS, PEERS, HELP) are several lines and end with [`Reply::End`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Ok,
    Value(Value),
    Integer(u64),
    Pong,
    Key(&'a [u8]),
    Ack(AckLevel),
    Digest {
        sum: u64,
        keys: u64,
    },
    /// A line of a long answer, as it is.
    Line(&'a str),
    End,
    Error {
        code: ErrorCode,
        sentence: Cow<'a, str>,
    },
}

/// The first word after `ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The command is known, its words are wrong.
    Syntax,
    /// No such command.
    Unknown,
    /// SET of a key that exists.
    Exists,
    /// GET, UPD or DEL of a key that does not.
    NotFound,
    /// A key, a value or a line over its limit.
    TooBig,
    /// `memory_max` is reached.
    Full,
    /// The disk has failed: refused, nothing was written.
    ReadOnly,
    /// Too few members are up for the ack level: refused, nothing was written.
    NoQuorum,
    /// Not acknowledged in time: the outcome is unknown.
    Timeout,
    /// The node has not caught up yet.
    Loading,
    /// A bound of this node is reached; nothing was written.
    Busy,
    /// RESTORE of a backup that has not seen deletes that were collected since.
    Stale,
    /// RESTORE of what is no dump, or no whole one.
    BadDump,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorCode::Syntax => "SYNTAX",
            ErrorCode::Unknown => "UNKNOWN",
            ErrorCode::Exists => "EXISTS",
            ErrorCode::NotFound => "NOTFOUND",
            ErrorCode::TooBig => "TOOBIG",
            ErrorCode::Full => "FULL",
            ErrorCode::ReadOnly => "READONLY",
            ErrorCode::NoQuorum => "NOQUORUM",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::Loading => "LOADING",
            ErrorCode::Busy => "BUSY",
            ErrorCode::Stale => "STALE",
            ErrorCode::BadDump => "BADDUMP",
        })
    }
}
