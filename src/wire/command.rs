//! Typed commands: what clients ask for, whichever protocol carries it.
//!
//! The kinds of [`Command`] are the ways in which a server executes one. The text protocol
//! (wire/text) and RESP (server/commands) make these values of bytes; server/commands executes
//! them. A command on one key is in the kind of its family, so that parser and meaning are in one
//! file.

use std::fmt;
use std::time::Duration;

use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Bytes;
use crate::wire::reply::Wrong;
use crate::wire::resp::RespVersion;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Command(Command<'a>),
    Session(SessionCommand<'a>),
    Text(TextCommand<'a>),
}

/// A command that may also stand between MULTI and EXEC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Data(DataCommand<'a>),
    Other(OtherCommand<'a>),
}

/// A command on keys. Those of a transaction are one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataCommand<'a> {
    /// Looks at one key and never writes.
    Read { key: Bytes<'a>, read: Read },
    /// Looks at one key and may write it; what is there decides alone.
    Write { key: Bytes<'a>, write: Write<'a> },
    /// Concerns several keys, in one step on the node that executes it.
    MultiKey(MultiKey<'a>),
    /// Concerns all keys.
    Keyspace(KeyspaceCommand<'a>),
}

/// A command that is no part of the step of its transaction, but executed behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherCommand<'a> {
    /// Concerns the connection, and neither waits nor touches data.
    Connection(ConnectionCommand<'a>),
    /// Asks what this node is, and is answered at once.
    Introspection(Introspection<'a>),
    /// Asks how the node is, or has it work on its data or its disk. Its answer takes time.
    Admin(Admin),
    /// Waits.
    Blocking(Blocking),
}

/// A command on the session itself, never queued between MULTI and EXEC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand<'a> {
    /// Queues what follows, until EXEC.
    Multi,
    Exec,
    Discard,
    Watch {
        keys: Vec<Bytes<'a>>,
    },
    /// Sets the ack level of this connection, or asks for it.
    Ack {
        level: Option<AckLevel>,
    },
    /// Makes the connection as it was when it began.
    Reset,
    Quit,
}

/// A command that only the text protocol has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextCommand<'a> {
    /// Lists the keys that begin with a prefix, and at most so many.
    Keys { prefix: Bytes<'a>, limit: Option<usize> },
    /// Prints all entries as lines of JSON.
    Dump,
    /// Announces the lines of a dump, up to its end line.
    Restore,
    /// Explains one verb, or all of them.
    Help { verb: Option<String> },
}

/// A read of one key. A key that is not there, or has expired, is *absent*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    String(StringRead),
    Key(KeyRead),
    /// The time at which the key expires: -1 for never, -2 if absent.
    Expiry(ExpiryUnit),
}

/// A write to one key. A key that is not there, or has expired, is *absent*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    String(StringWrite<'a>),
    Key(KeyWrite),
    Expiry(ExpiryWrite),
}

/// Reads of a value (server/commands/strings.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringRead {
    /// The value.
    Get,
    /// Null if absent, else this error: GETEX looks for the key before it looks at the expiry.
    GetWithBadExpiry(Wrong),
    /// The length of the value, 0 if absent.
    Len,
    /// The bytes from `start` to `end`, both included; negative ones count from the end.
    Range { start: i64, end: i64 },
}

/// Writes of a value (server/commands/strings.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringWrite<'a> {
    Set(Set<'a>),
    /// Returns the value and deletes the key.
    GetDelete,
    /// Returns the value and changes the expiry of the key.
    GetExpire {
        lifetime: Lifetime,
    },
    /// Puts bytes behind the value; returns its length.
    Append {
        tail: Bytes<'a>,
    },
    /// Puts bytes over the value from `offset` on, zeros between; returns its length.
    Overwrite {
        offset: usize,
        bytes: Bytes<'a>,
    },
    /// Adds to the number that the value spells; returns the sum.
    Add {
        by: i64,
    },
    /// Adds a decimal fraction, as it was spelt; returns the sum.
    AddDecimal {
        by: Bytes<'a>,
    },
}

/// Reads of a key, whatever its value (server/commands/keys.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRead {
    /// 1, or 0 if absent.
    Exists,
    /// `string`, or `none` if absent.
    Type,
    /// The encoding in which Redis would keep the value.
    Encoding,
    /// The bytes that the entry takes, by estimate.
    Footprint,
}

