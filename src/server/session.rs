//! One client: reads, executes everything that has come as one round, waits once, answers with one write.
//!
//! Owns its two buffers. A round ends when the read buffer holds no whole command any more, when the replies reach their bound, or in front of an
//! answer that is too long to be held; nothing of a round's replies leaves before its writes are acknowledged.

use std::io::{self, BufWriter, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::protocol::command::{AckLevel, Command, ErrorCode, Reply};
use crate::protocol::text::{Parsed, encode_reply, parse};
use crate::server::Shared;
use crate::server::buffer::{NoRoom, ReadBuffer};
use crate::server::execute::{self, Answer, Long};
use crate::server::restore;
use crate::server::writes::{Place, Refusal, Writes};

/// A round's replies are sent when they reach this, however many commands are left.
const REPLIES_LEN_MAX: usize = 1 << 20;
/// Of the memory for replies, kept between rounds.
const REPLIES_LEN_KEPT: usize = 16 << 10;
/// Long answers leave in pieces of this size.
const LONG_CHUNK_LEN: usize = 64 << 10;
/// Before a refusal for want of a quorum is sent: clients that try again at once would take the time that the peers need to come back.
const NO_QUORUM_PAUSE: Duration = Duration::from_millis(20);
/// How long a client may take to notice that it is being closed.
const LINGER: Duration = Duration::from_secs(1);

/// The life of a thread `client-N`, from the first byte to the last.
pub(super) fn run_client(shared: &Shared, socket: &TcpStream, addr: SocketAddr) {
    let mut session = Session::new(shared, socket);
    match session.serve() {
        Ok(Farewell::Gone) => {}
        Ok(Farewell::Closing) => linger(socket),
        Err(error) => log::debug!("client {addr} is closed: {error}"),
    }
}

struct Session<'a> {
    shared: &'a Shared,
    socket: &'a TcpStream,
    level: AckLevel,
    buffer: ReadBuffer<'a>,
    replies: Vec<u8>,
    writes: Writes<'a>,
    /// Of the round.
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    commands: u64,
    writes: u64,
    refused: u64,
    no_quorum: bool,
}

/// Why a round ended.
enum Ended {
    /// What is left is not a whole line; so much of it is known to hold no line end.
    NeedsMore { scanned: usize },
    /// The replies have reached their bound.
    Full,
    /// This is to be written next.
    Before(Long),
    /// A dump comes next, not commands.
    Restore,
    /// After QUIT, and after bytes that are no commands.
    Close,
}

enum Farewell {
    /// The client has closed, or the server stops.
    Gone,
    /// The last reply is on its way, and the client may still be sending.
    Closing,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, socket: &'a TcpStream) -> Session<'a> {
        Session {
            shared,
            socket,
            level: shared.services.config.ack,
            buffer: ReadBuffer::new(shared.limits.line_len_max().max(restore::line_len_max(&shared.limits)), &shared.read_room),
            replies: Vec::new(),
            writes: Writes::new(&shared.services, shared.limits),
            tally: Tally::default(),
        }
    }

