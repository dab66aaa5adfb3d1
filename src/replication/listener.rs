//! The peer port: one thread accepts, one thread per peer, `peer-in:N`, reads what that peer sends and applies it.
//!
//! Owns the incoming sockets. Speaks only to peers: whoever does not begin with a good HELLO is told why, if it spoke the protocol at all, and closed.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use socket2::SockRef;

use crate::clock::{Now, elapsed};
use crate::descriptors::{STRANGERS_MAX, in_words};
use crate::protocol::peer::{HELLO_LEN_MAX, Hello, MESSAGE_LEN_MAX, Message, Protocol, read_message};
use crate::replication::inbound::Arrived;
use crate::replication::link::{SOCKET_BUFFER_LEN, is_timeout};
use crate::replication::mesh::Mesh;
use crate::threads::join_all;

/// Pause between two log lines that say the same of strangers.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Buffer of one incoming link.
const READ_LEN: usize = 64 << 10;

/// Peer time-outs that a connection waits for room in the log's queue: a disk that stalls for longer ends it, and the peer catches up later.
const ROOM_TIMEOUTS: u32 = 5;

/// Pause after a failed accept: no descriptors, mostly, and none sooner for asking.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The incoming links.
pub struct PeerLinks {
    mesh: Arc<Mesh>,
    /// The present connection of each peer; a newer one replaces it.
    present: Vec<Mutex<Option<Arc<TcpStream>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    strangers: AtomicUsize,
    /// What was logged about strangers, and when: who is refused knocks again and again, and is not written about every time.
    said: Mutex<HashMap<String, Duration>>,
    stopping: AtomicBool,
}

impl PeerLinks {
    pub fn new(mesh: Arc<Mesh>) -> Arc<PeerLinks> {
        let present = mesh.config().peers.iter().map(|_| Mutex::default()).collect();
        let (threads, strangers, said, stopping) = (Mutex::default(), AtomicUsize::new(0), Mutex::default(), AtomicBool::new(false));
        Arc::new(PeerLinks { mesh, present, threads, strangers, said, stopping })
    }

