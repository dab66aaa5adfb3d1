//! Load that outlives the nodes: clients that turn to the next node when theirs is gone or refuses, that write and delete, and that know of every key what it may hold.
//!
//! A writer goes through keys of its own: each is written a few times and then left alone for ever, and so are those that were being written when something
//! went wrong. So what is lost stays lost: nothing later hides it. A key may hold what was acknowledged last, or a later write of which the outcome
//! is unknown. Anything older is a lost write; anything else is one that was refused and applied all the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use crate::client::Client;
use crate::cluster::{DEADLINE, until};

/// Commands in flight on a connection, each of another key.
const DEPTH: u64 = 8;
/// Keys that a round leaves behind: the others are in the next one as well.
const STEP: u64 = 2;
/// Between two rounds: steady, and the machine is not saturated by it. Also what makes a later write later by the clock.
const ROUND_PAUSE: Duration = Duration::from_millis(2);
/// Before the next node is tried.
const TURN_PAUSE: Duration = Duration::from_millis(20);

/// One key, as its writer knows it: it writes rising numbers.
#[derive(Clone, Debug, Default)]
struct Place {
    key: u64,
    sent: u64,
    acknowledged: u64,
    /// Sent after what was acknowledged last, with an unknown outcome.
    unknown: Vec<u64>,
}

#[derive(Default)]
struct Ledger {
    places: BTreeMap<String, Place>,
    acknowledged: u64,
    /// How often each error code was heard.
    codes: BTreeMap<String, u64>,
    broken_connections: u64,
}

pub struct Roaming {
    writers: Vec<Writer>,
    ends: Arc<AtomicBool>,
}

struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    thread: Option<JoinHandle<()>>,
}

/// What the writers know when they have ended.
pub struct Outcomes {
    places: BTreeMap<String, Place>,
    pub acknowledged: u64,
    pub codes: BTreeMap<String, u64>,
    pub broken_connections: u64,
}

impl Roaming {
    /// One writer begins at each of these nodes, with keys that begin with the label, at `majority`.
    pub fn start(label: &str, addrs: &[SocketAddr]) -> Roaming {
        let ends = Arc::new(AtomicBool::new(false));
        let writers = (0..addrs.len()).map(|number| {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let label = format!("{label}/{number}");
            let mut addrs = addrs.to_vec();
            addrs.rotate_left(number);
            let (writing, ends) = (Arc::clone(&ledger), Arc::clone(&ends));
            Writer { ledger, thread: Some(thread::spawn(move || run_writer(&label, &addrs, &writing, &ends))) }
        });
        Roaming { writers: writers.collect(), ends }
    }

    /// Waits until every writer has had this many more writes acknowledged.
    #[track_caller]
    pub fn await_progress(&self, writes: u64) {
        let goals: Vec<u64> = self.writers.iter().map(|writer| writer.ledger.lock().acknowledged + writes).collect();
        for (number, writer) in self.writers.iter().enumerate() {
            until(&format!("{writes} more writes of writer {number}"), DEADLINE, || {
                let ledger = writer.ledger.lock();
                let enough = ledger.acknowledged >= goals[number];
                if enough { Ok(()) } else { Err(format!("{} of {}, refused {:?}", ledger.acknowledged, goals[number], ledger.codes)) }
            });
        }
    }

    /// Every round that was sent is read to its end.
    #[track_caller]
    pub fn end(mut self) -> Outcomes {
        self.ends.store(true, Ordering::Relaxed);
        let mut outcomes = Outcomes { places: BTreeMap::new(), acknowledged: 0, codes: BTreeMap::new(), broken_connections: 0 };
        for writer in &mut self.writers {
            writer.thread.take().expect("a writer").join().expect("a writer that ends");
            let ledger = std::mem::take(&mut *writer.ledger.lock());
            outcomes.places.extend(ledger.places);
            outcomes.acknowledged += ledger.acknowledged;
            outcomes.broken_connections += ledger.broken_connections;
            for (code, count) in ledger.codes {
                *outcomes.codes.entry(code).or_default() += count;
            }
        }
        outcomes
    }
}

