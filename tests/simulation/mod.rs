//! A whole mesh in one thread, from one seed: three to five nodes with their disks, clocks, links and clients, what goes wrong with them, and what must be true all the same.
//!
//! The decisions are the shipped code: [`Replica`](kvmesh::replication::replica::Replica) and all behind it, the write-ahead log, and the sessions from the bytes of requests to those of replies. Replaced are
//! three parts. The network ([`network`]): links that delay, break and lose their tail, some of them narrow. The disk ([`SimulatedDisk`](kvmesh::testing::simulated_disk::SimulatedDisk)): it forgets what was not
//! synced, tears what was written last, fills up, fails. The clocks: they jump and drift. What takes time takes simulated time: events lie in a queue by when they happen, and
//! nothing waits. Each turn of a thread is one step here: nothing happens in the middle of a message, nobody waits in the middle of a write to a socket, and no node stops in order; the tests on
//! real processes have those. So a minute of a mesh takes some milliseconds, and a seed always leads to the same run: [`Report::trace`] is the proof.
//!
//! What a run does is drawn from its seed ([`plan`]), and the faults that it meets are ([`faults`]). Everything that clients wrote and heard is remembered ([`history`]); while it runs, and at the
//! end, when all is healed, it is held against what the nodes hold and claim ([`checks`]). `kvsim` runs seeds from a shell.

mod checks;
mod clients;
mod diagram;
mod faults;
mod history;
mod machine;
mod network;
mod operators;
mod plan;
mod script;

use std::cell::{Cell, OnceCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use rapidhash::v3::rapidhash_v3;

pub use checks::{CHECKS, Violation};
pub use diagram::DiagramWindow;
pub use plan::Character;

use clients::ClientState;
use diagram::{Diagram, StepKind};
use faults::End;
use history::History;
use machine::{Ground, Machine};
use network::{Connection, Link};
use plan::Plan;

/// Incarnations of nodes in one run. Beyond this nothing dies any more.
const INCARNATIONS_MAX: usize = 1024;
/// Events in one run: one that goes on for ever is a finding.
const EVENTS_MAX: u64 = 20_000_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// A fingerprint of every event, message and reply: equal for two runs of one seed.
    pub trace: u64,
    pub simulated: Duration,
    pub events: u64,
    /// What happened how often.
    pub tally: BTreeMap<&'static str, u64>,
    /// The first thing that was not as it must be.
    pub violation: Option<Violation>,
    /// The diagram, if one was asked for.
    pub svg: Option<String>,
}

/// Runs one seed to its end, or to the first violation. A panic of the shipped code is a violation, too.
/// With a window, a part of the run is drawn; the run is the same as without.
pub fn run(seed: u64, character: Character, window: Option<DiagramWindow>) -> Report {
    let arena = Arena::default();
    let mut simulation = Simulation::new(&arena, seed, character);
    simulation.diagram = window.map(|_| Diagram::default());
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulation.run())).err();
    if let Some(panic) = panic {
        let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        simulation.violate("no-panic", words.unwrap_or("a panic without words").to_owned());
        let report = simulation.report(window);
        // Half of a state is left, and taking that down may panic again.
        std::mem::forget(simulation);
        std::mem::forget(arena);
        return report;
    }
    simulation.report(window)
}

/// Incarnations are borrowed from by their rounds, dumps and snapshots, and end with the run.
struct Arena {
    lives: Vec<OnceCell<Box<Ground>>>,
    used: Cell<usize>,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena { lives: (0..INCARNATIONS_MAX).map(|_| OnceCell::new()).collect(), used: Cell::new(0) }
    }
}

impl Arena {
    fn is_full(&self) -> bool {
        // ByteBudget for the starts that the end of a run takes.
        self.used.get() + 64 > INCARNATIONS_MAX
    }

    fn keep(&self, ground: Ground) -> &Ground {
        let place = self.used.get();
        self.used.set(place + 1);
        self.lives[place].get_or_init(|| Box::new(ground))
    }
}

/// A process: the machine, and which of its incarnations. What is meant for an earlier one does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    machine: usize,
    life: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// The process of a machine is started.
    Start(usize),
    Heartbeat(Process),
    /// The replicator's turn, the log's, the snapshot's.
    Replicate(Process),
    Log(Process),
    Snapshot(Process),
    /// Of the link to this peer.
    Dial(Process, usize),
    Speak(Process, usize),
    /// Of the connection of this number: something is there for the end that listens.
    Arrive(u64),
    /// The answer to the HELLO is there, or the patience with it is over.
    Answer(u64),
    DialTimeout(u64),
    /// The end that speaks hears that the other one has closed.
    Reset(u64),
    /// A client does something; the time-out of its operation is over.
    Client(usize),
    Late(usize),
    /// This line of the script is due.
    Script(usize),
    Fault,
    /// What a fault has begun is over.
    End(End),
    Check,
}

struct Simulation<'a> {
    arena: &'a Arena,
    seed: u64,
    plan: Plan,
    random: fastrand::Rng,
    /// True time, since the run began.
    now: Duration,
    /// What `Instant` this is: only differences count.
    epoch: Instant,
    queue: BinaryHeap<Reverse<(Duration, u64, EventBox)>>,
    scheduled: u64,
    events: u64,
    trace: u64,
    machines: Vec<Machine<'a>>,
    /// By who speaks and who listens.
    links: Vec<Vec<Link>>,
    connections: BTreeMap<u64, Connection<'a>>,
    connected: u64,
    clients: Vec<ClientState<'a>>,
    history: History,
    /// Dumps that an operator keeps.
    backups: Vec<Vec<u8>>,
    /// How late it was by any clock that was right.
    latest_wall_ms: u64,
    /// How far all wall clocks were set back.
    set_back_ms: i64,
    /// The greatest lead over true time that a reference clock had, in microseconds.
    fastest_us: i64,
    /// No more faults, no more requests.
    is_healing: bool,
    tally: BTreeMap<&'static str, u64>,
    violation: Option<Violation>,
    /// Only if the run is drawn. Recording in it changes nothing else.
    diagram: Option<Diagram>,
}

