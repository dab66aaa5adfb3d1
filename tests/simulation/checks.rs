//! The checks: what must be true of every run, whatever happens in it.
//!
//! Nodes are checked against the full history of the run, which no node has. The checks know the
//! promises (GUARANTEES.md) and the invariants, and nothing of how these are kept.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::simulation::history::{ClientRound, DiskLoss, ReplyOutcome};
use crate::simulation::{Simulator, SimulatorEvent};
use kvmesh::data::clock::Clocks;
use kvmesh::data::entry::{Entry, Key, Update};
use kvmesh::data::version::{Version, VersionVector};
use kvmesh::replication::peers::recovery::Stage;
use kvmesh::replication::status;
use kvmesh::store::Store;
use kvmesh::wire::ack_level::AckLevel;

/// The names of all checks, and what each requires.
pub const CHECKS: [(&str, &str); 21] = [
    ("vectors-hold", "a node holds each version that its vector claims, or a greater one, or what was deleted or has expired since (I1)"),
    ("deleted-stays-deleted", "no node shows what a delete that it knows of has deleted"),
    ("forgotten-when-complete", "a node forgets a delete only when it has received all that the delete deleted (I6 a)"),
    ("nothing-invented", "every entry was written by a client, under its key and version"),
    ("versions-are-unique", "no version is issued twice"),
    ("reads-never-go-back", "readers of one incarnation of a node are never shown an older version than before"),
    ("reads-are-true", "a GET answers what its node holds"),
    ("refused-left-nothing", "a command that was refused at once has written nothing"),
    ("acknowledged-kept", "every acknowledged write is there, or superseded, unless only its level's promise was lost with a disk"),
    (
        "later-acknowledged-wins",
        "of two writes acknowledged at majority, the one that began more than D after the other was acknowledged wins (I8)",
    ),
    ("what-was-read-is-passed", "a write is newer than what was read of its key at its node before (I8)"),
    ("takes-effect-once", "each write of a register is written under one version (I8)"),
    ("appended-once", "what an APPEND appends is in a value at most once"),
    ("counts-at-most", "a counter counts no more than was asked for"),
    ("pairs-are-whole", "two keys that a node writes in one step are shown so, as long as no other node writes them"),
    ("clocks-are-not-driven", "no stamp clock runs ahead of all reference clocks by more than its rate allows (I9)"),
    ("converges", "once everything is mended, all nodes are open, with equal vectors and equal data"),
    ("tombstones-go", "once all nodes have been equal for long enough, no tombstone is left, and the data is still equal"),
    ("starts", "a node starts on whatever a crash has left of its disk"),
    ("replies", "every request has one reply, in order, and a whole dump is restored"),
    ("no-panic", "no shipped code panics, and every run ends"),
];

/// Whatever does not expire during a run expires later than this.
pub const FAR_MS: u64 = 3_600_000;

/// The greatest lead of its sender's clock at which an ack still counts.
const ACK_LEAD: Duration = Duration::from_millis(50);
/// The most that a stamp clock may run ahead in a run while its node's oscillator is too fast.
const DRIVEN_US_MAX: i64 = 100_000;

/// A check that was not met, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The name of the check, one of [`CHECKS`].
    pub check: &'static str,
    pub what: String,
    /// Time since the run began.
    pub at: Duration,
}

/// The result of checking one key on one node.
enum ClaimCheck {
    Holds,
    /// The name of the violated check, and how it was violated.
    Violated(&'static str, String),
}

impl ClaimCheck {
    fn violation(self) -> Option<(&'static str, String)> {
        match self {
            ClaimCheck::Holds => None,
            ClaimCheck::Violated(check, what) => Some((check, what)),
        }
    }
}

impl Simulator<'_> {
    /// Checks every node that runs. May be called at any moment.
    pub fn check_now(&mut self) {
        (0..self.plan.nodes).for_each(|id| self.check_machine(id));
    }

