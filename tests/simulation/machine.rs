//! The machines: a disk, a clock, and the process that lives on them.
//!
//! Owns the lives: how one begins on what its disk holds, as node.rs does it, what its threads do when they have their turn, and what is left when it dies.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::simulation::diagram::StepKind;
use crate::simulation::faults::Fault;
use crate::simulation::plan::Plan;
use crate::simulation::{Event, Process, Simulation};
use kvmesh::config::Config;
use kvmesh::data::clock::Now;
use kvmesh::data::version::VersionVector;
use kvmesh::replication::heartbeat::HeartbeatLoop;
use kvmesh::replication::persistence::snapshots::Snapshot;
use kvmesh::replication::replica::Replica;
use kvmesh::replication::replicator::Replicator;
use kvmesh::replication::submit::Submitted;
use kvmesh::store::Store;
use kvmesh::testing::simulated_clients::SimulatedServer;
use kvmesh::testing::simulated_disk::SimulatedDisk;
use kvmesh::wal::disk::Disk;
use kvmesh::wal::files::Files;
use kvmesh::wal::writer::Writer;
use kvmesh::wal::{Fsync, NotSwitched, Wal};
use kvmesh::wire::peer::{Protocol, Protocols};

/// Where wall time starts: some day in 2023.
const WALL_MS: i64 = 1_700_000_000_000;

/// What the build before speaks. Some incarnations are of it, on the disks of the others.
const BEFORE: Protocols = Protocols { min: Protocol::OLDEST, max: Protocol::OLDEST };

/// What an incarnation is made of, and is borrowed from.
pub struct Ground {
    pub replica: Arc<Replica>,
    pub server: SimulatedServer,
    pub wal: Arc<Wal>,
}

pub struct Machine<'a> {
    pub config: Arc<Config>,
    pub disk: SimulatedDisk,
    /// Old copies of its directory.
    pub copies: Vec<SimulatedDisk>,
    pub clock: WallClock,
    /// What its oscillator is too fast by, in parts in a million.
    pace_ppm: i64,
    pub life: Option<Life<'a>>,
    pub lives: u64,
    /// What was to happen to a process that stands still.
    pub paused: Option<Vec<Event>>,
    /// Since when its clocks stand still as well, but for the wall clock, which is set when it wakes.
    pub suspended: Option<Duration>,
    /// Without power: nobody answers for it.
    pub is_off: bool,
    /// So many times as slow as usual.
    pub disk_slowness: u64,
    /// What it knew when its last incarnation ended; only then is it looked at.
    pub vector: VersionVector,
    /// What the others had when it lost what was on its disk, and has not there again.
    pub owed: Option<VersionVector>,
}

/// Its wall clock, as an offset from true time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    pub offset_ms: i64,
    /// Parts in a million that it is too fast.
    pub drift_ppm: i64,
    /// Set wrong by more than is allowed.
    pub is_bad: bool,
}

pub struct Life<'a> {
    pub process: Process,
    pub ground: &'a Ground,
    born: Duration,
    /// How long its machine was suspended meanwhile: no clock of the process has moved in that time.
    pub slept: Duration,
    /// Own writes as they are submitted; and once they are in the history, on their way to the replicator.
    pub submit_rx: Receiver<Submitted>,
    pub write_tx: Sender<Submitted>,
    pub write_rx: Receiver<Submitted>,
    replicator: Replicator,
    heartbeat: HeartbeatLoop,
    writer: Writer,
    pub snapshot: Option<Snapshot<'a>>,
    snapshot_not_before: Duration,
    /// An operator has been told that the disk has space.
    pub is_to_resume: bool,
    /// The connections on which it speaks, by peer.
    pub speaks: Vec<Option<u64>>,
    /// Turns that lie in the queue.
    pub is_replicating: bool,
    pub is_logging: bool,
    pub is_speaking: Vec<bool>,
    /// What its disk holds for certain; and how often it had been synced then.
    pub durable: VersionVector,
    syncs: u64,
}

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By itself: what it has given to the system is there.
    Process,
    PowerLoss,
    /// Its disk is empty afterwards, or an old copy of it.
    Wiped,
    PutBack,
}

impl Death {
    fn words(self) -> &'static str {
        match self {
            Death::Process => "killed",
            Death::PowerLoss => "loses power",
            Death::Wiped => "killed, its disk is lost",
            Death::PutBack => "killed, an old copy of its disk is put back",
        }
    }
}

