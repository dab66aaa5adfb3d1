//! Clients: the port, a thread each, and what their commands come to.
//!
//! Owns the listening socket, the sockets of clients, and their threads. A session reads what its client has sent, executes *all* of it as one
//! round, waits once until the writes of the round are acknowledged, and answers with one write. It sees of replication only the face for
//! writes ([`Submit`], [`Acks`]) and the reports of [`Replica`].

mod buffer;
pub(crate) mod client;
pub(crate) mod clients;
mod execute;
mod introspect;
pub(crate) mod judge;
mod listener;
mod long;
mod lookups;
mod outgoing;
mod plan;
mod restore;
pub(crate) mod rounds;
mod session;
pub(crate) mod session_room;
mod transaction;
mod wire;
mod writes;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::config::Config;
use crate::net::Acceptor;
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
use crate::replication::replica::Replica;
use crate::replication::submit::Submit;
use crate::server::clients::Clients;
use crate::server::session_room::{READ_ROOM, REPLY_ROOM, SessionRoom};
use crate::store::Store;
use crate::wire::bytes::Limits;

/// Everything that sessions work with.
pub struct Services {
    pub config: Arc<Config>,
    pub store: Arc<Store>,
    pub submit: Arc<Submit>,
    pub acks: Arc<Acks>,
    /// Asked whether it is open, and for its reports; writes go through `submit` and `acks`.
    pub replica: Arc<Replica>,
}

impl Services {
    pub(crate) fn of(replica: Arc<Replica>) -> Services {
        Services {
            config: Arc::clone(replica.config()),
            store: Arc::clone(replica.store()),
            submit: Arc::clone(replica.submit()),
            acks: Arc::clone(replica.acks()),
            replica,
        }
    }
}

/// The running server; [`Server::stop`] ends it.
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

/// What the accepting thread and all sessions share.
pub(crate) struct Shared {
    pub(crate) services: Services,
    /// Where clients are listened for.
    pub(crate) addr: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) clients: Clients,
    pub(crate) counters: Counters,
    pub(crate) read_room: SessionRoom,
    pub(crate) reply_room: SessionRoom,
    /// Clients decide how often something is to be logged.
    pub(crate) said: LogLimit,
    /// Once true, sessions end after the round that they are in.
    pub(crate) stopping: AtomicBool,
}

/// For STATUS and INFO. Sessions add to them once a round.
#[derive(Default)]
pub(crate) struct Counters {
    commands: AtomicU64,
    writes: AtomicU64,
    writes_refused: AtomicU64,
    writes_unknown: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    accept_errors: AtomicU64,
    /// Clients that were one too many.
    clients_refused: AtomicU64,
    /// Clients that were closed because they did not take their replies.
    clients_deaf: AtomicU64,
    /// No such client is logged before this many seconds of [`elapsed`](crate::data::clock::elapsed).
    deaf_logged_next_s: AtomicU64,
}

impl Server {
    /// Serves clients on `listener`, which [`listen`](crate::net::listen) makes, from now on.
    pub fn start(listener: TcpListener, replica: Arc<Replica>) -> io::Result<Server> {
        let services = Services::of(replica);
        let config = &services.config;
        let limits = Limits { key_len_max: config.key_len_max, value_len_max: config.value_len_max };
        let clients = Clients::new(config.clients_max);
        let counters = Counters::default();
        let (read_room, reply_room) = (SessionRoom::new(READ_ROOM), SessionRoom::new(REPLY_ROOM.max(2 * restore::line_len_max(&limits))));
        let (addr, stopping) = (listener.local_addr()?, AtomicBool::new(false));
        let shared =
            Arc::new(Shared { services, addr, limits, clients, counters, read_room, reply_room, said: LogLimit::new(1), stopping });
        let acceptor = listener::accept_clients(listener, Arc::clone(&shared))?;
        Ok(Server { shared, acceptor })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Clients that are connected now.
    pub fn clients_len(&self) -> usize {
        self.shared.clients.len()
    }

    /// Takes no more clients, lets every session finish the round that it is in and send its replies, and joins the threads. Sessions that are
    /// not done at the deadline are cut off. Returns how many of those have still not ended a moment later.
    pub fn stop(self, deadline: Instant) -> usize {
        self.shared.stopping.store(true, Ordering::Release);
        self.acceptor.stop(deadline);
        self.shared.clients.end(deadline)
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests;
