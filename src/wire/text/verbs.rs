//! The verbs of the text protocol: one table for the parser, for HELP, for SYNTAX errors and for
//! kvctl.
//!
//! A new verb is a name in [`Verb`] and a row with its parser at the same position in [`VERBS`],
//! whose length grows. A name has at most seven letters: it is looked up as one packed number.

use super::words::Words;
use crate::wire::bytes::Limits;
use crate::wire::command::{
    Admin, Command, ConnectionCommand, ExpireOnly, ExpiryUnit, ExpiryWrite, KeyRead, KeyWrite, KeyspaceCommand, Login, MultiKey, Only,
    Password, Request, SessionCommand, StringRead, StringWrite, TextCommand,
};
use crate::wire::reply::Wrong;
use crate::wire::role::Role;

/// The first word of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Set,
    Upd,
    Put,
    Get,
    Mget,
    Del,
    Exists,
    Incr,
    Expire,
    Ttl,
    Persist,
    Keys,
    Count,
    Auth,
    Ack,
    Status,
    Peers,
    Digest,
    Dump,
    Restore,
    Compact,
    Resume,
    Reload,
    Ping,
    Help,
    Quit,
}

/// Everything that is known about a verb.
#[derive(Clone, Copy, Debug)]
pub struct VerbSpec {
    pub verb: Verb,
    /// The verb as HELP shows it, in upper case.
    pub name: &'static str,
    /// The name with its words; those in brackets may be left out.
    pub usage: &'static str,
    /// The rest of its line in HELP: what it does, and what it refuses.
    pub sentence: &'static str,
    /// True if a value follows the key, so that its line may be as long as a value can be written.
    pub takes_value: bool,
    /// True if it may change data.
    pub writes: bool,
    /// The least role that it needs; `None` if it needs no user.
    pub role: Option<Role>,
    /// True if its reply is lines up to `END`, and not one line. False for `RESTORE`, whose reply
    /// comes behind the lines of a dump and is read apart.
    pub answers_lines: bool,
    /// True if a node that has not caught up yet answers it.
    pub is_allowed_while_loading: bool,
    parse: Parse,
}

/// Takes the words of a line and makes a request of them.
type Parse = for<'a, 'l, 'w> fn(&'w mut Words<'a, 'l>) -> Result<Request<'a>, Wrong>;