    /// Checks one node: what its version vector claims, what it holds, and its clocks.
    pub fn check_machine(&mut self, id: usize) {
        let walls = self.machines.iter().filter(|machine| !machine.clock.is_bad).map(|machine| machine.wall_ms(self.now));
        self.latest_wall_ms = walls.fold(self.latest_wall_ms, u64::max);
        let Some(running) = self.running(id) else { return };
        let (vector, store) = (running.replica().vector(), running.replica().store());
        let (origin, process_now) = (running.replica().origin(), self.now_at(id));
        let lead_us = |clock_us: u64| clock_us as i64 - self.now.as_micros() as i64;
        let clocks = running.replica().clock().read(process_now.elapsed);
        let all = (0..self.plan.nodes).filter_map(|other| Some(self.running(other)?.replica().clock().read(self.now_at(other).elapsed)));
        let (mut fastest_us, mut slowest_us, mut greatest_us) = (self.fastest_us, i64::MAX, i64::MIN);
        for Clocks { reference_us, stamp_us } in all {
            (fastest_us, slowest_us) = (fastest_us.max(lead_us(reference_us)), slowest_us.min(lead_us(reference_us)));
            greatest_us = greatest_us.max(lead_us(stamp_us));
        }
        let are_apart = greatest_us - slowest_us > self.plan.clock_offset_max().as_micros() as i64 / 2;
        let driven_us = lead_us(clocks.stamp_us) - fastest_us;
        let torn = (0..self.plan.keys).filter(|pair| *pair as usize % self.plan.nodes == id).find_map(|pair| {
            let part = |name: char| store.entry(format!("p{pair}{name}").as_bytes()).filter(|entry| entry.version().origin == origin);
            part('a').zip(part('b')).filter(|(one, other)| one.value() != other.value())
        });
        let held = self.history.keys.iter().map(|(key, versions)| self.check_key(key, versions, store.entry(key).as_ref(), &vector));
        let fault = held.filter_map(ClaimCheck::violation).next();
        self.fastest_us = fastest_us;
        if are_apart {
            self.history.note_apart(self.now);
        }
        let shown = self.history.keys.keys().filter_map(|key| Some((key, store.entry(key)?.version())));
        let returned: Vec<(Key, Version)> =
            shown.filter(|(_, version)| self.history.lost.contains(version)).map(|(key, version)| (Key::clone(key), version)).collect();
        returned.iter().for_each(|(key, version)| self.history.note_returned(key, *version));
        if let Some((check, what)) = fault {
            self.violate(check, format!("node {}: {what}", id + 1));
        }
        if let Some(torn) = torn {
            self.violate("pairs-are-whole", format!("node {}: {torn:?}", id + 1));
        }
        if driven_us > DRIVEN_US_MAX {
            self.violate("clocks-are-not-driven", format!("node {}: its stamp clock is {driven_us} µs ahead of the fastest", id + 1));
        }
    }

    fn check_key(&self, key: &Key, versions: &BTreeMap<Version, Update>, entry: Option<&Entry>, vector: &VersionVector) -> ClaimCheck {
        let name = key.escape_ascii();
        if let Some(entry) = entry {
            let Some(written) = versions.get(&entry.version()) else {
                return ClaimCheck::Violated("nothing-invented", format!("key {name}: no client wrote {entry:?}"));
            };
            let is_spent = entry.value().is_none() && self.has_expired(written);
            if (entry.value(), entry.expires()) != (written.entry().value(), written.entry().expires()) && !is_spent {
                return ClaimCheck::Violated("nothing-invented", format!("key {name}: holds {entry:?}, but {written:?} was written"));
            }
        }
        let is_over = |update: &Update| update.is_delete() || self.has_expired(update);
        let Some((claimed, update)) = versions.iter().rev().find(|(version, _)| self.claims(vector, **version)) else {
            return ClaimCheck::Holds;
        };
        match entry {
            Some(entry) if entry.version() >= *claimed => ClaimCheck::Holds,
            Some(entry) if is_over(update) && self.is_of_a_lost_disk(entry.version(), *claimed) => ClaimCheck::Holds,
            Some(entry) if update.is_delete() && !entry.is_tombstone() => ClaimCheck::Violated(
                "deleted-stays-deleted",
                format!("key {name}: {entry:?} is there, although {claimed:?} has deleted it"),
            ),
            Some(entry) => ClaimCheck::Violated("vectors-hold", format!("key {name}: claims {claimed:?}, {update:?}, but holds {entry:?}")),
            None if update.is_delete() && self.lacks_older(versions, *claimed, vector) => ClaimCheck::Violated(
                "forgotten-when-complete",
                format!("key {name}: the delete {claimed:?} is forgotten, but not all that it deleted is here"),
            ),
            None => {
                if versions.range(claimed..).any(|(_, update)| is_over(update)) {
                    ClaimCheck::Holds
                } else {
                    ClaimCheck::Violated("vectors-hold", format!("key {name}: claims {claimed:?}, {update:?}, but holds nothing"))
                }
            }
        }
    }

