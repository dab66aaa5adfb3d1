//! Reload: the configuration of a node that runs is read again, by `RELOAD` and by SIGHUP.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, DEADLINE, until};
use crate::program::{kvctl, run};
use crate::writers::Writers;

/// Changes a field in the file of a node that runs.
fn change(cluster: &mut Cluster, id: u16, field: &str, value: impl Into<serde_json::Value>) {
    cluster.configure(id, field, value);
    cluster.write_config(id).expect("a file that can be written");
}

#[test]
fn a_reload_under_load_drops_no_connection_and_names_what_it_did() {
    let mut cluster = Cluster::plan(3).patient().start();
    let writers = Writers::staying(&cluster, &[(1, "majority"), (2, "majority"), (3, "all")]);
    writers.await_progress(100);
    for id in cluster.ids() {
        change(&mut cluster, id, "clients_max", 500);
        change(&mut cluster, id, "ack_timeout_ms", 9_000);
        change(&mut cluster, id, "heartbeat_ms", 101);
        let expected = ["applied clients_max ack_timeout_ms", "needs_restart heartbeat_ms"];
        assert_eq!(cluster.ask(id, "RELOAD"), expected);
        assert_eq!(cluster.ask(id, "RELOAD"), ["applied none", "needs_restart heartbeat_ms"]);
        let status = cluster.status(id);
        let numbers = ["clients_max", "ack_timeout_ms", "heartbeat_ms"].map(|name| status.number(name));
        assert_eq!(numbers, [500, 9_000, 100]);

        change(&mut cluster, id, "write_timeout_ms", 5_000);
        cluster.signal(id, Signal::SIGHUP);
        cluster.await_log(id, &["configuration reloaded by SIGHUP: applied write_timeout_ms; needs a restart: heartbeat_ms"]);
        assert_eq!(cluster.status(id).number("write_timeout_ms"), 5_000);
        writers.await_progress(100);
    }
    let ledger = writers.end();
    assert_eq!((ledger.broken_connections, ledger.codes), (0, BTreeMap::new()));

    let reloaded = run(&mut kvctl(&[cluster.client_addr(1)], &["reload"]));
    assert_eq!((reloaded.code, reloaded.out.as_str()), (Some(0), "applied none\nneeds_restart heartbeat_ms\n"));
    let mut client = cluster.client(1);
    client.send("*1\r\n$6\r\nRELOAD\r\n").unwrap();
    let reply = [(); 3].map(|()| client.line().unwrap());
    assert_eq!(reply[1..], ["applied none", "needs_restart heartbeat_ms"]);
}

#[test]
fn new_limits_and_levels_hold_at_once() {
    let mut cluster = Cluster::plan(1).start();
    let mut before = cluster.client(1);
    let level = before.ask_line("ACK").unwrap();
    assert_eq!(before.ask_line("PUT first 1").unwrap(), "OK");
    change(&mut cluster, 1, "memory_max", 1);
    change(&mut cluster, 1, "ack", "all");
    change(&mut cluster, 1, "clients_max", 2);
    assert_eq!(before.ask("RELOAD").unwrap(), ["applied ack clients_max memory_max", "needs_restart none"]);
    assert!(before.ask_line("PUT a 1").unwrap().starts_with("ERROR FULL "));
    // A connection keeps the level that it had.
    assert_eq!(before.ask_line("ACK").unwrap(), level);
    let mut second = cluster.client(1);
    assert_ne!(second.ask_line("ACK").unwrap(), level);
    assert!(cluster.client(1).line().unwrap().starts_with("ERROR BUSY 2 clients are connected"));
    change(&mut cluster, 1, "memory_max", 0);
    assert_eq!(before.ask("RELOAD").unwrap(), ["applied memory_max", "needs_restart none"]);
    assert_eq!(second.ask_line("PUT a 1").unwrap(), "OK");
}

