//! The client port: takes connections, sets their options, and hands each to a thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::data::clock::elapsed;
use crate::process::descriptors::{are_used_up, in_words, no_descriptor};
use crate::server::client::Client;
use crate::server::clients::NotAdmitted;
use crate::server::{Shared, session};
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::text::encode_reply;

/// Connections that the system holds until they are accepted; beyond this it lets clients try again.
pub(crate) const BACKLOG: i32 = 1024;
/// After a failed accept: long enough not to spin, short enough for clients in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often stopping tries to wake the accepting thread.
const WAKE_PAUSE: Duration = Duration::from_millis(50);

/// A dead client is found after about a minute and a half.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
#[cfg(target_os = "linux")]
const KEEPALIVE_PROBES: u32 = 3;

/// Binds a port. An address that a stopped node used a moment ago is no obstacle; one in use is.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The loop of the thread `accept`. Ends when the server stops; a failing accept never ends it.
///
/// One descriptor is kept to spare. When no other is left it is given up, so that who connects next can be taken and told, and is not left waiting.
pub(crate) fn run_accept(listener: &TcpListener, shared: &Arc<Shared>, stop_rx: &Receiver<()>) {
    let mut failing = false;
    let mut spare = None;
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        spare = spare.or_else(|| listener.try_clone().ok());
        match accepted {
            Ok((socket, _)) if spare.is_none() => {
                shared.counters.clients_refused.fetch_add(1, Ordering::Relaxed);
                turn_away(&socket, format!("{}; try another node or later", no_descriptor()));
            }
            Ok((socket, addr)) => {
                if std::mem::take(&mut failing)
                    && let Some(more) = shared.said.admit("accepting", 0, elapsed())
                {
                    log::info!("clients can connect again{more}");
                }
                admit(socket, addr, shared);
            }
            Err(error) => {
                shared.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true)
                    && let Some(more) = shared.said.admit("not accepting", 0, elapsed())
                {
                    log::warn!("no client can connect, trying again: {}{more}", in_words(&error));
                }
                let makes_room = are_used_up(&error) && spare.take().is_some();
                if !makes_room && stop_rx.recv_timeout(ACCEPT_PAUSE) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        }
    }
}

/// Wakes the accepting thread, which may wait in `accept`, until it has ended. The server is stopping by now.
///
/// Linux wakes it when nothing is to be accepted any more; other systems when somebody connects, for which there may be no descriptor.
pub(crate) fn wake(listener: &TcpListener, addr: SocketAddr, accept: &JoinHandle<()>) {
    // An error where a socket that is listened on has no end.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let addr = SocketAddr::new(ip, addr.port());
    while !accept.is_finished() {
        // Refused when the thread has just gone.
        let _ = TcpStream::connect_timeout(&addr, WAKE_PAUSE);
        if !accept.is_finished() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn admit(socket: TcpStream, addr: SocketAddr, shared: &Arc<Shared>) {
    if let Err(error) = set_options(&socket) {
        // Closed by its client already, most likely.
        log::debug!("client {addr}: {error}");
        return;
    }
    let socket = Arc::new(socket);
    let run = {
        let shared = Arc::clone(shared);
        move |client: &Arc<Client>| {
            session::run_client(&shared, client);
            shared.clients.leave(client.number());
        }
    };
    match shared.clients.admit(&socket, run) {
        Ok(()) => {}
        Err(NotAdmitted::Full) => {
            shared.counters.clients_refused.fetch_add(1, Ordering::Relaxed);
            let max = shared.services.config.clients_max;
            turn_away(&socket, format!("{max} clients are connected, which is as many as this node takes; try another node or later"));
        }
        Err(NotAdmitted::NoThread(error)) => {
            shared.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
            turn_away(&socket, format!("this node cannot start another thread ({error}); try another node or later"));
        }
    }
}

fn set_options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Answers and closes, without ever waiting for the client: the accepting thread does this.
fn turn_away(mut socket: &TcpStream, sentence: String) {
    let mut reply = Vec::new();
    encode_reply(&Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }, &mut reply);
    // Closing with something unread would reset the connection and could take the reply along.
    let _ = socket.set_nonblocking(true).and_then(|()| socket.write_all(&reply)).and_then(|()| socket.shutdown(Shutdown::Write));
    let _ = socket.read(&mut [0; 4096]);
}
