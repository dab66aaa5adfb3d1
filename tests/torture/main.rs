//! kvtorture: nodes as real processes, clients that remember what they were promised, and faults
//! drawn from a seed.
//!
//! Read in this order: `schedule` (the faults), `nodes` and `kit` (their victims), `fault` (how a
//! fault is done, and what comes of it), `clients` (the load), `connection` and `history` (what the
//! clients asked and received), `run` (the order of it all), `quiet` (times without any trouble),
//! `checks` (what must hold), `run::report`.
//!
//! Exit codes: 0 every check held, 1 a check failed or nothing could be run, 2 bad usage. The
//! findings of a run go to stdout, the reason why there are none to stderr.

#![allow(clippy::iter_over_hash_type, reason = "an order that changes is one more that is tried")]

mod checks;
mod clients;
mod clock_ahead;
mod connection;
mod fault;
mod history;
mod keys;
#[path = "../kit/mod.rs"]
mod kit;
mod latency;
mod nodes;
mod past;
mod quiet;
mod run;
mod schedule;
mod survey;
mod usage;
mod wal_reader;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use run::{CHECKS_TIMEOUT, INTERRUPTED, RunOptions};
use schedule::Schedule;
use usage::{Arguments, Kinds, Minutes, NodesLen};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// The process ends after this time even if its last words are not read.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Microseconds of the monotonic clock that the history is recorded with.
fn now() -> u64 {
    kvmesh::data::clock::elapsed().as_micros() as u64
}

fn main() -> ExitCode {
    let began = Instant::now();
    let arguments: Arguments = kvmesh::process::arguments::from_env("kvtorture");
    let Minutes(length) = arguments.minutes;
    let Kinds(kinds) = arguments.faults;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let program = match beside_this_one() {
        Ok(program) => program,
        Err(why) => return leave(FAILED, why),
    };
    let schedule = Schedule::new(seed, arguments.nodes.map(|NodesLen(len)| len), kinds);
    let _ = writeln!(io::stdout(), "seed {seed}: {}", schedule.setting());
    let (dir, is_own) = match directory(arguments.dir, seed) {
        Ok(dir) => dir,
        Err((code, why)) => return leave(code, why),
    };
    // Where that fails, Ctrl-C ends the nodes with this process: they share its terminal.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
    watch_the_time(began + length + CHECKS_TIMEOUT, seed, dir.clone());
    let report = match run::run(RunOptions { seed, length, program, is_quiet: arguments.quiet }, &dir, schedule) {
        Ok(report) => report,
        Err(error) => return leave(FAILED, format_args!("the run broke off: {error}; its files are in {}", dir.display())),
    };
    let mut out = io::stdout().lock();
    if !arguments.quiet || !report.holds() {
        // A reader that has left has seen enough.
        let _ = report.write(&mut out);
    }
    let _ = writeln!(out, "{}", report.verdict());
    if report.holds() {
        if is_own {
            let _ = fs::remove_dir_all(&dir);
        }
        return ExitCode::SUCCESS;
    }
    match report.save(&dir) {
        Ok(()) => drop(writeln!(out, "evidence: {} (report.txt, history.jsonl, nodeN.log, data)", dir.display())),
        Err(error) => drop(writeln!(out, "evidence: {}, which is not whole: {error}", dir.display())),
    }
    ExitCode::from(FAILED)
}

fn leave(code: u8, reason: impl fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "kvtorture: {reason}");
    ExitCode::from(code)
}

/// The server under torture: the one that was built with this program.
fn beside_this_one() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("where this program is cannot be told: {error}"))?;
    let program = own.with_file_name("kvnode");
    match program.is_file() {
        true => Ok(program),
        false => Err(format!("there is no kvnode beside this program, at {}; build both: cargo build --release --bins", program.display())),
    }
}

/// The directory of the run, and whether it may be removed afterwards.
fn directory(asked: Option<PathBuf>, seed: u64) -> Result<(PathBuf, bool), (u8, String)> {
    let named = |path: &Path, error: io::Error| (FAILED, format!("{}: {error}", path.display()));
    if let Some(path) = asked {
        fs::create_dir_all(&path).map_err(|error| named(&path, error))?;
        let mut files = fs::read_dir(&path).map_err(|error| named(&path, error))?;
        if files.next().is_some() {
            return Err((USAGE, format!("{} is not empty; the nodes of a run begin without data", path.display())));
        }
        // A node may be started in any directory, so its paths are absolute.
        return path.canonicalize().map(|path| (path.clone(), false)).map_err(|error| named(&path, error));
    }
    let path = std::env::temp_dir().join(format!("kvtorture-{seed}-{}", std::process::id()));
    fs::create_dir(&path).map_err(|error| named(&path, error))?;
    Ok((path, true))
}

/// Ends a run that takes too long. Every wait of a run has a deadline, but on a slow machine their
/// sum can be too much, and checks search.
fn watch_the_time(deadline: Instant, seed: u64, dir: PathBuf) {
    let watch = move || {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        // Before anything that may wait: the reader of these words may be the reason why the run is
        // late.
        nodes::end_all();
        // Not on stdout: a thread that waits at a full pipe holds the lock of stdout.
        let line = format!("kvtorture: FAILED, seed {seed}: the checks were not done in time; its files are in {}", dir.display());
        say_within(LAST_WORDS_TIMEOUT, line, io::stderr());
        // The run goes on meanwhile, and may have started another node.
        nodes::end_all();
        std::process::exit(FAILED.into());
    };
    // Without this thread the run may take longer than announced.
    let _ = thread::Builder::new().name("watch".into()).spawn(watch);
}

/// Writes a line for a reader that may have stopped reading. Returns within `timeout`, whether the
/// line was written or not.
fn say_within(timeout: Duration, line: String, mut out: impl Write + Send + 'static) {
    let (said_tx, said_rx) = mpsc::channel();
    let say = move || {
        let _ = writeln!(out, "{line}");
        // If the receiver is gone, the line was too late.
        let _ = said_tx.send(());
    };
    // Without a thread nothing is written, and the channel is closed already.
    let _ = thread::Builder::new().name("last-words".into()).spawn(say);
    let _ = said_rx.recv_timeout(timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that is full until the other end of this channel is dropped, and then takes
    /// everything.
    struct Full(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn last_words_wait_for_nobody_who_does_not_read() {
        let (full_tx, full_rx) = mpsc::channel();
        let (heard_tx, heard_rx) = mpsc::channel();
        say_within(Duration::from_millis(20), "late".into(), Full(full_rx, heard_tx.clone()));
        assert!(heard_rx.try_recv().is_err());
        drop(full_tx);
        let (_, empty_rx) = mpsc::channel();
        say_within(Duration::from_secs(10), "in time".into(), Full(empty_rx, heard_tx));
        let written: Vec<u8> = heard_rx.iter().flatten().collect();
        assert!(String::from_utf8(written).unwrap().contains("in time"));
    }
}
