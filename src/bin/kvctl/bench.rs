//! The load generator: as many threads as connections, each of which writes a round of commands with one write and reads all of its replies.
//!
//! It must cost less than what it measures: requests are copied from a template into a buffer that is reused, and replies are compared where they
//! were read. Every reply is checked; what is not the expected one is counted under its code.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

use kvmesh::client::{self, Client};

use crate::usage::{Bench, Seconds};
use crate::{Code, Failure, Options};

const WARM_UP: Duration = Duration::from_millis(500);
/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// All keys have this many digits, so that a request's length does not depend on its key.
const KEY_DIGITS: usize = 10;
/// What the keys are written with before any is read: rounds of at most so many bytes.
const FILL_ROUND_LEN: usize = 64 << 10;

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
    report(options, bench, &total, measured)?;
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

/// What one connection, or all together, saw while it was measured.
struct Tally {
    done: u64,
    /// Replies by their code; `LOST` for commands that were not answered, `UNEXPECTED` for a reply that the command cannot have.
    errors: BTreeMap<String, u64>,
    /// Nanoseconds of a round.
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        const MINUTE: u64 = 60_000_000_000;
        // Bounds that the library takes: 1 ≤ low, 2·low ≤ high, at most five digits.
        let latency = Histogram::new_with_bounds(1_000, MINUTE, 3).unwrap_or_else(|_| unreachable!("constant bounds are valid"));
        Tally { done: 0, errors: BTreeMap::new(), latency }
    }

    fn join(&mut self, other: Tally) {
        self.done += other.done;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        if self.latency.add(&other.latency).is_err() {
            unreachable!("histograms of the same bounds can be added");
        }
    }

    fn count_error(&mut self, code: &str, count: u64) {
        // Looked up first: an error reply costs an allocation only the first time.
        match self.errors.get_mut(code) {
            Some(counted) => *counted += count,
            None => {
                self.errors.insert(code.to_string(), count);
            }
        }
    }
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

/// Makes rounds of requests, in one buffer.
struct Requests {
    put: Vec<u8>,
    get: Vec<u8>,
    keys: u64,
    /// Of a hundred.
    reads_percent: u64,
    /// xorshift64*: which key is next.
    random: u64,
    round: Vec<u8>,
    /// Of each command of the round, whether it reads.
    reads: Vec<bool>,
}

/// Where the digits of the key begin, in both templates.
const DIGITS_AT: usize = "PUT key:".len();

impl Requests {
    fn new(bench: &Bench, index: usize) -> Requests {
        let zeros = "0".repeat(KEY_DIGITS);
        // The empty value must be quoted.
        let value = if bench.value_size.0 == 0 { "\"\"".to_string() } else { "v".repeat(bench.value_size.0) };
        Requests {
            put: format!("PUT key:{zeros} {value}\n").into_bytes(),
            get: format!("GET key:{zeros}\n").into_bytes(),
            keys: bench.keys.0 as u64,
            reads_percent: bench.reads.0 as u64,
            // Never 0, and far apart for neighbours.
            random: (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            round: Vec::new(),
            reads: vec![false; bench.depth.0],
        }
    }

    fn next_round(&mut self) {
        self.round.clear();
        for place in 0..self.reads.len() {
            let is_read = self.next_random() % 100 < self.reads_percent;
            let key = self.next_random() % self.keys;
            self.reads[place] = is_read;
            self.push(is_read, key);
        }
    }

    /// A round that writes the next of `keys`; returns how many.
    fn fill(&mut self, keys: &mut impl Iterator<Item = u64>) -> usize {
        self.round.clear();
        let len = (FILL_ROUND_LEN / self.put.len()).max(1);
        keys.take(len).map(|key| self.push(false, key)).count()
    }

    fn push(&mut self, is_read: bool, mut key: u64) {
        let begin = self.round.len() + DIGITS_AT;
        self.round.extend_from_slice(if is_read { &self.get } else { &self.put });
        for digit in self.round[begin..begin + KEY_DIGITS].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

fn report(options: &Options, bench: &Bench, total: &Tally, measured: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let per_second = total.done as f64 / measured.as_secs_f64();
    let errors: u64 = total.errors.values().sum();
    let micros = |nanos: u64| nanos as f64 / 1_000.0;
    let at = |quantile: f64| micros(total.latency.value_at_quantile(quantile));
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), micros(total.latency.max()));
    let ack = options.ack.map_or_else(|| "default".to_string(), |level| level.to_string());
    if options.json {
        let report = json!({
            "clients": bench.clients.0, "depth": bench.depth.0, "seconds": measured.as_secs_f64(), "keys": bench.keys.0,
            "value_size": bench.value_size.0, "reads_percent": bench.reads.0, "ack": ack, "nodes": options.nodes,
            "operations": total.done, "operations_per_second": per_second.round(), "errors": total.errors,
            "rounds": total.latency.len(), "round_us": { "p50": p50, "p99": p99, "p99.9": p999, "max": max },
        });
        return writeln!(out, "{report}");
    }
    writeln!(
        out,
        "{} connections, {} deep, {} % reads, {} keys, {} byte values, ack {ack}, {measured:?} on {}",
        bench.clients.0,
        bench.depth.0,
        bench.reads.0,
        bench.keys.0,
        bench.value_size.0,
        options.nodes.join(", ")
    )?;
    writeln!(out, "operations/s  {per_second:.0}  ({} operations)", total.done)?;
    writeln!(out, "errors        {errors}")?;
    for (code, count) in &total.errors {
        writeln!(out, "  {code:<12}{count}")?;
    }
    writeln!(out, "round         p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us, max {max:.0} us")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Bounded;

    fn bench(reads: usize, keys: usize) -> Bench {
        Bench {
            clients: Bounded(1),
            depth: Bounded(1000),
            seconds: Seconds(Duration::from_secs(1)),
            keys: Bounded(keys),
            value_size: Bounded(3),
            reads: Bounded(reads),
        }
    }

    #[test]
    fn a_round_holds_what_it_says() {
        let mut requests = Requests::new(&bench(30, 7), 0);
        requests.next_round();
        let text = String::from_utf8(requests.round.clone()).unwrap();
        assert_eq!(text.lines().count(), 1000);
        for (line, is_read) in text.lines().zip(&requests.reads) {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[0] == "GET", *is_read);
            assert!(words[1].strip_prefix("key:").unwrap().parse::<u64>().unwrap() < 7);
            assert_eq!(words.get(2).copied(), (!is_read).then_some("vvv"));
        }
        let reads = requests.reads.iter().filter(|is_read| **is_read).count();
        assert!((200..400).contains(&reads), "{reads}");
    }

    #[test]
    fn filling_writes_every_key_once() {
        let mut requests = Requests::new(&bench(1, 10_000), 0);
        let mut keys = (0..10_000).peekable();
        let mut written = Vec::new();
        while keys.peek().is_some() {
            let len = requests.fill(&mut keys);
            let text = String::from_utf8(requests.round.clone()).unwrap();
            assert_eq!(text.lines().count(), len);
            assert!(text.len() <= FILL_ROUND_LEN);
            written.extend(text.lines().map(|line| line["PUT key:".len()..][..KEY_DIGITS].parse::<u64>().unwrap()));
        }
        assert_eq!(written, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn errors_are_told_by_their_code() {
        assert_eq!(error_code(b"ERROR NOQUORUM 1 of 3 members is up"), "NOQUORUM");
        assert_eq!(error_code(b"ERROR FULL"), "FULL");
        assert_eq!(error_code(b"VALUE 1"), "UNEXPECTED");
    }
}
