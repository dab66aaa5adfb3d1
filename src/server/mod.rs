//! Clients: the port, a thread each, and what their commands come to.
//!
//! Owns the listening socket, the sockets of clients, and their threads. A session reads what its
//! client has sent, executes *all* of it as one round, waits once until the writes of the round are
//! acknowledged, and answers with one write. Of replication it sees only the face for writes
//! ([`Submit`](crate::replication::submit::Submit), [`Acks`](crate::replication::acks::Acks)) and
//! the reports of [`Replica`].

pub(crate) mod access;
mod atomic_step;
pub(crate) mod authorization;
pub(crate) mod client_handle;
mod client_socket;
pub(crate) mod clients;
pub mod commands;
mod connection;
pub(crate) mod counters;
pub(crate) mod denials;
pub(crate) mod evaluation;
mod listener;
mod memory_limit;
mod multi_queue;
pub(crate) mod newcomers;
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
use crate::config::Config;
use crate::config::live::PutInForce;
use crate::net::Acceptor;
use crate::net::tls::NodeTls;
use crate::process::logging::LogLimit;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::server::access::{Access, AccessControl};
use crate::server::clients::Clients;
use crate::server::commands::names;
use crate::server::counters::Counters;
use crate::server::denials::DenialLog;
use crate::server::newcomers::Newcomers;
use crate::server::shared::{READ_BUDGET, REPLY_BUDGET, Services, Shared};
use crate::wire::bytes::Limits;

/// The running server; [`Server::stop`] ends it.
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

/// Checks the fields that the server alone understands. The error says what was found instead of
/// what.
pub fn check_config(config: &Config) -> Result<(), String> {
    access_of(config).map(drop)
}

fn access_of(config: &Config) -> Result<Access, String> {
    let mut disabled = Vec::new();
    for name in &config.disabled_commands {
        let named = names::named(name);
        if named.is_empty() {
            return Err(format!(
                "field \"disabled_commands\": found {name:?}, expected the name of a command such as \"flushall\" or \"client|kill\""
            ));
        }
        disabled.extend(named);
    }
    Ok(Access::new(&config.users, disabled))
}

/// Makes a reload put the users and the disabled commands in force.
fn reload_access(replica: &Replica, access: &Arc<AccessControl>) {
    let access = Arc::clone(access);
    replica.live().add_part(Box::new(move |config| {
        // The addresses stay as they are, whatever the file says of them.
        config.check_exposure().map_err(|refusal| refusal.to_string())?;
        let (access, next) = (Arc::clone(&access), access_of(config)?);
        let put_in_force: PutInForce = Box::new(move || access.replace(next));
        Ok(put_in_force)
    }));
}

impl Server {
    /// Serves clients on `listener`, which [`listen`](crate::net::listen) makes, from now on.
    pub fn start(listener: TcpListener, replica: Arc<Replica>, replicator: Arc<Replicator>, tls: Arc<NodeTls>) -> io::Result<Server> {
        let services = Services::of(replica, replicator);
        let config = &services.config;
        let limits = Limits { key_len_max: config.key_len_max, value_len_max: config.value_len_max };
        let access = Arc::new(AccessControl::new(access_of(config).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?));
        let (clients, newcomers) = (Clients::default(), Newcomers::default());
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
            access,
            newcomers,
            denials: DenialLog::default(),
            counters,
            read_budget,
            reply_budget,
            log_limit: LogLimit::new(1),
            stopping,
        });
        reload_access(&shared.services.replica, &shared.access);
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
