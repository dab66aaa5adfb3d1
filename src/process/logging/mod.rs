//! The log: lines on stderr, written by one thread, so that no thread that logs waits for the
//! reader of stderr.
//!
//! Owns stderr and the queue in front of it. A pipe that is not read is full after some hundred
//! lines, and then a thread that writes to it blocks: while it holds locks, or has a heartbeat to
//! answer. So a line that finds the queue full is dropped and counted, and the count is logged once
//! there is room. A record is one line, whatever it contains. [`LogLimit`] bounds how often lines
//! of one kind are logged.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use env_logger::{Builder, Env, Target, WriteStyle};
use log::LevelFilter;

use crate::process::signals;
use crate::process::threads::join_all;
use crate::wire::quoting::write_line;

pub use level::LogLevel;
pub use limit::LogLimit;

mod level;
mod limit;

/// Lines that wait for the reader of stderr; beyond this, lines are dropped.
const QUEUE_LEN: usize = 1_024;

/// Bytes of a line; a longer one is cut off.
const LINE_LEN_MAX: usize = 8 << 10;

/// The longest wait, at the end of the process, for queued lines to be written.
const FAREWELL: Duration = Duration::from_secs(3);

/// The longest wait of a panic for its message to be written: meanwhile the node is half-dead.
const LAST_WORDS: Duration = Duration::from_secs(1);

const THREAD: &str = "stderr";

/// The queue of this process, once [`start`] has made it.
static QUEUE: OnceLock<LineQueue> = OnceLock::new();

enum QueueItem {
    Line(Vec<u8>),
    /// Dropped by the writing thread when everything before it is written.
    Reached(Sender<()>),
    End,
}

/// The sending end of the queue. Clones share the count of dropped lines.
#[derive(Clone)]
struct LineQueue {
    item_tx: Sender<QueueItem>,
    /// Lines dropped since the number was last logged.
    dropped: Arc<AtomicU64>,
}

/// The log of this process, until [`Logging::end`].
pub struct Logging {
    queue: LineQueue,
    thread: JoinHandle<()>,
}

/// Starts the log: `RUST_LOG` chooses the level, if it is set, `RUST_LOG_STYLE` the colours. To be
/// called once.
pub fn start() -> io::Result<Logging> {
    let (queue, item_rx) = queue(QUEUE_LEN);
    let dropped = Arc::clone(&queue.dropped);
    let write = move || {
        // Signals are for the thread that waits for them.
        let _ = signals::block(signals::NODE);
        run_stderr(&item_rx, &dropped, io::stderr(), |count| {
            log::error!("log lines dropped: {count}, because stderr was not read in time")
        });
    };
    let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(write)?;
    let _ = QUEUE.set(queue.clone());
    let mut builder = Builder::from_env(Env::default());
    if !is_level_fixed() {
        // The greatest level that [`set_level`] can set.
        builder.filter_level(LevelFilter::Debug);
    }
    if is_coloured() {
        builder.write_style(WriteStyle::Always);
    }
    builder
        .target(Target::Pipe(Box::new(queue.clone())))
        .format(|line, record| {
            let (time, level) = (line.timestamp_millis(), record.level());
            let style = line.default_level_style(level);
            write!(line, "[{time} {style}{level:<5}{style:#} {}] ", record.target())?;
            write_line(line, &record.args().to_string())?;
            line.write_all(b"\n")
        })
        .try_init()
        .map_err(io::Error::other)?;
    set_level(LogLevel::default());
    Ok(Logging { queue, thread })
}

/// Sets the level of the log, unless `RUST_LOG` does.
pub fn set_level(level: LogLevel) {
    if !is_level_fixed() {
        log::set_max_level(level.filter());
    }
}

impl Logging {
    /// Ends the log once the queued lines are written, or after `FAREWELL`.
    pub fn end(self) {
        let deadline = Instant::now() + FAREWELL;
        // Fails if the queue stays full until then.
        let _ = self.queue.item_tx.send_deadline(QueueItem::End, deadline);
        join_all(Some(self.thread), deadline, THREAD);
    }
}

