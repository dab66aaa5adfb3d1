//! The faults: their kinds, what each does to which node, and for how long.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::machine::{Crash, WallClock};
use crate::simulation::{ProcessId, Simulator, SimulatorEvent};
use kvmesh::replication::status;

/// The kinds of faults. A run draws some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A process is killed, or several at about the same time.
    Kill,
    PowerLoss,
    /// A process crashes at one of the next operations of its disk.
    CrashAtOperation,
    Wipe,
    PutBack,
    /// A writer crashes before a third node has received its last writes. That node gets them late
    /// from the others, or cannot ask for them. A node that has them may be put back to an older
    /// disk.
    Orphan,
    /// A node takes a write on one side of a cut, and loses its disk. It returns with an empty disk
    /// on the other side, where deletes that are older than the write are forgotten. Then it gets
    /// an old copy of its disk, which holds the write and not the deletes.
    Relapse,
    /// A node returns. One peer answers it late and sends a dump for a long time, while the other
    /// peer is fast.
    LateDump,
    /// A node is away for longer than tombstones have to be kept.
    Away,
    Pause,
    /// A machine is suspended. None of its clocks moves meanwhile.
    Suspend,
    /// Links are cut: one direction between two nodes, both directions, all links of one node, or
    /// all but those of one node, which alone reaches both halves.
    OneWay,
    Cut,
    Isolate,
    Bridge,
    /// Cuts that are shorter than every time-out, one after another.
    Flap,
    Slow,
    Break,
    Flip,
    ClockStep,
    ClockDrift,
    /// All wall clocks are set back by the same amount.
    AllBack,
    /// A clock is further off than is allowed.
    BadClock,
    FullDisk,
    SlowDisk,
    FailedSync,
    /// An operator copies a directory, keeps a dump, or restores one.
    Copy,
    BackUp,
    Restore,
}

pub const FAULTS: [FaultKind; 29] = [
    FaultKind::Kill,
    FaultKind::PowerLoss,
    FaultKind::CrashAtOperation,
    FaultKind::Wipe,
    FaultKind::PutBack,
    FaultKind::Orphan,
    FaultKind::Relapse,
    FaultKind::LateDump,
    FaultKind::Away,
    FaultKind::Pause,
    FaultKind::Suspend,
    FaultKind::OneWay,
    FaultKind::Cut,
    FaultKind::Isolate,
    FaultKind::Bridge,
    FaultKind::Flap,
    FaultKind::Slow,
    FaultKind::Break,
    FaultKind::Flip,
    FaultKind::ClockStep,
    FaultKind::ClockDrift,
    FaultKind::AllBack,
    FaultKind::BadClock,
    FaultKind::FullDisk,
    FaultKind::SlowDisk,
    FaultKind::FailedSync,
    FaultKind::Copy,
    FaultKind::BackUp,
    FaultKind::Restore,
];

/// A fault that is over, or takes its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultEnd {
    Pause(ProcessId),
    Suspension(ProcessId),
    Slowness(usize, usize),
    BadClock(usize),
    FullDisk(usize),
    SlowDisk(usize),
    /// An operator has looked at a node whose disk had failed.
    FailedSync(usize),
    /// The writer of an orphan crashes. The disk of the node that holds its writes may be copied
    /// now, and put back later.
    Writer {
        writer: usize,
        holder: usize,
    },
    Holder(usize),
    /// Two nodes are connected at last, and from now on the donor's answers are slow. Not awaited
    /// beyond `until`.
    AwaitConnection {
        donor: usize,
        asker: usize,
        until: Duration,
    },
    /// Between two nodes everything is as fast as usual again, except for the pauses of a dump.
    SpeedUp {
        donor: usize,
        asker: usize,
    },
    /// A relapse takes its next step.
    Relapse(Relapse),
    /// The next one of a row of short cuts.
    Flap {
        from: usize,
        to: usize,
        left: u32,
    },
}

/// The state of a [`FaultKind::Relapse`]. Nothing is awaited beyond `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relapse {
    step: RelapseStep,
    subject: usize,
    far: usize,
    until: Duration,
}

/// The next step of a relapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RelapseStep {
    Copy,
    Meet,
    Wipe,
    Forget,
    PutBack,
    Mend,
}

