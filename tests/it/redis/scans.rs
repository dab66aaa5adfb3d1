//! A scan that goes on at another node than it began at, or after a restart, as clients do behind a
//! balancer.

use std::collections::BTreeMap;

use super::servers::{ask, open};
use crate::client::Client;
use crate::cluster::{Cluster, DEADLINE, until};

const KEYS: usize = 3_000;
const COUNT: usize = 50;
/// Steps of a scan that has to begin anew a few times.
const STEPS_MAX: usize = 10 * KEYS / COUNT;

#[test]
fn a_scan_goes_on_at_any_node() {
    let mut cluster = Cluster::plan(3).patient().set("fsync", "never").start();
    fill(&mut cluster);
    let mut nodes = open_all(&cluster);
    let mut scan = Scan::default();
    scan.finish(&mut nodes);
    scan.assert_met_all_once();
}

/// Once with a snapshot on each disk, once with logs alone.
#[test]
fn a_scan_goes_on_after_a_restart_of_all_nodes() {
    for compacts in [false, true] {
        let mut cluster = Cluster::plan(2).patient().set("fsync", "never").start();
        fill(&mut cluster);
        let mut scan = Scan::default();
        scan.step(&mut open(cluster.client_addr(1)));
        for id in 1..=2 {
            if compacts {
                cluster.ask(id, "COMPACT");
            }
        }
        (1..=2).for_each(|id| cluster.stop(id));
        (1..=2).for_each(|id| cluster.start(id));
        cluster.await_converged();
        let mut nodes = open_all(&cluster);
        scan.finish(&mut nodes);
        scan.assert_met_all_once();
    }
}

/// Each node has an order of its own until they meet. A scan that runs meanwhile begins anew, and
/// misses nothing.
#[test]
fn nodes_that_were_born_apart_agree_on_one_order() {
    let mut cluster = Cluster::plan(2).patient().set("recovery_wait_ms", 300).set("ack", "local").set("fsync", "never").links().build();
    cluster.start(1);
    cluster.await_state(1, "degraded");
    cluster.start(2);
    cluster.cut(1, 2);
    cluster.await_state(2, "degraded");
    for id in 1..=2 {
        let mut node = open(cluster.client_addr(id));
        for n in 0..KEYS / 2 {
            ask(&mut node, &["SET".to_owned(), format!("{id}/{n}"), "v".to_owned()]);
        }
    }
    let order = |id| cluster.status(id).text("scan_order").to_owned();
    assert_ne!(order(1), order(2));
    let begun = [1, 2].map(|id| {
        let mut scan = Scan::default();
        (0..3).for_each(|_| scan.step(&mut open(cluster.client_addr(id))));
        scan
    });

    cluster.join(1, 2);
    cluster.await_converged();
    await_one_order(&cluster);
    let mut nodes = open_all(&cluster);
    for (mut scan, id) in begun.into_iter().zip(["1/", "2/"]) {
        scan.finish(&mut nodes);
        // Keys that were there all along.
        let met = scan.met.keys().filter(|key| key.starts_with(id.as_bytes())).count();
        assert_eq!(met, KEYS / 2, "of node {id} after {} steps", scan.steps);
    }
}

fn fill(cluster: &mut Cluster) {
    await_one_order(cluster);
    let ids = cluster.ids();
    for (id, of_node) in ids.iter().zip(0..) {
        let mut node = open(cluster.client_addr(*id));
        for n in (of_node..KEYS).step_by(ids.len()) {
            ask(&mut node, &["SET".to_owned(), format!("key:{n}"), "v".to_owned()]);
        }
    }
    cluster.await_converged();
}

fn open_all(cluster: &Cluster) -> Vec<Client> {
    cluster.ids().iter().map(|id| open(cluster.client_addr(*id))).collect()
}

fn await_one_order(cluster: &Cluster) {
    until("one order of scans", DEADLINE, || {
        let orders: Vec<String> = cluster.ids().iter().map(|id| cluster.status(*id).text("scan_order").to_owned()).collect();
        if orders.iter().all(|order| *order == orders[0]) { Ok(()) } else { Err(format!("{orders:?}")) }
    });
}

#[derive(Default)]
struct Scan {
    /// `None` before the first step.
    cursor: Option<Vec<u8>>,
    steps: usize,
    /// How often each key was met.
    met: BTreeMap<Vec<u8>, usize>,
}

impl Scan {
    /// Scans to the end, each step at the next node.
    fn finish(&mut self, nodes: &mut [Client]) {
        while self.cursor.as_deref() != Some(b"0") {
            assert!(self.steps < STEPS_MAX, "no end after {STEPS_MAX} steps");
            let node = self.steps % nodes.len();
            self.step(&mut nodes[node]);
        }
    }

    fn assert_met_all_once(&self) {
        assert_eq!(self.met.len(), KEYS, "after {} steps", self.steps);
        assert!(self.met.values().all(|times| *times == 1), "some were met again");
    }

    fn step(&mut self, node: &mut Client) {
        let cursor = self.cursor.take().unwrap_or_else(|| b"0".to_vec());
        let answer = ask(node, &[b"SCAN".to_vec(), cursor, b"COUNT".to_vec(), COUNT.to_string().into_bytes()]);
        let parts = answer.elements().unwrap_or_else(|| panic!("SCAN: {answer:?}"));
        for key in parts[1].elements().expect("an array of keys") {
            *self.met.entry(key.bytes().expect("a key").to_vec()).or_default() += 1;
        }
        self.cursor = parts[0].bytes().map(<[u8]>::to_vec);
        self.steps += 1;
    }
}
