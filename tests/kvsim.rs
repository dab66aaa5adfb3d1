//! `kvsim`: runs seeds of the simulator, and prints for each seed that fails which check it
//! violated.
//!
//! `cargo run --release --features testing --bin kvsim -- --seeds 1000`

mod simulation;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use kvmesh::process::arguments;
use parking_lot::Mutex;

use simulation::{CHECKS, DiagramWindow, RunKind, RunReport};

/// Simulate a whole mesh with faults, in one thread, from a seed. The same seed is always the same
/// run.
#[derive(FromArgs, ArgsInfo)]
struct SimulatorArguments {
    /// how many seeds to run; default 100
    #[argh(option, default = "100")]
    seeds: u64,

    /// the first seed; default 1
    #[argh(option, default = "1")]
    from: u64,

    /// start no further seed after so many minutes
    #[argh(option)]
    minutes: Option<f64>,

    /// number of threads; default: one for each processor
    #[argh(option)]
    jobs: Option<usize>,

    /// only runs with slow and narrow links, fast deletes, and writers that crash
    #[argh(switch)]
    starved: bool,

    /// only runs with dumps that arrive after their receiver gave them up
    #[argh(switch)]
    late: bool,

    /// only runs with narrow, steady links, and values that are large for them
    #[argh(switch)]
    steady: bool,

    /// only runs with clocks that differ, jump and stand still
    #[argh(switch)]
    clocks: bool,

    /// only runs in which disks are lost, and old copies put back, around cuts
    #[argh(switch)]
    relapse: bool,

    /// only runs with constant restarts, whose version vectors name few incarnations
    #[argh(switch)]
    incarnations: bool,

    /// only the scripted run of docs/reading-a-diagram.md: two clients write one key beside a cut
    /// link
    #[argh(switch)]
    script: bool,

    /// draw a space-time diagram of the run into this file, as SVG; needs `--seeds 1`
    #[argh(option)]
    diagram: Option<PathBuf>,

    /// where the diagram ends, in milliseconds of simulated time; default: at the violation, or
    /// behind the first conflict
    #[argh(option)]
    until_ms: Option<u64>,

    /// length of the diagram, in milliseconds of simulated time; default: 80 steps. At most 400
    /// steps are drawn
    #[argh(option)]
    window_ms: Option<u64>,

    /// go on after a seed has failed
    #[argh(switch)]
    keep_going: bool,
}

/// The results of all seeds together.
#[derive(Default)]
struct Totals {
    seeds: u64,
    simulated: Duration,
    events: u64,
    /// The sum of all traces: equal for the same seeds and the same program.
    trace: u64,
    tally: BTreeMap<&'static str, u64>,
    failed: Vec<RunReport>,
    /// The diagram of the one seed that is drawn.
    svg: Option<String>,
}

/// The file that a diagram goes into, and the part of the run that it shows.
struct DiagramFile {
    path: PathBuf,
    file: File,
    window: DiagramWindow,
}

impl DiagramFile {
    /// Opens the file before the run, so that no run is made in vain. An error says what is wrong
    /// with the arguments.
    fn of(arguments: &SimulatorArguments) -> Result<Option<DiagramFile>, String> {
        let (until, len) = (arguments.until_ms.map(Duration::from_millis), arguments.window_ms.map(Duration::from_millis));
        let Some(path) = arguments.diagram.clone() else {
            let is_alone = until.is_some() || len.is_some();
            return if is_alone {
                Err("--until-ms and --window-ms choose a part of a diagram: give --diagram".to_owned())
            } else {
                Ok(None)
            };
        };
        if arguments.seeds != 1 {
            return Err("--diagram draws one run: give --seeds 1, and its seed with --from".to_owned());
        }
        let file = File::create(&path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Some(DiagramFile { path, file, window: DiagramWindow { until, len } }))
    }
}

fn main() -> ExitCode {
    let arguments: SimulatorArguments = arguments::from_env("kvsim");
    // The log lines of the nodes are shown as RUST_LOG asks.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).format_timestamp(None).init();
    let jobs = arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let began = Instant::now();
    let is_over = || arguments.minutes.is_some_and(|minutes| began.elapsed().as_secs_f64() > minutes * 60.0);
    let kinds = [
        (arguments.starved, RunKind::Starved),
        (arguments.late, RunKind::Late),
        (arguments.steady, RunKind::Steady),
        (arguments.clocks, RunKind::Clocks),
        (arguments.relapse, RunKind::Relapse),
        (arguments.incarnations, RunKind::Incarnations),
        (arguments.script, RunKind::Script),
    ];
    let mut chosen = kinds.into_iter().filter_map(|(is_chosen, kind)| is_chosen.then_some(kind));
    let kind = chosen.next().unwrap_or_default();
    if chosen.next().is_some() {
        eprintln!(
            "kvsim: --starved, --late, --steady, --clocks, --relapse, --incarnations and --script are different runs: give one of them"
        );
        return ExitCode::from(2);
    }
    let mut diagram = match DiagramFile::of(&arguments) {
        Ok(diagram) => diagram,
        Err(wrong) => {
            eprintln!("kvsim: {wrong}");
            return ExitCode::from(2);
        }
    };
    let window = diagram.as_ref().map(|drawn| drawn.window);
    let (next, stops, sum) = (AtomicU64::new(arguments.from), AtomicBool::new(false), Mutex::new(Totals::default()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stops.load(Ordering::Relaxed) && !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.from.saturating_add(arguments.seeds) {
                        return;
                    }
                    let report = simulation::run(seed, kind, window);
                    let failed = sum.lock().add(report);
                    if failed && !arguments.keep_going {
                        stops.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let sum = sum.into_inner();
    sum.print(began.elapsed());
    if let (Some(DiagramFile { file, path, .. }), Some(svg)) = (&mut diagram, &sum.svg)
        && let Err(error) = file.write_all(svg.as_bytes())
    {
        eprintln!("kvsim: cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Totals {
    /// Adds a seed's result. True if the seed has failed.
    fn add(&mut self, mut report: RunReport) -> bool {
        self.svg = report.svg.take();
        self.seeds += 1;
        self.simulated += report.simulated;
        self.events += report.events;
        self.trace = self.trace.wrapping_add(report.trace);
        report.tally.iter().for_each(|(what, count)| *self.tally.entry(what).or_default() += count);
        let Some(violation) = &report.violation else { return false };
        println!("seed {} failed at {:.3} s: {}: {}", report.seed, violation.at.as_secs_f64(), violation.check, violation.what);
        self.failed.push(report);
        true
    }

    fn print(&self, took: Duration) {
        let (seconds, minutes) = (took.as_secs_f64(), self.simulated.as_secs_f64() / 60.0);
        let counts: Vec<String> = self.tally.iter().map(|(what, count)| format!("{what} {count}")).collect();
        println!("{}", counts.join(", "));
        println!(
            "{} seeds, {:.0} simulated minutes, {} events, trace {:016x} in {seconds:.1} s: {:.1} seeds a second, {:.0} simulated minutes a minute",
            self.seeds,
            minutes,
            self.events,
            self.trace,
            self.seeds as f64 / seconds,
            minutes / seconds * 60.0
        );
        for (check, says) in CHECKS {
            let failed =
                self.failed.iter().filter(|report| report.violation.as_ref().is_some_and(|violation| violation.check == check)).count();
            println!("{} {check}: {says}", if failed == 0 { "held".to_owned() } else { format!("FAILED in {failed} seeds") });
        }
    }
}
