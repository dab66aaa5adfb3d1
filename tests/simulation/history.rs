//! The history of a run: what clients asked, wrote and were answered, and every version that was
//! ever issued.
//!
//! Versions are recorded where they leave the sequencer, so the history holds all of them, in the
//! order in which they were issued. It also holds what no node knows: which versions exist nowhere
//! any more, and when disks were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::simulation::Simulator;
use crate::simulation::clients::SimulatedCommand;
use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::{Entry, Key, Update};
use kvmesh::data::version::{Origin, Version, VersionVector};
use kvmesh::wire::ack_level::AckLevel;

/// The clocks are sampled no more often than this.
const APART_SAMPLE: Duration = Duration::from_millis(20);
/// How long before and after a sample the clocks count as apart.
const APART_SEEN: Duration = Duration::from_millis(300);

/// Everything that is recorded of a run.
#[derive(Default)]
pub struct RunHistory {
    /// All updates that were ever written, by key.
    pub keys: BTreeMap<Key, BTreeMap<Version, Update>>,
    pub rounds: Vec<ClientRound>,
    /// The stamps that each incarnation has issued, in rising order.
    written: BTreeMap<Origin, Vec<Stamp>>,
    /// Versions that a node holds as its own, and that have not left its sequencer yet.
    held_back: BTreeSet<Version>,
    /// Versions that no node knows any more. Their incarnation ended before they were on a disk, or
    /// its disk was lost.
    pub lost: BTreeSet<Version>,
    /// Lost versions that a node shows again, from an old copy of its disk, and the newest version
    /// of their key at that moment.
    pub returned: BTreeMap<Version, Version>,
    pub disk_losses: Vec<DiskLoss>,
    /// When a process started, or a suspended machine woke. Its clocks may be behind what they
    /// showed before.
    pub interruptions: Vec<(usize, Duration)>,
    /// When a stamp clock was ahead of another node's reference clock by more than half of what is
    /// allowed. Beyond that no node raises its clock, and the order of writes is not promised.
    apart: Vec<Duration>,
    /// How often clients asked each counter to count.
    counts: BTreeMap<Key, u64>,
    /// The version of each value, of the values that are written once.
    values: BTreeMap<(Key, Vec<u8>), Version>,
    /// The newest version that readers of an incarnation were shown, by machine, incarnation and
    /// key.
    shown: BTreeMap<(usize, u64, Key), Version>,
}

/// A round of a client: commands that were sent together.
pub struct ClientRound {
    pub machine: usize,
    pub level: AckLevel,
    pub began: Duration,
    /// When the replies came. `None` until then, and for ever if the connection broke.
    pub answered: Option<Duration>,
    pub commands: Vec<SimulatedCommand>,
    /// One outcome for each command.
    pub outcomes: Vec<ReplyOutcome>,
    /// The last version that the round has issued, by key.
    pub writes: BTreeMap<Key, Version>,
    /// The value that the store held for each read of the round, by the index of the command.
    pub reads: Vec<(usize, Option<Vec<u8>>)>,
}

/// The keys that a command concerns, and what it may do to them.
pub struct Footprint {
    pub keys: Vec<Key>,
    pub may_write: bool,
    /// The command adds one.
    pub counts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyOutcome {
    /// Done, with the value of the reply if it has one.
    Done(Option<Vec<u8>>),
    /// The command may write, and its reply says that there was nothing to write.
    Nothing,
    /// Refused, with the code of the error.
    Refused(String),
    Unknown,
}

/// A member has lost what was on its disk, or the end of it. The loss lasts until the member has
/// caught up.
pub struct DiskLoss {
    pub machine: usize,
    pub at: Duration,
    /// The vector of the member when it lost its disk.
    pub vector: VersionVector,
    pub until: Option<Duration>,
}

impl Footprint {
    pub fn write(keys: &[&str]) -> Footprint {
        Footprint { keys: keys.iter().map(|key| Key::from(key.as_bytes())).collect(), may_write: true, counts: false }
    }

    pub fn read(key: &str) -> Footprint {
        Footprint { keys: vec![key.as_bytes().into()], may_write: false, counts: false }
    }

    pub fn count(key: &str) -> Footprint {
        Footprint { counts: true, ..Footprint::write(&[key]) }
    }
}

impl ClientRound {
    /// The keys that were written, with their versions, where all commands that concern the key are
    /// done.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&Key, Version)> {
        self.writes.iter().filter(|(key, _)| self.is_done(key)).map(|(key, version)| (key, *version))
    }

    fn is_done(&self, key: &Key) -> bool {
        let mut outcomes = self.commands.iter().zip(&self.outcomes).filter(|(command, _)| command.footprint.concerns(key));
        self.answered.is_some() && outcomes.all(|(_, outcome)| matches!(outcome, ReplyOutcome::Done(_)))
    }
}

impl Footprint {
    fn concerns(&self, key: &Key) -> bool {
        self.may_write && self.keys.contains(key)
    }
}

impl RunHistory {
    pub fn next_round(&self) -> usize {
        self.rounds.len()
    }

    pub fn record_round(&mut self, machine: usize, level: AckLevel, began: Duration, commands: Vec<SimulatedCommand>) {
        for command in commands.iter().filter(|command| command.footprint.counts) {
            command.footprint.keys.iter().for_each(|key| *self.counts.entry(Key::clone(key)).or_default() += 1);
        }
        let (outcomes, writes, reads) = (Vec::new(), BTreeMap::new(), Vec::new());
        self.rounds.push(ClientRound { machine, level, began, answered: None, commands, outcomes, writes, reads });
    }

