//! The rounds of one connection: what was read is executed, as far as it goes, and its writes are
//! waited for together.
//!
//! Owns what is between the socket's bytes and the commands: the buffer of what was read, and the
//! replies until they are sent. A round ends when
//! - the buffer holds no whole request any more,
//! - the replies reach their bound,
//! - the writes that follow have another ack level, or
//! - an answer takes space or time.
//!
//! Never touches a socket.

use std::sync::Arc;

use crate::server::authorization::{first_key_of_request, is_request_within};
use crate::server::client_handle::ClientHandle;
use crate::server::commands::deferred::Deferred;
use crate::server::commands::execute::{Execution, execute};
use crate::server::connection::Connection;
use crate::server::evaluation::RoundTime;
use crate::server::protocol::ClientProtocol;
use crate::server::read_buffer::ReadBuffer;
use crate::server::request::{ParsedRequest, RequestParser, Row};
use crate::server::restore;
use crate::server::shared::Shared;
use crate::server::writes::ReplySpan;
use crate::store::{PREFETCH_MAX, Store};
use crate::wire::resp::RespVersion;
use crate::wire::resp::request::peek_key;

/// Bytes of replies at which a round ends, however many requests are left. A client that reads
/// slowly may hold as much, and one short reply.
pub(crate) const REPLIES_LEN_MAX: usize = 128 << 10;
/// Bytes of a reply from which on it is written from where its values are stored, instead of being
/// copied into the replies of its round.
const REPLY_LEN_LONG: usize = 128 << 10;

pub(crate) struct Rounds<'a> {
    pub buffer: ReadBuffer<'a>,
    pub replies: Vec<u8>,
    pub connection: Connection<'a>,
    parser: RequestParser,
}

/// A round whose commands were executed.
pub(crate) struct Executed {
    ended: Ended,
    /// The bytes of its requests.
    consumed: usize,
    /// True if the answer that it ended in front of is true only once the writes are acknowledged.
    waits: bool,
}

/// The reason why a round ended.
pub(crate) enum Ended {
    /// The bytes that are left are not a whole request.
    NeedsMore,
    /// The replies have reached their bound, or the writes that follow have another ack level:
    /// there may be more to execute.
    Early,
    /// This answer is to be written next.
    Before(Deferred, ClientProtocol),
    /// The lines of a dump come next, not commands.
    Restore,
    /// The connection is to be closed: after QUIT, and after bytes that are no requests.
    Close,
}

/// The end of a round whose writes are settled.
pub(crate) struct RoundEnd {
    pub ended: Ended,
    /// True if something was refused for want of a quorum.
    pub no_quorum: bool,
}

/// Asks for the memory of the keys of the next requests, and returns how many bytes those take. At
/// least one: the next request may be of a kind that is not looked into.
fn prefetch(store: &Store, requests: &[u8]) -> usize {
    let Some((first, mut at)) = peek_key(requests) else { return 1 };
    let mut keys = [first; PREFETCH_MAX];
    let mut len = 1;
    while len < keys.len()
        && let Some((key, request_len)) = peek_key(&requests[at..])
    {
        keys[len] = key;
        len += 1;
        at += request_len;
    }
    store.prefetch(keys[..len].iter().copied());
    at
}

