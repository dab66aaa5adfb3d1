//! What is known of one connected client: what its session has noted, for CLIENT and INFO, and the socket, for who closes it.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::data::clock::elapsed;
use crate::wire::resp::RespVersion;

/// The other end has closed its direction. Elsewhere only a connection that is broken both ways is noticed.
#[cfg(target_os = "linux")]
const CLOSED: PollFlags = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
#[cfg(not(target_os = "linux"))]
const CLOSED: PollFlags = PollFlags::empty();

/// Idle time of a connection before the system asks whether the client is still there.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Later than any time that is read of a clock.
const NOT_IDLE: u64 = u64::MAX;

pub(crate) struct ClientHandle {
    id: u64,
    socket: Arc<TcpStream>,
    addr: Option<SocketAddr>,
    connected: Instant,
    /// When its last round ended, in milliseconds of [`elapsed`]; [`NOT_IDLE`] while there is one for which something was read.
    active_ms: AtomicU64,
    /// Bytes that were read and not executed when its last round ended.
    unread_len: AtomicUsize,
    transaction: NotedTransaction,
    /// Somebody has closed it: its session ends, and nobody sees it any more.
    killed: AtomicBool,
    info: Mutex<ClientInfo>,
}

/// The members of [`QueueSize`], each for itself: read by others while it changes, it may be of two moments.
#[derive(Default)]
struct NotedTransaction {
    /// One more than there are requests; 0 outside of MULTI.
    requests: AtomicUsize,
    size: AtomicUsize,
    watched: AtomicUsize,
}

/// What waits for EXEC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSize {
    /// How many requests; `None` if MULTI was not said.
    pub requests: Option<usize>,
    /// Their bytes.
    pub size: usize,
    /// Keys.
    pub watched: usize,
}

/// What the client has said of itself.
#[derive(Clone, Default)]
pub(crate) struct ClientInfo {
    pub version: RespVersion,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_version: Vec<u8>,
    /// Nothing is evicted and nothing touched here, whoever asks: these are shown to those who look, and nothing else.
    pub no_evict: bool,
    pub no_touch: bool,
    /// Its last command by name; `None` if that was a line of text.
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

    /// Counts the clients since the start.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Where it comes from; unknown if it had gone before that was asked.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// This node's end of the connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub fn age(&self) -> Duration {
        self.connected.elapsed()
    }

    /// For how long it has been since its last round; zero from when something was read of it until the round with that has ended.
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

    /// Something was read of it: it is not idle until the round with that has ended.
    pub fn set_active(&self) {
        self.active_ms.store(NOT_IDLE, Ordering::Relaxed);
    }

    /// A round of its session has ended.
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

    /// RESET: all but the library is as at the beginning.
    pub fn reset(&self) {
        let mut info = self.info.lock();
        let (lib_name, lib_version) = (std::mem::take(&mut info.lib_name), std::mem::take(&mut info.lib_version));
        *info = ClientInfo { lib_name, lib_version, command: info.command, ..ClientInfo::default() };
    }

    /// Cuts the connection; its session ends when it next looks at it. Whether nobody has done so before. Never waits.
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

    /// Whether the client has closed its end. For a session that waits and does not read, whatever lies behind what it has read.
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
