//! The outgoing links: one thread, `peer-out:N`, owns the one connection on which this node speaks
//! to peer N.
//!
//! It dials, says HELLO or proves first who it is ([`authentication`](super::authentication)), and
//! then sends whatever its outbox holds; between the lines of a running dump, too. What sessions
//! wait for is sent by the threads that bring it, if nothing is in the way
//! ([`sender`](super::sender)). It reads nothing after the peer's HELLO: acks and echoes come on
//! the connection that the peer has made to this node. One socket, one direction.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::config::{Config, PeerAuth, PeerTls};
use crate::data::clock::{Now, elapsed};
use crate::data::version::{NodeId, VersionVector};
use crate::net::tls::NodeTls;
use crate::replication::heartbeat;
use crate::replication::links::authentication::Dialing;
use crate::replication::links::dialed::Dialed;
use crate::replication::links::handshake;
use crate::replication::links::outbox::Drained;
use crate::replication::links::random_nonce;
use crate::replication::links::sender::{Socket, Unsent};
use crate::replication::replica::Replica;
use crate::replication::sync::serving::{self, Serving};
use crate::sync::thread;
use crate::wire::peer::{Ack, DumpRequest, HELLO_LEN_MAX, Hello, Message, Protocol, read_message};
use crate::wire::quoting::{shown, told};

/// The pause after a first failed dial; it doubles up to `reconnect_pause_max`.
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// Bytes of dump lines between two looks into the outbox.
const LINES_LEN: usize = 64 << 10;

/// Bytes of a link that the system may hold at either end. What waits longer waits in the outbox,
/// where heartbeats and acks overtake batches. With the system's own megabytes in between, a busy
/// peer answers heartbeats so late that it looks down.
pub(in crate::replication) const SOCKET_BUFFER_LEN: usize = 256 << 10;

/// Longest wait for something to send. It only bounds how late a lost wake-up is noticed.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// The pause before another try at a socket that is said to take something and does not.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// Runs the thread of one outgoing link. Ends when the outbox is stopped and all of it is sent, or
/// could not be.
pub fn run_peer_out(replica: &Replica, peer: usize, tls: &NodeTls) {
    let node = replica.config().peers[peer].id;
    let outbox = replica.links().outbox(peer);
    let mut pause = PAUSE_MIN;
    let mut failing = DialFailures::default();
    while !outbox.is_stopping() {
        match dial(replica, peer, tls) {
            Ok((stream, sent_vector, protocol)) => {
                let began = elapsed();
                failing = DialFailures::default();
                if let Err(error) = run_connection(replica, peer, stream, sent_vector, protocol, IDLE_WAIT) {
                    // That the node is down is logged by the heartbeat, once.
                    log::debug!("connection to node {node} ended: {error}");
                    replica.note_error(peer, format!("the connection to it broke: {error}"), elapsed());
                }
                // A peer that answers and closes is not dialled as eagerly as one that was there
                // for long.
                if elapsed() - began > replica.config().reconnect_pause_max {
                    pause = PAUSE_MIN;
                }
            }
            Err(why) => failing.note(replica, peer, why, elapsed()),
        }
        handshake::hung_up(replica, peer, Now::read());
        outbox.wait_to_dial(jittered(pause));
        pause = (pause * 2).min(replica.config().reconnect_pause_max);
    }
}

/// Why a dial has failed.
struct DialError {
    /// The kind of the reason. Each kind is logged once.
    kind: &'static str,
    /// An operator has to do something about it. Otherwise the peer may only be starting.
    is_final: bool,
    sentence: String,
}

impl DialError {
    /// Something answers, and it is not the peer.
    fn wrong(kind: &'static str, sentence: String) -> DialError {
        DialError { kind, is_final: true, sentence }
    }

