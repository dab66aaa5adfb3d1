//! What goes wrong: when, where, and for how long.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::machine::{Death, WallClock};
use crate::simulation::{Event, Process, Simulation};

/// The kinds. A run meets some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process, or several at about the same time.
    Kill,
    PowerLoss,
    /// At the operation of the disk that comes next but some.
    DieAtOperation,
    Wipe,
    PutBack,
    /// A node dies whose last writes a third one has not heard: that one hears the others late, or cannot ask them. Another, which has them, may be rolled back.
    Orphan,
    /// A node hears of a write on one side of a cut, returns with an empty disk on the other side, where deletes are forgotten that are older than the write, and is given an old copy of its
    /// disk, which holds the write and not the deletes.
    Relapse,
    /// A node returns that one of the others answers late and sends a dump for long, while the other one is fast.
    LateDump,
    /// A node that is away for longer than a tombstone has to be kept.
    Away,
    Pause,
    /// A machine is suspended: no clock of it moves meanwhile.
    Suspend,
    /// One direction between two, both, everything of one node, or all but one node, which alone sees both halves.
    OneWay,
    Cut,
    Isolate,
    Bridge,
    /// Cuts that are shorter than anybody's patience, one after another.
    Flap,
    Slow,
    Break,
    Flip,
    ClockStep,
    ClockDrift,
    /// All wall clocks are set back by the same.
    AllBack,
    /// A clock that is further off than is allowed.
    BadClock,
    FullDisk,
    SlowDisk,
    FailedSync,
    /// Operators: they copy a directory, keep a dump, restore one.
    Copy,
    BackUp,
    Restore,
}

pub const FAULTS: [Fault; 29] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::DieAtOperation,
    Fault::Wipe,
    Fault::PutBack,
    Fault::Orphan,
    Fault::Relapse,
    Fault::LateDump,
    Fault::Away,
    Fault::Pause,
    Fault::Suspend,
    Fault::OneWay,
    Fault::Cut,
    Fault::Isolate,
    Fault::Bridge,
    Fault::Flap,
    Fault::Slow,
    Fault::Break,
    Fault::Flip,
    Fault::ClockStep,
    Fault::ClockDrift,
    Fault::AllBack,
    Fault::BadClock,
    Fault::FullDisk,
    Fault::SlowDisk,
    Fault::FailedSync,
    Fault::Copy,
    Fault::BackUp,
    Fault::Restore,
];

/// What is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Pause(Process),
    Suspension(Process),
    Slowness(usize, usize),
    BadClock(usize),
    FullDisk(usize),
    SlowDisk(usize),
    /// An operator has looked at a node whose disk had failed.
    FailedSync(usize),
    /// The writer of an orphan dies; who has its writes is rolled back to then.
    Writer {
        writer: usize,
        holder: usize,
    },
    Holder(usize),
    /// Two nodes are connected, at last: from now on the answers of the one are slow. Not waited for beyond `until`.
    Unlinked {
        donor: usize,
        asker: usize,
        until: Duration,
    },
    /// Between two nodes everything is as fast as usual again, but for the pauses of a dump.
    Hastened {
        donor: usize,
        asker: usize,
    },
    /// The next turn of a relapse is taken.
    Relapse(Relapse),
    /// The next cut of a row of them.
    Flap {
        from: usize,
        to: usize,
        left: u32,
    },
}

/// How far a [`Fault::Relapse`] has come. Nobody is waited for beyond `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relapse {
    turn: Turn,
    subject: usize,
    far: usize,
    until: Duration,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Turn {
    Copy,
    Meet,
    Wipe,
    Forget,
    PutBack,
    Mend,
}

