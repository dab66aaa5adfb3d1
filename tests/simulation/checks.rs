//! What must be true, whatever happens.
//!
//! Held against the full history, which no node has. Knows the promises (GUARANTEES.md) and the invariants, and nothing of how they are kept.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::simulation::history::{DiskLoss, Operation, Outcome};
use crate::simulation::{Event, Simulation};
use kvmesh::data::clock::Clocks;
use kvmesh::data::entry::{Entry, Key, Update};
use kvmesh::data::version::{Version, VersionVector};
use kvmesh::replication::peers::Stage;
use kvmesh::store::Store;
use kvmesh::wire::ack_level::AckLevel;

/// The checks, by name, and what each says.
pub const CHECKS: [(&str, &str); 21] = [
    ("vectors-hold", "a node that claims a version holds it, or a greater one, or what was deleted or has expired since (I1)"),
    ("deleted-stays-deleted", "no node shows what a delete that it knows of has taken away"),
    ("forgotten-when-complete", "a delete is forgotten only by who has all that it deleted (I6 a)"),
    ("nothing-invented", "every entry is one that somebody wrote, under its key and version"),
    ("versions-are-unique", "no version is issued twice"),
    ("reads-never-go-back", "readers of one life of a node are never shown an older version than before"),
    ("reads-are-true", "a GET answers what its node holds"),
    ("refused-left-nothing", "what was refused at once has written nothing"),
    ("acknowledged-kept", "every acknowledged write is there, or superseded, unless only its level's promise was lost with a disk"),
    (
        "later-acknowledged-wins",
        "of two writes acknowledged at majority the one that began more than D after the other was acknowledged wins (I8)",
    ),
    ("what-was-read-is-passed", "a write is newer than what was read of its key at its node before (I8)"),
    ("takes-effect-once", "what is written of a register is written under one version (I8)"),
    ("appended-once", "what an APPEND brings is in a value at most once"),
    ("counts-at-most", "a counter counts no more than was asked for"),
    ("pairs-are-whole", "two keys that a node writes in one step it shows so, as long as nobody else writes to them"),
    ("clocks-are-not-driven", "a stamp clock is ahead of no reference clock that there was by more than its rate"),
    ("converges", "once everything is mended all nodes are open, with equal vectors and equal data"),
    ("tombstones-go", "once all nodes have been equal for long enough no tombstone is left, and the data is still equal"),
    ("starts", "a node starts on whatever a crash has left of its disk"),
    ("replies", "every request has one reply, in order; what was whole is restored"),
    ("no-panic", "nothing of the shipped code panics, and every run ends"),
];

/// What does not expire in a run expires later than this.
pub const FAR_MS: u64 = 3_600_000;

/// An ack counts if its sender's clock is no further ahead.
const ACK_LEAD: Duration = Duration::from_millis(50);
/// What a stamp clock may run away by in a run, while its node's oscillator is too fast.
const DRIVEN_US_MAX: i64 = 100_000;

/// Something that was not as it must be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// By name, one of [`CHECKS`].
    pub check: &'static str,
    pub what: String,
    /// Since the run began.
    pub at: Duration,
}

/// What a node's claim of a key came to.
enum Held {
    Well,
    /// The check that has failed, and how.
    Badly(&'static str, String),
}

impl Held {
    fn fault(self) -> Option<(&'static str, String)> {
        match self {
            Held::Well => None,
            Held::Badly(check, what) => Some((check, what)),
        }
    }
}

impl Simulation<'_> {
    /// Of every node that runs, at any moment: what it claims it holds.
    pub fn check_now(&mut self) {
        (0..self.plan.nodes).for_each(|id| self.check_machine(id));
    }

