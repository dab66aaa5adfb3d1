//! The session of one client: reads, executes everything that has come as one round, waits once,
//! answers with one write.
//!
//! Runs on the thread `client-N` and owns what that thread reads. Rounds are explained in
//! rounds.rs; no reply of a round leaves before its writes are acknowledged.

use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::budget::OutOfBudget;
use crate::config::ClientTls;
use crate::data::clock::{Now, elapsed};
use crate::net::tls::{FIRST_BYTE, LoadedTls, REFUSAL};
use crate::net::tls_stream::UntilDeadline;
use crate::server::client_handle::ClientHandle;
use crate::server::client_socket::ClientSocket;
use crate::server::commands::deferred::{self, Deferred};
use crate::server::outgoing::Outgoing;
use crate::server::protocol::ClientProtocol;
use crate::server::restore;
use crate::server::rounds::{Ended, RoundEnd, Rounds};
use crate::server::shared::Shared;
use crate::wire::reply::{ErrorCode, Reply};

/// Bytes of memory for replies that are kept between rounds.
const REPLIES_LEN_KEPT: usize = 16 << 10;
/// The pause before a refusal for want of a quorum is sent. Clients that try again at once would
/// take the time that the peers need to come back.
const NO_QUORUM_PAUSE: Duration = Duration::from_millis(20);
/// The time that a client has for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which a client must say who it is, where the node has users.
const NEWCOMER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a client may send until then.
const NEWCOMER_LEN_MAX: usize = 4 << 10;
/// The time that a client has to notice that it is being closed.
const LINGER: Duration = Duration::from_secs(1);

/// The loop of a thread `client-N`, from the first byte to the last.
pub(crate) fn run_client(shared: &Shared, client: &Arc<ClientHandle>) {
    let mut session = Session::new(shared, client);
    match session.serve() {
        Ok(Farewell::Gone) => {}
        Ok(Farewell::Closing) => linger(&mut session.socket),
        Err(error) => log::debug!("client {} is closed: {error}", client.id()),
    }
    // Only now: a connection that lingers still takes the place of another.
    if session.newcomer.is_some() {
        shared.newcomers.leave(client.id());
    }
}

struct Session<'a> {
    shared: &'a Shared,
    socket: ClientSocket<'a>,
    rounds: Rounds<'a>,
    /// There while the client has not said who it is, and must.
    newcomer: Option<Newcomer>,
}

/// The bounds of a client that has not said who it is.
struct Newcomer {
    until: Instant,
    /// Bytes that it has sent.
    received: usize,
}

enum Farewell {
    /// The client has closed, or the server stops.
    Gone,
    /// The last reply is on its way, and the client may still be sending.
    Closing,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, client: &'a Arc<ClientHandle>) -> Session<'a> {
        Session { shared, socket: ClientSocket::Plain(client.socket()), rounds: Rounds::new(shared, client), newcomer: None }
    }

