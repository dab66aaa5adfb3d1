//! The writes of one round: evaluated and stamped one by one, acknowledged together.
//!
//! The common path does as little as can be. Per write, its stamp and the range of its optimistic
//! reply are kept. No reply leaves before the ack level is reached; the reply of a write that does
//! not reach it in time is replaced in the buffer:
//!
//! ```text
//!  replies   +OK\r\n  :3\r\n  +OK\r\n          one buffer, sent once
//!            └──┬──┘          └──┬──┘
//!  pending    stamp 7          stamp 9          not acknowledged in time: "-TIMEOUT …" instead
//! ```
//!
//! A write is stamped once (**I8**) and never evaluated a second time.

mod refusal;

use std::ops::Range;

use crate::data::clock::{Deadline, Lead, Stamp};
use crate::data::entry::{Entry, Update};
use crate::replication::acks::{AckOutcome, Round, Written};
use crate::replication::status;
use crate::replication::submit::NotWritten;
use crate::server::evaluation::{Evaluation, RoundTime};
use crate::server::memory_limit::is_full;
use crate::server::protocol::ClientProtocol;
use crate::server::shared::Services;
use crate::store::{Span, View};
use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Limits;
use crate::wire::reply::{ErrorCode, Reply};

pub(crate) use refusal::WriteRefusal;

/// Pending writes whose memory is kept between rounds; that of a round with more is given back.
const PENDING_KEPT: usize = 1024;

pub(crate) struct RoundWrites<'a> {
    services: &'a Services,
    /// The end of the wait for the back-pressure budget, in this round.
    deadline: Deadline,
    round: Option<(AckLevel, Round<'a>)>,
    /// The commands that wait for acks, in the order of their stamps.
    pending: Vec<Pending>,
    /// The least clock by which one of them was stamped.
    clock: Lead,
    /// The last stamp of a command whose reply is not in the buffer yet.
    fresh: Option<Stamp>,
    /// The greatest stamp of this connection.
    last: Stamp,
    /// True if the reply to the last command that waited for acks is true.
    last_stands: bool,
    /// Between its last write and this round, no other connection has written.
    is_alone: bool,
}

/// A command that waits for acks.
struct Pending {
    /// The last stamp that it was given.
    upto: Stamp,
    reply: ReplySpan,
}

/// The range of a command's reply in the replies of its round, and how it is written.
pub(crate) struct ReplySpan {
    pub range: Range<usize>,
    pub protocol: ClientProtocol,
}

/// The reason why a write to one key did not come about.
enum Unwritten<'c> {
    /// The evaluation has nothing to write.
    Answered(Reply<'c>),
    Refused(WriteRefusal),
}

