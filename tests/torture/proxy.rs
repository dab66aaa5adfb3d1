//! One directed link, from the node that dials to the peer that it dials: a TCP proxy that does to it what a network may do, and counts what came of it.
//!
//! It knows of the peers' protocol only where an envelope ends, so that it can drop and duplicate whole frames and flip a bit inside one. What the
//! dialled side answers on the same connection is copied as it comes.

mod effects;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvmesh::wire::frame::{HEAD_LEN, Head};
use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

pub use effects::Effects;

/// A frame that is longer is passed on in pieces, as the rest of its connection is: nothing that the clients write makes one.
const FRAME_LEN_MAX: usize = 64 << 20;
const READ_LEN: usize = 64 << 10;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Of the frames that pass while a link corrupts, resets or duplicates, every so many-th is chosen.
const CHOSEN: u64 = 3;
/// What a narrow link passes at a time.
const PIECE_LEN: usize = 4 << 10;

/// What a link does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// What is open breaks, what is dialled is closed at once.
    Cut,
    /// Connections stay, and what the dialling side says is thrown away. When this ends they are broken: half a stream is no TCP.
    Swallow,
    /// What the dialling side says is held back for so long.
    Delay(Duration),
    /// What the dialling side says gets through piece by piece, and each takes so long.
    Narrow(Duration),
    /// Nothing that the dialling side says is read.
    Deaf,
    /// A connection ends in mid-frame with RST.
    Reset,
    /// A bit in the body of a frame is another one.
    Flip,
    /// A frame comes twice.
    DuplicateFrames,
    /// Some bytes of a frame come twice.
    DuplicateBytes,
    /// For ever: the run is over.
    Closed,
}

/// Closed when dropped.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    /// Frames that have passed while the link did something to some of them.
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
    /// Frames of it were thrown away.
    has_swallowed: AtomicBool,
    is_corrupted: AtomicBool,
}

/// Which side took no more, or said no more, as the thread saw it that reads one and writes to the other.
enum Ended {
    ByDialled,
    ByDialler,
}

impl Link {
    pub fn to(target: SocketAddr, listener: TcpListener) -> io::Result<Link> {
        let addr = listener.local_addr()?;
        let state = Mutex::new(State { mode: Mode::Pass, open: Vec::new(), effects: Effects::default() });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new(), passed: AtomicU64::new(0) });
        let accepts = Arc::clone(&shared);
        let accepting = thread::Builder::new().name("link-accept".into()).spawn(move || run_accept(&listener, &accepts))?;
        Ok(Link { addr, shared, accepting: Some(accepting) })
    }

    /// Where the dialling node believes its peer to be.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn effects(&self) -> Effects {
        self.shared.state.lock().effects
    }

    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state.lock();
        state.mode = mode;
        let breaks_all = matches!(mode, Mode::Cut | Mode::Closed);
        let doomed: Vec<Arc<Connection>> = state
            .open
            .iter()
            .filter(|open| breaks_all || (mode != Mode::Swallow && open.has_swallowed.load(Ordering::Relaxed)))
            .cloned()
            .collect();
        for connection in doomed {
            state.effects.broken += u64::from(connection.end());
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Mode::Closed);
        // Wakes the accepting thread; where that fails, it ends with the process.
        let is_woken = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| is_woken) {
            let _ = accepting.join();
        }
    }
}

fn run_accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for accepted in listener.incoming() {
        let Ok(near) = accepted else {
            // Without descriptors there is nothing to do but to wait for one.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut state = shared.state.lock();
        match state.mode {
            Mode::Closed => return,
            Mode::Cut => state.effects.refused += 1,
            _ => {
                drop(state);
                let carries = Arc::clone(shared);
                // Without a thread the connection closes, which is a fault that a node must stand as well.
                let _ = thread::Builder::new().name("link-carry".into()).spawn(move || carry(near, &carries));
            }
        }
    }
}

/// One connection: dialled on, then carried both ways until a side closes or the link breaks it.
fn carry(near: TcpStream, shared: &Arc<Shared>) {
    // Nobody there: the close says so.
    let Ok(far) = TcpStream::connect_timeout(&shared.target, DIAL_TIMEOUT) else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let connection = Arc::new(Connection {
        near,
        far,
        is_broken: AtomicBool::new(false),
        has_swallowed: AtomicBool::new(false),
        is_corrupted: AtomicBool::new(false),
    });
    {
        let mut state = shared.state.lock();
        if matches!(state.mode, Mode::Cut | Mode::Closed) {
            state.effects.refused += 1;
            return;
        }
        state.open.push(Arc::clone(&connection));
    }
    thread::scope(|scope| {
        let answers = || copy_answers(&connection, shared);
        if thread::Builder::new().name("link-answers".into()).spawn_scoped(scope, answers).is_ok() {
            // However it ends, so does the other direction: no peer uses half a connection.
            shared.note_end(&connection, carry_frames(&connection, shared));
        }
        connection.end();
    });
    shared.state.lock().open.retain(|open| !Arc::ptr_eq(open, &connection));
}

