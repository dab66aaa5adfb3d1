//! The simulator: a whole mesh in one thread, from one seed. Three to five nodes have disks,
//! clocks, links and clients; faults happen to them, and what is promised must hold all the same.
//!
//! The shipped code decides: [`Replica`](kvmesh::replication::replica::Replica) and everything
//! behind it, the write-ahead log, and the sessions, from the bytes of requests to the bytes of
//! replies. Three parts are replaced:
//!
//! - the network ([`network`]): links delay, break and lose what was sent last; some are narrow;
//! - the disk ([`SimulatedDisk`](kvmesh::testing::simulated_disk::SimulatedDisk)): it forgets what
//!   was not synced, tears what was written last, fills up, and fails;
//! - the clocks: they jump and drift.
//!
//! Whatever takes time takes simulated time. Events lie in a queue, ordered by when they happen,
//! and nothing waits, so a minute of a mesh takes some milliseconds. A seed always leads to the
//! same run: [`RunReport::trace`] is the proof.
//!
//! Each turn of a thread is one step. Not simulated are thread interleavings inside one message,
//! sockets that block in the middle of a write, and orderly stops. The tests on real processes have
//! those.
//!
//! All that a run does is drawn from its seed ([`plan`]), and so are its faults ([`faults`]). All
//! that clients asked, wrote and were answered is recorded ([`history`]). During the run, and at
//! its end when everything is healed, the nodes are checked against that record ([`checks`]).
//! `kvsim` runs seeds from a shell, and draws them ([`diagram`]).

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
pub use plan::RunKind;

use clients::ClientState;
use diagram::{Diagram, StepKind};
use faults::FaultEnd;
use history::RunHistory;
use machine::{Machine, NodeParts};
use network::{SimulatedConnection, SimulatedLink};
use plan::RunPlan;

/// Incarnations of all nodes in one run. Beyond this, no node crashes any more.
const INCARNATIONS_MAX: usize = 1024;
/// Events in one run. Beyond this, the run counts as one that never ends, which is a violation.
const EVENTS_MAX: u64 = 20_000_000;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    pub seed: u64,
    /// A fingerprint of every event, message and reply. Equal for two runs of one seed.
    pub trace: u64,
    pub simulated: Duration,
    pub events: u64,
    /// How often each kind of thing happened.
    pub tally: BTreeMap<&'static str, u64>,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// The diagram as SVG, if one was asked for.
    pub svg: Option<String>,
}

/// Runs one seed to its end, or to the first violation. A panic of the shipped code is a violation,
/// too. With a window, a part of the run is drawn; the run is the same as without one.
#[expect(clippy::mem_forget, reason = "after a panic the state is half changed, and dropping it may panic again")]
pub fn run(seed: u64, kind: RunKind, window: Option<DiagramWindow>) -> RunReport {
    let arena = Arena::default();
    let mut simulator = Simulator::new(&arena, seed, kind);
    simulator.diagram = window.map(|_| Diagram::default());
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulator.run())).err();
    if let Some(panic) = panic {
        let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        simulator.violate("no-panic", words.unwrap_or("a panic without words").to_owned());
        let report = simulator.report(window);
        std::mem::forget(simulator);
        std::mem::forget(arena);
        return report;
    }
    simulator.report(window)
}

/// The parts of all incarnations. Rounds, dumps and snapshots borrow from them until the run ends.
struct Arena {
    nodes: Vec<OnceCell<Box<NodeParts>>>,
    used: Cell<usize>,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena { nodes: (0..INCARNATIONS_MAX).map(|_| OnceCell::new()).collect(), used: Cell::new(0) }
    }
}

impl Arena {
    fn is_full(&self) -> bool {
        // Some are left for the starts at the end of a run.
        self.used.get() + 64 > INCARNATIONS_MAX
    }

    fn store(&self, parts: NodeParts) -> &NodeParts {
        let index = self.used.get();
        self.used.set(index + 1);
        self.nodes[index].get_or_init(|| Box::new(parts))
    }
}

/// One incarnation of a machine's process. An event for an earlier incarnation does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ProcessId {
    machine: usize,
    incarnation: u64,
}

