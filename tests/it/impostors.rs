//! Peers prove who they are by the secret of the cluster: members that have it are believed, and
//! nobody else is, whatever it knows and sends. A cluster that runs gets its secret node by node.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kvmesh::data::clock::{Clocks, Stamp};
use kvmesh::data::version::{NodeId, Origin, VersionVector};
use kvmesh::wire::challenge::{AuthenticatedHello, Challenge, MAC_LEN, Mac, Nonce};
use kvmesh::wire::frame;
use kvmesh::wire::peer::{HELLO_LEN_MAX, Hello, Message, Protocol, read_message};

use crate::cluster::{Cluster, ClusterPlan, DEADLINE, until};
use crate::kit::client::word_after;
use crate::random::{Random, number_from, seed};
use crate::writers::Writers;

/// Exit code of a configuration that is refused.
const CONFIGURATION: i32 = 2;

const OLD: &str = "5f0c2b7d9e114a63b8f2d0c1e7a49586aa5f0c2b7d9e114a63b8f2d0c1e7a495";
const NEW: &str = "c3a1f0e29d8b47566453423120f1e0d9c3a1f0e29d8b47566453423120f1e0d9";

/// A file of secrets, a line each, which only its owner can read.
pub fn secret_file(cluster: &Cluster, name: &str, secrets: &[&str]) -> PathBuf {
    let path = cluster.dir().join(name);
    fs::write(&path, secrets.join("\n")).expect("a file of secrets");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    path
}

/// Lets a node prove who it is from its next start on.
pub fn configure(cluster: &mut Cluster, id: u16, auth: &str, secrets: &[&str]) {
    let path = secret_file(cluster, &format!("secret{id}"), secrets);
    cluster.configure(id, "peer_secret_file", path.to_str().expect("a path in UTF-8"));
    cluster.configure(id, "peer_auth", auth);
}

/// A cluster with a secret, whose members count each other.
fn secured(plan: ClusterPlan) -> Cluster {
    let mut cluster = plan.build();
    for id in cluster.ids() {
        configure(&mut cluster, id, "required", &[OLD]);
    }
    cluster.start_all();
    cluster.await_converged();
    cluster.await_whole();
    cluster
}

/// Waits until each of two nodes shows how the other has proven itself, on both connections.
#[track_caller]
fn await_auth(cluster: &Cluster, id: u16, peer: u16, wanted: &str) {
    until(&format!("n{id}: peer {peer} auth {wanted}"), DEADLINE, || {
        let lines = cluster.ask(id, "PEERS");
        let line = lines.iter().find(|line| line.starts_with(&format!("peer {peer} "))).ok_or("no such peer")?;
        let is_so = ["auth_out", "auth_in"].iter().all(|name| word_after(line, name) == Some(wanted));
        if is_so { Ok(()) } else { Err(line.clone()) }
    });
}

/// A HELLO by which everything would be wrong: a clock that is 8 seconds ahead, and a vector of
/// thousands of incarnations.
fn hello(id: u16) -> Hello {
    let wall_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as u64;
    let (node, ahead_ms) = (NodeId(id), wall_ms + 8_000);
    let origin = Origin { node, nonce: 0x77 };
    let incarnations = (1..5_000).map(|nonce| (Origin { node, nonce }, Stamp::from_wall_ms(ahead_ms)));
    Hello {
        cluster: "kvmesh".to_owned(),
        protocol: Protocol::OLDEST,
        protocols: None,
        node,
        origin,
        members: vec![NodeId(1), NodeId(2), NodeId(3)],
        wall_ms,
        clocks: Some(Clocks { reference_us: wall_ms * 1_000, stamp_us: ahead_ms * 1_000 }),
        durable: true,
        vector: incarnations.collect::<VersionVector>(),
        order: None,
        limits: None,
        challenge: None,
    }
}

fn send(stream: &mut TcpStream, message: &Message) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes, Protocol::OLDEST);
    stream.write_all(&bytes)
}

fn read(stream: &mut TcpStream) -> io::Result<Option<Message>> {
    read_message(stream, &mut Vec::new(), HELLO_LEN_MAX, Protocol::OLDEST)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("a peer port");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream
}

/// The refusal that an impostor hears, who says that it is node 2 and answers the challenge by
/// this.
fn refusal(addr: SocketAddr, answer: impl FnOnce(&Challenge) -> AuthenticatedHello) -> String {
    let mut stream = connect(addr);
    send(&mut stream, &Message::Challenge(Challenge { node: NodeId(2), nonce: Nonce::of([7; MAC_LEN]), macs: Vec::new() })).unwrap();
    let Some(Message::Challenge(challenge)) = read(&mut stream).unwrap() else { panic!("no challenge") };
    assert_eq!((challenge.node, challenge.macs.len()), (NodeId(1), 1));
    send(&mut stream, &Message::AuthenticatedHello(answer(&challenge))).unwrap();
    let Some(Message::Refused(why)) = read(&mut stream).unwrap() else { panic!("no refusal") };
    why
}

