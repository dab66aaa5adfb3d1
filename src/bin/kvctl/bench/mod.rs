//! The load generator: a thread for each connection, which sends a round of commands with one write
//! and reads all of its replies.
//!
//! It must cost less than what it measures: requests are copied from a template into a buffer that
//! is reused, and replies are compared where they were read. Every reply is checked; one that is
//! not as expected is counted under its code.
//!
//! In a closed loop a connection sends when its last round is answered. A server that stalls is
//! asked less, and the rounds that were not sent are in no figure. In an open loop (`--rate`)
//! rounds are due on a schedule, and their time counts from then.
//!
//! Each thread measures behind a lock of its own, which no other thread takes but once a second.
//! The main thread waits for events of the others, shows the progress, and reports. When a run is
//! ended early, threads that wait for a server that does not answer are not waited for: they end
//! with the process.

mod bench_run;
mod live_line;
mod measurements;
mod reply_reader;
mod request_rounds;
mod schedule;
mod summary;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvmesh::client;

use crate::command_line::{BenchArgs, BenchProtocol, Seconds};
use crate::{Code, Failure, Options};

use bench_run::{BenchRun, RunOutcome};
use live_line::LiveLine;
use schedule::Schedule;
use worker::Worker;

/// When a run is ended early, rounds under way get this long.
const GRACE: Duration = Duration::from_secs(1);
/// The pause between two updates of the progress line.
const TICK: Duration = Duration::from_secs(1);

pub fn run(options: Options, args: BenchArgs) -> Result<(), Failure> {
    let schedule = fitting(&options, &args).map_err(|why| Failure::new(Code::Usage, why))?;
    let clients = args.clients.0;
    let shared = Arc::new(BenchRun::new(options, args, schedule));
    // Holds all events of a run, so that no thread waits to send one.
    let (events_tx, events_rx) = sync_channel(2 * clients + 1);
    end_on_signal(&shared, events_tx.clone());
    let threads = start(&shared, &events_tx)?;
    let outcome = watch(&shared, threads, &events_rx)?;
    let total = shared.total();
    summary::print(&shared, &total, &outcome)?;
    let Seconds(asked) = shared.args.seconds;
    if outcome.was_interrupted {
        return Err(Failure::new(Code::Refused, format_args!("interrupted after {:.1?} of {asked:?}", outcome.measured)));
    }
    match total.errors.sum() {
        0 => Ok(()),
        _ => Err(Failure::new(Code::Refused, "there were errors")),
    }
}

/// Checks that the arguments go together. The error names those that do not.
fn fitting(options: &Options, args: &BenchArgs) -> Result<Option<Schedule>, String> {
    const WAIT: Duration = Duration::from_millis(request_rounds::WAIT_MS);
    if args.wait.is_some() {
        if args.protocol != BenchProtocol::Resp {
            return Err("--wait needs --protocol resp: the text protocol has no WAIT, its writes wait as --ack says".to_string());
        }
        if args.reads.0 == 100 {
            return Err("--wait follows a SET, and with --reads 100 there is none; expected --reads from 0 to 99".to_string());
        }
        if options.timeout <= WAIT {
            return Err(format!("--wait may take {WAIT:?}, and --timeout is {:?}; expected a longer one", options.timeout));
        }
    }
    Schedule::of(args)
}

enum BenchEvent {
    /// A connection could begin.
    Ready,
    /// The thread of a connection has ended, for whatever reason.
    Ended(usize),
    Interrupted,
}

/// Makes the first signal end the run, and the second one the process.
fn end_on_signal(shared: &Arc<BenchRun>, events_tx: SyncSender<BenchEvent>) {
    let shared = Arc::clone(shared);
    let on_signal = move || {
        if shared.is_ended.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "the second signal: the orderly end may be stuck")]
            std::process::exit(Code::Refused.number().into());
        }
        // The channel has room for one.
        let _ = events_tx.try_send(BenchEvent::Interrupted);
    };
    // If that fails, Ctrl-C ends the process without a report.
    let _ = ctrlc::set_handler(on_signal);
}

type Thread = JoinHandle<Result<(), client::Error>>;