#[test]
fn a_file_that_is_not_valid_changes_nothing_and_says_why() {
    let mut cluster = Cluster::plan(1).set("memory_max", 1).start();
    // Until something is there, there is room for something.
    assert_eq!(cluster.ask_line(1, "PUT first 1"), "OK");
    let path = cluster.config_path(1);
    let whole = fs::read_to_string(&path).unwrap();
    let with = |fields: &str| whole.replace("\"memory_max\": 1", fields);
    for (text, why) in [
        ("{".to_owned(), "is not JSON"),
        ("[]".to_owned(), "expected one object"),
        (with("\"memory_max\": \"many\""), "field \"memory_max\": found \"many\""),
        (with("\"memory_max\": 0, \"link_queue_max\": 1"), "field \"link_queue_max\": found 1"),
        (with("\"memory_max\": 0, \"nonsense\": 0"), "field \"nonsense\": found an unknown field"),
    ] {
        assert_ne!(text, whole, "{why}");
        fs::write(&path, text).unwrap();
        let refused = cluster.ask_line(1, "RELOAD");
        assert!(
            refused.starts_with("ERROR BADCONFIG ") && refused.contains(why) && refused.ends_with("; nothing was changed"),
            "{refused}"
        );
        assert!(cluster.ask_line(1, "PUT a 1").starts_with("ERROR FULL "));
    }
    fs::remove_file(&path).unwrap();
    let refused = cluster.ask_line(1, "RELOAD");
    assert!(refused.starts_with("ERROR BADCONFIG ") && refused.contains("cannot be read"), "{refused}");
    for _ in 0..3 {
        cluster.signal(1, Signal::SIGHUP);
        cluster.await_log(1, &["configuration not reloaded: ", "cannot be read", "this node goes on as it was"]);
        assert!(cluster.ask_line(1, "PUT a 1").starts_with("ERROR FULL "));
    }
    fs::write(&path, whole.replace("\"memory_max\": 1", "\"memory_max\": 0")).unwrap();
    cluster.signal(1, Signal::SIGHUP);
    cluster.await_log(1, &["configuration reloaded by SIGHUP: applied memory_max; needs a restart: none"]);
    assert_eq!(cluster.ask_line(1, "PUT a 1"), "OK");
    cluster.stop(1);
}

#[test]
fn options_of_the_command_line_hold_at_a_reload() {
    let mut cluster = Cluster::plan(1).build();
    let addr: &'static str = cluster.client_addr(1).to_string().leak();
    cluster.configure(1, "client_addr", "127.0.0.1:1");
    cluster.start_with(1, &["--client-addr", addr]);
    cluster.await_ready(1);
    change(&mut cluster, 1, "clients_max", 50);
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied clients_max", "needs_restart none"]);
}

#[test]
fn the_level_of_the_log_changes_while_the_node_runs_unless_the_environment_sets_it() {
    let mut cluster = Cluster::plan(1).build();
    cluster.node_mut(1).launch.env = vec![("RUST_LOG", String::new())];
    cluster.start_ready(1);
    // What is logged of it is of no use but for debugging.
    let knock = |cluster: &Cluster| drop(TcpStream::connect(cluster.peer_addr(1)).unwrap());
    let words = "has connected and said nothing";
    knock(&cluster);
    change(&mut cluster, 1, "log_level", "debug");
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied log_level", "needs_restart none"]);
    until("a line at debug", DEADLINE, || {
        knock(&cluster);
        if cluster.log(1).contains(words) { Ok(()) } else { Err(String::new()) }
    });
    change(&mut cluster, 1, "log_level", "error");
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied log_level", "needs_restart none"]);
    let before = cluster.log(1).lines().count();
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied none", "needs_restart none"]);
    cluster.stop(1);
    assert!(!cluster.log(1).lines().skip(before).any(|line| line.contains("INFO")), "{}", cluster.log(1));

    cluster.node_mut(1).launch.env = Vec::new();
    cluster.start_ready(1);
    assert!(cluster.log_of_this_start(1).contains("INFO"), "RUST_LOG, which the harness sets, goes before the file");
}
