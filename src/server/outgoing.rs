//! Outgoing replies: their way to one client, which may be slow.
//!
//! What the socket takes at once is written at once. While it takes nothing, the session waits for
//! it, and for what the client sends: that is read, up to the bounds of the read buffer, and not
//! executed. So a client may send all its requests before it reads the first reply. The time for
//! which the socket may take nothing is bounded, and so is what waiting replies hold in all
//! sessions together.

use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::mem;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use crate::budget::{OutOfBudget, Share};
use crate::data::clock::elapsed;
use crate::server::client_handle::ClientHandle;
use crate::server::client_socket::ClientSocket;
use crate::server::read_buffer::ReadBuffer;
use crate::server::shared::Shared;
use crate::store::Store;
use crate::wire::reply::Reply;

/// The longest pause between two looks of a session that waits; ten looks in `write_timeout` are
/// the least. The system says that a socket takes something only when it takes much, so each look
/// tries to write, too, and counts anew what the reply holds.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The pause before another try at a socket that is said to take something and does not, since the
/// system is short of memory.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// The least pause between two log lines on clients that do not take their replies.
const DEAF_LOG_PAUSE: Duration = Duration::from_secs(60);

/// Long answers leave in pieces of this size.
pub(crate) const CHUNK_LEN: usize = 64 << 10;

pub(crate) struct Outgoing<'s, 'a> {
    shared: &'s Shared,
    client: &'s ClientHandle,
    socket: &'s mut ClientSocket<'a>,
    buffer: &'s mut ReadBuffer<'a>,
    /// The reply that is held until all of it is written.
    reply: Option<&'s Reply<'static>>,
    /// Bytes that are held beside that reply.
    copied: usize,
    share: Share<'s>,
    /// The time since which the socket takes nothing; `None` while it does.
    stuck: Option<Instant>,
    /// The time at which the reply is counted next.
    count_at: Option<Instant>,
    /// True if the system has just said that the socket takes something.
    was_writable: bool,
    /// True if the client sends no more, or no more of it is read meanwhile.
    at_end: bool,
}

impl<'s, 'a> Outgoing<'s, 'a> {
    pub fn new(
        shared: &'s Shared,
        client: &'s ClientHandle,
        socket: &'s mut ClientSocket<'a>,
        buffer: &'s mut ReadBuffer<'a>,
    ) -> Outgoing<'s, 'a> {
        Outgoing {
            shared,
            client,
            socket,
            buffer,
            reply: None,
            copied: 0,
            share: Share::none(&shared.reply_budget),
            stuck: None,
            count_at: None,
            was_writable: false,
            at_end: false,
        }
    }

    /// Holds a reply, which is kept until all of it is written.
    pub fn holding<'r>(self, reply: &'r Reply<'static>) -> Outgoing<'r, 'a>
    where
        's: 'r,
    {
        Outgoing { reply: Some(reply), ..self }
    }

    /// Reads nothing ahead if so. A client that has not said who it is gets no memory for that.
    pub fn without_reading_if(mut self, is_newcomer: bool) -> Self {
        self.at_end |= is_newcomer;
        self
    }

    /// Counts so many bytes as held while what comes next is written.
    pub fn set_copied(&mut self, len: usize) {
        self.copied = len;
    }