/// Writes to a key, whatever its value (server/commands/keys.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWrite {
    /// Deletes the key. `strict`: OK, or an error if absent; else 1 or 0.
    Delete { strict: bool },
}

/// Changes of a key's expiry (server/commands/expiry.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryWrite {
    /// Makes the key expire at `at`, in milliseconds since 1970; at once if that is over. 1 or 0.
    Expire { at: i64, only: ExpireOnly },
    /// Makes the key never expire. 1 or 0.
    Persist,
}

/// The value that a key is to hold, and under which conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    pub value: Bytes<'a>,
    pub only: Only,
    pub lifetime: Lifetime,
    pub answer: SetAnswer,
}

/// The keys that a [`Set`] sets at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Only {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
}

/// The expiry of a key after a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// The key never expires.
    #[default]
    Endless,
    /// The expiry stays as it was.
    Kept,
    /// The key expires then, in milliseconds since 1970; may be over.
    Until(i64),
}

/// The reply to a [`Set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAnswer {
    /// OK, or an error that says why not.
    Strict,
    /// OK, or null.
    OkOrNull,
    /// 1 or 0.
    Number,
    /// The value before it, or null if there was none; with no regard to whether the key was set.
    Former,
}

/// The expiries that EXPIRE may replace. All that are true must hold.
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

/// The unit in which TTL and its kin count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryUnit {
    /// True: since 1970. False: from now on.
    pub absolute: bool,
    pub milliseconds: bool,
}

/// A command on several keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiKey<'a> {
    Get(Vec<Bytes<'a>>),
    /// Counts the keys that are there; one that is named twice counts twice.
    Exists(Vec<Bytes<'a>>),
    /// Deletes keys, and counts those that were there.
    Delete(Vec<Bytes<'a>>),
    /// Sets all keys; with `only_absent` none of them if one exists.
    Set {
        pairs: Vec<(Bytes<'a>, Bytes<'a>)>,
        only_absent: bool,
    },
    /// Moves value and expiry; with `only_absent` not over a key of the new name.
    Rename {
        from: Bytes<'a>,
        to: Bytes<'a>,
        only_absent: bool,
    },
}

/// A command on all keys (server/commands/scan.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyspaceCommand<'a> {
    Count,
    /// Takes one step through all keys.
    Scan(ScanStep<'a>),
    RandomKey,
    /// Returns the keys that a pattern matches (wire/resp/glob.rs).
    Matching {
        pattern: Bytes<'a>,
    },
    /// Deletes every key.
    Flush,
}

/// One step through all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStep<'a> {
    /// 0 begins; else what the step before returned.
    pub cursor: u64,
    pub pattern: Option<Bytes<'a>>,
    /// The number of keys to look at, at least 1.
    pub count: usize,
    /// False if no strings are wanted: then no key is, for there is nothing else.
    pub strings: bool,
}

/// A command that concerns the connection (server/commands/connection.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionCommand<'a> {
    Ping {
        message: Option<Bytes<'a>>,
    },
    Echo {
        message: Bytes<'a>,
    },
    /// Needs no doing: SELECT of the only database.
    NoOp,
    /// Says who uses the connection.
    Authenticate(Box<Login<'a>>),
    /// Chooses the version of RESP, if one is named, says who uses the connection, and names it.
    Hello {
        version: Option<RespVersion>,
        login: Option<Box<Login<'a>>>,
        name: Option<Bytes<'a>>,
    },
    /// Forgets the watched keys.
    Unwatch,
    Client(ClientCommand<'a>),
}

/// A user, and what proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// The name of the user; `None` for the user `default`.
    pub user: Option<Bytes<'a>>,
    pub password: Password<'a>,
}

/// A password as the client has sent it. Is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password<'a>(pub Bytes<'a>);

impl fmt::Debug for Password<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// `CLIENT …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand<'a> {
    Id,
    Info,
    /// Lists the clients with these ids, or all.
    List {
        ids: Option<Vec<u64>>,
        kind: Option<ClientKind>,
    },
    GetName,
    SetName(Bytes<'a>),
    /// Sets `lib-name` or `lib-ver`.
    SetInfo {
        version: bool,
        value: Bytes<'a>,
    },
    Kill(Box<KillClients<'a>>),
    /// Is accepted and changes nothing: no connection is closed to free memory.
    NoEvict(bool),
    /// Is accepted and changes nothing: reading a key never changes it.
    NoTouch(bool),
}

/// The clients that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    Normal,
    /// Replicas, masters, subscribers: there are none.
    Other,
}

/// The clients to close: those that meet every condition that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillClients<'a> {
    /// True for `CLIENT KILL addr`: OK, or an error if there is none. Else the number of those
    /// killed.
    pub strict: bool,
    pub id: Option<u64>,
    pub addr: Option<Bytes<'a>>,
    pub laddr: Option<Bytes<'a>>,
    pub kind: Option<ClientKind>,
    pub user: Option<Bytes<'a>>,
    /// True if the caller may be among them.
    pub also_me: bool,
}