    fn serve(&mut self) -> io::Result<Farewell> {
        let mut scanned = 0;
        // A half command at the end of the stream is dropped: nobody is left to tell.
        while !self.shared.is_stopping() {
            if scanned == self.buffer.unread().len() {
                if self.buffer.make_room() == Err(NoRoom) {
                    let sentence = "the large commands that are arriving take all the memory that this node has for them; nothing of this one \
                        was written, and this connection is closed; try again later or another node";
                    encode_reply(&Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }, &mut self.replies);
                    self.send()?;
                    return Ok(Farewell::Closing);
                }
                if self.buffer.fill(&mut self.socket)? == 0 {
                    return Ok(Farewell::Gone);
                }
            }
            let ended = self.run_round(scanned);
            self.send()?;
            scanned = 0;
            match ended {
                Ended::NeedsMore { scanned: upto } => scanned = upto,
                Ended::Full => {}
                Ended::Before(long) => self.send_long(long)?,
                Ended::Restore => {
                    let done = restore::run(self.shared, self.socket, &mut self.buffer, &mut self.replies)?;
                    self.send()?;
                    if !done {
                        return Ok(Farewell::Closing);
                    }
                }
                Ended::Close => return Ok(Farewell::Closing),
            }
        }
        Ok(Farewell::Closing)
    }

    /// Executes what has been read, and waits until the writes among it are acknowledged: then the replies may be sent.
    fn run_round(&mut self, mut scanned: usize) -> Ended {
        let Session { shared, buffer, replies, writes, level, tally, .. } = self;
        let services = &shared.services;
        let is_open = services.mesh.is_open();
        let unread = buffer.unread();
        let mut at = 0;
        let ended = loop {
            if replies.len() >= REPLIES_LEN_MAX {
                break Ended::Full;
            }
            let parsed = parse(&unread[at..], std::mem::take(&mut scanned), &shared.limits);
            let start = at;
            let command = match parsed {
                Parsed::Incomplete { scanned } => break Ended::NeedsMore { scanned },
                Parsed::Empty { consumed } => {
                    at += consumed;
                    continue;
                }
                Parsed::Wrong { wrong, consumed } => {
                    at += consumed;
                    encode_reply(&wrong.into_reply(), replies);
                    continue;
                }
                Parsed::Fatal { wrong } => {
                    encode_reply(&wrong.into_reply(), replies);
                    break Ended::Close;
                }
                Parsed::Command { command, consumed } => {
                    at += consumed;
                    command
                }
            };
            tally.commands += 1;
            if !is_open && !execute::is_for_closed_nodes(&command) {
                let sentence = services.mesh.loading().into();
                encode_reply(&Reply::Error { code: ErrorCode::Loading, sentence }, replies);
                continue;
            }
            match command {
                Command::Write { key, write } => {
                    let place = Place { command: start, reply: replies.len() };
                    let written = writes.write(*level, &key, &write, place);
                    tally.writes += u64::from(written.is_ok());
                    tally.refused += u64::from(written.is_err());
                    tally.no_quorum |= matches!(written, Err(Refusal::NoQuorum(_)));
                    match written {
                        Ok(()) => encode_reply(&Reply::Ok, replies),
                        Err(refusal) => encode_reply(&refusal.into_reply(services, *level, &key, &write), replies),
                    }
                }
                Command::Ack { level: None } => encode_reply(&Reply::Ack(*level), replies),
                Command::Ack { level: Some(chosen) } => {
                    // The writes before it were sent under the level before it.
                    shared.count_unknown(writes.settle(unread, replies));
                    *level = chosen;
                    encode_reply(&Reply::Ok, replies);
                }
                Command::Restore => break Ended::Restore,
                Command::Quit => {
                    encode_reply(&Reply::Ok, replies);
                    break Ended::Close;
                }
                command => match execute::answer(services, command) {
                    Answer::Reply(reply) => encode_reply(&reply, replies),
                    Answer::Long(long) => break Ended::Before(long),
                },
            }
        };
        shared.count_unknown(writes.settle(unread, replies));
        if tally.no_quorum {
            std::thread::park_timeout(NO_QUORUM_PAUSE);
        }
        shared.count(std::mem::take(tally));
        buffer.consume(at);
        ended
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.replies.is_empty() {
            self.socket.write_all(&self.replies)?;
            self.replies.clear();
            self.replies.shrink_to(REPLIES_LEN_KEPT);
        }
        Ok(())
    }

    fn send_long(&mut self, long: Long) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(LONG_CHUNK_LEN, self.socket);
        let written = execute::write_long(&mut out, self.shared, long).and_then(|()| out.flush());
        // Without another try at what could not be written: that would wait for the client once more.
        drop(out.into_parts());
        written
    }
}

impl Shared {
    fn count(&self, tally: Tally) {
        let add = |counter: &std::sync::atomic::AtomicU64, more: u64| {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.counters.commands, tally.commands);
        add(&self.counters.writes, tally.writes);
        add(&self.counters.writes_refused, tally.refused);
    }

    /// Writes that were applied, and then not acknowledged in time or refused when they were judged again.
    fn count_unknown(&self, writes: usize) {
        if writes > 0 {
            self.counters.writes_unknown.fetch_add(writes as u64, Ordering::Relaxed);
        }
    }
}

/// Ends the stream and reads on for a moment: closing with something unread would reset the connection, and the last reply could be lost.
fn linger(mut socket: &TcpStream) {
    let deadline = Instant::now() + LINGER;
    let mut discarded = [0; 4096];
    let _ = socket.shutdown(Shutdown::Write);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Refused when nothing is left.
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() || !matches!(socket.read(&mut discarded), Ok(1..)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::fixture;

    #[test]
    fn when_large_commands_have_no_room_small_ones_are_served() {
        let fixture = fixture(0, "");
        let room = &fixture.server.shared.read_room;
        room.take(room.left()).unwrap();
        let mut large = fixture.connect();
        large.send("SET a 1\nPUT b ".to_owned() + &"v".repeat(300 << 10));
        large.expect(&["OK", "ERROR BUSY the large commands that are arriving take all the memory"]);
        large.expect_end();
        let mut small = fixture.connect();
        small.send(format!("PUT b {}\nGET a\n", "v".repeat(10 << 10)));
        small.expect(&["OK", "VALUE 1"]);
        fixture.stop();
    }

    #[test]
    fn the_replies_of_a_round_are_bounded_and_their_memory_is_given_back() {
        let fixture = fixture(0, "");
        let value = "v".repeat(200 << 10);
        fixture.store.merge(fixture.foreign("a", Some(&value)), |_| false);
        let socket = TcpStream::connect(fixture.server.addr()).unwrap();
        let mut session = Session::new(&fixture.server.shared, &socket);
        let commands = "GET a\n".repeat(64);
        session.buffer.make_room().unwrap();
        assert_eq!(session.buffer.fill(&mut commands.as_bytes()).unwrap(), commands.len());
        let mut rounds = 0;
        while !session.buffer.unread().is_empty() {
            session.run_round(0);
            rounds += 1;
            assert!(session.replies.len() <= REPLIES_LEN_MAX + value.len() + 7);
            session.replies.clear();
        }
        assert_eq!(rounds, 64 / 6 + 1);
        session.replies.push(b'\n');
        session.send().unwrap();
        assert!(session.replies.capacity() <= REPLIES_LEN_KEPT);
        drop(session);
        fixture.stop();
    }
}
