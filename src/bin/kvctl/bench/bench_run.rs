//! A run of `kvctl bench`: what its threads and the main thread share, and how it ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Options;
use crate::command_line::{BenchArgs, Seconds};

use super::measurements::Measurements;
use super::schedule::Schedule;

const WARM_UP: Duration = Duration::from_millis(500);

/// A run: what its threads and the main thread share.
pub struct BenchRun {
    pub options: Options,
    pub args: BenchArgs,
    pub schedule: Option<Schedule>,
    /// Set when all connections are open and all keys are written, so that all begin at the same
    /// time.
    pub span: OnceLock<TimeSpan>,
    pub is_ended: AtomicBool,
    /// One for each connection, each in memory of its own. Invariant: no I/O under these locks.
    pub measurements: Vec<Arc<Mutex<Measurements>>>,
}

/// The times of a run.
#[derive(Clone, Copy, Debug)]
pub struct TimeSpan {
    pub start: Instant,
    /// The end of the warm-up: from here on rounds count.
    pub begin: Instant,
    pub end: Instant,
}

impl BenchRun {
    pub fn new(options: Options, args: BenchArgs, schedule: Option<Schedule>) -> BenchRun {
        let measurements = (0..args.clients.0).map(|_| Arc::new(Mutex::new(empty_measurements(&options, &args)))).collect();
        BenchRun { options, args, schedule, span: OnceLock::new(), is_ended: AtomicBool::new(false), measurements }
    }

    pub fn begin(&self) {
        let Seconds(measured) = self.args.seconds;
        let start = Instant::now();
        let begin = start + WARM_UP;
        self.span.get_or_init(|| TimeSpan { start, begin, end: begin + measured });
    }

    /// True if the run was ended early.
    pub fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Relaxed)
    }

    /// Commands that were answered so far, and those of them whose reply was not as expected.
    pub fn done_and_errors(&self) -> (u64, u64) {
        let measurements = self.measurements.iter().map(|measured| measured.lock());
        measurements.fold((0, 0), |(done, errors), measured| (done + measured.done, errors + measured.errors.sum()))
    }

    pub fn total(&self) -> Measurements {
        let mut total = empty_measurements(&self.options, &self.args);
        for measured in &self.measurements {
            total.join(&measured.lock());
        }
        total
    }
}

/// Empty measurements. Those of one run can be added, since all are made for the same time.
fn empty_measurements(options: &Options, args: &BenchArgs) -> Measurements {
    let Seconds(measured) = args.seconds;
    Measurements::new(WARM_UP + measured + options.timeout)
}

/// How a run ended, beside the measurements.
pub struct RunOutcome {
    /// The time that was asked for, or less if the run was ended early.
    pub measured: Duration,
    pub was_interrupted: bool,
    /// Connections whose last round was not answered when a run was ended early.
    pub unanswered: usize,
}