    fn passing(kind: &'static str, what: &str, error: &io::Error) -> DialError {
        DialError { kind, is_final: false, sentence: format!("{what}: {error}") }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> DialError {
        DialError::passing("broke", "the connection broke at once", &error)
    }
}

/// Failed dials of one peer, since it was last reached.
#[derive(Default)]
struct DialFailures {
    since: Option<Duration>,
    /// The kinds of reasons that were logged.
    logged: Vec<&'static str>,
}

impl DialFailures {
    /// Logs a reason if it is a new one, not at every dial. PEERS has the latest.
    fn note(&mut self, replica: &Replica, peer: usize, why: DialError, now: Duration) {
        let DialError { kind, is_final, sentence } = why;
        let (id, addr) = (replica.config().peers[peer].id, &replica.config().peers[peer].addr);
        let since = *self.since.get_or_insert(now);
        let is_due = is_final || now.saturating_sub(since) >= replica.config().peer_timeout;
        if is_due
            && !self.logged.contains(&kind)
            && let Some(more) = replica.log_limit.admit(kind, id.0, now)
        {
            let level = if is_final { log::Level::Error } else { log::Level::Warn };
            log::log!(level, "node {id} at {addr} cannot be reached: {sentence}{more}");
            self.logged.push(kind);
        }
        replica.note_error(peer, sentence, now);
    }
}

/// Connects and exchanges HELLOs. Nothing of the peer is believed before it has proven who it is,
/// where that is required. Returns the connection, the version vector that this node has
/// sent, and the protocol that is spoken from here on.
fn dial(replica: &Replica, peer: usize, tls: &NodeTls) -> Result<(Dialed, VersionVector, Protocol), DialError> {
    let config = replica.config();
    let mut stream = reach(replica, peer, tls)?;
    handshake::dialing(replica, peer);
    let (answer, sent_vector, is_proven) = exchange_hellos(replica, &mut stream, config.peers[peer].id)?;
    let now = Now::read();
    let (found, protocol) = handshake::check_hello(replica, &answer, now)
        .map_err(|why| DialError::wrong("refused here", format!("refused by this node: {why}")))?;
    if found != peer {
        return Err(another_node(answer.node));
    }
    handshake::authenticated_out(replica, peer, is_proven || stream.has_tls());
    handshake::dialed(replica, peer, &answer, now);
    Ok((stream, sent_vector, protocol))
}

/// Connects to the peer, with TLS as it is configured.
fn reach(replica: &Replica, peer: usize, tls: &NodeTls) -> Result<Dialed, DialError> {
    let config = replica.config();
    let (loaded, id) = (tls.current(), config.peers[peer].id);
    let Some((mode, identity)) = loaded.as_ref().and_then(|loaded| Some((loaded.peers, loaded.for_peers.as_ref()?))) else {
        return Ok(Dialed::plain(connect_set(config, peer)?));
    };
    let (why, is_wrong) = match Dialed::with_tls(connect_set(config, peer)?, identity, Instant::now() + config.peer_timeout) {
        Ok((dialed, Some(node))) if node.cluster == config.cluster && node.id == id.0 => return Ok(dialed),
        Ok((_, Some(node))) => (format!("its certificate is that of node {} of cluster {}", node.id, shown(node.cluster.as_bytes())), true),
        Ok((_, None)) => ("its certificate names no node".to_owned(), true),
        Err(error) => (error.to_string(), error.kind() == io::ErrorKind::InvalidData),
    };
    if mode == PeerTls::Required {
        return Err(DialError { kind: "TLS", is_final: is_wrong, sentence: format!("TLS: {why}") });
    }
    let dialed = Dialed::plain(connect_set(config, peer)?);
    if let Some(more) = replica.log_limit.admit("without TLS", id.0, elapsed()) {
        log::warn!("node {id} is reached without TLS, as tls.peers \"accept\" allows: {why}{more}");
    }
    Ok(dialed)
}

/// Connects to the peer, and sets the options of the socket.
fn connect_set(config: &Config, peer: usize) -> Result<TcpStream, DialError> {
    let stream = connect(&config.peers[peer].addr, config.peer_timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(config.peer_timeout))?;
    stream.set_write_timeout(Some(config.peer_timeout))?;
    SockRef::from(&stream).set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    Ok(stream)
}

fn another_node(node: NodeId) -> DialError {
    DialError::wrong("another node", format!("that is node {node}: check the addresses in the configuration"))
}

/// Says HELLO to `node`, and reads its own. Where the two can, they prove who they are before.
/// Returns the node's HELLO, the version vector that was sent, and whether the node has proven who
/// it is.
fn exchange_hellos(replica: &Replica, stream: &mut Dialed, node: NodeId) -> Result<(Hello, VersionVector, bool), DialError> {
    let config = replica.config();
    let dialing = Dialing::new(&config.peer_secrets, config.id, random_nonce()?);
    let hello = handshake::hello(replica, Now::read());
    let sent_vector = hello.vector.clone();
    send(stream, &dialing.first(config.peer_auth, hello))?;
    let proven = match (config.peer_auth, read_answer(stream)?) {
        (PeerAuth::Off | PeerAuth::Accept, Message::Hello(answer)) => return Ok((answer, sent_vector, false)),
        (PeerAuth::Required, Message::Hello(_)) => return Err(unproven(replica, NOTHING_PROVEN)),
        (PeerAuth::Accept | PeerAuth::Required, Message::Challenge(challenge)) => match dialing.verify(&challenge) {
            Ok(proven) => proven,
            Err(why) => {
                // So that the reason is in its log, too. Its end of the connection closes in any
                // case.
                let _ = send(stream, &Message::Refused(why.to_owned()));
                return Err(unproven(replica, why));
            }
        },
        _ => return Err(something_else()),
    };
    if proven.node() != node {
        return Err(another_node(proven.node()));
    }
    let hello = handshake::hello(replica, Now::read());
    let sent_vector = hello.vector.clone();
    let (greeting, answering) = proven.greet(&hello);
    send(stream, &Message::AuthenticatedHello(greeting))?;
    match read_answer(stream)? {
        Message::AuthenticatedHello(answer) => match answering.verify_answer(&answer) {
            Ok(answer) => Ok((answer, sent_vector, true)),
            Err(why) => Err(unproven(replica, &why)),
        },
        _ => Err(something_else()),
    }
}

/// The reason to refuse a peer that says HELLO and proves nothing.
const NOTHING_PROVEN: &str = "it proves nothing, and peer_auth is \"required\" here: give it the peer_secret_file of its cluster";

fn unproven(replica: &Replica, why: &str) -> DialError {
    replica.note_unproven();
    DialError::wrong("unproven", format!("it does not prove who it is: {why}"))
}

fn something_else() -> DialError {
    DialError::wrong("no HELLO", "it answered HELLO with something else".to_owned())
}

fn send(stream: &mut Dialed, message: &Message) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, Protocol::OLDEST);
    stream.write_all(&bytes)
}

