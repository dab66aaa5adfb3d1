//! The load generator: as many threads as connections, each of which writes a round of commands with one write and reads all of its replies.
//!
//! It must cost less than what it measures: requests are copied from a template into a buffer that is reused, and replies are compared where they
//! were read. Every reply is checked; what is not the expected one is counted under its code.

mod report;
mod requests;
mod tally;

use std::io::{self, Write};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvmesh::client::{self, Client};

use crate::usage::{Bench, Seconds};
use crate::{Code, Failure, Options};

use requests::Requests;
use tally::Tally;

const WARM_UP: Duration = Duration::from_millis(500);
/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

pub fn run(options: &Options, bench: &Bench) -> Result<(), Failure> {
    let Seconds(measured) = bench.seconds;
    let start = Start { ready: Barrier::new(bench.clients.0), failed: AtomicBool::new(false) };
    let results: Vec<Result<Tally, client::Error>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..bench.clients.0 {
            let start = &start;
            let run = move || Worker::run(options, bench, index, start);
            match std::thread::Builder::new().name(format!("bench-{index}")).stack_size(256 << 10).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                // The barrier would wait for ever for the threads that cannot be had.
                Err(error) => {
                    let _ = writeln!(io::stderr(), "kvctl: cannot start thread {index} of {}: {error}", bench.clients.0);
                    std::process::exit(Code::Usage as i32);
                }
            }
        }
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut total = Tally::new();
    for result in results {
        total.join(result?);
    }
    report::report(options, bench, &total, measured)?;
    match total.errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Code::Refused, "there were errors")),
    }
}

/// Where all threads meet before they begin, connected and with all keys written, so that they load the nodes at the same time.
struct Start {
    ready: Barrier,
    /// One of them could not get so far: nothing is measured.
    failed: AtomicBool,
}
/// One connection.
struct Worker<'a> {
    options: &'a Options,
    /// The node that it speaks with as long as it can, and then the others.
    addrs: Vec<String>,
    requests: Requests,
    tally: Tally,
}

impl Worker<'_> {
    /// Fails only if the measuring cannot begin.
    fn run(options: &Options, bench: &Bench, index: usize, start: &Start) -> Result<Tally, client::Error> {
        let mut addrs = options.nodes.clone();
        addrs.rotate_left(index % options.nodes.len());
        let mut worker = Worker { options, addrs, requests: Requests::new(bench, index), tally: Tally::new() };
        let connected = worker.connect_and_fill(bench, index);
        start.failed.fetch_or(connected.is_err(), Ordering::Relaxed);
        // Whatever happened, the others are not left waiting.
        start.ready.wait();
        let client = connected?;
        if !start.failed.load(Ordering::Relaxed) {
            let Seconds(measured) = bench.seconds;
            let begin = Instant::now() + WARM_UP;
            worker.measure(client, begin, begin + measured);
        }
        Ok(worker.tally)
    }

    fn connect_and_fill(&mut self, bench: &Bench, index: usize) -> Result<Client, client::Error> {
        let mut client = self.options.connect(&self.addrs)?;
        if bench.reads.0 > 0 {
            let mut keys = (index..bench.keys.0).step_by(bench.clients.0).map(|key| key as u64).peekable();
            while keys.peek().is_some() {
                let written = self.requests.fill(&mut keys);
                client.send(&self.requests.round)?;
                for _ in 0..written {
                    let said = client.reply()?;
                    if said != b"OK" {
                        return Err(client::unexpected(said, "OK"));
                    }
                }
            }
        }
        Ok(client)
    }

    /// Round after round from now to `end`; those that begin at `begin` or later count.
    fn measure(&mut self, client: Client, begin: Instant, end: Instant) {
        let mut client = Some(client);
        loop {
            let start = Instant::now();
            if start >= end {
                return;
            }
            let counts = start >= begin;
            let Some(connection) = &mut client else {
                client = self.options.connect(&self.addrs).ok();
                if client.is_none() {
                    self.addrs.rotate_left(1);
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                continue;
            };
            self.requests.next_round();
            let answered = self.round(connection, counts);
            let now = Instant::now();
            let depth = self.requests.reads.len() as u64;
            match answered {
                Ok(done) if counts => {
                    self.tally.latency.saturating_record((now - start).as_nanos() as u64);
                    // A round that is still under way at the end shows in the latency, but is no throughput of the time measured.
                    self.tally.done += if now <= end { done } else { 0 };
                }
                Ok(_) => {}
                Err(replies) => {
                    self.tally.count_error("LOST", depth - replies);
                    client = None;
                }
            }
        }
    }

    /// Returns how many replies were the expected ones, or, if the connection broke, how many replies there were before.
    fn round(&mut self, client: &mut Client, counts: bool) -> Result<u64, u64> {
        client.send(&self.requests.round).map_err(|_| 0u64)?;
        let mut done = 0;
        for (replies, is_read) in self.requests.reads.iter().enumerate() {
            let Ok(line) = client.line() else { return Err(replies as u64) };
            let expected = if *is_read { line.starts_with(b"VALUE ") } else { line == b"OK" };
            if expected {
                done += 1;
            } else if counts {
                self.tally.count_error(error_code(line), 1);
            }
        }
        Ok(done)
    }
}

fn error_code(line: &[u8]) -> &str {
    let code = line.strip_prefix(b"ERROR ").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    code.and_then(|code| std::str::from_utf8(code).ok()).unwrap_or("UNEXPECTED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_by_their_code() {
        assert_eq!(error_code(b"ERROR NOQUORUM 1 of 3 members is up"), "NOQUORUM");
        assert_eq!(error_code(b"ERROR FULL"), "FULL");
        assert_eq!(error_code(b"VALUE 1"), "UNEXPECTED");
    }
}