impl Simulation<'_> {
    pub fn schedule_fault(&mut self) {
        let mean = self.plan.fault_pause.as_micros() as u64;
        // Often soon after the one before, sometimes long after it.
        let wait = self.random.u64(0..=mean) * self.random.u64(0..=4);
        self.after(Duration::from_micros(wait), Event::Fault);
    }

    pub fn fault(&mut self) {
        if self.is_healing || self.plan.faults.is_empty() {
            return;
        }
        let fault = self.plan.faults[self.random.usize(0..self.plan.faults.len())];
        let id = self.random.usize(0..self.plan.nodes);
        let other = (id + self.random.usize(1..self.plan.nodes)) % self.plan.nodes;
        self.tell(&format!("{fault:?}, node {}, node {}", id + 1, other + 1));
        self.commit(fault, id, other);
        self.schedule_fault();
    }

    fn commit(&mut self, fault: Fault, id: usize, other: usize) {
        // From far shorter than a time-out to some time-outs.
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let most = scale / 10 + self.random.u64(0..scale * 3);
        let time = self.between(1, most);
        match fault {
            Fault::Kill => {
                self.kill(id, Death::Process, time);
                if self.one_in(4) {
                    self.kill(other, Death::Process, time);
                }
            }
            Fault::PowerLoss => {
                self.kill(id, Death::PowerLoss, time);
                if self.is_always_synced() && self.one_in(4) {
                    (0..self.plan.nodes).for_each(|id| self.kill(id, Death::PowerLoss, time));
                }
            }
            Fault::DieAtOperation if self.is_always_synced() => {
                let disk = self.machines[id].disk.clone();
                let operation = disk.operations() + self.random.u64(0..12);
                disk.die_at(operation);
            }
            Fault::Wipe if self.may_lose_disk(id) => self.kill(id, Death::Wiped, time),
            Fault::PutBack if self.may_lose_disk(id) && !self.machines[id].copies.is_empty() => self.kill(id, Death::PutBack, time),
            Fault::Orphan => self.orphan(id, other),
            Fault::Relapse => self.relapse(id, other),
            Fault::LateDump => self.delay_dump(id, other),
            Fault::Away => {
                let long = self.plan.tombstone_patience() + time;
                self.kill(id, Death::Process, long.min(self.plan.duration / 3));
            }
            Fault::Pause => {
                if let Some(process) = self.life(id).map(|life| life.process) {
                    self.count("pauses");
                    self.pause(id);
                    self.after(time, Event::End(End::Pause(process)));
                }
            }
            Fault::Suspend => {
                if let Some(process) = self.life(id).map(|life| life.process)
                    && self.machines[id].paused.is_none()
                {
                    self.count("suspensions");
                    self.pause(id);
                    self.machines[id].suspended = Some(self.now);
                    self.after(time, Event::End(End::Suspension(process)));
                }
            }
            Fault::OneWay => self.swallow(id, other, time),
            Fault::Cut => {
                self.swallow(id, other, time);
                self.swallow(other, id, time);
            }
            Fault::Isolate => self.split(time, |node| node == id),
            Fault::Bridge => {
                let halves: Vec<bool> = (0..self.plan.nodes).map(|_| self.random.bool()).collect();
                for from in 0..self.plan.nodes {
                    for to in 0..self.plan.nodes {
                        if from != to && from != id && to != id && halves[from] != halves[to] {
                            self.swallow(from, to, time);
                        }
                    }
                }
            }
            Fault::Flap => self.flap(id, other, 8),
            Fault::Slow => {
                self.count("slow links");
                self.draw(id, StepKind::Fault, || format!("link to n{} is slow", other + 1));
                // A little; or so much that an answer is late, but not so late that the connection is given up.
                let least = if self.one_in(2) { scale / 50 } else { scale };
                self.links[id][other].delay_more = self.between(least, scale * 3 / 2);
                self.after(time * 6, Event::End(End::Slowness(id, other)));
            }
            Fault::Break => self.break_one(),
            Fault::Flip => {
                let numbers: Vec<u64> = self.connections.keys().copied().collect();
                if numbers.into_iter().any(|number| self.flip(number)) {
                    self.count("flipped bits");
                }
            }
            Fault::ClockStep => {
                if !self.machines[id].clock.is_bad {
                    self.count("clock steps");
                    self.draw_fault(id, "its wall clock jumps");
                    let drift_ppm = self.machines[id].clock.drift_ppm;
                    self.machines[id].clock = WallClock { drift_ppm, ..self.draw_clock() };
                }
            }
            Fault::ClockDrift => {
                self.count("clock drifts");
                self.draw_fault(id, "its wall clock drifts");
                // From here on: what it is off by now stays.
                let drifted = self.now.as_millis() as i64 * self.machines[id].clock.drift_ppm / 1_000_000;
                let drift_ppm = self.random.i64(-400..=400);
                let again = self.now.as_millis() as i64 * drift_ppm / 1_000_000;
                let clock = &mut self.machines[id].clock;
                (clock.offset_ms, clock.drift_ppm) = (clock.offset_ms + drifted - again, drift_ppm);
            }
            Fault::AllBack => {
                let most = self.plan.clock_offset_max().as_millis() as i64 / 10;
                if self.set_back_ms < 2 * most {
                    self.count("all clocks set back");
                    (0..self.plan.nodes).for_each(|id| self.draw_fault(id, "its wall clock is set back"));
                    let back_ms = self.random.i64(1..=most);
                    self.set_back_ms += back_ms;
                    self.machines.iter_mut().for_each(|machine| machine.clock.offset_ms -= back_ms);
                }
            }
            Fault::BadClock => {
                if self.machines.iter().all(|machine| !machine.clock.is_bad) {
                    self.count("bad clocks");
                    self.draw_fault(id, "its wall clock is set wrong");
                    let most = self.plan.clock_offset_max().as_millis() as i64;
                    let off = self.random.i64(most * 3 / 2..most * 3);
                    self.machines[id].clock.offset_ms = if self.random.bool() { off } else { -off };
                    self.machines[id].clock.is_bad = true;
                    self.after(time * 3, Event::End(End::BadClock(id)));
                }
            }
            Fault::FullDisk if self.is_always_synced() => {
                let disk = self.machines[id].disk.clone();
                let left = self.random.usize(0..600);
                if left < 150 {
                    // As when no descriptor is left: what is open goes on.
                    self.count("disks that take no new file");
                    disk.fail_creates(true);
                    self.draw_fault(id, "its disk takes no new file");
                } else {
                    self.count("full disks");
                    disk.set_capacity(Some(disk.used() + left));
                    self.draw_fault(id, "its disk is full");
                }
                self.after(time * 2, Event::End(End::FullDisk(id)));
            }
            Fault::SlowDisk => {
                self.count("slow disks");
                self.draw_fault(id, "its disk is slow");
                self.machines[id].disk_slowness = self.random.u64(5..100);
                self.after(time, Event::End(End::SlowDisk(id)));
            }
            Fault::FailedSync if self.is_always_synced() => {
                self.count("failed syncs");
                self.draw_fault(id, "its disk fails to sync");
                self.machines[id].disk.fail_syncs(true);
                self.after(time, Event::End(End::FailedSync(id)));
            }
            Fault::Copy => self.copy_directory(id),
            Fault::BackUp => self.back_up(id),
            Fault::Restore => self.restore_backup(id),
            // More than a node with this `fsync` is promised to survive, or nothing to put back.
            Fault::DieAtOperation | Fault::Wipe | Fault::PutBack | Fault::FullDisk | Fault::FailedSync => {}
        }
    }

    pub fn end_fault(&mut self, end: End) {
        match end {
            End::Pause(process) => {
                let is_suspended = self.machines[process.machine].suspended.is_some();
                if self.life(process.machine).is_some_and(|life| life.process == process) && !is_suspended {
                    self.resume(process.machine);
                }
            }
            End::Suspension(process) => {
                if self.life(process.machine).is_some_and(|life| life.process == process) {
                    self.resume(process.machine);
                }
            }
            End::Slowness(from, to) => self.links[from][to].speed_up(&self.plan),
            End::BadClock(id) => self.set_clock_right(id),
            End::FullDisk(id) => {
                self.machines[id].disk.set_capacity(None);
                self.machines[id].disk.fail_creates(false);
                if let Some(life) = self.life_mut(id) {
                    life.is_to_resume = true;
                }
            }
            End::SlowDisk(id) => self.machines[id].disk_slowness = 1,
            End::FailedSync(id) => {
                self.machines[id].disk.fail_syncs(false);
                // Only a restart helps, if one has failed.
                if self.life(id).is_some_and(|life| life.replica().writable().is_err()) {
                    self.count("restarts of nodes whose disk had failed");
                    self.kill(id, Death::Process, Duration::from_millis(50));
                }
            }
            End::Writer { writer, holder } => {
                let scale = self.plan.peer_timeout().as_millis() as u64;
                let back = self.between(1, scale / 2);
                self.kill(writer, Death::Process, back);
                if self.one_in(2) {
                    self.copy_directory(holder);
                    let wait = self.between(scale / 2, scale * 3);
                    self.after(wait, Event::End(End::Holder(holder)));
                }
            }
            End::Holder(holder) if self.may_lose_disk(holder) => self.kill(holder, Death::PutBack, Duration::from_millis(20)),
            End::Holder(_) => {}
            End::Unlinked { until, .. } if self.now >= until || self.is_healing => {}
            End::Unlinked { donor, asker, .. } if self.is_connected(donor, asker) && self.is_connected(asker, donor) => {
                let scale = self.plan.peer_timeout().as_millis() as u64;
                self.links[donor][asker].delay_more = self.between(scale * 3 / 10, scale * 5 / 10);
                self.links[donor][asker].dump_pause = Duration::from_millis(scale * 7 / 10);
                // When the dump was given up: the donor is up again, and its lines go on trickling in.
                self.after(Duration::from_millis(scale * 3 / 2), Event::End(End::Hastened { donor, asker }));
            }
            End::Hastened { donor, asker } => {
                self.links[donor][asker].delay_more = Duration::ZERO;
                self.links[asker][donor].delay_more = Duration::ZERO;
            }
            End::Unlinked { .. } => self.after(Duration::from_millis(1), Event::End(end)),
            End::Relapse(relapse) => self.take_turn(relapse),
            End::Flap { from, to, left } => self.flap(from, to, left),
        }
    }

    fn draw_clock(&mut self) -> WallClock {
        let clock = WallClock::draw(&self.plan, &mut self.random);
        WallClock { offset_ms: clock.offset_ms - self.set_back_ms, ..clock }
    }

    pub fn set_clock_right(&mut self, id: usize) {
        self.machines[id].clock = self.draw_clock();
    }

    fn kill(&mut self, id: usize, death: Death, back_after: Duration) {
        // Without a sync at every write each death loses something, and more than one such loss at a time is not promised to be survived.
        if self.life(id).is_none() || !self.is_always_synced() && !self.may_lose_disk(id) {
            return;
        }
        self.count(match death {
            Death::Process => "kills",
            Death::PowerLoss => "power losses",
            Death::Wiped => "disks wiped",
            Death::PutBack => "old disks put back",
        });
        self.die(id, death);
        self.after(back_after, Event::Start(id));
    }

    fn swallow(&mut self, from: usize, to: usize, time: Duration) {
        self.count("links that swallow");
        let until = self.now + time;
        let link = &mut self.links[from][to];
        link.swallows_until = link.swallows_until.max(until);
        let until = link.swallows_until;
        self.draw_cut(from, to, until);
    }

    /// Between those that `is_inside` picks and the others.
    fn split(&mut self, time: Duration, is_inside: impl Fn(usize) -> bool) {
        for from in 0..self.plan.nodes {
            for to in 0..self.plan.nodes {
                if is_inside(from) != is_inside(to) {
                    self.swallow(from, to, time);
                }
            }
        }
    }

    fn flap(&mut self, from: usize, to: usize, left: u32) {
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let time = self.between(scale / 20, scale * 4 / 5);
        self.swallow(from, to, time);
        self.swallow(to, from, time);
        if left > 0 && !self.is_healing {
            let wait = self.between(scale / 20, scale / 3);
            self.after(time + wait, Event::End(End::Flap { from, to, left: left - 1 }));
        }
    }

    fn orphan(&mut self, writer: usize, holder: usize) {
        let third = (0..self.plan.nodes).filter(|node| *node != writer && *node != holder).nth(self.random.usize(0..self.plan.nodes - 2));
        let Some(third) = third else { return };
        self.count("orphans");
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let deaf = self.between(scale / 3, scale);
        self.swallow(writer, third, deaf);
        let dies = self.between(scale / 10, scale * 2 / 3);
        self.after(dies, Event::End(End::Writer { writer, holder }));
        match self.random.u32(0..4) {
            0 => {
                let (from, to) = if self.one_in(4) { (third, holder) } else { (holder, third) };
                self.links[from][to].delay_more = self.between(scale, scale * 3 / 2);
                self.after(Duration::from_millis(scale * 10), Event::End(End::Slowness(from, to)));
            }
            1 => {
                // It hears the others, and they do not hear it.
                let mute = self.between(scale * 2, scale * 4);
                (0..self.plan.nodes).filter(|other| *other != third).for_each(|other| self.swallow(third, other, mute));
            }
            // After a dump that took long it does not ask for another one for as long.
            _ => {}
        }
    }

    /// The subject is cut off, and takes writes that ask for nobody else; its disk is copied. What was deleted meanwhile, and its writes, it exchanges with the far one, while that is cut off from the
    /// rest. Then it loses its disk and returns to the rest, who have never heard of its writes, and in the end to its old copy.
    fn relapse(&mut self, subject: usize, far: usize) {
        if !self.may_lose_disk(subject) {
            return;
        }
        self.count("relapses");
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let until = self.now + Duration::from_millis(scale * 60);
        (0..self.plan.nodes).filter(|other| *other != subject).for_each(|other| self.cut_until(subject, other, until));
        let wait = self.between(scale, scale * 4);
        self.after(wait, Event::End(End::Relapse(Relapse { turn: Turn::Copy, subject, far, until })));
    }

    fn take_turn(&mut self, relapse: Relapse) {
        if self.is_healing {
            return;
        }
        let Relapse { turn, subject, far, until } = relapse;
        let scale = self.plan.peer_timeout().as_millis() as u64;
        let rest: Vec<usize> = (0..self.plan.nodes).filter(|node| *node != subject && *node != far).collect();
        let meets = |other: usize| self.is_connected(subject, other) && self.is_connected(other, subject);
        let (next, wait) = match turn {
            Turn::Wipe if self.now < until && !meets(far) => (turn, Duration::from_millis(20)),
            Turn::Forget if self.now < until && !rest.iter().all(|other| meets(*other)) => (turn, Duration::from_millis(20)),
            Turn::Wipe | Turn::PutBack if !self.may_lose_disk(subject) => (Turn::Mend, Duration::ZERO),
            Turn::Copy => {
                self.machines[subject].copies.clear();
                self.copy_directory(subject);
                (Turn::Meet, self.between(scale / 2, scale * 3))
            }
            Turn::Meet => {
                rest.into_iter().for_each(|other| self.cut_until(far, other, until));
                self.cut_until(subject, far, self.now);
                (Turn::Wipe, self.between(scale, scale * 3))
            }
            Turn::Wipe => {
                self.kill(subject, Death::Wiped, Duration::from_millis(20));
                self.cut_until(subject, far, until);
                rest.into_iter().for_each(|other| self.cut_until(subject, other, self.now));
                (Turn::Forget, self.between(scale, scale * 2))
            }
            Turn::Forget => (Turn::PutBack, self.between(scale / 2, scale * 6)),
            Turn::PutBack => {
                self.kill(subject, Death::PutBack, Duration::from_millis(20));
                (Turn::Mend, self.between(scale, scale * 6))
            }
            Turn::Mend => {
                rest.into_iter().for_each(|other| self.cut_until(far, other, self.now));
                (0..self.plan.nodes).filter(|other| *other != subject).for_each(|other| self.cut_until(subject, other, self.now));
                return;
            }
        };
        self.after(wait, Event::End(End::Relapse(Relapse { turn: next, ..relapse })));
    }

    /// Between these two, in both directions.
    pub fn cut_until(&mut self, one: usize, other: usize, until: Duration) {
        self.links[one][other].swallows_until = until;
        self.links[other][one].swallows_until = until;
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

    /// A node returns and asks one of the others, the donor, before all: question and answer take longer than its patience, though neither falls silent for so long. When it has given up, the
    /// rest can reach it, and it has everything from them before the donor's lines begin to trickle in.
    fn delay_dump(&mut self, id: usize, donor: usize) {
        self.count("late dumps");
        let patience = self.plan.peer_timeout();
        let scale = patience.as_millis() as u64;
        let death = if self.one_in(2) && self.may_lose_disk(id) { Death::Wiped } else { Death::Process };
        let back = self.between(scale / 2, scale * 5);
        let until = self.now + back + 40 * patience;
        self.kill(id, death, back);
        let others = (0..self.plan.nodes).filter(|other| *other != donor && *other != id);
        others.for_each(|other| self.swallow(other, id, back + patience));
        self.links[id][donor].delay_more = self.between(scale * 9 / 20, scale * 12 / 20);
        self.after(back, Event::End(End::Unlinked { donor, asker: id, until }));
        self.at(until, Event::End(End::Slowness(id, donor)));
        self.at(until, Event::End(End::Slowness(donor, id)));
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
