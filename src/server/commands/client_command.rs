//! CLIENT: the clients that are connected, what they have sent of themselves, and how to close
//! them.
//!
//! Takes one pass over the clients' handles, which are copied out of the table first: no lock is
//! held while lines are written, so that ten thousand clients keep no other from connecting.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use super::handshake::{NAME_LEN_MAX, is_visible, parse_name};
use super::spec::Spec;
use crate::server::authorization::DEFAULT_USER;
use crate::server::client_handle::{ClientHandle, ClientInfo};
use crate::server::connection::Connection;
use crate::wire::bytes::Bytes;
use crate::wire::command::{ClientCommand, ClientKind, Command, KillClients};
use crate::wire::reply::{ErrorCode, Reply, Wrong};
use crate::wire::resp::RespVersion;
use crate::wire::resp::arguments::{Arguments, is, shown as shown_word, syntax, within, wrong};
use crate::wire::resp::request::integer;

pub(super) static COMMANDS: &[Spec] = &[Spec::container("client", "", "connection", "2.4.0", &SUBCOMMANDS)];

static SUBCOMMANDS: [Spec; 9] = [
    Spec::command("client|id", 2, "noscript loading stale", |_| Ok(ClientCommand::Id.into()))
        .categories("connection")
        .docs("connection", "5.0.0", "O(1)")
        .help("", "Returns the number of this connection."),
    Spec::command("client|getname", 2, "noscript loading stale", |_| Ok(ClientCommand::GetName.into()))
        .categories("connection")
        .docs("connection", "2.6.9", "O(1)")
        .help("", "Returns the name of this connection."),
    Spec::command("client|setname", 3, "noscript loading stale", |words| Ok(ClientCommand::SetName(parse_name(words, 2)?).into()))
        .categories("connection")
        .docs("connection", "2.6.9", "O(1)")
        .help("connection-name", "Names this connection."),
    Spec::command("client|setinfo", 4, "noscript loading stale", parse_setinfo)
        .categories("connection")
        .docs("connection", "7.2.0", "O(1)")
        .help("(LIB-NAME libname|LIB-VER libver)", "Says which library this connection comes from."),
    Spec::command("client|list", -2, "admin noscript loading stale", parse_list)
        .categories("connection")
        .tips("nondeterministic_output")
        .docs("connection", "2.4.0", "O(N) where N is the number of connections")
        .help("[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)|ID client-id...]", "Lists the connections of clients."),
    Spec::command("client|info", 2, "noscript loading stale", |_| Ok(ClientCommand::Info.into()))
        .categories("connection")
        .tips("nondeterministic_output")
        .docs("connection", "6.2.0", "O(1)")
        .help("", "Describes this connection."),
    Spec::command("client|kill", -3, "admin noscript loading stale", parse_kill)
        .categories("connection")
        .docs("connection", "2.4.0", "O(N) where N is the number of connections")
        .help(
            "(ip:port|(ID client-id|TYPE (NORMAL|MASTER|REPLICA|PUBSUB)|USER username|ADDR ip:port|LADDR ip:port|SKIPME (YES|NO))...)",
            "Closes connections.",
        ),
    Spec::command("client|no-evict", 3, "admin noscript loading stale", |words| {
        Ok(ClientCommand::NoEvict(yes_or_no(words.word(2), "on", "off")?).into())
    })
    .categories("connection")
    .docs("connection", "7.0.0", "O(1)")
    .help("(ON|OFF)", "Changes nothing: connections are never closed to free memory."),
    Spec::command("client|no-touch", 3, "noscript loading stale", |words| {
        Ok(ClientCommand::NoTouch(yes_or_no(words.word(2), "on", "off")?).into())
    })
    .categories("connection")
    .docs("connection", "7.2.0", "O(1)")
    .help("(ON|OFF)", "Changes nothing: reading a key never changes it."),
];