#[test]
fn members_with_the_secret_prove_who_they_are_and_it_is_shown_nowhere() {
    let mut cluster = secured(Cluster::plan(3));
    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_converged();
    for id in cluster.ids() {
        for peer in cluster.ids().into_iter().filter(|peer| *peer != id) {
            await_auth(&cluster, id, peer, "proved");
        }
        assert_eq!(cluster.status(id).text("peer_auth"), "required");
        let mut shown = [cluster.ask(id, "STATUS"), cluster.ask(id, "PEERS")].concat().join("\n") + &cluster.log(id);
        let mut client = cluster.client(id);
        client.send("*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$1\r\n*\r\n*1\r\n$4\r\nQUIT\r\n").unwrap();
        shown += &String::from_utf8_lossy(&client.rest().unwrap());
        assert!(!shown.contains(OLD), "{shown}");
    }
}

/// Nothing is believed of everything that an impostor tries, and a client notices nothing.
#[test]
fn an_impostor_that_knows_the_ids_and_not_the_secret_changes_nothing() {
    let mut cluster = secured(Cluster::plan(3).patient().alone());
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority")]);
    load.await_progress(50);
    let vector_len = cluster.status(1).number("vector_len");
    let (addr, ends, tries) = (cluster.peer_addr(1), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    // A HELLO of a build that proves nothing.
                    let mut stream = connect(addr);
                    send(&mut stream, &Message::Hello(hello(2))).unwrap();
                    let Some(Message::Refused(why)) = read(&mut stream).unwrap() else { panic!("no refusal") };
                    assert!(why.starts_with("peers prove here who they are"), "{why}");
                    // A guess; the acceptor's own proof, sent back; and none at all.
                    let json = hello(2).to_json();
                    let guess = refusal(addr, |_| AuthenticatedHello { mac: Mac::of([1; MAC_LEN]), json: json.clone() });
                    let reflected = refusal(addr, |challenge| AuthenticatedHello { mac: challenge.macs[0], json: json.clone() });
                    assert_eq!(guess, "its proof is wrong: the two nodes have no secret in common (peer_secret_file)");
                    assert_eq!(reflected, guess);
                    tries.fetch_add(3, Ordering::Relaxed);
                }
            });
        }
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            load.await_progress(500);
            until("a hundred tries", DEADLINE, || if tries.load(Ordering::Relaxed) > 100 { Ok(()) } else { Err(String::new()) });
        }));
        ends.store(true, Ordering::Relaxed);
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{} tries, the longest round of a client {:?}", tries.load(Ordering::Relaxed), load.take_latency_worst(0));
    assert_eq!([0, 1].map(|writer| load.broken_connections(writer)), [0, 0]);
    let ledger = load.end();
    ledger.assert_codes_are(&[]);
    ledger.assert_kept(&cluster);
    let status = cluster.status(1);
    assert!(status.number("peer_auth_refused") > 100, "{}", status.number("peer_auth_refused"));
    assert!(status.number("clock_ahead_ms") < 1_000, "the clock was moved by {} ms", status.number("clock_ahead_ms"));
    assert_eq!(status.number("vector_len"), vector_len);
    let lines = cluster.ask(1, "PEERS");
    assert!(lines.iter().all(|line| !line.contains("its proof is wrong")), "{lines:?}");
    await_auth(&cluster, 1, 2, "proved");
    let line = cluster.await_log(1, &["WARN", "peer port: closed a connection from", "it says that it is node 2, and does not prove it"]);
    assert_eq!(cluster.log_of_this_start(1).matches("does not prove it").count(), 1, "{line}");
    assert!(!cluster.log_of_this_start(1).contains("keep replacing each other"));
    cluster.await_converged();
}

