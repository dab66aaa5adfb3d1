//! The writes of one round: judged and stamped one by one, acknowledged together.
//!
//! The common path does as little as can be: for a write its stamp and two places are remembered, and its reply is there before it is
//! known to be true; nothing leaves before it is. Only when the level is not met at once for all of them does beaten.rs take the round apart.

use std::borrow::Cow;
use std::ops::Range;

use crate::clock::{Deadline, Stamp};
use crate::entry::{Effect, Entry, Version};
use crate::protocol::command::{AckLevel, Action, Limits};
use crate::protocol::reply::{ErrorCode, Reply};
use crate::replication::acks::{NoQuorum, Round, Waited};
use crate::replication::submit::NotWritten;
use crate::server::Services;
use crate::server::beaten::{self, Outcome, Unmet, Waiting};
use crate::server::judge::{self, Live, Moment};
use crate::server::plan::KEYS_MAX;
use crate::server::wire::Wire;
use crate::store::{Span, View};

/// A round with more writes gives the memory back that it took to remember them.
const PLACES_KEPT: usize = 1024;

pub(super) struct Writes<'a> {
    services: &'a Services,
    limits: Limits,
    /// Until when the round waits for room on the way to the replicator.
    deadline: Deadline,
    /// The time that the round was given, to which its expiries belong.
    wall_ms: u64,
    round: Option<(AckLevel, Round<'a>)>,
    /// Of the writes that wait for acks, in rising order.
    stamps: Vec<Stamp>,
    /// Of the commands that they belong to, in the same order. Invariant: together they have all stamps but the last `fresh` ones.
    pending: Vec<Pending>,
    /// Stamps whose command has no place yet.
    fresh: usize,
    /// What several effects of one command were: they cannot be judged one by one.
    fresh_effects: Option<Effects>,
    /// What became of the round once its level was not met at once.
    unmet: Option<Unmet>,
    /// The greatest stamp of this connection.
    last: Stamp,
    /// Whether what the last command that was waited for has answered is true.
    last_stands: bool,
}

/// A command that waits for acks.
pub(super) struct Pending {
    pub place: Place,
    /// How many of the stamps are its own.
    pub stamps: usize,
    /// In the order of the stamps. `None`: the command stands at its place in the round and concerns one key; it can be judged again.
    pub effects: Option<Effects>,
}

/// What several writes of one command were.
pub(super) struct Effects {
    pub of_keys: Box<[Entry]>,
    /// They would have been the same whatever had been there.
    pub are_blind: bool,
}

/// Where a command and its reply are to be found again.
pub(super) struct Place {
    /// Offset of the request in what the round executes.
    pub command: usize,
    /// Where its reply lies in the round's replies, and how it is written.
    pub reply: Range<usize>,
    pub wire: Wire,
}