/// Answers a command. Never waits, not even for the clients that it closes.
#[inline(never)]
pub(super) fn answer(connection: &mut Connection<'_>, command: &ClientCommand<'_>) -> Reply<'static> {
    let (shared, me, has_users) = (connection.shared, connection.client, connection.authorization.access().has_users());
    // So that the caller finds itself as it is now.
    me.set_queued(connection.transaction.size());
    connection.note_command();
    match command {
        ClientCommand::Id => Reply::Integer(me.id() as i64),
        ClientCommand::Info => Reply::Text(lines([me], has_users)),
        ClientCommand::List { kind: Some(ClientKind::Other), .. } => Reply::Text(String::new()),
        ClientCommand::List { ids, kind: _ } => {
            let listed = ids.as_ref().map_or_else(|| shared.clients.all(), |ids| shared.clients.by_ids(ids));
            Reply::Text(lines(&listed, has_users))
        }
        ClientCommand::GetName => match me.info().name {
            name if name.is_empty() => Reply::Null,
            name => Reply::Bytes(name.into()),
        },
        ClientCommand::SetName(name) => {
            me.set_name(name);
            Reply::Ok
        }
        ClientCommand::SetInfo { version, value } => {
            if *version {
                me.set_lib_version(value)
            } else {
                me.set_lib_name(value)
            }
            Reply::Ok
        }
        ClientCommand::Kill(which) => kill(connection, which),
        ClientCommand::NoEvict(no_evict) => {
            me.set_no_evict(*no_evict);
            Reply::Ok
        }
        ClientCommand::NoTouch(no_touch) => {
            me.set_no_touch(*no_touch);
            Reply::Ok
        }
    }
}

/// Closes clients. The caller, if it is among them, is closed when it has its reply.
fn kill(connection: &mut Connection<'_>, which: &KillClients<'_>) -> Reply<'static> {
    connection.audit_command("client|kill");
    let (shared, me, access) = (connection.shared, connection.client, connection.authorization.access());
    let has_users = access.has_users();
    if let Some(user) = &which.user
        && access.user(user).is_none()
        && (has_users || **user != *DEFAULT_USER.as_bytes())
    {
        return Reply::error(ErrorCode::Err, format!("No such user '{}'", shown_word(user)));
    }
    let candidates = which.id.map_or_else(|| shared.clients.all(), |id| shared.clients.by_ids(&[id]));
    let mut killed = 0;
    for client in candidates.iter().filter(|client| is_meant(client, which, has_users)) {
        if client.id() == me.id() {
            connection.closes |= which.also_me;
            killed += i64::from(which.also_me);
        } else {
            killed += i64::from(client.kill());
        }
    }
    match killed {
        0 if which.strict => Reply::error(ErrorCode::Err, "No such client"),
        _ if which.strict => Reply::Ok,
        killed => Reply::Integer(killed),
    }
}

fn is_meant(client: &ClientHandle, which: &KillClients<'_>, has_users: bool) -> bool {
    let is = |wanted: &Option<_>, addr: fn(&ClientHandle) -> Option<SocketAddr>| {
        wanted.as_ref().is_none_or(|wanted: &Bytes<'_>| shown(addr(client)).as_bytes() == &**wanted)
    };
    which.kind.is_none_or(|kind| kind == ClientKind::Normal)
        && which.user.as_ref().is_none_or(|user| **user == *user_of(&client.info(), has_users).as_bytes())
        && is(&which.addr, ClientHandle::addr)
        && is(&which.laddr, ClientHandle::local_addr)
}

/// The user of a connection as Redis shows it. Where there are users, one that has not logged in
/// has none.
fn user_of(info: &ClientInfo, has_users: bool) -> &str {
    info.user.as_deref().unwrap_or(if has_users { "(nobody)" } else { DEFAULT_USER })
}

fn lines<'c>(clients: impl IntoIterator<Item = &'c Arc<ClientHandle>>, has_users: bool) -> String {
    clients.into_iter().fold(String::new(), |mut lines, client| {
        line(client, has_users, &mut lines);
        lines
    })
}

/// Appends the line of a client: the fields of Redis 7.0 that are known here, in its order, and
/// those of later versions behind them. Names have no spaces in them: the parser sees to that.
fn line(client: &ClientHandle, has_users: bool, out: &mut String) {
    let (info, queued) = (client.info(), client.queued());
    // Writing to memory does not fail.
    let _ = write!(out, "id={} addr={} laddr={}", client.id(), shown(client.addr()), shown(client.local_addr()));
    #[cfg(unix)]
    let _ = write!(out, " fd={}", std::os::fd::AsRawFd::as_raw_fd(client.socket()));
    let name = String::from_utf8_lossy(&info.name);
    let _ = write!(out, " name={name} age={} idle={} flags=", client.age().as_secs(), client.idle().as_secs());
    let flags = [('x', queued.requests.is_some()), ('e', info.no_evict), ('T', info.no_touch)];
    let before = out.len();
    out.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag));
    if out.len() == before {
        out.push('N');
    }
    let multi = queued.requests.map_or(-1, |requests| requests as i64);
    let _ = write!(out, " db=0 sub=0 psub=0 ssub=0 multi={multi} watch={}", queued.watched);
    let _ = write!(out, " qbuf={} multi-mem={}", client.unread_len(), queued.size);
    if let Some(command) = info.command {
        let _ = write!(out, " cmd={command}");
    }
    let resp = if info.version == RespVersion::Two { 2 } else { 3 };
    let (lib_name, lib_version) = (String::from_utf8_lossy(&info.lib_name), String::from_utf8_lossy(&info.lib_version));
    let user = user_of(&info, has_users);
    let _ = writeln!(out, " user={user} redir=-1 resp={resp} lib-name={lib_name} lib-ver={lib_version}");
}