/// Starts the threads, by the number of their connection.
fn start(shared: &Arc<BenchRun>, events_tx: &SyncSender<BenchEvent>) -> Result<BTreeMap<usize, Thread>, Failure> {
    let clients = shared.args.clients.0;
    let spawn = |index: usize| {
        let (shared, events_tx) = (Arc::clone(shared), events_tx.clone());
        let run = move || {
            let notice = EndNotice { index, events_tx };
            Worker::new(&shared, index).run(|| notice.send(BenchEvent::Ready))
        };
        let spawned = thread::Builder::new().name(format!("bench-{index}")).stack_size(256 << 10).spawn(run);
        spawned
            .map(|thread| (index, thread))
            .map_err(|error| Failure::new(Code::Usage, format_args!("cannot start thread {index} of {clients}: {error}")))
    };
    (0..clients).map(spawn).collect()
}

/// Sends that a thread has ended when it is dropped, after a panic, too.
struct EndNotice {
    index: usize,
    events_tx: SyncSender<BenchEvent>,
}

impl EndNotice {
    fn send(&self, event: BenchEvent) {
        // The channel has room for all of them.
        let _ = self.events_tx.try_send(event);
    }
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.send(BenchEvent::Ended(self.index));
    }
}

/// Lets all threads begin once all are ready, and waits until all have ended. Fails if the
/// measuring could not begin.
fn watch(shared: &BenchRun, mut threads: BTreeMap<usize, Thread>, events_rx: &Receiver<BenchEvent>) -> Result<RunOutcome, Failure> {
    let nothing_measured = || Failure::new(Code::Refused, "interrupted before anything was measured");
    let clients = threads.len();
    let mut ready = 0;
    let mut interrupted: Option<Instant> = None;
    let mut live = (!shared.options.json).then(LiveLine::new);
    let mut next_tick = Instant::now() + TICK;
    while !threads.is_empty() {
        let deadline = interrupted.map_or(next_tick, |at| at + GRACE);
        match events_rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(BenchEvent::Ready) => {
                ready += 1;
                if ready == clients {
                    shared.begin();
                }
            }
            Ok(BenchEvent::Ended(index)) => {
                let Some(thread) = threads.remove(&index) else { continue };
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(BenchEvent::Interrupted) if shared.span.get().is_none() => return Err(nothing_measured()),
            Ok(BenchEvent::Interrupted) => interrupted = Some(Instant::now()),
            Err(_) if interrupted.is_some() => break,
            Err(_) => {
                next_tick += TICK;
                if let Some(live) = &mut live {
                    live.show(shared, ready);
                }
            }
        }
    }
    let span = shared.span.get().ok_or_else(nothing_measured)?;
    let ended = interrupted.map_or(span.end, |at| at.min(span.end));
    match ended.saturating_duration_since(span.begin) {
        Duration::ZERO => Err(nothing_measured()),
        measured => Ok(RunOutcome { measured, was_interrupted: interrupted.is_some(), unanswered: threads.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::Bounded;
    use crate::scripted_node::options;

    /// The arguments of a run without any option.
    pub fn default_args() -> BenchArgs {
        BenchArgs {
            protocol: BenchProtocol::Text,
            clients: Bounded(50),
            depth: Bounded(16),
            seconds: Seconds(Duration::from_secs(1)),
            keys: Bounded(100_000),
            value_size: Bounded(64),
            reads: Bounded(0),
            rate: None,
            wait: None,
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_words() {
        let node = ["127.0.0.1:1"];
        let resp = BenchArgs { protocol: BenchProtocol::Resp, wait: Some(Bounded(1)), ..default_args() };
        assert!(fitting(&options(&node), &resp).is_ok());
        assert!(fitting(&options(&node), &BenchArgs { reads: Bounded(99), ..resp.clone() }).is_ok());
        let refused = |options: &Options, args: &BenchArgs| fitting(options, args).unwrap_err();
        let text = BenchArgs { protocol: BenchProtocol::Text, ..resp.clone() };
        assert!(refused(&options(&node), &text).starts_with("--wait needs --protocol resp"));
        assert!(refused(&options(&node), &BenchArgs { reads: Bounded(100), ..resp.clone() }).contains("--reads 100"));
        let hasty = Options { timeout: Duration::from_secs(1), ..options(&node) };
        assert!(refused(&hasty, &resp).contains("--timeout is 1s"));
        assert!(refused(&options(&node), &BenchArgs { rate: Some(Bounded(1)), ..resp }).starts_with("--rate 1 leaves"));
    }
}
