//! The log of a node, as its reader sees it: neither a reader that is slow nor a client that writes
//! into it from outside harms the node.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use kvmesh::data::version::{NodeId, Origin, VersionVector};
use kvmesh::wire::frame;
use kvmesh::wire::peer::{Hello, Message, Protocol};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{Cluster, DEADLINE, kvnode};
use crate::kit::process::Process;

/// A pipe that takes not a byte more: the reader of the log has stopped reading.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    loop {
        let mut polled = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut polled, PollTimeout::ZERO).unwrap() == 0 {
            return (reader, writer);
        }
        writer.write_all(&[b'.'; 4096]).unwrap();
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_a_node_nor_its_end() {
    let mut cluster = Cluster::plan(3).build();
    let (mut reader, writer) = full_pipe();
    cluster.set_stderr(1, writer);
    cluster.start_all();
    cluster.await_converged();
    cluster.await_mesh(&[1, 2, 3]);
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.stop(1);

    // A reader that comes late finds whole lines from the beginning on.
    cluster.start(1);
    let log = thread::spawn(move || {
        let mut log = vec![0; 128 << 10];
        let mut len = 0;
        while !String::from_utf8_lossy(&log[..len]).contains("open to clients") {
            match reader.read(&mut log[len..]).unwrap() {
                0 => break,
                read => len += read,
            }
        }
        String::from_utf8_lossy(&log[..len]).trim_start_matches('.').to_owned()
    });
    cluster.await_ready(1);
    let log = log.join().unwrap();
    assert!(log.lines().next().unwrap_or_default().contains("node 1 of cluster"), "{log}");
}

#[test]
fn a_second_signal_ends_a_node_whose_log_nobody_reads() {
    let mut cluster = Cluster::plan(2).set("shutdown_timeout_ms", 60_000).set("peer_timeout_ms", 60_000).build();
    let (_reader, writer) = full_pipe();
    cluster.set_stderr(1, writer);
    cluster.start_all();
    cluster.await_converged();
    cluster.pause(2);
    // An orderly stop waits a minute for the peer to take these.
    let mut client = cluster.client_at(1, "local");
    let value = "v".repeat(1 << 20);
    client.pipeline((0..30).map(|n| format!("PUT k{n} {value}")));
    cluster.signal(1, Signal::SIGTERM);
    assert!(client.line().is_err(), "it does not stop");
    cluster.signal(1, Signal::SIGTERM);
    let status = cluster.await_exit(1, DEADLINE);
    assert_eq!(status.code(), Some(130), "{status}");
}

#[test]
fn a_start_that_fails_ends_although_nobody_reads_why() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node.json"), "{}").unwrap();
    let (mut reader, writer) = full_pipe();
    let start = || {
        let mut kvnode = Command::new(kvnode());
        kvnode.args(["--config", "node.json"]).current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        Process::start(kvnode.stderr(writer.try_clone().unwrap())).unwrap()
    };
    assert_eq!(start().ended().code(), Some(2));
    // Once it is read, it is there whenever the process has ended.
    let reading = thread::spawn(move || {
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        output
    });
    assert_eq!(start().ended().code(), Some(2));
    drop(writer);
    let output = reading.join().unwrap();
    assert!(output.trim_start_matches('.').starts_with("kvnode: node.json"), "{output}");
}

/// A forged log line, with which a stranger wants to be taken for the node, and bytes that clear a
/// terminal.
const FORGED: &str = "x\n[2026-11-30T00:00:00.000Z ERROR kvmesh::node] FORGED \u{1b}[2J\u{9b}2J";

#[test]
fn what_strangers_and_clients_say_forges_no_line_and_fills_no_disk() {
    let cluster = Cluster::plan(3).start();
    let before = cluster.log_of_this_start(1).len();
    // A HELLO of another cluster, with another name each time, and with a different number in every
    // refusal.
    let hello = |n: u32, cluster: String| Hello {
        cluster,
        protocol: serde_json::from_value((100 + n).into()).unwrap(),
        protocols: None,
        node: NodeId(2),
        origin: Origin { node: NodeId(2), nonce: 7 },
        members: vec![NodeId(1), NodeId(2), NodeId(3)],
        wall_ms: 0,
        clocks: None,
        durable: true,
        vector: VersionVector::default(),
        order: None,
        limits: None,
        challenge: None,
    };
    let long = "y".repeat(100_000);
    for n in 0..40 {
        for name in [format!("{FORGED}{n}"), format!("{n}{long}"), "kvmesh".to_owned()] {
            let mut bytes = Vec::new();
            Message::Hello(hello(n, name)).encode(&mut bytes, Protocol::OLDEST);
            let mut stream = TcpStream::connect(cluster.peer_addr(1)).unwrap();
            stream.write_all(&bytes).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // Not a HELLO, and JSON with a field that no dump has.
        let mut bytes = Vec::new();
        frame::seal(&mut bytes, 1, |out| out.extend_from_slice(json!({ FORGED: n }).to_string().as_bytes()));
        let mut stream = TcpStream::connect(cluster.peer_addr(1)).unwrap();
        stream.write_all(&bytes).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());

        for line in [json!({ FORGED: n }), json!({ format!("{n}{long}"): 1 }), json!({ "dump": format!("{FORGED}{n}") })] {
            let mut client = cluster.client(1);
            client.send(format!("RESTORE\n{line}\n")).unwrap();
            let reply = String::from_utf8(client.rest().unwrap()).unwrap();
            assert!(reply.starts_with("ERROR BADDUMP line 1") && reply.lines().count() == 1 && reply.len() < 1_000, "{reply}");
            assert!(!reply.trim_end_matches('\n').contains(char::is_control), "{reply:?}");
        }
    }
    cluster.await_log(1, &["peer port", "refused node 2", r"x\n[2026"]);
    cluster.await_log(1, &["a restore has failed", r"\n[2026"]);
    let log = cluster.log_of_this_start(1);
    assert!(!log.lines().any(|line| line.starts_with("[2026-11-30T00:00:00.000Z ERROR")), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains('\u{9b}'), "{log:?}");
    assert!(log.len() - before < 4_000, "{} bytes more:\n{log}", log.len() - before);
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
}
