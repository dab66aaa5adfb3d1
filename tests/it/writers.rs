//! Writers that remember what was acknowledged to them: load on a cluster, and the proof of what a
//! fault has cost.
//!
//! A writer has keys of its own and writes rising numbers under each. Afterwards a key may hold the
//! write that was acknowledged last, or a later one of which the outcome is unknown. An older one
//! is a lost write. Any other one was refused and applied all the same, or invented.
//!
//! A writer that *stays* at its node keeps going through the same keys. One that *roams* turns to
//! the next node when its own is gone or refuses, and deletes as well. It leaves its keys alone for
//! ever after a few writes, or when something went wrong, so that nothing hides a loss later.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};

/// Between two rounds: the load is steady, and does not saturate the machine. Also what makes a
/// later write later by the clock.
const ROUND_PAUSE: Duration = Duration::from_millis(2);
/// Before the next node is tried.
const TURN_PAUSE: Duration = Duration::from_millis(20);

/// How a writer chooses its node and its keys.
struct Conduct {
    label: String,
    addrs: Vec<SocketAddr>,
    level: &'static str,
    roams: bool,
    /// Commands in flight, each for another key.
    depth: u64,
    /// Keys that a round leaves behind; the others are in the next one as well.
    step: u64,
    keys: u64,
}

/// One key, as its writer knows it.
#[derive(Clone, Debug, Default)]
struct KeyRecord {
    /// Set for a writer that roams. Every fourth write of a key is a delete, those whose number and
    /// this add up to a multiple of four.
    delete_shift: Option<u64>,
    sent: u64,
    acknowledged: u64,
    /// Writes sent after the one that was acknowledged last, with an unknown outcome.
    unknown: Vec<u64>,
}

/// Everything that one writer knows, or several together.
#[derive(Default)]
pub struct Ledger {
    keys: BTreeMap<String, KeyRecord>,
    pub acknowledged: u64,
    /// How often each error code was received. A delete of an absent key is not an error.
    pub codes: BTreeMap<String, u64>,
    pub broken_connections: u64,
    /// The longest that a round has taken, unless the node was starting.
    latency_worst: Duration,
}

pub struct Writers {
    writers: Vec<Writer>,
    ends: Arc<AtomicBool>,
}

struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    thread: Option<JoinHandle<()>>,
}

/// Writes that were acknowledged up to a moment: the least that a node must hold which opens later.
pub struct Promises(BTreeMap<String, u64>);