    /// True if the vector claims that the node holds this version or a greater one. A folded entry
    /// of the vector claims nothing about writes that were lost.
    fn claims(&self, vector: &VersionVector, version: Version) -> bool {
        let is_named = || vector.incarnations(version.origin.node).any(|(incarnation, _)| incarnation == version.origin);
        vector.covers(version) && (!self.history.lost.contains(&version) || is_named())
    }

    /// True for the one exception in GUARANTEES.md: a write that existed only on a lost disk
    /// returns with an old copy of that disk, although a node knows a newer delete. Whatever is
    /// deleted after its return stays deleted like everything else.
    fn is_of_a_lost_disk(&self, shown: Version, deleted: Version) -> bool {
        self.history.lost.contains(&shown) && self.history.returned.get(&shown).is_none_or(|last| deleted <= *last)
    }

    /// True if the vector lacks an older value that some node may still bring.
    fn lacks_older(&self, versions: &BTreeMap<Version, Update>, version: Version, vector: &VersionVector) -> bool {
        let mut older = versions.range(..version);
        older.any(|(older, update)| !vector.covers(*older) && !update.is_delete() && !self.history.lost.contains(older))
    }

    /// True if the update has expired by some correct clock at some time.
    fn has_expired(&self, update: &Update) -> bool {
        update.entry().expires().is_some_and(|expires| expires.is_over(self.latest_wall_ms))
    }

    /// Records what the reads of a round find, just after the round was executed, and checks that
    /// they do not go back.
    pub fn check_reads(&mut self, round: usize, machine: usize) {
        let Some(running) = self.running(machine) else { return };
        let (process, store) = (running.process, running.replica().store());
        let wall_ms = self.machines[machine].wall_ms(self.now);
        let asked = &self.history.rounds[round];
        let is_written = |key: &Key| asked.writes.contains_key(key);
        let read = asked.commands.iter().enumerate().filter(|(_, command)| !command.footprint.may_write);
        let reads: Vec<(usize, Key, Option<Entry>)> = read
            .flat_map(|(index, command)| command.footprint.keys.iter().map(move |key| (index, key)))
            .filter(|(_, key)| !is_written(key))
            .map(|(index, key)| (index, Key::clone(key), store.entry(key)))
            .collect();
        for (index, key, entry) in reads {
            let value = entry.as_ref().filter(|entry| entry.is_live(|| wall_ms)).and_then(|entry| entry.value());
            let value = value.map(|value| value.to_vec());
            self.history.rounds[round].reads.push((index, value));
            let Some(entry) = entry else { continue };
            if let Some(newer) = self.history.show(machine, process.incarnation, &key, entry.version()) {
                let what = format!("node {}, key {}: {:?} after {newer:?}", machine + 1, key.escape_ascii(), entry.version());
                self.violate("reads-never-go-back", what);
            }
        }
    }

