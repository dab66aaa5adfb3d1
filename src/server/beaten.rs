//! A round whose writes were not all acknowledged at once: taken apart, write by write.
//!
//! **I8** is carried out here. A write that lost to a greater version is judged and stamped again, now above the winner, and waited for again,
//! until the deadline of its round. If a later write of the same key in the same round stands, the earlier one is *not* stamped again: it would
//! overtake its successor; its outcome is that of its successor. Three outcomes, never confused: done, refused, unknown.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

use crate::clock::{Stamp, wall_ms};
use crate::entry::{Entry, Version};
use crate::protocol::command::{AckLevel, Command, ErrorCode, Reply, Write};
use crate::protocol::text::{Limits, OK, Parsed, encode_reply, parse};
use crate::replication::acks::{Round, Waited};
use crate::server::Services;
use crate::server::writes::{Place, Refusal, judge, submit};

/// What a round is waiting for, and until when.
pub(super) struct Waiting<'a> {
    pub services: &'a Services,
    pub round: &'a Round<'a>,
    pub level: AckLevel,
    pub deadline: Instant,
}

/// The writes of such a round.
pub(super) struct Unmet<'a> {
    waiting: Waiting<'a>,
    /// In the order of the commands. Invariant: of the cases with equal keys that wait, the later one has the greater stamp.
    cases: Vec<Case<'a>>,
}

struct Case<'a> {
    key: Cow<'a, [u8]>,
    write: Write<'a>,
    standing: Standing,
}

enum Standing {
    Waiting(Stamp),
    /// It was beaten, and this later case overwrites it whatever becomes of it.
    Behind(usize),
    Done,
    /// Judged again and refused, or unknown.
    Failed(Reply<'static>),
}

impl<'a> Unmet<'a> {
    /// Finds the writes again: they are parsed a second time, so that the rounds without trouble need not keep them.
    pub fn new(waiting: Waiting<'a>, limits: &Limits, commands: &'a [u8], stamps: &[Stamp], places: &[Place]) -> Unmet<'a> {
        let find = |(place, stamp): (&Place, &Stamp)| match parse(&commands[place.command..], 0, limits) {
            Parsed::Command { command: Command::Write { key, write }, .. } => Case { key, write, standing: Standing::Waiting(*stamp) },
            other => panic!("a line that was a write is now {other:?}"),
        };
        Unmet { waiting, cases: places.iter().zip(stamps).map(find).collect() }
    }

