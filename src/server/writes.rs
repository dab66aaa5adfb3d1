//! The writes of one round: judged and stamped one by one, acknowledged together.
//!
//! The common path does as little as can be: for a command that has written its last stamp and the place of its reply are remembered, and the reply is there before it is
//! known to be true; nothing leaves before it is. A write is stamped once (**I8**): when its round is not acknowledged in time, the replies of those commands that are not say so.

use std::ops::Range;

use crate::data::clock::{Deadline, Lead, Stamp};
use crate::data::entry::{Entry, Update};
use crate::replication::acks::{NoQuorum, Round, Waited, Written};
use crate::replication::submit::NotWritten;
use crate::server::Services;
use crate::server::judge::{self, Live, Moment};
use crate::server::plan::KEYS_MAX;
use crate::server::wire::Wire;
use crate::store::{Memory, Span, View};
use crate::wire::ack_level::AckLevel;
use crate::wire::bytes::Limits;
use crate::wire::command::Action;
use crate::wire::reply::{ErrorCode, Reply};

/// A round with more writes gives the memory back that it took to remember them.
const PENDING_KEPT: usize = 1024;

pub(crate) struct Writes<'a> {
    services: &'a Services,
    limits: Limits,
    /// Until when the round waits for room on the way to the replicator.
    deadline: Deadline,
    round: Option<(AckLevel, Round<'a>)>,
    /// The commands that wait for acks, in the order of their stamps.
    pending: Vec<Pending>,
    /// The least clock by which one of them was stamped.
    clock: Lead,
    /// The last stamp of a command that has no place yet.
    fresh: Option<Stamp>,
    /// The greatest stamp of this connection.
    last: Stamp,
    /// Whether what the last command that was waited for has answered is true.
    last_stands: bool,
}

/// A command that waits for acks.
struct Pending {
    /// The last stamp that it was given.
    upto: Stamp,
    place: Place,
}

/// Where the reply of a command lies in the replies of its round, and how it is written.
pub(crate) struct Place {
    pub reply: Range<usize>,
    pub wire: Wire,
}

/// Why nothing was written, whatever the command says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    /// Why nothing can be logged, and what helps.
    ReadOnly(String),
    NoQuorum(NoQuorum),
    /// In one step; `len` if it is known.
    TooLarge {
        len: Option<usize>,
        room: usize,
    },
    TooManyKeys(usize),
    NoRoom,
    Stopping,
}

