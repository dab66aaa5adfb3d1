//! What people do to a mesh: they copy a directory, keep a dump, restore one, and in the end they mend everything.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::machine::Death;
use crate::simulation::{Event, Simulation};
use kvmesh::replication::sync::restore::NotRestored;
use kvmesh::wire::dump::{DumpReader, Line};

/// Copies and dumps that are kept; another one takes the place of any of them.
const KEPT_MAX: usize = 3;

impl Simulation<'_> {
    /// As a file system's snapshot would be: all of one moment.
    pub fn copy_directory(&mut self, id: usize) {
        self.count("directories copied");
        self.draw(id, StepKind::Fault, || "its directory is copied".to_owned());
        let copy = self.machines[id].disk.copy();
        let place = self.random.usize(0..KEPT_MAX);
        let copies = &mut self.machines[id].copies;
        if place < copies.len() { copies[place] = copy } else { copies.push(copy) }
    }

    /// `DUMP`, while everything goes on: its lines are taken in the time that a client takes for them, so what happens between them is what lies in the queue.
    pub fn back_up(&mut self, id: usize) {
        let Some(life) = self.life(id).filter(|life| life.replica().is_open()) else { return };
        let mut dump = life.replica().dump();
        let mut lines = Vec::new();
        let process = life.process;
        while dump.write(300, &mut lines) {
            let until = self.now + Duration::from_millis(2);
            self.run_until(|simulation| simulation.now >= until);
            if self.life(id).is_none_or(|life| life.process != process) {
                return;
            }
        }
        self.count("dumps kept");
        let place = self.random.usize(0..KEPT_MAX);
        if place < self.backups.len() { self.backups[place] = lines } else { self.backups.push(lines) }
    }

    /// `RESTORE`, line by line, while everything goes on.
    pub fn restore_backup(&mut self, id: usize) {
        if self.backups.is_empty() || self.machines[id].paused.is_some() {
            return;
        }
        let lines = self.backups[self.random.usize(0..self.backups.len())].clone();
        let Some(life) = self.life(id) else { return };
        let process = life.process;
        let Ok(mut restore) = life.replica().begin_restore(self.now_at(id)) else { return };
        self.draw(id, StepKind::Fault, || "an operator restores a dump".to_owned());
        let mut reader = DumpReader::default();
        for line in lines.split(|byte| *byte == b'\n') {
            if self.one_in(3) {
                let until = self.now + Duration::from_millis(2);
                self.run_until(|simulation| simulation.now >= until);
                if self.violation.is_some() || self.life(id).is_none_or(|life| life.process != process) {
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
                        // This node has fallen behind it, or it behind the others, while it was being restored.
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
                // Its stamps may be ahead of a clock that is set wrong, and its disk may fail.
                Err(_) => {
                    self.count("restores that failed");
                    return;
                }
            }
        }
    }

    /// Everything is mended, and everybody is patient: then all must be equal.
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
            self.after(step, Event::Check);
            self.run_until(|simulation| simulation.now >= until);
            self.mend_what_fails();
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
            self.links[id][other].swallows_until = Duration::ZERO;
        }
        self.set_clock_right(id);
        self.machines[id].disk_slowness = 1;
        self.machines[id].disk.set_capacity(None);
        self.machines[id].disk.fail_creates(false);
        self.machines[id].disk.fail_syncs(false);
        if self.machines[id].paused.is_some() {
            self.resume(id);
        }
        if let Some(life) = self.life_mut(id) {
            life.is_to_resume = true;
        } else {
            self.after(Duration::from_millis(10), Event::Start(id));
        }
    }

    /// Who died while it was mended, or does not log.
    fn mend_what_fails(&mut self) {
        for id in 0..self.plan.nodes {
            let fails =
                self.life(id).is_some_and(|life| life.replica().writable().is_err() && life.snapshot.is_none() && !life.is_to_resume);
            if fails && (self.is_always_synced() || self.may_lose_disk(id)) {
                self.die(id, Death::Process);
            }
            if self.life(id).is_none() {
                self.after(Duration::from_millis(10), Event::Start(id));
            }
        }
    }
}