impl Drop for Roaming {
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

impl Outcomes {
    /// No other errors were heard than these.
    #[track_caller]
    pub fn assert_codes_are(&self, expected: &[&str]) {
        let others: Vec<_> = self.codes.iter().filter(|(code, _)| !expected.contains(&code.as_str())).collect();
        assert!(others.is_empty(), "errors that this fault does not explain: {others:?}");
    }

    /// Every key holds on this node what it may.
    #[track_caller]
    pub fn assert_kept(&self, addr: SocketAddr) {
        let mut client = Client::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
        client.send(self.places.keys().map(|key| format!("GET {key}\n")).collect::<String>()).unwrap();
        for (key, place) in &self.places {
            let reply = client.line().unwrap_or_else(|error| panic!("{addr}> GET {key}: {error}"));
            assert!(place.may_be(&reply), "{addr}> GET {key}: {reply}; it was: {place:?}");
        }
    }
}

impl Place {
    /// Deletes are the last of a few writes, or in their middle, or there is none.
    fn is_delete(&self, number: u64) -> bool {
        number > 0 && (self.key + number).is_multiple_of(4)
    }

    fn may_be(&self, reply: &str) -> bool {
        let mut numbers = self.unknown.iter().copied().chain([self.acknowledged]);
        match reply.strip_prefix("VALUE ").and_then(|value| value.parse::<u64>().ok()) {
            Some(found) => numbers.any(|number| number == found && !self.is_delete(number)),
            None => reply.starts_with("ERROR NOTFOUND ") && numbers.any(|number| number == 0 || self.is_delete(number)),
        }
    }
}

fn run_writer(label: &str, addrs: &[SocketAddr], ledger: &Mutex<Ledger>, ends: &AtomicBool) {
    let mut first = 0;
    let mut next_addrs = addrs.iter().cycle();
    let mut client: Option<Client> = None;
    while !ends.load(Ordering::Relaxed) {
        thread::sleep(ROUND_PAUSE);
        let Some(open) = client.as_mut() else {
            let addr = next_addrs.next().expect("a node");
            let majority = |mut client: Client| (client.ask_line("ACK majority").ok()? == "OK").then_some(client);
            client = Client::connect(*addr).ok().and_then(majority);
            if client.is_none() {
                thread::sleep(TURN_PAUSE);
            }
            continue;
        };
        let round: Vec<(u64, String)> = (first..first + DEPTH).map(|key| (key, format!("{label}/{key}"))).collect();
        let is_served = write_round(open, &round, ledger);
        ledger.lock().broken_connections += u64::from(is_served.is_err());
        first += STEP;
        if !is_served.unwrap_or(false) {
            first += DEPTH;
            client = None;
            thread::sleep(TURN_PAUSE);
        }
    }
}

/// Whether this node does what it is asked.
fn write_round(client: &mut Client, round: &[(u64, String)], ledger: &Mutex<Ledger>) -> std::io::Result<bool> {
    let mut commands = String::new();
    for (key, name) in round {
        let mut ledger = ledger.lock();
        let place = ledger.places.entry(name.clone()).or_insert(Place { key: *key, ..Place::default() });
        place.sent += 1;
        // Until the reply says otherwise.
        place.unknown.push(place.sent);
        commands += &if place.is_delete(place.sent) { format!("DEL {name}\n") } else { format!("PUT {name} {}\n", place.sent) };
    }
    client.send(&commands)?;
    let mut is_served = true;
    for (_, name) in round {
        let reply = client.line()?;
        let mut ledger = ledger.lock();
        let place = ledger.places.get_mut(name).expect("a key of this writer");
        if reply == "OK" {
            place.acknowledged = place.sent;
            place.unknown.clear();
            ledger.acknowledged += 1;
            continue;
        }
        let code = reply.strip_prefix("ERROR ").and_then(|rest| rest.split(' ').next()).unwrap_or(&reply).to_owned();
        if code != "TIMEOUT" {
            place.unknown.pop();
        }
        // A delete of what is not there is an answer like any other.
        is_served &= code == "NOTFOUND";
        if code != "NOTFOUND" {
            *ledger.codes.entry(code).or_default() += 1;
        }
    }
    Ok(is_served)
}