/// All verbs, in the order of [`Verb`], which is that of HELP.
pub static VERBS: [VerbSpec; 26] = [
    row(Verb::Set, "SET", "SET key value", "creates a key; refuses one that exists", |words| words.set(Only::IfAbsent))
        .takes_value()
        .writes(),
    row(Verb::Upd, "UPD", "UPD key value", "changes the value of a key; refuses one that does not exist", |words| {
        words.set(Only::IfPresent)
    })
    .takes_value()
    .writes(),
    row(Verb::Put, "PUT", "PUT key value", "sets a key, whether it exists or not", |words| words.set(Only::Always)).takes_value().writes(),
    row(Verb::Get, "GET", "GET key", "shows the value of a key, as this node knows it", |words| words.read(StringRead::Get)),
    row(Verb::Mget, "MGET", "MGET key [key ...]", "shows the values of several keys, as they are at one moment on this node", |words| {
        Ok(MultiKey::Get(words.keys()?).into())
    })
    .answers_lines(),
    row(Verb::Del, "DEL", "DEL key", "deletes a key; refuses one that does not exist", |words| {
        words.write(KeyWrite::Delete { strict: true })
    })
    .writes(),
    row(Verb::Exists, "EXISTS", "EXISTS key", "says 1 if the key exists and 0 if it does not", |words| words.read(KeyRead::Exists)),
    row(
        Verb::Incr,
        "INCR",
        "INCR key [by]",
        "adds 1, or so much, to the number that a key holds, and says the sum; a key that does not exist counts as 0",
        incr,
    )
    .writes(),
    row(
        Verb::Expire,
        "EXPIRE",
        "EXPIRE key seconds",
        "has a key expire after so many seconds, and says 1; or 0 if the key does not exist",
        expire,
    )
    .writes(),
    row(Verb::Ttl, "TTL", "TTL key", "says after how many seconds a key expires; -1 if it never does, -2 if it does not exist", |words| {
        words.read(ExpiryUnit { absolute: false, milliseconds: false })
    }),
    row(Verb::Persist, "PERSIST", "PERSIST key", "has a key never expire, and says 1; or 0 if it does not exist or never would", |words| {
        words.write(ExpiryWrite::Persist)
    })
    .writes(),
    row(Verb::Keys, "KEYS", "KEYS [prefix] [limit]", "lists the keys that begin with the prefix, in no order, and at most so many", keys)
        .answers_lines(),
    row(Verb::Count, "COUNT", "COUNT", "says how many keys there are", |_| Ok(KeyspaceCommand::Count.into())),
    row(
        Verb::Auth,
        "AUTH",
        "AUTH [user] password",
        "says who uses this connection, where the node has users; the user default if none is named",
        auth,
    )
    .for_anyone()
    .while_loading(),
    row(
        Verb::Ack,
        "ACK",
        "ACK [local|majority|all]",
        "sets how many members must hold a write of this connection before it hears OK, or shows it",
        |words| Ok(SessionCommand::Ack { level: words.parsed("ack level; expected local, majority or all")? }.into()),
    )
    .needs(Role::Monitor)
    .while_loading(),
    row(Verb::Status, "STATUS", "STATUS", "shows the state, the sizes and the limits of this node", |_| Ok(Admin::Status.into()))
        .needs(Role::Monitor)
        .answers_lines()
        .while_loading(),
    row(Verb::Peers, "PEERS", "PEERS", "shows how this node stands with each of the others", |_| Ok(Admin::Peers.into()))
        .needs(Role::Monitor)
        .answers_lines(),
    row(
        Verb::Digest,
        "DIGEST",
        "DIGEST [time]",
        "shows a fingerprint of all keys and values, the same on nodes that hold the same, and their number; without what expires before that time (milliseconds since 1970), or soon",
        |words| Ok(Admin::Digest { before: words.time()? }.into()),
    ),
    row(Verb::Dump, "DUMP", "DUMP", "prints everything that this node holds, as lines of JSON: a backup", |_| Ok(TextCommand::Dump.into()))
        .needs(Role::Admin)
        .answers_lines(),
    // A loading node refuses it where the lines behind it are looked after.
    row(
        Verb::Restore,
        "RESTORE",
        "RESTORE",
        "takes the lines of a DUMP, which follow without its END; what is here already or is newer stays; refuses a backup that is too old",
        |_| Ok(TextCommand::Restore.into()),
    )
    .needs(Role::Admin)
    .while_loading(),
    row(
        Verb::Compact,
        "COMPACT",
        "COMPACT",
        "writes a snapshot of this node's data now, and begins a new log; it does so by itself when the log has grown",
        |_| Ok(Admin::Compact.into()),
    )
    .needs(Role::Admin)
    .answers_lines(),
    row(
        Verb::Resume,
        "RESUME",
        "RESUME",
        "takes writes again after a full disk, once there is space: begins a new log behind a new snapshot",
        |_| Ok(Admin::Resume.into()),
    )
    .needs(Role::Admin)
    .answers_lines(),
    row(
        Verb::Reload,
        "RELOAD",
        "RELOAD",
        "reads the configuration file again, applies what can change while this node runs, and names what needs a restart",
        |_| Ok(Admin::Reload.into()),
    )
    .needs(Role::Admin)
    .answers_lines()
    .while_loading(),
    row(Verb::Ping, "PING", "PING", "says PONG", |_| Ok(ConnectionCommand::Ping { message: None }.into())).for_anyone().while_loading(),
    row(Verb::Help, "HELP", "HELP [command]", "explains one command, or lists all of them", help)
        .needs(Role::Monitor)
        .answers_lines()
        .while_loading(),
    row(Verb::Quit, "QUIT", "QUIT", "closes this connection", |_| Ok(SessionCommand::Quit.into())).for_anyone().while_loading(),
];

/// The last lines of HELP: how words are written.
pub const HELP_NOTES: [&str; 3] = [
    "One space separates key and value, and the rest of the line is the value, spaces included.",
    "A key or a value may be one double-quoted string with \\\" \\\\ \\n \\r \\t \\xHH; an empty one is \"\".",
    "Verbs may be in any case. Commands may be sent ahead of their replies.",
];

/// The names of [`VERBS`], packed.
static NAMES: [u64; VERBS.len()] = {
    let mut names = [0; VERBS.len()];
    let mut index = 0;
    while index < names.len() {
        let Some(name) = packed(VERBS[index].name.as_bytes()) else { panic!("a verb is too long") };
        names[index] = name;
        index += 1;
    }
    names
};

const fn row(verb: Verb, name: &'static str, usage: &'static str, sentence: &'static str, parse: Parse) -> VerbSpec {
    VerbSpec {
        verb,
        name,
        usage,
        sentence,
        takes_value: false,
        writes: false,
        role: Some(Role::Read),
        answers_lines: false,
        is_allowed_while_loading: false,
        parse,
    }
}

impl Verb {
    pub fn spec(self) -> &'static VerbSpec {
        &VERBS[self as usize]
    }
}

