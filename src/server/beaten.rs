//! A round whose writes were not all acknowledged at once: taken apart, write by write.
//!
//! **I8** is carried out here. A write that lost to a greater version is judged and stamped again, now above the winner, and waited for again,
//! until the deadline of its round. If a later write of the same key in the same round stands, the earlier one is *not* stamped again: it would
//! overtake its successor; its outcome is that of its successor. Three outcomes, never confused: done, refused, unknown.
//!
//! A command on one key is judged anew where the winner is here, and so may answer something else than before; but not where another client of this node has written
//! since, and may have built on it: then its outcome is unknown. To judge one key of several by itself would tear the command apart: its effects are stamped again as they are, if they are
//! still there or did not depend on what was there before them, and else its outcome is unknown.

use std::collections::{BTreeMap, HashMap};

use crate::clock::{Deadline, Stamp};
use crate::entry::{Effect, Entry, Key, Version};
use crate::protocol::command::{AckLevel, Command, Limits};
use crate::protocol::reply::{ErrorCode, Reply};
use crate::replication::acks::{Round, Waited};
use crate::replication::submit::NotWritten;
use crate::server::Services;
use crate::server::judge::Moment;
use crate::server::wire::parse_again;
use crate::server::writes::{Again, Desk, Pending, Unwritten};

/// What a round is waiting for, and how it stands with that.
pub(super) struct Waiting<'a> {
    pub services: &'a Services,
    pub limits: &'a Limits,
    pub round: &'a Round<'a>,
    pub level: AckLevel,
    /// What the round has executed, and the time that it was given.
    pub commands: &'a [u8],
    pub moment: &'a Moment,
    /// The time of what is judged and stamped again.
    pub now: &'a Moment,
    /// Until when room for it is waited for.
    pub deadline: &'a Deadline,
    /// Nothing is stamped again any more.
    pub is_late: bool,
}

/// The writes of such a round.
pub(super) struct Unmet {
    /// In the order in which they were written. Invariant: of the cases with equal keys that wait, the later one has the greater stamp.
    cases: Vec<Case>,
    /// How many of the cases belong to each command.
    commands: Vec<usize>,
    /// The greatest stamp that was taken.
    last: Stamp,
}

struct Case {
    key: Key,
    redo: Redo,
    standing: Standing,
    /// What the command answers since it was judged again.
    reply: Option<Reply<'static>>,
}

/// How a write is done again.
enum Redo {
    /// The command that stands at this offset of the round, on one key.
    Judge {
        command: usize,
    },
    Put {
        left: Entry,
        is_blind: bool,
    },
}

/// What became of stamping again what was left.
enum Reissued {
    Stamped(Stamp),
    /// Something else is there by now.
    Gone,
    /// No room, or the node stops.
    Refused,
}

enum Standing {
    Waiting(Stamp),
    /// It was beaten, and this later case overwrites it whatever becomes of it.
    Behind(usize),
    Done,
    /// Judged again, and there was nothing to write.
    Decided,
    Unknown,
    /// It lost, and cannot be judged again.
    Unclear,
}