impl<'a> Machine<'a> {
    pub fn new(id: usize, plan: &Plan, random: &mut fastrand::Rng) -> Machine<'a> {
        Machine {
            config: plan.config(id),
            disk: SimulatedDisk::default(),
            copies: Vec::new(),
            clock: WallClock::draw(plan, random),
            pace_ppm: random.i64(-200..=200),
            life: None,
            lives: 0,
            paused: None,
            suspended: None,
            is_off: false,
            disk_slowness: 1,
            vector: VersionVector::default(),
            owed: None,
        }
    }

    pub fn wall_ms(&self, now: Duration) -> u64 {
        let true_ms = now.as_millis() as i64;
        (WALL_MS + true_ms + self.clock.offset_ms + true_ms * self.clock.drift_ppm / 1_000_000) as u64
    }

    /// What it knows, or knew last.
    pub fn known(&self) -> VersionVector {
        self.life.as_ref().map_or_else(|| self.vector.clone(), |life| life.replica().vector())
    }
}

impl WallClock {
    /// Of any two drawn the offsets differ by less than half of what is allowed, whatever they drift in a run: as far as the order of writes is promised.
    pub fn draw(plan: &Plan, random: &mut fastrand::Rng) -> WallClock {
        let most = plan.clock_offset_max().as_millis() as i64 / 5;
        // Half of all clocks are almost right.
        let most = if random.bool() { most } else { 20.min(most) };
        WallClock { offset_ms: random.i64(-most..=most), drift_ppm: random.i64(-200..=200), is_bad: false }
    }
}

impl<'a> Life<'a> {
    pub fn replica(&self) -> &'a Replica {
        &self.ground.replica
    }

    /// Whether it serves clients and logs.
    pub fn is_well(&self) -> bool {
        self.replica().is_open() && self.replica().writable().is_ok()
    }

    /// Time that has passed for it, by an oscillator that is so many parts in a million too fast.
    fn elapsed(&self, now: Duration, pace_ppm: i64) -> Duration {
        let nanos = (now - self.born - self.slept).as_nanos() as i64;
        Duration::from_nanos((nanos + nanos / 1_000_000 * pace_ppm) as u64)
    }
}