/// A node that dials an impostor tells it no more than its own id.
#[test]
fn who_listens_in_the_place_of_a_member_learns_nothing_and_is_not_believed() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).build();
    configure(&mut cluster, 1, "required", &[OLD]);
    let listener = TcpListener::bind(cluster.peer_addr(2)).unwrap();
    cluster.start(1);
    let answers: [fn(&Challenge) -> Message; 5] = [
        |_| Message::Hello(hello(2)),
        |_| Message::Challenge(Challenge { node: NodeId(2), nonce: Nonce::of([9; MAC_LEN]), macs: vec![Mac::of([9; MAC_LEN]); 5_000] }),
        |_| Message::Challenge(Challenge { node: NodeId(2), nonce: Nonce::of([9; MAC_LEN]), macs: Vec::new() }),
        |challenge| Message::Challenge(challenge.clone()),
        |_| Message::AuthenticatedHello(AuthenticatedHello { mac: Mac::of([9; MAC_LEN]), json: hello(2).to_json() }),
    ];
    for answer in answers {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let Some(Message::Challenge(challenge)) = read(&mut stream).unwrap() else { panic!("it tells more than its id") };
        assert_eq!((challenge.node, challenge.macs.len()), (NodeId(1), 0));
        send(&mut stream, &answer(&challenge)).unwrap();
        // The reason, at most, and then the end.
        let mut last = read(&mut stream);
        if let Ok(Some(Message::Refused(_))) = last {
            last = read(&mut stream);
        }
        assert!(!matches!(last, Ok(Some(_))), "{last:?}");
    }
    cluster.await_state(1, "degraded");
    cluster.await_log(1, &["ERROR", "node 2 at", "cannot be reached: it does not prove who it is"]);
    let status = cluster.status(1);
    assert!(status.number("clock_ahead_ms") < 1_000);
    assert!(status.number("vector_len") <= 1, "{}", status.number("vector_len"));
    assert!(status.number("peer_auth_refused") >= 3, "{}", status.number("peer_auth_refused"));
    cluster.await_sees(1, 2, "down");
}

#[test]
fn nodes_with_different_secrets_say_so_on_both_sides() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).build();
    configure(&mut cluster, 1, "required", &[OLD]);
    configure(&mut cluster, 2, "accept", &[NEW]);
    cluster.start_all();
    for (id, other) in [(1, 2), (2, 1)] {
        cluster.await_log(id, &["ERROR", &format!("node {other} at"), "no secret in common"]);
        cluster.await_log(
            id,
            &["WARN", "peer port: closed a connection from", "does not prove it: it refuses this node: ", "no secret in common"],
        );
        cluster.await_sees(id, other, "down");
    }
    // Node 2 has the right one, and another one beside.
    cluster.stop(2);
    configure(&mut cluster, 2, "accept", &[NEW, OLD]);
    cluster.start_ready(2);
    cluster.await_healed();
    await_auth(&cluster, 1, 2, "proved");
}

/// From a cluster without a secret to one in which it is required, and then to another secret. A
/// client that writes at a node that stays gets nothing but `OK`.
#[test]
fn a_running_cluster_gets_its_secret_node_by_node_and_another_one_later() {
    let mut cluster = Cluster::plan(3).alone().patient().start();
    let stages: [(&str, &[&str]); 4] = [("accept", &[OLD]), ("required", &[OLD]), ("required", &[NEW, OLD]), ("required", &[NEW])];
    let load = Writers::staying(&cluster, &[(1, "majority"), (2, "majority"), (3, "majority")]);
    let mut ledgers = Vec::new();
    for (stage, (auth, secrets)) in stages.into_iter().enumerate() {
        for id in cluster.ids() {
            let roaming = Writers::roaming(&cluster, &format!("{stage}-{id}"), &[1, 2, 3]);
            load.await_progress(20);
            let broken = [0, 1, 2].map(|writer| load.broken_connections(writer));
            cluster.stop(id);
            roaming.await_progress(20);
            configure(&mut cluster, id, auth, secrets);
            cluster.start_ready(id);
            cluster.await_whole();
            load.await_progress(20);
            for writer in (0..3).filter(|writer| writer + 1 != usize::from(id)) {
                assert_eq!(load.broken_connections(writer), broken[writer], "a connection to n{} broke when n{id} restarted", writer + 1);
            }
            ledgers.push(roaming.end());
        }
        for id in cluster.ids() {
            for peer in cluster.ids().into_iter().filter(|peer| *peer != id) {
                await_auth(&cluster, id, peer, "proved");
            }
            let shown = cluster.status(id).text("peer_auth").to_owned();
            let warns = cluster.log_of_this_start(id).contains("peers that prove nothing are believed");
            assert_eq!((shown.contains("peers that prove nothing are believed"), warns), (auth == "accept", auth == "accept"), "{shown}");
        }
    }
    ledgers.push(load.end());
    cluster.await_converged();
    for ledger in ledgers {
        ledger.assert_codes_are(&["LOADING"]);
        ledger.assert_kept(&cluster);
    }
}