/// Connects to the peer. Resolves the address anew at every dial, and tries in turn what it
/// resolves to.
fn connect(addr: &str, timeout: Duration) -> Result<TcpStream, DialError> {
    let unresolved = |error: &io::Error| DialError::passing("unresolved", "its name is not resolved", error);
    let mut last = unresolved(&io::Error::new(io::ErrorKind::NotFound, "no address has it"));
    for addr in addr.to_socket_addrs().map_err(|error| unresolved(&error))? {
        match TcpStream::connect_timeout(&addr, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::ConnectionRefused => "nobody listens",
                    io::ErrorKind::TimedOut => "no way there",
                    _ => "no connection",
                };
                last = DialError::passing(kind, kind, &error);
            }
        }
    }
    Err(last)
}

/// Reads the peer's HELLO, or its challenge. An error says what answers instead.
fn read_answer(stream: &mut Dialed) -> Result<Message, DialError> {
    let mut reader = HeadReader { stream, head: Vec::new() };
    let error = match read_message(&mut reader, &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST) {
        Ok(Some(message @ (Message::Hello(_) | Message::Challenge(_) | Message::AuthenticatedHello(_)))) => return Ok(message),
        Ok(Some(Message::Refused(why))) => return Err(DialError::wrong("refused there", format!("it refuses this node: {}", told(&why)))),
        Ok(Some(_)) => return Err(something_else()),
        Ok(None) => io::Error::new(io::ErrorKind::UnexpectedEof, "it closed without an answer to HELLO"),
        Err(error) => error,
    };
    if reader.head.is_ascii() {
        // What was taken for a length is text. The rest of it has arrived by now, or is not worth a
        // wait.
        let _ = reader.stream.raw().set_nonblocking(true).and_then(|()| reader.read(&mut [0; HEAD_KEPT]));
    }
    let words = shown(reader.head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default());
    match error.kind() {
        _ if reader.head.starts_with(b"ERROR ") => {
            let sentence = format!("it answers as a client port ({words}): its peer_addr is wanted");
            Err(DialError::wrong("client port", sentence))
        }
        io::ErrorKind::InvalidData if reader.head.is_ascii() => {
            Err(DialError::wrong("no peer port", format!("something else than a peer port answers there: {words}")))
        }
        io::ErrorKind::InvalidData => Err(DialError::wrong("no HELLO", format!("it answered HELLO with something else: {error}"))),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(DialError {
            kind: "silent",
            is_final: false,
            sentence: "it takes HELLO and does not answer: is that a peer port?".to_owned(),
        }),
        _ => Err(error.into()),
    }
}

