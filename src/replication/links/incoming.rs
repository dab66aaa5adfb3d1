//! The incoming links: one thread, `peer-accept`, accepts at the peer port; one thread per peer,
//! `peer-in:N`, reads what that peer sends and applies it.
//!
//! Owns the incoming sockets. Serves only peers. A connection that does not begin with a good HELLO
//! is closed, and so is one that does not prove who it is, where that is required
//! ([`authentication`]): until then nothing of it is believed, and it is one of the unidentified.
//! If it spoke the protocol at all, it is sent the reason first. If it spoke that of a client, it
//! is told what this port is.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use socket2::SockRef;

use crate::config::{Config, PeerTls};
use crate::data::clock::{Now, elapsed};
use crate::data::version::NodeId;
use crate::net::tls::{FIRST_BYTE, NodeTls, REFUSAL};
use crate::net::tls_peers::{HELLO_HEAD_LEN, is_hello};
use crate::net::tls_stream::{CertifiedNode, TlsStream};
use crate::net::{Acceptor, AfterAccept};
use crate::process::audit::{AuditEvent, AuditKind};
use crate::process::descriptors::in_words;
use crate::process::logging::LogLimit;
use crate::process::threads::join_all;
use crate::replication::inbound::{Inbound, ReceivedMessage};
use crate::replication::links::arriving::Arriving;
use crate::replication::links::authentication::{self, Accepting, Answering, Opening, Unbelieved};
use crate::replication::links::handshake;
use crate::replication::links::outgoing::{SOCKET_BUFFER_LEN, is_timeout};
use crate::replication::links::unidentified::{Unidentified, UnidentifiedConnection};
use crate::replication::links::{message_len_max, random_nonce};
use crate::replication::replica::Replica;
use crate::wire::peer::{HELLO_LEN_MAX, Hello, Message, Protocol, read_message};
use crate::wire::quoting::{shown, told};

/// Time for a client that has come to this port to read the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes of the read buffer of one incoming link.
const READ_LEN: usize = 64 << 10;

/// Peer time-outs that a connection waits for a permit of the log's byte budget. A disk that stalls
/// for longer ends the connection, and the peer catches up later.
const PERMIT_TIMEOUTS: u32 = 5;

/// Entries of the store that are gone through between two reads, to within a shard: less than a
/// millisecond, and a few of them where there are ten million keys. Beyond this, the peer's
/// heartbeats and batches have their turn.
const ENTRIES_PER_PIECE: usize = 4096;

/// Longest wait of a new connection for a slot. Beyond this it is closed: the machine does not get
/// round to reading those that came before.
const ENTER_WAIT: Duration = Duration::from_millis(300);

/// The incoming links of this node.
pub struct PeerLinks {
    replica: Arc<Replica>,
    /// The present connection of each peer; a newer one replaces it.
    present: Vec<Mutex<Option<Arc<TcpStream>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    unidentified: Arc<Unidentified>,
    tls: Arc<NodeTls>,
    /// Limits log lines: a refused peer connects again and again.
    log_limit: LogLimit,
    stopping: AtomicBool,
}

impl PeerLinks {
    pub fn new(replica: Arc<Replica>, tls: Arc<NodeTls>) -> Arc<PeerLinks> {
        let present = replica.config().peers.iter().map(|_| Mutex::default()).collect();
        let (threads, log_limit, stopping) = (Mutex::default(), LogLimit::new(1), AtomicBool::new(false));
        let unidentified = Arc::new(Unidentified::new(replica.config().unidentified_max));
        Arc::new(PeerLinks { replica, present, threads, unidentified, tls, log_limit, stopping })
    }

