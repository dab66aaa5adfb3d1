//! What clients asked, wrote and heard, and what the nodes made of it: every version that was ever issued.
//!
//! Versions are seen where they leave the sequencer, so the history holds all of them, in the order in which they were issued. What is known of a run that no node knows: which versions are nowhere
//! any more, and when disks were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::simulation::Simulation;
use crate::simulation::clients::Command;
use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::{Entry, Key, Update};
use kvmesh::data::version::{Origin, Version, VersionVector};
use kvmesh::wire::ack_level::AckLevel;

const APART_SAMPLE: Duration = Duration::from_millis(20);
const APART_SEEN: Duration = Duration::from_millis(300);

#[derive(Default)]
pub struct History {
    /// Of each key, everything that was ever written under it.
    pub keys: BTreeMap<Key, BTreeMap<Version, Update>>,
    pub operations: Vec<Operation>,
    /// What each incarnation has written, in rising order.
    written: BTreeMap<Origin, Vec<Stamp>>,
    /// Versions that a node holds as its own, and that have not left its sequencer yet.
    held_back: BTreeSet<Version>,
    /// Versions that no node knows any more: of an incarnation that ended before they were on a disk, or whose disk was lost.
    pub lost: BTreeSet<Version>,
    /// Those of them that a node shows again, out of an old copy, and the last version that was there of their key by then.
    pub returned: BTreeMap<Version, Version>,
    pub disk_losses: Vec<DiskLoss>,
    /// When a process began, or a machine woke that had been suspended: its clocks may be behind what they showed before.
    pub interruptions: Vec<(usize, Duration)>,
    /// When a stamp clock was further ahead of another node's reference clock than half of what is allowed: beyond that no floor is taken, and the order of writes is not promised.
    apart: Vec<Duration>,
    /// How often each counter was asked to count.
    counts: BTreeMap<Key, u64>,
    /// Under which version each value stands, of those that are written once.
    values: BTreeMap<(Key, Vec<u8>), Version>,
    /// The newest version that readers of an incarnation have been shown.
    shown: BTreeMap<(usize, u64, Key), Version>,
}

/// A round of a client.
pub struct Operation {
    pub machine: usize,
    pub level: AckLevel,
    pub began: Duration,
    /// `None` as long as nothing was heard; for ever, if the connection broke.
    pub heard: Option<Duration>,
    pub commands: Vec<Command>,
    /// Of each command.
    pub outcomes: Vec<Outcome>,
    /// The last version that was issued for it under each key.
    pub writes: BTreeMap<Key, Version>,
    /// What the store held for the reads of it, by their place among the commands.
    pub reads: Vec<(usize, Option<Vec<u8>>)>,
}

/// What a command concerns.
pub struct Asked {
    pub keys: Vec<Key>,
    pub may_write: bool,
    /// It adds one.
    pub counts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the value of the reply, if it has one.
    Done(Option<Vec<u8>>),
    /// It was to write, and says that there was nothing to write; also when it had written before, lost, and was judged again.
    Nothing,
    /// With the code of the error.
    Refused(String),
    Unknown,
}

/// A member that has lost what was on its disk, or the end of it; until it has caught up.
pub struct DiskLoss {
    pub machine: usize,
    pub at: Duration,
    /// What it knew until then.
    pub vector: VersionVector,
    pub until: Option<Duration>,
}

impl Asked {
    pub fn write(keys: &[&str]) -> Asked {
        Asked { keys: keys.iter().map(|key| Key::from(key.as_bytes())).collect(), may_write: true, counts: false }
    }

    pub fn read(key: &str) -> Asked {
        Asked { keys: vec![key.as_bytes().into()], may_write: false, counts: false }
    }

    pub fn count(key: &str) -> Asked {
        Asked { counts: true, ..Asked::write(&[key]) }
    }
}

impl Operation {
    /// The version under which a key was written, if all commands that concern it are done.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&Key, Version)> {
        self.writes.iter().filter(|(key, _)| self.is_done(key)).map(|(key, version)| (key, *version))
    }

    fn is_done(&self, key: &Key) -> bool {
        let mut outcomes = self.commands.iter().zip(&self.outcomes).filter(|(command, _)| command.asked.concerns(key));
        self.heard.is_some() && outcomes.all(|(_, outcome)| matches!(outcome, Outcome::Done(_)))
    }
}