fn copy_answers(connection: &Connection, shared: &Shared) {
    let mut bytes = vec![0; 16 << 10];
    let ended = loop {
        match (&connection.far).read(&mut bytes) {
            Ok(len) if len > 0 => {
                if (&connection.near).write_all(&bytes[..len]).is_err() {
                    break Ended::ByDialler;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break Ended::ByDialled,
        }
    };
    shared.note_end(connection, ended);
}

/// Reads whole frames of the dialling side and hands them on as the mode of the moment says, until a side takes or says no more.
fn carry_frames(connection: &Connection, shared: &Shared) -> Ended {
    let mut buffer = Vec::new();
    let mut bytes = vec![0; READ_LEN];
    while !connection.is_broken.load(Ordering::Relaxed) {
        shared.wait_while_deaf(connection, 0);
        let len = match (&connection.near).read(&mut bytes) {
            Ok(len) if len > 0 => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => return Ended::ByDialler,
        };
        buffer.extend_from_slice(&bytes[..len]);
        let whole = whole_frames_len(&buffer);
        if whole == 0 && buffer.len() < FRAME_LEN_MAX {
            continue;
        }
        let rest = if whole > 0 { buffer.split_off(whole) } else { Vec::new() };
        shared.wait_while_deaf(connection, buffer.len());
        if shared.hand_on(connection, &buffer).is_err() {
            return Ended::ByDialled;
        }
        buffer = rest;
    }
    // By the link itself, which has noted it.
    Ended::ByDialled
}

/// Bytes of the frames that are there to their end.
fn whole_frames_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some(head) = bytes[len..].first_chunk().map(|head| Head::decode(*head)) {
        match len + HEAD_LEN + head.len {
            end if end <= bytes.len() => len = end,
            _ => break,
        }
    }
    len
}

impl Shared {
    /// Waits while the link is deaf; `held` bytes have been read by then.
    fn wait_while_deaf(&self, connection: &Connection, held: usize) {
        let mut state = self.state.lock();
        if state.mode == Mode::Deaf {
            state.effects.bytes_held += held as u64;
        }
        while state.mode == Mode::Deaf && !connection.is_broken.load(Ordering::Relaxed) {
            self.changed.wait_for(&mut state, Duration::from_millis(500));
        }
    }

    /// A side has ended the connection, unless it was broken already: then what that side saw is what the other one, or the link, has done to it.
    fn note_end(&self, connection: &Connection, ended: Ended) {
        if connection.end() && connection.is_corrupted.load(Ordering::Relaxed) {
            let effects = &mut self.state.lock().effects;
            match ended {
                Ended::ByDialled => effects.closed_by_node += 1,
                Ended::ByDialler => effects.ended_by_dialler += 1,
            }
        }
    }

    fn hand_on(&self, connection: &Connection, mut frames: &[u8]) -> io::Result<()> {
        let mode = self.state.lock().mode;
        if let Mode::Delay(pause) = mode {
            self.state.lock().effects.bytes_delayed += frames.len() as u64;
            self.hold_back(mode, connection, pause);
        }
        if let Mode::Narrow(pause) = mode {
            // One thread carries one direction of a connection, so what comes behind waits, too.
            for piece in frames.chunks(PIECE_LEN) {
                if self.hold_back(mode, connection, pause) {
                    self.state.lock().effects.bytes_slowed += piece.len() as u64;
                }
                (&connection.far).write_all(piece)?;
            }
            return Ok(());
        }
        if matches!(mode, Mode::Pass | Mode::Delay(_)) {
            return (&connection.far).write_all(frames);
        }
        while !frames.is_empty() {
            let (frame, rest) = frames.split_at(first_frame_len(frames));
            self.hand_on_one(mode, connection, frame)?;
            frames = rest;
        }
        Ok(())
    }

    /// Waits for so long, less if the link is to do something else by then. Whether it has waited.
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

    fn hand_on_one(&self, mode: Mode, connection: &Connection, frame: &[u8]) -> io::Result<()> {
        let mut far = &connection.far;
        if mode == Mode::Swallow {
            connection.has_swallowed.store(true, Ordering::Relaxed);
            self.state.lock().effects.frames_dropped += 1;
            return Ok(());
        }
        let number = self.passed.fetch_add(1, Ordering::Relaxed);
        if !number.is_multiple_of(CHOSEN) || frame.len() <= HEAD_LEN {
            return far.write_all(frame);
        }
        match mode {
            Mode::Reset => {
                far.write_all(&frame[..frame.len() / 2])?;
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
                let mut state = self.state.lock();
                state.effects.flipped += 1;
                state.note_corrupted(connection);
                drop(state);
                far.write_all(&flipped)
            }
            Mode::DuplicateBytes => {
                let mut state = self.state.lock();
                state.effects.duplicated += 1;
                state.note_corrupted(connection);
                drop(state);
                far.write_all(&frame[..frame.len() / 2])?;
                far.write_all(frame)
            }
            Mode::DuplicateFrames => {
                self.state.lock().effects.duplicated += 1;
                far.write_all(frame)?;
                far.write_all(frame)
            }
            _ => far.write_all(frame),
        }
    }
}

/// Of bytes that begin with a frame; all of them if that is longer.
fn first_frame_len(bytes: &[u8]) -> usize {
    let head = bytes.first_chunk().map(|head| Head::decode(*head));
    head.map_or(bytes.len(), |head| (HEAD_LEN + head.len).min(bytes.len()))
}

impl State {
    fn note_corrupted(&mut self, connection: &Connection) {
        self.effects.corrupted += u64::from(!connection.is_corrupted.swap(true, Ordering::Relaxed));
    }
}

impl Connection {
    /// Ends both sides. Whether it was open until now.
    fn end(&self) -> bool {
        let was_open = !self.is_broken.swap(true, Ordering::Relaxed);
        if was_open {
            // The other side may have closed them.
            let _ = (self.near.shutdown(Shutdown::Both), self.far.shutdown(Shutdown::Both));
        }
        was_open
    }

    /// The close that follows, once both directions have noticed, is a reset: a shutdown for reading says nothing to the other side.
    fn reset(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
        for stream in [&self.near, &self.far] {
            let _ = (SockRef::from(stream).set_linger(Some(Duration::ZERO)), stream.shutdown(Shutdown::Read));
        }
    }
}

/// A harness that does not do what it says proves nothing.
#[cfg(test)]
mod tests;