    /// Of one of them.
    pub fn check_machine(&mut self, id: usize) {
        let walls = self.machines.iter().filter(|machine| !machine.clock.is_bad).map(|machine| machine.wall_ms(self.now));
        self.latest_wall_ms = walls.fold(self.latest_wall_ms, u64::max);
        let Some(life) = self.life(id) else { return };
        let (vector, store) = (life.replica().vector(), life.replica().store());
        let (origin, process_now) = (life.replica().origin(), self.now_at(id));
        let lead_us = |clock_us: u64| clock_us as i64 - self.now.as_micros() as i64;
        let clocks = life.replica().clock().read(process_now.elapsed);
        let all = (0..self.plan.nodes).filter_map(|other| Some(self.life(other)?.replica().clock().read(self.now_at(other).elapsed)));
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
        let fault = held.filter_map(Held::fault).next();
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

    fn check_key(&self, key: &Key, versions: &BTreeMap<Version, Update>, entry: Option<&Entry>, vector: &VersionVector) -> Held {
        let name = key.escape_ascii();
        if let Some(entry) = entry {
            let Some(written) = versions.get(&entry.version()) else {
                return Held::Badly("nothing-invented", format!("key {name}: nobody wrote {entry:?}"));
            };
            let is_spent = entry.value().is_none() && self.has_expired(written);
            if (entry.value(), entry.expires()) != (written.entry().value(), written.entry().expires()) && !is_spent {
                return Held::Badly("nothing-invented", format!("key {name}: holds {entry:?}, and what was written is {written:?}"));
            }
        }
        let is_over = |effect: &Update| effect.is_delete() || self.has_expired(effect);
        let Some((claimed, effect)) = versions.iter().rev().find(|(version, _)| self.claims(vector, **version)) else { return Held::Well };
        match entry {
            Some(entry) if entry.version() >= *claimed => Held::Well,
            Some(entry) if is_over(effect) && self.is_of_a_lost_disk(entry.version(), *claimed) => Held::Well,
            Some(entry) if effect.is_delete() && !entry.is_tombstone() => {
                Held::Badly("deleted-stays-deleted", format!("key {name}: {entry:?} is there, and {claimed:?} has deleted it"))
            }
            Some(entry) => Held::Badly("vectors-hold", format!("key {name}: claims {claimed:?}, {effect:?}, and holds {entry:?}")),
            None if effect.is_delete() && self.lacks_older(versions, *claimed, vector) => Held::Badly(
                "forgotten-when-complete",
                format!("key {name}: the delete {claimed:?} is forgotten, and what it deleted is not all here"),
            ),
            None => {
                if versions.range(claimed..).any(|(_, effect)| is_over(effect)) {
                    Held::Well
                } else {
                    Held::Badly("vectors-hold", format!("key {name}: claims {claimed:?}, {effect:?}, and holds nothing"))
                }
            }
        }
    }

    /// Whether a node says that it holds this version, or a greater one. Of incarnations that were folded that is not said of what was lost.
    fn claims(&self, vector: &VersionVector, version: Version) -> bool {
        let is_named = || vector.lives(version.origin.node).any(|(life, _)| life == version.origin);
        vector.covers(version) && (!self.history.lost.contains(&version) || is_named())
    }

    /// GUARANTEES.md excuses one thing: a write that was only on a disk that was lost comes back with an old copy of that disk, though a node knows a delete that is newer. What is deleted once it is back
    /// stays deleted like anything else.
    fn is_of_a_lost_disk(&self, shown: Version, deleted: Version) -> bool {
        self.history.lost.contains(&shown) && self.history.returned.get(&shown).is_none_or(|last| deleted <= *last)
    }

    /// Whether the vector lacks a value that is older than this version and that some node may still bring.
    fn lacks_older(&self, versions: &BTreeMap<Version, Update>, version: Version, vector: &VersionVector) -> bool {
        let mut older = versions.range(..version);
        older.any(|(older, effect)| !vector.covers(*older) && !effect.is_delete() && !self.history.lost.contains(older))
    }

    /// By some clock that was right, at some time.
    fn has_expired(&self, effect: &Update) -> bool {
        effect.entry().expires().is_some_and(|expires| expires.is_over(self.latest_wall_ms))
    }

    /// A round was executed: what its reads have found.
    pub fn check_asked(&mut self, operation: usize, machine: usize) {
        let Some(life) = self.life(machine) else { return };
        let (process, store) = (life.process, life.replica().store());
        let wall_ms = self.machines[machine].wall_ms(self.now);
        let asked = &self.history.operations[operation];
        let is_written = |key: &Key| asked.writes.contains_key(key);
        let read = asked.commands.iter().enumerate().filter(|(_, command)| !command.asked.may_write);
        let reads: Vec<(usize, Key, Option<Entry>)> = read
            .flat_map(|(place, command)| command.asked.keys.iter().map(move |key| (place, key)))
            .filter(|(_, key)| !is_written(key))
            .map(|(place, key)| (place, Key::clone(key), store.entry(key)))
            .collect();
        for (place, key, entry) in reads {
            let value = entry.as_ref().filter(|entry| entry.is_live(|| wall_ms)).and_then(|entry| entry.value());
            let value = value.map(|value| value.to_vec());
            self.history.operations[operation].reads.push((place, value));
            let Some(entry) = entry else { continue };
            if let Some(newer) = self.history.show(machine, process.life, &key, entry.version()) {
                let what = format!("node {}, key {}: {:?} after {newer:?}", machine + 1, key.escape_ascii(), entry.version());
                self.violate("reads-never-go-back", what);
            }
        }
    }

    /// The replies of a round are there.
    pub fn check_heard(&mut self, operation: usize, machine: usize, outcomes: &[Outcome]) {
        let asked = &self.history.operations[operation];
        let mut found = None;
        for (place, value) in &asked.reads {
            let is_true = match &outcomes[*place] {
                Outcome::Done(read) => read == value,
                Outcome::Refused(code) => code != "NOTFOUND" || value.is_none(),
                Outcome::Unknown | Outcome::Nothing => false,
            };
            if !is_true {
                found = Some(("reads-are-true", format!("command {place} answers {:?}, and there was {value:?}", outcomes[*place])));
            }
        }
        for (place, (command, outcome)) in asked.commands.iter().zip(outcomes).enumerate() {
            let Outcome::Refused(code) = outcome else { continue };
            let at_once = ["NOQUORUM", "READONLY", "LOADING", "BUSY", "FULL"].contains(&code.as_str());
            let others = asked.commands.iter().zip(outcomes);
            let others = others.filter(|(other, outcome)| other.asked.may_write && !matches!(outcome, Outcome::Refused(_)));
            let keys: Vec<&Key> = others.flat_map(|(other, _)| &other.asked.keys).collect();
            let wrote = command.asked.keys.iter().find(|key| asked.writes.contains_key(*key) && !keys.contains(key));
            if let (true, Some(key)) = (at_once, wrote) {
                found = Some(("refused-left-nothing", format!("command {place} heard {code}, and wrote key {}", key.escape_ascii())));
            }
        }
        if let Some((check, what)) = found {
            self.violate(check, format!("node {}, operation {operation}: {what}", machine + 1));
        }
    }

    pub fn is_converged(&self) -> bool {
        let Some(first) = self.life(0).map(|life| life.replica()) else { return false };
        // What expires before is let go by each in its time.
        let soon = self.machines[0].wall_ms(self.now) + FAR_MS / 2;
        let (vector, digest) = (first.vector(), first.store().digest(soon));
        self.machines.iter().all(|machine| {
            machine.life.as_ref().is_some_and(|life| {
                matches!(life.replica().stage(), Stage::Open { degraded: false })
                    && life.is_well()
                    && life.write_rx.is_empty()
                    && life.replica().vector() == vector
                    && life.replica().store().digest(soon) == digest
            })
        })
    }

    /// All is healed and equal: what must be true now, and stay true when what is over has been forgotten.
    pub fn check_healed(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.check_now();
        if self.life(0).is_some_and(|life| life.replica().vector().iter().any(|(origin, _)| origin.is_all_incarnations())) {
            self.count("runs in which lives were folded");
        }
        self.check_acknowledged();
        self.check_order();
        let deadline = self.now + 3 * self.plan.tombstone_patience() + Duration::from_secs(30);
        while self.violation.is_none() {
            let until = self.now + Duration::from_secs(1);
            self.after(Duration::from_secs(1), Event::Check);
            self.run_until(|simulation| simulation.now >= until);
            let left = self.tombstones();
            if left == 0 && self.is_converged() {
                break;
            }
            if self.now > deadline {
                let states = self.describe();
                self.violate("tombstones-go", format!("{left} tombstones at rest: {states}"));
            }
        }
        self.check_now();
    }

    /// On all nodes; without those of an incarnation that ended before anybody's vector covered them, which nobody can prove to be everywhere: they stay.
    fn tombstones(&self) -> usize {
        let of = |store: &Store| {
            let entries = self.history.keys.keys().filter_map(|key| store.entry(key));
            entries.filter(|entry| entry.is_tombstone() && !self.history.lost.contains(&entry.version())).count()
        };
        self.machines.iter().filter_map(|machine| Some(of(machine.life.as_ref()?.replica().store()))).sum()
    }

    fn check_acknowledged(&mut self) {
        let Some(vector) = self.life(0).map(|life| life.replica().vector()) else { return };
        let mut found = None;
        for (number, operation) in self.history.operations.iter().enumerate() {
            for (key, version) in operation.acknowledged() {
                if !vector.covers(version) && !self.is_excused(operation, version) {
                    let (key, level) = (key.escape_ascii(), operation.level);
                    found.get_or_insert(format!(
                        "operation {number}, acknowledged at {level}, wrote {version:?} to key {key}, which is nowhere"
                    ));
                }
            }
        }
        if let Some(what) = found {
            self.violate("acknowledged-kept", what);
        }
    }

    /// What was only promised to be on one node went with that node's disk.
    fn is_excused(&self, operation: &Operation, version: Version) -> bool {
        let lost_with = |loss: &DiskLoss| loss.machine == operation.machine && loss.vector.covers(version);
        operation.level == AckLevel::Local && self.history.lost.contains(&version) && self.history.disk_losses.iter().any(lost_with)
    }

    /// I8: of each key, the acknowledged writes in the order in which they began, against the greatest version acknowledged before.
    fn check_order(&mut self) {
        if self.plan.mixes_builds {
            // The acks of the build before show no clock, and count whatever that was.
            return;
        }
        let mut writes: BTreeMap<&Key, Vec<Acknowledged>> = BTreeMap::new();
        for operation in self.history.operations.iter().filter(|operation| operation.level != AckLevel::Local) {
            let Some(heard) = operation.heard else { continue };
            for (key, version) in operation.acknowledged() {
                writes.entry(key).or_default().push(Acknowledged { machine: operation.machine, began: operation.began, heard, version });
            }
        }
        let mut found = None;
        for (key, writes) in &writes {
            for later in writes {
                let beaten_by = writes.iter().find(|earlier| {
                    // The time that the later one's acks may have taken, and what clocks differ by.
                    let allowed = (later.heard - later.began) + ACK_LEAD + later.heard.saturating_sub(earlier.began) / 500;
                    earlier.heard + allowed < later.began
                        && earlier.version > later.version
                        && !self.lost_disk_between(earlier.heard, later.heard)
                        && !self.interrupted_between(earlier.began, later)
                        && !self.history.were_apart(earlier.began, later.heard)
                });
                if let Some(earlier) = beaten_by {
                    let key = key.escape_ascii();
                    found.get_or_insert(format!("key {key}: {later:?} lost to {earlier:?}, which was acknowledged before it began"));
                }
            }
        }
        if let Some(what) = found {
            self.violate("later-acknowledged-wins", what);
        }
    }

    /// A member that was restarted or suspended between the two acks may be the only one that gave both. Whatever happened to the node of the later write is no excuse.
    fn interrupted_between(&self, from: Duration, later: &Acknowledged) -> bool {
        let mut others = self.history.interruptions.iter().filter(|(machine, _)| *machine != later.machine);
        others.any(|(_, at)| *at >= from && *at <= later.heard)
    }

    /// A member that has lost what it held may vouch for a write that loses to one which only an absent member still holds: GUARANTEES.md says so.
    fn lost_disk_between(&self, from: Duration, to: Duration) -> bool {
        self.history.disk_losses.iter().any(|loss| loss.at <= to && loss.until.is_none_or(|until| until >= from))
    }

    /// For whoever has to find out why.
    pub fn describe(&self) -> String {
        let states = self.machines.iter().enumerate().map(|(id, machine)| match &machine.life {
            Some(life) => {
                let soon = machine.wall_ms(self.now) + FAR_MS / 2;
                let digest = life.replica().store().digest(soon);
                let (replica, now) = (life.replica(), self.now_at(id));
                let status: Vec<String> = replica.status(now).iter().map(|(name, value)| format!("{name} {value}")).collect();
                format!(
                    "\nnode {}: {digest:?}, {} writes not forwarded, {}\n  {}",
                    id + 1,
                    life.write_rx.len(),
                    status.join(", "),
                    replica.peers(now).join("\n  ")
                )
            }
            None => format!("\nnode {}: down", id + 1),
        });
        let waiting = self.clients.iter().filter(|client| !client.is_idle()).count();
        format!("{waiting} clients wait{}", states.collect::<String>())
    }
}

#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    machine: usize,
    began: Duration,
    heard: Duration,
    version: Version,
}