/// Why nothing was written, whatever the command says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
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
        let (stamps, pending) = (Vec::new(), Vec::new());
        Writes {
            services,
            limits,
            deadline: Deadline::within(services.config.ack_timeout),
            wall_ms: 0,
            round: None,
            stamps,
            pending,
            fresh: 0,
            fresh_effects: None,
            unmet: None,
            last: Stamp::ZERO,
            last_stands: true,
        }
    }

    /// Whether something can be written at this level at all. To be asked before anything is applied.
    pub fn check(&self, level: AckLevel) -> Result<(), Refusal> {
        self.services.mesh.writable().map_err(Refusal::ReadOnly)?;
        self.services.acks.quorum(level).map_err(Refusal::NoQuorum)
    }

    /// A command that may write to one key. Unless nobody has to be waited for, what it answers is true only when [`Writes::settle`] has let it stand.
    pub fn one<'c>(&mut self, level: AckLevel, key: &'c [u8], action: &Action<'_>, moment: &Moment) -> Result<Reply<'c>, Refusal> {
        self.check(level)?;
        self.open(level);
        self.wall_ms = moment.wall_ms();
        let desk = Desk { services: self.services, limits: &self.limits, moment, deadline: &self.deadline, again: None };
        match desk.write(key, action) {
            Ok((stamp, reply)) => {
                self.note(level, &[stamp], None);
                Ok(reply)
            }
            Err(Unwritten::Answered(reply)) => Ok(reply),
            Err(Unwritten::Refused(refusal)) => Err(refusal),
            Err(Unwritten::Unclear) => panic!("a write that is judged for the first time has left nothing"),
        }
    }

    /// Several writes in one step; `plan` as in [`Submit::transact`](crate::replication::submit::Submit::transact).
    pub fn several<T>(
        &mut self,
        level: AckLevel,
        span: Span<'_>,
        len: usize,
        moment: &Moment,
        are_blind: bool,
        mut plan: impl FnMut(&View<'_>) -> Result<(Vec<Effect>, T), Refusal>,
    ) -> Result<T, Refusal> {
        self.check(level)?;
        self.open(level);
        self.wall_ms = moment.wall_ms();
        let services = self.services;
        let is_full = is_full(services);
        let plan = |view: &View<'_>| {
            let (effects, found) = plan(view)?;
            if is_full && effects.iter().any(|effect| grows(view.entry(effect.entry().key()), effect)) {
                return Err(Refusal::Full);
            }
            Ok((effects, found))
        };
        let done = services.submit.transact(span, len, moment.wall_ms(), &self.deadline, plan);
        let (entries, found) = done.map_err(|not_written| not_written.refused_by(|refusal| refusal, |refusal| refusal))?;
        let stamps: Vec<Stamp> = entries.iter().map(|entry| entry.version().stamp).collect();
        self.note(level, &stamps, Some(Effects { of_keys: entries.into(), are_blind }));
        Ok(found)
    }

    /// To be called behind every command that may have written: where it is to be found again, if it waits for acks; whether it does.
    pub fn place(&mut self, place: Place) -> bool {
        let waits = self.fresh > 0;
        if waits {
            self.pending.push(Pending { place, stamps: std::mem::take(&mut self.fresh), effects: self.fresh_effects.take() });
        }
        waits
    }

    /// The greatest stamp that this connection's writes were given.
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// Whether the last [`Writes::settle`] let stand what the round's last write has answered.
    pub fn last_stands(&self) -> bool {
        self.last_stands
    }

    /// Ends the round: waits until its writes are acknowledged. The reply of each that is not done is replaced in `replies`. `commands` is what
    /// the places point into. Returns how many were not done.
    pub fn settle(&mut self, commands: &[u8], replies: &mut Vec<u8>) -> usize {
        (self.deadline, self.last_stands) = (self.timeout(), true);
        if self.round.is_none() {
            return 0;
        }
        let deadline = self.timeout();
        loop {
            let Some((_, round)) = &self.round else { return 0 };
            let waited = round.wait(&self.awaited(), &deadline);
            let is_late = waited != Waited::Met && deadline.left().is_zero();
            if let Some(failed) = self.conclude(waited, &Moment::default(), &deadline, is_late, commands, replies) {
                return failed;
            }
        }
    }

    /// The same without waiting; `None` as long as there is something to wait for. `is_late`: nothing is waited for any more. For who drives a whole mesh in one thread.
    #[cfg(feature = "testing")]
    pub fn try_settle(&mut self, now: &Moment, is_late: bool, commands: &[u8], replies: &mut Vec<u8>) -> Option<usize> {
        (self.deadline, self.last_stands) = (self.timeout(), true);
        let Some((_, round)) = &self.round else { return Some(0) };
        let waited = round.poll(&self.awaited()).or(is_late.then_some(Waited::TimedOut))?;
        self.conclude(waited, now, &Deadline::within(std::time::Duration::ZERO), is_late, commands, replies)
    }

    fn awaited(&self) -> Cow<'_, [Stamp]> {
        self.unmet.as_ref().map_or(Cow::Borrowed(&self.stamps), |unmet| Cow::Owned(unmet.stamps()))
    }

    /// What waiting for the round has come to. `None` if there is more to wait for.
    fn conclude(
        &mut self,
        waited: Waited,
        now: &Moment,
        deadline: &Deadline,
        is_late: bool,
        commands: &[u8],
        replies: &mut Vec<u8>,
    ) -> Option<usize> {
        debug_assert_eq!(self.fresh, 0);
        let (level, round) = self.round.as_ref()?;
        let mut failed = 0;
        if waited != Waited::Met || self.unmet.is_some() {
            let (services, limits, level, moment) = (self.services, &self.limits, *level, &Moment::at(self.wall_ms));
            let waiting = Waiting { services, limits, round, level, commands, moment, now, deadline, is_late };
            let unmet = self.unmet.get_or_insert_with(|| Unmet::new(&waiting, &self.stamps, &self.pending));
            let outcomes = unmet.turn(&waiting, waited)?;
            self.last = self.last.max(unmet.last());
            self.last_stands = matches!(outcomes.last(), None | Some(Outcome::Stands));
            failed = beaten::replace(replies, &self.pending, outcomes);
        }
        (self.round, self.unmet) = (None, None);
        self.stamps.clear();
        self.pending.clear();
        self.stamps.shrink_to(PLACES_KEPT);
        self.pending.shrink_to(PLACES_KEPT);
        Some(failed)
    }

    fn open(&mut self, level: AckLevel) {
        let services = self.services;
        if !services.acks.is_done_at_once(level) {
            self.round.get_or_insert_with(|| (level, services.acks.open_round(level, services.submit.position())));
        }
    }

    fn timeout(&self) -> Deadline {
        Deadline::within(self.services.config.ack_timeout)
    }

    fn note(&mut self, level: AckLevel, stamps: &[Stamp], effects: Option<Effects>) {
        self.last = stamps.last().copied().unwrap_or(self.last);
        if !self.services.acks.is_done_at_once(level) {
            self.stamps.extend_from_slice(stamps);
            self.fresh = stamps.len();
            self.fresh_effects = effects;
        }
    }
}

