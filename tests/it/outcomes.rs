//! Done, refused, unknown: the three outcomes of a write, and the reply of a node that is not ready
//! to give one.

use std::thread;
use std::time::Duration;

use crate::client::Limit;
use crate::cluster::Cluster;

#[test]
fn without_a_quorum_nothing_is_applied() {
    let mut cluster = Cluster::plan(3).start();
    assert_eq!(cluster.ask_line(1, "SET kept 1"), "OK");
    cluster.kill(2);
    cluster.kill(3);
    cluster.await_sees(1, 2, "down");
    cluster.await_sees(1, 3, "down");

    let mut client = cluster.client(1);
    let vector = client.status().unwrap().text("vector").to_owned();
    for command in ["SET new 1", "PUT new 1", "UPD kept 2", "DEL kept"] {
        let reply = client.ask_line(command).unwrap();
        assert!(reply.starts_with("ERROR NOQUORUM "), "{command}: {reply}");
    }
    assert_eq!(client.ask_line("GET kept").unwrap(), "VALUE 1");
    assert_eq!(client.ask_line("EXISTS new").unwrap(), "0");
    assert_eq!(client.ask_line("COUNT").unwrap(), "1");
    assert_eq!(client.status().unwrap().text("vector"), vector);
    // `all` is never fewer than a majority.
    assert_eq!(client.ask_line("ACK all").unwrap(), "OK");
    assert!(client.ask_line("SET new 1").unwrap().starts_with("ERROR NOQUORUM "));
    // A client that asks for less gets it, and the write is there when the others return.
    assert_eq!(client.ask_line("ACK local").unwrap(), "OK");
    assert_eq!(client.ask_line("SET new 1").unwrap(), "OK");
    cluster.start_ready(2);
    assert_eq!(cluster.ask_line(2, "GET new"), "VALUE 1");
    assert_eq!(cluster.ask_line(2, "GET kept"), "VALUE 1");
    cluster.start(3);
    cluster.await_converged();
}

#[test]
fn a_silent_peer_makes_the_outcome_unknown_and_the_write_still_spreads() {
    // A peer that is silent for less than its timeout is up, and `all` waits for it.
    let mut cluster = Cluster::plan(3).links().set("ack_timeout_ms", 500).set("peer_timeout_ms", 10_000).start();
    let mut client = cluster.client_at(1, "all");
    assert_eq!(client.ask_line("SET a 1").unwrap(), "OK");
    cluster.stall(1, 3);
    let reply = client.ask_line("SET b 1").unwrap();
    assert!(reply.starts_with("ERROR TIMEOUT "), "{reply}");
    assert_eq!(client.ask_line("GET b").unwrap(), "VALUE 1");
    cluster.await_reply(2, "GET b", "VALUE 1");
    assert!(cluster.ask_line(3, "GET b").starts_with("ERROR NOTFOUND "));
    // A majority does without it.
    assert_eq!(client.ask_line("ACK majority").unwrap(), "OK");
    assert_eq!(client.ask_line("SET c 1").unwrap(), "OK");

    cluster.join(1, 3);
    cluster.await_converged();
    assert_eq!(cluster.ask_line(3, "GET b"), "VALUE 1");
    assert_eq!(cluster.ask_line(3, "GET c"), "VALUE 1");
}

/// A change is logged, a state that lasts is not.
#[test]
fn a_peer_that_stays_away_is_logged_once() {
    let mut cluster = Cluster::plan(3).start();
    let before = cluster.log_of_this_start(1).len();
    cluster.kill(3);
    cluster.await_sees(1, 3, "down");
    cluster.await_log(1, &["node 3", "down"]);
    // Ten dials, with the pause that is configured here, and twenty heartbeats. There is no event
    // to wait for: nothing must happen.
    thread::sleep(Duration::from_secs(2));
    let log = cluster.log_of_this_start(1).split_off(before);
    assert!(log.lines().count() <= 5, "{log}");
}

#[test]
fn all_does_without_a_member_that_is_down() {
    let mut cluster = Cluster::plan(3).start();
    cluster.kill(3);
    cluster.await_sees(1, 3, "down");
    let mut client = cluster.client_at(1, "all");
    assert_eq!(client.ask_line("SET a 1").unwrap(), "OK");
    // Not eventually: the peer that is up had it before the reply.
    assert_eq!(cluster.ask_line(2, "GET a"), "VALUE 1");
}