/// What becomes of a command whose reply was written already.
pub(super) enum Outcome {
    Stands,
    /// It answers this instead.
    Answer(Reply<'static>),
    /// Not done, for all that is known.
    Failed(Reply<'static>),
}

impl Unmet {
    /// Finds the writes again: those on one key are parsed a second time, so that the rounds without trouble need not keep them.
    pub fn new(waiting: &Waiting<'_>, stamps: &[Stamp], pending: &[Pending]) -> Unmet {
        let mut cases = Vec::with_capacity(stamps.len());
        let mut stamps = stamps.iter().copied();
        for pending in pending {
            match &pending.effects {
                None => {
                    let command = pending.place.command;
                    let key = match waiting.parse_again(command) {
                        Command::One { key, .. } => Key::from(&*key),
                        other => panic!("a request that wrote to one key is now {other:?}"),
                    };
                    let stamp = stamps.next().unwrap_or_default();
                    cases.push(Case { key, redo: Redo::Judge { command }, standing: Standing::Waiting(stamp), reply: None });
                }
                Some(effects) => cases.extend(effects.of_keys.iter().zip(&mut stamps).map(|(left, stamp)| Case {
                    key: left.shared_key(),
                    redo: Redo::Put { left: left.clone(), is_blind: effects.are_blind },
                    standing: Standing::Waiting(stamp),
                    reply: None,
                })),
            }
        }
        let commands = pending.iter().map(|command| command.stamps).collect();
        Unmet { cases, commands, last: Stamp::ZERO }
    }

    /// Waiting for [`Unmet::stamps`] has come to this. The outcome of every command, in their order; `None` if those stamps, other ones by now, are to be waited for again.
    pub fn turn(&mut self, waiting: &Waiting<'_>, waited: Waited) -> Option<Vec<Outcome>> {
        let is_met = match waited {
            Waited::Met => true,
            Waited::Beaten(beaten) if !waiting.is_late => {
                self.stamp_again(waiting, &beaten);
                return None;
            }
            Waited::Beaten(_) | Waited::TimedOut => {
                self.note_met(waiting);
                false
            }
        };
        Some(self.resolve(waiting, is_met))
    }

    /// What is waited for, in rising order.
    pub fn stamps(&self) -> Vec<Stamp> {
        let mut stamps: Vec<Stamp> = self.cases.iter().filter_map(|case| case.standing.waiting()).collect();
        stamps.sort();
        stamps
    }

    /// The greatest stamp that was taken here; [`Stamp::ZERO`] if none was.
    pub fn last(&self) -> Stamp {
        self.last
    }

    fn stamp_again(&mut self, waiting: &Waiting<'_>, beaten: &[Stamp]) {
        let is_beaten = |case: &Case| case.standing.waiting().is_some_and(|stamp| beaten.binary_search(&stamp).is_ok());
        let standing = self.cases.iter().enumerate().filter(|(_, case)| case.standing.waiting().is_some() && !is_beaten(case));
        let last_standing: HashMap<Key, usize> = standing.map(|(place, case)| (Key::clone(&case.key), place)).collect();
        let mut again: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for place in 0..self.cases.len() {
            let case = &mut self.cases[place];
            if !is_beaten(case) {
                continue;
            }
            match last_standing.get(&case.key) {
                Some(later) if *later > place => case.standing = Standing::Behind(*later),
                _ => again.entry(Key::clone(&case.key)).or_default().push(place),
            }
        }
        for places in again.into_values() {
            self.write_again(waiting, &places);
        }
    }

    /// The beaten writes of one key, in their order.
    ///
    /// The winner may still be on its way here, so that what is found is what the last of them has left: then that is stamped again as it is, and those before it are
    /// behind it. Judged again, a `SET` would take its own value for somebody else's, and an `INCR` would count twice.
    fn write_again(&mut self, waiting: &Waiting<'_>, places: &[usize]) {
        let Some((last, earlier)) = places.split_last() else { return };
        let standing = match self.reissue(waiting, *last) {
            Reissued::Stamped(stamp) => Standing::Waiting(stamp),
            Reissued::Refused => Standing::Unknown,
            Reissued::Gone => {
                let mut own = None;
                for place in places {
                    own = self.judge_again(waiting, *place, own).or(own);
                }
                return;
            }
        };
        self.last = self.last.max(standing.waiting().unwrap_or_default());
        self.cases[*last].standing = standing;
        for place in earlier {
            self.cases[*place].standing = Standing::Behind(*last);
        }
    }

    /// Stamps again what the case has left, if that is still there.
    fn reissue(&self, waiting: &Waiting<'_>, place: usize) -> Reissued {
        let case = &self.cases[place];
        let Waiting { services, now, deadline, .. } = *waiting;
        // Another node may have taken the same stamp.
        let own = Version { stamp: case.standing.waiting().unwrap_or_default(), origin: services.mesh.origin() };
        let size = services.store.read(&case.key, |entry| entry.map_or(0, Entry::size));
        let same = |current: Option<&Entry>| current.filter(|current| current.version() == own).map(Effect::again).ok_or(());
        match services.submit.write::<()>(&case.key, size, now.wall_ms(), deadline, same) {
            Ok(stamp) => Reissued::Stamped(stamp),
            Err(NotWritten::Refused(())) => Reissued::Gone,
            Err(_) => Reissued::Refused,
        }
    }

    /// `own` is what this round has left under the key just now. Returns the stamp that the case waits for, if it does.
    fn judge_again(&mut self, waiting: &Waiting<'_>, place: usize, own: Option<Stamp>) -> Option<Stamp> {
        let Waiting { services, limits, now, deadline, .. } = *waiting;
        let case = &mut self.cases[place];
        let version = Version { stamp: case.standing.waiting().unwrap_or_default(), origin: services.mesh.origin() };
        let desk = Desk { services, limits, moment: now, deadline, again: Some(Again { version, own }) };
        let (standing, reply) = match &case.redo {
            Redo::Judge { command } => {
                let command = waiting.parse_again(*command);
                let Command::One { key, action } = &command else { panic!("a request that wrote to one key is now {command:?}") };
                match desk.write(key, action) {
                    Ok((stamp, reply)) => (Standing::Waiting(stamp), Some(reply.into_owned())),
                    Err(Unwritten::Answered(reply)) => (Standing::Decided, Some(reply.into_owned())),
                    // It was applied here once, so it cannot be called refused.
                    Err(Unwritten::Refused(_)) => (Standing::Unknown, None),
                    Err(Unwritten::Unclear) => (Standing::Unclear, None),
                }
            }
            Redo::Put { is_blind: false, .. } => (Standing::Unclear, None),
            Redo::Put { left, .. } => {
                let written = services.submit.write::<()>(&case.key, left.size(), now.wall_ms(), deadline, |_| Ok(Effect::again(left)));
                (written.map_or(Standing::Unknown, Standing::Waiting), None)
            }
        };
        let stamp = standing.waiting();
        self.last = self.last.max(stamp.unwrap_or_default());
        (case.standing, case.reply) = (standing, reply.or(case.reply.take()));
        stamp
    }

    /// After the deadline: what is done although others of the round are not.
    fn note_met(&mut self, waiting: &Waiting<'_>) {
        for case in &mut self.cases {
            if case.standing.waiting().is_some_and(|stamp| waiting.round.is_met(stamp)) {
                case.standing = Standing::Done;
            }
        }
    }

    /// Gives what still waits its outcome, and what is behind another write that one's.
    fn resolve(&mut self, waiting: &Waiting<'_>, is_met: bool) -> Vec<Outcome> {
        let (unknown, unclear) = (waiting.unknown(), waiting.unclear());
        // From the last to the first: whether each is done.
        let mut done = vec![false; self.cases.len()];
        let mut places = (0..self.cases.len()).rev();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.commands.len());
        for cases in self.commands.iter().rev() {
            let (mut is_done, mut is_unclear, mut reply) = (true, false, None);
            for place in places.by_ref().take(*cases) {
                let case = &mut self.cases[place];
                done[place] = match case.standing {
                    Standing::Waiting(_) => is_met,
                    // Its successor's fate, unless that was judged again and had nothing to write: whether this one ever won is not known.
                    Standing::Behind(later) => done[later],
                    Standing::Done => true,
                    Standing::Decided | Standing::Unknown | Standing::Unclear => false,
                };
                is_unclear |= matches!(case.standing, Standing::Unclear);
                is_done &= done[place] || matches!(case.standing, Standing::Decided);
                reply = case.reply.take().or(reply);
            }
            outcomes.push(match (is_done, reply) {
                (false, _) => Outcome::Failed(if is_unclear { unclear.clone() } else { unknown.clone() }),
                (true, None) => Outcome::Stands,
                (true, Some(error @ Reply::Error { .. })) => Outcome::Failed(error),
                (true, Some(reply)) => Outcome::Answer(reply),
            });
        }
        outcomes.reverse();
        outcomes
    }
}

impl<'a> Waiting<'a> {
    fn parse_again(&self, command: usize) -> Command<'a> {
        match parse_again(&self.commands[command..], self.limits, self.moment) {
            (Ok(command), _) => command,
            (Err(wrong), _) => panic!("a request that was right is now {wrong:?}"),
        }
    }