    /// Closes every link and waits for their threads, until `deadline`.
    pub fn stop(&self, deadline: Instant) {
        self.stopping.store(true, Ordering::Release);
        for present in &self.present {
            if let Some(stream) = present.lock().take() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // The lock is not held meanwhile: a thread that is joined may still be starting one.
        let threads = std::mem::take(&mut *self.threads.lock());
        join_all(threads, deadline, "peer-in");
    }

    fn spawn(self: &Arc<Self>, name: String, work: impl FnOnce(&Arc<PeerLinks>) + Send + 'static) -> io::Result<()> {
        let links = Arc::clone(self);
        let thread = thread::Builder::new().name(name).spawn(move || work(&links))?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Whether this was not said lately.
    fn is_news(&self, sentence: &str, now: Duration) -> bool {
        let mut said = self.said.lock();
        if said.get(sentence).is_some_and(|at| now.saturating_sub(*at) < SAY_AGAIN) {
            return false;
        }
        if said.len() >= STRANGERS_MAX {
            said.clear();
        }
        said.insert(sentence.to_owned(), now);
        true
    }

    /// Expects a HELLO, answers it, and hands the connection to a thread of the peer's name.
    fn welcome(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(self.mesh.config().peer_timeout))?;
        SockRef::from(&stream).set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
        let mut reader = Hurried { stream: &stream, deadline: Instant::now() + self.mesh.config().peer_timeout };
        let Some(Message::Hello(hello)) = read_message(&mut reader, &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HELLO"));
        };
        let now = Now::read();
        let mut answer = Vec::new();
        let (peer, protocol) = match self.mesh.check_hello(&hello, now) {
            Ok(found) => found,
            Err(reason) => {
                Message::Refused(reason.clone()).encode(&mut answer, Protocol::OLDEST);
                (&stream).write_all(&answer)?;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("refused node {}: {reason}", hello.node)));
            }
        };
        stream.set_read_timeout(Some(self.mesh.config().peer_timeout))?;
        Message::Hello(self.mesh.hello(now)).encode(&mut answer, Protocol::OLDEST);
        (&stream).write_all(&answer)?;
        self.spawn(format!("peer-in:{}", hello.node), move |links| links.run_peer_in(stream, peer, &hello, protocol))
    }

    /// The thread of one incoming link: reads, applies, answers beats, until the connection ends.
    fn run_peer_in(&self, stream: TcpStream, peer: usize, hello: &Hello, protocol: Protocol) {
        let stream = Arc::new(stream);
        // Under the lock, so that connections replace each other in the order of their epochs.
        let mut inbound = {
            let mut present = self.present[peer].lock();
            if let Some(older) = present.replace(Arc::clone(&stream)) {
                let _ = older.shutdown(Shutdown::Both);
            }
            self.mesh.accept(peer, hello, protocol, Now::read())
        };
        if self.stopping.load(Ordering::Acquire) {
            // The stop may have looked before this connection was there.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let mut reader = BufReader::with_capacity(READ_LEN, Hearing { stream: &stream, mesh: &self.mesh, peer, len: 0 });
        let room_wait = self.mesh.config().peer_timeout * ROOM_TIMEOUTS;
        let end = loop {
            let mut envelope = Vec::new();
            match read_message(&mut reader, &mut envelope, MESSAGE_LEN_MAX, inbound.protocol()) {
                Ok(Some(message)) => {
                    let received = self
                        .mesh
                        .await_room(envelope.len(), Instant::now() + room_wait)
                        .and_then(|room| self.mesh.receive(&mut inbound, Arrived { message, envelope, room }, Now::read()));
                    if let Err(reason) = received {
                        break reason;
                    }
                }
                Ok(None) => break "closed by it".to_owned(),
                Err(error) if is_timeout(&error) => break "nothing heard from it".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        let _ = stream.shutdown(Shutdown::Both);
        self.present[peer].lock().take_if(|present| Arc::ptr_eq(present, &stream));
        self.mesh.closed(&inbound, Now::read());
        log::debug!("connection from node {} ended: {end}", self.mesh.config().peers[peer].id);
    }
}

/// Accepts on the peer port until `stop_rx` is closed; to wake it, close that and connect.
pub fn run_peer_accept(links: &Arc<PeerLinks>, listener: &TcpListener, stop_rx: &Receiver<()>) {
    let mut failing = false;
    loop {
        let accepted = listener.accept();
        if stop_rx.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected) {
            return;
        }
        let spawned = accepted.and_then(|(stream, addr)| {
            // Beyond so many that have not said a good HELLO yet, new ones are closed at once.
            if links.strangers.fetch_add(1, Ordering::AcqRel) >= links.mesh.config().strangers_max {
                links.strangers.fetch_sub(1, Ordering::AcqRel);
                return Ok(());
            }
            let spawned = links.spawn("peer-hello".to_owned(), move |links| {
                if let Err(error) = links.welcome(stream)
                    && links.is_news(&error.to_string(), elapsed())
                {
                    log::warn!("peer port: closed a connection from {addr}: {error}");
                }
                links.strangers.fetch_sub(1, Ordering::AcqRel);
            });
            if spawned.is_err() {
                links.strangers.fetch_sub(1, Ordering::AcqRel);
            }
            spawned
        });
        if let Err(error) = &spawned {
            if !failing {
                log::error!("peer port: cannot accept: {}; trying on", in_words(error));
            }
            let _ = stop_rx.recv_timeout(ACCEPT_PAUSE);
        }
        failing = spawned.is_err();
    }
}

/// A stranger's HELLO has to be there by the deadline, however its bytes drip.
struct Hurried<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Hurried<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no HELLO in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(into)
    }
}

/// Notes every arrival of bytes, which the peer is told at the next beat: a large message on a slow link is progress, too.
struct Hearing<'a> {
    stream: &'a TcpStream,
    mesh: &'a Mesh,
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
        self.mesh.heard(self.peer, self.len, elapsed());
        Ok(len)
    }
}
