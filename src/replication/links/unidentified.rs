//! Unidentified connections: those at the peer port that have not sent a good HELLO yet, or not
//! proven who they are.
//!
//! Owns their slots. Their number is bounded, and the oldest is closed when one more comes. A
//! member's connection is unidentified only until its HELLO is read, and none is closed while it
//! has bytes to read, or right after it was challenged. So however many connections send nothing,
//! or send it slowly, they keep no member out. Of many from one address one of those is closed, not
//! the only one of another address.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};

/// Time for the answer to a challenge in which no connection is closed for another one. Longer than
/// the way to a member and back. Beyond this it may be, as any other that is silent.
const CHALLENGED_GRACE: Duration = Duration::from_millis(200);

/// Longest wait of a new connection before it looks again whether one may be closed for it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The slots for connections that have not said HELLO.
pub struct Unidentified {
    /// Open connections. Beyond this, the oldest is closed for a new one.
    len_max: usize,
    /// Connections, with those that were closed and whose threads have not noticed yet. Beyond
    /// this, a new connection waits.
    ending_max: usize,
    table: Mutex<Table>,
    /// A slot became free, or a connection waits for bytes of its other end.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// By the order in which they came.
    slots: BTreeMap<u64, Slot>,
    came: u64,
}

struct Slot {
    ip: IpAddr,
    stream: Arc<TcpStream>,
    state: SlotState,
    /// It is not closed for another one before this.
    kept_until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// Bytes that have arrived are being read.
    BeingRead,
    /// Its thread waits for bytes, or until the other end takes what is sent.
    Silent,
    /// Closed for another connection.
    Closed,
}

/// One unidentified connection. It holds its slot until it is dropped.
pub struct UnidentifiedConnection {
    unidentified: Arc<Unidentified>,
    number: u64,
    stream: Arc<TcpStream>,
}

impl Unidentified {
    /// Creates slots for `connections_max` connections, of which at least half are for open ones.
    pub fn new(connections_max: usize) -> Unidentified {
        let len_max = (connections_max / 2).max(1);
        Unidentified { len_max, ending_max: 2 * len_max, table: Mutex::default(), changed: Condvar::new() }
    }

    /// Gives a connection a slot. Returns true beside it if another connection was closed for it.
    /// `None` if no slot became free until `deadline`.
    pub fn enter(self: &Arc<Self>, stream: Arc<TcpStream>, ip: IpAddr, deadline: Instant) -> Option<(UnidentifiedConnection, bool)> {
        let mut table = self.table.lock();
        let mut has_closed = false;
        while table.slots.len() >= self.ending_max || table.open_len() >= self.len_max {
            let now = Instant::now();
            if table.slots.len() < self.ending_max && table.close_one(now) {
                has_closed = true;
                continue;
            }
            if now >= deadline {
                return None;
            }
            self.changed.wait_until(&mut table, deadline.min(now + LOOK_AGAIN));
        }
        table.came += 1;
        let number = table.came;
        table.slots.insert(number, Slot { ip, stream: Arc::clone(&stream), state: SlotState::BeingRead, kept_until: Instant::now() });
        Some((UnidentifiedConnection { unidentified: Arc::clone(self), number, stream }, has_closed))
    }

    /// Closes all, when the node stops.
    pub fn close_all(&self) {
        self.table.lock().slots.values_mut().for_each(Slot::close);
    }
}

impl Table {
    fn open_len(&self) -> usize {
        self.slots.values().filter(|slot| slot.state != SlotState::Closed).count()
    }

    /// Closes the oldest of the silent connections from the address with the most of them. Returns
    /// false if there was none.
    fn close_one(&mut self, now: Instant) -> bool {
        let mut silent: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
        for (number, slot) in self.slots.iter().filter(|(_, slot)| slot.state == SlotState::Silent && slot.kept_until <= now) {
            silent.entry(slot.ip).or_insert((0, *number)).0 += 1;
        }
        let oldest = silent.into_values().max_by_key(|(count, number)| (*count, std::cmp::Reverse(*number)));
        let slot = oldest.and_then(|(_, number)| self.slots.get_mut(&number));
        slot.map(Slot::close).is_some()
    }
}

impl Slot {
    fn close(&mut self) {
        self.state = SlotState::Closed;
        // Its thread wakes up and ends.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl UnidentifiedConnection {
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A reader of what the other end sends before the deadline, however its bytes drip.
    pub fn reader(&self, deadline: Instant) -> DeadlineReader<'_> {
        DeadlineReader { connection: self, deadline }
    }

    /// Sends bytes to the other end.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.note(SlotState::Silent);
        let written = self.stream().write_all(bytes);
        self.note(SlotState::BeingRead);
        written
    }

    /// Notes that the connection is challenged, once: it gets the time to answer.
    pub fn challenged(&self) {
        if let Some(slot) = self.unidentified.table.lock().slots.get_mut(&self.number) {
            slot.kept_until = Instant::now() + CHALLENGED_GRACE;
        }
    }

    /// Takes the connection out: its peer is identified. `None` if it was closed before.
    pub fn admit(self) -> Option<Arc<TcpStream>> {
        let is_closed = self.unidentified.table.lock().slots.get(&self.number).is_none_or(|slot| slot.state == SlotState::Closed);
        (!is_closed).then(|| Arc::clone(&self.stream))
    }

    fn note(&self, state: SlotState) {
        let mut table = self.unidentified.table.lock();
        if let Some(slot) = table.slots.get_mut(&self.number).filter(|slot| slot.state != SlotState::Closed) {
            slot.state = state;
            self.unidentified.changed.notify_all();
        }
    }
}