/// Reads an answer and keeps its beginning, to report what it was if it is no HELLO.
struct HeadReader<'a> {
    stream: &'a mut Dialed,
    head: Vec<u8>,
}

impl Read for HeadReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(into)?;
        let left = HEAD_KEPT.saturating_sub(self.head.len());
        self.head.extend_from_slice(&into[..len.min(left)]);
        Ok(len)
    }
}

/// Bytes that are kept of an answer: enough to recognise text.
const HEAD_KEPT: usize = 256;

/// Sends what waits for the peer until the connection breaks or is given up, or the node stops.
/// Waits for `idle_wait` at a time while nothing does.
pub(super) fn run_connection(
    replica: &Replica,
    peer: usize,
    stream: Dialed,
    sent_vector: VersionVector,
    protocol: Protocol,
    idle_wait: Duration,
) -> io::Result<()> {
    run_link(replica, peer, stream.into_socket()?, sent_vector, protocol, idle_wait)
}

/// As [`run_connection`], over any socket.
pub(super) fn run_link(
    replica: &Replica,
    peer: usize,
    socket: Arc<dyn Socket>,
    sent_vector: VersionVector,
    protocol: Protocol,
    idle_wait: Duration,
) -> io::Result<()> {
    let sender = replica.links().sender(peer);
    sender.begin(Arc::clone(&socket), protocol);
    let ended = send_until_closed(replica, peer, &*socket, LinkWriter::new(replica, peer, sent_vector, LINES_LEN), idle_wait);
    sender.end();
    ended
}

fn send_until_closed(
    replica: &Replica,
    peer: usize,
    socket: &dyn Socket,
    mut writer: LinkWriter<'_>,
    idle_wait: Duration,
) -> io::Result<()> {
    let (outbox, sender) = (replica.links().outbox(peer), replica.links().sender(peer));
    loop {
        if !writer.is_dumping() {
            outbox.wait(idle_wait);
        }
        let Some(mut connection) = sender.connection() else { return Ok(()) };
        let protocol = connection.protocol;
        let goes_on = writer.next(&mut connection.unsent, protocol, Now::read);
        let is_sent = connection.flush()?;
        drop(connection);
        if !is_sent {
            send_rest(replica, peer, socket)?;
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// Sends what the socket did not take at once, as long as the connection is not given up. A full
/// socket says little of the peer, whose heartbeats say what it has read. Notes when something
/// leaves and more is left, for a peer whose build does not say what it has read.
fn send_rest(replica: &Replica, peer: usize, socket: &dyn Socket) -> io::Result<()> {
    let outbox = replica.links().outbox(peer);
    let mut left = elapsed();
    loop {
        let is_ready = socket.await_room(replica.config().heartbeat);
        let Some(mut connection) = replica.links().sender(peer).connection() else { return Ok(()) };
        // Nobody adds to it as long as something is left.
        let waiting_len = connection.unsent.waiting_len();
        if connection.flush()? {
            return Ok(());
        }
        let has_left = connection.unsent.waiting_len() < waiting_len;
        drop(connection);
        if has_left {
            left = elapsed();
            replica.links().traffic_with(peer).leaving(left);
        } else if !outbox.is_open() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "given up, as it takes nothing"));
        } else if outbox.is_stopping() && elapsed() - left > replica.config().peer_timeout {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes nothing, and this node stops"));
        } else if is_ready {
            // The system is short of memory, and would say so again at once.
            thread::park_timeout(SHORT_PAUSE);
        }
    }
}