    /// Closes every link and waits for their threads, until `deadline`.
    pub fn stop(&self, deadline: Instant) {
        self.stopping.store(true, Ordering::Release);
        for present in &self.present {
            let stream = present.lock().take();
            if let Some(stream) = stream {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.unidentified.close_all();
        // The lock is not held meanwhile: a thread that is joined may still be starting one.
        let threads = std::mem::take(&mut *self.threads.lock());
        join_all(threads, deadline, "peer-in");
    }

    /// Starts the thread `peer-accept`.
    pub fn accept_peers(self: &Arc<Self>, listener: TcpListener) -> io::Result<Acceptor> {
        let links = Arc::clone(self);
        let mut failing = false;
        Acceptor::start("peer-accept", listener, move |_, accepted| {
            let met = accepted.and_then(|(stream, addr)| links.enter(stream, addr));
            if let Err(error) = &met
                && !failing
                && let Some(more) = links.log_limit.admit("accept", 0, elapsed())
            {
                log::error!("peer port: cannot accept: {}; trying on{more}", in_words(error));
            }
            failing = met.is_err();
            if failing { AfterAccept::Pause } else { AfterAccept::Continue }
        })
    }

    /// Gives a connection a slot among those that have not said HELLO, and a thread that reads its
    /// HELLO.
    fn enter(self: &Arc<Self>, stream: TcpStream, addr: SocketAddr) -> io::Result<()> {
        let entered = self.unidentified.enter(Arc::new(stream), addr.ip(), Instant::now() + ENTER_WAIT);
        if !matches!(entered, Some((_, false)))
            && let Some(more) = self.log_limit.admit("crowd", 0, elapsed())
        {
            log::warn!("peer port: too many unidentified connections, the last one from {addr}; the oldest are closed{more}");
        }
        match entered {
            Some((connection, _)) => self.spawn("peer-hello".to_owned(), move |links| links.identify(connection, addr)),
            None => Ok(()),
        }
    }

    fn spawn(self: &Arc<Self>, name: String, work: impl FnOnce(&Arc<PeerLinks>) + Send + 'static) -> io::Result<()> {
        let links = Arc::clone(self);
        let thread = thread::Builder::new().name(name).spawn(move || work(&links))?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Reads the HELLO of a connection, and logs why it was closed, if it was.
    fn identify(self: &Arc<Self>, connection: UnidentifiedConnection, addr: SocketAddr) {
        let (kind, node, why) = match self.shake_hands(connection) {
            Ok(()) => return,
            // A port scan, or a check whether something listens.
            Err(HandshakeError::Silent) => return log::debug!("peer port: {addr} has connected and said nothing"),
            Err(HandshakeError::Tls(error)) => ("TLS", 0, format!("closed a connection from {addr}: TLS: {error}")),
            Err(HandshakeError::Broken(error)) => ("broken", 0, format!("closed a connection from {addr}: {error}")),
            Err(HandshakeError::Client) => (
                "client",
                0,
                format!("a client has come from {addr}, and was told that the client port is {}", self.replica.config().client_addr),
            ),
            // An impostor chooses the id: nothing of it is noted with the peer.
            Err(HandshakeError::Unproven { claimed, why }) => {
                self.replica.note_unproven();
                ("unproven", 0, format!("closed a connection from {addr}: it says that it is node {claimed}, and does not prove it: {why}"))
            }
            Err(HandshakeError::Refused { hello, why }) => {
                let claims = self.replica.config().peers.iter().position(|peer| peer.id == hello.node);
                if let Some(peer) = claims {
                    self.replica.note_error(peer, format!("its HELLO was refused: {why}"), elapsed());
                }
                let node = claims.map_or(0, |peer| self.replica.config().peers[peer].id.0);
                ("refused", node, format!("closed a connection from {addr}: refused node {}: {why}", hello.node))
            }
        };
        self.replica.audit().note(AuditEvent { addr: Some(addr), detail: Some(&why), ..AuditEvent::of(AuditKind::PeerRefused) });
        if let Some(more) = self.log_limit.admit(kind, node, elapsed()) {
            log::warn!("peer port: {why}{more}");
        }
    }

    /// Reads a HELLO, answers it, and hands the connection to the thread `peer-in:N`.
    fn shake_hands(self: &Arc<Self>, connection: UnidentifiedConnection) -> Result<(), HandshakeError> {
        let config = self.replica.config();
        let stream = connection.stream();
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(config.peer_timeout))?;
        SockRef::from(stream).set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
        let mut arriving = Arriving::new(&connection, connection.reader(Instant::now() + config.peer_timeout));
        let head = arriving.head(HEAD_LEN)?;
        let Some(&first) = head.first() else { return Err(HandshakeError::Silent) };
        if is_text(head) {
            redirect_client(&connection, first, &config.client_addr, config.id.0);
            return Err(HandshakeError::Client);
        }
        let certified = match self.encrypt(&mut arriving) {
            Ok(certified) => certified,
            Err(error) => {
                end(&connection);
                return Err(error);
            }
        };
        let (hello, answering) = read_hello(config, &mut arriving)?;
        if let Some(node) = &certified
            && (node.cluster != hello.cluster || node.id != hello.node.0)
        {
            let why = format!("its certificate is that of node {} of cluster {}", node.id, shown(node.cluster.as_bytes()));
            return Err(refuse(&mut arriving, hello.node, why)?);
        }
        let now = Now::read();
        let (peer, protocol) = match handshake::check_hello(&self.replica, &hello, now) {
            Ok(found) => found,
            Err(why) => {
                arriving.send(&Message::Refused(why.clone()))?;
                return Err(HandshakeError::Refused { hello: Box::new(hello), why });
            }
        };
        stream.set_read_timeout(Some(config.peer_timeout))?;
        let (ours, is_proven) = (handshake::hello(&self.replica, now), answering.is_some() || certified.is_some());
        let answer = match answering {
            Some(answering) => Message::AuthenticatedHello(answering.answer(&ours)),
            None => Message::Hello(ours),
        };
        arriving.send(&answer)?;
        let tls = arriving.into_tls();
        let stream = connection.admit().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        self.spawn(format!("peer-in:{}", hello.node), move |links| {
            links.run_peer_in(PeerSocket { stream, tls }, peer, &hello, protocol, is_proven);
        })?;
        Ok(())
    }

    /// Does the handshake of TLS where the connection begins with it, or refuses what is configured
    /// otherwise. Returns the node that its certificate names; `None` without TLS.
    fn encrypt(&self, arriving: &mut Arriving<'_>) -> Result<Option<CertifiedNode>, HandshakeError> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let loaded = self.tls.current();
        let has_hello = arriving.head(HEAD_LEN)?[0] == FIRST_BYTE && arriving.head(HELLO_HEAD_LEN)?.try_into().is_ok_and(is_hello);
        match loaded.as_ref().and_then(|loaded| Some((loaded.peers, loaded.for_peers.as_ref()?))) {
            Some((_, identity)) if has_hello => {
                let stream = identity.accept().map_err(io::Error::other)?;
                let named = arriving.encrypt(stream).map_err(HandshakeError::Tls)?;
                named.map(Some).ok_or_else(|| HandshakeError::Tls(wrong("its certificate names no node")))
            }
            None if has_hello => {
                arriving.send_raw(&REFUSAL)?;
                Err(wrong("it speaks TLS, and peers here do not (tls.peers is \"off\")").into())
            }
            Some((PeerTls::Required, _)) => {
                let why = "peers speak TLS here (tls.peers is \"required\"), and this one does not";
                arriving.send(&Message::Refused(why.to_owned()))?;
                Err(wrong(why).into())
            }
            _ => Ok(None),
        }
    }

    /// Runs the thread of one incoming link: reads messages and applies them until the connection
    /// ends.
    fn run_peer_in(&self, socket: PeerSocket, peer: usize, hello: &Hello, protocol: Protocol, is_proven: bool) {
        let PeerSocket { stream, tls } = socket;
        // Under the lock, so that connections replace each other in the order of their epochs.
        let (mut inbound, kind) = {
            let mut present = self.present[peer].lock();
            let kind = match present.replace(Arc::clone(&stream)) {
                Some(older) => {
                    let _ = older.shutdown(Shutdown::Both);
                    AuditKind::PeerReplaced
                }
                None => AuditKind::PeerAccepted,
            };
            handshake::authenticated_in(&self.replica, peer, is_proven);
            (Inbound::accept(&self.replica, peer, hello, protocol, Now::read()), kind)
        };
        self.replica.audit().note(AuditEvent { peer: Some(hello.node), addr: stream.peer_addr().ok(), ..AuditEvent::of(kind) });
        if self.stopping.load(Ordering::Acquire) {
            // [`PeerLinks::stop`] may have looked before this connection was there.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let mut reader = BufReader::with_capacity(READ_LEN, ProgressReader { stream: &stream, tls, replica: &self.replica, peer, len: 0 });
        let (permit_wait, len_max) = (self.replica.config().peer_timeout * PERMIT_TIMEOUTS, message_len_max(self.replica.config()));
        let (end, is_wrong) = loop {
            let (mut frame, protocol) = (Vec::new(), inbound.protocol());
            match read_message(&mut WorkingReader { reader: &mut reader, inbound: &mut inbound }, &mut frame, len_max, protocol) {
                Ok(Some(message)) => {
                    let received = self
                        .replica
                        .persistence()
                        .await_permit(frame.len(), Instant::now() + permit_wait)
                        .and_then(|permit| inbound.receive(&self.replica, ReceivedMessage { message, frame, permit }, Now::read()));
                    if let Err(reason) = received {
                        break (reason, true);
                    }
                }
                Ok(None) => break ("closed by it".to_owned(), false),
                Err(error) if is_timeout(&error) => break ("nothing heard from it".to_owned(), false),
                Err(error) => break (error.to_string(), error.kind() == io::ErrorKind::InvalidData),
            }
        };
        let _ = stream.shutdown(Shutdown::Both);
        self.present[peer].lock().take_if(|present| Arc::ptr_eq(present, &stream));
        inbound.closed(&self.replica, Now::read());
        let node = self.replica.config().peers[peer].id;
        if !is_wrong {
            // That the node is down is logged by the heartbeat, once.
            return log::debug!("connection from node {node} ended: {end}");
        }
        self.replica.note_error(peer, format!("its connection to this node was closed: {end}"), elapsed());
        if let Some(more) = self.log_limit.admit("wrong", node.0, elapsed()) {
            log::warn!("closed the connection from node {node}: {end}{more}");
        }
    }
}

/// The socket of a peer that has said HELLO, and its state of TLS.
struct PeerSocket {
    stream: Arc<TcpStream>,
    tls: Option<Box<TlsStream>>,
}

/// Why a connection to the peer port was closed before it was a peer's.
enum HandshakeError {
    /// The other end has closed it without a byte.
    Silent,
    /// Its handshake of TLS has failed.
    Tls(io::Error),
    /// It did not speak the protocol, or not in time.
    Broken(io::Error),
    /// It spoke the protocol of a client.
    Client,
    /// It does not prove that it is the node that it says it is. It has heard why.
    Unproven { claimed: NodeId, why: String },
    /// Its HELLO was refused, and the reason sent.
    Refused { hello: Box<Hello>, why: String },
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        HandshakeError::Broken(error)
    }
}

/// Reads the HELLO of a connection, and lets it prove first whose it is, where it can or must.
/// Returns what answers a HELLO that is proven.
fn read_hello<'a>(config: &'a Config, arriving: &mut Arriving<'_>) -> Result<(Hello, Option<Answering<'a>>), HandshakeError> {
    let (claimed, dialer_nonce) = match authentication::open(config.peer_auth, arriving.next()?) {
        Ok(Opening::Believed(hello)) => return Ok((*hello, None)),
        Ok(Opening::Challenged(claimed, nonce)) => (claimed, nonce),
        Err(Unbelieved::Unproven(claimed, why)) => return Err(refuse(arriving, claimed, why.to_owned())?),
        Err(Unbelieved::OutOfOrder) => return Err(out_of_order().into()),
    };
    let (accepting, challenge) = Accepting::challenge(&config.peer_secrets, config.id, (claimed, dialer_nonce), random_nonce()?);
    arriving.challenged();
    arriving.send(&Message::Challenge(challenge))?;
    match arriving.next()? {
        Message::AuthenticatedHello(proven) => match accepting.verify(proven) {
            Ok((hello, answering)) => Ok((hello, Some(answering))),
            Err(why) => Err(refuse(arriving, claimed, why)?),
        },
        // It finds the proof of this node wrong.
        Message::Refused(why) => Err(HandshakeError::Unproven { claimed, why: format!("it refuses this node: {}", told(&why)) }),
        _ => Err(out_of_order().into()),
    }
}

/// Sends a connection the reason why it is not believed.
fn refuse(arriving: &mut Arriving<'_>, claimed: NodeId, why: String) -> io::Result<HandshakeError> {
    arriving.send(&Message::Refused(why.clone()))?;
    Ok(HandshakeError::Unproven { claimed, why })
}

fn out_of_order() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it began with something else than HELLO")
}

