//! One run, from the first node's start to the last check: whole and quiet, then load, then round after round of faults, then healing.
//!
//! Every wait has a deadline; what is not there in time is a failed check with its name. Faults and load end a little before the minutes asked for, the longer the run the more, and half a minute
//! after them everything has ended.

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

use crate::checks::{Dumped, Loss, Settled, Verdict};
use crate::clients::Clients;
use crate::connection::REPLY_TIMEOUT;
use crate::fault::Ongoing;
use crate::kit::wait::poll_until as until;
use crate::latency::{Phase, Phases};
use crate::nodes::Nodes;
use crate::now;
use crate::past;
use crate::quiet::{Hush, Quiet};
use crate::run::report::{FaultTally, Report};
use crate::schedule::{Fault, Kind, Plan};
use crate::survey::{self, Size};
use crate::wal_reader::Logs;

/// A node that starts, or has been out of reach, is whole again in this time, on a machine that is small and busy.
const HEAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Load without faults: before the first one, and between two rounds.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// A run that is as long has folded the incarnations that its nodes had before: not before no member has said HELLO for some seconds.
const FOLD_LENGTH: Duration = Duration::from_secs(150);
const CALM: Duration = Duration::from_millis(500);
/// What a round may take beside its faults, in the judgement whether there is time for one more.
const ROUND_REST: Duration = Duration::from_millis(1_500);
/// No fault lasts longer, its own end aside.
const FAULT_LEN_MAX: Duration = Duration::from_secs(9);
/// Until what a node had in memory is in its log, on a disk that is slow.
const LOGS_TIMEOUT: Duration = Duration::from_secs(5);
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// From the minutes asked for to the end of everything.
pub const CHECKS_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the minutes asked for, what is left to the checks: a longer history takes longer to check.
const CHECKS_SHARE: u32 = 15;
/// From the end of the faults to the end of every wait for nodes.
const LAST_WAIT: Duration = Duration::from_secs(17);
/// Parts of that: until the clients have ended (one that was asking hears a whole round of replies first, and asks no more), the nodes are whole, they hold the
/// same, and their threads have ended.
const CLIENTS_TIMEOUT: Duration = REPLY_TIMEOUT.saturating_add(Duration::from_secs(1));
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(10);
const THREADS_TIMEOUT: Duration = Duration::from_secs(5);
/// With more entries than this, dumps are compared in fewer rounds.
const COMPARED_EACH_ROUND: usize = 5_000;

/// Somebody wants this to end: Ctrl-C, or SIGTERM.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub struct Wanted {
    pub seed: u64,
    pub length: Duration,
    pub program: PathBuf,
    pub is_quiet: bool,
}

struct Run {
    wanted: Wanted,
    faults_end: Instant,
    nodes: Nodes,
    logs: Logs,
    settled: Vec<Settled>,
    quiet: Vec<Quiet>,
    losses: Vec<Loss>,
    phases: Phases,
    tallies: BTreeMap<Kind, FaultTally>,
    whole: Verdict,
    claims: Verdict,
    alive: Verdict,
    closes: Verdict,
    few: Verdict,
    claimed: usize,
}