impl<'a> Rounds<'a> {
    pub fn new(shared: &'a Shared, client: &'a Arc<ClientHandle>) -> Rounds<'a> {
        let len_max = RequestParser::len_max(&shared.limits).max(restore::line_len_max(&shared.limits));
        Rounds {
            buffer: ReadBuffer::new(len_max, &shared.read_budget),
            replies: Vec::new(),
            connection: Connection::new(shared, client),
            parser: RequestParser::default(),
        }
    }

    /// Executes what has been read, and waits until the writes among it are acknowledged: then the
    /// replies may be sent.
    pub fn run(&mut self) -> RoundEnd {
        let executed = self.execute(&RoundTime::default());
        let stands = self.connection.settle(&mut self.replies);
        self.end(executed, stands)
    }

    /// Executes what has been read. The replies are not known to be true before the writes are
    /// settled.
    pub fn execute(&mut self, time: &RoundTime) -> Executed {
        let Rounds { buffer, replies, connection, parser } = self;
        let limits = &connection.shared.limits;
        let unread = buffer.unread();
        let (mut at, mut waits, mut asked) = (0, false, 0);
        let ended = loop {
            if replies.len() >= REPLIES_LEN_MAX {
                break Ended::Early;
            }
            let rest = &unread[at..];
            let protocol = connection.protocol_of(rest);
            let (ref parsed, consumed) = parser.next(rest, connection.transaction.is_open(), limits, time);
            let start = replies.len();
            let mut span = ReplySpan { range: start..start, protocol };
            // A request that comes alone pays nothing for this.
            if at >= asked && consumed < rest.len() {
                asked = at + prefetch(&connection.shared.services.store, rest);
            }
            at += consumed;
            let level = connection.level;
            let execution = match parsed {
                ParsedRequest::Request(row, request) => {
                    connection.command = row.resp_name();
                    if !connection.authorization.allows_at_once(|| row.needed().role)
                        && let Err(denied) = connection.authorization.check(row.needed(), &|user| is_request_within(request, user))
                    {
                        Execution::Reply(connection.deny(denied, row.needed(), first_key_of_request(request), protocol))
                    } else {
                        execute(connection, request, || row.is_allowed_while_loading(), protocol, time)
                    }
                }
                ParsedRequest::Incomplete => break Ended::NeedsMore,
                ParsedRequest::Empty => continue,
                ParsedRequest::Queued(request) => {
                    connection.command = Some(request.spec.name);
                    Execution::Reply(connection.queue(request, consumed, time))
                }
                ParsedRequest::Wrong(row, wrong) => {
                    connection.command = row.map_or(connection.command, Row::resp_name);
                    let needed = row.map(Row::needed);
                    // Who may not make it does not hear what is wrong with it.
                    let denied = needed.and_then(|needed| Some((connection.authorization.check(needed, &|_| true).err()?, needed)));
                    Execution::Reply(match denied {
                        Some((denied, needed)) => connection.deny(denied, needed, None, protocol),
                        None => connection.refuse(wrong.clone(), protocol),
                    })
                }
                ParsedRequest::Fatal(wrong) => {
                    protocol.encode(&wrong.clone().into_reply(), replies);
                    break Ended::Close;
                }
                ParsedRequest::ReplicaOfRedis(wrong) => {
                    ClientProtocol::Resp(RespVersion::default()).encode(&wrong.clone().into_reply(), replies);
                    break Ended::Close;
                }
            };
            match execution {
                // Written from where its values are, but only when it is known to be true.
                Execution::Reply(reply) if reply.size() >= REPLY_LEN_LONG => {
                    waits = connection.record_reply(span);
                    break Ended::Before(Deferred::Reply(reply.into_owned()), connection.protocol_of(rest));
                }
                Execution::Reply(reply) => {
                    // RESET and HELLO are answered in the version that they choose.
                    connection.protocol_of(rest).encode(&reply, replies);
                    span.range.end = replies.len();
                    connection.record_reply(span);
                    if connection.level != level {
                        // The writes so far were sent under the level before it, whatever has
                        // changed it.
                        break Ended::Early;
                    }
                }
                Execution::Deferred(deferred) => break Ended::Before(deferred, protocol),
                Execution::Restore => break Ended::Restore,
                Execution::Close(reply) => {
                    protocol.encode(&reply, replies);
                    span.range.end = replies.len();
                    connection.record_reply(span);
                    break Ended::Close;
                }
            }
        };
        Executed { ended, consumed: at, waits }
    }

    /// Ends a round. `stands`: the reply to the last of its writes is true.
    pub fn end(&mut self, executed: Executed, stands: bool) -> RoundEnd {
        let Executed { mut ended, consumed, waits } = executed;
        if waits && !stands {
            // The outcome of the command with the long answer is in the replies already.
            ended = Ended::Early;
        }
        let no_quorum = self.connection.end_round(self.buffer.unread().len() - consumed);
        self.buffer.consume(consumed);
        RoundEnd { ended, no_quorum }
    }
}
