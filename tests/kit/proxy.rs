//! A link between two nodes: a TCP proxy that does to connections what a network can do to them,
//! and counts what came of it.
//!
//! A link is directed, from the node that dials to the peer that it dials. It knows of the peers'
//! protocol only where a frame ends, so that it can drop, repeat or corrupt whole frames. What the
//! dialled node sends on the same connection is copied as it comes.

mod effects;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvmesh::wire::frame::{FrameHead, HEAD_LEN};
use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

pub use effects::Effects;

/// A longer frame passes unchanged and in pieces, in every mode: no client writes so large a value.
const FRAME_LEN_MAX: usize = 64 << 20;
const READ_LEN: usize = 16 << 10;
/// Buffer that the system has for a connection at either end of the link. A link holds little: what
/// it has not carried waits at the node that sends.
const SOCKET_BUFFER_LEN: usize = 16 << 10;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// While a link corrupts, resets or duplicates, every so many-th frame is chosen.
const CHOSEN: u64 = 3;
/// Length of the pieces in which a narrow link passes bytes.
pub const PIECE_LEN: usize = 4 << 10;

/// Fault of a link. Faults of frames and of their timing concern the dialling node's bytes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Open connections break, and new ones are closed at once.
    Cut,
    /// Connections stay open and new ones are accepted. Nothing passes in either direction, not
    /// even a close, until this mode ends.
    Stall,
    /// Connections stay open, and frames are thrown away. The connections break when this mode
    /// ends: a stream with a hole is not TCP.
    Swallow,
    /// Bytes wait until this mode ends.
    Deaf,
    /// Bytes wait for this long.
    Delay(Duration),
    /// Bytes pass in pieces of [`PIECE_LEN`], and each piece takes this long.
    Narrow(Duration),
    /// The connection ends within a frame, with RST.
    Reset,
    /// One bit in the body of a frame is flipped.
    Flip,
    /// A frame arrives twice.
    DuplicateFrames,
    /// The first half of a frame arrives twice.
    DuplicateBytes,
    /// The link has been dropped.
    Closed,
}

impl Mode {
    fn breaks_connections(self) -> bool {
        matches!(self, Mode::Cut | Mode::Closed)
    }

    fn acts_on_frames(self) -> bool {
        matches!(self, Mode::Swallow | Mode::Reset | Mode::Flip | Mode::DuplicateFrames | Mode::DuplicateBytes)
    }
}

/// Handle of a link, which closes when this is dropped.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    /// Frames that passed while the mode acted on frames.
    passed: AtomicU64,
}

struct State {
    mode: Mode,
    open: Vec<Arc<Connection>>,
    effects: Effects,
}

struct Connection {
    near: TcpStream,
    far: TcpStream,
    is_broken: AtomicBool,
    is_forgotten: AtomicBool,
    has_swallowed: AtomicBool,
    is_corrupted: AtomicBool,
}

/// Side that ended a connection, as seen by the thread that reads one side and writes to the other.
enum Ended {
    ByDialled,
    ByDialler,
}

impl Link {
    pub fn to(target: SocketAddr, listener: TcpListener) -> io::Result<Link> {
        let addr = listener.local_addr()?;
        // Accepted connections inherit it.
        SockRef::from(&listener).set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
        let state = Mutex::new(State { mode: Mode::Pass, open: Vec::new(), effects: Effects::default() });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new(), passed: AtomicU64::new(0) });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("link-accept".into()).spawn(move || run_accept(&listener, &accepting))?;
        Ok(Link { addr, shared, acceptor: Some(acceptor) })
    }

    /// Address at which the dialling node is to find its peer.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn effects(&self) -> Effects {
        self.shared.state.lock().effects
    }

    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state.lock();
        state.mode = mode;
        let is_doomed = |connection: &&Arc<Connection>| {
            mode.breaks_connections() || (mode != Mode::Swallow && connection.has_swallowed.load(Ordering::Relaxed))
        };
        state.effects.broken += state.open.iter().filter(is_doomed).map(|connection| u64::from(connection.end())).sum::<u64>();
        self.shared.changed.notify_all();
    }

    /// Open connections lead nowhere from now on, and neither side is told, as when a router
    /// between them is replaced. New connections are not concerned.
    pub fn forget(&self) {
        let mut state = self.shared.state.lock();
        let is_remembered = |connection: &&Arc<Connection>| {
            !connection.is_broken.load(Ordering::Relaxed) && !connection.is_forgotten.swap(true, Ordering::Relaxed)
        };
        state.effects.forgotten += state.open.iter().filter(is_remembered).count() as u64;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Mode::Closed);
        // Wakes the acceptor. Where that fails, its thread ends with the process.
        let is_woken = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| is_woken) {
            let _ = acceptor.join();
        }
    }
}

