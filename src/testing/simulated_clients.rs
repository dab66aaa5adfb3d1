//! Clients without sockets, for who drives a whole mesh in one thread: the shipped rounds, from the
//! bytes of requests to the bytes of replies.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};

use crate::budget::ByteBudget;
use crate::data::clock::Now;
use crate::net::tls::NodeTls;
use crate::process::logging::LogLimit;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::server::access::{Access, AccessControl};
use crate::server::client_handle::ClientHandle;
use crate::server::clients::Clients;
use crate::server::counters::Counters;
use crate::server::denials::DenialLog;
use crate::server::evaluation::RoundTime;
use crate::server::newcomers::Newcomers;
use crate::server::rounds::{Executed, Rounds};
use crate::server::shared::{READ_BUDGET, REPLY_BUDGET, Services, Shared};
use crate::wire::bytes::Limits;

/// The client side of one node: the state that its simulated clients share.
pub struct SimulatedServer {
    shared: Shared,
    /// One handle for all clients: no simulated client asks for the list of connections.
    client: Arc<ClientHandle>,
}

/// One connection. Its round is executed at once and settled later.
pub struct SimulatedClient<'a> {
    rounds: Rounds<'a>,
    executed: Option<Executed>,
}

impl SimulatedServer {
    pub fn new(replica: Arc<Replica>, replicator: Arc<Replicator>) -> io::Result<SimulatedServer> {
        let services = Services::of(replica, replicator);
        let limits = Limits { key_len_max: services.config.key_len_max, value_len_max: services.config.value_len_max };
        let socket = socket()?;
        let addr = socket.local_addr()?;
        let shared = Shared {
            services,
            addr,
            tls: NodeTls::new(None),
            limits,
            clients: Clients::default(),
            access: Arc::new(AccessControl::new(Access::default())),
            newcomers: Newcomers::default(),
            denials: DenialLog::default(),
            counters: Counters::default(),
            read_budget: ByteBudget::new(READ_BUDGET),
            reply_budget: ByteBudget::new(REPLY_BUDGET),
            log_limit: LogLimit::new(1),
            stopping: false.into(),
        };
        Ok(SimulatedServer { shared, client: ClientHandle::of(socket, 1) })
    }

    pub fn connect(&self) -> SimulatedClient<'_> {
        SimulatedClient { rounds: Rounds::new(&self.shared, &self.client), executed: None }
    }
}

impl SimulatedClient<'_> {
    /// Executes whole requests, which must make one round; [`SimulatedClient::poll`] has their
    /// replies.
    pub fn send(&mut self, requests: &[u8], now: Now) {
        assert!(self.executed.is_none(), "a round is sent when the one before it is answered");
        self.rounds.replies.clear();
        let buffer = &mut self.rounds.buffer;
        let mut rest = requests;
        while !rest.is_empty() {
            let fits = buffer.make_room().is_ok() && buffer.fill(&mut rest).is_ok_and(|len| len > 0);
            assert!(fits, "requests of {} bytes do not fit into the buffer", requests.len());
        }
        self.executed = Some(self.rounds.execute(&RoundTime::at(now)));
    }

    /// The replies, once they may leave; they stay until the next round. `is_late`: the ack
    /// time-out of the round is over.
    pub fn poll(&mut self, is_late: bool) -> Option<&[u8]> {
        let Rounds { replies, connection, .. } = &mut self.rounds;
        let stands = connection.try_settle(is_late, replies)?;
        self.rounds.end(self.executed.take()?, stands);
        assert!(self.rounds.buffer.unread().is_empty(), "the requests did not make one round");
        Some(&self.rounds.replies)
    }
}

/// A client has a socket to be closed by; this one is never used.
fn socket() -> io::Result<Arc<TcpStream>> {
    static SOCKET: OnceLock<Arc<TcpStream>> = OnceLock::new();
    if let Some(socket) = SOCKET.get() {
        return Ok(Arc::clone(socket));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = Arc::new(TcpStream::connect(listener.local_addr()?)?);
    Ok(Arc::clone(SOCKET.get_or_init(|| socket)))
}