/// An event that happens at a time of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SimulatorEvent {
    /// The process of a machine starts.
    Start(usize),
    Heartbeat(ProcessId),
    /// The replicator, the log thread or the snapshot thread has its turn.
    Replicate(ProcessId),
    Log(ProcessId),
    Snapshot(ProcessId),
    /// The link to this peer dials, or sends what waits in its outbox.
    Dial(ProcessId, usize),
    SendTurn(ProcessId, usize),
    /// Something has arrived on the connection of this number, for its receiving end.
    Arrive(u64),
    /// The answer to the HELLO has arrived, or took longer than the sending end waits for it.
    HelloAnswer(u64),
    DialTimeout(u64),
    /// The sending end learns that the receiving end has closed.
    Reset(u64),
    /// A client has its turn, or its round has timed out.
    Client(usize),
    RoundTimeout(usize),
    /// A line of the script is due.
    Script(usize),
    Fault,
    /// A fault that lasts is over, or takes its next step.
    End(FaultEnd),
    Check,
}

/// The state of a run: machines, links, clients, the queue of events, and the history.
struct Simulator<'a> {
    arena: &'a Arena,
    seed: u64,
    plan: RunPlan,
    random: fastrand::Rng,
    /// True time since the run began.
    now: Duration,
    /// An arbitrary origin for [`Instant`]s. Only differences count.
    epoch: Instant,
    queue: BinaryHeap<Reverse<(Duration, u64, QueuedEvent)>>,
    scheduled: u64,
    events: u64,
    trace: u64,
    machines: Vec<Machine<'a>>,
    /// By the machine that sends and the machine that receives.
    links: Vec<Vec<SimulatedLink>>,
    connections: BTreeMap<u64, SimulatedConnection<'a>>,
    connected: u64,
    clients: Vec<ClientState<'a>>,
    history: RunHistory,
    /// The dumps that an operator keeps.
    backups: Vec<Vec<u8>>,
    /// The latest wall time that any correct clock has shown.
    latest_wall_ms: u64,
    /// How far all wall clocks were set back together.
    set_back_ms: i64,
    /// The greatest lead over true time that any reference clock had, in microseconds.
    fastest_us: i64,
    /// The run is at its end: no more faults and no more requests.
    is_healing: bool,
    tally: BTreeMap<&'static str, u64>,
    violation: Option<Violation>,
    /// Present only if the run is drawn. Recording in it changes nothing else.
    diagram: Option<Diagram>,
}

/// An event in the queue. It has no order of its own: of two events at the same time, the one that
/// was scheduled first happens first.
#[derive(Clone, Copy, Debug)]
struct QueuedEvent(SimulatorEvent);

