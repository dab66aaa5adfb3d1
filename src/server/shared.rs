//! The state that all sessions of a server share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
use crate::replication::replica::Replica;
use crate::replication::submit::Submit;
use crate::server::clients::Clients;
use crate::server::counters::Counters;
use crate::server::session_room::SessionRoom;
use crate::store::Store;
use crate::wire::bytes::Limits;

/// The parts of a node that sessions work with.
pub struct Services {
    pub config: Arc<Config>,
    pub store: Arc<Store>,
    pub submit: Arc<Submit>,
    pub acks: Arc<Acks>,
    /// Tells whether the node is open, and reports; writes go through `submit` and `acks`.
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

/// The state that the accepting thread and all sessions share.
pub(crate) struct Shared {
    pub(crate) services: Services,
    /// The address on which clients are accepted.
    pub(crate) addr: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) clients: Clients,
    pub(crate) counters: Counters,
    pub(crate) read_room: SessionRoom,
    pub(crate) reply_room: SessionRoom,
    /// Bounds the log lines whose number clients decide.
    pub(crate) log_limit: LogLimit,
    /// Once true, sessions end after the round that they are in.
    pub(crate) stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