    /// Waits until every write has an outcome; `None` is done.
    pub fn settle(mut self, mut waited: Waited) -> Vec<Option<Reply<'static>>> {
        loop {
            match waited {
                Waited::Met => break self.resolve(Standing::Done),
                Waited::Beaten(beaten) if Instant::now() < self.waiting.deadline => self.stamp_again(&beaten),
                Waited::Beaten(_) | Waited::TimedOut => {
                    self.note_met();
                    let unknown = self.unknown();
                    break self.resolve(Standing::Failed(unknown));
                }
            }
            waited = self.waiting.round.wait(&self.stamps(), self.waiting.deadline);
        }
    }

    /// What is waited for, in rising order.
    fn stamps(&self) -> Vec<Stamp> {
        let mut stamps: Vec<Stamp> = self.cases.iter().filter_map(|case| case.standing.waiting()).collect();
        stamps.sort();
        stamps
    }

    fn stamp_again(&mut self, beaten: &[Stamp]) {
        let is_beaten = |case: &Case<'_>| case.standing.waiting().is_some_and(|stamp| beaten.binary_search(&stamp).is_ok());
        let standing = self.cases.iter().enumerate().filter(|(_, case)| case.standing.waiting().is_some() && !is_beaten(case));
        let last_standing: HashMap<Vec<u8>, usize> = standing.map(|(place, case)| (case.key.to_vec(), place)).collect();
        let again: Vec<usize> = (0..self.cases.len()).filter(|place| is_beaten(&self.cases[*place])).collect();
        let wall_ms = wall_ms();
        // What this round left under a key until now: the first of its writes that is judged again must not stumble over it.
        let mut own: HashMap<Vec<u8>, Stamp> = HashMap::new();
        for place in &again {
            let case = &self.cases[*place];
            let stamp = case.standing.waiting().unwrap_or_default();
            own.entry(case.key.to_vec()).and_modify(|greatest| *greatest = stamp.max(*greatest)).or_insert(stamp);
        }
        for place in again {
            let case = &self.cases[place];
            let standing = match last_standing.get(&*case.key) {
                Some(later) if *later > place => Standing::Behind(*later),
                _ => {
                    // Only the first of a key: what the next one finds then is what the first has just left, as when they were judged before.
                    let own = own.remove(&*case.key);
                    self.judge_again(case, own, wall_ms)
                }
            };
            self.cases[place].standing = standing;
        }
    }

    /// The winner may still be on its way here, so that the write finds only what its own round left: a value that a `SET` must not take
    /// for somebody else's, or a tombstone that a `DEL` must not.
    fn judge_again(&self, case: &Case<'_>, own: Option<Stamp>, wall_ms: u64) -> Standing {
        // Another node may have taken the same stamp.
        let own = own.map(|stamp| Version { stamp, origin: self.waiting.services.mesh.origin() });
        let is_own = |current: Option<&Entry>| own.is_some() && current.map(|entry| entry.version) == own;
        let judge = |current: Option<&Entry>| if is_own(current) { Ok(()) } else { judge(&case.write, current) };
        match submit(self.waiting.services, &case.key, &case.write, wall_ms, self.waiting.deadline, judge) {
            Ok(stamp) => Standing::Waiting(stamp),
            Err(refusal @ (Refusal::Exists | Refusal::NotFound)) => {
                Standing::Failed(refusal.into_reply(self.waiting.services, self.waiting.level, &case.key, &case.write))
            }
            // It was applied here once, so it cannot be called refused.
            Err(_) => Standing::Failed(self.unknown()),
        }
    }

    /// After the deadline: what is done although others of the round are not.
    fn note_met(&mut self) {
        for case in &mut self.cases {
            if case.standing.waiting().is_some_and(|stamp| self.waiting.round.is_met(stamp)) {
                case.standing = Standing::Done;
            }
        }
    }

    /// Gives what still waits this outcome, and what is behind another write that one's.
    fn resolve(mut self, waiting: Standing) -> Vec<Option<Reply<'static>>> {
        let unknown = self.unknown();
        let waiting = waiting.into_outcome();
        let mut outcomes: Vec<Option<Reply<'static>>> = Vec::new();
        outcomes.resize_with(self.cases.len(), || None);
        for (place, case) in self.cases.iter_mut().enumerate().rev() {
            outcomes[place] = match std::mem::replace(&mut case.standing, Standing::Done) {
                Standing::Waiting(_) => waiting.clone(),
                // Its successor was refused when it was judged again: whether this one ever won is not known.
                Standing::Behind(later) => outcomes[later].as_ref().map(|_| unknown.clone()),
                decided => decided.into_outcome(),
            };
        }
        outcomes
    }

    fn unknown(&self) -> Reply<'static> {
        let (level, ms) = (self.waiting.level, self.waiting.services.config.ack_timeout.as_millis());
        let sentence = format!(
            "the write is applied on this node and will still spread, but ack {level} was not reached within {ms} ms; read it before writing again"
        );
        Reply::Error { code: ErrorCode::Timeout, sentence: sentence.into() }
    }
}

impl Standing {
    fn waiting(&self) -> Option<Stamp> {
        match self {
            Standing::Waiting(stamp) => Some(*stamp),
            _ => None,
        }
    }

    fn into_outcome(self) -> Option<Reply<'static>> {
        match self {
            Standing::Failed(reply) => Some(reply),
            _ => None,
        }
    }
}

/// Puts the outcomes in the place of the `OK`s that turned out to be false. Returns how many.
pub(super) fn replace(replies: &mut Vec<u8>, places: &[Place], outcomes: Vec<Option<Reply<'static>>>) -> usize {
    let mut replaced = Vec::with_capacity(replies.len());
    let (mut copied, mut failed) = (0, 0);
    for (place, outcome) in places.iter().zip(outcomes) {
        if let Some(reply) = outcome {
            replaced.extend_from_slice(&replies[copied..place.reply]);
            encode_reply(&reply, &mut replaced);
            copied = place.reply + OK.len();
            failed += 1;
        }
    }
    if failed > 0 {
        replaced.extend_from_slice(&replies[copied..]);
        *replies = replaced;
    }
    failed
}