impl PartialEq for QueuedEvent {
    fn eq(&self, _: &QueuedEvent) -> bool {
        true
    }
}
impl Eq for QueuedEvent {}
impl PartialOrd for QueuedEvent {
    fn partial_cmp(&self, other: &QueuedEvent) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for QueuedEvent {
    fn cmp(&self, _: &QueuedEvent) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<'a> Simulator<'a> {
    fn new(arena: &'a Arena, seed: u64, kind: RunKind) -> Simulator<'a> {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = RunPlan::draw(kind, &mut random);
        Simulator::with_plan(arena, seed, plan, random)
    }

    fn with_plan(arena: &'a Arena, seed: u64, plan: RunPlan, mut random: fastrand::Rng) -> Simulator<'a> {
        let machines = (0..plan.nodes).map(|id| Machine::new(id, &plan, &mut random)).collect();
        let links = (0..plan.nodes).map(|_| (0..plan.nodes).map(|_| SimulatedLink::draw(&plan, &mut random)).collect()).collect();
        let clients = (0..plan.clients).map(|number| ClientState::draw(number, &plan, &mut random)).collect();
        let mut simulator = Simulator {
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
            history: RunHistory::default(),
            backups: Vec::new(),
            latest_wall_ms: 0,
            set_back_ms: 0,
            fastest_us: i64::MIN,
            is_healing: false,
            tally: BTreeMap::new(),
            violation: None,
            diagram: None,
        };
        for machine in 0..simulator.plan.nodes {
            let wait = simulator.random_ms(0, 2_000);
            simulator.after(wait, SimulatorEvent::Start(machine));
        }
        if simulator.plan.is_scripted {
            simulator.schedule_script();
            return simulator;
        }
        if !simulator.plan.faults.is_empty() && simulator.one_in(4) {
            simulator.begin_apart();
        }
        for client in 0..simulator.plan.clients {
            let wait = simulator.random_ms(0, 3_000);
            simulator.after(wait, SimulatorEvent::Client(client));
        }
        simulator.schedule_fault();
        simulator.after(Duration::from_secs(1), SimulatorEvent::Check);
        simulator
    }

    fn run(&mut self) {
        let end = self.plan.duration;
        self.run_until(|simulator| simulator.now >= end);
        self.heal();
        self.check_healed();
    }

    /// Handles the events of the queue until `is_over` or a violation. `is_over` is asked after
    /// every event.
    fn run_until(&mut self, mut is_over: impl FnMut(&mut Simulator<'a>) -> bool) {
        while self.violation.is_none() && !is_over(self) {
            let Some(Reverse((at, number, QueuedEvent(event)))) = self.queue.pop() else { return };
            self.now = at;
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.violate("no-panic", format!("more than {EVENTS_MAX} events"));
                return;
            }
            self.trace_numbers(&[at.as_micros() as u64, number]);
            self.handle(event);
        }
    }

    fn handle(&mut self, event: SimulatorEvent) {
        match event {
            SimulatorEvent::Start(machine) => self.start(machine),
            SimulatorEvent::Heartbeat(process) => self.with_process(process, event, Simulator::heartbeat),
            SimulatorEvent::Replicate(process) => self.with_process(process, event, Simulator::replicate),
            SimulatorEvent::Log(process) => self.with_process(process, event, Simulator::log),
            SimulatorEvent::Snapshot(process) => self.with_process(process, event, Simulator::snapshot),
            SimulatorEvent::Dial(process, peer) => self.with_process(process, event, |simulator, machine| simulator.dial(machine, peer)),
            SimulatorEvent::SendTurn(process, peer) => {
                self.with_process(process, event, |simulator, machine| simulator.send_turn(machine, peer))
            }
            SimulatorEvent::Arrive(connection) => self.arrive(connection),
            SimulatorEvent::HelloAnswer(connection) => self.take_hello_answer(connection),
            SimulatorEvent::DialTimeout(connection) => self.give_up_dial(connection),
            SimulatorEvent::Reset(connection) => self.reset(connection),
            SimulatorEvent::Client(client) => self.act(client),
            SimulatorEvent::RoundTimeout(client) => self.give_up_waiting(client),
            SimulatorEvent::Script(line) => self.act_out(line),
            SimulatorEvent::Fault => self.fault(),
            SimulatorEvent::End(end) => self.end_fault(end),
            SimulatorEvent::Check => {
                self.check_now();
                self.after(Duration::from_secs(1), SimulatorEvent::Check);
            }
        }
    }

    fn at(&mut self, at: Duration, event: SimulatorEvent) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, QueuedEvent(event))));
    }

    fn after(&mut self, wait: Duration, event: SimulatorEvent) {
        self.at(self.now + wait, event);
    }

    /// A random duration between two numbers of milliseconds.
    fn random_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.random.u64(least * 1_000..=most * 1_000))
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.u32(0..n) == 0
    }

    /// Writes a log line for a person who follows a run with RUST_LOG.
    fn log_step(&self, what: &str) {
        log::info!("-- seed {}, {:.6} s: {what}", self.seed, self.now.as_secs_f64());
    }

    /// Records a step of one node in the diagram, if the run is drawn.
    fn draw(&mut self, machine: usize, kind: StepKind, text: impl FnOnce() -> String) {
        if let Some(diagram) = &mut self.diagram {
            diagram.step(self.now, Some(machine), kind, text());
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Mixes numbers into the trace.
    fn trace_numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = (self.trace ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn trace_bytes(&mut self, bytes: &[u8]) {
        self.trace_numbers(&[rapidhash_v3(bytes)]);
    }

    fn violate(&mut self, check: &'static str, what: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { check, what, at });
    }

    fn report(&mut self, window: Option<DiagramWindow>) -> RunReport {
        let (seed, trace, simulated, events) = (self.seed, self.trace, self.now, self.events);
        let diagram = self.diagram.take().zip(window);
        let svg = diagram.map(|(diagram, window)| diagram.draw(seed, self.plan.nodes, window, self.violation.as_ref()));
        RunReport { seed, trace, simulated, events, tally: self.tally.clone(), violation: self.violation.clone(), svg }
    }
}

#[cfg(test)]
mod tests;
