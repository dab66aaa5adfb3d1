//! Who is on the peer port and has not said a good HELLO: a bounded number of connections, of which the oldest goes when one more comes.
//!
//! Owns their slots. A member is a stranger only until its HELLO is read, and nobody is sent away while there is something of it to read: so however many connect and say nothing, or say it
//! slowly, they keep no member out. Of many from one address one of those goes, and not the only one of another.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};

/// The slots.
pub struct Unidentified {
    /// Beyond this, the oldest is closed for one that comes.
    len_max: usize,
    /// With those that were closed and whose threads have not noticed yet; beyond this, a connection that comes waits.
    ending_max: usize,
    table: Mutex<Table>,
    /// One has left, or waits for what its other end has to say.
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
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// What it has said is being read.
    Heard,
    /// Its thread waits until it says something, or takes what it is told.
    Silent,
    /// It was closed for another one.
    Closed,
}

/// One connection's slot, until it is dropped.
pub struct Stranger {
    strangers: Arc<Unidentified>,
    number: u64,
    stream: Arc<TcpStream>,
}

impl Unidentified {
    /// Slots for so many connections, of which at least half are of those that have not been closed.
    pub fn new(connections_max: usize) -> Unidentified {
        let len_max = (connections_max / 2).max(1);
        Unidentified { len_max, ending_max: 2 * len_max, table: Mutex::default(), changed: Condvar::new() }
    }

    /// A slot for a connection; whether another one was closed for it. `None` if there was none until `deadline`.
    pub fn enter(self: &Arc<Self>, stream: Arc<TcpStream>, ip: IpAddr, deadline: Instant) -> Option<(Stranger, bool)> {
        let mut table = self.table.lock();
        let mut has_closed = false;
        while table.slots.len() >= self.ending_max || table.open_len() >= self.len_max {
            if table.slots.len() < self.ending_max && table.close_one() {
                has_closed = true;
            } else if self.changed.wait_until(&mut table, deadline).timed_out() {
                return None;
            }
        }
        table.came += 1;
        let number = table.came;
        table.slots.insert(number, Slot { ip, stream: Arc::clone(&stream), place: Place::Heard });
        Some((Stranger { strangers: Arc::clone(self), number, stream }, has_closed))
    }

    /// At the end of the node.
    pub fn close_all(&self) {
        self.table.lock().slots.values_mut().for_each(Slot::close);
    }
}

impl Table {
    fn open_len(&self) -> usize {
        self.slots.values().filter(|slot| slot.place != Place::Closed).count()
    }

    /// Closes the oldest of those that are silent, from the address with the most of them. Whether there was one.
    fn close_one(&mut self) -> bool {
        let mut silent: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
        for (number, slot) in self.slots.iter().filter(|(_, slot)| slot.place == Place::Silent) {
            silent.entry(slot.ip).or_insert((0, *number)).0 += 1;
        }
        let oldest = silent.into_values().max_by_key(|(count, number)| (*count, std::cmp::Reverse(*number)));
        let slot = oldest.and_then(|(_, number)| self.slots.get_mut(&number));
        slot.map(Slot::close).is_some()
    }
}

impl Slot {
    fn close(&mut self) {
        self.place = Place::Closed;
        // Its thread wakes up and ends.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Stranger {
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What it says has to be there by the deadline, however its bytes drip.
    pub fn until(&self, deadline: Instant) -> Hurried<'_> {
        Hurried { stranger: self, deadline }
    }

    /// Tells it something.
    pub fn tell(&self, bytes: &[u8]) -> io::Result<()> {
        self.note(Place::Silent);
        let written = self.stream().write_all(bytes);
        self.note(Place::Heard);
        written
    }

    /// It is somebody now. `None` if it was closed before.
    pub fn admit(self) -> Option<Arc<TcpStream>> {
        let is_closed = self.strangers.table.lock().slots.get(&self.number).is_none_or(|slot| slot.place == Place::Closed);
        (!is_closed).then(|| Arc::clone(&self.stream))
    }

    fn note(&self, place: Place) {
        let mut table = self.strangers.table.lock();
        if let Some(slot) = table.slots.get_mut(&self.number).filter(|slot| slot.place != Place::Closed) {
            slot.place = place;
            self.strangers.changed.notify_all();
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.table.lock().slots.remove(&self.number);
        self.strangers.changed.notify_all();
    }
}

/// Reads from a stranger.
pub struct Hurried<'a> {
    stranger: &'a Stranger,
    deadline: Instant,
}

impl Read for Hurried<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stranger.stream();
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no HELLO in time"));
        }
        if is_readable(stream) {
            return stream.read(into);
        }
        stream.set_read_timeout(Some(left))?;
        self.stranger.note(Place::Silent);
        let read = stream.read(into);
        self.stranger.note(Place::Heard);
        read
    }
}

/// Whether a read would not wait.
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
    fn the_oldest_silent_one_of_the_busiest_address_goes_and_nobody_who_is_being_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let strangers = Arc::new(Unidentified::new(2 * LEN_MAX));
        let enter = |ip, wait| {
            let (far, near) = connection(&listener);
            strangers.enter(near, ip, Instant::now() + wait).map(|(stranger, has_closed)| (far, stranger, has_closed))
        };
        let mut all: Vec<_> = [1, 2].into_iter().chain((2..LEN_MAX).map(|_| 3)).map(|last| enter(ip(last), SOON).unwrap()).collect();
        assert!(all.iter().all(|(_, _, has_closed)| !has_closed));
        // All of them are being read: who comes has to wait.
        assert!(enter(ip(4), Duration::from_millis(1)).is_none());
        all.iter().for_each(|(_, stranger, _)| stranger.note(Place::Silent));
        // The first one from the third address said something in time.
        all[2].1.note(Place::Heard);
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
    fn who_comes_waits_for_a_slot_that_becomes_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let strangers = Arc::new(Unidentified::new(2 * LEN_MAX));
        let mut all: Vec<_> = (0..LEN_MAX)
            .map(|_| {
                let (far, near) = connection(&listener);
                (far, strangers.enter(near, ip(1), Instant::now() + SOON).unwrap().0)
            })
            .collect();
        let (mut far, stranger) = all.pop().unwrap();
        let reading = thread::spawn(move || {
            let mut word = [0; 5];
            let heard = stranger.until(Instant::now() + SOON).read_exact(&mut word);
            // Bytes that came before it was closed may be read all the same: what counts is whether it is let in.
            stranger.admit().map(|_| heard.map(|()| word))
        });
        let (_far, near) = connection(&listener);
        let entering = thread::spawn({
            let strangers = Arc::clone(&strangers);
            move || strangers.enter(near, ip(1), Instant::now() + SOON).map(|(_, has_closed)| has_closed)
        });
        far.write_all(b"HELLO").unwrap_or_default();
        // Either it was silent for a moment and had to go, or it was heard, and its slot is free.
        let admitted = reading.join().unwrap();
        assert!(admitted.as_ref().is_none_or(|heard| heard.as_ref().is_ok_and(|word| word == b"HELLO")), "{admitted:?}");
        assert_eq!(entering.join().unwrap(), Some(admitted.is_none()));
    }
}