impl Asked {
    fn concerns(&self, key: &Key) -> bool {
        self.may_write && self.keys.contains(key)
    }
}

impl History {
    pub fn next_operation(&self) -> usize {
        self.operations.len()
    }

    pub fn ask(&mut self, machine: usize, level: AckLevel, began: Duration, commands: Vec<Command>) {
        for command in commands.iter().filter(|command| command.asked.counts) {
            command.asked.keys.iter().for_each(|key| *self.counts.entry(Key::clone(key)).or_default() += 1);
        }
        let (outcomes, writes, reads) = (Vec::new(), BTreeMap::new(), Vec::new());
        self.operations.push(Operation { machine, level, began, heard: None, commands, outcomes, writes, reads });
    }

    pub fn hear(&mut self, operation: usize, heard: Duration, outcomes: Vec<Outcome>) {
        self.operations[operation].heard = Some(heard);
        self.operations[operation].outcomes = outcomes;
    }

    pub fn commands(&self, operation: usize) -> &[Command] {
        &self.operations[operation].commands
    }

    /// A version was issued: it is on its way, or is only held by its node so far. What is wrong with it, and the check that says so.
    pub fn record(&mut self, entry: &Entry, operation: Option<usize>, is_sent: bool) -> Option<(&'static str, String)> {
        let (key, version) = (entry.shared_key(), entry.version());
        if is_sent && self.held_back.remove(&version) {
            return None;
        }
        let wrong = self.written_twice(entry);
        if !is_sent {
            self.held_back.insert(version);
        }
        if let Some(operation) = operation {
            self.operations[operation].writes.insert(Key::clone(&key), version);
        }
        self.written.entry(version.origin).or_default().push(version.stamp);
        if self.keys.entry(key).or_default().insert(version, Update::again(entry)).is_some() {
            return Some(("versions-are-unique", format!("{version:?} was issued twice")));
        }
        wrong
    }

    /// What is to take effect once: each write of a register, each piece of a list, each count.
    fn written_twice(&mut self, entry: &Entry) -> Option<(&'static str, String)> {
        let (key, value) = (entry.shared_key(), entry.value()?);
        let text = || format!("key {}: {entry:?}", key.escape_ascii());
        match key.first() {
            Some(b'r' | b'p') => {
                let before = self.values.insert((Key::clone(&key), value.to_vec()), entry.version());
                before.map(|before| ("takes-effect-once", format!("{}, which was written as {before:?}", text())))
            }
            Some(b'l') => {
                let pieces: Vec<&[u8]> = value.split(|byte| *byte == b',').filter(|piece| !piece.is_empty()).collect();
                let distinct: BTreeSet<&[u8]> = pieces.iter().copied().collect();
                (distinct.len() < pieces.len()).then(|| ("appended-once", text()))
            }
            Some(b'n') => {
                let asked = self.counts.get(&key).copied().unwrap_or_default();
                let counted: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                (counted > asked).then(|| ("counts-at-most", format!("{}, and {asked} were asked for", text())))
            }
            _ => None,
        }
    }

    fn keys_of(&self, operation: usize) -> Vec<Key> {
        let commands = self.operations[operation].commands.iter();
        commands.filter(|command| command.asked.may_write).flat_map(|command| command.asked.keys.iter().cloned()).collect()
    }

    fn knows(&self, key: &Key, version: Version) -> bool {
        self.keys.get(key).is_some_and(|versions| versions.contains_key(&version))
    }

    /// What readers of an incarnation are shown now; what they were shown before, if that was newer.
    pub fn show(&mut self, machine: usize, life: u64, key: &Key, version: Version) -> Option<Version> {
        let shown = self.shown.entry((machine, life, Key::clone(key))).or_insert(version);
        let newer = (*shown > version).then_some(*shown);
        *shown = (*shown).max(version);
        newer
    }

