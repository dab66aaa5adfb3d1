//! The sender of one outgoing connection: the one place from which bytes go to a peer.
//!
//! Everything that is sent is taken out of the outbox, encoded and given to the socket under one
//! lock, so that it leaves in the order in which it was taken. The lock is held across no wait for
//! the socket: what the system does not take at once stays here, and the link's thread waits
//! without it. All other threads only try the lock.
//!
//! The threads that bring what sessions wait for, own batches and acks, send them themselves
//! through [`Sender::send_now`] if nothing is in the way. That saves a change of threads at either
//! end of a write at `majority`, of some 15 microseconds each. If something is in the way, they
//! leave it to the link's thread.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::data::clock::{Clock, elapsed};
use crate::replication::links::outbox::{EncodedBatch, Outbox, Urgent};
use crate::sync::{MappedMutexGuard, Mutex, MutexGuard};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::peer::{Ack, Message, Protocol};

/// Bytes of a piece into which small messages are gathered. A batch that does not fit is a piece of
/// its own, and shared with the other links and the log.
const GATHER_LEN: usize = 64 << 10;

/// Bytes that the system is given at a time, at most. That something shorter was taken says nothing
/// of the peer: the system takes it for a peer that is long gone, too.
const WRITE_LEN: usize = 64 << 10;

/// A connected socket that does not block. The tests of interleavings have one of their own.
pub trait Socket: Send + Sync {
    /// Gives it bytes; returns how many of them it has taken.
    fn give(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until it seems to take more, or until `timeout`. Returns false after that.
    fn await_room(&self, timeout: Duration) -> bool;
}

impl Socket for TcpStream {
    fn give(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn await_room(&self, timeout: Duration) -> bool {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // Whatever it says: the next try shows what has happened.
        poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLOUT)], timeout).is_ok_and(|ready| ready > 0)
    }
}

/// The sender on the present connection to one peer, if there is a connection.
#[derive(Default)]
pub struct Sender {
    connection: Mutex<Option<OutgoingConnection>>,
}

/// One connection, as far as something is sent on it.
pub struct OutgoingConnection {
    socket: Arc<dyn Socket>,
    /// The protocol that is spoken on it.
    pub protocol: Protocol,
    pub unsent: Unsent,
}

/// Bytes on their way to the socket, in order.
#[derive(Default)]
pub struct Unsent {
    /// Large ones are batches, shared with the other links and the log.
    pieces: VecDeque<Arc<Vec<u8>>>,
    /// Bytes of the first piece that the system has taken, or of what is gathered if there is none.
    taken: usize,
    /// Small messages behind all pieces, gathered into one.
    gathered: Vec<u8>,
    /// Bytes that were ever put here.
    len: u64,
}

impl Sender {
    /// Begins a connection.
    pub fn begin(&self, socket: Arc<dyn Socket>, protocol: Protocol) {
        *self.connection.lock() = Some(OutgoingConnection { socket, protocol, unsent: Unsent::default() });
    }

    /// Ends the connection, and forgets what was not sent on it.
    pub fn end(&self) {
        self.connection.lock().take();
    }

    /// The present connection. For the link's thread, which begins and ends it and holds no other
    /// lock.
    pub fn connection(&self) -> Option<MappedMutexGuard<'_, OutgoingConnection>> {
        MutexGuard::try_map(self.connection.lock(), Option::as_mut).ok()
    }

    /// Sends what sessions wait for: the batches in the outbox, and the ack. Returns true if the
    /// thread of the link has nothing left to do. Waits for no socket and no lock.
    pub fn send_now(&self, outbox: &Outbox, clock: &Clock) -> bool {
        let Some(mut held) = self.connection.try_lock() else { return false };
        if held.as_ref().is_none_or(|connection| !connection.unsent.is_empty()) {
            return false;
        }
        let Some(Urgent { ack, batches }) = outbox.take_urgent() else { return false };
        if BrokenHandOver::TakenWithoutSender.is_on() {
            MutexGuard::unlocked(&mut held, || ());
        }
        // Always there: it was above, and is ended under this lock.
        let Some(connection) = held.as_mut() else { return false };
        if let Some(ack) = ack {
            let clocks = Some(clock.read(elapsed()));
            connection.unsent.put(&Message::Ack(Ack { clocks, ..ack }), connection.protocol);
        }
        connection.unsent.put_batches(&batches);
        // After an error the link's thread meets one, too, and ends the connection.
        connection.flush().unwrap_or(false) || BrokenHandOver::RestNotCalled.is_on()
    }
}

impl OutgoingConnection {
    /// Gives the socket what it takes at once. Returns true if nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some(first) = self.unsent.first() {
            match self.socket.give(&first[..first.len().min(WRITE_LEN)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => self.unsent.take(len),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Unsent {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.gathered.is_empty()
    }

    /// Bytes that were ever put here.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that wait.
    pub fn waiting_len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum::<usize>() + self.gathered.len() - self.taken
    }

    /// Puts a message.
    pub fn put(&mut self, message: &Message, protocol: Protocol) {
        let before = self.gathered.len();
        message.encode(&mut self.gathered, protocol);
        self.len += (self.gathered.len() - before) as u64;
        if self.gathered.len() > GATHER_LEN {
            self.seal();
        }
    }

    /// Puts batches.
    pub fn put_batches(&mut self, batches: &[EncodedBatch]) {
        for EncodedBatch { bytes, .. } in batches {
            self.len += bytes.len() as u64;
            if self.gathered.len() + bytes.len() > GATHER_LEN {
                self.seal();
                self.pieces.push_back(Arc::clone(bytes));
            } else {
                self.gathered.extend_from_slice(bytes);
            }
        }
    }

    /// Takes out everything.
    #[cfg(feature = "testing")]
    pub fn drain(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(first) = self.first() {
            all.extend_from_slice(first);
            self.take(first.len());
        }
        all
    }

    /// The bytes that come next.
    fn first(&self) -> Option<&[u8]> {
        let piece = self.pieces.front().map_or(&self.gathered, |piece| piece);
        Some(&piece[self.taken..]).filter(|first| !first.is_empty())
    }

    /// Notes that the system has taken so many of them.
    fn take(&mut self, len: usize) {
        self.taken += len;
        if self.first().is_none() {
            self.taken = 0;
            if self.pieces.pop_front().is_none() {
                self.gathered.clear();
            }
        }
    }

    /// Makes a piece of what was gathered.
    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push_back(Arc::new(std::mem::take(&mut self.gathered)));
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
