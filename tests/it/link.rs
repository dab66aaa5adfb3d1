//! A link that can be cut: a TCP proxy between a node and one peer that it dials.
//!
//! What the two sides see is what a network does to them: a connection that is refused or breaks (cut), one that is open and silent (stall), or one that is slow
//! and steady (narrow).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

/// What the system may hold of a connection at either end of the link. A narrow link has little memory: what it has not carried waits at the node that sends.
const SOCKET_BUFFER_LEN: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// What is open breaks, what is dialled is closed at once.
    Cut,
    /// Connections stay and new ones are accepted, and nothing gets through, a close neither. What waited goes on when the mode changes back.
    Stall,
    /// What is said on a dialled connection gets through at so many bytes a second.
    Narrow(u32),
    /// For ever: the test is over.
    Closed,
}

/// One direction of dialling: from one node to one peer. Closed when dropped.
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    open: Vec<TcpStream>,
    /// Connections of earlier generations are forgotten.
    generation: u64,
}

impl Link {
    pub fn to(target: SocketAddr, listener: TcpListener) -> io::Result<Link> {
        let addr = listener.local_addr()?;
        // Those that are accepted inherit it.
        SockRef::from(&listener).set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
        let state = Mutex::new(State { mode: Mode::Pass, open: Vec::new(), generation: 0 });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("link-accept".into()).spawn(move || run_accept(&listener, &accepting))?;
        Ok(Link { addr, shared })
    }

    /// Where the dialling node believes its peer to be.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state.lock();
        state.mode = mode;
        if matches!(mode, Mode::Cut | Mode::Closed) {
            for stream in state.open.drain(..) {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }

    /// What is open now leads nowhere for ever, and neither side is told, as when a router between them is replaced. What is dialled from now on
    /// is not concerned.
    pub fn forget(&self) {
        self.shared.state.lock().generation += 1;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Mode::Closed);
        // Wakes the accepting thread; if that fails, it ends with the process.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn run_accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for accepted in listener.incoming() {
        let Ok(near) = accepted else { continue };
        match shared.state.lock().mode {
            Mode::Closed => return,
            Mode::Cut => continue,
            Mode::Pass | Mode::Stall | Mode::Narrow(_) => {}
        }
        let carrying = Arc::clone(shared);
        // Without a thread the connection closes, which is a fault that a node must stand as well.
        let _ = thread::Builder::new().name("link-carry".into()).spawn(move || carry(near, &carrying));
    }
}

