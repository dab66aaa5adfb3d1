//! The peer port: one thread accepts, one thread per peer, `peer-in:N`, reads what that peer sends and applies it.
//!
//! Owns the incoming sockets. Speaks only to peers: whoever does not begin with a good HELLO is told why, if it spoke the protocol at all, or what this port is, if it spoke that of a client, and
//! closed.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

use crate::data::clock::{Now, elapsed};
use crate::net::{Acceptor, AfterAccept};
use crate::process::descriptors::in_words;
use crate::process::logging::LogLimit;
use crate::process::threads::join_all;
use crate::replication::inbound::{Arrived, Inbound};
use crate::replication::links::handshake;
use crate::replication::links::outgoing::{SOCKET_BUFFER_LEN, is_timeout};
use crate::replication::links::unidentified::{Stranger, Unidentified};
use crate::replication::replica::Replica;
use crate::wire::peer::{HELLO_LEN_MAX, Hello, MESSAGE_LEN_MAX, Message, Protocol, read_message};

/// What a client that came to this port has to read what it is told.
const LINGER: Duration = Duration::from_secs(1);

/// Buffer of one incoming link.
const READ_LEN: usize = 64 << 10;

/// Peer time-outs that a connection waits for room in the log's queue: a disk that stalls for longer ends it, and the peer catches up later.
const ROOM_TIMEOUTS: u32 = 5;

/// What a new connection waits for a slot. Beyond this it is closed: the machine does not get round to reading those that came before.
const ENTER_WAIT: Duration = Duration::from_millis(100);

/// The incoming links.
pub struct PeerLinks {
    replica: Arc<Replica>,
    /// The present connection of each peer; a newer one replaces it.
    present: Vec<Mutex<Option<Arc<TcpStream>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    strangers: Arc<Unidentified>,
    /// Who is refused knocks again and again.
    said: LogLimit,
    stopping: AtomicBool,
}