/// Encodes what this node sends on one connection, in the right order. Whether that goes to a
/// socket or a simulated network is the caller's affair.
pub struct LinkWriter<'a> {
    replica: &'a Replica,
    peer: usize,
    /// This node's version vector, as far as it was sent to the peer.
    sent_vector: VersionVector,
    dump: Option<Serving<'a>>,
    next_dump: Option<DumpRequest>,
    /// Bytes of dump lines between two looks into the outbox.
    lines_len: usize,
}

impl<'a> LinkWriter<'a> {
    /// `sent_vector`: the vector of this node's HELLO. `lines_len`: bytes of dump lines between two
    /// looks into the outbox.
    pub fn new(replica: &'a Replica, peer: usize, sent_vector: VersionVector, lines_len: usize) -> LinkWriter<'a> {
        LinkWriter { replica, peer, sent_vector, dump: None, next_dump: None, lines_len }
    }

    /// Returns whether there is something to send although the outbox is empty.
    pub fn is_dumping(&self) -> bool {
        self.dump.is_some()
    }

    /// Puts what waits behind what is not sent yet. Returns false if there will be no more: then
    /// the connection is to be closed.
    pub fn next(&mut self, unsent: &mut Unsent, protocol: Protocol, now: impl FnOnce() -> Now) -> bool {
        let LinkWriter { replica, peer, sent_vector, dump, next_dump, lines_len } = self;
        let Some(Drained { ack, echo, request, batches, heartbeat, serve }) = replica.links().outbox(*peer).take() else {
            return false;
        };
        // Read after the ack was taken out: its clocks are to be those of an ack that is as old as
        // they are, or older (**I8**).
        let now = now();
        let clocks = Some(replica.clock().read(now.elapsed));
        ack.map(|ack| Message::Ack(Ack { clocks, ..ack })).iter().for_each(|message| unsent.put(message, protocol));
        echo.map(|sent| Message::Echo { sent, clocks }).iter().for_each(|message| unsent.put(message, protocol));
        request.map(Message::Request).iter().for_each(|message| unsent.put(message, protocol));
        unsent.put_batches(&batches);
        let has_heartbeat = heartbeat.is_some();
        if let Some(upto) = heartbeat {
            unsent.put(&Message::Heartbeat(heartbeat::next(replica, *peer, upto, sent_vector, now)), protocol);
        }
        // A dump that runs is finished first: a newer request comes after it.
        *next_dump = serve.or(next_dump.take());
        if dump.is_none() {
            *dump = next_dump.take().map(|request| serving::serve(replica, request));
        }
        if let Some(serving) = dump {
            let mut lines = Vec::with_capacity(*lines_len * 2);
            let more = serving.write(*lines_len, &mut lines);
            unsent.put(&Message::Lines(lines), protocol);
            if !more {
                let id = replica.config().peers[*peer].id;
                if let Some(more) = replica.log_limit.admit("served a dump", id.0, elapsed()) {
                    log::info!("served node {id} a dump of {} entries{more}", serving.count());
                }
                *dump = None;
            }
        }
        if has_heartbeat {
            // Noted before it leaves: the echo may be there at once.
            handshake::awaits_echo(replica, *peer, unsent.len());
        }
        true
    }
}

pub(in crate::replication) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Varies a pause by a quarter more or less, so that nodes that lost each other at once do not dial
/// at once for ever.
fn jittered(pause: Duration) -> Duration {
    let nanos = elapsed().subsec_nanos();
    pause * 3 / 4 + pause / 2 * (nanos % 1_000) / 1_000
}