impl<'a> Writes<'a> {
    pub fn new(services: &'a Services, limits: Limits) -> Writes<'a> {
        let deadline = Deadline::within(services.config.ack_timeout);
        Writes {
            services,
            limits,
            deadline,
            round: None,
            pending: Vec::new(),
            clock: Lead::NONE,
            fresh: None,
            last: Stamp::ZERO,
            last_stands: true,
        }
    }

    /// Whether something can be written at this level at all. To be asked before anything is applied.
    pub fn check(&self, level: AckLevel) -> Result<(), Refusal> {
        self.services.replica.writable().map_err(Refusal::ReadOnly)?;
        self.services.acks.quorum(level).map_err(Refusal::NoQuorum)
    }

    /// A command that may write to one key. Unless nobody has to be waited for, what it answers is true only when [`Writes::settle`] has let it stand.
    pub fn one<'c>(&mut self, level: AckLevel, key: &'c [u8], action: &Action<'_>, moment: &Moment) -> Result<Reply<'c>, Refusal> {
        self.check(level)?;
        self.open(level);
        let desk = Desk { services: self.services, limits: &self.limits, moment, deadline: &self.deadline };
        let (stamp, reply) = match desk.write(key, action) {
            Ok(written) => written,
            Err(Unwritten::Answered(reply)) => return Ok(reply),
            Err(Unwritten::Refused(refusal)) => return Err(refusal),
        };
        self.note(level, stamp, moment);
        Ok(reply)
    }

    /// Several writes in one step; `plan` as in [`Submit::transact`](crate::replication::submit::Submit::transact).
    pub fn several<T>(
        &mut self,
        level: AckLevel,
        span: Span<'_>,
        len: usize,
        moment: &Moment,
        mut plan: impl FnMut(&View<'_>) -> Result<(Vec<Update>, T), Refusal>,
    ) -> Result<T, Refusal> {
        self.check(level)?;
        self.open(level);
        let services = self.services;
        let is_full = is_full(services);
        let plan = |view: &View<'_>| {
            let (effects, found) = plan(view)?;
            if is_full && effects.iter().any(|effect| grows(view.entry(effect.entry().key()), effect)) {
                return Err(Refusal::Full);
            }
            Ok((effects, found))
        };
        let done = services.submit.transact(span, len, moment.elapsed(), &self.deadline, plan);
        let (entries, found) = done.map_err(|not_written| not_written.refused_by(|refusal| refusal, |refusal| refusal))?;
        if let Some(last) = entries.last() {
            self.note(level, last.version().stamp, moment);
        }
        Ok(found)
    }

    /// To be called behind every command that may have written: where its reply is, if it waits for acks; whether it does.
    pub fn place(&mut self, place: Place) -> bool {
        let Some(upto) = self.fresh.take() else { return false };
        self.pending.push(Pending { upto, place });
        true
    }

    /// The greatest stamp that this connection's writes were given.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// Whether the last [`Writes::settle`] let stand what the round's last write has answered.
    pub fn last_stands(&self) -> bool {
        self.last_stands
    }

    /// Ends the round: waits until its writes are acknowledged. The reply of each that is not done is replaced in `replies`. Returns how many were not done.
    pub fn settle(&mut self, replies: &mut Vec<u8>) -> usize {
        let waited = match (&self.round, self.pending.last()) {
            (Some((_, round)), Some(last)) => round.wait(self.written(last), &self.timeout()),
            _ => Waited::Met,
        };
        self.conclude(waited, replies)
    }

    /// The same without waiting; `None` as long as there is something to wait for. `is_late`: nothing is waited for any more. For who drives a whole mesh in one thread.
    #[cfg(feature = "testing")]
    pub fn try_settle(&mut self, is_late: bool, replies: &mut Vec<u8>) -> Option<usize> {
        let waited = match (&self.round, self.pending.last()) {
            (Some((_, round)), Some(last)) if !round.is_met(self.written(last)) => is_late.then_some(Waited::TimedOut)?,
            _ => Waited::Met,
        };
        Some(self.conclude(waited, replies))
    }

    /// After a time-out, some of the commands may be done all the same.
    fn conclude(&mut self, waited: Waited, replies: &mut Vec<u8>) -> usize {
        debug_assert!(self.fresh.is_none());
        let mut failed = 0;
        self.last_stands = true;
        if let (Waited::TimedOut, Some((level, round))) = (waited, &self.round) {
            let first = self.pending.partition_point(|command| round.is_met(self.written(command)));
            let undone = &self.pending[first..];
            replace(replies, undone.iter().map(|command| &command.place), &self.unknown(*level));
            (failed, self.last_stands) = (undone.len(), undone.is_empty());
        }
        (self.round, self.deadline) = (None, self.timeout());
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT);
        failed
    }

    fn open(&mut self, level: AckLevel) {
        let services = self.services;
        if !services.acks.is_done_at_once(level) {
            self.round.get_or_insert_with(|| (level, services.acks.open_round(level)));
        }
    }

    fn timeout(&self) -> Deadline {
        Deadline::within(self.services.config.ack_timeout)
    }

    fn note(&mut self, level: AckLevel, stamp: Stamp, moment: &Moment) {
        self.last = stamp;
        if !self.services.acks.is_done_at_once(level) {
            self.fresh = Some(stamp);
            if self.pending.is_empty() {
                self.clock = Lead::of_stamp(stamp, moment.elapsed());
            }
        }
    }

    fn written(&self, command: &Pending) -> Written {
        Written { upto: command.upto, clock: self.clock }
    }

    fn unknown(&self, level: AckLevel) -> Reply<'static> {
        let ms = self.services.config.ack_timeout.as_millis();
        let sentence = format!(
            "the write is applied on this node and will still spread, but ack {level} was not reached within {ms} ms; read it before writing again"
        );
        Reply::Error { code: ErrorCode::Timeout, sentence: sentence.into() }
    }
}

/// Puts one reply in the place of several that turned out to be false.
fn replace<'p>(replies: &mut Vec<u8>, places: impl Iterator<Item = &'p Place>, by: &Reply<'_>) {
    let mut replaced = Vec::with_capacity(replies.len());
    let mut copied = 0;
    for Place { reply, wire } in places {
        replaced.extend_from_slice(&replies[copied..reply.start]);
        wire.encode(by, &mut replaced);
        copied = reply.end;
    }
    replaced.extend_from_slice(&replies[copied..]);
    *replies = replaced;
}

/// What a write to one key is judged with.
pub(crate) struct Desk<'a> {
    pub services: &'a Services,
    pub limits: &'a Limits,
    pub moment: &'a Moment,
    /// Until when room is waited for.
    pub deadline: &'a Deadline,
}

/// Why a write to one key did not come about.
pub(crate) enum Unwritten<'c> {
    /// It was judged, and has nothing to write.
    Answered(Reply<'c>),
    Refused(Refusal),
}

