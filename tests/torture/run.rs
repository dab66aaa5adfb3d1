//! One run, from the first start of a node to the last check: a whole mesh in quiet, then load,
//! then one round of faults after the other, then healing.
//!
//! Every wait has a deadline, and a deadline that passes is a failed check. Faults and load end a
//! little before the minutes asked for, the longer the run the earlier. Half a minute after those
//! minutes, everything has ended.

mod ending;
pub mod report;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvmesh::data::clock::wall_ms;
use kvmesh::data::version::VersionVector;

use crate::checks::{Converged, Loss, NodeDump, Verdict};
use crate::clients::Clients;
use crate::connection::REPLY_TIMEOUT;
use crate::fault::Ongoing;
use crate::kit::wait::poll_until as until;
use crate::latency::{Phase, Phases};
use crate::nodes::Nodes;
use crate::now;
use crate::past;
use crate::quiet::{Quiet, QuietCandidate};
use crate::run::report::{FaultTally, Report};
use crate::schedule::{Fault, FaultKind, Schedule};
use crate::survey::{self, ProcessSize};
use crate::wal_reader::WalReader;

/// A node that starts, or was out of reach, is whole again in this time on a small and busy
/// machine.
const HEAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Load without faults, before the first round.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// A run of this length has folded past incarnations: that takes some seconds in which no member
/// says HELLO.
const FOLD_LENGTH: Duration = Duration::from_secs(150);
const CALM: Duration = Duration::from_millis(500);
/// Time that a round takes beside its faults, for the decision whether there is time for one more.
const ROUND_REST: Duration = Duration::from_millis(1_500);
/// No fault lasts longer; its end is not counted.
const FAULT_LEN_MAX: Duration = Duration::from_secs(9);
/// Time in which a slow disk has the records that a node had in memory.
const LOGS_TIMEOUT: Duration = Duration::from_secs(5);
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// From the minutes asked for to the end of everything.
pub const CHECKS_TIMEOUT: Duration = Duration::from_secs(30);
/// The share of the minutes that is left to the checks: a longer history takes longer to check.
const CHECKS_SHARE: u32 = 15;
/// From the end of the faults to the end of every wait for nodes.
const LAST_WAIT: Duration = Duration::from_secs(17);
/// Parts of [`LAST_WAIT`]: until the clients have ended, the nodes have equal digests, and their
/// threads have ended. A client that is waiting for a round of replies receives all of it, and asks
/// no more.
const CLIENTS_TIMEOUT: Duration = REPLY_TIMEOUT.saturating_add(Duration::from_secs(1));
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(10);
const THREADS_TIMEOUT: Duration = Duration::from_secs(5);
/// With more known versions than this, dumps are compared in fewer rounds.
const COMPARED_EACH_ROUND: usize = 5_000;

/// Set by Ctrl-C and SIGTERM.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub struct RunOptions {
    pub seed: u64,
    pub length: Duration,
    pub program: PathBuf,
    pub is_quiet: bool,
}

struct Run {
    options: RunOptions,
    faults_end: Instant,
    nodes: Nodes,
    logs: WalReader,
    converged: Vec<Converged>,
    quiet: Vec<Quiet>,
    losses: Vec<Loss>,
    phases: Phases,
    tallies: BTreeMap<FaultKind, FaultTally>,
    whole: Verdict,
    claims: Verdict,
    alive: Verdict,
    closes: Verdict,
    few: Verdict,
    claimed: usize,
}

/// Runs, and returns the report. An error is this machine's: a process that cannot be started, a
/// file that cannot be written.
pub fn run(options: RunOptions, dir: &Path, mut schedule: Schedule) -> io::Result<Report> {
    let began = Instant::now();
    let nodes = Nodes::new(options.program.clone(), dir, schedule.setting())?;
    let logs = WalReader::watch(nodes.ids().into_iter().map(|id| nodes.data_dir(id)).collect())?;
    let mut run = Run {
        faults_end: began + options.length - options.length / CHECKS_SHARE,
        nodes,
        logs,
        converged: Vec::new(),
        quiet: Vec::new(),
        losses: Vec::new(),
        phases: Phases::default(),
        tallies: BTreeMap::new(),
        whole: Verdict::new("the mesh is whole again after each fault"),
        claims: Verdict::new("vectors claim no more than is there"),
        alive: Verdict::new("no node ends by itself"),
        closes: Verdict::new("nodes stop, close and resume as they should"),
        few: Verdict::new("past incarnations are folded"),
        claimed: 0,
        options,
    };
    for id in run.nodes.ids() {
        run.nodes.start(id)?;
    }
    run.await_whole(run.within(HEAL_TIMEOUT));
    let ids = run.nodes.ids();
    if let Err(why) = past::restore(run.nodes.handle(ids[0]), &ids) {
        run.few.fault(why);
    }
    let before = run.steady_sizes();
    let mut clients = Clients::start(run.nodes.handles(), run.options.seed)?;
    let load_began = Instant::now();
    run.sleep_in_quiet(WARM_UP);
    let loaded = run.sizes();
    run.await_converged();
    let mut number = 0;
    while run.goes_on() {
        let faults = schedule.draw();
        let longest = faults.iter().map(|fault| fault.duration).max().unwrap_or_default();
        if Instant::now() + longest + ROUND_REST > run.faults_end {
            break;
        }
        number += 1;
        run.round(number, faults);
    }
    if run.goes_on() {
        run.sleep_in_quiet(run.faults_end.saturating_duration_since(Instant::now()));
    }
    let load_took = load_began.elapsed();
    let report = run.finish(clients.end(Instant::now() + CLIENTS_TIMEOUT), &clients, load_took, &before, &loaded);
    Ok(report)
}