impl<'a> RoundWrites<'a> {
    pub fn new(services: &'a Services) -> RoundWrites<'a> {
        let deadline = Deadline::within(services.acks.timeout());
        RoundWrites {
            services,
            deadline,
            round: None,
            pending: Vec::new(),
            clock: Lead::NONE,
            fresh: None,
            last: Stamp::ZERO,
            last_stands: true,
            is_alone: false,
        }
    }

    /// Executes a command that may write one key, of about `len` bytes with its value.
    ///
    /// Its reply is true only once [`RoundWrites::settle`] has let it stand, unless the level needs
    /// no acks. `evaluate` is called under the key's lock, and again if more than `len` is needed.
    #[inline]
    pub fn single_key<'c>(
        &mut self,
        level: AckLevel,
        key: &[u8],
        len: usize,
        time: &RoundTime,
        mut evaluate: impl FnMut(Option<&Entry>) -> Evaluation<'c>,
    ) -> Result<Reply<'c>, WriteRefusal> {
        self.begin(level)?;
        let (is_full, limits) = (is_full(self.services), self.services.replica.agreed_limits());
        let mut answer = Reply::Null;
        let decide = |current: Option<&Entry>| {
            let Evaluation { update, reply } = evaluate(current);
            let Some(update) = update else { return Err(Unwritten::Answered(reply)) };
            // Last: a client that is refused anyway hears what is wrong with its command.
            if is_full && grows(current, &update) {
                return Err(Unwritten::Refused(WriteRefusal::Full));
            }
            if is_too_long(limits, &update) {
                return Err(Unwritten::Refused(WriteRefusal::TooLong(limits)));
            }
            answer = reply;
            Ok(update)
        };
        match self.services.submit.write(key, len, time.elapsed(), &self.deadline, decide) {
            Ok(stamp) => {
                self.note(level, stamp, time);
                Ok(answer)
            }
            Err(not_written) => match not_written.refused_by(|unwritten| unwritten, Unwritten::Refused) {
                Unwritten::Answered(reply) => Ok(reply),
                Unwritten::Refused(refusal) => Err(refusal),
            },
        }
    }

    /// Executes several writes in one step; `plan` as in
    /// [`Submit::transact`](crate::replication::submit::Submit::transact).
    pub fn several<T>(
        &mut self,
        level: AckLevel,
        span: Span<'_>,
        len: usize,
        time: &RoundTime,
        mut plan: impl FnMut(&View<'_>) -> Result<(Vec<Update>, T), WriteRefusal>,
    ) -> Result<T, WriteRefusal> {
        self.begin(level)?;
        let services = self.services;
        let (is_full, limits) = (is_full(services), services.replica.agreed_limits());
        let plan = |view: &View<'_>| {
            let (updates, found) = plan(view)?;
            if is_full && updates.iter().any(|update| grows(view.entry(update.entry().key()), update)) {
                return Err(WriteRefusal::Full);
            }
            if updates.iter().any(|update| is_too_long(limits, update)) {
                return Err(WriteRefusal::TooLong(limits));
            }
            Ok((updates, found))
        };
        let done = services.submit.transact(span, len, time.elapsed(), &self.deadline, plan);
        let (entries, found) = done.map_err(|not_written| not_written.refused_by(|refusal| refusal, |refusal| refusal))?;
        if let Some(last) = entries.last() {
            self.note(level, last.version().stamp, time);
        }
        Ok(found)
    }

    /// Notes the range of a reply, after every command that may have written. Returns true if that
    /// command waits for acks.
    pub fn record_reply(&mut self, reply: ReplySpan) -> bool {
        let Some(upto) = self.fresh.take() else { return false };
        self.pending.push(Pending { upto, reply });
        true
    }

    /// The greatest stamp that this connection's writes were given.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// Returns true if the last [`RoundWrites::settle`] let the reply to the round's last write
    /// stand.
    pub fn last_stands(&self) -> bool {
        self.last_stands
    }

    /// Ends the round: waits until its writes are acknowledged, and replaces in `replies` the reply
    /// of each that is not. Returns how many were not.
    pub fn settle(&mut self, replies: &mut Vec<u8>) -> usize {
        let waited = match (&self.round, self.pending.last()) {
            (Some((_, round)), Some(last)) => {
                let Services { submit, replica, replicator, .. } = self.services;
                if self.is_alone && submit.position() == self.last {
                    replicator.hand_over_early(replica);
                }
                round.wait(self.written(last), &self.timeout())
            }
            _ => AckOutcome::Reached,
        };
        self.conclude(waited, replies)
    }

    /// Ends the round as [`RoundWrites::settle`] does, without waiting; `None` as long as there is
    /// something to wait for. `is_late`: the time-out is over. For a simulation, which drives a
    /// whole mesh in one thread.
    #[cfg(feature = "testing")]
    pub fn try_settle(&mut self, is_late: bool, replies: &mut Vec<u8>) -> Option<usize> {
        let waited = match (&self.round, self.pending.last()) {
            (Some((_, round)), Some(last)) if !round.is_met(self.written(last)) => is_late.then_some(AckOutcome::TimedOut)?,
            _ => AckOutcome::Reached,
        };
        Some(self.conclude(waited, replies))
    }

    /// After a time-out, some of the commands may be done all the same.
    fn conclude(&mut self, waited: AckOutcome, replies: &mut Vec<u8>) -> usize {
        debug_assert!(self.fresh.is_none());
        let mut failed = 0;
        self.last_stands = true;
        if let (AckOutcome::TimedOut, Some((level, round))) = (waited, &self.round) {
            let first = self.pending.partition_point(|command| round.is_met(self.written(command)));
            let undone = &self.pending[first..];
            replace(replies, undone.iter().map(|command| &command.reply), &self.unknown(*level));
            (failed, self.last_stands) = (undone.len(), undone.is_empty());
        }
        (self.round, self.deadline) = (None, self.timeout());
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT);
        failed
    }

    /// Checks, before anything is applied, that something can be written at this level at all, and
    /// opens the round of acks.
    fn begin(&mut self, level: AckLevel) -> Result<(), WriteRefusal> {
        let services = self.services;
        status::writable(&services.replica).map_err(WriteRefusal::ReadOnly)?;
        services.acks.quorum(level).map_err(WriteRefusal::NoQuorum)?;
        if !services.acks.is_done_at_once(level) {
            if self.round.is_none() {
                self.is_alone = services.submit.position() == self.last;
            }
            self.round.get_or_insert_with(|| (level, services.acks.open_round(level)));
        }
        Ok(())
    }

    fn timeout(&self) -> Deadline {
        Deadline::within(self.services.acks.timeout())
    }

    fn note(&mut self, level: AckLevel, stamp: Stamp, time: &RoundTime) {
        self.last = stamp;
        if !self.services.acks.is_done_at_once(level) {
            self.fresh = Some(stamp);
            if self.pending.is_empty() {
                self.clock = Lead::of_stamp(stamp, time.elapsed());
            }
        }
    }

    fn written(&self, command: &Pending) -> Written {
        Written { upto: command.upto, clock: self.clock }
    }

    fn unknown(&self, level: AckLevel) -> Reply<'static> {
        let ms = self.services.acks.timeout().as_millis();
        let sentence = format!(
            "the write is applied on this node and will still spread, but ack {level} was not reached within {ms} ms; read it before writing again"
        );
        Reply::Error { code: ErrorCode::Timeout, sentence: sentence.into() }
    }
}

