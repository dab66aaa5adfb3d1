//! TLS between peers: what it carries, who is refused, and the change to it under load.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;

use kvmesh::net::certificates::{read_certificates, read_key, read_roots};
use kvmesh::net::tls_peers::PeerIdentity;
use kvmesh::net::tls_stream::{TlsStream, UntilDeadline};
use kvmesh::wire::peer::{HELLO_LEN_MAX, Hello, Message, Protocol, read_message};
use serde_json::json;

use crate::client::REPLY_TIMEOUT;
use crate::cluster::{Cluster, DEADLINE, until};
use crate::tls::{planned_as, section};
use crate::writers::Writers;

/// The section `tls` of a node that speaks TLS to its peers alone.
fn peers(id: u16, mode: &str) -> serde_json::Value {
    section(id, json!({ "ca_file": "certs/ca.pem", "clients": "off", "peers": mode }))
}

/// A cluster whose nodes speak TLS to each other in this mode, and are not started.
fn planned(mode: &str) -> Cluster {
    let mut cluster = planned_as(Cluster::plan(3).patient());
    for id in cluster.ids() {
        cluster.configure(id, "tls", peers(id, mode));
    }
    cluster
}

#[test]
fn a_cluster_whose_peers_speak_tls_replicates_and_catches_up() {
    const LARGE_LEN: usize = 15 << 20;
    let mut cluster = planned("required");
    cluster.start_all();
    cluster.await_converged();
    cluster.await_whole();
    let mut client = cluster.client_at(1, "all");
    assert_eq!(client.ask_line("PUT a 1").unwrap(), "OK");
    assert_eq!(cluster.ask_line(3, "GET a"), "VALUE 1");
    cluster.stop(3);
    client.send(format!("ACK majority\nPUT large {}\n", "x".repeat(LARGE_LEN))).unwrap();
    assert_eq!([(); 2].map(|()| client.line().unwrap()), ["OK", "OK"]);
    client.pipeline((0..2_000).map(|key| format!("PUT k{key} {key}")));
    cluster.start_ready(3);
    cluster.await_converged();
    assert_eq!(cluster.ask_line(3, "GET large").len(), "VALUE ".len() + LARGE_LEN);
    // One that goes back to plain text is refused by the others, and told so.
    cluster.stop(2);
    cluster.configure(2, "tls", peers(2, "off"));
    cluster.start(2);
    cluster
        .await_log(1, &["peer port: closed a connection from", "peers speak TLS here (tls.peers is \"required\"), and this one does not"]);
    cluster.await_log(2, &["cannot be reached: it refuses this node", "peers speak TLS here"]);
    cluster.await_log(2, &["peer port: closed a connection from", "it speaks TLS, and peers here do not"]);
    cluster.await_log(1, &["node 2 at", "cannot be reached: TLS: the other end has refused TLS"]);
}

#[test]
fn peers_with_certificates_of_another_ca_are_refused_at_both_ends() {
    let mut cluster = planned("required");
    let other = Cluster::dir(&cluster).join("other");
    let made = crate::program::run(
        crate::program::kvctl(
            &[cluster.client_addr(1)],
            &["certs", "init", other.to_str().unwrap(), "--nodes", "a.example,b.example,c.example"],
        )
        .current_dir(cluster.dir()),
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    cluster.configure(
        3,
        "tls",
        json!({ "cert_file": "other/node3.pem", "key_file": "other/node3.key", "ca_file": "other/ca.pem", "clients": "off", "peers": "required" }),
    );
    cluster.start_all();
    cluster.await_ready(1);
    cluster
        .await_log(1, &["node 3 at", "cannot be reached: TLS: the certificate of the other end is signed by no CA that is trusted here"]);
    cluster
        .await_log(3, &["node 1 at", "cannot be reached: TLS: the certificate of the other end is signed by no CA that is trusted here"]);
    cluster.await_log(1, &["peer port: closed a connection from", "TLS: the other end has refused TLS: it trusts no CA"]);
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    // The certificate of another node is refused at the start.
    cluster.stop(2);
    cluster.configure(2, "tls", peers(1, "required"));
    cluster.start(2);
    let reason = cluster.await_refused(2, 2);
    assert!(
        reason.contains("certs/node1.pem: the certificate is that of kvmesh://kvmesh/node/1; expected kvmesh://kvmesh/node/2"),
        "{reason}"
    );
}

/// The answer of node 1's peer port to a HELLO of node 3, from who has the key of node 2.
fn answer_to_impostor(cluster: &Cluster) -> Message {
    let certs = cluster.dir().join("certs");
    let chain = read_certificates(&certs.join("node2.pem")).unwrap();
    let (key, roots) = (read_key(&certs.join("node2.key")).unwrap(), read_roots(&certs.join("ca.pem")).unwrap());
    let identity = PeerIdentity::new(&Arc::new(rustls::crypto::ring::default_provider()), chain, key, roots).unwrap();
    let socket = TcpStream::connect(cluster.peer_addr(1)).unwrap();
    let mut stream = identity.dial(cluster.ip()).unwrap();
    let deadline = std::time::Instant::now() + REPLY_TIMEOUT;
    stream.handshake(&[], &mut UntilDeadline { socket: &socket, deadline }, &socket).unwrap();
    let hello: Hello = serde_json::from_value(json!({ "cluster": "kvmesh", "protocol": 3, "node": 3, "origin": "3-0000000000000007",
        "members": [1, 2, 3], "wall_ms": 0, "durable": false, "vector": {} }))
    .unwrap();
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(&mut bytes, Protocol::OLDEST);
    assert_eq!(stream.encrypt(&bytes).unwrap(), bytes.len());
    stream.flush(&socket).unwrap();
    let mut reader = TlsReader { stream, socket };
    read_message(&mut reader, &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST).unwrap().expect("an answer")
}

struct TlsReader {
    stream: TlsStream,
    socket: TcpStream,
}

impl Read for TlsReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(&self.socket, into)
    }
}

#[test]
fn a_certificate_is_good_for_its_own_node_alone() {
    let mut cluster = planned("required");
    cluster.start(1);
    until("an answer to the impostor", DEADLINE, || {
        cluster.revive(1);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer_to_impostor(&cluster))) {
            Ok(Message::Refused(why)) if why.contains("its certificate is that of node 2 of cluster") => Ok(()),
            Ok(other) => panic!("{other:?}"),
            Err(_) => Err("no connection".into()),
        }
    });
    cluster.await_log(1, &["peer port: closed a connection from", "its certificate is that of node 2"]);
}

/// From no TLS to TLS alone, node by node, while clients write at `majority`.
#[test]
fn peers_change_to_tls_one_by_one_and_writes_at_majority_go_on() {
    let mut cluster = planned_as(Cluster::plan(3).alone().patient());
    cluster.start_all();
    cluster.await_converged();
    cluster.await_whole();
    for mode in ["accept", "required"] {
        for id in cluster.ids() {
            let load = Writers::roaming(&cluster, &format!("{mode}-{id}"), &[1, 2, 3]);
            load.await_progress(50);
            cluster.configure(id, "tls", peers(id, mode));
            cluster.stop(id);
            load.await_progress(50);
            cluster.start_ready(id);
            cluster.await_whole();
            load.await_progress(50);
            let ledger = load.end();
            ledger.assert_codes_are(&["LOADING"]);
            cluster.await_converged();
            ledger.assert_kept(&cluster);
        }
    }
    let log = cluster.log_of_this_start(3);
    assert!(!log.contains("is reached without TLS"), "{log}");
    assert!(fs::read_to_string(cluster.config_path(1)).unwrap().contains("required"));
}
