//! The client port: accepts connections, sets their options, and hands each to a thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::ClientTls;
use crate::data::clock::elapsed;
use crate::net::tls::TLS_BUSY;
use crate::net::{Acceptor, AfterAccept};
use crate::process::descriptors::{are_used_up, in_words, no_descriptor};
use crate::server::client_handle::{ClientHandle, KEEPALIVE_IDLE};
use crate::server::clients::NotAdmitted;
use crate::server::session;
use crate::server::shared::Shared;
use crate::wire::reply::{ErrorCode, Reply};
use crate::wire::text::encode_reply;

/// With [`KEEPALIVE_IDLE`]: a dead client is found after about a minute and a half.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
#[cfg(target_os = "linux")]
const KEEPALIVE_PROBES: u32 = 3;

/// Starts the thread `accept`.
///
/// One descriptor is kept to spare. When no other is left it is given up, so that the next client
/// can be accepted and told, and is not left waiting.
pub(crate) fn accept_clients(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Acceptor> {
    let mut failing = false;
    let mut spare = None;
    Acceptor::start("accept", listener, move |listener, accepted| {
        spare = spare.take().or_else(|| listener.try_clone().ok());
        match accepted {
            Ok((socket, _)) if spare.is_none() => {
                shared.counters.clients_refused.fetch_add(1, Ordering::Relaxed);
                turn_away(&socket, &shared, format!("{}; try another node or later", no_descriptor()));
            }
            Ok((socket, addr)) => {
                if std::mem::take(&mut failing)
                    && let Some(more) = shared.log_limit.admit("accepting", 0, elapsed())
                {
                    log::info!("clients can connect again{more}");
                }
                admit(socket, addr, &shared);
            }
            Err(error) => {
                shared.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true)
                    && let Some(more) = shared.log_limit.admit("not accepting", 0, elapsed())
                {
                    log::warn!("no client can connect, trying again: {}{more}", in_words(&error));
                }
                let makes_room = are_used_up(&error) && spare.take().is_some();
                if !makes_room {
                    return AfterAccept::Pause;
                }
            }
        }
        AfterAccept::Continue
    })
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
        move |client: &Arc<ClientHandle>| {
            session::run_client(&shared, client);
            shared.clients.leave(client.id());
        }
    };
    let max = shared.services.live.current().clients_max;
    match shared.clients.admit(max, &socket, run) {
        Ok(()) => {}
        Err(NotAdmitted::Full) => {
            shared.counters.clients_refused.fetch_add(1, Ordering::Relaxed);
            turn_away(
                &socket,
                shared,
                format!("{max} clients are connected, which is as many as this node takes; try another node or later"),
            );
        }
        Err(NotAdmitted::NoThread(error)) => {
            shared.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
            turn_away(&socket, shared, format!("this node cannot start another thread ({error}); try another node or later"));
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

/// Answers and closes, without ever waiting for the client: the accepting thread does this. Where
/// TLS is required the answer is an alert of TLS, which has no room for the sentence.
fn turn_away(mut socket: &TcpStream, shared: &Shared, sentence: String) {
    let mut reply = Vec::new();
    if shared.tls.current().is_some_and(|tls| tls.clients == ClientTls::Required) {
        reply.extend_from_slice(&TLS_BUSY);
    } else {
        encode_reply(&Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }, &mut reply);
    }
    // Closing with something unread would reset the connection and could take the reply along.
    let _ = socket.set_nonblocking(true).and_then(|()| socket.write_all(&reply)).and_then(|()| socket.shutdown(Shutdown::Write));
    let _ = socket.read(&mut [0; 4096]);
}
