//! Nodes that die, stop and lose each other, while clients write.

use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::random::{Random, seed};
use crate::writers::Writers;

/// Longest round at the other nodes while one node is ill. Coarse, because the machine may be small
/// and busy.
const LATENCY_BOUND: Duration = Duration::from_secs(2);
/// From when a node can be reached again until it is up: a peer timeout, a dial and a heartbeat,
/// and room for a busy machine.
const REUNION_BOUND: Duration = Duration::from_secs(8);

#[test]
fn ten_kills_under_load_lose_no_acknowledged_write() {
    let mut cluster = Cluster::plan(3).alone().patient().start();
    let padding = "x".repeat(100);
    cluster.client(1).pipeline((0..20_000).map(|key| format!("PUT fill/{key} {padding}")));
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority")]);
    for _ in 0..10 {
        load.await_progress(200);
        cluster.kill(3);
        load.await_progress(200);
        let promises = load.promises();
        cluster.start(3);
        promises.assert_served(&mut cluster, 3);
        cluster.await_ready(3);
    }
    let load = load.end();
    load.assert_codes_are(&["LOADING"]);
    cluster.await_converged();
    load.assert_kept(&cluster);
    for id in cluster.ids() {
        assert_eq!(cluster.ask_line(id, "COUNT"), cluster.ask_line(1, "COUNT"));
    }
}

#[test]
fn a_stopped_node_does_not_delay_the_others() {
    let mut cluster = Cluster::plan(3).set("ack_timeout_ms", 8_000).alone().start();
    let load = Writers::staying(&cluster, &[(1, "local"), (2, "majority")]);
    load.await_progress(500);
    let mut idle = cluster.client(3);
    let before = [load.take_latency_worst(0), load.take_latency_worst(1)];

    cluster.pause(3);
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(3) {
        // Also when it is called down, a second after it has stopped.
        load.await_progress(100);
    }
    cluster.await_sees(1, 3, "down");
    let during = [load.take_latency_worst(0), load.take_latency_worst(1)];
    cluster.resume(3);
    let resumed = Instant::now();
    cluster.await_mesh(&[1, 2, 3]);
    // Not only when some buffer of the kernel happens to be full.
    assert!(resumed.elapsed() < REUNION_BOUND, "the links are whole again only after {:?}", resumed.elapsed());
    // To its clients, a node that stood still was slow, no more.
    assert_eq!(idle.ask_line("PING").unwrap(), "PONG");
    load.await_progress(500);
    let after = [load.take_latency_worst(0), load.take_latency_worst(1)];
    let load = load.end();

    println!("worst round at local and majority: before {before:?}, while one node stood still {during:?}, after {after:?}");
    for worst in during.into_iter().chain(after) {
        assert!(worst < LATENCY_BOUND, "before {before:?}, during {during:?}, after {after:?}");
    }
    load.assert_codes_are(&["LOADING"]);
    cluster.await_converged();
    load.assert_kept(&cluster);
}

#[test]
fn a_stalled_link_between_two_does_not_delay_the_third() {
    let mut cluster = Cluster::plan(3).links().set("ack_timeout_ms", 8_000).alone().start();
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority"), (3, "majority")]);
    load.await_progress(200);
    cluster.stall(1, 2);
    cluster.await_sees(1, 2, "down");
    cluster.await_sees(2, 1, "down");
    // Each of the three still has a majority with its neighbour.
    load.await_progress(200);
    cluster.join(1, 2);
    cluster.await_mesh(&[1, 2, 3]);
    load.await_progress(200);
    for writer in 0..3 {
        let worst = load.take_latency_worst(writer);
        assert!(worst < LATENCY_BOUND, "writer {writer}: {worst:?}");
    }
    let load = load.end();
    load.assert_codes_are(&["LOADING"]);
    cluster.await_converged();
    load.assert_kept(&cluster);
}