/// A question about this node that is answered at once (server/commands/introspection.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Introspection<'a> {
    Time,
    Role,
    Lolwut,
    /// `CONFIG GET`: names and values that one of these patterns matches.
    Config {
        patterns: Vec<Bytes<'a>>,
    },
    Commands(CommandQuery),
    Acl(AclCommand<'a>),
}

/// `ACL …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclCommand<'a> {
    /// Asks for the user of the connection.
    WhoAmI,
    /// Lists the categories of commands, or the commands of one, which is in lower case.
    Categories { of: Option<String> },
    /// Lists the users.
    Users,
    /// Describes one user.
    User(Bytes<'a>),
    /// Lists the last refusals, at most so many.
    Log { count: usize },
    /// Forgets the refusals.
    ResetLog,
}

/// `COMMAND …`: a question about the commands that there are. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandQuery {
    Count,
    /// Lists all, or those that the filter names.
    List(Option<ListFilter>),
    /// Describes these, or all.
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
    /// A module, of which there are none.
    Module,
}

/// A command for the operator of a node (server/commands/admin.rs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    Status,
    Peers,
    /// Returns sections by name, in lower case; all if there are none.
    Info {
        sections: Vec<String>,
    },
    /// Returns a digest of all keys without those that expire before a time, in milliseconds since
    /// 1970. `None`: now + `clock_offset_max`.
    Digest {
        before: Option<u64>,
    },
    /// Writes a snapshot.
    Compact,
    /// Logs again after a full disk.
    Resume,
    /// Reads the configuration file again.
    Reload,
}

/// A command that waits (server/commands/blocking.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Waits until so many peers have this connection's writes. No `timeout`: for ever.
    Wait { peers: usize, timeout: Option<Duration> },
    /// Waits until this connection's writes are on this node's disk, if `local`, and on those of so
    /// many peers. No `timeout`: for ever.
    WaitDurable { local: bool, peers: usize, timeout: Option<Duration> },
    /// Waits for so long.
    Sleep { time: Duration },
}

impl<'a> Command<'a> {
    pub fn read(key: Bytes<'a>, read: impl Into<Read>) -> Command<'a> {
        Command::Data(DataCommand::Read { key, read: read.into() })
    }

    pub fn write(key: Bytes<'a>, write: impl Into<Write<'a>>) -> Command<'a> {
        Command::Data(DataCommand::Write { key, write: write.into() })
    }

    /// The text protocol's `SET`, `UPD` and `PUT`: OK, or an error that says why not.
    pub fn set(key: Bytes<'a>, value: Bytes<'a>, only: Only) -> Command<'a> {
        let set = Set { value, only, lifetime: Lifetime::Endless, answer: SetAnswer::Strict };
        Command::write(key, StringWrite::Set(set))
    }
}