/// What a write to one key is judged with.
pub(super) struct Desk<'a> {
    pub services: &'a Services,
    pub limits: &'a Limits,
    pub moment: &'a Moment,
    /// Until when room is waited for.
    pub deadline: &'a Deadline,
    /// Of a write that was judged before, and beaten. It is not refused for want of memory now.
    pub again: Option<Again>,
}

/// What is known of a write that is judged again.
pub(super) struct Again {
    /// Its version until now.
    pub version: Version,
    /// What its own round has left under its key since, if anything.
    pub own: Option<Stamp>,
}

impl Again {
    /// Another client of this node has written since, and may have built on what this write had left: judged again, that would count twice.
    fn is_built_on(&self, current: Option<&Entry>) -> bool {
        current.is_some_and(|current| {
            let Version { stamp, origin } = current.version();
            origin == self.version.origin && stamp > self.version.stamp && Some(stamp) != self.own
        })
    }
}

/// Why a write to one key did not come about.
pub(super) enum Unwritten<'c> {
    /// It was judged, and has nothing to write.
    Answered(Reply<'c>),
    Refused(Refusal),
    /// Whether its effect is part of what is there is not known.
    Unclear,
}

impl Desk<'_> {
    /// Judges and stamps.
    pub fn write<'c>(&self, key: &'c [u8], action: &Action<'_>) -> Result<(Stamp, Reply<'c>), Unwritten<'c>> {
        let mut brought = judge::brought(key, action);
        let is_full = self.again.is_none() && is_full(self.services);
        let mut answer = Reply::Null;
        let judge = |current: Option<&Entry>| {
            if !action.is_blind() && self.again.as_ref().is_some_and(|again| again.is_built_on(current)) {
                return Err(Unwritten::Unclear);
            }
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
        match self.services.submit.write(key, size, self.moment.wall_ms(), self.deadline, judge) {
            Ok(stamp) => Ok((stamp, answer)),
            Err(not_written) => Err(not_written.refused_by(|unwritten| unwritten, Unwritten::Refused)),
        }
    }
}

fn is_full(services: &Services) -> bool {
    let memory_max = services.config.memory_max;
    memory_max > 0 && services.store.memory() >= memory_max
}

/// Whether an effect takes more than what is there: with the same value and another lifetime it does not.
fn grows(current: Option<&Entry>, effect: &Effect) -> bool {
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
            Refusal::Full => {
                let (memory, max) = (services.store.memory(), services.config.memory_max);
                let sentence = format!("the entries take {memory} bytes and memory_max is {max}; nothing was written; DEL still works");
                (ErrorCode::Full, sentence)
            }
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