/// Prints a sentence that is no log record, such as the reason why this process ends. Waits up to
/// three seconds until it is written.
pub fn print_sentence(text: impl fmt::Display) {
    print_within(FAREWELL, text);
}

fn print_within(wait: Duration, text: impl fmt::Display) {
    let mut lines = Vec::new();
    for line in text.to_string().lines() {
        // Writing to memory does not fail.
        let _ = write_line(&mut lines, line).and_then(|()| lines.write_all(b"\n"));
    }
    match QUEUE.get() {
        Some(queue) if thread::current().name() != Some(THREAD) => queue.print(lines, Instant::now() + wait),
        // The log has not been started, or this is its own thread.
        _ => {
            let _ = io::stderr().write_all(&lines);
        }
    }
}

/// Makes a panic of any thread end the process, with its message. The mesh handles a dead node; it
/// cannot handle a half-dead one.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let thread = thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = if backtrace.status() == std::backtrace::BacktraceStatus::Captured { backtrace.to_string() } else { String::new() };
        print_within(LAST_WORDS, format_args!("thread '{}' {panic}\n{backtrace}", thread.name().unwrap_or("without a name")));
        std::process::abort();
    }));
}

fn queue(len: usize) -> (LineQueue, Receiver<QueueItem>) {
    let (item_tx, item_rx) = bounded(len);
    (LineQueue { item_tx, dropped: Arc::default() }, item_rx)
}

impl LineQueue {
    fn print(&self, lines: Vec<u8>, deadline: Instant) {
        let (reached_tx, reached_rx) = bounded(0);
        let sent = self
            .item_tx
            .send_deadline(QueueItem::Line(lines), deadline)
            .and_then(|()| self.item_tx.send_deadline(QueueItem::Reached(reached_tx), deadline));
        if sent.is_ok() {
            let _ = reached_rx.recv_deadline(deadline);
        }
    }
}

/// Each write is one whole line, as env_logger writes them.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line[..line.len().min(LINE_LEN_MAX)].to_vec();
        if kept.len() < line.len() {
            let _ = writeln!(kept, "... ({} bytes)", line.len());
        }
        if self.item_tx.try_send(QueueItem::Line(kept)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The loop of the thread `stderr`: writes what is logged. `log_dropped` logs the number of dropped
/// lines; that line may be dropped, too, and is then counted.
fn run_stderr(item_rx: &Receiver<QueueItem>, dropped: &AtomicU64, mut out: impl Write, log_dropped: impl Fn(u64)) {
    let report_dropped = || match dropped.swap(0, Ordering::Relaxed) {
        0 => {}
        count => log_dropped(count),
    };
    let mut written = 0;
    for item in item_rx {
        match item {
            QueueItem::Line(line) => {
                // An error cannot be reported anywhere.
                let _ = out.write_all(&line);
                written += 1;
                // Once the queue is empty; from time to time, if it never is.
                if item_rx.is_empty() || written >= QUEUE_LEN {
                    written = 0;
                    report_dropped();
                }
            }
            QueueItem::Reached(reached_tx) => drop(reached_tx),
            QueueItem::End => {
                report_dropped();
                for item in item_rx.try_iter() {
                    if let QueueItem::Line(line) = item {
                        let _ = out.write_all(&line);
                    }
                }
                return;
            }
        }
    }
}

/// True if `RUST_LOG` chooses the level.
fn is_level_fixed() -> bool {
    variable("RUST_LOG").is_some()
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// True if stderr is a terminal that takes colours and no variable forbids them. A `RUST_LOG_STYLE`
/// other than `auto` is left to env_logger.
fn is_coloured() -> bool {
    let is_auto = variable("RUST_LOG_STYLE").is_none_or(|style| style == "auto");
    let is_dumb = variable("TERM").is_none_or(|term| term == "dumb");
    is_auto && !is_dumb && variable("NO_COLOR").is_none() && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests;