    fn unclear(&self) -> Reply<'static> {
        let sentence = format!(
            "the write is applied on this node and may still spread, but lost to a concurrent one before ack {} was reached, and others may have built on it; \
             read it before writing again",
            self.level
        );
        Reply::Error { code: ErrorCode::Timeout, sentence: sentence.into() }
    }

    fn unknown(&self) -> Reply<'static> {
        let (level, ms) = (self.level, self.services.config.ack_timeout.as_millis());
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
}

/// Puts the outcomes in the place of the replies that turned out to be false. Returns how many commands were not done.
pub(super) fn replace(replies: &mut Vec<u8>, pending: &[Pending], outcomes: Vec<Outcome>) -> usize {
    let mut replaced = Vec::with_capacity(replies.len());
    let (mut copied, mut failed) = (0, 0);
    for (command, outcome) in pending.iter().zip(outcomes) {
        let place = &command.place;
        let reply = match outcome {
            Outcome::Stands => continue,
            Outcome::Answer(reply) => reply,
            Outcome::Failed(reply) => {
                failed += 1;
                reply
            }
        };
        replaced.extend_from_slice(&replies[copied..place.reply.start]);
        place.wire.encode(&reply, &mut replaced);
        copied = place.reply.end;
    }
    replaced.extend_from_slice(&replies[copied..]);
    *replies = replaced;
    failed
}
