//! The rounds of one connection: what was read is executed, as far as it goes, and its writes are waited for together.
//!
//! Owns what is between the socket's bytes and the executor: the buffer of what was read, and the replies until they are sent. A round ends when the buffer holds no whole
//! request any more, when the replies reach their bound, when the level of the writes that follow is another one, or in front of an answer that takes space or time. Never touches a
//! socket.

use std::sync::Arc;

use crate::server::Shared;
use crate::server::buffer::ReadBuffer;
use crate::server::client::Client;
use crate::server::execute::{Done, Executor};
use crate::server::judge::Moment;
use crate::server::long::Long;
use crate::server::restore;
use crate::server::wire::{Asked, Requests, Wire};
use crate::server::writes::Place;
use crate::wire::resp::RespVersion;

/// A round's replies are sent when they reach this, however many commands are left. Every client that reads slowly may hold as much, and one short reply.
pub(crate) const REPLIES_LEN_MAX: usize = 128 << 10;
/// A reply from here on is written from where its values are stored instead of being copied into the replies of a round.
const REPLY_LEN_LONG: usize = 128 << 10;

pub(crate) struct Rounds<'a> {
    pub buffer: ReadBuffer<'a>,
    pub replies: Vec<u8>,
    pub executor: Executor<'a>,
    requests: Requests,
}

/// A round whose commands were executed.
pub(crate) struct Executed {
    ended: Ended,
    /// Bytes of its commands.
    consumed: usize,
    /// The answer that it ended in front of is true only when the writes are acknowledged.
    waits: bool,
}

/// Why a round ended.
pub(crate) enum Ended {
    /// What is left is not a whole request.
    NeedsMore,
    /// The replies have reached their bound, or the writes that follow are waited for in another way: there may be more to execute.
    Early,
    /// This is to be written next.
    Before(Long, Wire),
    /// A dump comes next, not commands.
    Restore,
    /// After QUIT, and after bytes that are no requests.
    Close,
}

/// What a round came to.
pub(crate) struct Round {
    pub ended: Ended,
    /// Something was refused for want of a quorum.
    pub no_quorum: bool,
}

impl<'a> Rounds<'a> {
    pub fn new(shared: &'a Shared, client: &'a Arc<Client>) -> Rounds<'a> {
        let len_max = Requests::len_max(&shared.limits).max(restore::line_len_max(&shared.limits));
        Rounds {
            buffer: ReadBuffer::new(len_max, &shared.read_room),
            replies: Vec::new(),
            executor: Executor::new(shared, client),
            requests: Requests::default(),
        }
    }

    /// Executes what has been read, and waits until the writes among it are acknowledged: then the replies may be sent.
    pub fn run(&mut self) -> Round {
        let executed = self.execute(&Moment::default());
        let stands = self.executor.settle(&mut self.replies);
        self.end(executed, stands)
    }

    /// Executes what has been read. The replies are not known to be true before the writes are settled.
    pub fn execute(&mut self, moment: &Moment) -> Executed {
        let Rounds { buffer, replies, executor, requests } = self;
        let limits = &executor.shared.limits;
        let unread = buffer.unread();
        let (mut at, mut waits) = (0, false);
        let ended = loop {
            if replies.len() >= REPLIES_LEN_MAX {
                break Ended::Early;
            }
            let rest = &unread[at..];
            let wire = executor.wire_of(rest);
            let (ref asked, consumed) = requests.next(rest, executor.queues(), limits, moment);
            executor.name = requests.command();
            let start = replies.len();
            let mut place = Place { reply: start..start, wire };
            at += consumed;
            let level = executor.level;
            let done = match asked {
                Asked::Incomplete => break Ended::NeedsMore,
                Asked::Empty => continue,
                Asked::Fatal(wrong) => {
                    wire.encode(&wrong.clone().into_reply(), replies);
                    break Ended::Close;
                }
                Asked::Replica(wrong) => {
                    Wire::Resp(RespVersion::default()).encode(&wrong.clone().into_reply(), replies);
                    break Ended::Close;
                }
                Asked::Command(Err(wrong)) => Done::Reply(executor.refuse(wrong.clone(), wire)),
                Asked::Queued => Done::Reply(executor.queue(&rest[..consumed])),
                Asked::Command(Ok(command)) => executor.execute(command, wire, moment),
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
                        break Ended::Early;
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
        Executed { ended, consumed: at, waits }
    }

    /// `stands`: what the last of the writes has answered is true.
    pub fn end(&mut self, executed: Executed, stands: bool) -> Round {
        let Executed { mut ended, consumed, waits } = executed;
        if waits && !stands {
            // What became of the command with the long answer is in the replies already.
            ended = Ended::Early;
        }
        let no_quorum = self.executor.end_round(self.buffer.unread().len() - consumed);
        self.buffer.consume(consumed);
        Round { ended, no_quorum }
    }
}
