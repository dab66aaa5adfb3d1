//! The handle of one connected client: what its session notes, for CLIENT and INFO, and the socket,
//! so that others can close it.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::data::clock::elapsed;
use crate::wire::resp::RespVersion;

/// The client has closed its direction. On systems without this flag only a connection that is
/// broken both ways is noticed.
#[cfg(target_os = "linux")]
const CLOSED: PollFlags = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
#[cfg(not(target_os = "linux"))]
const CLOSED: PollFlags = PollFlags::empty();

/// Idle time of a connection before the system asks whether the client is still there.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Later than any time that is read from a clock.
const NOT_IDLE: u64 = u64::MAX;

pub(crate) struct ClientHandle {
    id: u64,
    socket: Arc<TcpStream>,
    addr: Option<SocketAddr>,
    connected: Instant,
    /// The end of its last round, in milliseconds of [`elapsed`]; [`NOT_IDLE`] while there is a
    /// round for which something was read.
    active_ms: AtomicU64,
    /// Bytes that were read and not executed when its last round ended.
    unread_len: AtomicUsize,
    transaction: NotedTransaction,
    /// True once it was closed from outside: its session ends, and CLIENT LIST shows it no more.
    killed: AtomicBool,
    info: Mutex<ClientInfo>,
}

/// The members of [`QueueSize`], each an atomic of its own: a reader may see them of two moments.
#[derive(Default)]
struct NotedTransaction {
    /// One more than the number of requests; 0 outside of MULTI.
    requests: AtomicUsize,
    size: AtomicUsize,
    watched: AtomicUsize,
}

/// The size of what waits for EXEC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSize {
    /// The number of requests; `None` outside of MULTI.
    pub requests: Option<usize>,
    /// The bytes of the requests.
    pub size: usize,
    /// The number of watched keys.
    pub watched: usize,
}

/// The properties that the client has sent about itself.
#[derive(Clone, Default)]
pub(crate) struct ClientInfo {
    pub version: RespVersion,
    pub name: Vec<u8>,
    /// The user, once it has logged in.
    pub user: Option<Arc<str>>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    /// Shown in CLIENT LIST and nothing else: nothing is evicted here, and nothing touched.
    pub no_evict: bool,
    pub no_touch: bool,
    /// The name of its last command; `None` if that was a line of text.
    pub command: Option<&'static str>,
}

impl ClientHandle {
    pub fn of(socket: Arc<TcpStream>, id: u64) -> Arc<ClientHandle> {
        let addr = socket.peer_addr().ok();
        Arc::new(ClientHandle {
            id,
            addr,
            socket,
            connected: Instant::now(),
            active_ms: AtomicU64::new(elapsed().as_millis() as u64),
            unread_len: AtomicUsize::new(0),
            transaction: NotedTransaction::default(),
            killed: AtomicBool::new(false),
            info: Mutex::default(),
        })
    }

    /// Client id, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The address of the client; unknown if it had gone before the address was read.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// The address of this node's end of the connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub fn age(&self) -> Duration {
        self.connected.elapsed()
    }

    /// The time since its last round; zero from when something was read until the round with that
    /// has ended.
    pub fn idle(&self) -> Duration {
        elapsed().saturating_sub(Duration::from_millis(self.active_ms.load(Ordering::Relaxed)))
    }

    pub fn unread_len(&self) -> usize {
        self.unread_len.load(Ordering::Relaxed)
    }

    pub fn queued(&self) -> QueueSize {
        let read = |noted: &AtomicUsize| noted.load(Ordering::Relaxed);
        let NotedTransaction { requests, size, watched } = &self.transaction;
        QueueSize { requests: read(requests).checked_sub(1), size: read(size), watched: read(watched) }
    }

    pub fn info(&self) -> ClientInfo {
        self.info.lock().clone()
    }

    /// Notes that something was read: the client is not idle until the round with that has ended.
    pub fn set_active(&self) {
        self.active_ms.store(NOT_IDLE, Ordering::Relaxed);
    }

    /// Notes that a round of its session has ended.
    pub fn end_round(&self, unread_len: usize, queued: QueueSize) {
        self.active_ms.store(elapsed().as_millis() as u64, Ordering::Relaxed);
        self.unread_len.store(unread_len, Ordering::Relaxed);
        self.set_queued(queued);
    }

    pub fn set_queued(&self, QueueSize { requests, size, watched }: QueueSize) {
        self.transaction.requests.store(requests.map_or(0, |requests| requests + 1), Ordering::Relaxed);
        self.transaction.size.store(size, Ordering::Relaxed);
        self.transaction.watched.store(watched, Ordering::Relaxed);
    }

    pub fn set_command(&self, command: Option<&'static str>) {
        self.info.lock().command = command;
    }

    pub fn set_version(&self, version: RespVersion) {
        self.info.lock().version = version;
    }

    pub fn set_user(&self, user: Option<Arc<str>>) {
        self.info.lock().user = user;
    }

    pub fn set_name(&self, name: &[u8]) {
        self.info.lock().name = name.to_vec();
    }

    pub fn set_lib_name(&self, name: &[u8]) {
        self.info.lock().lib_name = name.to_vec();
    }

    pub fn set_lib_version(&self, version: &[u8]) {
        self.info.lock().lib_version = version.to_vec();
    }

    pub fn set_no_evict(&self, no_evict: bool) {
        self.info.lock().no_evict = no_evict;
    }

    pub fn set_no_touch(&self, no_touch: bool) {
        self.info.lock().no_touch = no_touch;
    }

    /// Makes everything but the library as it was at the beginning, for RESET.
    pub fn reset(&self) {
        let mut info = self.info.lock();
        let (lib_name, lib_version) = (std::mem::take(&mut info.lib_name), std::mem::take(&mut info.lib_version));
        *info = ClientInfo { lib_name, lib_version, command: info.command, ..ClientInfo::default() };
    }

    /// Cuts the connection; its session ends when it next looks at it. Returns true if nobody has
    /// done so before. Never waits.
    pub fn kill(&self) -> bool {
        let is_first = !self.killed.swap(true, Ordering::AcqRel);
        if is_first {
            // Fails where the client has closed: then its session ends anyway.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        is_first
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Returns true if the client has closed its end. For a session that waits and does not read,
    /// whatever lies behind what it has read.
    pub fn is_gone(&self) -> bool {
        let mut socket = [PollFd::new(self.socket.as_fd(), CLOSED)];
        poll(&mut socket, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_client_is_idle_from_the_end_of_its_last_round_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = ClientHandle::of(Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()), 1);
        let pause = Duration::from_millis(20);
        thread::sleep(pause);
        assert!(client.idle() >= pause);
        client.set_active();
        thread::sleep(pause);
        assert_eq!(client.idle(), Duration::ZERO);
        client.end_round(0, QueueSize::default());
        thread::sleep(pause);
        assert!(client.idle() >= pause);
    }
}