impl Run {
    fn say(&self, line: impl FnOnce() -> String) {
        if !self.options.is_quiet {
            // A reader that has left does not end the run: its exit code is a verdict, too.
            let _ = writeln!(io::stdout(), "{}", line());
        }
    }

    fn goes_on(&self) -> bool {
        !INTERRUPTED.load(Ordering::Relaxed) && self.whole.holds() && self.alive.holds() && Instant::now() < self.faults_end
    }

    fn sleep(&self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && !INTERRUPTED.load(Ordering::Relaxed) {
            thread::sleep(STEP_PAUSE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Sleeps while no fault is active on any node, and records the time if it was quiet.
    fn sleep_in_quiet(&mut self, length: Duration) {
        let nodes = self.nodes.handles();
        let candidate = QuietCandidate::begin(&nodes);
        self.sleep(length);
        self.quiet.extend(candidate.and_then(|candidate| candidate.end(&nodes)));
    }

    /// Does faults together, ends them together, and waits until the mesh has healed.
    fn round(&mut self, number: u32, faults: Vec<Fault>) {
        let lone_victim = match &faults[..] {
            [Fault { victims, .. }] if victims.len() == 1 => Some(victims[0]),
            _ => None,
        };
        self.say(|| format!("round {number}: {}", faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(", and ")));
        let from = now();
        let mut ongoing = Vec::new();
        for fault in faults {
            self.note_losses(&fault);
            let name = fault.to_string();
            match Ongoing::begin(fault, &mut self.nodes) {
                Ok(begun) => ongoing.push(begun),
                Err(error) => self.closes.fault(format!("round {number}: {name} could not be done: {error}")),
            }
        }
        let began = Instant::now();
        let mut is_compared = !self.is_compared_in(number);
        let mut dumps = Vec::new();
        while began.elapsed() < FAULT_LEN_MAX && !INTERRUPTED.load(Ordering::Relaxed) {
            ongoing.iter_mut().for_each(|fault| fault.step(&self.nodes));
            if ongoing.iter_mut().all(|fault| fault.is_due(&self.nodes)) {
                break;
            }
            if !is_compared && ongoing.iter().all(|fault| began.elapsed() > fault.fault.duration / 2) {
                is_compared = true;
                let victims: Vec<u16> = ongoing.iter().flat_map(|fault| fault.fault.victims.clone()).collect();
                dumps = self.dumps(|id| !victims.contains(&id));
            }
            thread::sleep(STEP_PAUSE);
        }
        for fault in &mut ongoing {
            if let Err(error) = fault.end(&mut self.nodes) {
                self.closes.fault(format!("round {number}: {} could not be ended: {error}", fault.fault));
            }
        }
        for mut fault in ongoing {
            let effect = fault.effect(&self.nodes);
            self.say(|| format!("  {}: {} {}", fault.fault.kind, effect.count, effect.noun));
            self.tallies.entry(fault.fault.kind).or_insert(FaultTally::new(effect.noun)).add(effect.count);
            fault.complaints.drain(..).for_each(|complaint| self.closes.fault(format!("round {number}: {complaint}")));
        }
        self.await_whole(self.within(HEAL_TIMEOUT));
        if let Some(victim) = lone_victim {
            self.phases.add(Phase { from, until: now(), faulty: Some(victim) });
        }
        self.await_converged();
        self.compare(&dumps);
        let calm_from = now();
        self.sleep_in_quiet(CALM);
        self.phases.add(Phase { from: calm_from, until: now(), faulty: None });
    }

    /// The deadline of a wait, as far as there is time. There is none left if a node has ended or
    /// does not heal, or the run was interrupted.
    fn within(&self, timeout: Duration) -> Instant {
        let now = Instant::now();
        if self.alive.holds() && self.whole.holds() && !INTERRUPTED.load(Ordering::Relaxed) {
            (now + timeout).min(self.faults_end + LAST_WAIT)
        } else {
            now
        }
    }

    /// Records which `local` writes the end of an incarnation may have cost.
    fn note_losses(&mut self, fault: &Fault) {
        let loses = match fault.kind {
            FaultKind::Wipe => true,
            // Records that wait for the log are lost with the node, where no client waits for the
            // disk.
            FaultKind::Kill => !self.nodes.setting().fsyncs_always,
            FaultKind::DiskFull => !self.nodes.setting().fsyncs_always && !fault.other_way,
            _ => false,
        };
        if loses {
            let safe = self.converged.last().map_or(0, |converged| converged.from);
            let incarnation = |node: u16| self.nodes.handle(node).incarnation.load(Ordering::SeqCst);
            self.losses.extend(fault.victims.iter().map(|node| Loss { node: *node, incarnation: incarnation(*node), safe }));
        }
    }

    /// Waits until every node is open and connected with every other.
    fn await_whole(&mut self, deadline: Instant) {
        let nodes = self.nodes.handles();
        let whole = until(deadline, || {
            let ended = self.nodes.ended_by_themselves();
            if !ended.is_empty() || INTERRUPTED.load(Ordering::Relaxed) {
                // No wait will succeed now.
                return Ok(ended);
            }
            nodes.iter().try_for_each(|node| survey::is_whole(node).map(drop)).map(|()| ended)
        });
        whole.iter().flatten().for_each(|how| self.alive.fault(how.clone()));
        if let Err(why) = whole {
            self.whole.fault(why);
        }
    }

    /// Waits until every node holds everything that any node holds now.
    fn await_converged(&mut self) {
        if !self.goes_on() {
            return;
        }
        let from = now();
        let nodes = self.nodes.handles();
        let joined = until(self.within(HEAL_TIMEOUT), || {
            let mut joined = VersionVector::default();
            nodes.iter().try_for_each(|node| survey::vector(node).map(|vector| joined.join(&vector)))?;
            Ok::<_, String>(joined)
        });
        let joined = match joined {
            Ok(joined) => joined,
            Err(why) => return self.whole.fault(why),
        };
        let converged = until(self.within(HEAL_TIMEOUT), || {
            nodes.iter().try_for_each(|node| match survey::vector(node)?.covers_all(&joined) {
                true => Ok(()),
                false => Err(format!("n{} does not catch up", node.id)),
            })
        });
        match converged {
            Ok(()) => self.converged.push(Converged { from, until: now() }),
            Err(why) => self.whole.fault(why),
        }
    }

    fn is_compared_in(&self, number: u32) -> bool {
        let known = self.logs.with_universe(|universe| universe.len());
        (number as usize).is_multiple_of(1 + known / COMPARED_EACH_ROUND / 4)
    }

    /// Dumps of these nodes. A node that does not answer now is asked another time.
    fn dumps(&self, which: impl Fn(u16) -> bool) -> Vec<NodeDump> {
        self.nodes.handles().iter().filter(|node| which(node.id)).filter_map(|node| survey::dump(node).ok()).collect()
    }

    /// Compares dumps with every known version. What seems wrong is compared again until the logs
    /// have caught up with the memory of the nodes.
    fn compare(&mut self, dumps: &[NodeDump]) {
        let wall_ms = wall_ms();
        self.logs.with_universe(|universe| dumps.iter().flat_map(|dump| dump.entries.values()).for_each(|entry| universe.add(entry)));
        let deadline = Instant::now() + LOGS_TIMEOUT;
        for dump in dumps {
            let (logs, mut claimed) = (&self.logs, 0);
            let compared = until(deadline, || {
                let compared = logs.with_universe(|universe| universe.compare(dump, wall_ms));
                claimed = compared.claimed;
                if compared.faults.is_empty() { Ok(()) } else { Err(compared.faults) }
            });
            self.claimed += claimed;
            compared.err().into_iter().flatten().for_each(|fault| self.claims.fault(fault));
        }
        if dumps.len() == self.nodes.ids().len() {
            self.logs.with_universe(|universe| universe.forget_superseded(dumps));
        }
    }

    fn sizes(&self) -> HashMap<u16, ProcessSize> {
        let of = |id: u16| Some((id, survey::size(self.nodes.process_id(id)?).ok()?));
        self.nodes.ids().into_iter().filter_map(of).collect()
    }

    /// Sizes of nodes without clients, once two looks in a row show the same threads.
    fn steady_sizes(&self) -> HashMap<u16, ProcessSize> {
        let mut last = self.sizes();
        let threads = |sizes: &HashMap<u16, ProcessSize>| sizes.iter().map(|(id, size)| (*id, size.threads)).collect::<BTreeMap<_, _>>();
        // Later sizes are compared with these, whether they were steady or not.
        let _ = until(Instant::now() + THREADS_TIMEOUT, || {
            self.sleep(Duration::from_millis(300));
            let next = self.sizes();
            let is_same = threads(&next) == threads(&last);
            last = next;
            if is_same { Ok(()) } else { Err(String::new()) }
        });
        last
    }
}