impl DataCommand<'_> {
    /// Returns true if it can have an effect at all.
    pub fn may_write(&self) -> bool {
        match self {
            DataCommand::Write { .. } | DataCommand::Keyspace(KeyspaceCommand::Flush) => true,
            DataCommand::MultiKey(command) => command.may_write(),
            DataCommand::Read { .. } | DataCommand::Keyspace(_) => false,
        }
    }
}

impl MultiKey<'_> {
    /// Returns true if it can have an effect at all.
    pub fn may_write(&self) -> bool {
        match self {
            MultiKey::Get(_) | MultiKey::Exists(_) => false,
            MultiKey::Delete(_) | MultiKey::Set { .. } | MultiKey::Rename { .. } => true,
        }
    }

    /// The keys, in the order in which they were named.
    pub fn keys(&self) -> Vec<&[u8]> {
        match self {
            MultiKey::Get(keys) | MultiKey::Exists(keys) | MultiKey::Delete(keys) => keys.iter().map(|key| &**key).collect(),
            MultiKey::Set { pairs, .. } => pairs.iter().map(|(key, _)| &**key).collect(),
            MultiKey::Rename { from, to, .. } => vec![from, to],
        }
    }
}

impl From<StringRead> for Read {
    fn from(read: StringRead) -> Read {
        Read::String(read)
    }
}

impl From<KeyRead> for Read {
    fn from(read: KeyRead) -> Read {
        Read::Key(read)
    }
}

impl From<ExpiryUnit> for Read {
    fn from(unit: ExpiryUnit) -> Read {
        Read::Expiry(unit)
    }
}

impl<'a> From<StringWrite<'a>> for Write<'a> {
    fn from(write: StringWrite<'a>) -> Write<'a> {
        Write::String(write)
    }
}

impl From<KeyWrite> for Write<'_> {
    fn from(write: KeyWrite) -> Self {
        Write::Key(write)
    }
}

impl From<ExpiryWrite> for Write<'_> {
    fn from(write: ExpiryWrite) -> Self {
        Write::Expiry(write)
    }
}

impl<'a> From<MultiKey<'a>> for Command<'a> {
    fn from(command: MultiKey<'a>) -> Command<'a> {
        Command::Data(DataCommand::MultiKey(command))
    }
}

impl<'a> From<KeyspaceCommand<'a>> for Command<'a> {
    fn from(command: KeyspaceCommand<'a>) -> Command<'a> {
        Command::Data(DataCommand::Keyspace(command))
    }
}

impl<'a> From<ConnectionCommand<'a>> for Command<'a> {
    fn from(command: ConnectionCommand<'a>) -> Command<'a> {
        Command::Other(OtherCommand::Connection(command))
    }
}

impl<'a> From<Introspection<'a>> for Command<'a> {
    fn from(command: Introspection<'a>) -> Command<'a> {
        Command::Other(OtherCommand::Introspection(command))
    }
}

impl From<Admin> for Command<'_> {
    fn from(command: Admin) -> Self {
        Command::Other(OtherCommand::Admin(command))
    }
}

impl From<Blocking> for Command<'_> {
    fn from(command: Blocking) -> Self {
        Command::Other(OtherCommand::Blocking(command))
    }
}

impl<'a> From<ClientCommand<'a>> for Command<'a> {
    fn from(command: ClientCommand<'a>) -> Command<'a> {
        ConnectionCommand::Client(command).into()
    }
}

impl From<CommandQuery> for Command<'_> {
    fn from(query: CommandQuery) -> Self {
        Introspection::Commands(query).into()
    }
}

impl<'a, C: Into<Command<'a>>> From<C> for Request<'a> {
    fn from(command: C) -> Request<'a> {
        Request::Command(command.into())
    }
}

impl<'a> From<SessionCommand<'a>> for Request<'a> {
    fn from(command: SessionCommand<'a>) -> Request<'a> {
        Request::Session(command)
    }
}

impl<'a> From<TextCommand<'a>> for Request<'a> {
    fn from(command: TextCommand<'a>) -> Request<'a> {
        Request::Text(command)
    }
}
