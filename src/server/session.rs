//! One client: reads, executes everything that has come as one round, waits once, answers with one write.
//!
//! Owns its two buffers. A round ends when the read buffer holds no whole request any more, when the replies reach their bound, or in front of an
//! answer that takes space or time; nothing of a round's replies leaves before its writes are acknowledged.

use std::io::{self, BufWriter, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::reply::{ErrorCode, Reply};
use crate::server::Shared;
use crate::server::buffer::{NoRoom, ReadBuffer};
use crate::server::client::Client;
use crate::server::execute::{Done, Executor};
use crate::server::judge::Moment;
use crate::server::long::{self, Long};
use crate::server::restore;
use crate::server::wire::{Asked, Requests, Wire};
use crate::server::writes::Place;

/// A round's replies are sent when they reach this, however many commands are left.
const REPLIES_LEN_MAX: usize = 1 << 20;
/// Of the memory for replies, kept between rounds.
const REPLIES_LEN_KEPT: usize = 16 << 10;
/// A reply from here on is written from where its values are stored instead of being copied into the replies of a round.
const REPLY_LEN_LONG: usize = 256 << 10;
/// Long answers leave in pieces of this size.
const LONG_CHUNK_LEN: usize = 64 << 10;
/// How long a client may take to notice that it is being closed.
const LINGER: Duration = Duration::from_secs(1);

/// The life of a thread `client-N`, from the first byte to the last.
pub(super) fn run_client(shared: &Shared, client: &Arc<Client>) {
    let mut session = Session::new(shared, client);
    match session.serve() {
        Ok(Farewell::Gone) => {}
        Ok(Farewell::Closing) => linger(client.socket()),
        Err(error) => log::debug!("client {} is closed: {error}", client.number()),
    }
}

struct Session<'a> {
    shared: &'a Shared,
    socket: &'a TcpStream,
    buffer: ReadBuffer<'a>,
    requests: Requests,
    replies: Vec<u8>,
    executor: Executor<'a>,
}

/// Why a round ended.
enum Ended {
    /// What is left is not a whole request.
    NeedsMore,
    /// The replies have reached their bound.
    Full,
    /// This is to be written next.
    Before(Long, Wire),
    /// A dump comes next, not commands.
    Restore,
    /// After QUIT, and after bytes that are no requests.
    Close,
}

enum Farewell {
    /// The client has closed, or the server stops.
    Gone,
    /// The last reply is on its way, and the client may still be sending.
    Closing,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, client: &'a Arc<Client>) -> Session<'a> {
        let len_max = Requests::len_max(&shared.limits).max(restore::line_len_max(&shared.limits));
        Session {
            shared,
            socket: client.socket(),
            buffer: ReadBuffer::new(len_max, &shared.read_room),
            requests: Requests::default(),
            replies: Vec::new(),
            executor: Executor::new(shared, client),
        }
    }

    fn serve(&mut self) -> io::Result<Farewell> {
        let mut needs_more = true;
        // A half request at the end of the stream is dropped: nobody is left to tell.
        while !self.shared.is_stopping() {
            if self.executor.client.is_killed() {
                return Ok(Farewell::Gone);
            }
            if needs_more {
                if self.buffer.make_room() == Err(NoRoom) {
                    let sentence = "the large commands that are arriving take all the memory that this node has for them; nothing of this one \
                        was written, and this connection is closed; try again later or another node";
                    let wire = self.executor.wire_of(self.buffer.unread());
                    wire.encode(&Reply::Error { code: ErrorCode::Busy, sentence: sentence.into() }, &mut self.replies);
                    self.send()?;
                    return Ok(Farewell::Closing);
                }
                if self.buffer.fill(&mut self.socket)? == 0 {
                    return Ok(Farewell::Gone);
                }
                self.executor.client.note_active();
            }
            let ended = self.run_round();
            self.send()?;
            needs_more = matches!(ended, Ended::NeedsMore) || self.buffer.unread().is_empty();
            match ended {
                Ended::NeedsMore | Ended::Full => {}
                Ended::Before(long, wire) => self.send_long(long, wire)?,
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
    fn run_round(&mut self) -> Ended {
        let Session { shared, buffer, requests, replies, executor, .. } = self;
        let moment = Moment::default();
        let unread = buffer.unread();
        let (mut at, mut waits) = (0, false);
        let mut ended = loop {
            if replies.len() >= REPLIES_LEN_MAX {
                break Ended::Full;
            }
            let rest = &unread[at..];
            let wire = executor.wire_of(rest);
            let (asked, consumed) = requests.next(rest, executor.queues(), &shared.limits, &moment);
            executor.name = requests.command();
            let start = replies.len();
            let mut place = Place { command: at, reply: start..start, wire };
            at += consumed;
            let (command, level) = (asked, executor.level);
            let done = match &command {
                Asked::Incomplete => break Ended::NeedsMore,
                Asked::Empty => continue,
                Asked::Fatal(wrong) => {
                    wire.encode(&wrong.clone().into_reply(), replies);
                    break Ended::Close;
                }
                Asked::Wrong(wrong) => Done::Reply(executor.refuse(wrong.clone(), wire)),
                Asked::Queued => Done::Reply(executor.queue(&rest[..consumed])),
                Asked::Command(command) => executor.execute(command, wire, &moment),
            };
            match done {
                // Written from where its values are, but only when it is known to be true.
                Done::Reply(reply) if reply.size() >= REPLY_LEN_LONG => {
                    waits = executor.place(place);
                    break Ended::Before(Long::Reply(reply.into_owned()), executor.wire_of(rest));
                }
                Done::Reply(reply) => {
                    // RESET and HELLO are answered in the version that they choose.
                    executor.wire_of(rest).encode(&reply, replies);
                    place.reply.end = replies.len();
                    executor.place(place);
                    if executor.level != level {
                        // The writes so far were sent under the level before it, whatever has changed it.
                        executor.settle(unread, replies);
                    }
                }
                Done::Before(long) => break Ended::Before(long, wire),
                Done::Restore => break Ended::Restore,
                Done::Close(reply) => {
                    wire.encode(&reply, replies);
                    place.reply.end = replies.len();
                    executor.place(place);
                    break Ended::Close;
                }
            }
        };
        let stands = executor.settle(unread, replies);
        if waits && !stands {
            // What became of the command with the long answer is in the replies already.
            ended = Ended::Full;
        }
        executor.end_round(&unread[at..]);
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

    fn send_long(&mut self, long: Long, wire: Wire) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(LONG_CHUNK_LEN, self.socket);
        let written = long::write(&mut out, &mut self.executor, long, wire).and_then(|()| out.flush());
        // Without another try at what could not be written: that would wait for the client once more.
        drop(out.into_parts());
        written
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
        let client = Client::of(Arc::new(socket), 1);
        let mut session = Session::new(&fixture.server.shared, &client);
        let commands = "GET a\n".repeat(64);
        session.buffer.make_room().unwrap();
        assert_eq!(session.buffer.fill(&mut commands.as_bytes()).unwrap(), commands.len());
        let mut rounds = 0;
        while !session.buffer.unread().is_empty() {
            session.run_round();
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
