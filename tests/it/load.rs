//! Steady load, and the memory of what was promised: writers that know which of their writes were acknowledged.
//!
//! Every key has one writer, which writes rising numbers. So a node that holds a lower number than the last one acknowledged has lost a write, and
//! one that holds a higher number than the last one sent has invented one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::Client;
use crate::cluster::{DEADLINE, until};

/// Commands in flight on a connection.
const DEPTH: usize = 16;
const KEYS_PER_WRITER: usize = 64;
/// Between two rounds: steady, and the machine is not saturated by it.
const ROUND_PAUSE: Duration = Duration::from_millis(2);

/// One key, as its writer knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    sent: u64,
    acknowledged: u64,
}

/// What a writer has seen. Of a round that broke the outcome is unknown, which is no error of the node's.
#[derive(Default)]
struct Ledger {
    places: BTreeMap<String, Place>,
    acknowledged: u64,
    /// Replies other than `OK`, those of a node that is starting aside.
    errors: Vec<String>,
    broken_connections: u64,
    latency_worst: Duration,
}

pub struct Load {
    writers: Vec<Writer>,
    ends: Arc<AtomicBool>,
}

struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    thread: Option<JoinHandle<()>>,
}

/// What was acknowledged up to a moment: the least that a node must hold which opens later.
pub struct Promises(BTreeMap<String, u64>);

impl Load {
    /// One writer for each address and ack level, until [`Load::end`].
    pub fn start(targets: &[(SocketAddr, &'static str)]) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let writer = |(number, (addr, level)): (usize, &(SocketAddr, &'static str))| {
            let keys = (0..KEYS_PER_WRITER).map(|key| (format!("writer{number}/{key}"), Place::default()));
            let ledger = Arc::new(Mutex::new(Ledger { places: keys.collect(), ..Ledger::default() }));
            let (addr, level, writing, ends) = (*addr, *level, Arc::clone(&ledger), Arc::clone(&ends));
            let thread = thread::spawn(move || run_writer(addr, level, &writing, &ends));
            Writer { ledger, thread: Some(thread) }
        };
        Load { writers: targets.iter().enumerate().map(writer).collect(), ends }
    }

    /// Waits until every writer has had this many more writes acknowledged.
    #[track_caller]
    pub fn await_progress(&self, writes: u64) {
        for (number, writer) in self.writers.iter().enumerate() {
            let goal = writer.ledger.lock().acknowledged + writes;
            until(&format!("{writes} more writes of writer {number}"), DEADLINE, || {
                let ledger = writer.ledger.lock();
                if ledger.acknowledged >= goal {
                    Ok(())
                } else {
                    Err(format!("{}, errors {:?}", ledger.acknowledged, ledger.errors.last()))
                }
            });
        }
    }

    pub fn promises(&self) -> Promises {
        let mut promises = BTreeMap::new();
        for writer in &self.writers {
            promises.extend(writer.ledger.lock().places.iter().map(|(key, place)| (key.clone(), place.acknowledged)));
        }
        Promises(promises)
    }

    /// The longest that a whole round of one writer has taken since this was last asked.
    pub fn take_latency_worst(&self, writer: usize) -> Duration {
        std::mem::take(&mut self.writers[writer].ledger.lock().latency_worst)
    }

    pub fn broken_connections(&self, writer: usize) -> u64 {
        self.writers[writer].ledger.lock().broken_connections
    }

    /// Ends the writers; every round that was sent is read to its end.
    #[track_caller]
    pub fn end(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for writer in &mut self.writers {
            if let Some(thread) = writer.thread.take() {
                thread.join().expect("a writer that ends");
            }
        }
    }

    #[track_caller]
    pub fn assert_no_errors(&self) {
        self.assert_errors_are(&[]);
    }

    /// No other errors than those that begin with one of these.
    #[track_caller]
    pub fn assert_errors_are(&self, expected: &[&str]) {
        for (number, writer) in self.writers.iter().enumerate() {
            let ledger = writer.ledger.lock();
            let errors: Vec<&String> =
                ledger.errors.iter().filter(|error| !expected.iter().any(|start| error.starts_with(start))).collect();
            assert!(errors.is_empty(), "writer {number}: {} errors, such as {:?}", errors.len(), &errors[..errors.len().min(5)]);
        }
    }

