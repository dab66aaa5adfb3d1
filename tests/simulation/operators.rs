//! The operators: they copy a directory, keep a dump, restore one, and in the end mend everything.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::machine::Crash;
use crate::simulation::{Simulator, SimulatorEvent};
use kvmesh::replication::status;
use kvmesh::replication::sync::restore::{self, NotRestored};
use kvmesh::replication::sync::serving;
use kvmesh::wire::dump::{DumpReader, Line};

/// Copies and dumps that are kept. Beyond this, a new one replaces one of them.
const KEPT_MAX: usize = 3;

impl Simulator<'_> {
    /// Copies a data directory at one moment, as a snapshot of the file system does.
    pub fn copy_directory(&mut self, id: usize) {
        self.count("directories copied");
        self.draw(id, StepKind::Fault, || "its directory is copied".to_owned());
        let copy = self.machines[id].disk.copy();
        let slot = self.random.usize(0..KEPT_MAX);
        let copies = &mut self.machines[id].copies;
        if slot < copies.len() { copies[slot] = copy } else { copies.push(copy) }
    }

    /// Takes a `DUMP` while everything goes on. Between its lines passes the time that a client
    /// takes for them, in which the events of the queue happen.
    pub fn back_up(&mut self, id: usize) {
        let Some(running) = self.running(id).filter(|running| running.replica().is_open()) else { return };
        let mut dump = serving::dump(running.replica());
        let mut lines = Vec::new();
        let process = running.process;
        while dump.write(300, &mut lines) {
            let until = self.now + Duration::from_millis(2);
            self.run_until(|simulator| simulator.now >= until);
            if self.running(id).is_none_or(|running| running.process != process) {
                return;
            }
        }
        self.count("dumps kept");
        let slot = self.random.usize(0..KEPT_MAX);
        if slot < self.backups.len() { self.backups[slot] = lines } else { self.backups.push(lines) }
    }

    /// Gives a dump to `RESTORE`, line by line, while everything goes on.
    pub fn restore_backup(&mut self, id: usize) {
        if self.backups.is_empty() || self.machines[id].paused.is_some() {
            return;
        }
        let lines = self.backups[self.random.usize(0..self.backups.len())].clone();
        let Some(running) = self.running(id) else { return };
        let process = running.process;
        let Ok(mut restore) = restore::begin_restore(running.replica(), self.now_at(id)) else { return };
        self.draw(id, StepKind::Fault, || "an operator restores a dump".to_owned());
        let mut reader = DumpReader::default();
        for line in lines.split(|byte| *byte == b'\n') {
            if self.one_in(3) {
                let until = self.now + Duration::from_millis(2);
                self.run_until(|simulator| simulator.now >= until);
                if self.violation.is_some() || self.running(id).is_none_or(|running| running.process != process) {
                    return;
                }
            }
            let now = self.now_at(id);
            let taken = match reader.line(line).expect("a line of a dump") {
                Line::Header(header) => restore.begin(header, now),
                Line::Entry(entry) => restore.take(entry, now),
                Line::End(end) => {
                    match restore.prove(&end, now) {
                        Ok(_) => self.count("restores"),
                        // While it was restored, this node has fallen behind the dump, or the dump
                        // behind the others.
                        Err(NotRestored::Stale(_) | NotRestored::Unproven(_)) => self.count("restores refused at the end"),
                        Err(why) => self.violate("replies", format!("a whole dump is refused at its end: {why:?}")),
                    }
                    self.wake(id);
                    return;
                }
            };
            match taken {
                Ok(()) => {}
                Err(NotRestored::Stale(_)) => {
                    self.count("restores refused");
                    return;
                }
                // The stamps of the dump may be ahead of a clock that is set wrong, and the disk
                // may fail.
                Err(_) => {
                    self.count("restores failed");
                    return;
                }
            }
        }
    }

    /// Ends all faults and all requests, and waits until all nodes are equal.
    pub fn heal(&mut self) {
        self.is_healing = true;
        if let Some(diagram) = &mut self.diagram {
            diagram.heal(self.now);
        }
        for id in 0..self.plan.nodes {
            self.mend(id);
        }
        let deadline = self.now + Duration::from_secs(300);
        let step = Duration::from_millis(250);
        while self.violation.is_none() {
            let until = self.now + step;
            self.after(step, SimulatorEvent::Check);
            self.run_until(|simulator| simulator.now >= until);
            self.restart_failed_nodes();
            if self.clients.iter().all(|client| client.is_idle()) && self.is_converged() {
                return;
            }
            if self.now > deadline {
                let states = self.describe();
                self.violate("converges", format!("not equal {} s after everything was mended: {states}", 300));
            }
        }
    }

    fn mend(&mut self, id: usize) {
        for other in 0..self.plan.nodes {
            self.links[id][other].speed_up(&self.plan);
            self.links[id][other].cut_until = Duration::ZERO;
        }
        self.set_clock_right(id);
        self.machines[id].disk_slowness = 1;
        self.machines[id].disk.set_capacity(None);
        self.machines[id].disk.fail_creates(false);
        self.machines[id].disk.fail_syncs(false);
        if self.machines[id].paused.is_some() {
            self.resume(id);
        }
        if let Some(running) = self.running_mut(id) {
            running.is_to_resume = true;
        } else {
            self.after(Duration::from_millis(10), SimulatorEvent::Start(id));
        }
    }

    /// Restarts nodes that crashed while they were mended, or that do not log.
    fn restart_failed_nodes(&mut self) {
        for id in 0..self.plan.nodes {
            let fails = self
                .running(id)
                .is_some_and(|running| status::writable(running.replica()).is_err() && running.snapshot.is_none() && !running.is_to_resume);
            if fails && (self.is_always_synced() || self.may_lose_disk(id)) {
                self.crash(id, Crash::Process);
            }
            if self.running(id).is_none() {
                self.after(Duration::from_millis(10), SimulatorEvent::Start(id));
            }
        }
    }
}