/// Both sides of a cut write and delete. The third node was away for both and returns last.
#[test]
fn a_cut_link_heals_without_a_deleted_key_coming_back() {
    // Collected as soon as the rule allows it: a collection that is too early would show as a key
    // that is back.
    let mut cluster = Cluster::plan(3).links().set("ack", "local").set("tombstone_age_min_ms", 200).start();
    let mut one = cluster.client(1);
    one.pipeline((0..60).map(|key| format!("PUT k{key} before")));
    cluster.await_converged();

    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.cut(1, 2);
    cluster.await_sees(1, 2, "down");
    cluster.await_sees(2, 1, "down");
    cluster.await_sees(3, 1, "down");
    let (mut two, mut three) = (cluster.client(2), cluster.client(3));
    let mut write = |node: u16, command: String| {
        let client = [&mut one, &mut two, &mut three].into_iter().nth(usize::from(node) - 1).unwrap();
        assert_eq!(client.ask_line(&command).unwrap(), "OK", "n{node}> {command}");
    };
    for key in 0..60 {
        match key % 6 {
            0 => write(1, format!("DEL k{key}")),
            1 => write(2, format!("DEL k{key}")),
            2 => {
                write(1, format!("DEL k{key}"));
                write(2, format!("DEL k{key}"));
            }
            3 => write(1, format!("PUT k{key} one")),
            4 => write(2, format!("PUT k{key} two")),
            _ => {}
        }
    }
    write(1, "SET only-one 1".into());
    write(2, "SET only-two 2".into());
    write(3, "SET only-three 3".into());

    cluster.join(1, 2);
    cluster.await_mesh(&[1, 2]);
    let expected = |key: u16| match key % 6 {
        0..=2 => None,
        3 => Some("VALUE one"),
        4 => Some("VALUE two"),
        _ => Some("VALUE before"),
    };
    let check = |cluster: &Cluster, id: u16| {
        let mut client = cluster.client(id);
        for key in 0..60 {
            let reply = client.ask_line(&format!("GET k{key}")).unwrap();
            match expected(key) {
                Some(value) => assert_eq!(reply, value, "n{id}> GET k{key}"),
                None => assert!(reply.starts_with("ERROR NOTFOUND"), "n{id}> GET k{key}: {reply}"),
            }
        }
    };
    cluster.await_reply(1, "GET only-two", "VALUE 2");
    cluster.await_reply(2, "GET only-one", "VALUE 1");
    check(&cluster, 1);
    check(&cluster, 2);
    // Several times the age of a tombstone, while tombstone GC runs and the third node is away.
    // There is no event to wait for: nothing must happen.
    thread::sleep(Duration::from_secs(1));
    assert!(cluster.status(1).number("tombstones") >= 30);

    cluster.join_all(3);
    cluster.await_healed();
    for id in 1..=3 {
        check(&cluster, id);
        for (key, value) in [("only-one", 1), ("only-two", 2), ("only-three", 3)] {
            assert_eq!(cluster.ask_line(id, &format!("GET {key}")), format!("VALUE {value}"));
        }
    }
}

/// The connection is gone and neither side was told: no close, no reset, and what is sent
/// disappears. Each side has to give it up by itself.
#[test]
fn a_connection_that_the_network_has_forgotten_is_made_anew() {
    let mut cluster = Cluster::plan(3).links().start();
    for (from, to) in [(1, 3), (3, 1)] {
        cluster.forget(from, to);
        cluster.await_sees(1, 3, "down");
        cluster.await_sees(3, 1, "down");
        let noticed = Instant::now();
        cluster.await_mesh(&[1, 2, 3]);
        assert!(noticed.elapsed() < REUNION_BOUND, "n{from} has held on to a dead connection to n{to} for {:?}", noticed.elapsed());
    }
    cluster.forget(1, 2);
    cluster.forget(2, 1);
    cluster.await_sees(1, 2, "down");
    let noticed = Instant::now();
    cluster.await_mesh(&[1, 2, 3]);
    assert!(noticed.elapsed() < REUNION_BOUND, "n1 and n2 have held on to dead connections for {:?}", noticed.elapsed());
    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged();
}

/// One fault after another, and two at once on the links, in an order that the printed seed
/// decides. Data lives in memory, so no node is killed before the last fault has healed. Writes may
/// be refused or have an unknown outcome meanwhile; what was acknowledged stays.
#[test]
fn any_order_of_faults_keeps_what_was_promised() {
    let mut random = Random::new(seed());
    let mut cluster = Cluster::plan(3).links().alone().start();
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority"), (3, "majority")]);
    for _ in 0..12 {
        let node = 1 + random.below(3) as u16;
        let pairs = [(1, 2), (1, 3), (2, 3)];
        let (first, second) = (pairs[random.below(3)], pairs[random.below(3)]);
        let fault = random.below(6);
        println!("fault {fault}: n{node}, {first:?}, {second:?}");
        match fault {
            0 => cluster.pause(node),
            1 => {
                cluster.crash(node);
            }
            2 => cluster.forget(first.0, first.1),
            3 => cluster.stall(first.0, first.1),
            4 => cluster.cut(first.0, first.1),
            _ => {
                cluster.cut(first.0, first.1);
                cluster.stall(second.0, second.1);
            }
        }
        // Shorter and longer than it takes until a node is called down.
        thread::sleep(Duration::from_millis(100 + random.below(1_500) as u64));
        for (a, b) in pairs {
            cluster.join(a, b);
        }
        if fault == 0 {
            cluster.resume(node);
        }
        cluster.await_mesh(&[1, 2, 3]);
        load.await_progress(50);
    }
    let load = load.end();
    load.assert_codes_are(&["NOQUORUM", "TIMEOUT", "LOADING"]);
    cluster.await_converged();
    load.assert_kept(&cluster);
    for id in cluster.ids() {
        assert_eq!(cluster.status(id).number("divergences"), 0, "n{id}");
    }
}

/// A ring of partial views: nodes 1 and 3 never reach each other, and what node 1 writes reaches
/// node 3 through node 2.
#[test]
fn a_node_that_cannot_be_reached_directly_is_served_by_a_third() {
    let cluster = Cluster::plan(3).links().set("ack", "local").start();
    cluster.cut(1, 3);
    cluster.await_sees(1, 3, "down");
    cluster.await_sees(3, 1, "down");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(3, "SET b 1"), "OK");
    cluster.await_reply(3, "GET a", "VALUE 1");
    cluster.await_reply(1, "GET b", "VALUE 1");
    assert_eq!(cluster.ask_line(1, "DEL b"), "OK");
    cluster.await_reply(3, "EXISTS b", "0");
}