impl PeerLinks {
    pub fn new(replica: Arc<Replica>) -> Arc<PeerLinks> {
        let present = replica.config().peers.iter().map(|_| Mutex::default()).collect();
        let (threads, said, stopping) = (Mutex::default(), LogLimit::new(1), AtomicBool::new(false));
        let strangers = Arc::new(Unidentified::new(replica.config().unidentified_max));
        Arc::new(PeerLinks { replica, present, threads, strangers, said, stopping })
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
        self.strangers.close_all();
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
                && let Some(more) = links.said.admit("accept", 0, elapsed())
            {
                log::error!("peer port: cannot accept: {}; trying on{more}", in_words(error));
            }
            failing = met.is_err();
            if failing { AfterAccept::Pause } else { AfterAccept::Continue }
        })
    }

    /// Gives a connection a slot among those that have not said HELLO, and a thread that hears it.
    fn enter(self: &Arc<Self>, stream: TcpStream, addr: SocketAddr) -> io::Result<()> {
        let entered = self.strangers.enter(Arc::new(stream), addr.ip(), Instant::now() + ENTER_WAIT);
        if !matches!(entered, Some((_, false)))
            && let Some(more) = self.said.admit("crowd", 0, elapsed())
        {
            log::warn!(
                "peer port: too many connections that have not said who they are, the last one from {addr}; the oldest are closed{more}"
            );
        }
        match entered {
            Some((stranger, _)) => self.spawn("peer-hello".to_owned(), move |links| links.meet(stranger, addr)),
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

    /// Hears what a connection has to say of itself.
    fn meet(self: &Arc<Self>, stranger: Stranger, addr: SocketAddr) {
        let (kind, node, why) = match self.welcome(stranger) {
            Ok(()) => return,
            // A port scan, or what looks whether anybody listens.
            Err(Unwelcome::Silent) => return log::debug!("peer port: {addr} has connected and said nothing"),
            Err(Unwelcome::Broken(error)) => ("broken", 0, format!("closed a connection from {addr}: {error}")),
            Err(Unwelcome::Client) => (
                "client",
                0,
                format!("a client has come from {addr}, and was told that the client port is {}", self.replica.config().client_addr),
            ),
            Err(Unwelcome::Refused { hello, why }) => {
                let claims = self.replica.config().peers.iter().position(|peer| peer.id == hello.node);
                if let Some(peer) = claims {
                    self.replica.note_error(peer, format!("its HELLO was refused: {why}"), elapsed());
                }
                let node = claims.map_or(0, |peer| self.replica.config().peers[peer].id.0);
                ("refused", node, format!("closed a connection from {addr}: refused node {}: {why}", hello.node))
            }
        };
        if let Some(more) = self.said.admit(kind, node, elapsed()) {
            log::warn!("peer port: {why}{more}");
        }
    }

    /// Expects a HELLO, answers it, and hands the connection to a thread of the peer's name.
    fn welcome(self: &Arc<Self>, stranger: Stranger) -> Result<(), Unwelcome> {
        let config = self.replica.config();
        let stream = stranger.stream();
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(config.peer_timeout))?;
        SockRef::from(stream).set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
        let mut reader = stranger.until(Instant::now() + config.peer_timeout);
        let mut head = Vec::with_capacity(HEAD_LEN);
        while head.len() < HEAD_LEN && !head.contains(&b'\n') {
            let mut more = [0; HEAD_LEN];
            let len = reader.read(&mut more[head.len()..])?;
            if len == 0 {
                break;
            }
            let start = head.len();
            head.extend_from_slice(&more[start..start + len]);
        }
        if head.is_empty() {
            return Err(Unwelcome::Silent);
        }
        if is_text(&head) {
            tell_client(&stranger, head[0], &config.client_addr, config.id.0);
            return Err(Unwelcome::Client);
        }
        let Some(Message::Hello(hello)) =
            read_message(&mut head.as_slice().chain(reader), &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST)?
        else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it began with something else than HELLO").into());
        };
        let now = Now::read();
        let mut answer = Vec::new();
        let (peer, protocol) = match handshake::check_hello(&self.replica, &hello, now) {
            Ok(found) => found,
            Err(why) => {
                Message::Refused(why.clone()).encode(&mut answer, Protocol::OLDEST);
                stranger.tell(&answer)?;
                return Err(Unwelcome::Refused { hello: Box::new(hello), why });
            }
        };
        stream.set_read_timeout(Some(config.peer_timeout))?;
        Message::Hello(handshake::hello(&self.replica, now)).encode(&mut answer, Protocol::OLDEST);
        stranger.tell(&answer)?;
        let stream = stranger.admit().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        self.spawn(format!("peer-in:{}", hello.node), move |links| links.run_peer_in(stream, peer, &hello, protocol))?;
        Ok(())
    }

    /// The thread of one incoming link: reads, applies, answers beats, until the connection ends.
    fn run_peer_in(&self, stream: Arc<TcpStream>, peer: usize, hello: &Hello, protocol: Protocol) {
        // Under the lock, so that connections replace each other in the order of their epochs.
        let mut inbound = {
            let mut present = self.present[peer].lock();
            if let Some(older) = present.replace(Arc::clone(&stream)) {
                let _ = older.shutdown(Shutdown::Both);
            }
            Inbound::accept(&self.replica, peer, hello, protocol, Now::read())
        };
        if self.stopping.load(Ordering::Acquire) {
            // The stop may have looked before this connection was there.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let mut reader = BufReader::with_capacity(READ_LEN, Hearing { stream: &stream, replica: &self.replica, peer, len: 0 });
        let room_wait = self.replica.config().peer_timeout * ROOM_TIMEOUTS;
        let (end, is_wrong) = loop {
            let mut frame = Vec::new();
            match read_message(&mut reader, &mut frame, MESSAGE_LEN_MAX, inbound.protocol()) {
                Ok(Some(message)) => {
                    let received = self
                        .replica
                        .persistence()
                        .await_room(frame.len(), Instant::now() + room_wait)
                        .and_then(|room| inbound.receive(&self.replica, Arrived { message, frame, room }, Now::read()));
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
            // That the node is down is said by the heartbeat, once.
            return log::debug!("connection from node {node} ended: {end}");
        }
        self.replica.note_error(peer, format!("its connection to this node was closed: {end}"), elapsed());
        if let Some(more) = self.said.admit("wrong", node.0, elapsed()) {
            log::warn!("closed the connection from node {node}: {end}{more}");
        }
    }
}

/// Why a connection to the peer port is not a peer's.
enum Unwelcome {
    /// Closed before it said anything.
    Silent,
    /// It did not speak the protocol, or not in time.
    Broken(io::Error),
    /// It spoke that of a client.
    Client,
    /// It was told why.
    Refused { hello: Box<Hello>, why: String },
}

impl From<io::Error> for Unwelcome {
    fn from(error: io::Error) -> Unwelcome {
        Unwelcome::Broken(error)
    }
}

/// So much tells a HELLO, in which it is a length, from words.
const HEAD_LEN: usize = 4;

fn is_text(head: &[u8]) -> bool {
    head.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t'))
}

/// A line that tells a client, whatever it speaks, that this is not its port.
fn tell_client(stranger: &Stranger, first: u8, client_addr: &str, id: u16) {
    let sentence = format!("this is the peer port of node {id}, for other nodes only; clients connect to {client_addr}");
    let line = if first == b'*' { format!("-ERR {sentence}\r\n") } else { format!("ERROR ERR {sentence}\n") };
    // Closing with something unread would reset the connection, and the line could be lost.
    if stranger.tell(line.as_bytes()).and_then(|()| stranger.stream().shutdown(Shutdown::Write)).is_ok() {
        let mut unread = stranger.until(Instant::now() + LINGER).take(HELLO_LEN_MAX as u64);
        let _ = io::copy(&mut unread, &mut io::sink());
    }
}

/// Notes every arrival of bytes, which the peer is told at the next beat: a large message on a slow link is progress, too.
struct Hearing<'a> {
    stream: &'a TcpStream,
    replica: &'a Replica,
    peer: usize,
    /// Bytes so far.
    len: u64,
}

impl Read for Hearing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => break read?,
            }
        };
        self.len += len as u64;
        self.replica.links().traffic_with(self.peer).heard(self.len, elapsed());
        Ok(len)
    }
}