/// Of two events at the same time the one that was scheduled first happens first, so they need no order of their own.
#[derive(Clone, Copy, Debug)]
struct EventBox(Event);

impl PartialEq for EventBox {
    fn eq(&self, _: &EventBox) -> bool {
        true
    }
}
impl Eq for EventBox {}
impl PartialOrd for EventBox {
    fn partial_cmp(&self, other: &EventBox) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for EventBox {
    fn cmp(&self, _: &EventBox) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<'a> Simulation<'a> {
    fn new(arena: &'a Arena, seed: u64, character: Character) -> Simulation<'a> {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = Plan::draw(character, &mut random);
        Simulation::of(arena, seed, plan, random)
    }

    fn of(arena: &'a Arena, seed: u64, plan: Plan, mut random: fastrand::Rng) -> Simulation<'a> {
        let machines = (0..plan.nodes).map(|id| Machine::new(id, &plan, &mut random)).collect();
        let links = (0..plan.nodes).map(|_| (0..plan.nodes).map(|_| Link::draw(&plan, &mut random)).collect()).collect();
        let clients = (0..plan.clients).map(|number| ClientState::draw(number, &plan, &mut random)).collect();
        let mut simulation = Simulation {
            arena,
            seed,
            plan,
            random,
            now: Duration::ZERO,
            epoch: Instant::now(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            events: 0,
            trace: 0,
            machines,
            links,
            connections: BTreeMap::new(),
            connected: 0,
            clients,
            history: History::default(),
            backups: Vec::new(),
            latest_wall_ms: 0,
            set_back_ms: 0,
            fastest_us: i64::MIN,
            is_healing: false,
            tally: BTreeMap::new(),
            violation: None,
            diagram: None,
        };
        for machine in 0..simulation.plan.nodes {
            let wait = simulation.between(0, 2_000);
            simulation.after(wait, Event::Start(machine));
        }
        if simulation.plan.is_scripted {
            simulation.schedule_script();
            return simulation;
        }
        for client in 0..simulation.plan.clients {
            let wait = simulation.between(0, 3_000);
            simulation.after(wait, Event::Client(client));
        }
        simulation.schedule_fault();
        simulation.after(Duration::from_secs(1), Event::Check);
        simulation
    }

    fn run(&mut self) {
        let end = self.plan.duration;
        self.run_until(|simulation| simulation.now >= end);
        self.heal();
        self.check_healed();
    }

    /// Lets everything happen that lies in the queue, until `is_over` or a violation. Asked after every event.
    fn run_until(&mut self, mut is_over: impl FnMut(&mut Simulation<'a>) -> bool) {
        while self.violation.is_none() && !is_over(self) {
            let Some(Reverse((at, number, EventBox(event)))) = self.queue.pop() else { return };
            self.now = at;
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.violate("no-panic", format!("more than {EVENTS_MAX} events"));
                return;
            }
            self.note(&[at.as_micros() as u64, number]);
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(machine) => self.start(machine),
            Event::Heartbeat(process) => self.with_process(process, event, Simulation::beat),
            Event::Replicate(process) => self.with_process(process, event, Simulation::replicate),
            Event::Log(process) => self.with_process(process, event, Simulation::log),
            Event::Snapshot(process) => self.with_process(process, event, Simulation::snapshot),
            Event::Dial(process, peer) => self.with_process(process, event, |simulation, machine| simulation.dial(machine, peer)),
            Event::Speak(process, peer) => self.with_process(process, event, |simulation, machine| simulation.speak(machine, peer)),
            Event::Arrive(connection) => self.arrive(connection),
            Event::Answer(connection) => self.answer(connection),
            Event::DialTimeout(connection) => self.give_up_dial(connection),
            Event::Reset(connection) => self.reset(connection),
            Event::Client(client) => self.act(client),
            Event::Late(client) => self.give_up_waiting(client),
            Event::Script(line) => self.act_out(line),
            Event::Fault => self.fault(),
            Event::End(end) => self.end_fault(end),
            Event::Check => {
                self.check_now();
                self.after(Duration::from_secs(1), Event::Check);
            }
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, EventBox(event))));
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// A random time, in milliseconds.
    fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.random.u64(least * 1_000..=most * 1_000))
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(0..n) == 0
    }

    /// For whoever follows a run by its log.
    fn tell(&self, what: &str) {
        log::info!("-- seed {}, {:.6} s: {what}", self.seed, self.now.as_secs_f64());
    }

    /// A step of one node for the diagram, if the run is drawn.
    fn draw(&mut self, machine: usize, kind: StepKind, text: impl FnOnce() -> String) {
        if let Some(diagram) = &mut self.diagram {
            diagram.step(self.now, Some(machine), kind, text());
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Into the trace.
    fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = (self.trace ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        self.note(&[rapidhash_v3(bytes)]);
    }

    fn violate(&mut self, check: &'static str, what: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { check, what, at });
    }

    fn report(&mut self, window: Option<DiagramWindow>) -> Report {
        let (seed, trace, simulated, events) = (self.seed, self.trace, self.now, self.events);
        let diagram = self.diagram.take().zip(window);
        let svg = diagram.map(|(diagram, window)| diagram.draw(seed, self.plan.nodes, window, self.violation.as_ref()));
        Report { seed, trace, simulated, events, tally: self.tally.clone(), violation: self.violation.clone(), svg }
    }
}

#[cfg(test)]
mod tests;