impl<'a> Simulation<'a> {
    pub fn life(&self, machine: usize) -> Option<&Life<'a>> {
        self.machines[machine].life.as_ref()
    }

    pub fn life_mut(&mut self, machine: usize) -> Option<&mut Life<'a>> {
        self.machines[machine].life.as_mut()
    }

    /// Both clocks of the process that runs there.
    pub fn now_at(&self, machine: usize) -> Now {
        let at = &self.machines[machine];
        let elapsed = at.life.as_ref().map_or(Duration::ZERO, |life| life.elapsed(self.now, at.pace_ppm));
        Now { wall_ms: at.wall_ms(self.now), elapsed }
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    /// Lets an event happen to a process, unless that has died meanwhile; later, if it stands still.
    pub fn with_process(&mut self, process: Process, event: Event, happen: impl FnOnce(&mut Simulation<'a>, usize)) {
        let machine = &mut self.machines[process.machine];
        if machine.life.as_ref().is_none_or(|life| life.process != process) {
            return;
        }
        if let Some(waiting) = &mut machine.paused {
            waiting.push(event);
            return;
        }
        happen(self, process.machine);
        self.wake(process.machine);
    }

    /// Starts the process, as node.rs does it. It may die while it reads and mends what is on its disk.
    pub fn start(&mut self, id: usize) {
        if self.machines[id].life.is_some() {
            return;
        }
        self.machines[id].is_off = false;
        if !self.is_healing && self.arena.is_full() {
            self.count("not started any more");
            return;
        }
        let disk = self.machines[id].disk.clone();
        if !self.is_healing && self.plan.faults.contains(&Fault::DieAtOperation) && self.is_always_synced() && self.one_in(8) {
            let operations = self.random.u64(0..8);
            disk.die_at(disk.operations() + operations);
        }
        let born = self.begin_life(id, &disk);
        if disk.is_dead() {
            self.count("deaths in a start");
            drop(born);
            let death = if self.is_always_synced() { Death::PowerLoss } else { Death::Process };
            self.lose_disk(id, death);
            let wait = self.between(1, 500);
            self.after(wait, Event::Start(id));
            return;
        }
        disk.restart_process();
        match born {
            Ok(life) => {
                let process = life.process;
                self.tell(&format!("node {} begins as {}", id + 1, life.replica().origin()));
                self.machines[id].life = Some(life);
                self.draw(id, StepKind::Up, || format!("starts, incarnation {}", process.life));
                self.history.interruptions.push((id, self.now));
                self.note_lost();
                let heartbeat = self.plan.heartbeat();
                self.after(heartbeat, Event::Heartbeat(process));
                self.after(heartbeat, Event::Snapshot(process));
                for peer in 0..self.plan.nodes - 1 {
                    let wait = self.between(0, 5);
                    self.after(wait, Event::Dial(process, peer));
                }
                self.wake(id);
            }
            Err(_) if disk.fails() => {
                self.count("starts refused by a disk that fails");
                let wait = self.between(100, 1_000);
                self.after(wait, Event::Start(id));
            }
            Err(error) => self.violate("starts", format!("node {}: the start is refused: {error}", id + 1)),
        }
    }

    fn begin_life(&mut self, id: usize, disk: &SimulatedDisk) -> io::Result<Life<'a>> {
        self.machines[id].lives += 1;
        let process = Process { machine: id, life: self.machines[id].lives };
        let now = Now { wall_ms: self.machines[id].wall_ms(self.now), elapsed: Duration::ZERO };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = Arc::clone(&self.machines[id].config);
        let files = Files::find(&*shared)?;
        let wal = Arc::new(Wal::new(Arc::clone(&shared), config.fsync, config.write_room, &files));
        let nonce = self.random.u64(..);
        let (replica, submit_rx) = Replica::new(config, Store::repeatable(self.plan.places), nonce, now, Some(Arc::clone(&wal)));
        let spoken = if self.plan.mixes_builds && self.one_in(2) { BEFORE } else { Protocols::OURS };
        let replica = Arc::new(replica.speaking(spoken));
        let replayed = replica.replay(&shared, &files, || false)?;
        let writer = Writer::open(Arc::clone(&wal), &files, replayed.older_len, &replayed.last, replayed.snapshot_len, self.instant())?;
        replica.record_incarnation();
        replica.begin_recovery(now);
        let lead_us = replica.clock().read(now.elapsed).stamp_us as i64 - self.now.as_micros() as i64;
        self.fastest_us = self.fastest_us.max(lead_us);
        let server = SimulatedServer::new(Arc::clone(&replica))?;
        let ground = self.arena.keep(Ground { replica, server, wal });
        let (write_tx, write_rx) = unbounded();
        let peers = self.plan.nodes - 1;
        Ok(Life {
            process,
            ground,
            born: self.now,
            slept: Duration::ZERO,
            submit_rx,
            write_tx,
            write_rx,
            replicator: Replicator::new(ground.replica.origin()),
            heartbeat: HeartbeatLoop::default(),
            writer,
            snapshot: None,
            snapshot_not_before: Duration::ZERO,
            is_to_resume: false,
            speaks: vec![None; peers],
            is_replicating: false,
            is_logging: false,
            is_speaking: vec![false; peers],
            durable: ground.replica.vector(),
            syncs: 0,
        })
    }

    /// What has something to do gets a turn, sooner or later.
    pub fn wake(&mut self, id: usize) {
        if self.machines[id].paused.is_some() {
            return;
        }
        self.poll_clients(id);
        self.note_submitted(id, None);
        let Some(life) = self.life(id) else { return };
        let process = life.process;
        let (replicates, logs) = (!life.is_replicating && !life.write_rx.is_empty(), !life.is_logging && life.ground.wal.has_waiting());
        if replicates {
            let wait = self.replicator_wait();
            self.after(wait, Event::Replicate(process));
        }
        if logs {
            let wait = self.disk_wait(id);
            self.after(wait, Event::Log(process));
        }
        if let Some(life) = self.life_mut(id) {
            (life.is_replicating, life.is_logging) = (life.is_replicating | replicates, life.is_logging | logs);
        }
        for peer in 0..self.plan.nodes - 1 {
            self.wake_link(id, peer);
        }
    }

    /// Until a thread that was woken runs: mostly at once, now and then not.
    pub fn short_wait(&mut self) -> Duration {
        let most = match self.random.u32(0..20) {
            0 => 5_000,
            1..4 => 300,
            _ => 30,
        };
        Duration::from_micros(self.random.u64(1..=most))
    }

    /// Until the replicator runs: now and then it gets no processor for long, while all others do, so that dumps and what peers make of them overtake it.
    fn replicator_wait(&mut self) -> Duration {
        if self.one_in(50) { Duration::from_micros(self.random.u64(1..=300_000)) } else { self.short_wait() }
    }

    fn disk_wait(&mut self, id: usize) -> Duration {
        let most = self.plan.disk_us * self.machines[id].disk_slowness * if self.one_in(50) { 10 } else { 1 };
        Duration::from_micros(self.random.u64(10..=most.max(20)))
    }

    pub fn beat(&mut self, id: usize) {
        let now = self.now_at(id);
        self.drop_silent(id);
        let Some(life) = self.life_mut(id) else { return };
        life.heartbeat.beat(&life.ground.replica, now);
        let process = life.process;
        let heartbeat = self.plan.heartbeat();
        self.after(heartbeat, Event::Heartbeat(process));
    }

    pub fn replicate(&mut self, id: usize) {
        let Some(life) = self.life_mut(id) else { return };
        life.is_replicating = false;
        if let Ok(first) = life.write_rx.try_recv() {
            life.replicator.forward(&life.ground.replica, first, &life.write_rx);
            if let Some(diagram) = &mut self.diagram {
                diagram.logs(id);
            }
        }
    }

    pub fn log(&mut self, id: usize) {
        let instant = self.instant();
        let Some(life) = self.life_mut(id) else { return };
        life.is_logging = false;
        // All of it was handed over before; but own writes that wait for the replicator are nobody's debt.
        let vector = life.replica().vector();
        let replica = life.replica();
        life.writer.step(Duration::ZERO, || instant, &mut |origin, stamp| replica.persistence().durable(Some((origin, stamp))));
        let condition = life.ground.wal.condition();
        let counts = replica.config().fsync != Fsync::EverySecond || condition.syncs > life.syncs;
        if condition.stopped.is_none() && !condition.is_resuming && counts {
            life.durable = vector;
            life.syncs = condition.syncs;
            if let Some(diagram) = &mut self.diagram {
                diagram.synced(self.now, id);
            }
        }
        self.note_caught_up(id);
        self.die_if_dead(id);
    }

    /// The snapshot's thread looks whether one is due, or goes on with one.
    pub fn snapshot(&mut self, id: usize) {
        let now = self.now;
        let Some(life) = self.life_mut(id) else { return };
        let process = life.process;
        let wait = match life.snapshot.take() {
            None => {
                let replica = life.replica();
                if life.is_to_resume && replica.writable().is_err() {
                    life.snapshot = replica.begin_resume().ok();
                    life.is_to_resume = false;
                } else if now >= life.snapshot_not_before && replica.is_compaction_due(&life.ground.wal) {
                    life.snapshot = replica.begin_compaction().ok();
                }
                if life.snapshot.is_some() { self.short_wait() } else { self.between(100, 300) }
            }
            Some(snapshot) => {
                self.go_on(id, snapshot);
                let wait = self.short_wait();
                // Of its file, a step is one of the disk.
                wait + self.disk_wait(id) / 4
            }
        };
        self.after(wait, Event::Snapshot(process));
        self.die_if_dead(id);
    }

    fn go_on(&mut self, id: usize, mut snapshot: Snapshot<'a>) {
        let now = self.now;
        let Some(life) = self.life_mut(id) else { return };
        match snapshot.await_log(Instant::now()) {
            Ok(()) => {}
            Err(NotSwitched::TooSlow) => {
                life.snapshot = Some(snapshot);
                return;
            }
            Err(NotSwitched::Failed(_)) => {
                life.snapshot_not_before = now + Duration::from_secs(10);
                self.count("logs that could not begin");
                return;
            }
            Err(NotSwitched::Stopped(_)) => {
                self.count("snapshots given up");
                return;
            }
        }
        match snapshot.step() {
            Ok(None) => life.snapshot = Some(snapshot),
            Ok(Some(len)) => {
                let _ = snapshot.end(Ok(len));
                self.count("snapshots");
            }
            Err(error) => {
                let _ = snapshot.end(Err(error));
                life.snapshot_not_before = now + Duration::from_secs(10);
                self.count("snapshots that failed");
            }
        }
    }

    /// The disk was told at which operation the process dies.
    pub fn die_if_dead(&mut self, id: usize) {
        if self.life(id).is_some() && self.machines[id].disk.is_dead() {
            self.count("deaths at an operation");
            let death = if self.is_always_synced() && self.one_in(2) { Death::PowerLoss } else { Death::Process };
            self.die(id, death);
            let wait = self.between(1, 3_000);
            self.after(wait, Event::Start(id));
        }
    }

    /// Otherwise whoever dies loses something.
    pub fn is_always_synced(&self) -> bool {
        self.plan.fsync == Fsync::Always
    }

    /// Ends an incarnation. The others hear of it if the machine is still there to tell them.
    pub fn die(&mut self, id: usize, death: Death) {
        let Some(life) = self.life(id) else { return };
        let vector = life.replica().vector();
        self.tell(&format!("node {} dies: {death:?}", id + 1));
        self.draw(id, StepKind::Down, || death.words().to_owned());
        self.machines[id].vector = vector;
        self.machines[id].paused = None;
        self.machines[id].suspended = None;
        self.machines[id].is_off = death == Death::PowerLoss;
        self.disconnect_clients(id);
        self.disconnect(id, death == Death::PowerLoss);
        self.machines[id].life = None;
        if matches!(death, Death::Wiped | Death::PutBack) || self.plan.fsync != Fsync::Always {
            let mut owed = VersionVector::default();
            (0..self.plan.nodes).filter(|other| *other != id).for_each(|other| owed.join(&self.machines[other].known()));
            self.machines[id].owed = Some(owed);
            let vector = self.machines[id].vector.clone();
            self.history.note_disk_lost(id, self.now, vector);
        }
        self.lose_disk(id, death);
    }

    fn lose_disk(&mut self, id: usize, death: Death) {
        let disk = self.machines[id].disk.clone();
        disk.set_capacity(None);
        disk.fail_creates(false);
        disk.fail_syncs(false);
        match death {
            Death::Process => disk.restart_process(),
            Death::PowerLoss => {
                let random = &mut self.random;
                disk.lose_power(|there| match random.u32(0..4) {
                    0 => 0,
                    1 => there,
                    _ => random.usize(0..=there),
                });
            }
            Death::Wiped => self.machines[id].disk = SimulatedDisk::default(),
            Death::PutBack => {
                let copy = self.random.usize(0..self.machines[id].copies.len());
                self.machines[id].disk = self.machines[id].copies[copy].copy();
            }
        }
    }

    /// Whether this disk may be lost: not before all that was lost with another one is back, since more than that is not promised.
    pub fn may_lose_disk(&self, id: usize) -> bool {
        self.machines.iter().enumerate().all(|(other, machine)| other == id || machine.owed.is_none())
    }

    /// A disk that was lost counts again once it holds what the others had then, as far as any of them still has it.
    fn note_caught_up(&mut self, id: usize) {
        let Some(owed) = &self.machines[id].owed else { return };
        let mut somewhere = VersionVector::default();
        self.machines.iter().for_each(|machine| somewhere.join(&machine.known()));
        let Some(life) = self.life(id) else { return };
        if owed.iter().all(|(origin, stamp)| life.durable.get(origin) >= stamp.min(somewhere.get(origin))) {
            self.machines[id].owed = None;
            self.tell(&format!("node {} has caught up with what the others had when it lost its disk", id + 1));
            self.history.note_caught_up(id, self.now);
        }
    }

    /// Lets it stand still.
    pub fn pause(&mut self, id: usize) {
        if self.life(id).is_some() {
            self.machines[id].paused.get_or_insert_default();
            self.draw(id, StepKind::Paused, || "stands still".to_owned());
        }
    }

    pub fn resume(&mut self, id: usize) {
        if let Some(since) = self.machines[id].suspended.take() {
            let slept = self.now - since;
            if let Some(life) = self.life_mut(id) {
                life.slept += slept;
            }
            self.history.interruptions.push((id, self.now));
        }
        let waiting = self.machines[id].paused.take();
        self.draw(id, StepKind::Resumed, || "goes on".to_owned());
        for event in VecDeque::from(waiting.unwrap_or_default()) {
            self.after(Duration::ZERO, event);
        }
        self.wake(id);
    }
}
