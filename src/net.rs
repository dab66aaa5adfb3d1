//! TCP ports: listening, accepting, and the end of both. Beside it: TLS.
//!
//! Owns the accepting threads. Never looks at what a connection carries.

pub mod certificates;
pub mod tls;
mod tls_error;
pub mod tls_peers;
pub mod tls_stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::process::threads::{JOIN_PAUSE, join_all};

/// Connections that the system holds until they are accepted; beyond this it lets clients try
/// again.
pub const BACKLOG: i32 = 1024;

/// After a failed accept: long enough not to spin, short enough for connections in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long one attempt to wake an accepting thread may take.
const WAKE_TIMEOUT: Duration = Duration::from_millis(50);

/// The least time that an accepting thread gets to end, even where the deadline has passed. It
/// waits for nothing else.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Binds a port. An address that a stopped node used a moment ago is no obstacle; one in use is.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Returns the address at which this machine reaches a port bound to `addr`: loopback, if that is
/// unspecified.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The next step of the accepting thread, after one connection or error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAccept {
    Continue,
    /// Waits for a moment: something was lacking, such as a descriptor or a thread.
    Pause,
}

/// A thread that accepts connections on one port until it is stopped. No failure ends it.
pub struct Acceptor {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    /// Dropped to end a pause.
    stop_tx: Sender<()>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Starts the thread `name`, which passes each connection, and each failure to accept one, to
    /// `handle`. That must not wait for the other end of a connection.
    pub fn start(
        name: &str,
        listener: TcpListener,
        handle: impl FnMut(&TcpListener, io::Result<(TcpStream, SocketAddr)>) -> AfterAccept + Send + 'static,
    ) -> io::Result<Acceptor> {
        let (listener, stopping) = (Arc::new(listener), Arc::new(AtomicBool::new(false)));
        let (stop_tx, stop_rx) = bounded(0);
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let (listener, stopping) = (Arc::clone(&listener), Arc::clone(&stopping));
            move || run_accept(&listener, &stopping, &stop_rx, handle)
        })?;
        Ok(Acceptor { listener, stopping, stop_tx, thread })
    }

    /// Accepts no more connections, joins the thread, and closes the port.
    ///
    /// The thread may wait in `accept`. Linux wakes it when the listener is shut down. Other
    /// systems wake it when a connection comes, for which this process may have no descriptor left.
    pub fn stop(self, deadline: Instant) {
        let deadline = deadline.max(Instant::now() + STOP_GRACE);
        self.stopping.store(true, Ordering::Release);
        drop(self.stop_tx);
        // An error where a listener has no end.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        let addr = self.listener.local_addr().map(reachable);
        while !self.thread.is_finished() && Instant::now() < deadline {
            // Refused when the thread has just gone.
            let _ = addr.as_ref().is_ok_and(|addr| TcpStream::connect_timeout(addr, WAKE_TIMEOUT).is_ok());
            if !self.thread.is_finished() {
                thread::park_timeout(JOIN_PAUSE);
            }
        }
        let name = self.thread.thread().name().unwrap_or_default().to_owned();
        join_all(Some(self.thread), deadline, &name);
    }
}

/// The loop of an accepting thread.
fn run_accept(
    listener: &TcpListener,
    stopping: &AtomicBool,
    stop_rx: &Receiver<()>,
    mut handle: impl FnMut(&TcpListener, io::Result<(TcpStream, SocketAddr)>) -> AfterAccept,
) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::Acquire) {
            return;
        }
        if handle(listener, accepted) == AfterAccept::Pause && stop_rx.recv_timeout(ACCEPT_PAUSE) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SOON: Duration = Duration::from_secs(30);

    /// An acceptor on any port of `ip` that sends what it is passed, and where it listens.
    fn started(ip: IpAddr, after: AfterAccept) -> (Acceptor, SocketAddr, Receiver<io::Result<TcpStream>>) {
        let listener = listen(SocketAddr::new(ip, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted_tx, accepted_rx) = crossbeam_channel::unbounded();
        let handle = move |_: &TcpListener, accepted: io::Result<(TcpStream, SocketAddr)>| {
            accepted_tx.send(accepted.map(|(stream, _)| stream)).unwrap();
            after
        };
        (Acceptor::start("accept", listener, handle).unwrap(), addr, accepted_rx)
    }

    #[test]
    fn a_stop_ends_a_waiting_thread_and_closes_the_port_whatever_it_listens_on() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::UNSPECIFIED.into()] {
            let (acceptor, addr, accepted_rx) = started(ip, AfterAccept::Continue);
            let mut client = TcpStream::connect(reachable(addr)).unwrap();
            drop(accepted_rx.recv_timeout(SOON).unwrap().unwrap());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            let asked = Instant::now();
            // The deadline may have passed.
            acceptor.stop(asked);
            assert!(asked.elapsed() < SOON);
            // The thread is gone, and with it what it sends on.
            assert!(accepted_rx.recv_timeout(SOON).is_err());
            assert!(TcpStream::connect(reachable(addr)).is_err());
        }
    }

    #[test]
    fn a_stop_does_not_wait_for_a_pause_and_a_pause_delays_the_next_connection_alone() {
        let (acceptor, addr, accepted_rx) = started(Ipv4Addr::LOCALHOST.into(), AfterAccept::Pause);
        let clients = [(); 2].map(|()| TcpStream::connect(addr).unwrap());
        let first = accepted_rx.recv_timeout(SOON).unwrap();
        let paused = Instant::now();
        let second = accepted_rx.recv_timeout(SOON).unwrap();
        assert!(paused.elapsed() >= ACCEPT_PAUSE / 2 && first.is_ok() && second.is_ok());
        acceptor.stop(Instant::now() + SOON);
        drop(clients);
    }

    #[test]
    fn a_port_that_listens_everywhere_is_reached_on_loopback() {
        for (bound, reached) in [("0.0.0.0:7001", "127.0.0.1:7001"), ("[::]:7001", "[::1]:7001"), ("127.0.0.2:7001", "127.0.0.2:7001")] {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), reached);
        }
    }
}
