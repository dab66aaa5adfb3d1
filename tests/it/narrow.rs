//! Links that are slow and steady: what takes longer on its way than every timeout arrives all the
//! same.
//!
//! Bytes that a sender has handed to its system tell little of such a link: half a megabyte waits
//! there for seconds.

use crate::client::Client;
use crate::cluster::{Cluster, ClusterPlan};

/// Bytes a second. The buffers of the system hold more than any timeout's worth of it.
const RATE: u32 = 300_000;
/// Bytes that travel.
const LEN: usize = 800_000;

/// A cluster whose timeouts are far shorter than `LEN` bytes take.
fn hurried() -> ClusterPlan {
    Cluster::plan(3).links().set("peer_timeout_ms", 400).set("ack_timeout_ms", 1_000).alone()
}

/// Makes the links from the two others to node 3 narrow, and those back.
fn narrow(cluster: &Cluster, both_ways: bool) {
    for other in [1, 2] {
        cluster.narrow(other, 3, RATE);
        if both_ways {
            cluster.narrow(3, other, RATE);
        }
    }
}

/// Writes without waiting for the replies.
fn put(client: &mut Client, keys: usize, value_len: usize) {
    let value = "v".repeat(value_len);
    let commands: String = (0..keys).map(|key| format!("PUT k{key} {value}\n")).collect();
    client.send(commands).expect("commands that are sent");
}

#[test]
fn a_large_value_arrives() {
    let mut cluster = hurried().start();
    narrow(&cluster, false);
    let mut client = cluster.client(1);
    put(&mut client, 1, LEN);
    cluster.await_reply(3, "EXISTS k0", "1");
    cluster.await_converged();
}

#[test]
fn large_values_that_meet_arrive() {
    let mut cluster = hurried().set("ack", "local").start();
    narrow(&cluster, true);
    let (mut one, mut three) = (cluster.client(1), cluster.client(3));
    put(&mut one, 1, LEN);
    three.send(format!("PUT k {}\n", "v".repeat(LEN))).expect("a command that is sent");
    cluster.await_reply(3, "EXISTS k0", "1");
    cluster.await_reply(1, "EXISTS k", "1");
    cluster.await_reply(2, "EXISTS k", "1");
    cluster.await_converged();
}

#[test]
fn many_small_values_arrive() {
    let mut cluster = hurried().set("ack", "local").start();
    narrow(&cluster, true);
    let mut client = cluster.client(1);
    put(&mut client, LEN / 1_000, 1_000);
    cluster.await_reply(3, "COUNT", &(LEN / 1_000).to_string());
    cluster.await_converged();
}

/// It opens when it has caught up, neither earlier nor never: `recovery_wait` is measured in
/// progress.
#[test]
fn a_blank_node_takes_its_dump() {
    let keys = 2;
    let mut cluster = hurried().set("ack", "local").set("recovery_wait_ms", 1_500).start();
    let mut client = cluster.client(1);
    put(&mut client, keys, LEN / keys);
    cluster.await_reply(1, "COUNT", &keys.to_string());
    cluster.await_converged();
    cluster.kill(3);
    cluster.wipe(3);
    narrow(&cluster, false);
    cluster.start_ready(3);
    assert_eq!(cluster.ask_line(3, "COUNT"), keys.to_string());
    cluster.await_converged();
}
