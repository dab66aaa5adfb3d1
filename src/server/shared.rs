//! The state that all sessions of a server share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::budget::ByteBudget;
use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::net::tls::NodeTls;
use crate::process::logging::LogLimit;
use crate::replication::acks::Acks;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::replication::submit::Submit;
use crate::server::access::AccessControl;
use crate::server::clients::Clients;
use crate::server::counters::Counters;
use crate::server::denials::DenialLog;
use crate::server::newcomers::Newcomers;
use crate::store::Store;
use crate::wire::bytes::Limits;

/// Bytes for large commands while they arrive, for what is queued for EXEC, and for what is read
/// ahead while a client takes no replies: what read buffers take above a burst each.
///
/// Any legal command fits, or dozens that are usual. Beyond this, a client that sends a large
/// command hears `ERROR BUSY` and is closed, nothing is read ahead, and small commands are served
/// as ever.
pub(crate) const READ_BUDGET: usize = 1 << 30;
/// Bytes for long replies that their clients do not take at once, as far as the store does not hold
/// them anyway. More where values may be so long that two lines of a dump would not fit.
///
/// Beyond this, a client that does not take such a reply at once is closed, and `KEYS` of too many
/// hears `BUSY`.
pub(crate) const REPLY_BUDGET: usize = 256 << 20;

/// The parts of a node that sessions work with.
pub struct Services {
    /// As it was at the start.
    pub config: Arc<Config>,
    /// As it is in force now.
    pub live: Arc<LiveConfig>,
    pub store: Arc<Store>,
    pub submit: Arc<Submit>,
    pub acks: Arc<Acks>,
    /// Tells whether the node is open, and reports; writes go through `submit` and `acks`.
    pub replica: Arc<Replica>,
    pub replicator: Arc<Replicator>,
}

impl Services {
    pub(crate) fn of(replica: Arc<Replica>, replicator: Arc<Replicator>) -> Services {
        Services {
            config: Arc::clone(replica.config()),
            live: Arc::clone(replica.live()),
            store: Arc::clone(replica.store()),
            submit: Arc::clone(replica.submit()),
            acks: Arc::clone(replica.acks()),
            replica,
            replicator,
        }
    }
}

/// The state that the accepting thread and all sessions share.
pub(crate) struct Shared {
    pub(crate) services: Services,
    /// The address on which clients are accepted.
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Arc<NodeTls>,
    pub(crate) limits: Limits,
    pub(crate) clients: Clients,
    /// Apart, since a reload puts another access in force.
    pub(crate) access: Arc<AccessControl>,
    pub(crate) newcomers: Newcomers,
    pub(crate) denials: DenialLog,
    pub(crate) counters: Counters,
    pub(crate) read_budget: Arc<ByteBudget>,
    pub(crate) reply_budget: Arc<ByteBudget>,
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