/// Bytes by which a HELLO, where they are a length, is told from text.
const HEAD_LEN: usize = 4;

fn is_text(head: &[u8]) -> bool {
    head.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t'))
}

/// Sends a client, of either protocol, one line which says that this is not its port.
fn redirect_client(connection: &UnidentifiedConnection, first: u8, client_addr: &str, id: u16) {
    let sentence = format!("this is the peer port of node {id}, for other nodes only; clients connect to {client_addr}");
    let line = if first == b'*' { format!("-ERR {sentence}\r\n") } else { format!("ERROR ERR {sentence}\n") };
    if connection.send(line.as_bytes()).is_ok() {
        end(connection);
    }
}

/// Ends the stream and reads on for a moment. Closing with something unread would reset the
/// connection, and what was sent last could be lost.
fn end(connection: &UnidentifiedConnection) {
    if connection.stream().shutdown(Shutdown::Write).is_ok() {
        let mut unread = connection.reader(Instant::now() + LINGER).take(HELLO_LEN_MAX as u64);
        let _ = io::copy(&mut unread, &mut io::sink());
    }
}

/// Reads from a peer and notes every arrival of bytes, which the next heartbeat reports to the
/// peer. So a part of a large message on a slow link is progress, too.
struct ProgressReader<'a> {
    stream: &'a TcpStream,
    tls: Option<Box<TlsStream>>,
    replica: &'a Replica,
    peer: usize,
    /// Bytes read so far.
    len: u64,
}