/// Runs, and returns what came of it. An error is this machine's: a process that cannot be started, a file that cannot be written.
pub fn run(wanted: Wanted, dir: &Path, mut plan: Plan) -> io::Result<Report> {
    let began = Instant::now();
    let nodes = Nodes::new(wanted.program.clone(), dir, plan.setting())?;
    let logs = Logs::watch(nodes.ids().into_iter().map(|id| nodes.data_dir(id)).collect())?;
    let mut run = Run {
        faults_end: began + wanted.length - wanted.length / CHECKS_SHARE,
        nodes,
        logs,
        settled: Vec::new(),
        quiet: Vec::new(),
        losses: Vec::new(),
        phases: Phases::default(),
        tallies: BTreeMap::new(),
        whole: Verdict::new("the mesh is whole again after each fault"),
        claims: Verdict::new("vectors claim no more than is there"),
        alive: Verdict::new("no node ends by itself"),
        closes: Verdict::new("nodes stop, close and resume as they should"),
        few: Verdict::new("lives that are over are folded"),
        claimed: 0,
        wanted,
    };
    for id in run.nodes.ids() {
        run.nodes.start(id)?;
    }
    run.await_whole(run.within(HEAL_TIMEOUT));
    let ids = run.nodes.ids();
    if let Err(why) = past::restore(run.nodes.place(ids[0]), &ids) {
        run.few.fault(why);
    }
    let before = run.steady_sizes();
    let mut clients = Clients::start(run.nodes.places(), run.wanted.seed)?;
    let load_began = Instant::now();
    run.sleep_in_quiet(WARM_UP);
    let loaded = run.sizes();
    run.settle();
    let mut number = 0;
    while run.goes_on() {
        let faults = plan.draw();
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
        if !self.wanted.is_quiet {
            // A reader who has left does not end the run: its verdict is its exit code as well.
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

    /// The same while nothing is being done to any node.
    fn sleep_in_quiet(&mut self, length: Duration) {
        let places = self.nodes.places();
        let hush = Hush::begin(&places);
        self.sleep(length);
        self.quiet.extend(hush.and_then(|hush| hush.end(&places)));
    }

    /// Faults done together, ended together, and healed.
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
        self.settle();
        self.compare(&dumps);
        let calm_from = now();
        self.sleep_in_quiet(CALM);
        self.phases.add(Phase { from: calm_from, until: now(), faulty: None });
    }

    /// So long from now, as far as there is time; no time where nothing will come of waiting: a node has ended or does not heal, or somebody wants this to end.
    fn within(&self, timeout: Duration) -> Instant {
        let now = Instant::now();
        if self.alive.holds() && self.whole.holds() && !INTERRUPTED.load(Ordering::Relaxed) {
            (now + timeout).min(self.faults_end + LAST_WAIT)
        } else {
            now
        }
    }

    /// What the end of an incarnation takes with it, of writes that one node alone has promised.
    fn note_losses(&mut self, fault: &Fault) {
        let loses = match fault.kind {
            Kind::Wipe => true,
            // What waits for the log, or was dropped with it, where nobody waits for the disk.
            Kind::Kill => !self.nodes.setting().fsyncs_always,
            Kind::DiskFull => !self.nodes.setting().fsyncs_always && !fault.other_way,
            _ => false,
        };
        if loses {
            let safe = self.settled.last().map_or(0, |settled| settled.from);
            let life = |node: u16| self.nodes.place(node).life.load(Ordering::SeqCst);
            self.losses.extend(fault.victims.iter().map(|node| Loss { node: *node, life: life(*node), safe }));
        }
    }

    /// Everybody is open and connected with everybody.
    fn await_whole(&mut self, deadline: Instant) {
        let places = self.nodes.places();
        let whole = until(deadline, || {
            let ended = self.nodes.ended_by_themselves();
            if !ended.is_empty() || INTERRUPTED.load(Ordering::Relaxed) {
                // Nothing that is waited for will come.
                return Ok(ended);
            }
            places.iter().try_for_each(|place| survey::is_whole(place).map(drop)).map(|()| ended)
        });
        whole.iter().flatten().for_each(|how| self.alive.fault(how.clone()));
        if let Err(why) = whole {
            self.whole.fault(why);
        }
    }

    /// Waits until every node has what any of them has now. Returns once that is so, or will not be.
    fn settle(&mut self) {
        if !self.goes_on() {
            return;
        }
        let from = now();
        let places = self.nodes.places();
        let joined = until(self.within(HEAL_TIMEOUT), || {
            let mut joined = VersionVector::default();
            places.iter().try_for_each(|place| survey::vector(place).map(|vector| joined.join(&vector)))?;
            Ok::<_, String>(joined)
        });
        let joined = match joined {
            Ok(joined) => joined,
            Err(why) => return self.whole.fault(why),
        };
        let settled = until(self.within(HEAL_TIMEOUT), || {
            places.iter().try_for_each(|place| match survey::vector(place)?.covers_all(&joined) {
                true => Ok(()),
                false => Err(format!("n{} does not catch up", place.id)),
            })
        });
        match settled {
            Ok(()) => self.settled.push(Settled { from, until: now() }),
            Err(why) => self.whole.fault(why),
        }
    }

    fn is_compared_in(&self, number: u32) -> bool {
        let known = self.logs.with_universe(|universe| universe.len());
        (number as usize).is_multiple_of(1 + known / COMPARED_EACH_ROUND / 4)
    }

    /// Of these nodes. Those that do not answer now are looked at another time.
    fn dumps(&self, which: impl Fn(u16) -> bool) -> Vec<Dumped> {
        self.nodes.places().iter().filter(|place| which(place.id)).filter_map(|place| survey::dump(place).ok()).collect()
    }

    /// Holds dumps against everything that is known. What seems wrong is looked at again until the logs have caught up with what the nodes had in memory.
    fn compare(&mut self, dumps: &[Dumped]) {
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

    fn sizes(&self) -> HashMap<u16, Size> {
        let of = |id: u16| Some((id, survey::size(self.nodes.process_id(id)?).ok()?));
        self.nodes.ids().into_iter().filter_map(of).collect()
    }

    /// Of nodes without clients: once two looks see as many threads.
    fn steady_sizes(&self) -> HashMap<u16, Size> {
        let mut last = self.sizes();
        let threads = |sizes: &HashMap<u16, Size>| sizes.iter().map(|(id, size)| (*id, size.threads)).collect::<BTreeMap<_, _>>();
        // Whatever is seen in the end is what later looks are held against.
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
