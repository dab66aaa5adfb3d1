//! The machines: each has a disk, a clock, and the process that runs on them.
//!
//! Owns the incarnations: how one starts from what its disk holds, as node.rs does it; what its
//! threads do when they have their turn; and what a crash leaves.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::simulation::diagram::StepKind;
use crate::simulation::faults::FaultKind;
use crate::simulation::plan::RunPlan;
use crate::simulation::{ProcessId, Simulator, SimulatorEvent};
use kvmesh::config::Config;
use kvmesh::data::clock::Now;
use kvmesh::data::fsync::Fsync;
use kvmesh::data::key_order::OrderKey;
use kvmesh::data::version::VersionVector;
use kvmesh::replication::heartbeat::HeartbeatLoop;
use kvmesh::replication::persistence::snapshots::{self, Snapshot};
use kvmesh::replication::replica::Replica;
use kvmesh::replication::replicator::Replicator;
use kvmesh::replication::status;
use kvmesh::replication::submit::Submitted;
use kvmesh::store::Store;
use kvmesh::testing::simulated_clients::SimulatedServer;
use kvmesh::testing::simulated_disk::SimulatedDisk;
use kvmesh::testing::simulated_node::SimulatedNode;
use kvmesh::wal::writer::Writer;
use kvmesh::wal::{NotSwitched, Wal};
use kvmesh::wire::peer::{Protocol, Protocols};

/// Wall time at the start of a run: a day in 2023.
const WALL_MS: i64 = 1_700_000_000_000;

/// The protocols of the build before. Some incarnations are of that build, on the disks of the
/// others.
const BEFORE: Protocols = Protocols { min: Protocol::OLDEST, max: Protocol::OLDEST };

/// The parts that an incarnation owns and that its threads borrow.
pub struct NodeParts {
    pub replica: Arc<Replica>,
    pub server: SimulatedServer,
    pub wal: Arc<Wal>,
}

/// A machine, whether its node runs or not.
pub struct Machine<'a> {
    pub config: Arc<Config>,
    pub disk: SimulatedDisk,
    /// Old copies of its directory.
    pub copies: Vec<SimulatedDisk>,
    pub clock: WallClock,
    /// How much too fast its oscillator is, in parts per million.
    pace_ppm: i64,
    pub running: Option<RunningNode<'a>>,
    pub incarnations: u64,
    /// The events for a process that stands still, in order.
    pub paused: Option<Vec<SimulatorEvent>>,
    /// When the machine was suspended. Its clocks stand still since then; its wall clock is set
    /// when it wakes.
    pub suspended: Option<Duration>,
    /// Without power: not even a refusal comes back from it.
    pub is_off: bool,
    /// How many times slower than usual the disk is.
    pub disk_slowness: u64,
    /// The version vector at the end of the last incarnation. Used only while the machine is down.
    pub vector: VersionVector,
    /// Everything that the others had when this machine lost its disk. `None` once all of it is on
    /// its disk again.
    pub owed: Option<VersionVector>,
}

/// A wall clock, as an offset from true time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    pub offset_ms: i64,
    /// How much too fast it is, in parts per million.
    pub drift_ppm: i64,
    /// Set wrong by more than is allowed.
    pub is_bad: bool,
}

/// A node that runs: one incarnation of it, and the state of its threads.
pub struct RunningNode<'a> {
    pub process: ProcessId,
    pub parts: &'a NodeParts,
    started: Duration,
    /// How long the machine was suspended since the start. No clock of the process has moved in
    /// that time.
    pub suspended_for: Duration,
    /// Own writes as they were submitted, and then, once they are in the history, on their way to
    /// the replicator.
    pub submit_rx: Receiver<Submitted>,
    pub write_tx: Sender<Submitted>,
    pub write_rx: Receiver<Submitted>,
    replicator: Arc<Replicator>,
    heartbeat: HeartbeatLoop,
    writer: Writer,
    pub snapshot: Option<Snapshot<'a>>,
    snapshot_not_before: Duration,
    /// An operator has told the node that its disk has space again.
    pub is_to_resume: bool,
    /// The number of the connection that it sends on, by peer.
    pub sends_on: Vec<Option<u64>>,
    /// Turns that are in the queue.
    pub is_replicating: bool,
    pub is_logging: bool,
    pub is_sending: Vec<bool>,
    /// The part of the vector that is certainly on its disk, and how often that was synced by then.
    pub durable: VersionVector,
    syncs: u64,
}

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed. What it has written to the system is kept.
    Process,
    PowerLoss,
    /// The disk is empty afterwards, or an old copy of it.
    Wiped,
    PutBack,
}