impl Drop for UnidentifiedConnection {
    fn drop(&mut self) {
        self.unidentified.table.lock().slots.remove(&self.number);
        self.unidentified.changed.notify_all();
    }
}

/// Reads from a connection.
pub struct DeadlineReader<'a> {
    connection: &'a UnidentifiedConnection,
    deadline: Instant,
}

impl Read for DeadlineReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.connection.stream();
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no HELLO in time"));
        }
        if is_readable(stream) {
            return stream.read(into);
        }
        stream.set_read_timeout(Some(left))?;
        self.connection.note(SlotState::Silent);
        let read = stream.read(into);
        self.connection.note(SlotState::BeingRead);
        read
    }
}

/// Returns whether a read would return at once.
fn is_readable(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LEN_MAX: usize = 64;
    const SOON: Duration = Duration::from_secs(30);

    /// Both ends of a connection.
    fn connection(listener: &TcpListener) -> (TcpStream, Arc<TcpStream>) {
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        far.set_read_timeout(Some(SOON)).unwrap();
        (far, Arc::new(listener.accept().unwrap().0))
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn the_oldest_silent_one_of_the_busiest_address_is_closed_and_none_that_is_being_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let unidentified = Arc::new(Unidentified::new(2 * LEN_MAX));
        let enter = |ip, wait| {
            let (far, near) = connection(&listener);
            unidentified.enter(near, ip, Instant::now() + wait).map(|(connection, has_closed)| (far, connection, has_closed))
        };
        let mut all: Vec<_> = [1, 2].into_iter().chain((2..LEN_MAX).map(|_| 3)).map(|last| enter(ip(last), SOON).unwrap()).collect();
        assert!(all.iter().all(|(_, _, has_closed)| !has_closed));
        // All of them are being read: a new connection has to wait.
        assert!(enter(ip(4), Duration::from_millis(1)).is_none());
        all.iter().for_each(|(_, connection, _)| connection.note(SlotState::Silent));
        // The first one from the third address sent something in time.
        all[2].1.note(SlotState::BeingRead);
        let (_, _, has_closed) = enter(ip(4), SOON).unwrap();
        assert!(has_closed);
        let is_closed: Vec<bool> =
            all.iter_mut().map(|(far, _, _)| far.set_nonblocking(true).and_then(|()| far.read(&mut [0])).is_ok()).collect();
        assert_eq!(is_closed.iter().position(|closed| *closed), Some(3), "{is_closed:?}");
        assert_eq!(is_closed.iter().filter(|closed| **closed).count(), 1, "{is_closed:?}");
        let [two, three] = [2, 3].map(|_| all.remove(2).1);
        assert!(two.admit().is_some());
        assert!(three.admit().is_none());
    }

    #[test]
    fn none_is_closed_right_after_it_was_challenged() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let unidentified = Arc::new(Unidentified::new(4));
        let enter = |wait| {
            let (far, near) = connection(&listener);
            unidentified.enter(near, ip(1), Instant::now() + wait).map(|(connection, has_closed)| (far, connection, has_closed))
        };
        let (challenged, silent) = (enter(SOON).unwrap(), enter(SOON).unwrap());
        for connection in [&challenged.1, &silent.1] {
            connection.note(SlotState::Silent);
        }
        challenged.1.challenged();
        let last = enter(SOON).unwrap();
        assert!(last.2);
        assert!(silent.1.admit().is_none(), "the other one is closed, although it is younger");
        last.1.note(SlotState::Silent);
        last.1.challenged();
        // Both may answer yet. A new one waits until their time is over.
        let began = Instant::now();
        assert!(enter(Duration::from_millis(1)).is_none());
        assert!(enter(SOON).unwrap().2);
        assert!(began.elapsed() < SOON);
        assert!(challenged.1.admit().is_none());
    }

    #[test]
    fn a_new_connection_waits_for_a_slot_that_becomes_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let unidentified = Arc::new(Unidentified::new(2 * LEN_MAX));
        let mut all: Vec<_> = (0..LEN_MAX)
            .map(|_| {
                let (far, near) = connection(&listener);
                (far, unidentified.enter(near, ip(1), Instant::now() + SOON).unwrap().0)
            })
            .collect();
        let (mut far, opened) = all.pop().unwrap();
        let reading = thread::spawn(move || {
            let mut word = [0; 5];
            let read = opened.reader(Instant::now() + SOON).read_exact(&mut word);
            // Bytes that came before it was closed may be read all the same. What counts is whether
            // it is admitted.
            opened.admit().map(|_| read.map(|()| word))
        });
        let (_far, near) = connection(&listener);
        let entering = thread::spawn({
            let unidentified = Arc::clone(&unidentified);
            move || unidentified.enter(near, ip(1), Instant::now() + SOON).map(|(_, has_closed)| has_closed)
        });
        far.write_all(b"HELLO").unwrap_or_default();
        // Either it was silent for a moment and had to go, or its bytes were read, and its slot is
        // free.
        let admitted = reading.join().unwrap();
        assert!(admitted.as_ref().is_none_or(|read| read.as_ref().is_ok_and(|word| word == b"HELLO")), "{admitted:?}");
        assert_eq!(entering.join().unwrap(), Some(admitted.is_none()));
    }
}