fn run_accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for accepted in listener.incoming() {
        let Ok(near) = accepted else {
            // Out of descriptors: another connection has to close first.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut state = shared.state.lock();
        match state.mode {
            Mode::Closed => return,
            Mode::Cut => state.effects.refused += 1,
            _ => {
                drop(state);
                let carrying = Arc::clone(shared);
                // Without a thread the connection closes, a fault that a node must withstand too.
                let _ = thread::Builder::new().name("link-carry".into()).spawn(move || carry(near, &carrying));
            }
        }
    }
}

/// Dials the target for one connection, then carries bytes both ways until a side closes it or the
/// link breaks it.
fn carry(near: TcpStream, shared: &Arc<Shared>) {
    shared.await_end_of_stall();
    // If the target refuses, the dialling node sees a close.
    let Ok(far) = TcpStream::connect_timeout(&shared.target, DIAL_TIMEOUT) else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true), SockRef::from(&far).set_send_buffer_size(SOCKET_BUFFER_LEN));
    let connection = Arc::new(Connection {
        near,
        far,
        is_broken: AtomicBool::new(false),
        is_forgotten: AtomicBool::new(false),
        has_swallowed: AtomicBool::new(false),
        is_corrupted: AtomicBool::new(false),
    });
    {
        let mut state = shared.state.lock();
        if state.mode.breaks_connections() {
            state.effects.refused += 1;
            return;
        }
        state.open.push(Arc::clone(&connection));
    }
    thread::scope(|scope| {
        let answers = || shared.note_end(&connection, carry_answers(&connection, shared));
        match thread::Builder::new().name("link-answers".into()).spawn_scoped(scope, answers) {
            // However one direction ends, so does the other: no peer uses half a connection.
            Ok(_) => shared.note_end(&connection, carry_frames(&connection, shared)),
            Err(_) => drop(connection.end()),
        }
    });
    shared.state.lock().open.retain(|open| !Arc::ptr_eq(open, &connection));
}

fn carry_answers(connection: &Connection, shared: &Shared) -> Ended {
    let mut bytes = vec![0; READ_LEN];
    loop {
        let len = read(&connection.far, &mut bytes);
        shared.await_turn(connection, 0, |mode| mode == Mode::Stall);
        if len == 0 {
            return Ended::ByDialled;
        }
        if !connection.is_forgotten() && (&connection.near).write_all(&bytes[..len]).is_err() {
            return Ended::ByDialler;
        }
    }
}

/// Passes on what the dialling node sends, as the mode of the moment wants it.
fn carry_frames(connection: &Connection, shared: &Shared) -> Ended {
    let mut bytes = vec![0; READ_LEN];
    let mut frames = Frames::default();
    loop {
        let len = read(&connection.near, &mut bytes);
        let mode = shared.await_turn(connection, len, |mode| matches!(mode, Mode::Stall | Mode::Deaf));
        if len == 0 {
            return Ended::ByDialler;
        }
        frames.bytes.extend_from_slice(&bytes[..len]);
        if shared.pass(mode, connection, &mut frames).is_err() {
            return Ended::ByDialled;
        }
    }
}

/// Number of bytes read; none when the stream has ended in whatever way.
fn read(mut stream: &TcpStream, bytes: &mut [u8]) -> usize {
    loop {
        match stream.read(bytes) {
            Ok(len) => return len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return 0,
        }
    }
}

/// Bytes that have been read and not yet passed on, cut into frames.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Start of what [`Frames::next`] has not returned yet.
    at: usize,
    /// Bytes still to come of a frame whose beginning has passed.
    begun: usize,
}

impl Frames {
    /// The next bytes to pass on: a frame, or part of one where it need not be whole or is too
    /// long. `None` until more bytes arrive.
    fn next(&mut self, is_whole: bool) -> Option<Range<usize>> {
        let there = &self.bytes[self.at..];
        let len = match self.begun {
            0 => HEAD_LEN + FrameHead::decode(*there.first_chunk()?).len,
            begun => begun,
        };
        if len > there.len() && self.begun == 0 && is_whole && len <= FRAME_LEN_MAX {
            return None;
        }
        let taken = len.min(there.len());
        self.begun = len - taken;
        let range = self.at..self.at + taken;
        self.at = range.end;
        (taken > 0).then_some(range)
    }

    fn forget_returned(&mut self) {
        self.bytes.drain(..self.at);
        self.at = 0;
    }
}

impl Shared {
    /// Waits while this mode, by `holds`, holds back what was read; `held` is its length. Returns
    /// the mode in which it may go on.
    fn await_turn(&self, connection: &Connection, held: usize, holds: impl Fn(Mode) -> bool) -> Mode {
        let mut state = self.state.lock();
        if holds(state.mode) {
            state.effects.bytes_held += held as u64;
        }
        while holds(state.mode) && !connection.is_broken.load(Ordering::Relaxed) {
            // With a timeout, because the other direction may break it without a notification.
            self.changed.wait_for(&mut state, Duration::from_millis(500));
        }
        state.mode
    }

    fn await_end_of_stall(&self) {
        self.changed.wait_while(&mut self.state.lock(), |state| state.mode == Mode::Stall);
    }