impl Crash {
    fn words(self) -> &'static str {
        match self {
            Crash::Process => "killed",
            Crash::PowerLoss => "loses power",
            Crash::Wiped => "killed, its disk is lost",
            Crash::PutBack => "killed, an old copy of its disk is put back",
        }
    }
}

impl<'a> Machine<'a> {
    pub fn new(id: usize, plan: &RunPlan, random: &mut fastrand::Rng) -> Machine<'a> {
        Machine {
            config: plan.config(id),
            disk: SimulatedDisk::default(),
            copies: Vec::new(),
            clock: WallClock::draw(plan, random),
            pace_ppm: random.i64(-200..=200),
            running: None,
            incarnations: 0,
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

    /// The version vector of the machine, or its last one if it is down.
    pub fn known(&self) -> VersionVector {
        self.running.as_ref().map_or_else(|| self.vector.clone(), |running| running.replica().vector())
    }
}

impl WallClock {
    /// Draws a clock. Any two clocks differ by less than half of what is allowed, whatever they
    /// drift in a run: so far the order of writes is promised.
    pub fn draw(plan: &RunPlan, random: &mut fastrand::Rng) -> WallClock {
        let most = plan.clock_offset_max().as_millis() as i64 / 5;
        // Half of all clocks are almost right.
        let most = if random.bool() { most } else { 20.min(most) };
        WallClock { offset_ms: random.i64(-most..=most), drift_ppm: random.i64(-200..=200), is_bad: false }
    }
}

impl<'a> RunningNode<'a> {
    pub fn replica(&self) -> &'a Replica {
        &self.parts.replica
    }

    /// True if the node serves clients, and logs.
    pub fn is_healthy(&self) -> bool {
        self.replica().is_open() && status::writable(self.replica()).is_ok()
    }

    /// The time that has passed for the process, by an oscillator that is too fast by so much.
    fn elapsed(&self, now: Duration, pace_ppm: i64) -> Duration {
        let nanos = (now - self.started - self.suspended_for).as_nanos() as i64;
        Duration::from_nanos((nanos + nanos / 1_000_000 * pace_ppm) as u64)
    }
}

