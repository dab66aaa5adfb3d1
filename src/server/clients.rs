//! Who is connected: the sockets and threads of all clients, up to a bound.
//!
//! Owns the thread handles. A thread cannot join itself, so each that ends joins the one that ended before it: at most one ended thread is
//! unjoined at any time, however clients come and go.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A session holds its buffers on the heap; its stack stays shallow.
const STACK_LEN: usize = 256 << 10;
/// How long sessions that were cut off have to notice.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Clients {
    /// Beyond this, clients are turned away.
    len_max: usize,
    table: Mutex<Table>,
    one_left: Condvar,
}

#[derive(Default)]
struct Table {
    connected: HashMap<u64, Client>,
    /// The session that ended last.
    ended: Option<JoinHandle<()>>,
    /// Numbers the threads, for their names.
    admitted: u64,
}

struct Client {
    socket: Arc<TcpStream>,
    thread: JoinHandle<()>,
}

/// Why a client was not taken.
pub(super) enum NotAdmitted {
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

    /// Starts a thread for a client; `run` is its session and ends with [`Clients::leave`] of the number that it is given.
    pub fn admit(&self, socket: &Arc<TcpStream>, run: impl FnOnce(u64) + Send + 'static) -> Result<(), NotAdmitted> {
        let mut table = self.table.lock();
        if table.connected.len() >= self.len_max {
            return Err(NotAdmitted::Full);
        }
        table.admitted += 1;
        let number = table.admitted;
        let thread = Builder::new().name(format!("client-{number}")).stack_size(STACK_LEN);
        // Under the lock, so that a session that ends at once finds itself in the table.
        let thread = thread.spawn(move || run(number)).map_err(NotAdmitted::NoThread)?;
        table.connected.insert(number, Client { socket: Arc::clone(socket), thread });
        Ok(())
    }

    /// The last call of a session.
    pub fn leave(&self, number: u64) {
        let before = {
            let mut table = self.table.lock();
            let Some(client) = table.connected.remove(&number) else { return };
            self.one_left.notify_all();
            table.ended.replace(client.thread)
        };
        join(before);
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
        let (ended, left) = (table.ended.take(), table.connected.len());
        drop(table);
        join(ended);
        left
    }

    fn shutdown_all(&self, how: Shutdown) {
        for client in self.table.lock().connected.values() {
            // Fails where the client has closed: then its session ends anyway.
            let _ = client.socket.shutdown(how);
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

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(Err(panic)) = thread.map(JoinHandle::join) {
        std::panic::resume_unwind(panic);
    }
}
