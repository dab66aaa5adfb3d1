//! Replies to clients, whichever protocol carries them, and what was wrong with a request.

use std::borrow::Cow;
use std::fmt;

use crate::data::entry::Value;
use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Bytes;

/// One reply. RESP knows all of them. The text protocol writes an array, and every long answer, as
/// several lines and [`Reply::End`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Ok,
    /// A word that is no data: `PONG`, `QUEUED`, `string`.
    Status(&'static str),
    /// A stored value.
    Value(Value),
    /// Other data.
    Bytes(Bytes<'a>),
    /// Text for people, perhaps of several lines.
    Text(String),
    Integer(i64),
    /// There is no such key: null in RESP, the error NOTFOUND in text.
    Absent(Bytes<'a>),
    Null,
    /// The reply to an EXEC whose watched keys have changed.
    NullArray,
    Array(Vec<Reply<'a>>),
    /// Pairs of replies. Flat in RESP2.
    Map(Vec<(Reply<'a>, Reply<'a>)>),
    /// Replies without an order. An array in RESP2.
    Set(Vec<Reply<'a>>),
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

impl Reply<'_> {
    pub fn error(code: ErrorCode, sentence: impl Into<String>) -> Reply<'static> {
        Reply::Error { code, sentence: Cow::Owned(sentence.into()) }
    }

    /// The bytes of data in the reply, about.
    #[inline]
    pub fn size(&self) -> usize {
        const OVERHEAD: usize = 16;
        OVERHEAD
            + match self {
                Reply::Value(value) => value.len(),
                Reply::Bytes(bytes) => bytes.len(),
                Reply::Text(text) => text.len(),
                Reply::Key(key) => key.len(),
                Reply::Array(replies) | Reply::Set(replies) => replies.iter().map(Reply::size).sum(),
                Reply::Map(pairs) => pairs.iter().map(|(key, value)| key.size() + value.size()).sum(),
                _ => 0,
            }
    }

    /// The bytes of data in the reply that are not shared with the store, about.
    pub fn own_size(&self) -> usize {
        match self {
            Reply::Value(_) => 0,
            Reply::Array(replies) | Reply::Set(replies) => replies.iter().map(|reply| reply.own_size() + size_of::<Reply<'_>>()).sum(),
            Reply::Map(pairs) => pairs.iter().map(|(key, value)| key.own_size() + value.own_size() + 2 * size_of::<Reply<'_>>()).sum(),
            reply => reply.size(),
        }
    }

    /// The reply without borrowed parts.
    pub fn into_owned(self) -> Reply<'static> {
        let all = |replies: Vec<Reply<'_>>| replies.into_iter().map(Reply::into_owned).collect();
        match self {
            Reply::Ok => Reply::Ok,
            Reply::Status(word) => Reply::Status(word),
            Reply::Value(value) => Reply::Value(value),
            Reply::Bytes(bytes) => Reply::Bytes(Cow::Owned(bytes.into_owned())),
            Reply::Text(text) => Reply::Text(text),
            Reply::Integer(number) => Reply::Integer(number),
            Reply::Absent(key) => Reply::Absent(Cow::Owned(key.into_owned())),
            Reply::Null => Reply::Null,
            Reply::NullArray => Reply::NullArray,
            Reply::Array(replies) => Reply::Array(all(replies)),
            Reply::Map(pairs) => Reply::Map(pairs.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()),
            Reply::Set(replies) => Reply::Set(all(replies)),
            Reply::Key(key) => Reply::Bytes(Cow::Owned(key.to_vec())),
            Reply::Ack(level) => Reply::Ack(level),
            Reply::Digest { sum, keys } => Reply::Digest { sum, keys },
            Reply::Line(line) => Reply::Text(line.to_owned()),
            Reply::End => Reply::End,
            Reply::Error { code, sentence } => Reply::Error { code, sentence: Cow::Owned(sentence.into_owned()) },
        }
    }
}

/// The code of an error: the first word after `ERROR` in text.
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
    /// Too few members count for the ack level: refused, nothing was written.
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
    /// RELOAD of a configuration that is refused.
    BadConfig,
    /// The value is no number, or the sum would be none.
    NotNumber,
    /// Redis's `ERR`: anything else that is wrong with a request.
    Err,
    /// EXEC after a command that could not be queued.
    ExecAbort,
    /// HELLO with a version that is not spoken.
    NoProto,
    /// AUTH with a password that is not right.
    WrongPass,
    /// The client has not said who it is, and this node has users.
    NoAuth,
    /// The user may not do this, or nobody may.
    NoPerm,
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
            ErrorCode::BadConfig => "BADCONFIG",
            ErrorCode::NotNumber => "NOTNUMBER",
            ErrorCode::Err => "ERR",
            ErrorCode::ExecAbort => "EXECABORT",
            ErrorCode::NoProto => "NOPROTO",
            ErrorCode::WrongPass => "WRONGPASS",
            ErrorCode::NoAuth => "NOAUTH",
            ErrorCode::NoPerm => "NOPERM",
        })
    }
}

/// The error of a wrong request: what was wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub code: ErrorCode,
    pub sentence: String,
}

impl Wrong {
    pub fn new(code: ErrorCode, sentence: impl Into<String>) -> Wrong {
        Wrong { code, sentence: sentence.into() }
    }

    /// The error for a key, a value or a pattern that is longer than it may be.
    #[cold]
    pub fn too_big(what: &str, len: usize, len_max: usize) -> Wrong {
        Wrong::new(ErrorCode::TooBig, format!("the {what} has {len} bytes; at most {len_max} are allowed"))
    }

    pub fn into_reply(self) -> Reply<'static> {
        Reply::Error { code: self.code, sentence: Cow::Owned(self.sentence) }
    }
}
