//! The connected clients: their sockets and threads, up to a bound.
//!
//! Owns the thread handles. A thread cannot join itself, so a session that ends now and then joins
//! those that ended before it. Only a few ended threads are unjoined at any time, however clients
//! come and go.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::server::client_handle::ClientHandle;

/// The stack of a session, which stays shallow; its buffers are on the heap. Stack pages once
/// touched stay resident for an idle client, so rarely used code is `inline(never)`: its locals are
/// no part of the frames that every client has. That saves one page per client.
const STACK_LEN: usize = 256 << 10;
/// Ended threads that may be unjoined while no other ends; each holds little more than its stack.
const ENDED_MAX: usize = 16;
/// The time that sessions have to notice that they were cut off.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Clients {
    table: Mutex<Table>,
    one_left: Condvar,
}

#[derive(Default)]
struct Table {
    connected: BTreeMap<u64, Connected>,
    /// The threads of sessions that have left: they have ended or are about to.
    ended: Vec<JoinHandle<()>>,
    /// The number of ended sessions at which those that have ended are joined. Grows with those
    /// that are only about to end, so that many clients that leave at once do not look through each
    /// other's handles again and again.
    ended_max: usize,
    /// The clients that were admitted since the start; the last one has this id.
    admitted: u64,
}

struct Connected {
    client: Arc<ClientHandle>,
    thread: JoinHandle<()>,
}

/// The reason why a client was not admitted.
pub(crate) enum NotAdmitted {
    /// As many as may be are connected.
    Full,
    /// The system gives no thread.
    NoThread(io::Error),
}

impl Clients {
    pub fn len(&self) -> usize {
        self.table.lock().connected.len()
    }

    /// All clients but those that were killed, in the order in which they came. The lock is held
    /// while the handles are copied, and no longer.
    pub fn all(&self) -> Vec<Arc<ClientHandle>> {
        let table = self.table.lock();
        table.connected.values().filter(|connected| !connected.client.is_killed()).map(|connected| Arc::clone(&connected.client)).collect()
    }

    /// The clients with these ids, in this order, each once.
    pub fn by_ids(&self, ids: &[u64]) -> Vec<Arc<ClientHandle>> {
        let mut met = HashSet::new();
        let table = self.table.lock();
        let found = ids.iter().filter_map(|id| table.connected.get(id).filter(|_| met.insert(*id)));
        found.filter(|connected| !connected.client.is_killed()).map(|connected| Arc::clone(&connected.client)).collect()
    }

    /// The number of clients that have come since the start.
    pub fn admitted(&self) -> u64 {
        self.table.lock().admitted
    }

    /// Starts a thread for a client, unless `len_max` are connected. `run` is its session, and ends
    /// with [`Clients::leave`] of its id.
    pub fn admit(
        &self,
        len_max: usize,
        socket: &Arc<TcpStream>,
        run: impl FnOnce(&Arc<ClientHandle>) + Send + 'static,
    ) -> Result<(), NotAdmitted> {
        let mut table = self.table.lock();
        if table.connected.len() >= len_max {
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

    /// Takes a client out of the table; the last call of its session.
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

    /// Ends all sessions: they read no further, and have until `deadline` to finish; then they are
    /// cut off. Returns how many do not end. To be called when no more clients are admitted.
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