impl<'a> Simulator<'a> {
    pub fn running(&self, machine: usize) -> Option<&RunningNode<'a>> {
        self.machines[machine].running.as_ref()
    }

    pub fn running_mut(&mut self, machine: usize) -> Option<&mut RunningNode<'a>> {
        self.machines[machine].running.as_mut()
    }

    /// Both clocks of the process on a machine.
    pub fn now_at(&self, machine: usize) -> Now {
        let at = &self.machines[machine];
        let elapsed = at.running.as_ref().map_or(Duration::ZERO, |running| running.elapsed(self.now, at.pace_ppm));
        Now { wall_ms: at.wall_ms(self.now), elapsed }
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    /// Handles an event of a process. It is dropped if that incarnation has ended, and put off
    /// while the process stands still.
    pub fn with_process(&mut self, process: ProcessId, event: SimulatorEvent, happen: impl FnOnce(&mut Simulator<'a>, usize)) {
        let machine = &mut self.machines[process.machine];
        if machine.running.as_ref().is_none_or(|running| running.process != process) {
            return;
        }
        if let Some(waiting) = &mut machine.paused {
            waiting.push(event);
            return;
        }
        happen(self, process.machine);
        self.wake(process.machine);
    }

    /// Starts the process, as node.rs does it. It may crash while it reads and mends what is on its
    /// disk.
    pub fn start(&mut self, id: usize) {
        if self.machines[id].running.is_some() {
            return;
        }
        self.machines[id].is_off = false;
        if !self.is_healing && self.arena.is_full() {
            self.count("starts not made any more");
            return;
        }
        let disk = self.machines[id].disk.clone();
        if !self.is_healing && self.plan.faults.contains(&FaultKind::CrashAtOperation) && self.is_always_synced() && self.one_in(8) {
            let after = self.random.u64(0..8);
            disk.die_at(disk.operations() + after);
        }
        let started = self.begin_incarnation(id, &disk);
        if disk.is_dead() {
            self.count("crashes during a start");
            drop(started);
            let crash = if self.is_always_synced() { Crash::PowerLoss } else { Crash::Process };
            self.crash_disk(id, crash);
            let wait = self.random_ms(1, 500);
            self.after(wait, SimulatorEvent::Start(id));
            return;
        }
        disk.restart_process();
        match started {
            Ok(running) => {
                let process = running.process;
                self.log_step(&format!("node {} starts as {}", id + 1, running.replica().origin()));
                self.machines[id].running = Some(running);
                self.draw(id, StepKind::Up, || format!("starts, incarnation {}", process.incarnation));
                self.history.interruptions.push((id, self.now));
                self.note_lost();
                let heartbeat = self.plan.heartbeat();
                self.after(heartbeat, SimulatorEvent::Heartbeat(process));
                self.after(heartbeat, SimulatorEvent::Snapshot(process));
                for peer in 0..self.plan.nodes - 1 {
                    let wait = self.random_ms(0, 5);
                    self.after(wait, SimulatorEvent::Dial(process, peer));
                }
                self.wake(id);
            }
            Err(_) if disk.fails() => {
                self.count("starts refused by a failing disk");
                let wait = self.random_ms(100, 1_000);
                self.after(wait, SimulatorEvent::Start(id));
            }
            Err(error) => self.violate("starts", format!("node {}: the start is refused: {error}", id + 1)),
        }
    }

    fn begin_incarnation(&mut self, id: usize, disk: &SimulatedDisk) -> io::Result<RunningNode<'a>> {
        self.machines[id].incarnations += 1;
        let process = ProcessId { machine: id, incarnation: self.machines[id].incarnations };
        let now = Now { wall_ms: self.machines[id].wall_ms(self.now), elapsed: Duration::ZERO };
        let (config, nonce) = (Arc::clone(&self.machines[id].config), self.random.u64(..));
        let protocols = if self.plan.mixes_builds && self.one_in(2) { BEFORE } else { Protocols::OURS };
        // A store begins with an order of its own, as Store::new makes one, and is moved to the
        // cluster's later.
        let store = Store::repeatable(OrderKey::from_halves([nonce, !nonce]), self.plan.places);
        let node = SimulatedNode::start(config, store, nonce, protocols, (now, self.instant()), disk)?;
        let SimulatedNode { replica, write_rx: submit_rx, wal, writer, .. } = node;
        let lead_us = replica.clock().read(now.elapsed).stamp_us as i64 - self.now.as_micros() as i64;
        self.fastest_us = self.fastest_us.max(lead_us);
        let (write_tx, write_rx) = unbounded();
        let replicator = Arc::new(Replicator::new(replica.origin(), write_rx.clone()));
        let server = SimulatedServer::new(Arc::clone(&replica), Arc::clone(&replicator))?;
        let parts = self.arena.store(NodeParts { replica, server, wal });
        let peers = self.plan.nodes - 1;
        Ok(RunningNode {
            process,
            parts,
            started: self.now,
            suspended_for: Duration::ZERO,
            submit_rx,
            write_tx,
            write_rx,
            replicator,
            heartbeat: HeartbeatLoop::default(),
            writer,
            snapshot: None,
            snapshot_not_before: Duration::ZERO,
            is_to_resume: false,
            sends_on: vec![None; peers],
            is_replicating: false,
            is_logging: false,
            is_sending: vec![false; peers],
            durable: parts.replica.vector(),
            syncs: 0,
        })
    }

    /// Schedules a turn for every part of a node that has something to do.
    pub fn wake(&mut self, id: usize) {
        if self.machines[id].paused.is_some() {
            return;
        }
        self.poll_clients(id);
        self.note_submitted(id, None);
        let Some(running) = self.running(id) else { return };
        let process = running.process;
        let (replicates, logs) =
            (!running.is_replicating && !running.write_rx.is_empty(), !running.is_logging && running.parts.wal.has_waiting());
        if replicates {
            let wait = self.replicator_wait();
            self.after(wait, SimulatorEvent::Replicate(process));
        }
        if logs {
            let wait = self.disk_wait(id);
            self.after(wait, SimulatorEvent::Log(process));
        }
        if let Some(running) = self.running_mut(id) {
            (running.is_replicating, running.is_logging) = (running.is_replicating | replicates, running.is_logging | logs);
        }
        for peer in 0..self.plan.nodes - 1 {
            self.wake_link(id, peer);
        }
    }

    /// Draws the time until a woken thread runs: mostly at once, sometimes not.
    pub fn short_wait(&mut self) -> Duration {
        let most = match self.random.u32(0..20) {
            0 => 5_000,
            1..4 => 300,
            _ => 30,
        };
        Duration::from_micros(self.random.u64(1..=most))
    }

    /// Draws the time until the replicator runs. Sometimes it gets no processor for long while all
    /// others do, so that dumps, and what peers make of them, overtake it.
    fn replicator_wait(&mut self) -> Duration {
        if self.one_in(50) { Duration::from_micros(self.random.u64(1..=300_000)) } else { self.short_wait() }
    }

    fn disk_wait(&mut self, id: usize) -> Duration {
        let most = self.plan.disk_us * self.machines[id].disk_slowness * if self.one_in(50) { 10 } else { 1 };
        Duration::from_micros(self.random.u64(10..=most.max(20)))
    }

    pub fn heartbeat(&mut self, id: usize) {
        let now = self.now_at(id);
        self.drop_silent(id);
        let Some(running) = self.running_mut(id) else { return };
        running.heartbeat.step(&running.parts.replica, now);
        let process = running.process;
        let heartbeat = self.plan.heartbeat();
        self.after(heartbeat, SimulatorEvent::Heartbeat(process));
    }

    pub fn replicate(&mut self, id: usize) {
        let Some(running) = self.running_mut(id) else { return };
        running.is_replicating = false;
        if !running.write_rx.is_empty() {
            running.replicator.step(&running.parts.replica);
            if let Some(diagram) = &mut self.diagram {
                diagram.logs(id);
            }
        }
    }

    pub fn log(&mut self, id: usize) {
        let instant = self.instant();
        let Some(running) = self.running_mut(id) else { return };
        running.is_logging = false;
        // All that the vector covers was handed to the log before. Own writes that still wait for
        // the replicator need not be durable.
        let vector = running.replica().vector();
        let replica = running.replica();
        running.writer.step(Duration::ZERO, || instant, &mut |origin, stamp| replica.persistence().durable(origin, stamp));
        let condition = running.parts.wal.condition();
        let counts = replica.config().fsync != Fsync::EverySecond || condition.syncs > running.syncs;
        if condition.stopped.is_none() && !condition.is_resuming && counts {
            running.durable = vector;
            running.syncs = condition.syncs;
            if let Some(diagram) = &mut self.diagram {
                diagram.synced(self.now, id);
            }
        }
        self.note_caught_up(id);
        self.crash_if_disk_is_dead(id);
    }

    /// Gives the snapshot thread its turn: it starts a snapshot if one is due, or continues one.
    pub fn snapshot(&mut self, id: usize) {
        let now = self.now;
        let Some(running) = self.running_mut(id) else { return };
        let process = running.process;
        let wait = match running.snapshot.take() {
            None => {
                let replica = running.replica();
                if running.is_to_resume && status::writable(replica).is_err() {
                    running.snapshot = snapshots::begin_resume(replica).ok();
                    running.is_to_resume = false;
                } else if now >= running.snapshot_not_before && snapshots::is_compaction_due(replica, &running.parts.wal) {
                    running.snapshot = snapshots::begin_compaction(replica).ok();
                }
                if running.snapshot.is_some() { self.short_wait() } else { self.random_ms(100, 300) }
            }
            Some(snapshot) => {
                self.go_on(id, snapshot);
                let wait = self.short_wait();
                // A step of the snapshot's file is an operation of the disk.
                wait + self.disk_wait(id) / 4
            }
        };
        self.after(wait, SimulatorEvent::Snapshot(process));
        self.crash_if_disk_is_dead(id);
    }

    fn go_on(&mut self, id: usize, mut snapshot: Snapshot<'a>) {
        let now = self.now;
        let Some(running) = self.running_mut(id) else { return };
        match snapshot.await_log(Instant::now()) {
            Ok(()) => {}
            Err(NotSwitched::TooSlow) => {
                running.snapshot = Some(snapshot);
                return;
            }
            Err(NotSwitched::Failed(_)) => {
                running.snapshot_not_before = now + Duration::from_secs(10);
                self.count("logs not begun");
                return;
            }
            Err(NotSwitched::Stopped(_)) => {
                self.count("snapshots given up");
                return;
            }
        }
        match snapshot.step() {
            Ok(None) => running.snapshot = Some(snapshot),
            Ok(Some(len)) => {
                let _ = snapshot.end(Ok(len));
                self.count("snapshots");
            }
            Err(error) => {
                let _ = snapshot.end(Err(error));
                running.snapshot_not_before = now + Duration::from_secs(10);
                self.count("snapshots failed");
            }
        }
    }

    /// Crashes a node whose disk has reached the operation at which it was told to die.
    pub fn crash_if_disk_is_dead(&mut self, id: usize) {
        if self.running(id).is_some() && self.machines[id].disk.is_dead() {
            self.count("crashes at a disk operation");
            let crash = if self.is_always_synced() && self.one_in(2) { Crash::PowerLoss } else { Crash::Process };
            self.crash(id, crash);
            let wait = self.random_ms(1, 3_000);
            self.after(wait, SimulatorEvent::Start(id));
        }
    }

    /// True if every write is synced. Otherwise every crash loses something.
    pub fn is_always_synced(&self) -> bool {
        self.plan.fsync == Fsync::Always
    }

    /// Ends an incarnation. Peers learn of it if the machine is still there to close their
    /// connections.
    pub fn crash(&mut self, id: usize, crash: Crash) {
        let Some(running) = self.running(id) else { return };
        let vector = running.replica().vector();
        self.log_step(&format!("node {} crashes: {crash:?}", id + 1));
        self.draw(id, StepKind::Down, || crash.words().to_owned());
        self.machines[id].vector = vector;
        self.machines[id].paused = None;
        self.machines[id].suspended = None;
        self.machines[id].is_off = crash == Crash::PowerLoss;
        self.disconnect_clients(id);
        self.disconnect(id, crash == Crash::PowerLoss);
        self.machines[id].running = None;
        if matches!(crash, Crash::Wiped | Crash::PutBack) || self.plan.fsync != Fsync::Always {
            let mut owed = VersionVector::default();
            (0..self.plan.nodes).filter(|other| *other != id).for_each(|other| owed.join(&self.machines[other].known()));
            self.machines[id].owed = Some(owed);
            let vector = self.machines[id].vector.clone();
            self.history.note_disk_lost(id, self.now, vector);
        }
        self.crash_disk(id, crash);
    }

    fn crash_disk(&mut self, id: usize, crash: Crash) {
        let disk = self.machines[id].disk.clone();
        disk.set_capacity(None);
        disk.fail_creates(false);
        disk.fail_syncs(false);
        match crash {
            Crash::Process => disk.restart_process(),
            Crash::PowerLoss => {
                let random = &mut self.random;
                disk.lose_power(|there| match random.u32(0..4) {
                    0 => 0,
                    1 => there,
                    _ => random.usize(0..=there),
                });
            }
            Crash::Wiped => self.machines[id].disk = SimulatedDisk::default(),
            Crash::PutBack => {
                let copy = self.random.usize(0..self.machines[id].copies.len());
                self.machines[id].disk = self.machines[id].copies[copy].copy();
            }
        }
    }

    /// True if this disk may be lost: everything that was lost with another disk is back. More than
    /// that is not promised.
    pub fn may_lose_disk(&self, id: usize) -> bool {
        self.machines.iter().enumerate().all(|(other, machine)| other == id || machine.owed.is_none())
    }

    /// Counts a lost disk as recovered once it holds what the others had then, as far as any of
    /// them still has it.
    fn note_caught_up(&mut self, id: usize) {
        let Some(owed) = &self.machines[id].owed else { return };
        let mut somewhere = VersionVector::default();
        self.machines.iter().for_each(|machine| somewhere.join(&machine.known()));
        let Some(running) = self.running(id) else { return };
        if owed.iter().all(|(origin, stamp)| running.durable.get(origin) >= stamp.min(somewhere.get(origin))) {
            self.machines[id].owed = None;
            self.log_step(&format!("node {} has caught up with what the others had when it lost its disk", id + 1));
            self.history.note_caught_up(id, self.now);
        }
    }

    /// Makes a process stand still.
    pub fn pause(&mut self, id: usize) {
        if self.running(id).is_some() {
            self.machines[id].paused.get_or_insert_default();
            self.draw(id, StepKind::Paused, || "stands still".to_owned());
        }
    }

    pub fn resume(&mut self, id: usize) {
        if let Some(since) = self.machines[id].suspended.take() {
            let suspended_for = self.now - since;
            if let Some(running) = self.running_mut(id) {
                running.suspended_for += suspended_for;
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
