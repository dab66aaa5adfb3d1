//! CLIENT: who is connected, what they have said of themselves, and how to be rid of them.
//!
//! One pass over the clients' handles, copied out of the table first: no lock is held while lines are written, so that ten thousand clients
//! keep nobody from connecting.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::server::Shared;
use crate::server::client::Client;
use crate::wire::command::{ClientCommand, ClientKind, KillClients};
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::resp::RespVersion;

/// The only user there is.
const USER: &str = "default";

/// What a command comes to.
pub(in crate::server) struct Answered {
    pub reply: Reply<'static>,
    /// Whoever asked is closed when this is said.
    pub closes: bool,
}

/// Never waits, not even for those whom it kills.
#[inline(never)]
pub(in crate::server) fn client(shared: &Shared, me: &Arc<Client>, command: &ClientCommand<'_>) -> Answered {
    let reply = match command {
        ClientCommand::Id => Reply::Integer(me.number() as i64),
        ClientCommand::Info => Reply::Text(lines([me])),
        ClientCommand::List { kind: Some(ClientKind::Other), .. } => Reply::Text(String::new()),
        ClientCommand::List { ids, kind: _ } => {
            let listed = ids.as_ref().map_or_else(|| shared.clients.all(), |ids| shared.clients.these(ids));
            Reply::Text(lines(&listed))
        }
        ClientCommand::GetName => match me.said().name {
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
        ClientCommand::Kill(which) => return kill(shared, me, which),
        ClientCommand::NoEvict(no_evict) => {
            me.set_no_evict(*no_evict);
            Reply::Ok
        }
        ClientCommand::NoTouch(no_touch) => {
            me.set_no_touch(*no_touch);
            Reply::Ok
        }
    };
    Answered { reply, closes: false }
}

fn kill(shared: &Shared, me: &Arc<Client>, which: &KillClients<'_>) -> Answered {
    let candidates = which.id.map_or_else(|| shared.clients.all(), |id| shared.clients.these(&[id]));
    let (mut killed, mut closes) = (0, false);
    for client in candidates.iter().filter(|client| is_meant(client, which)) {
        if client.number() == me.number() {
            closes = which.also_me;
            killed += i64::from(which.also_me);
        } else {
            killed += i64::from(client.kill());
        }
    }
    let reply = match killed {
        0 if which.strict => Reply::error(ErrorCode::Err, "No such client"),
        _ if which.strict => Reply::Ok,
        killed => Reply::Integer(killed),
    };
    Answered { reply, closes }
}

fn is_meant(client: &Client, which: &KillClients<'_>) -> bool {
    let is = |wanted: &Option<_>, addr: fn(&Client) -> Option<SocketAddr>| {
        wanted.as_ref().is_none_or(|wanted: &std::borrow::Cow<'_, [u8]>| shown(addr(client)).as_bytes() == &**wanted)
    };
    which.kind.is_none_or(|kind| kind == ClientKind::Normal)
        && which.user.as_ref().is_none_or(|user| **user == *USER.as_bytes())
        && is(&which.addr, Client::addr)
        && is(&which.laddr, Client::local_addr)
}

fn lines<'c>(clients: impl IntoIterator<Item = &'c Arc<Client>>) -> String {
    clients.into_iter().fold(String::new(), |mut lines, client| {
        line(client, &mut lines);
        lines
    })
}

/// The fields of Redis 7.0 that are known here, in its order, and those of later versions behind them. Names have no spaces in them: the parser sees to that.
fn line(client: &Client, out: &mut String) {
    let (said, queued) = (client.said(), client.queued());
    // Writing to memory does not fail.
    let _ = write!(out, "id={} addr={} laddr={}", client.number(), shown(client.addr()), shown(client.local_addr()));
    #[cfg(unix)]
    let _ = write!(out, " fd={}", std::os::fd::AsRawFd::as_raw_fd(client.socket()));
    let name = String::from_utf8_lossy(&said.name);
    let _ = write!(out, " name={name} age={} idle={} flags=", client.age().as_secs(), client.idle().as_secs());
    let flags = [('x', queued.requests.is_some()), ('e', said.no_evict), ('T', said.no_touch)];
    let before = out.len();
    out.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag));
    if out.len() == before {
        out.push('N');
    }
    let multi = queued.requests.map_or(-1, |requests| requests as i64);
    let _ = write!(out, " db=0 sub=0 psub=0 ssub=0 multi={multi} watch={}", queued.watched);
    let _ = write!(out, " qbuf={} multi-mem={}", client.unread_len(), queued.size);
    if let Some(command) = said.command {
        let _ = write!(out, " cmd={command}");
    }
    let resp = if said.version == RespVersion::Two { 2 } else { 3 };
    let (lib_name, lib_version) = (String::from_utf8_lossy(&said.lib_name), String::from_utf8_lossy(&said.lib_version));
    let _ = writeln!(out, " user={USER} redir=-1 resp={resp} lib-name={lib_name} lib-ver={lib_version}");
}

/// As Redis shows an address, and one that it could not find out.
fn shown(addr: Option<SocketAddr>) -> String {
    addr.map_or_else(|| "?:0".to_owned(), |addr| addr.to_string())
}
