//! Who does not belong to the mesh: refused in words where somebody reads them, closed where nobody does.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::cluster::Cluster;

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 500).build();
    cluster.configure(3, "cluster", "another-mesh");
    for id in 1..=3 {
        cluster.start(id);
    }
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
    cluster.add(9, &[1, 2, 9]);
    cluster.start(9);
    cluster.await_log(1, &["9", "refuse"]);
    cluster.await_log(9, &["refuse"]);
    cluster.await_state(9, "degraded");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(9, "COUNT"), "0");
    let lines = cluster.ask(1, "PEERS");
    assert!(!lines.iter().any(|line| line.starts_with("peer 9 ")), "{lines:?}");
    // It goes on knocking, and is not written about every time. There is no event to wait for: nothing must happen.
    let said = cluster.log_of_this_start(1).lines().count();
    thread::sleep(Duration::from_secs(2));
    let log = cluster.log_of_this_start(1);
    assert!(log.lines().count() <= said + 3, "a line for every knock:\n{log}");
}

#[test]
fn a_node_that_does_not_list_me_is_refused() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 500).build();
    cluster.set_members(3, &[1, 3]);
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.await_ready(1);
    cluster.await_ready(2);
    cluster.await_log(2, &["3", "refuse"]);
    cluster.await_sees(2, 3, "down");
    // The two that list each other talk, and what they have in common spreads through the one that both list.
    cluster.await_sees(1, 2, "up");
    cluster.await_sees(1, 3, "up");
    cluster.await_counted(2, 1, "yes");
    assert_eq!(cluster.ask_line(2, "SET a 1"), "OK");
    cluster.await_reply(3, "GET a", "VALUE 1");
}

#[test]
fn wrong_bytes_on_the_peer_port_get_nothing_but_a_close() {
    let mut cluster = Cluster::plan(3).start();
    let mut noise: u64 = 0x9e37_79b9_7f4a_7c15;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise as u8
    })
    .take(200_000)
    .collect();
    let inputs: [&[u8]; 9] = [
        b"GET a\r\n",
        b"PING\n",
        b"\n\n\n\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"{\"cluster\":\"kvmesh\"}\n",
        &[0xff; 4096],
        &[0; 4096],
        &random,
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(cluster.peer_addr(1)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        // It may have been closed before all was said.
        let _ = stream.write_all(input);
        assert_closed_without_a_word(&mut stream, &String::from_utf8_lossy(&input[..input.len().min(20)]));
    }
    // And who says nothing is not waited for.
    let mut silent = TcpStream::connect(cluster.peer_addr(1)).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    assert_closed_without_a_word(&mut silent, "silence");

    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged();
    cluster.await_mesh(&[1, 2, 3]);
}

fn assert_closed_without_a_word(stream: &mut TcpStream, input: &str) {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{input:?} on the peer port was not answered with a close: {error}"),
    }
    assert!(heard.is_empty(), "{input:?} on the peer port was answered: {:?}", String::from_utf8_lossy(&heard));
}

/// Peers that speak to the client port are clients, and not very good ones.
#[test]
fn a_node_configured_with_a_client_port_as_its_peer_says_so_and_harms_nobody() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).start();
    cluster.add(3, &[1, 2, 3]);
    let addr = cluster.client_addr(1).to_string();
    let other = cluster.peer_addr(2).to_string();
    cluster.configure(3, "peers", serde_json::json!([{ "id": 1, "addr": addr }, { "id": 2, "addr": other }]));
    cluster.start(3);
    cluster.await_state(3, "degraded");
    cluster.await_sees(3, 1, "down");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged_among(&[1, 2]);
}