impl VerbSpec {
    /// The verb of that name, in upper or lower case; `None` if there is no such verb.
    #[inline]
    pub fn find(name: &[u8]) -> Option<&'static VerbSpec> {
        let packed = packed(name)?;
        let spec = &VERBS[NAMES.iter().position(|known| *known == packed)?];
        // Lengths differ where a name ends in zero bytes.
        (spec.name.len() == name.len()).then_some(spec)
    }

    /// The request that this verb and the rest of its line make.
    #[inline]
    pub(super) fn parse<'a>(&self, rest: &'a [u8], limits: &Limits, now_ms: &dyn Fn() -> u64) -> Result<Request<'a>, Wrong> {
        let mut words = Words { name: self.name, usage: self.usage, rest, limits, now_ms };
        let request = (self.parse)(&mut words)?;
        words.end()?;
        Ok(request)
    }

    const fn takes_value(self) -> VerbSpec {
        VerbSpec { takes_value: true, ..self }
    }

    const fn writes(self) -> VerbSpec {
        VerbSpec { writes: true, role: Some(Role::Write), ..self }
    }

    const fn needs(self, role: Role) -> VerbSpec {
        VerbSpec { role: Some(role), ..self }
    }

    const fn for_anyone(self) -> VerbSpec {
        VerbSpec { role: None, ..self }
    }

    const fn while_loading(self) -> VerbSpec {
        VerbSpec { is_allowed_while_loading: true, ..self }
    }

    const fn answers_lines(self) -> VerbSpec {
        VerbSpec { answers_lines: true, ..self }
    }
}

fn incr<'a>(words: &mut Words<'a, '_>) -> Result<Request<'a>, Wrong> {
    let key = words.key()?;
    Ok(Command::write(key, StringWrite::Add { by: words.number()?.unwrap_or(1) }).into())
}

fn expire<'a>(words: &mut Words<'a, '_>) -> Result<Request<'a>, Wrong> {
    let key = words.key()?;
    let seconds = words.number()?.ok_or_else(|| words.syntax("EXPIRE needs a number of seconds after the key"))?;
    let at = seconds.checked_mul(1000).and_then(|ms| ms.checked_add_unsigned((words.now_ms)()));
    let at = at.ok_or_else(|| words.syntax(format!("{seconds} seconds are further away than any clock counts")))?;
    Ok(Command::write(key, ExpiryWrite::Expire { at, only: ExpireOnly::default() }).into())
}

fn keys<'a>(words: &mut Words<'a, '_>) -> Result<Request<'a>, Wrong> {
    let prefix = words.next()?.unwrap_or_default();
    Ok(TextCommand::Keys { prefix, limit: words.parsed("limit; expected a number")? }.into())
}

/// `AUTH [user] password`. An error repeats none of the words: any of them may be a password.
fn auth<'a>(words: &mut Words<'a, '_>) -> Result<Request<'a>, Wrong> {
    let login = match [words.next(), words.next(), words.next()] {
        [Ok(Some(password)), Ok(None), Ok(None)] => Login { user: None, password: Password(password) },
        [Ok(Some(user)), Ok(Some(password)), Ok(None)] => Login { user: Some(user), password: Password(password) },
        _ => return Err(words.syntax("AUTH needs a password, or the name of a user and a password")),
    };
    Ok(ConnectionCommand::Authenticate(Box::new(login)).into())
}

fn help<'a>(words: &mut Words<'a, '_>) -> Result<Request<'a>, Wrong> {
    let verb = words.next()?.map(|verb| String::from_utf8_lossy(&verb).into_owned());
    Ok(TextCommand::Help { verb }.into())
}

/// A name in upper case as one number; `None` if it is longer than any verb's.
#[inline]
const fn packed(name: &[u8]) -> Option<u64> {
    const LEN_MAX: usize = 7;
    if name.len() > LEN_MAX {
        return None;
    }
    let mut packed = 0;
    let mut index = 0;
    while index < name.len() {
        packed = packed << 8 | name[index].to_ascii_uppercase() as u64;
        index += 1;
    }
    Some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_verbs_and_knows_their_names() {
        let found = |name: &[u8]| VerbSpec::find(name).map(|spec| spec.verb);
        for (index, spec) in VERBS.iter().enumerate() {
            assert_eq!(spec.verb as usize, index);
            assert_eq!(spec.verb.spec().name, spec.name);
            assert_eq!(found(spec.name.as_bytes()), Some(spec.verb));
            assert_eq!(found(spec.name.to_lowercase().as_bytes()), Some(spec.verb));
            assert!(spec.usage.starts_with(spec.name));
        }
        for name in [&b""[..], b"SETS", b"statuses", b"GET\0", b"\0GET"] {
            assert_eq!(found(name), None);
        }
    }
}