/// One connection: dialled on once something may pass, then copied both ways until a side closes or the link is cut.
fn carry(near: TcpStream, shared: &Arc<Shared>) {
    if !shared.register(&near) || !shared.may_pass() {
        return;
    }
    let far = TcpStream::connect_timeout(&shared.target, Duration::from_secs(2)).ok().filter(|far| shared.register(far));
    let Some(far) = far else {
        // Nobody there: said at once, also while `open` holds a handle of this stream.
        let _ = near.shutdown(Shutdown::Both);
        return;
    };
    let broken = AtomicBool::new(false);
    let generation = shared.state.lock().generation;
    let _ = SockRef::from(&far).set_send_buffer_size(SOCKET_BUFFER_LEN);
    thread::scope(|scope| {
        scope.spawn(|| copy(&near, &far, shared, generation, &broken, |len| shared.pace(len)));
        copy(&far, &near, shared, generation, &broken, |_| ());
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared, generation: u64, broken: &AtomicBool, pace: impl Fn(usize)) {
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut bytes = [0; 4 << 10];
    while !broken.load(Ordering::Relaxed) {
        let read = match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => 0,
            Ok(len) => len,
        };
        let passes = shared.may_pass();
        pace(read);
        match (shared.is_forgotten(generation), read) {
            (true, 0) => return,
            (true, _) => continue,
            (false, 0) => break,
            (false, len) if passes && to.write_all(&bytes[..len]).is_ok() => {}
            (false, _) => break,
        }
    }
    // A half-closed connection ends whole: no peer of ours uses one.
    broken.store(true, Ordering::Relaxed);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

impl Shared {
    /// Remembers a stream, to be shut down at a cut. False if it has been cut by now.
    fn register(&self, stream: &TcpStream) -> bool {
        let mut state = self.state.lock();
        let Ok(stream) = stream.try_clone() else { return false };
        let open = !matches!(state.mode, Mode::Cut | Mode::Closed);
        if open {
            // Those long closed are forgotten here, so that the list stays short.
            state.open.retain(|stream| stream.peer_addr().is_ok());
            state.open.push(stream);
        }
        open
    }

    fn is_forgotten(&self, generation: u64) -> bool {
        let state = self.state.lock();
        state.generation != generation && state.mode != Mode::Closed
    }

    /// Waits while the link stalls; false if it is cut.
    fn may_pass(&self) -> bool {
        let mut state = self.state.lock();
        while state.mode == Mode::Stall {
            self.changed.wait(&mut state);
        }
        matches!(state.mode, Mode::Pass | Mode::Narrow(_))
    }

    /// Takes as long as so many bytes do on a narrow link.
    fn pace(&self, len: usize) {
        let mode = self.state.lock().mode;
        if let Mode::Narrow(rate) = mode {
            thread::sleep(Duration::from_secs_f64(len as f64 / f64::from(rate)));
        }
    }
}

/// A harness that does not do what it says proves nothing.
#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    fn echo() -> SocketAddr {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let _ = io::copy(&mut &stream, &mut &stream);
                });
            }
        });
        addr
    }

    fn dial(link: &Link) -> TcpStream {
        let stream = TcpStream::connect(link.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn hears_an_echo(mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])
    }

    #[test]
    fn a_cut_breaks_what_is_open_and_what_is_dialled() {
        let link = Link::to(echo(), listener()).unwrap();
        let stream = dial(&link);
        hears_an_echo(&stream).unwrap();
        link.set(Mode::Cut);
        hears_an_echo(&stream).unwrap_err();
        hears_an_echo(&dial(&link)).unwrap_err();
        link.set(Mode::Pass);
        hears_an_echo(&stream).unwrap_err();
        hears_an_echo(&dial(&link)).unwrap();
    }

    #[test]
    fn a_forgotten_connection_leads_nowhere_and_a_new_one_works() {
        let link = Link::to(echo(), listener()).unwrap();
        let old = dial(&link);
        hears_an_echo(&old).unwrap();
        link.forget();
        hears_an_echo(&dial(&link)).unwrap();
        old.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silence = hears_an_echo(&old).unwrap_err().kind();
        assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    }

    #[test]
    fn a_target_that_is_not_there_is_felt_at_once() {
        let nobody = listener().local_addr().unwrap();
        let link = Link::to(nobody, listener()).unwrap();
        let stream = dial(&link);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!((&stream).read(&mut [0; 5]).unwrap_or(0), 0);
    }

    #[test]
    fn a_narrow_link_takes_its_time_and_loses_nothing() {
        let link = Link::to(echo(), listener()).unwrap();
        let stream = dial(&link);
        link.set(Mode::Narrow(200_000));
        let began = Instant::now();
        let sent: Vec<u8> = (0..40_000).map(|number| number as u8).collect();
        (&stream).write_all(&sent).unwrap();
        let mut back = vec![0; sent.len()];
        (&stream).read_exact(&mut back).unwrap();
        assert!(back == sent && began.elapsed() >= Duration::from_millis(200), "in {:?}", began.elapsed());
    }

    #[test]
    fn a_stall_holds_everything_back_and_loses_nothing() {
        let link = Link::to(echo(), listener()).unwrap();
        let old = dial(&link);
        hears_an_echo(&old).unwrap();
        link.set(Mode::Stall);
        let new = dial(&link);
        for stream in [&old, &new] {
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let silence = hears_an_echo(stream).unwrap_err().kind();
            assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
        }
        link.set(Mode::Pass);
        for mut stream in [&old, &new] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
        }
    }
}
