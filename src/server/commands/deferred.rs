//! Deferred answers: those that take space or time. They are written when every reply before them
//! is, and piece by piece where they would be too long to be held as a whole.

use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use super::{admin, blocking, scan};
use crate::replication::sync::serving;
use crate::server::connection::Connection;
use crate::server::outgoing::{Outgoing, buffered};
use crate::server::protocol::ClientProtocol;
use crate::server::shared::Services;
use crate::wire::command::{Admin, Blocking};
use crate::wire::reply::Reply;
use crate::wire::text::write_reply;

/// Bytes of a dump that are made ready at a time.
const DUMP_STEP_LEN: usize = 64 << 10;

/// The pause before a client hears that its login has failed: the thread of its own session waits.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_millis(200);

pub(crate) enum Deferred {
    /// A reply that is known, and large.
    Reply(Reply<'static>),
    Keys {
        prefix: Vec<u8>,
        limit: usize,
    },
    Matching {
        pattern: Vec<u8>,
    },
    Flush,
    Dump,
    Help(Option<String>),
    /// The refusal of a login, which waits.
    WrongPassword(Reply<'static>),
    Admin(Admin),
    Blocking(Blocking),
}

/// Writes an answer. Some are made here, after a wait.
pub(crate) fn write(
    outgoing: Outgoing<'_, '_>,
    connection: &mut Connection<'_>,
    deferred: Deferred,
    protocol: ClientProtocol,
) -> io::Result<()> {
    let shared = connection.shared;
    if let Some(command) = administrative(connection, &deferred) {
        connection.audit_command(command);
    }
    let reply = match deferred {
        Deferred::Reply(reply) => reply,
        Deferred::Keys { prefix, limit } => return scan::write_keys(outgoing, shared, &prefix, limit, &connection.authorization.scope()),
        Deferred::Matching { pattern } => {
            return scan::write_matching(outgoing, shared, &pattern, &connection.authorization.scope(), protocol);
        }
        Deferred::WrongPassword(reply) => {
            if connection.authorization.access().has_users() {
                thread::park_timeout(WRONG_PASSWORD_PAUSE);
            }
            reply
        }
        Deferred::Dump => return write_dump(outgoing, &shared.services),
        Deferred::Flush => scan::flush(connection),
        Deferred::Help(verb) => admin::help(verb.as_deref()),
        Deferred::Admin(command) => admin::answer(connection, &command),
        Deferred::Blocking(command) => blocking::answer(connection, command, true),
    };
    buffered(outgoing.holding(&reply), |out| protocol.write(out, &reply))
}

/// The name of a command that is for administrators, and goes to the audit log.
fn administrative(connection: &Connection<'_>, deferred: &Deferred) -> Option<&'static str> {
    match deferred {
        Deferred::Dump => Some("dump"),
        Deferred::Flush => connection.command.or(Some("flushall")),
        Deferred::Admin(command) => admin::audited_name(command),
        Deferred::Reply(_)
        | Deferred::Keys { .. }
        | Deferred::Matching { .. }
        | Deferred::Help(_)
        | Deferred::WrongPassword(_)
        | Deferred::Blocking(_) => None,
    }
}

fn write_dump(outgoing: Outgoing<'_, '_>, services: &Services) -> io::Result<()> {
    buffered(outgoing, |out| {
        let mut dump = serving::dump(&services.replica);
        let mut lines = Vec::new();
        while {
            lines.clear();
            // After a large value.
            lines.shrink_to(2 * DUMP_STEP_LEN);
            let more = dump.write(DUMP_STEP_LEN, &mut lines);
            out.get_mut().set_copied(lines.capacity());
            out.write_all(&lines)?;
            more
        } {}
        write_reply(out, &Reply::End)
    })
}
