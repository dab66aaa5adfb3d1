//! Who is connected: the sockets and threads of all clients, up to a bound.
//!
//! Owns the thread handles. A thread cannot join itself, so one that ends now and then joins those that ended before it: only a few ended threads
//! are unjoined at any time, however clients come and go.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::server::client_handle::ClientHandle;

/// A session holds its buffers on the heap; its stack stays shallow: what has been touched of it, an idle client keeps. So what a session does only now and then is marked `inline(never)`, and
/// its locals are no part of the stack frames that every client has. It is a page for each.
const STACK_LEN: usize = 256 << 10;
/// Ended threads that may be unjoined while nobody else ends; each holds little more than its stack.
const ENDED_MAX: usize = 16;
/// How long sessions that were cut off have to notice.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Clients {
    /// Beyond this, clients are turned away.
    len_max: usize,
    table: Mutex<Table>,
    one_left: Condvar,
}

#[derive(Default)]
struct Table {
    connected: BTreeMap<u64, Connected>,
    /// Sessions that have left: their threads have ended or are about to.
    ended: Vec<JoinHandle<()>>,
    /// When so many have, those that have ended are joined. Grows with those that are only about to, so that many clients that leave
    /// at once do not look through each other's handles again and again.
    ended_max: usize,
    /// Numbers the threads, for their names.
    admitted: u64,
}

struct Connected {
    client: Arc<ClientHandle>,
    thread: JoinHandle<()>,
}

/// Why a client was not taken.
pub(crate) enum NotAdmitted {
    /// There are `len_max` already.
    Full,
    /// The system gives no thread.
    NoThread(io::Error),
}

impl Clients {
    pub fn new(len_max: usize) -> Clients {
        Clients { len_max, table: Mutex::default(), one_left: Condvar::new() }
    }

    pub fn len(&self) -> usize {
        self.table.lock().connected.len()
    }

    /// All of them but those that were killed, in the order in which they came. The lock is held while they are counted out, and no longer.
    pub fn all(&self) -> Vec<Arc<ClientHandle>> {
        let table = self.table.lock();
        table.connected.values().filter(|connected| !connected.client.is_killed()).map(|connected| Arc::clone(&connected.client)).collect()
    }

    /// Those with these ids, in this order, each once.
    pub fn by_ids(&self, ids: &[u64]) -> Vec<Arc<ClientHandle>> {
        let mut met = HashSet::new();
        let table = self.table.lock();
        let found = ids.iter().filter_map(|id| table.connected.get(id).filter(|_| met.insert(*id)));
        found.filter(|connected| !connected.client.is_killed()).map(|connected| Arc::clone(&connected.client)).collect()
    }

    /// How many have come since the start.
    pub fn admitted(&self) -> u64 {
        self.table.lock().admitted
    }

    /// Starts a thread for a client; `run` is its session and ends with [`Clients::leave`] of its id.
    pub fn admit(&self, socket: &Arc<TcpStream>, run: impl FnOnce(&Arc<ClientHandle>) + Send + 'static) -> Result<(), NotAdmitted> {
        let mut table = self.table.lock();
        if table.connected.len() >= self.len_max {
            return Err(NotAdmitted::Full);
        }
        let id = table.admitted + 1;
        let thread = Builder::new().name(format!("client-{id}")).stack_size(STACK_LEN);
        // Under the lock, so that a session that ends at once finds itself in the table.
        let client = ClientHandle::of(Arc::clone(socket), id);
        let thread = thread.spawn({
            let client = Arc::clone(&client);
            move || run(&client)
        });
        let thread = thread.map_err(NotAdmitted::NoThread)?;
        table.admitted = id;
        table.connected.insert(id, Connected { client, thread });
        Ok(())
    }

    /// The last call of a session.
    pub fn leave(&self, id: u64) {
        let mut table = self.table.lock();
        let Some(client) = table.connected.remove(&id) else { return };
        self.one_left.notify_all();
        table.ended.push(client.thread);
        if table.ended.len() > table.ended_max.max(ENDED_MAX) {
            let (ended, ending): (Vec<_>, Vec<_>) = table.ended.drain(..).partition(JoinHandle::is_finished);
            table.ended_max = ending.len() * 2;
            table.ended = ending;
            drop(table);
            join(ended);
        }
    }

    /// Ends all sessions: they read no further, and have until `deadline` to finish; then they are cut off. Returns how many do not end.
    /// To be called when no more clients are admitted.
    pub fn end(&self, deadline: Instant) -> usize {
        self.shutdown_all(Shutdown::Read);
        if !self.wait_until_empty(deadline) {
            self.shutdown_all(Shutdown::Both);
            self.wait_until_empty(Instant::now() + CUT_OFF_WAIT);
        }
        let mut table = self.table.lock();
        let (ended, left) = (std::mem::take(&mut table.ended), table.connected.len());
        drop(table);
        join(ended);
        left
    }

    fn shutdown_all(&self, how: Shutdown) {
        for connected in self.table.lock().connected.values() {
            // Fails where the client has closed: then its session ends anyway.
            let _ = connected.client.socket().shutdown(how);
        }
    }

    fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut table = self.table.lock();
        while !table.connected.is_empty() {
            if self.one_left.wait_until(&mut table, deadline).timed_out() {
                return table.connected.is_empty();
            }
        }
        true
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