#[test]
fn a_recovering_node_says_so_and_opens_once_it_has_caught_up() {
    let mut cluster = Cluster::plan(3).links().set("recovery_wait_ms", 20_000).start();
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.kill(3);
    cluster.stall(1, 3);
    cluster.stall(2, 3);
    cluster.start(3);
    cluster.await_answer(3);

    let mut client = cluster.client(3);
    for command in ["GET a", "SET b 1", "PUT b 1", "UPD a 1", "DEL a", "EXISTS a", "KEYS", "COUNT", "DIGEST", "DUMP"] {
        let reply = client.reply(command).unwrap();
        assert!(reply.len() == 1 && reply[0].starts_with("ERROR LOADING "), "{command}: {reply:?}");
    }
    assert_eq!(client.ask_line("PING").unwrap(), "PONG");
    assert_eq!(client.status().unwrap().text("state"), "recovering");
    assert!(client.ask("HELP").unwrap().len() > 5);

    cluster.join_all(3);
    cluster.await_ready(3);
    assert_eq!(client.ask_line("GET a").unwrap(), "VALUE 1");
    assert!(client.ask_line("GET b").unwrap().starts_with("ERROR NOTFOUND "));
    cluster.await_converged();
}

#[test]
fn a_node_that_finds_no_majority_opens_degraded_and_says_so() {
    let mut cluster = Cluster::plan(3).set("recovery_wait_ms", 500).build();
    cluster.start(1);
    cluster.await_state(1, "degraded");
    cluster.await_log(1, &["degraded"]);
    let mut client = cluster.client(1);
    assert!(client.ask_line("GET a").unwrap().starts_with("ERROR NOTFOUND "));
    assert!(client.ask_line("SET a 1").unwrap().starts_with("ERROR NOQUORUM "));
    assert_eq!(client.ask_line("ACK local").unwrap(), "OK");
    assert_eq!(client.ask_line("SET a 1").unwrap(), "OK");
    // It becomes an ordinary member as soon as there are others.
    cluster.start(2);
    cluster.start(3);
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "GET a"), "VALUE 1");
    }
    cluster.await_mesh(&[1, 2, 3]);
    assert_eq!(cluster.ask_line(1, "UPD a 2"), "OK");
}

#[test]
fn one_node_alone_is_its_own_majority() {
    let mut cluster = Cluster::plan(1).start();
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(1, "GET a"), "VALUE 1");
    cluster.stop(1);
}

#[test]
fn two_nodes_stop_writing_when_one_is_away() {
    let mut cluster = Cluster::plan(2).start();
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.kill(2);
    cluster.await_sees(1, 2, "down");
    assert!(cluster.ask_line(1, "UPD a 2").starts_with("ERROR NOQUORUM "));
    cluster.start(2);
    cluster.await_converged();
    cluster.await_sees(1, 2, "up");
    assert_eq!(cluster.ask_line(1, "UPD a 2"), "OK");
    assert_eq!(cluster.ask_line(2, "GET a"), "VALUE 2");
}

#[test]
fn five_nodes_stand_the_loss_of_two() {
    let mut cluster = Cluster::plan(5).start();
    cluster.kill(4);
    cluster.kill(5);
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    assert_eq!(cluster.ask_line(3, "SET b 1"), "OK");
    cluster.kill(3);
    for peer in 3..=5 {
        cluster.await_sees(2, peer, "down");
    }
    assert!(cluster.ask_line(2, "SET c 1").starts_with("ERROR NOQUORUM "));
    for id in 3..=5 {
        cluster.start(id);
    }
    cluster.await_converged();
    for id in 1..=5 {
        assert_eq!(cluster.ask_line(id, "GET a"), "VALUE 1");
        assert_eq!(cluster.ask_line(id, "EXISTS c"), "0");
    }
}

/// I8: a later write at `majority` wins over an earlier one, wherever both were written and however
/// soon after.
#[test]
fn the_later_of_two_acknowledged_writes_wins_everywhere() {
    let mut cluster = Cluster::plan(3).start();
    let mut clients = [cluster.client(1), cluster.client(2), cluster.client(3)];
    for turn in 0..300 {
        let client = &mut clients[turn % 3];
        client.set_limit(Limit::Each(Duration::from_secs(5)));
        assert_eq!(client.ask_line(&format!("PUT a {turn}")).unwrap(), "OK");
    }
    cluster.await_converged();
    for id in 1..=3 {
        assert_eq!(cluster.ask_line(id, "GET a"), "VALUE 299");
    }
}