    /// Checks the replies of a round against what its reads found and its writes wrote.
    pub fn check_replies(&mut self, round: usize, machine: usize, outcomes: &[ReplyOutcome]) {
        let asked = &self.history.rounds[round];
        let mut found = None;
        for (index, value) in &asked.reads {
            let is_true = match &outcomes[*index] {
                ReplyOutcome::Done(read) => read == value,
                ReplyOutcome::Refused(code) => code != "NOTFOUND" || value.is_none(),
                ReplyOutcome::Unknown | ReplyOutcome::Nothing => false,
            };
            if !is_true {
                found = Some(("reads-are-true", format!("command {index} answers {:?}, but {value:?} was there", outcomes[*index])));
            }
        }
        for (index, (command, outcome)) in asked.commands.iter().zip(outcomes).enumerate() {
            let ReplyOutcome::Refused(code) = outcome else { continue };
            let at_once = ["NOQUORUM", "READONLY", "LOADING", "BUSY", "FULL"].contains(&code.as_str());
            let others = asked.commands.iter().zip(outcomes);
            let others = others.filter(|(other, outcome)| other.footprint.may_write && !matches!(outcome, ReplyOutcome::Refused(_)));
            let keys: Vec<&Key> = others.flat_map(|(other, _)| &other.footprint.keys).collect();
            let wrote = command.footprint.keys.iter().find(|key| asked.writes.contains_key(*key) && !keys.contains(key));
            if let (true, Some(key)) = (at_once, wrote) {
                found = Some((
                    "refused-left-nothing",
                    format!("command {index} was refused with {code}, but wrote key {}", key.escape_ascii()),
                ));
            }
        }
        if let Some((check, what)) = found {
            self.violate(check, format!("node {}, round {round}: {what}", machine + 1));
        }
    }

    pub fn is_converged(&self) -> bool {
        let Some(first) = self.running(0).map(|running| running.replica()) else { return false };
        // Each node drops what expires before this in its own time.
        let soon = self.machines[0].wall_ms(self.now) + FAR_MS / 2;
        let (vector, digest) = (first.vector(), first.store().digest(soon));
        self.machines.iter().all(|machine| {
            machine.running.as_ref().is_some_and(|running| {
                matches!(running.replica().stage(), Stage::Open { degraded: false })
                    && running.is_healthy()
                    && running.write_rx.is_empty()
                    && running.replica().vector() == vector
                    && running.replica().store().digest(soon) == digest
            })
        })
    }

    /// Checks a run that is healed, and waits until all tombstones are collected and the data is
    /// still equal.
    pub fn check_healed(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.check_now();
        if self.running(0).is_some_and(|running| running.replica().vector().iter().any(|(origin, _)| origin.is_all_incarnations())) {
            self.count("runs in which incarnations were folded");
        }
        self.check_acknowledged();
        self.check_order();
        let deadline = self.now + 3 * self.plan.tombstone_patience() + Duration::from_secs(30);
        while self.violation.is_none() {
            let until = self.now + Duration::from_secs(1);
            self.after(Duration::from_secs(1), SimulatorEvent::Check);
            self.run_until(|simulator| simulator.now >= until);
            let left = self.tombstones();
            if left == 0 && self.is_converged() {
                break;
            }
            if self.now > deadline {
                let states = self.describe();
                self.violate("tombstones-go", format!("{left} tombstones are left: {states}"));
            }
        }
        self.check_now();
    }

    /// Counts the tombstones on all nodes. Tombstones of an incarnation that ended before any
    /// vector covered them do not count: no node can prove that they are everywhere, so they stay.
    fn tombstones(&self) -> usize {
        let of = |store: &Store| {
            let entries = self.history.keys.keys().filter_map(|key| store.entry(key));
            entries.filter(|entry| entry.is_tombstone() && !self.history.lost.contains(&entry.version())).count()
        };
        self.machines.iter().filter_map(|machine| Some(of(machine.running.as_ref()?.replica().store()))).sum()
    }

    fn check_acknowledged(&mut self) {
        let Some(vector) = self.running(0).map(|running| running.replica().vector()) else { return };
        let mut found = None;
        for (number, round) in self.history.rounds.iter().enumerate() {
            for (key, version) in round.acknowledged() {
                if !vector.covers(version) && !self.is_excused(round, version) {
                    let (key, level) = (key.escape_ascii(), round.level);
                    found.get_or_insert(format!(
                        "round {number}, acknowledged at {level}, wrote {version:?} to key {key}, which no node has"
                    ));
                }
            }
        }
        if let Some(what) = found {
            self.violate("acknowledged-kept", what);
        }
    }