    fn serve(&mut self) -> io::Result<Farewell> {
        if let Some(farewell) = self.bound()? {
            return Ok(farewell);
        }
        if let Some(farewell) = self.begin()? {
            return Ok(farewell);
        }
        let mut needs_more = self.rounds.buffer.unread().is_empty();
        // A half request at the end of the stream is dropped: no client is left to hear of it.
        while !self.shared.is_stopping() {
            if self.rounds.connection.client.is_killed() {
                return Ok(Farewell::Gone);
            }
            if let Some(farewell) = self.bound()? {
                return Ok(farewell);
            }
            if needs_more {
                if self.rounds.buffer.make_room() == Err(OutOfBudget) {
                    let sentence = "the large commands that are arriving take all the memory that this node has for them; nothing of this one \
                        was written, and this connection is closed; try again later or another node";
                    let protocol = self.rounds.connection.protocol_of(self.rounds.buffer.unread());
                    protocol.encode(&Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }, &mut self.rounds.replies);
                    self.send()?;
                    return Ok(Farewell::Closing);
                }
                match (self.rounds.buffer.fill(&mut self.socket), &mut self.newcomer) {
                    (Ok(0), _) => return Ok(Farewell::Gone),
                    (Ok(_), None) => {}
                    (Ok(len), Some(newcomer)) => newcomer.received += len,
                    // Its time is over, or nearly.
                    (Err(error), Some(_)) if is_timeout(&error) => continue,
                    (Err(error), _) => return Err(error),
                }
                self.rounds.connection.client.set_active();
            }
            let RoundEnd { ended, no_quorum } = self.rounds.run();
            if no_quorum {
                thread::park_timeout(NO_QUORUM_PAUSE);
            }
            let left_len = self.rounds.buffer.unread().len();
            let is_half = matches!(ended, Ended::NeedsMore);
            self.send()?;
            match ended {
                Ended::NeedsMore | Ended::Early => {}
                Ended::Before(deferred, protocol) => {
                    self.send_deferred(deferred, protocol)?;
                    if self.rounds.connection.closes {
                        return Ok(Farewell::Closing);
                    }
                }
                Ended::Restore => {
                    self.rounds.connection.audit_command("restore");
                    let done = restore::run(self.shared, &mut self.socket, &mut self.rounds.buffer, &mut self.rounds.replies)?;
                    self.send()?;
                    if !done {
                        return Ok(Farewell::Closing);
                    }
                }
                Ended::Close => return Ok(Farewell::Closing),
            }
            // Only now: while replies waited, and behind a dump, more may have been read than the
            // round has left, and the client may have nothing more to send.
            let unread_len = self.rounds.buffer.unread().len();
            needs_more = unread_len == 0 || is_half && unread_len == left_len;
        }
        Ok(Farewell::Closing)
    }

    /// Reads the first bytes, of which the first one tells TLS from the other protocols, and does
    /// the handshake of TLS. A farewell ends the session. Every client waits in here once, so what
    /// only TLS needs is not on this frame.
    #[inline(never)]
    fn begin(&mut self) -> io::Result<Option<Farewell>> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let tls = self.shared.tls.current();
        let clients = tls.as_ref().map_or(ClientTls::Off, |tls| tls.clients);
        let (client, socket) = (self.rounds.connection.client, self.socket.raw());
        if clients == ClientTls::Required {
            socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        }
        // No budget is asked for so little.
        let _ = self.rounds.buffer.make_room();
        loop {
            match (self.rounds.buffer.fill(&mut self.socket), &mut self.newcomer) {
                (Ok(0), _) => return Ok(Some(Farewell::Gone)),
                (Ok(_), None) => break,
                (Ok(len), Some(newcomer)) => {
                    newcomer.received += len;
                    break;
                }
                (Err(error), Some(_)) if is_timeout(&error) => {
                    if let Some(farewell) = self.bound()? {
                        return Ok(Some(farewell));
                    }
                }
                (Err(error), _) => return Err(error),
            }
        }
        client.set_active();
        let is_hello = self.rounds.buffer.unread().first() == Some(&FIRST_BYTE);
        match tls.filter(|_| clients != ClientTls::Off) {
            Some(tls) if is_hello => self.begin_tls(&tls, deadline),
            None if is_hello => Ok(Some(self.refuse_tls())),
            Some(_) if clients == ClientTls::Required => self.refuse_plain(),
            _ => Ok(None),
        }
    }

    #[inline(never)]
    fn refuse_tls(&mut self) -> Farewell {
        self.warn("TLS refused", "it speaks TLS, and this node is configured without; see tls in docs/configuration.md");
        // The client may have gone.
        let _ = self.socket.send(&REFUSAL);
        Farewell::Closing
    }

    #[inline(never)]
    fn refuse_plain(&mut self) -> io::Result<Option<Farewell>> {
        let sentence = "this port takes TLS alone; closing; connect with TLS, as kvctl --tls and redis-cli --tls do";
        let protocol = self.rounds.connection.protocol_of(self.rounds.buffer.unread());
        protocol.encode(&Reply::Error { code: ErrorCode::Unknown, sentence: sentence.into() }, &mut self.rounds.replies);
        self.warn("TLS missing", "it does not speak TLS, which tls.clients requires");
        self.send()?;
        Ok(Some(Farewell::Closing))
    }

    /// Does the handshake of TLS, whose first bytes are read.
    #[inline(never)]
    fn begin_tls(&mut self, tls: &LoadedTls, deadline: Instant) -> io::Result<Option<Farewell>> {
        let socket = self.socket.raw();
        let mut stream = tls.accept_client().map_err(io::Error::other)?;
        let unread_len = self.rounds.buffer.unread().len();
        socket.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        if let Err(error) = stream.handshake(self.rounds.buffer.unread(), &mut UntilDeadline { socket, deadline }, socket) {
            self.warn("TLS failed", &error.to_string());
            return Ok(Some(Farewell::Closing));
        }
        self.rounds.buffer.consume(unread_len);
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        let named = stream.common_name();
        self.socket = ClientSocket::tls(socket, stream);
        if let Some(name) = named {
            self.rounds.connection.log_in_by_certificate(&name);
        }
        if let Some(warning) = self.shared.tls.warning(Duration::from_millis(Now::read().wall_ms)) {
            log::warn!("this node's TLS certificate: {warning}");
        }
        Ok(None)
    }

    /// Logs why the connection does not begin.
    fn warn(&self, kind: &'static str, why: &str) {
        if let Some(more) = self.shared.log_limit.admit(kind, 0, elapsed()) {
            let addr = self.rounds.connection.client.addr().map_or_else(|| "an unknown address".to_owned(), |addr| addr.to_string());
            log::warn!("client port: closed a connection from {addr}: {why}{more}");
        }
    }

    /// Bounds what a client may take that has not said who it is, where the node has users. A
    /// farewell ends the session.
    #[inline]
    fn bound(&mut self) -> io::Result<Option<Farewell>> {
        let is_bounded = self.newcomer.is_some() || self.rounds.connection.authorization.is_checked();
        if is_bounded { self.bound_newcomer() } else { Ok(None) }
    }

    #[inline(never)]
    fn bound_newcomer(&mut self) -> io::Result<Option<Farewell>> {
        let (shared, client) = (self.shared, self.rounds.connection.client);
        if !self.rounds.connection.authorization.is_of_nobody() {
            if self.newcomer.take().is_some() {
                shared.newcomers.leave(client.id());
                client.socket().set_read_timeout(None)?;
            }
            return Ok(None);
        }
        let newcomer = self.newcomer.get_or_insert_with(|| {
            let closed = shared.newcomers.enter(client, shared.services.live.current().clients_max);
            shared.counters.newcomers_closed.fetch_add(closed.into(), Ordering::Relaxed);
            Newcomer { until: Instant::now() + NEWCOMER_TIMEOUT, received: 0 }
        });
        let left = newcomer.until.saturating_duration_since(Instant::now());
        let why = if newcomer.received > NEWCOMER_LEN_MAX {
            format!("more than {NEWCOMER_LEN_MAX} bytes came before AUTH")
        } else if left.is_zero() {
            format!("no AUTH came within {} seconds", NEWCOMER_TIMEOUT.as_secs())
        } else {
            client.socket().set_read_timeout(Some(left))?;
            return Ok(None);
        };
        shared.counters.newcomers_closed.fetch_add(1, Ordering::Relaxed);
        let protocol = self.rounds.connection.protocol_of(self.rounds.buffer.unread());
        let reply = Reply::Error { code: ErrorCode::NoAuth, sentence: format!("{why}; this connection is closed").into() };
        protocol.encode(&reply, &mut self.rounds.replies);
        self.send()?;
        Ok(Some(Farewell::Closing))
    }

    fn send(&mut self) -> io::Result<()> {
        let Rounds { buffer, replies, connection, .. } = &mut self.rounds;
        if !replies.is_empty() {
            let outgoing = Outgoing::new(self.shared, connection.client, &mut self.socket, buffer);
            outgoing.without_reading_if(self.newcomer.is_some()).write_all(replies)?;
            replies.clear();
            replies.shrink_to(REPLIES_LEN_KEPT);
        }
        Ok(())
    }

    #[inline(never)]
    fn send_deferred(&mut self, deferred: Deferred, protocol: ClientProtocol) -> io::Result<()> {
        let Rounds { buffer, connection, .. } = &mut self.rounds;
        let outgoing = Outgoing::new(self.shared, connection.client, &mut self.socket, buffer);
        deferred::write(outgoing, connection, deferred, protocol)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Ends the stream and reads on for a moment. Closing with something unread would reset the
/// connection, and the last reply could be lost.
#[inline(never)]
fn linger(socket: &mut ClientSocket<'_>) {
    let deadline = Instant::now() + LINGER;
    let mut discarded = [0; 4096];
    socket.end();
    let mut socket = socket.raw();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Refused when no time is left.
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() || !matches!(socket.read(&mut discarded), Ok(1..)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::mem::MaybeUninit;
    use std::net::{Shutdown, TcpStream};

    use nix::libc::{MSG_DONTWAIT, MSG_PEEK};
    use socket2::SockRef;

    use super::*;
    use crate::server::rounds::REPLIES_LEN_MAX;
    use crate::server::tests::{Fixture, any_port, fixture};
    use crate::testing::wait::until;

    /// Sends some requests and, once replies come, the rest of them; reads no reply before the
    /// session has read all that was sent. Returns the last line of the replies.
    fn last_reply(fixture: &Fixture, first: &str, rest: &str) -> String {
        let listener = any_port();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let socket = Arc::new(socket);
        // The system holds little of the replies, so that the session must wait.
        SockRef::from(&*socket).set_send_buffer_size(16 << 10).unwrap();
        SockRef::from(&client).set_recv_buffer_size(16 << 10).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let handle = ClientHandle::of(Arc::clone(&socket), 1);
        thread::scope(|scope| {
            scope.spawn(|| Session::new(&fixture.server.shared, &handle).serve().map(drop));
            // Ends the session when this is over, however it ends.
            let mut replies = BufReader::new(client.try_clone().unwrap());
            client.write_all(first.as_bytes()).unwrap();
            client.peek(&mut [0]).unwrap();
            client.write_all(rest.as_bytes()).unwrap();
            let unread = || SockRef::from(&*socket).recv_with_flags(&mut [MaybeUninit::uninit()], MSG_PEEK | MSG_DONTWAIT).is_ok();
            until("the session has read all requests", || !unread());
            let mut last = String::new();
            while last != "PONG\n" {
                last.clear();
                if replies.read_line(&mut last).is_err() || last.is_empty() {
                    break;
                }
            }
            client.shutdown(Shutdown::Both).unwrap();
            last
        })
    }

    /// The session has read it while replies waited, and no further byte comes.
    #[test]
    fn a_request_that_was_read_while_a_long_reply_waited_is_executed() {
        let fixture = fixture(0, "");
        fixture.store.merge(fixture.foreign("a", Some(&"v".repeat(1 << 20))), |_| false);
        assert_eq!(last_reply(&fixture, "DUMP\n", "PING\n"), "PONG\n");
        fixture.stop();
    }

    #[test]
    fn a_request_whose_end_was_read_while_replies_waited_is_executed() {
        let fixture = fixture(0, "");
        fixture.store.merge(fixture.foreign("a", Some(&"v".repeat(120 << 10))), |_| false);
        assert_eq!(last_reply(&fixture, "GET a\nPI", "NG\n"), "PONG\n");
        fixture.stop();
    }

    #[test]
    fn when_large_commands_have_no_room_small_ones_are_served() {
        let fixture = fixture(0, "");
        let budget = &fixture.server.shared.read_budget;
        budget.try_reserve(budget.left()).unwrap();
        let mut large = fixture.connect();
        large.send("SET a 1\nPUT b ".to_owned() + &"v".repeat(300 << 10));
        large.expect(&["OK", "ERROR BUSY the large commands that are arriving take all the memory"]);
        large.expect_end();
        let mut small = fixture.connect();
        small.send(format!("PUT b {}\nGET a\n", "v".repeat(10 << 10)));
        small.expect(&["OK", "VALUE 1"]);
        fixture.stop();
    }

    #[test]
    fn the_replies_of_a_round_are_bounded_and_their_memory_is_given_back() {
        let fixture = fixture(0, "");
        let value = "v".repeat(100 << 10);
        fixture.store.merge(fixture.foreign("a", Some(&value)), |_| false);
        let socket = TcpStream::connect(fixture.server.addr()).unwrap();
        let client = ClientHandle::of(Arc::new(socket), 1);
        let mut session = Session::new(&fixture.server.shared, &client);
        let commands = "GET a\n".repeat(32);
        session.rounds.buffer.make_room().unwrap();
        assert_eq!(session.rounds.buffer.fill(&mut commands.as_bytes()).unwrap(), commands.len());
        let mut rounds = 0;
        while !session.rounds.buffer.unread().is_empty() {
            session.rounds.run();
            rounds += 1;
            assert!(session.rounds.replies.len() <= REPLIES_LEN_MAX + value.len() + 7);
            session.rounds.replies.clear();
        }
        assert_eq!(rounds, 32 / 2);
        session.rounds.replies.push(b'\n');
        session.send().unwrap();
        assert!(session.rounds.replies.capacity() <= REPLIES_LEN_KEPT);
        drop(session);
        fixture.stop();
    }
}