    pub fn record_replies(&mut self, round: usize, answered: Duration, outcomes: Vec<ReplyOutcome>) {
        self.rounds[round].answered = Some(answered);
        self.rounds[round].outcomes = outcomes;
    }

    pub fn commands(&self, round: usize) -> &[SimulatedCommand] {
        &self.rounds[round].commands
    }

    /// Records a version that was issued. `is_sent`: it has left the sequencer; otherwise only its
    /// own node holds it so far. Returns the check that it violates, and how.
    pub fn record(&mut self, entry: &Entry, round: Option<usize>, is_sent: bool) -> Option<(&'static str, String)> {
        let (key, version) = (entry.shared_key(), entry.version());
        if is_sent && self.held_back.remove(&version) {
            return None;
        }
        let wrong = self.written_twice(entry);
        if !is_sent {
            self.held_back.insert(version);
        }
        if let Some(round) = round {
            self.rounds[round].writes.insert(Key::clone(&key), version);
        }
        self.written.entry(version.origin).or_default().push(version.stamp);
        if self.keys.entry(key).or_default().insert(version, Update::again(entry)).is_some() {
            return Some(("versions-are-unique", format!("{version:?} was issued twice")));
        }
        wrong
    }

    /// Checks what must take effect once: each write of a register, each piece of a list, each
    /// count.
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

    fn keys_of(&self, round: usize) -> Vec<Key> {
        let commands = self.rounds[round].commands.iter();
        commands.filter(|command| command.footprint.may_write).flat_map(|command| command.footprint.keys.iter().cloned()).collect()
    }

    fn knows(&self, key: &Key, version: Version) -> bool {
        self.keys.get(key).is_some_and(|versions| versions.contains_key(&version))
    }

    /// Records what readers of an incarnation are shown. Returns what they were shown before, if
    /// that was newer.
    pub fn show(&mut self, machine: usize, incarnation: u64, key: &Key, version: Version) -> Option<Version> {
        let shown = self.shown.entry((machine, incarnation, Key::clone(key))).or_insert(version);
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
        // The clocks are sampled only now and then.
        self.apart.iter().any(|at| *at + APART_SEEN > from && *at < to + APART_SEEN)
    }

    /// Returns a violation if readers of this incarnation were shown a newer version than the one
    /// that is written now.
    fn overtaken(&self, machine: usize, incarnation: u64, entry: &Entry) -> Option<(&'static str, String)> {
        let shown = self.shown.get(&(machine, incarnation, entry.shared_key()))?;
        (*shown >= entry.version()).then(|| ("what-was-read-is-passed", format!("{entry:?} was written after {shown:?} had been read")))
    }

    /// Records that a node shows a version that was lost.
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

    /// Records as lost what ended incarnations have issued and none of these vectors covers.
    fn note_lost(&mut self, known: &[VersionVector], is_running: impl Fn(Origin) -> bool) {
        for (origin, stamps) in self.written.iter_mut().filter(|(origin, _)| !is_running(**origin)) {
            let covered = known.iter().map(|vector| vector.get(*origin)).max().unwrap_or(Stamp::ZERO);
            let first = stamps.iter().position(|stamp| *stamp > covered).unwrap_or(stamps.len());
            self.lost.extend(stamps.drain(first..).map(|stamp| Version { stamp, origin: *origin }));
        }
    }
}

impl Simulator<'_> {
    /// Passes what was submitted at a machine on to its replicator, and records it: as written by
    /// this round, or by none.
    pub fn note_submitted(&mut self, machine: usize, round: Option<usize>) {
        let Some(running) = self.machines[machine].running.as_ref() else { return };
        let (replica, mut wrong) = (running.replica(), None);
        let incarnation = running.process.incarnation;
        while let Ok(submitted) = running.submit_rx.try_recv() {
            // The history has the entry as the client's node holds it, whatever is sent to peers.
            let version = submitted.entry.version();
            if let Some(diagram) = &mut self.diagram {
                diagram.name(&submitted.entry);
            }
            let held = replica.store().entry(submitted.entry.key()).filter(|entry| entry.version() == version);
            let found = self.history.record(held.as_ref().unwrap_or(&submitted.entry), round, true);
            let found = found.or_else(|| self.history.overtaken(machine, incarnation, &submitted.entry));
            wrong = wrong.or(found);
            // Cannot fail: this incarnation holds the other end.
            let _ = running.write_tx.send(submitted);
        }
        // An entry that clients can read is written, even if it has not been sent.
        for key in round.map(|round| self.history.keys_of(round)).unwrap_or_default() {
            let own = replica.store().entry(&key).filter(|entry| entry.version().origin == replica.origin());
            if let Some(entry) = own.filter(|entry| !self.history.knows(&key, entry.version())) {
                wrong = wrong.or(self.history.record(&entry, round, false));
            }
        }
        if let Some((check, what)) = wrong {
            self.violate(check, what);
        }
    }

    /// Records which versions of earlier incarnations exist nowhere any more. Called after a start.
    pub fn note_lost(&mut self) {
        let known: Vec<VersionVector> = self.machines.iter().map(|machine| machine.known()).collect();
        let alive: Vec<Origin> = self.machines.iter().filter_map(|machine| Some(machine.running.as_ref()?.replica().origin())).collect();
        self.history.note_lost(&known, |origin| alive.contains(&origin));
    }
}