impl ProgressReader<'_> {
    /// Returns whether a read would return at once, or nearly so.
    fn has_arrived(&mut self) -> bool {
        // An error shows at the read.
        self.tls.as_mut().is_some_and(|tls| tls.has_plaintext())
            || poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
    }
}

impl Read for ProgressReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.tls {
                None => self.stream.read(into).map(Some),
                Some(tls) => tls.read_once(self.stream, into),
            };
            let len = match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.len += len.unwrap_or(0) as u64;
            self.replica.links().traffic_with(self.peer).heard(self.len, elapsed());
            if let Some(len) = len {
                return Ok(len);
            }
        }
    }
}

/// Reads from a peer, and meanwhile carries out what the end of a dump has proven: a piece before
/// each read, and one after the other while no byte has come. So that goes on while a large message
/// arrives on a slow link, too.
struct WorkingReader<'a, 'b> {
    reader: &'a mut BufReader<ProgressReader<'b>>,
    inbound: &'a mut Inbound,
}

impl Read for WorkingReader<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.inbound.has_work() && self.reader.buffer().is_empty() {
            self.inbound.work(self.reader.get_ref().replica, ENTRIES_PER_PIECE, Now::read());
            if self.reader.get_mut().has_arrived() {
                break;
            }
        }
        self.reader.read(into)
    }
}
