//! Peers and clients that do not belong to the mesh: refused in words where they are read, closed
//! where they are not.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cluster::{Cluster, DEADLINE, until};
use crate::kit::client::word_after;
use crate::random::{Random, seed};

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 500).build();
    cluster.configure(3, "cluster", "another-mesh");
    cluster.start_all();
    cluster.await_ready(1);
    cluster.await_ready(2);
    cluster.await_log(1, &["another-mesh"]);
    cluster.await_log(3, &["another-mesh"]);
    cluster.await_counted(1, 2, "yes");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_state(3, "degraded");
    cluster.await_sees(1, 3, "down");
    assert_eq!(cluster.ask_line(3, "COUNT"), "0");
}

#[test]
fn a_node_that_nobody_lists_is_refused() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).start();
    cluster.add(9, &[1, 2, 9]).unwrap();
    cluster.start(9);
    cluster.await_log(1, &["9", "refuse"]);
    cluster.await_log(9, &["refuse"]);
    cluster.await_state(9, "degraded");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(9, "COUNT"), "0");
    let lines = cluster.ask(1, "PEERS");
    assert!(!lines.iter().any(|line| line.starts_with("peer 9 ")), "{lines:?}");
    // It goes on dialling, and is not logged every time. There is no event to wait for: nothing
    // must happen.
    let before = cluster.log_of_this_start(1).lines().count();
    thread::sleep(Duration::from_secs(2));
    let log = cluster.log_of_this_start(1);
    assert!(log.lines().count() <= before + 3, "a line for every knock:\n{log}");
}

#[test]
fn a_node_that_does_not_list_me_is_refused() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 500).build();
    cluster.set_members(3, &[1, 3]);
    cluster.start_all();
    cluster.await_ready(1);
    cluster.await_ready(2);
    cluster.await_log(2, &["3", "refuse"]);
    cluster.await_sees(2, 3, "down");
    // The two nodes that list each other connect, and writes spread to the third through the one
    // that both list.
    cluster.await_sees(1, 2, "up");
    cluster.await_sees(1, 3, "up");
    cluster.await_counted(2, 1, "yes");
    assert_eq!(cluster.ask_line(2, "SET a 1"), "OK");
    cluster.await_reply(3, "GET a", "VALUE 1");
}

#[test]
fn wrong_bytes_on_the_peer_port_get_a_close_and_clients_are_told_what_it_is() {
    let mut cluster = Cluster::plan(3).start();
    let random = Random::new(seed()).bytes(200_000);
    let connect = || {
        let stream = TcpStream::connect(cluster.peer_addr(1)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream
    };
    for input in [&[0xff; 4096][..], &[0; 4096], &random] {
        let mut stream = connect();
        // The node may close before all is sent.
        let _ = stream.write_all(input);
        assert_closed_without_a_word(&mut stream, &String::from_utf8_lossy(&input[..input.len().min(20)]));
    }
    // A connection that sends nothing is closed, too.
    assert_closed_without_a_word(&mut connect(), "silence");

    let sentence = format!("this is the peer port of node 1, for other nodes only; clients connect to {}", cluster.client_addr(1));
    for (input, line) in [
        ("GET a\r\n", format!("ERROR ERR {sentence}\n")),
        ("PING\n", format!("ERROR ERR {sentence}\n")),
        ("a\n", format!("ERROR ERR {sentence}\n")),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", format!("ERROR ERR {sentence}\n")),
        ("{\"cluster\":\"kvmesh\"}\n", format!("ERROR ERR {sentence}\n")),
        ("*1\r\n$4\r\nPING\r\n", format!("-ERR {sentence}\r\n")),
    ] {
        let mut stream = connect();
        stream.write_all(input.as_bytes()).unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert_eq!(received, line, "{input:?}");
    }
    cluster.await_log(1, &["WARN", "peer port: a client has come from"]);

    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged();
    cluster.await_mesh(&[1, 2, 3]);
}

fn assert_closed_without_a_word(stream: &mut TcpStream, input: &str) {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{input:?} on the peer port was not answered with a close: {error}"),
    }
    assert!(received.is_empty(), "{input:?} on the peer port was answered: {:?}", String::from_utf8_lossy(&received));
}

/// Members have equal limits. Where they have not, as while they are raised node by node, clients
/// are held to the least: what a peer does not take would break the link again and again.
#[test]
fn where_limits_differ_clients_are_held_to_the_least_until_all_are_raised() {
    let mut cluster = Cluster::plan(2).set("value_len_max", 1_000).start();
    let long = format!("SET long {}", "x".repeat(1_001));
    cluster.configure(1, "value_len_max", 2_000);
    cluster.restart(1);
    cluster.await_whole();
    let refused =
        "a peer takes keys of up to 65536 bytes and values of up to 1000: key_len_max and value_len_max must be equal on all members";
    assert_eq!(cluster.ask_line(1, &long), format!("ERROR TOOBIG {refused}; nothing was written"));
    assert_eq!(cluster.ask_line(1, "SET short 1"), "OK");
    cluster.await_log(
        1,
        &["WARN", "limits differ from those of node 2: it takes keys of 65536 bytes and values of 1000, and this node of 65536 and 2000"],
    );
    cluster.await_log(2, &["WARN", "limits differ from those of node 1"]);
    cluster.configure(2, "value_len_max", 2_000);
    cluster.restart(2);
    cluster.await_whole();
    assert_eq!(cluster.ask_line(1, &long), "OK");
    cluster.await_converged();
    assert_eq!(cluster.ask_line(2, "COUNT"), "2");
}