    /// After the end: no acknowledged write is missing on this node, and nothing is there that was never sent.
    #[track_caller]
    pub fn assert_kept(&self, addr: SocketAddr) {
        let mut client = Client::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
        for writer in &self.writers {
            let places = writer.ledger.lock().places.clone();
            assert!(writer.thread.is_none(), "the load has not ended");
            let keys: Vec<&String> = places.keys().collect();
            let replies = get_all(&mut client, &keys).unwrap_or_else(|error| panic!("{addr}: {error}"));
            for ((key, place), reply) in places.iter().zip(replies) {
                let found = number(&reply).unwrap_or_else(|| panic!("{addr}> GET {key}: {reply}"));
                let held = found >= place.acknowledged && found <= place.sent;
                assert!(held, "{addr}> GET {key}: {reply}, acknowledged {}, sent {}", place.acknowledged, place.sent);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for writer in &mut self.writers {
            if let Some(thread) = writer.thread.take() {
                // A failing test does not care how its writers end.
                let _ = thread.join();
            }
        }
    }
}

impl Promises {
    /// Asks a node that is starting, from the moment that it accepts: it may say LOADING, but what it serves must be as new as promised.
    /// Returns the number of LOADING replies once it serves everything. `alive` panics if the node has ended.
    #[track_caller]
    pub fn assert_served(&self, addr: SocketAddr, mut alive: impl FnMut()) -> usize {
        let keys: Vec<&String> = self.0.keys().collect();
        let mut loading = 0;
        let mut client = None;
        until("a node that serves", DEADLINE, || {
            alive();
            if client.is_none() {
                client = Some(Client::connect(addr).map_err(|error| error.to_string())?);
            }
            let replies = match client.as_mut().map(|client| get_all(client, &keys)) {
                Some(Ok(replies)) => replies,
                broken => {
                    client = None;
                    return Err(format!("{:?}", broken.and_then(Result::err)));
                }
            };
            let refused = replies.iter().filter(|reply| reply.starts_with("ERROR LOADING")).count();
            for (reply, (key, promised)) in replies.iter().zip(&self.0).filter(|(reply, _)| !reply.starts_with("ERROR LOADING")) {
                let kept = *promised == 0 || number(reply).is_some_and(|found| found >= *promised);
                assert!(
                    kept,
                    "{addr} served a client before it had caught up: GET {key}: {reply}, acknowledged before it was started: {promised}"
                );
            }
            loading += refused;
            if refused == 0 { Ok(()) } else { Err(format!("{refused} of {} LOADING", replies.len())) }
        });
        loading
    }
}

fn run_writer(addr: SocketAddr, level: &str, ledger: &Mutex<Ledger>, ends: &AtomicBool) {
    let keys: Vec<String> = ledger.lock().places.keys().cloned().collect();
    let mut next_keys = keys.iter().cycle();
    let mut client: Option<Client> = None;
    while !ends.load(Ordering::Relaxed) {
        thread::sleep(ROUND_PAUSE);
        let Some(open) = client.as_mut() else {
            // A node that is starting refuses this as well, and is asked again.
            client = Client::connect(addr)
                .ok()
                .and_then(|mut client| (client.ask_line(&format!("ACK {level}")).ok()? == "OK").then_some(client));
            continue;
        };
        let round: Vec<&String> = next_keys.by_ref().take(DEPTH).collect();
        if write_round(open, &round, ledger).is_err() {
            ledger.lock().broken_connections += 1;
            client = None;
        }
    }
}

fn write_round(client: &mut Client, round: &[&String], ledger: &Mutex<Ledger>) -> std::io::Result<()> {
    let mut numbers = Vec::with_capacity(round.len());
    let mut commands = String::new();
    for key in round {
        let mut ledger = ledger.lock();
        let place = ledger.places.entry((*key).clone()).or_default();
        place.sent += 1;
        numbers.push(place.sent);
        commands += &format!("PUT {key} {}\n", place.sent);
    }
    let started = Instant::now();
    client.send(&commands)?;
    let mut starting = false;
    for (key, number) in round.iter().zip(numbers) {
        let reply = client.line()?;
        let mut ledger = ledger.lock();
        match reply.as_str() {
            "OK" => {
                ledger.acknowledged += 1;
                ledger.places.entry((*key).clone()).or_default().acknowledged = number;
            }
            loading if loading.starts_with("ERROR LOADING") => starting = true,
            _ => ledger.errors.push(reply),
        }
    }
    let mut ledger = ledger.lock();
    if !starting {
        ledger.latency_worst = ledger.latency_worst.max(started.elapsed());
    }
    Ok(())
}

/// A pipeline of GETs, read in full.
fn get_all(client: &mut Client, keys: &[&String]) -> std::io::Result<Vec<String>> {
    let commands: String = keys.iter().map(|key| format!("GET {key}\n")).collect();
    client.send(commands)?;
    keys.iter().map(|_| client.line()).collect()
}

fn number(reply: &str) -> Option<u64> {
    reply.strip_prefix("VALUE ")?.parse().ok()
}

/// Fills a node with keys that nobody writes again, so that catching up takes a while.
#[track_caller]
pub fn fill(addr: SocketAddr, keys: usize) {
    const ROUND: usize = 500;
    let mut client = Client::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
    let padding = "x".repeat(100);
    for first in (0..keys).step_by(ROUND) {
        let round = first..(first + ROUND).min(keys);
        let commands: String = round.clone().map(|key| format!("PUT fill/{key} {padding}\n")).collect();
        client.send(commands).unwrap_or_else(|error| panic!("{addr}: {error}"));
        for key in round {
            assert_eq!(client.line().unwrap_or_else(|error| panic!("{addr}: {error}")), "OK", "PUT fill/{key}");
        }
    }
}
