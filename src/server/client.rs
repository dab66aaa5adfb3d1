//! What is known of one connected client: what its session has noted, for CLIENT and INFO, and the socket, for who closes it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::elapsed;
use crate::protocol::command::RespVersion;

pub(super) struct Client {
    number: u64,
    socket: Arc<TcpStream>,
    addr: Option<SocketAddr>,
    connected: Instant,
    /// When its last round ended, in milliseconds of [`elapsed`].
    active_ms: AtomicU64,
    /// Bytes that were read and not executed then.
    unread_len: AtomicUsize,
    /// Bytes that wait for EXEC.
    queued_len: AtomicUsize,
    said: Mutex<Said>,
}

/// What the client has said of itself.
#[derive(Clone, Default)]
pub(super) struct Said {
    pub version: RespVersion,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
}

impl Client {
    pub fn of(socket: Arc<TcpStream>, number: u64) -> Arc<Client> {
        let addr = socket.peer_addr().ok();
        Arc::new(Client {
            number,
            addr,
            socket,
            connected: Instant::now(),
            active_ms: AtomicU64::new(elapsed().as_millis() as u64),
            unread_len: AtomicUsize::new(0),
            queued_len: AtomicUsize::new(0),
            said: Mutex::default(),
        })
    }

    /// Counts the clients since the start.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Where it comes from; unknown if it had gone before that was asked.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    pub fn age(&self) -> Duration {
        self.connected.elapsed()
    }

    pub fn idle(&self) -> Duration {
        elapsed().saturating_sub(Duration::from_millis(self.active_ms.load(Ordering::Relaxed)))
    }

    pub fn unread_len(&self) -> usize {
        self.unread_len.load(Ordering::Relaxed)
    }

    pub fn queued_len(&self) -> usize {
        self.queued_len.load(Ordering::Relaxed)
    }

    pub fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// A round of its session has ended.
    pub fn note_round(&self, unread_len: usize, queued_len: usize) {
        self.active_ms.store(elapsed().as_millis() as u64, Ordering::Relaxed);
        self.unread_len.store(unread_len, Ordering::Relaxed);
        self.queued_len.store(queued_len, Ordering::Relaxed);
    }

    pub fn note_version(&self, version: RespVersion) {
        self.said.lock().version = version;
    }

    pub fn set_name(&self, name: &[u8]) {
        self.said.lock().name = name.to_vec();
    }

    pub fn set_lib_name(&self, name: &[u8]) {
        self.said.lock().lib_name = name.to_vec();
    }

    pub fn set_lib_version(&self, version: &[u8]) {
        self.said.lock().lib_version = version.to_vec();
    }

    /// RESET: all but the library is as at the beginning.
    pub fn reset(&self) {
        let mut said = self.said.lock();
        (said.version, said.name) = (RespVersion::default(), Vec::new());
    }

    /// Whether the client has closed its end. For a session that waits and does not read.
    pub fn is_gone(&self) -> bool {
        let peeked = self.socket.set_nonblocking(true).and_then(|()| self.socket.peek(&mut [0]));
        let is_gone = match &peeked {
            Ok(len) => *len == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        self.socket.set_nonblocking(false).is_err() || is_gone
    }
}