#[test]
fn a_secret_that_others_can_read_and_an_open_port_without_one_are_refused() {
    let mut cluster = Cluster::plan(2).build();
    let refused = |cluster: &mut Cluster| {
        cluster.start(1);
        cluster.await_refused(1, CONFIGURATION)
    };
    configure(&mut cluster, 1, "required", &[OLD]);
    let path = cluster.dir().join("secret1");
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let why = refused(&mut cluster);
        let wanted =
            format!("which others can read or write: it has mode {mode:04o}, expected a file of its owner alone: chmod 600 makes it one");
        assert!(why.contains("field \"peer_secret_file\": found ") && why.ends_with(&wanted), "{why}");
        assert!(!why.contains(OLD), "{why}");
    }
    configure(&mut cluster, 1, "required", &["short"]);
    assert!(refused(&mut cluster).contains("found a secret of 5 bytes, expected one secret of at least 32 bytes on a line"));
    fs::remove_file(&path).unwrap();
    assert!(refused(&mut cluster).contains("which cannot be read: "));
    cluster.configure(1, "peer_secret_file", "");
    assert!(refused(&mut cluster).contains("field \"peer_auth\": found \"required\", expected a peer_secret_file beside it"));
    cluster.configure(1, "peer_auth", "off");
    cluster.configure(1, "peer_addr", format!("0.0.0.0:{}", cluster.peer_addr(1).port()));
    let why = refused(&mut cluster);
    for words in ["field \"peer_addr\": found \"0.0.0.0:", "a peer_secret_file beside it", "\"insecure\": true"] {
        assert!(why.contains(words), "{why}");
    }
}

/// Bytes that come before a proof, whole messages among them, cost a member nothing.
#[test]
fn whatever_strangers_send_before_a_proof_members_go_on() {
    let mut cluster = secured(Cluster::plan(2));
    let (addr, mut random) = (cluster.peer_addr(1), Random::new(seed()));
    for _ in 0..number_from("KVMESH_FUZZ_CONNECTIONS").unwrap_or(400) {
        let mut stream = connect(addr);
        let mut bytes = Vec::new();
        match random.below(5) {
            0 => bytes = random.bytes(60),
            1 => {
                let (kind, len) = (random.below(12) as u8, random.below(300));
                let body = random.bytes(len);
                frame::seal(&mut bytes, kind, |out| out.extend_from_slice(&body));
            }
            2 => {
                let challenge = Challenge { node: NodeId(random.below(4) as u16), nonce: Nonce::of([3; MAC_LEN]), macs: Vec::new() };
                Message::Challenge(challenge).encode(&mut bytes, Protocol::OLDEST);
                let json = random.bytes(100);
                let guess = AuthenticatedHello { mac: Mac::of([random.below(256) as u8; MAC_LEN]), json };
                Message::AuthenticatedHello(guess).encode(&mut bytes, Protocol::OLDEST);
            }
            3 => Message::Hello(Hello { challenge: Some(Nonce::of([4; MAC_LEN])), ..hello(2) }).encode(&mut bytes, Protocol::OLDEST),
            _ => Message::Hello(hello(2)).encode(&mut bytes, Protocol::OLDEST),
        }
        if random.once_in(3) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        if random.once_in(3) {
            bytes.truncate(random.below(bytes.len()));
        }
        let _ = stream.write_all(&bytes);
        if random.once_in(2) {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            while let Ok(Some(message)) = read(&mut stream) {
                assert!(matches!(message, Message::Challenge(_) | Message::Refused(_)), "a stranger is told {message:?}");
            }
        }
    }
    assert_eq!(cluster.ask_line(1, "ACK all"), "OK");
    assert_eq!(cluster.ask_line(1, "SET a 1"), "OK");
    cluster.await_whole();
    cluster.await_converged();
    await_auth(&cluster, 1, 2, "proved");
    assert!(cluster.status(1).number("vector_len") <= 4);
}

/// They say which member they are, hear the challenge, and leave it at that; and come again as soon
/// as they are closed.
#[test]
fn a_crowd_that_is_challenged_and_does_not_answer_keeps_no_member_out() {
    let mut cluster = Cluster::plan(2).set("recovery_wait_ms", 500).alone().build();
    for id in [1, 2] {
        configure(&mut cluster, id, "required", &[OLD]);
    }
    cluster.start(1);
    cluster.await_served(1);
    let (addr, ends) = (cluster.peer_addr(1), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(addr) else { continue };
                    let challenge = Challenge { node: NodeId(2), nonce: Nonce::of([5; MAC_LEN]), macs: Vec::new() };
                    let asked = stream
                        .set_read_timeout(Some(Duration::from_secs(1)))
                        .and_then(|()| send(&mut stream, &Message::Challenge(challenge)));
                    // The challenge, and then nothing until it is closed or the test is over.
                    let _ = asked.and_then(|()| read(&mut stream)).and_then(|_| read(&mut stream));
                }
            });
        }
        cluster.start(2);
        let came = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.await_mesh(&[1, 2])));
        ends.store(true, Ordering::Relaxed);
        came.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    await_auth(&cluster, 1, 2, "proved");
}