impl Writers {
    /// Starts one writer for each node and ack level, until [`Writers::end`].
    pub fn staying(cluster: &Cluster, targets: &[(u16, &'static str)]) -> Writers {
        Writers::start(targets.iter().enumerate().map(|(number, (id, level))| {
            let (label, addrs) = (format!("writer{number}"), vec![cluster.client_addr(*id)]);
            Conduct { label, addrs, level, roams: false, depth: 16, step: 16, keys: 64 }
        }))
    }

    /// Starts one writer at each of these nodes, at `majority`, with keys that begin with the
    /// label.
    pub fn roaming(cluster: &Cluster, label: &str, ids: &[u16]) -> Writers {
        Writers::start((0..ids.len()).map(|number| {
            let mut addrs: Vec<SocketAddr> = ids.iter().map(|id| cluster.client_addr(*id)).collect();
            addrs.rotate_left(number);
            Conduct { label: format!("{label}/{number}"), addrs, level: "majority", roams: true, depth: 8, step: 2, keys: u64::MAX }
        }))
    }

    fn start(conducts: impl Iterator<Item = Conduct>) -> Writers {
        let ends = Arc::new(AtomicBool::new(false));
        let start = |conduct: Conduct| {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            let (writing, ends) = (Arc::clone(&ledger), Arc::clone(&ends));
            Writer { ledger, thread: Some(thread::spawn(move || conduct.run(&writing, &ends))) }
        };
        Writers { writers: conducts.map(start).collect(), ends }
    }

    /// Waits until every writer has had this many more writes acknowledged.
    #[track_caller]
    pub fn await_progress(&self, writes: u64) {
        let goals: Vec<u64> = self.writers.iter().map(|writer| writer.ledger.lock().acknowledged + writes).collect();
        for (number, (writer, goal)) in self.writers.iter().zip(goals).enumerate() {
            until(&format!("{writes} more writes of writer {number}"), DEADLINE, || {
                let Ledger { acknowledged, codes, .. } = &*writer.ledger.lock();
                if *acknowledged >= goal { Ok(()) } else { Err(format!("{acknowledged} of {goal}, errors {codes:?}")) }
            });
        }
    }

    pub fn promises(&self) -> Promises {
        let mut promises = BTreeMap::new();
        for writer in &self.writers {
            promises.extend(writer.ledger.lock().keys.iter().map(|(key, record)| (key.clone(), record.acknowledged)));
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

    /// Ends the writers; every round that was sent is read to its end. Returns what they know.
    #[track_caller]
    pub fn end(mut self) -> Ledger {
        self.ends.store(true, Ordering::Relaxed);
        let mut sum = Ledger::default();
        for writer in &mut self.writers {
            writer.thread.take().expect("a writer").join().expect("a writer that ends");
            let ledger = std::mem::take(&mut *writer.ledger.lock());
            sum.keys.extend(ledger.keys);
            sum.acknowledged += ledger.acknowledged;
            sum.broken_connections += ledger.broken_connections;
            for (code, count) in ledger.codes {
                *sum.codes.entry(code).or_default() += count;
            }
        }
        sum
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.writers.iter_mut().filter_map(|writer| writer.thread.take()) {
            // A failing test does not care how its writers end.
            let _ = thread.join();
        }
    }
}

impl Ledger {
    /// No other errors were received than those with these codes.
    #[track_caller]
    pub fn assert_codes_are(&self, expected: &[&str]) {
        let others: Vec<_> = self.codes.iter().filter(|(code, _)| !expected.contains(&code.as_str())).collect();
        assert!(others.is_empty(), "errors that this fault does not explain: {others:?}");
    }

    /// Every key holds what it may, on every node.
    #[track_caller]
    pub fn assert_kept(&self, cluster: &Cluster) {
        for id in cluster.ids() {
            self.assert_kept_by(cluster, id);
        }
    }

    /// Every key holds what it may, on this node.
    #[track_caller]
    pub fn assert_kept_by(&self, cluster: &Cluster, id: u16) {
        let replies = get_all(&mut cluster.client(id), self.keys.keys()).unwrap_or_else(|error| panic!("n{id}: {error}"));
        for ((key, record), reply) in self.keys.iter().zip(replies) {
            assert!(record.may_be(&reply), "n{id}> GET {key}: {reply}; it was: {record:?}");
        }
    }
}

impl KeyRecord {
    /// Deletes are the last of a few writes, or in their middle, or there is none.
    fn is_delete(&self, number: u64) -> bool {
        number > 0 && self.delete_shift.is_some_and(|shift| (shift + number).is_multiple_of(4))
    }

    fn may_be(&self, reply: &str) -> bool {
        let mut numbers = self.unknown.iter().copied().chain([self.acknowledged]);
        match value(reply) {
            Some(found) => numbers.any(|number| number == found && !self.is_delete(number)),
            None => reply.starts_with("ERROR NOTFOUND ") && numbers.any(|number| number == 0 || self.is_delete(number)),
        }
    }
}

impl Promises {
    /// Asks a node that is starting, from the moment that it accepts. It may refuse with LOADING,
    /// but what it serves must be as new as promised. Returns once it serves everything.
    #[track_caller]
    pub fn assert_served(&self, cluster: &mut Cluster, id: u16) {
        let mut client = None;
        until("a node that serves", DEADLINE, || {
            cluster.revive(id);
            let open = match client.take() {
                Some(open) => open,
                None => Client::connect(cluster.client_addr(id)).map_err(|error| error.to_string())?,
            };
            let replies = get_all(client.insert(open), self.0.keys()).inspect_err(|_| client = None).map_err(|error| error.to_string())?;
            let is_refused = |reply: &&String| reply.starts_with("ERROR LOADING");
            for (reply, (key, promised)) in replies.iter().zip(&self.0).filter(|(reply, _)| !is_refused(reply)) {
                let is_kept = *promised == 0 || value(reply).is_some_and(|found| found >= *promised);
                assert!(
                    is_kept,
                    "n{id} served a client before it had caught up: GET {key}: {reply}, acknowledged before its start: {promised}"
                );
            }
            match replies.iter().filter(is_refused).count() {
                0 => Ok(()),
                refused => Err(format!("{refused} of {} LOADING", replies.len())),
            }
        });
    }
}

impl Conduct {
    fn run(&self, ledger: &Mutex<Ledger>, ends: &AtomicBool) {
        let mut first = 0;
        let mut addrs = self.addrs.iter().cycle();
        let mut client: Option<Client> = None;
        while !ends.load(Ordering::Relaxed) {
            thread::sleep(ROUND_PAUSE);
            let Some(open) = client.as_mut() else {
                // A node that is starting refuses this as well, and is asked again.
                let at_level = |mut client: Client| (client.ask_line(&format!("ACK {}", self.level)).ok()? == "OK").then_some(client);
                client = addrs.next().and_then(|addr| Client::connect(*addr).ok()).and_then(at_level);
                if client.is_none() && self.roams {
                    thread::sleep(TURN_PAUSE);
                }
                continue;
            };
            let round: Vec<u64> = (first..first + self.depth).map(|key| key % self.keys).collect();
            let is_served = self.write_round(open, &round, ledger);
            ledger.lock().broken_connections += u64::from(is_served.is_err());
            first += self.step;
            if is_served.is_err() || self.roams && is_served.is_ok_and(|is_served| !is_served) {
                client = None;
                if self.roams {
                    first += self.depth;
                    thread::sleep(TURN_PAUSE);
                }
            }
        }
    }

    /// Returns whether the node did what it was asked.
    fn write_round(&self, client: &mut Client, round: &[u64], ledger: &Mutex<Ledger>) -> io::Result<bool> {
        let name = |key: &u64| format!("{}/{key}", self.label);
        let mut commands = String::new();
        for key in round {
            let mut ledger = ledger.lock();
            let record = ledger
                .keys
                .entry(name(key))
                .or_insert_with(|| KeyRecord { delete_shift: self.roams.then_some(*key), ..KeyRecord::default() });
            record.sent += 1;
            // Until the reply tells otherwise.
            record.unknown.push(record.sent);
            let is_delete = record.is_delete(record.sent);
            commands += &if is_delete { format!("DEL {}\n", name(key)) } else { format!("PUT {} {}\n", name(key), record.sent) };
        }
        let began = Instant::now();
        client.send(&commands)?;
        let (mut is_served, mut is_starting) = (true, false);
        for key in round {
            let reply = client.line()?;
            let ledger = &mut *ledger.lock();
            let record = ledger.keys.get_mut(&name(key)).expect("a key of this writer");
            if reply == "OK" {
                record.acknowledged = record.sent;
                record.unknown.clear();
                ledger.acknowledged += 1;
                continue;
            }
            let code = reply.strip_prefix("ERROR ").and_then(|rest| rest.split(' ').next()).unwrap_or(&reply);
            if code != "TIMEOUT" {
                record.unknown.pop();
            }
            is_starting |= code == "LOADING";
            if code != "NOTFOUND" {
                is_served = false;
                *ledger.codes.entry(code.to_owned()).or_default() += 1;
            }
        }
        if !is_starting {
            let mut ledger = ledger.lock();
            ledger.latency_worst = ledger.latency_worst.max(began.elapsed());
        }
        Ok(is_served)
    }
}

/// Sends a pipeline of GETs and reads it in full.
fn get_all<'k>(client: &mut Client, keys: impl Iterator<Item = &'k String> + Clone) -> io::Result<Vec<String>> {
    client.send(keys.clone().map(|key| format!("GET {key}\n")).collect::<String>())?;
    keys.map(|_| client.line()).collect()
}

fn value(reply: &str) -> Option<u64> {
    reply.strip_prefix("VALUE ")?.parse().ok()
}