impl Desk<'_> {
    /// Judges and stamps.
    pub fn write<'c>(&self, key: &'c [u8], action: &Action<'_>) -> Result<(Stamp, Reply<'c>), Unwritten<'c>> {
        let mut brought = judge::brought(key, action);
        let is_full = is_full(self.services);
        let mut answer = Reply::Null;
        let judge = |current: Option<&Entry>| {
            let live = Live::of(current, self.moment);
            let verdict = judge::judge(key, action, &mut brought, live, self.limits, self.moment);
            let Some(effect) = verdict.effect else { return Err(Unwritten::Answered(verdict.reply)) };
            // Last: who is refused anyway hears what is wrong with the command.
            if is_full && grows(current, &effect) {
                return Err(Unwritten::Refused(Refusal::Full));
            }
            answer = verdict.reply;
            Ok(effect)
        };
        let size = key.len() + judge::size(action);
        match self.services.submit.write(key, size, self.moment.elapsed(), self.deadline, judge) {
            Ok(stamp) => Ok((stamp, answer)),
            Err(not_written) => Err(not_written.refused_by(|unwritten| unwritten, Unwritten::Refused)),
        }
    }
}

/// Whether this node has reached `memory_max`. A delete cannot be refused, and its tombstone stays for a while: tombstones may take half as much besides before they count. So a node whose
/// keys were all deleted takes new ones at once, and yet nobody can fill it with deletes.
pub(crate) fn is_full(services: &Services) -> bool {
    let (Memory { values, tombstones }, max) = (services.store.memory(), services.config.memory_max);
    max > 0 && values + tombstones.saturating_sub(max / 2) >= max
}

/// What a client hears that has found it so, up to where it is said what became of the request.
pub(crate) fn full(services: &Services) -> String {
    let (Memory { values, tombstones }, max) = (services.store.memory(), services.config.memory_max);
    if tombstones <= max / 2 {
        return format!("the entries take {values} bytes and memory_max is {max}");
    }
    format!(
        "the entries take {values} bytes and tombstones of deleted keys {tombstones}; memory_max is {max}, and {} more for tombstones, which are kept for {} s at least (STATUS: tombstones_kept_s)",
        max / 2,
        services.config.tombstone_age_min.as_secs()
    )
}

/// Whether an effect takes more than what is there: with the same value and another lifetime it does not.
fn grows(current: Option<&Entry>, effect: &Update) -> bool {
    !effect.is_delete() && current.is_none_or(|current| current.value() != effect.entry().value())
}

impl<R> NotWritten<R> {
    /// The judge's word, or this node's.
    fn refused_by<T>(self, judge: impl FnOnce(R) -> T, node: impl FnOnce(Refusal) -> T) -> T {
        match self {
            NotWritten::Refused(refused) => judge(refused),
            NotWritten::TooLarge { len, room } => node(Refusal::TooLarge { len: Some(len), room }),
            NotWritten::NoRoom => node(Refusal::NoRoom),
            NotWritten::Stopping => node(Refusal::Stopping),
        }
    }
}

impl Refusal {
    /// What the client hears: what was wrong and what would be right.
    pub fn into_reply(self, services: &Services, level: AckLevel) -> Reply<'static> {
        let (code, sentence) = match self {
            Refusal::Full => (ErrorCode::Full, format!("{}; nothing was written; DEL still works", full(services))),
            Refusal::ReadOnly(why) => (ErrorCode::ReadOnly, format!("{why}; nothing was written; reads are served")),
            Refusal::NoQuorum(NoQuorum { up, needed, members }) => {
                let verb = if up == 1 { "is" } else { "are" };
                let sentence = format!(
                    "{up} of {members} members {verb} up and {needed} are needed for ack {level}; nothing was written; ACK local writes to this node alone"
                );
                (ErrorCode::NoQuorum, sentence)
            }
            Refusal::TooLarge { len, room } => {
                let takes = len.map_or_else(|| "more than that".to_owned(), |len| format!("{len} bytes"));
                let sentence =
                    format!("write_room, which bounds one step, is {room} bytes, and this takes {takes}; nothing was written; split it");
                (ErrorCode::TooBig, sentence)
            }
            Refusal::TooManyKeys(keys) => {
                (ErrorCode::TooBig, format!("{keys} keys in one step; at most {KEYS_MAX} are taken; nothing was written; split it"))
            }
            Refusal::NoRoom => {
                (ErrorCode::Busy, "more is written than this node can hand on; nothing was written; try again later".to_owned())
            }
            Refusal::Stopping => (ErrorCode::Busy, "this node is stopping; nothing was written; use another node".to_owned()),
        };
        Reply::Error { code, sentence: sentence.into() }
    }
}