/// Beyond the slots for unidentified connections, the oldest is closed.
#[test]
fn strangers_who_say_nothing_keep_no_member_out() {
    let mut cluster = Cluster::plan(2).set("peer_timeout_ms", 60_000).set("recovery_wait_ms", 500).build();
    cluster.start(1);
    cluster.await_served(1);
    let mut silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(cluster.peer_addr(1)).unwrap()).collect();
    cluster.start(2);
    cluster.await_mesh(&[1, 2]);
    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_log(1, &["WARN", "peer port: too many unidentified connections"]);
    silent[0].set_read_timeout(Some(DEADLINE)).unwrap();
    assert_closed_without_a_word(&mut silent[0], "the oldest of 200");
    silent[199].set_nonblocking(true).unwrap();
    assert_eq!(silent[199].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the last of 200");
}

/// They come again as soon as they are closed.
#[test]
fn a_crowd_that_does_not_give_in_keeps_no_member_out() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).alone().build();
    cluster.start(1);
    cluster.await_served(1);
    let addr = cluster.peer_addr(1);
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    if let Ok(mut stream) = TcpStream::connect(addr) {
                        // Until it is closed, or the test is over.
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(1))).and_then(|()| stream.read(&mut [0]));
                    }
                }
            });
        }
        cluster.start(2);
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.await_mesh(&[1, 2])));
        ends.store(true, Ordering::Relaxed);
        came.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let log = cluster.log_of_this_start(1);
    assert_eq!(log.matches("too many unidentified connections").count(), 1, "{log}");
}

/// Peers that dial the client port are clients, and not very good ones.
#[test]
fn why_a_peer_cannot_be_reached_is_logged_once_and_stands_in_peers() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).start();
    cluster.add(5, &[1, 2, 5]).unwrap();
    let (client_addr, other) = (cluster.client_addr(1).to_string(), cluster.peer_addr(2).to_string());
    let unused = std::net::TcpListener::bind((cluster.ip(), 0)).unwrap().local_addr().unwrap().to_string();
    // Takes what is sent to it, and never answers.
    let deaf = std::net::TcpListener::bind((cluster.ip(), 0)).unwrap();
    let deaf_addr = deaf.local_addr().unwrap().to_string();
    cluster.configure(
        5,
        "peers",
        serde_json::json!([
            { "id": 1, "addr": client_addr },
            { "id": 2, "addr": other },
            { "id": 3, "addr": unused },
            { "id": 4, "addr": "no-such-host.invalid:7104" },
            { "id": 6, "addr": deaf_addr },
        ]),
    );
    cluster.start(5);
    cluster.await_state(5, "degraded");
    let reasons = [
        (1, client_addr, "ERROR", "it answers as a client port"),
        (2, other, "ERROR", "it refuses this node: \"node 2 has no node 5 in its configuration\""),
        (3, unused, "WARN", "nobody listens: "),
        (4, "no-such-host.invalid:7104".to_owned(), "WARN", "its name is not resolved: "),
        (6, deaf_addr, "WARN", "it takes HELLO and does not answer"),
    ];
    for (peer, addr, level, why) in &reasons {
        cluster.await_log(5, &[level, &format!("node {peer} at {addr} cannot be reached: {why}")]);
    }
    // It goes on dialling, and does not log it again. The age of the last error falls when there is
    // a newer one.
    for (peer, _, _, why) in &reasons {
        let quoted = format!("last_error \"{}", why.replace('"', "\\\""));
        let (mut age, mut newer) = (f64::MAX, 0);
        until(&format!("n5: new errors of peer {peer}: {quoted}"), DEADLINE, || {
            let lines = cluster.ask(5, "PEERS");
            let line = lines.iter().find(|line| line.starts_with(&format!("peer {peer} down "))).ok_or(format!("{lines:?}"))?;
            let (_, rest) = line.split_once(" last_error_s_ago ").ok_or(line.as_str())?;
            let (now, rest) = rest.split_once(' ').ok_or(rest)?;
            let now: f64 = now.parse().map_err(|_| line.as_str())?;
            newer += usize::from(now < age);
            age = now;
            if newer > 2 && rest.starts_with(&quoted) { Ok(()) } else { Err(line.clone()) }
        });
    }
    let log = cluster.log_of_this_start(5);
    for (peer, addr, _, why) in &reasons {
        assert_eq!(log.matches(&format!("node {peer} at {addr} cannot be reached: {why}")).count(), 1, "{log}");
    }
    // The line of a peer without trouble has no error, unless it was dialled before it listened,
    // and so before it was up.
    let lines = cluster.ask(1, "PEERS");
    let number = |name: &str| word_after(&lines[0], name).and_then(|word| word.parse::<f64>().ok()).unwrap_or_else(|| panic!("{lines:?}"));
    if !lines[0].ends_with(" last_error_s_ago never last_error none") {
        assert!(number("last_error_s_ago") >= number("for_s"), "{lines:?}");
    }
    cluster.await_sees(5, 1, "down");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged_among(&[1, 2]);
}
