//! Clients: the port, a thread each, and what their commands come to.
//!
//! Owns the listening socket, the sockets of clients, and their threads. A session reads what its
//! client has sent, executes *all* of it as one round, waits once until the writes of the round are
//! acknowledged, and answers with one write. Of replication it sees only the face for writes
//! ([`Submit`](crate::replication::submit::Submit), [`Acks`](crate::replication::acks::Acks)) and
//! the reports of [`Replica`].

mod atomic_step;
pub(crate) mod client_handle;
mod client_socket;
pub(crate) mod clients;
pub mod commands;
mod connection;
pub(crate) mod counters;
pub(crate) mod evaluation;
mod listener;
mod memory_limit;
mod multi_queue;
mod outgoing;
mod protocol;
mod read_buffer;
mod request;
mod restore;
pub(crate) mod rounds;
mod session;
pub(crate) mod shared;
mod writes;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::budget::ByteBudget;
use crate::net::Acceptor;
use crate::net::tls::NodeTls;
use crate::process::logging::LogLimit;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::server::clients::Clients;
use crate::server::counters::Counters;
use crate::server::shared::{READ_BUDGET, REPLY_BUDGET, Services, Shared};
use crate::wire::bytes::Limits;

/// The running server; [`Server::stop`] ends it.
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl Server {
    /// Serves clients on `listener`, which [`listen`](crate::net::listen) makes, from now on.
    pub fn start(listener: TcpListener, replica: Arc<Replica>, replicator: Arc<Replicator>, tls: Arc<NodeTls>) -> io::Result<Server> {
        let services = Services::of(replica, replicator);
        let config = &services.config;
        let limits = Limits { key_len_max: config.key_len_max, value_len_max: config.value_len_max };
        let clients = Clients::default();
        let counters = Counters::default();
        let (read_budget, reply_budget) =
            (ByteBudget::new(READ_BUDGET), ByteBudget::new(REPLY_BUDGET.max(2 * restore::line_len_max(&limits))));
        let (addr, stopping) = (listener.local_addr()?, AtomicBool::new(false));
        let shared = Arc::new(Shared {
            services,
            addr,
            tls,
            limits,
            clients,
            counters,
            read_budget,
            reply_budget,
            log_limit: LogLimit::new(1),
            stopping,
        });
        let acceptor = listener::accept_clients(listener, Arc::clone(&shared))?;
        Ok(Server { shared, acceptor })
    }

    /// The address on which it accepts clients.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// The number of clients that are connected now.
    pub fn clients_len(&self) -> usize {
        self.shared.clients.len()
    }

    /// Stops the server: it accepts no more clients, lets every session finish its round and send
    /// its replies, and joins the threads. Sessions that are not done at the deadline are cut off.
    /// Returns how many of those have still not ended a moment later.
    pub fn stop(self, deadline: Instant) -> usize {
        self.shared.stopping.store(true, Ordering::Release);
        self.acceptor.stop(deadline);
        self.shared.clients.end(deadline)
    }
}

#[cfg(test)]
mod tests;