    pub fn note_apart(&mut self, now: Duration) {
        if self.apart.last().is_none_or(|last| now - *last > APART_SAMPLE) {
            self.apart.push(now);
        }
    }

    pub fn were_apart(&self, from: Duration, to: Duration) -> bool {
        // It is looked at now and then only.
        self.apart.iter().any(|at| *at + APART_SEEN > from && *at < to + APART_SEEN)
    }

    /// Readers of this incarnation were shown something newer than what is written here now.
    fn overtaken(&self, machine: usize, life: u64, entry: &Entry) -> Option<(&'static str, String)> {
        let shown = self.shown.get(&(machine, life, entry.shared_key()))?;
        (*shown >= entry.version()).then(|| ("what-was-read-is-passed", format!("{entry:?} was written after {shown:?} had been read")))
    }

    /// A node shows this version, which was lost.
    pub fn note_returned(&mut self, key: &Key, version: Version) {
        if let Some((last, _)) = self.keys.get(key).and_then(|versions| versions.last_key_value()) {
            self.returned.entry(version).or_insert(*last);
        }
    }

    pub fn note_disk_lost(&mut self, machine: usize, at: Duration, vector: VersionVector) {
        self.disk_losses.push(DiskLoss { machine, at, vector, until: None });
    }

    pub fn note_caught_up(&mut self, machine: usize, now: Duration) {
        self.disk_losses.iter_mut().filter(|loss| loss.machine == machine && loss.until.is_none()).for_each(|loss| loss.until = Some(now));
    }

    /// Of the incarnations that have ended, what none of these vectors covers is nowhere any more.
    fn note_lost(&mut self, known: &[VersionVector], is_alive: impl Fn(Origin) -> bool) {
        for (origin, stamps) in self.written.iter_mut().filter(|(origin, _)| !is_alive(**origin)) {
            let covered = known.iter().map(|vector| vector.get(*origin)).max().unwrap_or(Stamp::ZERO);
            let first = stamps.iter().position(|stamp| *stamp > covered).unwrap_or(stamps.len());
            self.lost.extend(stamps.drain(first..).map(|stamp| Version { stamp, origin: *origin }));
        }
    }
}

impl Simulation<'_> {
    /// What has been submitted at a machine since this was asked last, for this operation or for nobody's, goes on to the replicator.
    pub fn note_submitted(&mut self, machine: usize, operation: Option<usize>) {
        let Some(life) = self.machines[machine].life.as_ref() else { return };
        let (replica, mut wrong) = (life.replica(), None);
        let life_number = life.process.life;
        while let Ok(submitted) = life.submit_rx.try_recv() {
            // As the client's node holds it, whatever travels.
            let version = submitted.entry.version();
            if let Some(diagram) = &mut self.diagram {
                diagram.name(&submitted.entry);
            }
            let held = replica.store().entry(submitted.entry.key()).filter(|entry| entry.version() == version);
            let found = self.history.record(held.as_ref().unwrap_or(&submitted.entry), operation, true);
            let found = found.or_else(|| self.history.overtaken(machine, life_number, &submitted.entry));
            wrong = wrong.or(found);
            // Cannot fail: this incarnation holds the other end.
            let _ = life.write_tx.send(submitted);
        }
        // What its clients can read is written, whether it has been sent or not.
        for key in operation.map(|operation| self.history.keys_of(operation)).unwrap_or_default() {
            let own = replica.store().entry(&key).filter(|entry| entry.version().origin == replica.origin());
            if let Some(entry) = own.filter(|entry| !self.history.knows(&key, entry.version())) {
                wrong = wrong.or(self.history.record(&entry, operation, false));
            }
        }
        if let Some((check, what)) = wrong {
            self.violate(check, what);
        }
    }

    /// After an incarnation has begun: what of former ones is nowhere any more.
    pub fn note_lost(&mut self) {
        let known: Vec<VersionVector> = self.machines.iter().map(|machine| machine.known()).collect();
        let alive: Vec<Origin> = self.machines.iter().filter_map(|machine| Some(machine.life.as_ref()?.replica().origin())).collect();
        self.history.note_lost(&known, |origin| alive.contains(&origin));
    }
}
