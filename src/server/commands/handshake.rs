//! Commands that concern the connection: what a client library sends when it connects, and what it
//! chooses later.

use super::introspection::{REDIS_VERSION, text};
use super::spec::Spec;
use crate::server::authorization::DEFAULT_USER;
use crate::server::connection::{Connection, WRONG_PASSWORD};
use crate::wire::bytes::Bytes;
use crate::wire::command::{Command, ConnectionCommand, Login, Password, SessionCommand};
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::arguments::{Arguments, is, shown, syntax, within, wrong};

/// The longest name of a client, and the longest attribute of one. A node keeps them for as long as
/// the client is connected; beyond this they are refused.
pub(super) const NAME_LEN_MAX: usize = 1024;

pub(super) static COMMANDS: &[Spec] = &[
    Spec::command("ping", -1, "loading stale fast", parse_ping)
        .categories("connection")
        .for_anyone()
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("connection", "1.0.0", "O(1)")
        .help("[message]", "Returns PONG, or what it is given."),
    Spec::command("echo", 2, "loading stale fast", |words| Ok(ConnectionCommand::Echo { message: words.data(1) }.into()))
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("message", "Returns what it is given."),
    Spec::session("quit", -1, "noscript loading stale fast no_auth allow_busy", |_| Ok(SessionCommand::Quit))
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("", "Closes the connection."),
    Spec::session("reset", 1, "noscript loading stale fast no_auth allow_busy", |_| Ok(SessionCommand::Reset))
        .categories("connection")
        .docs("connection", "6.2.0", "O(1)")
        .help("", "Makes the connection as it was when it began."),
    Spec::command("select", 2, "loading stale fast", parse_select)
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("index", "Chooses the database, of which there is one: 0."),
    Spec::command("auth", -2, "noscript loading stale fast no_auth allow_busy", parse_auth)
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("[username] password", "Says who uses this connection, where the node has users."),
    Spec::command("hello", -1, "noscript loading stale fast no_auth allow_busy", parse_hello)
        .categories("connection")
        .docs("connection", "6.0.0", "O(1)")
        .help(
            "[protover [AUTH username password] [SETNAME clientname]]",
            "Chooses the version of the protocol and says who this server is.",
        ),
    Spec::session("ack", -1, "loading stale fast", parse_ack).categories("connection").docs("connection", "0.1.0", "O(1)").help(
        "[LOCAL|MAJORITY|ALL]",
        "Sets how many nodes must hold a write before it is answered: local, majority or all; or returns it.",
    ),
];

/// Answers AUTH. Where there are no users, the user `default` has no password, as in a Redis that
/// has none.
#[inline(never)]
pub(super) fn auth(connection: &mut Connection<'_>, login: &Login<'_>) -> Reply<'static> {
    if connection.authorization.access().has_users() {
        return connection.log_in(login);
    }
    match &login.user {
        Some(user) if **user == *DEFAULT_USER.as_bytes() => Reply::Ok,
        Some(_) => Reply::error(ErrorCode::WrongPass, WRONG_PASSWORD),
        None => Reply::error(
            ErrorCode::Err,
            "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ),
    }
}

/// Answers HELLO: says who uses the connection, chooses the version of RESP, and tells who this
/// server is.
#[inline(never)]
pub(super) fn hello(
    connection: &mut Connection<'_>,
    version: Option<RespVersion>,
    login: Option<&Login<'_>>,
    name: Option<&[u8]>,
) -> Reply<'static> {
    if let Some(login) = login
        && let refused @ Reply::Error { .. } = auth(connection, login)
    {
        return refused;
    }
    if connection.authorization.is_of_nobody() {
        let sentence = "HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can \
                        be used to authenticate the client and select the RESP protocol version at the same time";
        return Reply::error(ErrorCode::NoAuth, sentence);
    }
    let version = version.unwrap_or(connection.version);
    connection.version = version;
    connection.client.set_version(version);
    if let Some(name) = name {
        connection.client.set_name(name);
    }
    let pair = |name: &'static str, value: Reply<'static>| (text(name), value);
    Reply::Map(vec![
        pair("server", text("redis")),
        pair("version", text(REDIS_VERSION)),
        pair("proto", Reply::Integer(if version == RespVersion::Two { 2 } else { 3 })),
        pair("id", Reply::Integer(connection.client.id() as i64)),
        pair("mode", text("standalone")),
        pair("role", text("master")),
        pair("modules", Reply::Array(Vec::new())),
    ])
}

fn parse_ping<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let message = match words.len() {
        1 => None,
        2 => Some(words.data(1)),
        _ => return Err(words.wrong_arity()),
    };
    Ok(ConnectionCommand::Ping { message }.into())
}

/// `SELECT index`: there is one database, as in a Redis cluster.
fn parse_select<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let number = words.integer(1)?;
    if i32::try_from(number).is_err() {
        return Err(wrong(format!("value is out of range, value must between {} and {}", i32::MIN, i32::MAX)));
    }
    if number == 0 { Ok(ConnectionCommand::NoOp.into()) } else { Err(wrong("DB index is out of range")) }
}

/// `AUTH [user] password`
fn parse_auth<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let login = match words.len() {
        2 => Login { user: None, password: Password(words.data(1)) },
        3 => parse_login(words, 1),
        _ => return Err(syntax()),
    };
    Ok(ConnectionCommand::Authenticate(Box::new(login)).into())
}

/// The name of a user and a password, from this word on.
fn parse_login<'a>(words: &Arguments<'a, '_>, index: usize) -> Login<'a> {
    Login { user: Some(words.data(index)), password: Password(words.data(index + 1)) }
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`
fn parse_hello<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let version = if words.len() > 1 {
        let number = words.integer(1).map_err(|_| wrong("Protocol version is not an integer or out of range"))?;
        Some(match number {
            2 => RespVersion::Two,
            3 => RespVersion::Three,
            _ => return Err(Wrong::new(ErrorCode::NoProto, "unsupported protocol version")),
        })
    } else {
        None
    };
    let (mut login, mut name) = (None, None);
    let mut index = 2;
    while index < words.len() {
        let word = words.word(index);
        let behind = words.len() - index - 1;
        if is(word, "AUTH") && behind >= 2 {
            login = Some(Box::new(parse_login(words, index + 1)));
            index += 3;
        } else if is(word, "SETNAME") && behind >= 1 {
            name = Some(parse_name(words, index + 1)?);
            index += 2;
        } else {
            return Err(wrong(format!("Syntax error in HELLO option '{}'", shown(word))));
        }
    }
    Ok(ConnectionCommand::Hello { version, login, name }.into())
}

/// `ACK [level]`, kvmesh's own.
fn parse_ack<'a>(words: &Arguments<'a, '_>) -> Result<SessionCommand<'a>, Wrong> {
    match words.len() {
        1 => Ok(SessionCommand::Ack { level: None }),
        2 => match shown(words.word(1)).parse() {
            Ok(level) => Ok(SessionCommand::Ack { level: Some(level) }),
            Err(sentence) => Err(wrong(sentence)),
        },
        _ => Err(syntax()),
    }
}

/// The name of a connection, which is shown between spaces.
pub(super) fn parse_name<'a>(words: &Arguments<'a, '_>, index: usize) -> Result<Bytes<'a>, Wrong> {
    if is_visible(words.word(index)) {
        within("name", words.word(index), NAME_LEN_MAX)
    } else {
        Err(wrong("Client names cannot contain spaces, newlines or special characters."))
    }
}

/// Returns true if a word can be shown between spaces.
pub(super) fn is_visible(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_graphic)
}
