//! How a node starts and ends: exit codes, and sentences for the operator who started it.

use std::io::{BufRead, BufReader, PipeWriter, pipe};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{Cluster, kvnode};
use crate::kit::process::Process;
use crate::program::{run_configured, run_kvnode};

#[test]
fn a_graceful_stop_hands_over_what_is_queued_and_exits_0() {
    let mut cluster = Cluster::plan(3).start();
    let mut client = cluster.client_at(1, "local");
    // Acknowledged by this node alone, which ends at once: only the handover at its stop can save
    // these.
    client.pipeline((0..500).map(|n| format!("PUT k{n} {n}")));
    cluster.stop(1);
    assert!(client.line().is_err(), "a stopped node still talks");
    cluster.await_converged();
    assert_eq!(cluster.ask_line(2, "COUNT"), "500");
    assert_eq!(cluster.ask_line(3, "GET k499"), "VALUE 499");
}

#[test]
fn sigint_stops_as_sigterm_does() {
    let mut cluster = Cluster::plan(1).start();
    cluster.signal(1, Signal::SIGINT);
    let status = cluster.await_exit(1, Duration::from_secs(8));
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn a_peer_that_does_not_listen_delays_a_stop_no_longer_than_its_deadline() {
    let mut cluster = Cluster::plan(3).start();
    cluster.pause(2);
    cluster.pause(3);
    let mut client = cluster.client_at(1, "local");
    let value = "v".repeat(100_000);
    client.pipeline((0..100).map(|n| format!("PUT k{n} {value}")));
    // 1 s is the configured deadline for what is queued; the rest is the process's.
    let asked = Instant::now();
    cluster.stop(1);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    cluster.resume(2);
    cluster.resume(3);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut cluster = Cluster::plan(3).set("shutdown_timeout_ms", 60_000).set("peer_timeout_ms", 60_000).start();
    cluster.pause(2);
    cluster.pause(3);
    let mut client = cluster.client_at(1, "local");
    // More than the kernel takes for peers that do not read: an orderly stop would wait for a
    // minute.
    let value = "v".repeat(1 << 20);
    client.pipeline((0..30).map(|n| format!("PUT k{n} {value}")));
    cluster.signal(1, Signal::SIGTERM);
    cluster.await_log(1, &["stop"]);
    cluster.signal(1, Signal::SIGTERM);
    cluster.await_exit(1, Duration::from_secs(3));
}

#[test]
fn a_node_stops_with_its_standard_input_if_it_is_told_to() {
    let mut cluster = Cluster::plan(1).build();
    let (mut node, stdin_tx, mut log) = start_with_stdin(&mut cluster);
    await_line(&mut log, "open to clients");
    assert!(node.try_wait().is_none());
    drop(stdin_tx);
    ["standard input has ended", "stopping", "stopped"].into_iter().for_each(|words| await_line(&mut log, words));
    assert_eq!(node.ended().code(), Some(0));
}

/// The supervisor of a node may be killed while the node stops: that must not cut the stop short.
#[test]
fn the_end_of_standard_input_cuts_no_stop_short() {
    let mut cluster = Cluster::plan(1).build();
    let (mut node, stdin_tx, mut log) = start_with_stdin(&mut cluster);
    await_line(&mut log, "open to clients");
    node.signal(Signal::SIGTERM).unwrap();
    await_line(&mut log, "stopping");
    drop(stdin_tx);
    // Whether the line about standard input still comes is a race with the end of the process.
    await_line(&mut log, "stopped");
    assert_eq!(node.ended().code(), Some(0));
}

/// Starts node 1 with `--stop-with-stdin`. It alone holds the other end of the pipe returned.
fn start_with_stdin(cluster: &mut Cluster) -> (Process, PipeWriter, impl Iterator<Item = String> + use<>) {
    cluster.write_config(1).unwrap();
    let (stdin, stdin_tx) = pipe().unwrap();
    let mut command = Command::new(kvnode());
    command.arg("--stop-with-stdin").arg("--config").arg(cluster.config_path(1)).current_dir(cluster.dir());
    let mut node = Process::start(command.stdin(stdin).stderr(Stdio::piped())).unwrap();
    let log = BufReader::new(node.child.stderr.take().unwrap()).lines().map_while(Result::ok);
    (node, stdin_tx, log)
}

fn await_line(log: &mut impl Iterator<Item = String>, words: &str) {
    assert!(log.any(|line| line.contains(words)), "no line with {words:?}");
}

/// A node that is started with nothing to read stops in order, and at once.
#[test]
fn standard_input_that_has_ended_already_stops_the_node_in_order() {
    let mut cluster = Cluster::plan(1).build();
    cluster.write_config(1).unwrap();
    for _ in 0..5 {
        let mut command = Command::new(kvnode());
        command.arg("--stop-with-stdin").arg("--config").arg(cluster.config_path(1)).current_dir(cluster.dir());
        let node = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
        let log = String::from_utf8_lossy(&node.stderr);
        assert!(node.status.code() == Some(0) && log.contains("standard input has ended"), "{}: {log}", node.status);
    }
}

#[test]
fn a_port_in_use_is_named_and_exits_1() {
    for port in ["client_addr", "peer_addr"] {
        let mut cluster = Cluster::plan(1).build();
        let taken = TcpListener::bind((cluster.ip(), 0)).unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        cluster.configure(1, port, addr.as_str());
        cluster.start(1);
        let status = cluster.await_exit(1, Duration::from_secs(8));
        assert_eq!(status.code(), Some(1), "{port}: {status}");
        let log = cluster.log_of_this_start(1);
        assert!(log.contains(&addr) && log.contains("listens there already"), "{port} {addr}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_file_field_and_what_was_expected() {
    let good = json!({ "id": 1, "client_addr": "127.0.0.1:0", "peer_addr": "127.0.0.1:0", "peers": [] });
    let peer = |id: u16, addr: &str| json!({ "id": id, "addr": addr });
    let wrong = [
        ("heartbeat", json!(500)),
        ("id", json!("one")),
        ("client_addr", json!("nowhere")),
        ("ack", json!("most")),
        ("peers", json!([peer(1, "127.0.0.1:7102")])),
        ("peers", json!([peer(2, "127.0.0.1:7102"), peer(2, "127.0.0.1:7103")])),
        ("peers", json!([peer(2, "127.0.0.1")])),
    ];
    for (field, value) in wrong {
        let mut config = good.clone();
        config[field] = value.clone();
        let ended = run_configured(&config, &[]);
        let output = ended.outputs();
        assert_eq!(ended.code, Some(2), "{field} {value}: {output}");
        assert!(output.contains("node.json") && output.contains(field) && output.contains("expected"), "{field} {value}: {output}");
    }
}

#[test]
fn the_command_line_tells_what_it_can_do() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code, word) in [
        (&["--help"][..], 0, "--config"),
        (&["--help"], 0, "--stop-with-stdin"),
        (&["--help"], 0, "3 the data need a person"),
        (&["-h"], 0, "--config"),
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        // No arguments and no terminal.
        (&[], 2, "--config"),
        (&["--no-such-option"], 2, "--no-such-option"),
    ] {
        let ended = run_kvnode(args, &dir);
        assert!(ended.code == Some(code) && ended.outputs().contains(word), "{args:?}: {ended:?}");
    }
    let ended = run_kvnode(&["--config", "none.json"], &dir);
    assert!(ended.code == Some(2) && ended.outputs().contains("none.json"), "{ended:?}");
}