    /// Notes which side has ended a connection. Where it was broken before, that side only saw what
    /// the other side, or the link, had done to it.
    fn note_end(&self, connection: &Connection, ended: Ended) {
        if connection.is_forgotten() {
            return;
        }
        if connection.end() && connection.is_corrupted.load(Ordering::Relaxed) {
            let effects = &mut self.state.lock().effects;
            match ended {
                Ended::ByDialled => effects.closed_by_node += 1,
                Ended::ByDialler => effects.ended_by_dialler += 1,
            }
        }
    }

    fn pass(&self, mode: Mode, connection: &Connection, frames: &mut Frames) -> io::Result<()> {
        if connection.is_forgotten() {
            frames.bytes.clear();
            return Ok(());
        }
        let acts_on_frames = mode.acts_on_frames();
        loop {
            let is_rest = frames.begun > 0;
            let Some(range) = frames.next(acts_on_frames) else { break };
            let is_frame = !is_rest && frames.begun == 0;
            if acts_on_frames {
                self.pass_frame(mode, connection, &frames.bytes[range], is_frame)?;
            }
        }
        if !acts_on_frames {
            self.pass_bytes(mode, connection, &frames.bytes[..frames.at])?;
        }
        frames.forget_returned();
        Ok(())
    }

    fn pass_bytes(&self, mode: Mode, connection: &Connection, bytes: &[u8]) -> io::Result<()> {
        let mut far = &connection.far;
        if let Mode::Narrow(pause) = mode {
            // One thread carries one direction of a connection, so what is behind waits too.
            return bytes.chunks(PIECE_LEN).try_for_each(|piece| {
                if self.hold_back(mode, connection, pause) {
                    self.state.lock().effects.bytes_slowed += piece.len() as u64;
                }
                far.write_all(piece)
            });
        }
        if let Mode::Delay(pause) = mode {
            self.state.lock().effects.bytes_delayed += bytes.len() as u64;
            self.hold_back(mode, connection, pause);
        }
        far.write_all(bytes)
    }

    /// Waits this long, or until the mode changes. Returns whether it has waited to the end.
    fn hold_back(&self, mode: Mode, connection: &Connection, pause: Duration) -> bool {
        let due = Instant::now() + pause;
        let mut state = self.state.lock();
        while state.mode == mode && !connection.is_broken.load(Ordering::Relaxed) {
            if self.changed.wait_until(&mut state, due).timed_out() {
                return true;
            }
        }
        false
    }

    /// `is_whole` is false for a part of a frame: it is swallowed, or passes unchanged.
    fn pass_frame(&self, mode: Mode, connection: &Connection, frame: &[u8], is_whole: bool) -> io::Result<()> {
        let mut far = &connection.far;
        if mode == Mode::Swallow {
            connection.has_swallowed.store(true, Ordering::Relaxed);
            self.state.lock().effects.frames_dropped += 1;
            return Ok(());
        }
        let number = self.passed.fetch_add(1, Ordering::Relaxed);
        if !is_whole || !number.is_multiple_of(CHOSEN) || frame.len() <= HEAD_LEN {
            return far.write_all(frame);
        }
        let half = &frame[..frame.len() / 2];
        match mode {
            Mode::Reset => {
                far.write_all(half)?;
                connection.reset();
                let mut state = self.state.lock();
                state.effects.resets += 1;
                state.effects.broken += 1;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Mode::Flip => {
                let mut flipped = frame.to_vec();
                let body = flipped.len() - HEAD_LEN;
                flipped[HEAD_LEN + (number as usize).wrapping_mul(31) % body] ^= 1 << (number % 8);
                self.note_corrupted(connection, |effects| effects.flipped += 1);
                far.write_all(&flipped)
            }
            Mode::DuplicateBytes => {
                self.note_corrupted(connection, |effects| effects.duplicated += 1);
                far.write_all(half)?;
                far.write_all(frame)
            }
            _ => {
                self.state.lock().effects.duplicated += 1;
                far.write_all(frame)?;
                far.write_all(frame)
            }
        }
    }

    fn note_corrupted(&self, connection: &Connection, count: impl Fn(&mut Effects)) {
        let effects = &mut self.state.lock().effects;
        count(effects);
        effects.corrupted += u64::from(!connection.is_corrupted.swap(true, Ordering::Relaxed));
    }
}

impl Connection {
    fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::Relaxed)
    }

    /// Ends both sides. Returns whether it was open until now.
    fn end(&self) -> bool {
        let was_open = !self.is_broken.swap(true, Ordering::Relaxed);
        if was_open {
            // The other side may have closed them.
            let _ = (self.near.shutdown(Shutdown::Both), self.far.shutdown(Shutdown::Both));
        }
        was_open
    }

    /// Makes the close that follows, once both directions have noticed, a reset. A shutdown for
    /// reading sends nothing to the other side.
    fn reset(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
        for stream in [&self.near, &self.far] {
            let _ = (SockRef::from(stream).set_linger(Some(Duration::ZERO)), stream.shutdown(Shutdown::Read));
        }
    }
}

/// A harness that does not do what it claims proves nothing.
#[cfg(test)]
mod tests;
