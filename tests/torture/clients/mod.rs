//! The load: clients of both protocols at every node, each group of keys with its own. They are
//! paced, so that the machine is not saturated and the history of a long run fits into memory.
//!
//! The seed decides what each client does, and the speed of the nodes how often.

mod groups;
mod session;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use fastrand::Rng;
use kvmesh::wire::ack_level::AckLevel;
use parking_lot::Mutex;

use crate::connection::Protocol;
use crate::history::History;
use crate::keys::Key;
use crate::kit::wait::poll_until;
use crate::nodes::NodeHandle;

use session::Session;

/// Keys of each kind that readers choose from.
const SHOWN_MAX: usize = 64;

/// State that all clients share.
pub struct Shared {
    pub history: History,
    pub nodes: Vec<Arc<NodeHandle>>,
    ends: AtomicBool,
    /// Next number of a register or a contended key; none is used twice.
    next_number: AtomicU64,
    /// For each node, its registers in use and how many operations they have had.
    registers: Vec<Registers>,
    /// Keys that readers choose from.
    ledger: Shown,
    gone: Shown,
    expiring: Shown,
    /// The key that is being written for another client to take over, and the key that this client
    /// has seen.
    handed: Mutex<Option<Handed>>,
    seen: Mutex<Option<Key>>,
    /// Start of the clients, for keys that change with time.
    began: Instant,
}

#[derive(Clone, Copy, PartialEq)]
struct Handed {
    key: Key,
    /// It is deleted once it has been seen: then the delete is to be seen and written over.
    is_deleted: bool,
}

#[derive(Default)]
struct Registers {
    first: AtomicU32,
    used: AtomicU32,
}

/// The newest keys of a kind.
#[derive(Default)]
struct Shown(Mutex<VecDeque<Key>>);

impl Shown {
    fn add(&self, key: Key) {
        let mut keys = self.0.lock();
        if keys.len() == SHOWN_MAX {
            keys.pop_front();
        }
        keys.push_back(key);
    }

    fn choose(&self, rng: &mut Rng) -> Option<Key> {
        let keys = self.0.lock();
        if keys.is_empty() { None } else { keys.get(rng.usize(..keys.len())).copied() }
    }
}

impl Shared {
    fn new(nodes: Vec<Arc<NodeHandle>>) -> Shared {
        Shared {
            history: History::default(),
            registers: nodes.iter().map(|_| Registers::default()).collect(),
            nodes,
            ends: AtomicBool::new(false),
            next_number: AtomicU64::new(1),
            ledger: Shown::default(),
            gone: Shown::default(),
            expiring: Shown::default(),
            handed: Mutex::default(),
            seen: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn is_over(&self) -> bool {
        self.ends.load(Ordering::Relaxed) || self.history.is_full()
    }

    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

pub struct Clients {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(nodes: Vec<Arc<NodeHandle>>, seed: u64) -> io::Result<Clients> {
        let nodes_len = nodes.len();
        let shared = Arc::new(Shared::new(nodes));
        let mut clients = Clients { shared, threads: Vec::new() };
        let mut add = |at: usize, protocol: Protocol, level: AckLevel, run: fn(Session, &Shared, Rng)| {
            let client = clients.threads.len() as u16;
            let session = Session::new(&clients.shared, client, at, protocol, level);
            let shared = Arc::clone(&clients.shared);
            let rng = Rng::with_seed(seed ^ (u64::from(client) << 32));
            let thread = thread::Builder::new().name(format!("client-{client}")).spawn(move || run(session, &shared, rng))?;
            clients.threads.push(thread);
            io::Result::Ok(())
        };
        for at in 0..nodes_len {
            let protocol = |number: usize| if (at + number).is_multiple_of(2) { Protocol::Text } else { Protocol::Resp };
            add(at, Protocol::Text, AckLevel::Majority, groups::run_registers)?;
            add(at, Protocol::Resp, AckLevel::Majority, groups::run_registers)?;
            add(at, protocol(0), AckLevel::Local, groups::run_registers)?;
            add(at, Protocol::Text, AckLevel::Local, groups::run_local)?;
            add(at, protocol(1), AckLevel::Majority, groups::run_ledger)?;
            add(at, protocol(0), if at == 0 { AckLevel::All } else { AckLevel::Majority }, groups::run_contended)?;
            add(at, protocol(1), AckLevel::Local, groups::run_reader)?;
            add(at, Protocol::Resp, AckLevel::Majority, groups::run_builders)?;
        }
        add(0, Protocol::Text, AckLevel::Majority, groups::run_gone)?;
        add(1, Protocol::Resp, AckLevel::Majority, groups::run_pairs)?;
        add(nodes_len - 1, Protocol::Resp, AckLevel::Majority, groups::run_expiring)?;
        add(nodes_len - 1, Protocol::Resp, AckLevel::Majority, groups::run_hand_over)?;
        add(0, Protocol::Resp, AckLevel::Majority, groups::run_take_over)?;
        add(nodes_len - 1, Protocol::Resp, AckLevel::Majority, groups::run_twins)?;
        add(nodes_len - 1, Protocol::Resp, AckLevel::Majority, groups::run_twins)?;
        add(0, Protocol::Resp, AckLevel::Majority, groups::run_half)?;
        Ok(clients)
    }

    /// Asks all clients to end and waits for them. Returns how many have not ended by the deadline,
    /// or have panicked. Those take no part in what follows.
    pub fn end(&mut self, deadline: Instant) -> usize {
        self.shared.ends.store(true, Ordering::Relaxed);
        let _ = poll_until(deadline, || if self.threads.iter().all(JoinHandle::is_finished) { Ok(()) } else { Err(()) });
        let (ended, hung): (Vec<_>, Vec<_>) = self.threads.drain(..).partition(JoinHandle::is_finished);
        let panicked = ended.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        hung.len() + panicked
    }
}