    /// Waits, since the socket takes nothing: until it may, or the client has sent something, which
    /// is read, or it is time to look again.
    #[cold]
    #[inline(never)]
    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.shared.services.live.current().write_timeout;
        let now = Instant::now();
        let left = timeout.saturating_sub(now - *self.stuck.get_or_insert(now));
        if left.is_zero() {
            return Err(self.give_up(&format!("it has taken none of its replies for {timeout:?}")));
        }
        let look_pause = LOOK_PAUSE_MAX.min(timeout / 10);
        if self.count_at.is_none_or(|at| now >= at) {
            self.count_at = Some(now + look_pause);
            self.count()?;
        }
        if mem::take(&mut self.was_writable) {
            thread::park_timeout(SHORT_PAUSE);
        }
        let reads = !self.at_end && self.buffer.make_room_ahead();
        let awaited = if reads { PollFlags::POLLOUT | PollFlags::POLLIN } else { PollFlags::POLLOUT };
        let mut polled = [PollFd::new(self.socket.raw().as_fd(), awaited)];
        // Rounded up: in the last part of a millisecond it would not wait at all.
        let wait = PollTimeout::try_from(left.min(look_pause) + SHORT_PAUSE).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, wait) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = polled[0].revents().unwrap_or(PollFlags::empty());
        self.was_writable = ready.contains(PollFlags::POLLOUT);
        if reads && ready.contains(PollFlags::POLLIN) {
            match self.buffer.fill(&mut self.socket.read_once()) {
                Ok(len) => self.at_end = len == 0,
                // More of it has to come before it can be decrypted.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counts what the reply holds. That changes: a value that is shared with the store is the
    /// reply's alone once its key is overwritten.
    fn count(&mut self) -> io::Result<()> {
        let reply = self.reply.map_or(0, |reply| reply.own_size() + unshared(reply, &self.shared.services.store));
        let held = reply + self.copied;
        self.share.set(held).map_err(|OutOfBudget| self.out_of_budget(held))
    }

    /// The error that closes the connection, since a reply holds so many bytes while it waits and
    /// the budget is used up.
    pub fn out_of_budget(&self, held: usize) -> io::Error {
        let budget = self.shared.reply_budget.size();
        self.give_up(&format!(
            "its reply holds {held} bytes while it waits, and with the replies of other clients that is more than {budget}"
        ))
    }

    /// Gives up on the client. What is left in the system's buffers is dropped with the connection:
    /// the client takes none of it, and it is memory, too.
    fn give_up(&self, why: &str) -> io::Error {
        let counters = &self.shared.counters;
        let count = counters.clients_deaf.fetch_add(1, Ordering::Relaxed) + 1;
        let now_s = elapsed().as_secs();
        let next = |at: u64| (now_s >= at).then_some(now_s + DEAF_LOG_PAUSE.as_secs());
        if counters.deaf_logged_next_s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok() {
            let (id, addr) = (self.client.id(), self.client.addr());
            let addr = addr.map_or_else(|| "unknown address".to_owned(), |addr| addr.to_string());
            log::warn!("client {id} ({addr}) is closed: {why}; {count} such clients since the start, logged once a minute at most");
        }
        // Fails only where the connection has ended by itself.
        let _ = SockRef::from(self.client.socket()).set_linger(Some(Duration::ZERO));
        io::Error::new(ErrorKind::TimedOut, why)
    }
}

impl io::Write for Outgoing<'_, '_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.send(bytes) {
                Ok(len) => {
                    (self.stuck, self.was_writable) = (None, false);
                    if len > 0 || bytes.is_empty() {
                        return Ok(len);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.wait()?,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of entries that a reply keeps and the store does not; of an entry that several replies
/// keep, the part of this one.
fn unshared(reply: &Reply<'_>, store: &Store) -> usize {
    match reply {
        Reply::Value(part) => {
            let entry = part.entry();
            let is_stored = store.read(entry.key(), |stored| stored.is_some_and(|stored| stored.is(entry)));
            if is_stored { 0 } else { entry.memory() / entry.holders() }
        }
        Reply::Array(replies) | Reply::Set(replies) => replies.iter().map(|reply| unshared(reply, store)).sum(),
        Reply::Map(pairs) => pairs.iter().map(|(key, value)| unshared(key, store) + unshared(value, store)).sum(),
        _ => 0,
    }
}

type Out<'s, 'a> = BufWriter<Outgoing<'s, 'a>>;

/// Writes an answer in pieces.
pub(crate) fn buffered<'s, 'a>(outgoing: Outgoing<'s, 'a>, write: impl FnOnce(&mut Out<'s, 'a>) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(CHUNK_LEN, outgoing);
    let written = write(&mut out).and_then(|()| out.flush());
    // Without another try at what could not be written: that would wait for the client once more.
    drop(out.into_parts());
    written
}
