//! The writes of one round: judged and stamped one by one, acknowledged together.
//!
//! The common path does as little as can be: a stamp and two offsets are remembered for a write, and its `OK` is in the replies before it is
//! known to be true; nothing leaves before it is. Only when the level is not met at once for all of them does beaten.rs take the round apart.

use std::time::Instant;

use crate::clock::{Stamp, wall_ms};
use crate::entry::{Effect, Entry};
use crate::protocol::command::{AckLevel, ErrorCode, Reply, Write};
use crate::protocol::quoting::shown;
use crate::protocol::text::Limits;
use crate::replication::acks::{NoQuorum, Round, Waited};
use crate::replication::submit::NotWritten;
use crate::server::Services;
use crate::server::beaten::{self, Unmet, Waiting};

/// A round with more writes gives the memory back that it took to remember them.
const PLACES_KEPT: usize = 1024;

pub(super) struct Writes<'a> {
    services: &'a Services,
    limits: Limits,
    /// Both are of the round's first write.
    time: Option<Time>,
    round: Option<(AckLevel, Round<'a>)>,
    /// Of the writes that wait for acks, in rising order.
    stamps: Vec<Stamp>,
    /// Invariant: as many as there are stamps, in the same order.
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Time {
    wall_ms: u64,
    /// For room on the way to the replicator.
    deadline: Instant,
}

/// Where a write is to be found again.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Offset of its line in what the round executes.
    pub command: usize,
    /// Offset of its `OK` in the round's replies.
    pub reply: usize,
}

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Exists,
    NotFound,
    Full,
    /// Why nothing can be logged, and what helps.
    ReadOnly(String),
    NoQuorum(NoQuorum),
    NoRoom,
    Stopping,
}

impl<'a> Writes<'a> {
    pub fn new(services: &'a Services, limits: Limits) -> Writes<'a> {
        Writes { services, limits, time: None, round: None, stamps: Vec::new(), places: Vec::new() }
    }

    /// Applies one write on this node. Unless nobody has to be waited for, it is done only when [`Writes::settle`] has let its `OK` stand.
    pub fn write(&mut self, level: AckLevel, key: &[u8], write: &Write<'_>, place: Place) -> Result<(), Refusal> {
        let services = self.services;
        services.mesh.writable().map_err(Refusal::ReadOnly)?;
        services.acks.quorum(level).map_err(Refusal::NoQuorum)?;
        let is_waited_for = !services.acks.is_done_at_once(level);
        if is_waited_for {
            self.round.get_or_insert_with(|| (level, services.acks.open_round(level, services.submit.position())));
        }
        let now = || Time { wall_ms: wall_ms(), deadline: Instant::now() + services.config.ack_timeout };
        let time = *self.time.get_or_insert_with(now);
        let memory_max = services.config.memory_max;
        let is_full = memory_max > 0 && services.store.memory() >= memory_max;
        let judge = |current: Option<&Entry>| match judge(write, current) {
            // Last: who is refused anyway hears what is wrong with the command.
            Ok(()) if is_full && !matches!(write, Write::Delete) => Err(Refusal::Full),
            judged => judged,
        };
        let stamp = submit(services, key, write, time.wall_ms, time.deadline, judge)?;
        if is_waited_for {
            self.stamps.push(stamp);
            self.places.push(place);
        }
        Ok(())
    }

    /// Ends the round: waits until its writes are acknowledged. The `OK` of each that is not done is replaced in `replies`. `commands` is what
    /// the places point into. Returns how many were not done.
    pub fn settle(&mut self, commands: &[u8], replies: &mut Vec<u8>) -> usize {
        self.time = None;
        let Some((level, round)) = self.round.take() else { return 0 };
        let deadline = Instant::now() + self.services.config.ack_timeout;
        let failed = match round.wait(&self.stamps, deadline) {
            Waited::Met => 0,
            waited => {
                let waiting = Waiting { services: self.services, round: &round, level, deadline };
                let unmet = Unmet::new(waiting, &self.limits, commands, &self.stamps, &self.places);
                beaten::replace(replies, &self.places, unmet.settle(waited))
            }
        };
        self.stamps.clear();
        self.places.clear();
        self.stamps.shrink_to(PLACES_KEPT);
        self.places.shrink_to(PLACES_KEPT);
        failed
    }
}

/// Whether a write may follow what is there.
pub(super) fn judge(write: &Write<'_>, current: Option<&Entry>) -> Result<(), Refusal> {
    let exists = current.is_some_and(|entry| entry.is_live(wall_ms));
    match write {
        Write::Set(_) if exists => Err(Refusal::Exists),
        Write::Update(_) | Write::Delete if !exists => Err(Refusal::NotFound),
        _ => Ok(()),
    }
}

/// Judges and stamps.
pub(super) fn submit(
    services: &Services,
    key: &[u8],
    write: &Write<'_>,
    wall_ms: u64,
    deadline: Instant,
    judge: impl Fn(Option<&Entry>) -> Result<(), Refusal>,
) -> Result<Stamp, Refusal> {
    // Copied before any lock is taken: a value may have megabytes.
    let effect = match write {
        Write::Set(value) | Write::Update(value) | Write::Put(value) => Effect::put(value.as_ref().into(), None),
        Write::Delete => Effect::DELETE,
    };
    let len = key.len() + effect.len();
    let judge = |current: Option<&Entry>| judge(current).map(|()| effect.clone());
    services.submit.write(key, len, wall_ms, deadline, judge).map_err(|not_written| match not_written {
        NotWritten::Refused(refusal) => refusal,
        NotWritten::TooLarge { .. } | NotWritten::NoRoom => Refusal::NoRoom,
        NotWritten::Stopping => Refusal::Stopping,
    })
}

impl Refusal {
    /// What the client hears: what was wrong and what would be right.
    pub fn into_reply(self, services: &Services, level: AckLevel, key: &[u8], write: &Write<'_>) -> Reply<'static> {
        let (code, sentence) = match self {
            Refusal::Exists => (ErrorCode::Exists, format!("key {} exists; use UPD to change it, PUT to set it either way", shown(key))),
            Refusal::NotFound => {
                let advice = if matches!(write, Write::Delete) { "" } else { "; use SET to create it, PUT to set it either way" };
                (ErrorCode::NotFound, not_found(key) + advice)
            }
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
            Refusal::NoRoom => {
                (ErrorCode::Busy, "more is written than this node can hand on; nothing was written; try again later".to_owned())
            }
            Refusal::Stopping => (ErrorCode::Busy, "this node is stopping; nothing was written; use another node".to_owned()),
        };
        Reply::Error { code, sentence: sentence.into() }
    }
}

pub(super) fn not_found(key: &[u8]) -> String {
    format!("key {} does not exist", shown(key))
}