impl Simulator<'_> {
    pub fn schedule_fault(&mut self) {
        let mean = self.plan.fault_pause.as_micros() as u64;
        // Often soon after the fault before, sometimes long after it.
        let wait = self.random.u64(0..=mean) * self.random.u64(0..=4);
        self.after(Duration::from_micros(wait), SimulatorEvent::Fault);
    }

    pub fn fault(&mut self) {
        if self.is_healing || self.plan.faults.is_empty() {
            return;
        }
        let fault = self.plan.faults[self.random.usize(0..self.plan.faults.len())];
        let id = self.random.usize(0..self.plan.nodes);
        let other = (id + self.random.usize(1..self.plan.nodes)) % self.plan.nodes;
        self.log_step(&format!("{fault:?}, node {}, node {}", id + 1, other + 1));
        self.commit(fault, id, other);
        self.schedule_fault();
    }

    fn commit(&mut self, fault: FaultKind, id: usize, other: usize) {
        // From far shorter than a time-out to several time-outs.
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let most = scale / 10 + self.random.u64(0..scale * 3);
        let time = self.random_ms(1, most);
        match fault {
            FaultKind::Kill => {
                self.kill(id, Crash::Process, time);
                if self.one_in(4) {
                    self.kill(other, Crash::Process, time);
                }
            }
            FaultKind::PowerLoss => {
                self.kill(id, Crash::PowerLoss, time);
                if self.is_always_synced() && self.one_in(4) {
                    (0..self.plan.nodes).for_each(|id| self.kill(id, Crash::PowerLoss, time));
                }
            }
            FaultKind::CrashAtOperation if self.is_always_synced() => {
                let disk = self.machines[id].disk.clone();
                let operation = disk.operations() + self.random.u64(0..12);
                disk.die_at(operation);
            }
            FaultKind::Wipe if self.may_lose_disk(id) => self.kill(id, Crash::Wiped, time),
            FaultKind::PutBack if self.may_lose_disk(id) && !self.machines[id].copies.is_empty() => self.kill(id, Crash::PutBack, time),
            FaultKind::Orphan => self.orphan(id, other),
            FaultKind::Relapse => self.relapse(id, other),
            FaultKind::LateDump => self.delay_dump(id, other),
            FaultKind::Away => {
                let long = self.plan.tombstone_patience() + time;
                self.kill(id, Crash::Process, long.min(self.plan.duration / 3));
            }
            FaultKind::Pause => {
                if let Some(process) = self.running(id).map(|running| running.process) {
                    self.count("pauses");
                    self.pause(id);
                    self.after(time, SimulatorEvent::End(FaultEnd::Pause(process)));
                }
            }
            FaultKind::Suspend => {
                if let Some(process) = self.running(id).map(|running| running.process)
                    && self.machines[id].paused.is_none()
                {
                    self.count("suspensions");
                    self.pause(id);
                    self.machines[id].suspended = Some(self.now);
                    self.after(time, SimulatorEvent::End(FaultEnd::Suspension(process)));
                }
            }
            FaultKind::OneWay => self.cut_link(id, other, time),
            FaultKind::Cut => {
                self.cut_link(id, other, time);
                self.cut_link(other, id, time);
            }
            FaultKind::Isolate => self.split(time, |node| node == id),
            FaultKind::Bridge => {
                let halves: Vec<bool> = (0..self.plan.nodes).map(|_| self.random.bool()).collect();
                for from in 0..self.plan.nodes {
                    for to in 0..self.plan.nodes {
                        if from != to && from != id && to != id && halves[from] != halves[to] {
                            self.cut_link(from, to, time);
                        }
                    }
                }
            }
            FaultKind::Flap => self.flap(id, other, 8),
            FaultKind::Slow => {
                self.count("slow links");
                self.draw(id, StepKind::Fault, || format!("link to n{} is slow", other + 1));
                // A little, or so much that an answer is late, but not so late that the connection
                // is given up.
                let least = if self.one_in(2) { scale / 50 } else { scale };
                self.links[id][other].delay_more = self.random_ms(least, scale * 3 / 2);
                self.after(time * 6, SimulatorEvent::End(FaultEnd::Slowness(id, other)));
            }
            FaultKind::Break => self.break_one(),
            FaultKind::Flip => {
                let numbers: Vec<u64> = self.connections.keys().copied().collect();
                if numbers.into_iter().any(|number| self.flip(number)) {
                    self.count("flipped bits");
                }
            }
            FaultKind::ClockStep => {
                if !self.machines[id].clock.is_bad {
                    self.count("clock steps");
                    self.draw_fault(id, "its wall clock jumps");
                    let drift_ppm = self.machines[id].clock.drift_ppm;
                    self.machines[id].clock = WallClock { drift_ppm, ..self.draw_clock() };
                }
            }
            FaultKind::ClockDrift => {
                self.count("clock drifts");
                self.draw_fault(id, "its wall clock drifts");
                // The clock keeps the offset that it has drifted to.
                let drifted = self.now.as_millis() as i64 * self.machines[id].clock.drift_ppm / 1_000_000;
                let drift_ppm = self.random.i64(-400..=400);
                let again = self.now.as_millis() as i64 * drift_ppm / 1_000_000;
                let clock = &mut self.machines[id].clock;
                (clock.offset_ms, clock.drift_ppm) = (clock.offset_ms + drifted - again, drift_ppm);
            }
            FaultKind::AllBack => {
                let most = self.plan.clock_offset_max().as_millis() as i64 / 10;
                if self.set_back_ms < 2 * most {
                    self.count("all clocks set back");
                    (0..self.plan.nodes).for_each(|id| self.draw_fault(id, "its wall clock is set back"));
                    let back_ms = self.random.i64(1..=most);
                    self.set_back_ms += back_ms;
                    self.machines.iter_mut().for_each(|machine| machine.clock.offset_ms -= back_ms);
                }
            }
            FaultKind::BadClock => {
                if self.machines.iter().all(|machine| !machine.clock.is_bad) {
                    self.count("bad clocks");
                    self.draw_fault(id, "its wall clock is set wrong");
                    let most = self.plan.clock_offset_max().as_millis() as i64;
                    let off = self.random.i64(most * 3 / 2..most * 3);
                    self.machines[id].clock.offset_ms = if self.random.bool() { off } else { -off };
                    self.machines[id].clock.is_bad = true;
                    if self.one_in(2) {
                        // The node starts with this clock, and opens alone: no other one is there
                        // to disagree. What it stamps then shows whether it goes by its disk.
                        self.kill(id, Crash::Process, time);
                        self.split(time + 5 * self.plan.peer_timeout(), |node| node == id);
                    }
                    self.after(time * 3, SimulatorEvent::End(FaultEnd::BadClock(id)));
                }
            }
            FaultKind::FullDisk if self.is_always_synced() => {
                let disk = self.machines[id].disk.clone();
                let left = self.random.usize(0..600);
                if left < 150 {
                    // As when no descriptor is left: files that are open stay usable.
                    self.count("disks without new files");
                    disk.fail_creates(true);
                    self.draw_fault(id, "its disk takes no new file");
                } else {
                    self.count("full disks");
                    disk.set_capacity(Some(disk.used() + left));
                    self.draw_fault(id, "its disk is full");
                }
                self.after(time * 2, SimulatorEvent::End(FaultEnd::FullDisk(id)));
            }
            FaultKind::SlowDisk => {
                self.count("slow disks");
                self.draw_fault(id, "its disk is slow");
                self.machines[id].disk_slowness = self.random.u64(5..100);
                self.after(time, SimulatorEvent::End(FaultEnd::SlowDisk(id)));
            }
            FaultKind::FailedSync if self.is_always_synced() => {
                self.count("failed syncs");
                self.draw_fault(id, "its disk fails to sync");
                self.machines[id].disk.fail_syncs(true);
                self.after(time, SimulatorEvent::End(FaultEnd::FailedSync(id)));
            }
            FaultKind::Copy => self.copy_directory(id),
            FaultKind::BackUp => self.back_up(id),
            // Few runs draw both of the faults that a restore takes, and a dump that is old by then
            // is mostly refused.
            FaultKind::Restore if self.backups.is_empty() || self.one_in(3) => self.back_up(id),
            FaultKind::Restore => self.restore_backup(id),
            // A node with this `fsync` is not promised to survive it, or there is no copy to put
            // back.
            FaultKind::CrashAtOperation | FaultKind::Wipe | FaultKind::PutBack | FaultKind::FullDisk | FaultKind::FailedSync => {}
        }
    }

    pub fn end_fault(&mut self, end: FaultEnd) {
        match end {
            FaultEnd::Pause(process) => {
                let is_suspended = self.machines[process.machine].suspended.is_some();
                if self.running(process.machine).is_some_and(|running| running.process == process) && !is_suspended {
                    self.resume(process.machine);
                }
            }
            FaultEnd::Suspension(process) => {
                if self.running(process.machine).is_some_and(|running| running.process == process) {
                    self.resume(process.machine);
                }
            }
            FaultEnd::Slowness(from, to) => self.links[from][to].speed_up(&self.plan),
            FaultEnd::BadClock(id) => self.set_clock_right(id),
            FaultEnd::FullDisk(id) => {
                self.machines[id].disk.set_capacity(None);
                self.machines[id].disk.fail_creates(false);
                if let Some(running) = self.running_mut(id) {
                    running.is_to_resume = true;
                }
            }
            FaultEnd::SlowDisk(id) => self.machines[id].disk_slowness = 1,
            FaultEnd::FailedSync(id) => {
                self.machines[id].disk.fail_syncs(false);
                // After a failed sync only a restart helps.
                if self.running(id).is_some_and(|running| status::writable(running.replica()).is_err()) {
                    self.count("restarts after failed syncs");
                    self.kill(id, Crash::Process, Duration::from_millis(50));
                }
            }
            FaultEnd::Writer { writer, holder } => {
                let scale = self.plan.peer_timeout().as_millis() as u64;
                let back = self.random_ms(1, scale / 2);
                self.kill(writer, Crash::Process, back);
                if self.one_in(2) {
                    self.copy_directory(holder);
                    let wait = self.random_ms(scale / 2, scale * 3);
                    self.after(wait, SimulatorEvent::End(FaultEnd::Holder(holder)));
                }
            }
            FaultEnd::Holder(holder) if self.may_lose_disk(holder) => self.kill(holder, Crash::PutBack, Duration::from_millis(20)),
            FaultEnd::Holder(_) => {}
            FaultEnd::AwaitConnection { until, .. } if self.now >= until || self.is_healing => {}
            FaultEnd::AwaitConnection { donor, asker, .. } if self.is_connected(donor, asker) && self.is_connected(asker, donor) => {
                let scale = self.plan.peer_timeout().as_millis() as u64;
                self.links[donor][asker].delay_more = self.random_ms(scale * 3 / 10, scale * 5 / 10);
                self.links[donor][asker].dump_pause = Duration::from_millis(scale * 7 / 10);
                // The asker has given the dump up. The donor is up again, and its lines go on
                // arriving slowly.
                self.after(Duration::from_millis(scale * 3 / 2), SimulatorEvent::End(FaultEnd::SpeedUp { donor, asker }));
            }
            FaultEnd::SpeedUp { donor, asker } => {
                self.links[donor][asker].delay_more = Duration::ZERO;
                self.links[asker][donor].delay_more = Duration::ZERO;
            }
            FaultEnd::AwaitConnection { .. } => self.after(Duration::from_millis(1), SimulatorEvent::End(end)),
            FaultEnd::Relapse(relapse) => self.relapse_step(relapse),
            FaultEnd::Flap { from, to, left } => self.flap(from, to, left),
        }
    }

    fn draw_clock(&mut self) -> WallClock {
        let clock = WallClock::draw(&self.plan, &mut self.random);
        WallClock { offset_ms: clock.offset_ms - self.set_back_ms, ..clock }
    }

    pub fn set_clock_right(&mut self, id: usize) {
        self.machines[id].clock = self.draw_clock();
    }

    /// Cuts all links from the start on. Nodes then open without each other, and each declares its
    /// own order to be the cluster's. When they meet, all but one of them move their keys, and may
    /// be serving or taking dumps.
    pub fn begin_apart(&mut self) {
        self.count("runs that begin apart");
        let scale = self.plan.peer_timeout().as_millis() as u64;
        for one in 0..self.plan.nodes {
            for other in 0..one {
                let until = self.random_ms(scale * 3, scale * 8);
                self.set_cut(one, other, until);
            }
        }
    }

    fn kill(&mut self, id: usize, crash: Crash, back_after: Duration) {
        // Without a sync at every write, each crash loses something. To survive more than one such
        // loss at a time is not promised.
        if self.running(id).is_none() || !self.is_always_synced() && !self.may_lose_disk(id) {
            return;
        }
        self.count(match crash {
            Crash::Process => "kills",
            Crash::PowerLoss => "power losses",
            Crash::Wiped => "disks wiped",
            Crash::PutBack => "old disks put back",
        });
        self.crash(id, crash);
        self.after(back_after, SimulatorEvent::Start(id));
    }

    fn cut_link(&mut self, from: usize, to: usize, time: Duration) {
        self.count("links cut");
        let until = self.now + time;
        let link = &mut self.links[from][to];
        link.cut_until = link.cut_until.max(until);
        let until = link.cut_until;
        self.draw_cut(from, to, until);
    }

    /// Cuts all links between the machines that `is_inside` picks and the others.
    fn split(&mut self, time: Duration, is_inside: impl Fn(usize) -> bool) {
        for from in 0..self.plan.nodes {
            for to in 0..self.plan.nodes {
                if is_inside(from) != is_inside(to) {
                    self.cut_link(from, to, time);
                }
            }
        }
    }

    fn flap(&mut self, from: usize, to: usize, left: u32) {
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let time = self.random_ms(scale / 20, scale * 4 / 5);
        self.cut_link(from, to, time);
        self.cut_link(to, from, time);
        if left > 0 && !self.is_healing {
            let wait = self.random_ms(scale / 20, scale / 3);
            self.after(time + wait, SimulatorEvent::End(FaultEnd::Flap { from, to, left: left - 1 }));
        }
    }

    fn orphan(&mut self, writer: usize, holder: usize) {
        let third = (0..self.plan.nodes).filter(|node| *node != writer && *node != holder).nth(self.random.usize(0..self.plan.nodes - 2));
        let Some(third) = third else { return };
        self.count("orphans");
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let deaf = self.random_ms(scale / 3, scale);
        self.cut_link(writer, third, deaf);
        let dies = self.random_ms(scale / 10, scale * 2 / 3);
        self.after(dies, SimulatorEvent::End(FaultEnd::Writer { writer, holder }));
        match self.random.u32(0..4) {
            0 => {
                let (from, to) = if self.one_in(4) { (third, holder) } else { (holder, third) };
                self.links[from][to].delay_more = self.random_ms(scale, scale * 3 / 2);
                self.after(Duration::from_millis(scale * 10), SimulatorEvent::End(FaultEnd::Slowness(from, to)));
            }
            1 => {
                // The third node receives from the others, but they do not receive from it.
                let mute = self.random_ms(scale * 2, scale * 4);
                (0..self.plan.nodes).filter(|other| *other != third).for_each(|other| self.cut_link(third, other, mute));
            }
            // A node that took a dump for long does not ask for another one for as long.
            _ => {}
        }
    }

    /// Starts a relapse. The subject is cut off and takes writes at `local`; its disk is copied. It
    /// exchanges its writes and the deletes of meanwhile with the far node, while both are cut off
    /// from the rest. Then it loses its disk, returns to the rest, which have never received its
    /// writes, and in the end gets its old copy.
    fn relapse(&mut self, subject: usize, far: usize) {
        if !self.may_lose_disk(subject) {
            return;
        }
        self.count("relapses");
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let until = self.now + Duration::from_millis(scale * 60);
        (0..self.plan.nodes).filter(|other| *other != subject).for_each(|other| self.set_cut(subject, other, until));
        let wait = self.random_ms(scale, scale * 4);
        self.after(wait, SimulatorEvent::End(FaultEnd::Relapse(Relapse { step: RelapseStep::Copy, subject, far, until })));
    }

    fn relapse_step(&mut self, relapse: Relapse) {
        if self.is_healing {
            return;
        }
        let Relapse { step, subject, far, until } = relapse;
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let rest: Vec<usize> = (0..self.plan.nodes).filter(|node| *node != subject && *node != far).collect();
        let meets = |other: usize| self.is_connected(subject, other) && self.is_connected(other, subject);
        let (next, wait) = match step {
            RelapseStep::Wipe if self.now < until && !meets(far) => (step, Duration::from_millis(20)),
            RelapseStep::Forget if self.now < until && !rest.iter().all(|other| meets(*other)) => (step, Duration::from_millis(20)),
            RelapseStep::Wipe | RelapseStep::PutBack if !self.may_lose_disk(subject) => (RelapseStep::Mend, Duration::ZERO),
            RelapseStep::Copy => {
                self.machines[subject].copies.clear();
                self.copy_directory(subject);
                (RelapseStep::Meet, self.random_ms(scale / 2, scale * 3))
            }
            RelapseStep::Meet => {
                rest.into_iter().for_each(|other| self.set_cut(far, other, until));
                self.set_cut(subject, far, self.now);
                (RelapseStep::Wipe, self.random_ms(scale, scale * 3))
            }
            RelapseStep::Wipe => {
                self.kill(subject, Crash::Wiped, Duration::from_millis(20));
                self.set_cut(subject, far, until);
                rest.into_iter().for_each(|other| self.set_cut(subject, other, self.now));
                (RelapseStep::Forget, self.random_ms(scale, scale * 2))
            }
            RelapseStep::Forget => (RelapseStep::PutBack, self.random_ms(scale / 2, scale * 6)),
            RelapseStep::PutBack => {
                self.kill(subject, Crash::PutBack, Duration::from_millis(20));
                (RelapseStep::Mend, self.random_ms(scale, scale * 6))
            }
            RelapseStep::Mend => {
                rest.into_iter().for_each(|other| self.set_cut(far, other, self.now));
                (0..self.plan.nodes).filter(|other| *other != subject).for_each(|other| self.set_cut(subject, other, self.now));
                return;
            }
        };
        self.after(wait, SimulatorEvent::End(FaultEnd::Relapse(Relapse { step: next, ..relapse })));
    }

    /// Sets until when the links between two machines are cut, in both directions.
    pub fn set_cut(&mut self, one: usize, other: usize, until: Duration) {
        self.links[one][other].cut_until = until;
        self.links[other][one].cut_until = until;
        self.draw_cut(one, other, until);
        self.draw_cut(other, one, until);
    }

    fn draw_cut(&mut self, from: usize, to: usize, until: Duration) {
        if let Some(diagram) = &mut self.diagram {
            diagram.cut(self.now, from, to, until);
        }
    }

    fn draw_fault(&mut self, machine: usize, text: &str) {
        self.draw(machine, StepKind::Fault, || text.to_owned());
    }

    /// Delays a dump. A node returns and can first ask only one peer, the donor. Request and answer
    /// take longer than its time-out, though neither side falls silent for so long. When it has
    /// given up, it can reach the other peers, and has everything from them before the donor's
    /// lines arrive.
    fn delay_dump(&mut self, id: usize, donor: usize) {
        self.count("late dumps");
        let patience = self.plan.peer_timeout();
        let scale = patience.as_millis() as u64;
        let crash = if self.one_in(2) && self.may_lose_disk(id) { Crash::Wiped } else { Crash::Process };
        let back = self.random_ms(scale / 2, scale * 5);
        let until = self.now + back + 40 * patience;
        self.kill(id, crash, back);
        let others = (0..self.plan.nodes).filter(|other| *other != donor && *other != id);
        others.for_each(|other| self.cut_link(other, id, back + patience));
        self.links[id][donor].delay_more = self.random_ms(scale * 9 / 20, scale * 12 / 20);
        self.after(back, SimulatorEvent::End(FaultEnd::AwaitConnection { donor, asker: id, until }));
        self.at(until, SimulatorEvent::End(FaultEnd::Slowness(id, donor)));
        self.at(until, SimulatorEvent::End(FaultEnd::Slowness(donor, id)));
    }

    fn break_one(&mut self) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        if !numbers.is_empty() {
            self.count("broken connections");
            let number = numbers[self.random.usize(0..numbers.len())];
            self.break_connection(number);
        }
    }
}