/// Puts one reply in the place of several that turned out to be false.
fn replace<'p>(replies: &mut Vec<u8>, spans: impl Iterator<Item = &'p ReplySpan>, by: &Reply<'_>) {
    let mut replaced = Vec::with_capacity(replies.len());
    let mut copied = 0;
    for ReplySpan { range, protocol } in spans {
        replaced.extend_from_slice(&replies[copied..range.start]);
        protocol.encode(by, &mut replaced);
        copied = range.end;
    }
    replaced.extend_from_slice(&replies[copied..]);
    *replies = replaced;
}

/// Returns true if an update takes more than what is there: with the same value and another
/// lifetime it does not.
fn grows(current: Option<&Entry>, update: &Update) -> bool {
    !update.is_delete() && current.is_none_or(|current| current.value() != update.entry().value())
}

/// Returns true if an update is longer than a peer takes: its limits are lower than this node's,
/// which the command was held to when it was read.
#[inline]
fn is_too_long(limits: Limits, update: &Update) -> bool {
    let entry = update.entry();
    entry.key().len() > limits.key_len_max || entry.value().is_some_and(|value| value.len() > limits.value_len_max)
}

impl<R> NotWritten<R> {
    /// The refusal of the evaluation, or this node's.
    fn refused_by<T>(self, evaluation: impl FnOnce(R) -> T, node: impl FnOnce(WriteRefusal) -> T) -> T {
        match self {
            NotWritten::Refused(refused) => evaluation(refused),
            NotWritten::TooLarge { len, budget } => node(WriteRefusal::TooLarge { len: Some(len), room: budget }),
            NotWritten::NoBudget => node(WriteRefusal::NoRoom),
            NotWritten::Stopping => node(WriteRefusal::Stopping),
        }
    }
}