/// An address as Redis shows it, also one that could not be found out.
fn shown(addr: Option<SocketAddr>) -> String {
    addr.map_or_else(|| "?:0".to_owned(), |addr| addr.to_string())
}

/// `CLIENT SETINFO lib-name | lib-ver value`
fn parse_setinfo<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let attribute = words.word(2);
    let version = is(attribute, "lib-ver");
    if !version && !is(attribute, "lib-name") {
        return Err(wrong(format!("Unrecognized option '{}'", shown_word(attribute))));
    }
    if !is_visible(words.word(3)) {
        return Err(wrong(format!("{} cannot contain spaces, newlines or special characters.", shown_word(attribute))));
    }
    Ok(ClientCommand::SetInfo { version, value: within("value", words.word(3), NAME_LEN_MAX)? }.into())
}

/// `CLIENT LIST [TYPE type | ID id …]`
fn parse_list<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    let (mut ids, mut kind) = (None, None);
    if words.len() == 4 && is(words.word(2), "TYPE") {
        kind = Some(parse_kind(words, 3)?);
    } else if words.len() > 3 && is(words.word(2), "ID") {
        let all: Option<Vec<i64>> = words.few(3)?.map(integer).collect();
        let all = all.ok_or_else(|| wrong("Invalid client ID"))?;
        // No client has a negative one.
        ids = Some(all.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
    } else if words.len() != 2 {
        return Err(syntax());
    }
    Ok(ClientCommand::List { ids, kind }.into())
}

/// `CLIENT KILL addr`, or with options: [ID id] [TYPE type] [USER user] [ADDR addr] [LADDR addr]
/// [SKIPME yes | no]
fn parse_kill<'a>(words: &Arguments<'a, '_>) -> Result<Command<'a>, Wrong> {
    if words.len() == 3 {
        let kill = KillClients { strict: true, addr: Some(words.data(2)), also_me: true, ..KillClients::default() };
        return Ok(ClientCommand::Kill(Box::new(kill)).into());
    }
    let mut kill = KillClients::default();
    let mut index = 2;
    while index < words.len() {
        let option = words.word(index);
        index += 1;
        if index == words.len() {
            return Err(syntax());
        }
        let word = words.word(index);
        if is(option, "ID") {
            let id = integer(word).and_then(|id| u64::try_from(id).ok()).filter(|id| *id >= 1);
            kill.id = Some(id.ok_or_else(|| wrong("client-id should be greater than 0"))?);
        } else if is(option, "TYPE") {
            kill.kind = Some(parse_kind(words, index)?);
        } else if is(option, "ADDR") {
            kill.addr = Some(words.data(index));
        } else if is(option, "LADDR") {
            kill.laddr = Some(words.data(index));
        } else if is(option, "USER") {
            kill.user = Some(words.data(index));
        } else if is(option, "SKIPME") {
            kill.also_me = !yes_or_no(word, "yes", "no")?;
        } else {
            return Err(syntax());
        }
        index += 1;
    }
    Ok(ClientCommand::Kill(Box::new(kill)).into())
}

fn yes_or_no(word: &[u8], yes: &str, no: &str) -> Result<bool, Wrong> {
    if is(word, yes) || is(word, no) { Ok(is(word, yes)) } else { Err(syntax()) }
}

fn parse_kind(words: &Arguments<'_, '_>, index: usize) -> Result<ClientKind, Wrong> {
    let word = words.word(index);
    if is(word, "normal") {
        Ok(ClientKind::Normal)
    } else if ["slave", "replica", "pubsub", "master"].into_iter().any(|kind| is(word, kind)) {
        Ok(ClientKind::Other)
    } else {
        Err(wrong(format!("Unknown client type '{}'", shown_word(word))))
    }
}