    /// True if the write was promised to be on one node only, and that node's disk was lost.
    fn is_excused(&self, round: &ClientRound, version: Version) -> bool {
        let lost_with = |loss: &DiskLoss| loss.machine == round.machine && loss.vector.covers(version);
        round.level == AckLevel::Local && self.history.lost.contains(&version) && self.history.disk_losses.iter().any(lost_with)
    }

    /// Checks I8: each acknowledged write of a key against the greatest version that was
    /// acknowledged before it began.
    fn check_order(&mut self) {
        if self.plan.mixes_builds {
            // Acks of the build before carry no clock, and count whatever that clock was.
            return;
        }
        let mut writes: BTreeMap<&Key, Vec<AcknowledgedWrite>> = BTreeMap::new();
        for round in self.history.rounds.iter().filter(|round| round.level != AckLevel::Local) {
            let Some(answered) = round.answered else { continue };
            for (key, version) in round.acknowledged() {
                writes.entry(key).or_default().push(AcknowledgedWrite { machine: round.machine, began: round.began, answered, version });
            }
        }
        let mut found = None;
        for (key, writes) in &writes {
            for later in writes {
                let superseded_by = writes.iter().find(|earlier| {
                    // The time that the later write's acks may have taken, and the difference of
                    // two clocks.
                    let allowed = (later.answered - later.began) + ACK_LEAD + later.answered.saturating_sub(earlier.began) / 500;
                    earlier.answered + allowed < later.began
                        && earlier.version > later.version
                        && !self.lost_disk_between(earlier.answered, later.answered)
                        && !self.interrupted_between(earlier.began, later)
                        && !self.history.were_apart(earlier.began, later.answered)
                });
                if let Some(earlier) = superseded_by {
                    let key = key.escape_ascii();
                    found.get_or_insert(format!("key {key}: {later:?} lost to {earlier:?}, which was acknowledged before the other began"));
                }
            }
        }
        if let Some(what) = found {
            self.violate("later-acknowledged-wins", what);
        }
    }

    /// True if a member was restarted or suspended between the two acks: it may be the only one
    /// that gave both. What happened to the node of the later write is no excuse.
    fn interrupted_between(&self, from: Duration, later: &AcknowledgedWrite) -> bool {
        let mut others = self.history.interruptions.iter().filter(|(machine, _)| *machine != later.machine);
        others.any(|(_, at)| *at >= from && *at <= later.answered)
    }

    /// True if a member had lost its disk between the two acks. It may acknowledge a write that
    /// loses to one which only an absent member still holds: GUARANTEES.md names this exception.
    fn lost_disk_between(&self, from: Duration, to: Duration) -> bool {
        self.history.disk_losses.iter().any(|loss| loss.at <= to && loss.until.is_none_or(|until| until >= from))
    }

    /// Describes all nodes, for a person who has to find out why a run failed.
    pub fn describe(&self) -> String {
        let states = self.machines.iter().enumerate().map(|(id, machine)| match &machine.running {
            Some(running) => {
                let soon = machine.wall_ms(self.now) + FAR_MS / 2;
                let digest = running.replica().store().digest(soon);
                let (replica, now) = (running.replica(), self.now_at(id));
                let status: Vec<String> = status::status(replica, now).iter().map(|(name, value)| format!("{name} {value}")).collect();
                format!(
                    "\nnode {}: {digest:?}, {} writes not forwarded, {}\n  {}",
                    id + 1,
                    running.write_rx.len(),
                    status.join(", "),
                    status::peers(replica, now).join("\n  ")
                )
            }
            None => format!("\nnode {}: down", id + 1),
        });
        let waiting = self.clients.iter().filter(|client| !client.is_idle()).count();
        format!("{waiting} clients wait{}", states.collect::<String>())
    }
}

#[derive(Clone, Copy, Debug)]
struct AcknowledgedWrite {
    machine: usize,
    began: Duration,
    answered: Duration,
    version: Version,
}
