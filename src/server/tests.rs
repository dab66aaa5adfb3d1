//! Sessions over real loopback sockets. Peers are played by hand: what they acknowledge.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::Duration;

mod resp;
mod steps;
mod users;

use super::*;
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version};
use crate::net::listen;
use crate::net::tls::NodeTls;
use crate::replication::acks::Acks;
use crate::replication::heartbeat;
use crate::replication::replicator::Replicator;
use crate::replication::submit::Submit;
use crate::store::{Keyspace, Store};
use crate::testing::simulated_node::config;
use crate::testing::wait::{PATIENCE, until};
use crate::wire::peer::Ack;

pub(crate) const OTHER: Origin = Origin { node: NodeId(2), nonce: 9 };

pub(crate) struct Fixture {
    pub server: Server,
    pub replica: Arc<Replica>,
    pub store: Arc<Store>,
    submit: Arc<Submit>,
    acks: Arc<Acks>,
    replicator: JoinHandle<()>,
}

/// A node with so many peers, that do nothing by themselves.
pub(crate) fn closed_fixture(listener: TcpListener, peers: usize, settings: &str) -> Fixture {
    let fields = format!(r#"{{"clients_max": 8, "key_len_max": 100, "value_len_max": 1048576{settings}}}"#);
    let config = Arc::new(config(1, 1 + peers as u16, &serde_json::from_str(&fields).unwrap()));
    let (replica, write_rx) = Replica::new(config, Store::new(), 7, Now { wall_ms: 0, elapsed: Duration::ZERO }, None);
    let replica = Arc::new(replica);
    let replicator = Arc::new(Replicator::new(replica.origin(), write_rx));
    for peer in 0..peers {
        replica.acks().set_up(peer, true);
    }
    let server = Server::start(listener, Arc::clone(&replica), Arc::clone(&replicator), NodeTls::new(None)).unwrap();
    let Services { store, submit, acks, .. } = Services::of(Arc::clone(&replica), Arc::clone(&replicator));
    let replicator = thread::spawn({
        let replica = Arc::clone(&replica);
        move || replicator.run(&replica)
    });
    Fixture { server, replica, store, submit, acks, replicator }
}

/// A peer's ack: it has everything up to here.
fn ack(upto: Stamp) -> Ack {
    let origin = Origin { node: NodeId(1), nonce: 7 };
    Ack { origin, from: Stamp::ZERO, upto, received: upto, clocks: None }
}

/// A node as [`closed_fixture`] makes it that has given up waiting for its peers, and is open.
pub(crate) fn fixture(peers: usize, settings: &str) -> Fixture {
    let fixture = closed_fixture(any_port(), peers, settings);
    fixture.open();
    fixture
}

pub(crate) fn any_port() -> TcpListener {
    listen("127.0.0.1:0".parse().unwrap()).unwrap()
}

impl Fixture {
    fn open(&self) {
        heartbeat::tick(&self.replica, Now { wall_ms: 3_600_000, elapsed: Duration::from_secs(3600) });
    }

    pub fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.server.addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { replies: BufReader::new(socket.try_clone().unwrap()), socket }
    }

    /// Every peer acknowledges all that has been written.
    fn acknowledge(&self, peer: usize) {
        self.acks.acknowledge(peer, &ack(self.submit.position()), Duration::ZERO);
    }

    /// Another node's write arrives, or is known to be somewhere: the clock is above it.
    pub fn foreign(&self, key: &str, value: Option<&str>) -> Entry {
        let version = Version { stamp: self.replica.clock().issue(crate::data::clock::elapsed()), origin: OTHER };
        Entry::new(key.as_bytes(), value.map(str::as_bytes), None, version)
    }

    fn await_waiting(&self) {
        until("a session waits for acks", || self.acks.waiting_len() > 0);
    }

    pub fn stop(self) {
        assert_eq!(self.server.stop(Instant::now() + PATIENCE), 0);
        self.submit.close();
        self.replicator.join().unwrap();
    }
}

pub(crate) struct Client {
    pub socket: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its end; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line.strip_suffix('\n').unwrap_or(&line).to_owned()
    }

    pub fn expect(&mut self, replies: &[&str]) {
        for reply in replies {
            let line = self.line();
            // A sentence may go on after what the test names.
            assert!(if reply.starts_with("ERROR") { line.starts_with(reply) } else { line == *reply }, "{line:?} instead of {reply:?}");
        }
    }

    fn is_answered(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let answered = self.socket.peek(&mut [0]).is_ok();
        self.socket.set_nonblocking(false).unwrap();
        answered
    }

    pub fn expect_end(&mut self) {
        assert_eq!(self.line(), "");
    }
}

#[test]
fn a_script_in_one_piece_and_byte_by_byte() {
    let script = "SET a 1\r\nSET a 2\nGET a\n\nUPD a two words\nGET a\nUPD b 1\nPUT \"b \\n\" \"\"\nGET \"b \\n\"\nEXISTS a\nEXISTS x\nCOUNT\n\
        DEL a\nDEL a\nGET a\nACK\nACK local\nPUT c x\nack\nNOPE\nSET k\nPING\nKEYS c\nKEYS \"\" 1\nHELP get\nPEERS\nDUMP\nQUIT\nPING\n";
    let replies = [
        "OK",
        "ERROR EXISTS key \"a\" exists; use UPD to change it, PUT to set it either way",
        "VALUE 1",
        "OK",
        "VALUE two words",
        "ERROR NOTFOUND key \"b\" does not exist; use SET to create it",
        "OK",
        "VALUE \"\"",
        "1",
        "0",
        "2",
        "OK",
        "ERROR NOTFOUND",
        "ERROR NOTFOUND",
        "ACK majority",
        "OK",
        "OK",
        "ACK local",
        "ERROR UNKNOWN \"NOPE\"",
        "ERROR SYNTAX SET needs a value",
        "PONG",
        "KEY c",
        "END",
    ];
    for piece_len in [script.len(), 7, 1] {
        let fixture = fixture(0, "");
        let mut client = fixture.connect();
        for piece in script.as_bytes().chunks(piece_len) {
            client.send(piece);
        }
        client.expect(&replies);
        assert!(["KEY c", "KEY \"b \\n\""].contains(&client.line().as_str()));
        client.expect(&["END", "GET key                   shows the value of a key, as this node knows it", "END"]);
        client.expect(&["END"]);
        assert!(client.line().starts_with("{\"dump\":\"kvmesh\""));
        let entries: Vec<String> = std::iter::repeat_with(|| client.line()).take_while(|line| line.starts_with("{\"k")).collect();
        assert_eq!(entries.len(), 3, "two keys and a tombstone: {entries:?}");
        client.expect(&["END", "OK"]);
        client.expect_end();
        fixture.stop();
    }
}

#[test]
fn status_counts_what_clients_did_and_shows_the_limits() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send("SET a 1\nSET a 1\nGET a\nSTATUS\n");
    client.expect(&["OK", "ERROR EXISTS", "VALUE 1"]);
    let status: Vec<String> = std::iter::from_fn(|| Some(client.line()).filter(|line| line != "END")).collect();
    for line in ["node 1", "clients 1", "clients_max 8", "key_len_max 100", "commands 4", "writes 1", "writes_refused 1", "ack majority"] {
        assert!(status.iter().any(|shown| shown == line), "{line} is not in {status:?}");
    }
    // Whatever bounds something is called as in the configuration.
    let names = crate::config::FIELDS.iter().map(|field| field.name);
    for name in names.filter(|name| name.ends_with("_ms") || name.ends_with("_max") || *name == "write_room") {
        let shown = status.iter().filter(|line| line.split(' ').next() == Some(name));
        assert_eq!(shown.count(), 1, "{name} in {status:?}");
    }
    fixture.stop();
}

#[test]
fn garbage_is_answered_and_closed_and_half_a_command_dropped() {
    let fixture = fixture(0, "");
    for garbage in [&b"\x17\x03\x01\x02\x00\x01"[..], &b"x".repeat(5000)] {
        let mut client = fixture.connect();
        client.send(garbage);
        client.expect(&["ERROR UNKNOWN what begins with"]);
        client.expect_end();
    }
    // TLS, which is not spoken here, is answered with an alert.
    let mut client = fixture.connect();
    client.send(b"\x16\x03\x01\x02\x00\x01");
    client.expect(&["\u{15}\u{3}\u{3}\0\u{2}\u{2}("]);
    client.expect_end();
    let mut client = fixture.connect();
    client.send("PUT a ".to_owned() + &"x".repeat(5 << 20));
    client.expect(&["ERROR TOOBIG the line is longer"]);
    client.expect_end();
    let mut client = fixture.connect();
    client.send("PUT b 1\nPUT c 1");
    client.expect(&["OK"]);
    drop(client);
    until("all are gone", || fixture.server.clients_len() == 0);
    assert_eq!(fixture.store.counts(0).keys, 1);
    fixture.stop();
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let value: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    let mut command = b"PUT a ".to_vec();
    crate::wire::quoting::write_quoted(&mut command, &value).unwrap();
    client.send([&command[..], b"\nPUT a "].concat());
    client.send("v".repeat((1 << 20) + 1) + "\nGET a\nPING\n");
    client.expect(&["OK", "ERROR TOOBIG the value has 1048577 bytes; at most 1048576"]);
    let reply = client.line();
    let written = reply.strip_prefix("VALUE ").unwrap();
    assert!(*crate::wire::quoting::unquote(written.as_bytes()).unwrap() == value);
    client.expect(&["PONG"]);
    fixture.stop();
}

#[test]
fn replies_do_not_pile_up_for_a_client_that_does_not_read_and_it_is_closed() {
    let fixture = fixture(0, r#", "write_timeout_ms": 200"#);
    let mut client = fixture.connect();
    // Below the size from which values are streamed: these are held in the replies, up to their
    // bound.
    client.send(format!("PUT a {}\n", "v".repeat(100 << 10)));
    client.expect(&["OK"]);
    let gets = 1280;
    client.send("GET a\n".repeat(gets));
    // It reads nothing, so the session must give up; the value was not read for all the commands
    // that are waiting.
    until("the session is closed", || fixture.server.clients_len() == 0);
    let mut received = Vec::new();
    // Ends, or is reset, well before all of it.
    let _ = client.replies.read_to_end(&mut received);
    assert!(received.len() < gets * (100 << 10));
    fixture.stop();
}

#[test]
fn who_takes_nothing_is_closed_after_write_timeout_and_not_much_later() {
    let timeout = Duration::from_secs(1);
    let fixture = fixture(0, r#", "write_timeout_ms": 1000"#);
    fixture.store.merge(fixture.foreign("a", Some(&"v".repeat(1 << 20))), |_| false);
    let closed_after = || {
        let mut client = fixture.connect();
        client.send("GET a\n".repeat(100));
        until("the session has begun", || fixture.server.clients_len() == 1);
        let begun = Instant::now();
        until("the session is closed", || fixture.server.clients_len() == 0);
        begun.elapsed()
    };
    // Once is enough: on a busy machine it may take longer. The system's buffers grow for a moment,
    // which is time, too.
    let mut tries = (0..5).map(|_| closed_after());
    assert!(tries.any(|after| (timeout..timeout * 3 / 2).contains(&after)));
    drop(tries);
    fixture.stop();
}

/// Nothing else would end its wait for a day.
#[test]
fn a_session_whose_client_takes_nothing_ends_when_it_is_killed_and_when_the_server_stops() {
    let fixture = fixture(0, r#", "write_timeout_ms": 86400000"#);
    fixture.store.merge(fixture.foreign("a", Some(&"v".repeat(1 << 20))), |_| false);
    let stuck = || {
        let mut client = fixture.connect();
        client.send("GET a\n".repeat(100));
        until("a reply has begun", || client.is_answered());
        client
    };
    let mut killer = fixture.connect();
    let deaf = stuck();
    let addr = deaf.socket.local_addr().unwrap().to_string();
    killer.send(format!("*3\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n${}\r\n{addr}\r\n", addr.len()));
    killer.expect(&["+OK\r"]);
    until("the killer is alone", || fixture.server.clients_len() == 1);
    let _deaf = stuck();
    assert_eq!(fixture.server.stop(Instant::now()), 0);
    fixture.submit.close();
    fixture.replicator.join().unwrap();
}

#[test]
fn who_has_sent_all_and_closed_that_side_still_gets_every_reply() {
    let fixture = fixture(0, "");
    fixture.store.merge(fixture.foreign("a", Some(&"v".repeat(1 << 20))), |_| false);
    let mut client = fixture.connect();
    client.send("GET a\n".repeat(30) + "PING\n");
    client.socket.shutdown(Shutdown::Write).unwrap();
    until("a reply has begun", || client.is_answered());
    for _ in 0..30 {
        assert_eq!(client.line().len(), "VALUE ".len() + (1 << 20));
    }
    client.expect(&["PONG"]);
    client.expect_end();
    fixture.stop();
}

#[test]
fn what_waits_for_clients_is_counted_as_far_as_it_is_not_the_stores_and_bounded() {
    let fixture = fixture(0, r#", "write_timeout_ms": 1000"#);
    let budget = &fixture.server.shared.reply_budget;
    let mut writer = fixture.connect();
    let value = "v".repeat(1 << 20);
    writer.send(format!("PUT a {value}\n"));
    writer.expect(&["OK"]);
    // So many that the system's buffers do not take them.
    let mget = format!("MGET{}\n", " a".repeat(64));
    let mut deaf = fixture.connect();
    deaf.send(&mget);
    until("a reply has begun", || deaf.is_answered());
    writer.send("GET a\n");
    assert_eq!(writer.line().len(), "VALUE ".len() + value.len());
    assert!(budget.reserved() < 1 << 20, "{} bytes are the store's", budget.reserved());
    // From now on it is the reply alone that keeps the value.
    writer.send("PUT a 2\n");
    writer.expect(&["OK"]);
    until("the value is counted", || budget.reserved() > 1 << 20);
    assert!(budget.reserved() < 2 << 20, "{} bytes for one value of a MiB", budget.reserved());
    until("who takes nothing is closed", || fixture.server.clients_len() == 1);
    assert_eq!(budget.reserved(), 0);

    // Where others take everything, it is closed when that is seen.
    writer.send(format!("PUT a {value}\n"));
    writer.expect(&["OK"]);
    budget.try_reserve(budget.left()).unwrap();
    let mut deaf = fixture.connect();
    deaf.send(&mget);
    until("who takes no reply that would be counted is closed", || fixture.server.clients_len() == 1);
    // What is taken at once is not counted.
    writer.send("GET a\n");
    assert_eq!(writer.line().len(), "VALUE ".len() + value.len());
    budget.give_back(budget.reserved());
    fixture.stop();
}

/// A byte of a value may take two in a dump.
#[test]
fn a_line_of_a_dump_that_waits_for_a_client_is_counted() {
    let fixture = fixture(0, r#", "write_timeout_ms": 86400000"#);
    let budget = &fixture.server.shared.reply_budget;
    for n in 0..12 {
        fixture.store.merge(fixture.foreign(&n.to_string(), Some(&"\"".repeat(1 << 20))), |_| false);
    }
    let mut deaf = fixture.connect();
    deaf.send("DUMP\n");
    until("a line is counted", || budget.reserved() >= 2 << 20);
    assert!(budget.reserved() < 6 << 20, "{} bytes for one line at a time", budget.reserved());
    assert!(deaf.line().contains("kvmesh"));
    until("the end", || deaf.line() == "END");
    until("all of it is given back", || budget.reserved() == 0);
    fixture.stop();
}

#[test]
fn names_of_keys_that_wait_for_a_client_are_counted_and_bounded() {
    let fixture = fixture(0, "");
    let budget = &fixture.server.shared.reply_budget;
    for n in 0..10_000 {
        fixture.store.merge(fixture.foreign(&format!("{n:0100}"), Some("v")), |_| false);
    }
    let keys = "*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n";
    let mut client = fixture.connect();
    client.send(keys);
    client.expect(&["*10000\r"]);
    let names: std::collections::HashSet<String> = (0..10_000)
        .map(|_| {
            assert_eq!(client.line(), "$100\r");
            client.line()
        })
        .collect();
    assert_eq!(names.len(), 10_000);
    client.send("KEYS \"\" 3\nKEYS 01\nKEYS\n");
    let mut listed = || (0..).map(|_| client.line()).take_while(|line| line != "END").filter(|line| line.starts_with("KEY 0")).count();
    assert_eq!((listed(), listed(), listed()), (3, 0, 10_000));
    until("all of it is given back", || budget.reserved() == 0);

    // All of them are more than a megabyte; and there is no more.
    budget.try_reserve(budget.left() - (1 << 20)).unwrap();
    client.send(keys);
    assert!(client.line().starts_with("-BUSY these keys, or the replies that other clients have not taken yet"));
    client.send("*2\r\n$4\r\nKEYS\r\n$6\r\n*0099*\r\nPING\n");
    assert!(client.line().starts_with('*'));
    until("the last", || client.line() == "PONG");
    assert_eq!(budget.left(), 1 << 20);
    budget.give_back(budget.reserved());
    fixture.stop();
}

#[test]
fn many_large_replies_reach_a_client_that_reads() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    for (value_len, gets) in [(1 << 20, 64), (100 << 10, 200)] {
        client.send(format!("PUT a {}\n", "v".repeat(value_len)) + &"GET a\n".repeat(gets) + "PING\n");
        client.expect(&["OK"]);
        for _ in 0..gets {
            assert_eq!(client.line().len(), "VALUE ".len() + value_len);
        }
        client.expect(&["PONG"]);
    }
    fixture.stop();
}

#[test]
fn one_client_too_many_is_told_so() {
    let fixture = fixture(0, "");
    let mut clients: Vec<Client> = (0..8).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.send("PING\n");
        client.expect(&["PONG"]);
    }
    let mut ninth = fixture.connect();
    ninth.expect(&["ERROR BUSY 8 clients are connected"]);
    ninth.expect_end();
    clients.pop();
    until("one has left", || fixture.server.clients_len() == 7);
    let mut ninth = fixture.connect();
    ninth.send("PING\n");
    ninth.expect(&["PONG"]);
    fixture.stop();
}

#[test]
fn a_full_node_takes_deletes_only() {
    let fixture = fixture(0, r#", "memory_max": 1000"#);
    let mut client = fixture.connect();
    client.send(format!("PUT a {}\nPUT b 1\nSET c 1\nUPD a 1\nDEL a\nPUT b 1\n", "v".repeat(1000)));
    client.expect(&["OK", "ERROR FULL", "ERROR FULL", "ERROR FULL", "OK", "OK"]);
    fixture.stop();
}

#[test]
fn a_full_node_says_first_what_is_wrong_with_the_command() {
    let fixture = fixture(0, r#", "memory_max": 1000"#);
    let mut client = fixture.connect();
    client.send(format!("PUT a {}\nSET a 1\nUPD b 1\nSET b 1\n", "v".repeat(1000)));
    client.expect(&["OK", "ERROR EXISTS", "ERROR NOTFOUND", "ERROR FULL"]);
    fixture.stop();
}

#[test]
fn who_misses_a_key_hears_what_fits_the_verb() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send("GET a\nDEL a\nUPD a 1\n");
    assert_eq!(client.line(), "ERROR NOTFOUND key \"a\" does not exist");
    assert_eq!(client.line(), "ERROR NOTFOUND key \"a\" does not exist");
    assert_eq!(client.line(), "ERROR NOTFOUND key \"a\" does not exist; use SET to create it, PUT to set it either way");
    fixture.stop();
}

#[test]
fn a_node_that_catches_up_says_so() {
    let fixture = closed_fixture(any_port(), 0, "");
    let mut client = fixture.connect();
    client.send("GET a\nPUT a 1\nKEYS\nPING\nACK all\nHELP PING\n");
    client.expect(&["ERROR LOADING this node is catching up", "ERROR LOADING", "ERROR LOADING", "PONG", "OK"]);
    client.expect(&["PING                      says PONG", "END"]);
    fixture.open();
    client.send("PUT a 1\n");
    client.expect(&["OK"]);
    fixture.stop();
}

#[test]
fn stopping_lets_the_round_finish_and_ends_idle_clients() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 30000"#);
    let (mut idle, mut writing) = (fixture.connect(), fixture.connect());
    idle.send("PING\n");
    idle.expect(&["PONG"]);
    writing.send("PUT a 1\nGET a\n");
    fixture.await_waiting();
    let Fixture { server, acks, submit, replicator, .. } = fixture;
    let stopping = thread::spawn(move || server.stop(Instant::now() + PATIENCE));
    idle.expect_end();
    acks.acknowledge(0, &ack(submit.position()), Duration::ZERO);
    writing.expect(&["OK", "VALUE 1"]);
    writing.expect_end();
    assert_eq!(stopping.join().unwrap(), 0);
    submit.close();
    replicator.join().unwrap();
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_stop() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    client.send(format!("PUT a {}\n", "v".repeat(1 << 20)) + &"GET a\n".repeat(64));
    client.expect(&["OK"]);
    client.replies.fill_buf().unwrap();
    assert_eq!(fixture.server.stop(Instant::now() + Duration::from_millis(50)), 0);
    fixture.submit.close();
    fixture.replicator.join().unwrap();
}

#[test]
fn without_a_quorum_nothing_is_written() {
    let fixture = fixture(2, "");
    fixture.acks.set_up(0, false);
    fixture.acks.set_up(1, false);
    let mut client = fixture.connect();
    client.send("PUT a 1\nGET a\nACK local\nPUT a 1\nGET a\n");
    client.expect(&["ERROR NOQUORUM 1 of 3 members counts and 2 are needed for ack majority; nothing was written", "ERROR NOTFOUND"]);
    client.expect(&["OK", "OK", "VALUE 1"]);
    fixture.stop();
}

#[test]
fn a_round_answers_when_its_level_is_met_and_each_write_has_its_own_outcome() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 1000"#);
    let mut client = fixture.connect();
    client.send("PUT a 1\nGET a\nPUT b 2\n");
    fixture.await_waiting();
    fixture.acknowledge(1);
    client.expect(&["OK", "VALUE 1", "OK"]);
    // The first write reaches a peer, the second does not.
    client.send("PUT a 3\nGET a\nPUT b 4\nCOUNT\n");
    fixture.await_waiting();
    let upto = fixture.store.entry(b"a").unwrap().version().stamp;
    fixture.acks.acknowledge(1, &ack(upto), Duration::ZERO);
    client.expect(&["OK", "VALUE 3"]);
    client.expect(&[
        "ERROR TIMEOUT the write is applied on this node and will still spread, but ack majority was not reached within 1000 ms",
        "2",
    ]);
    fixture.stop();
}

#[test]
fn a_level_change_separates_the_writes_before_it_from_those_after() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 30000"#);
    let mut client = fixture.connect();
    client.send("PUT a 1\nACK local\nPUT b 2\nACK\n");
    fixture.await_waiting();
    assert_eq!(fixture.store.get(b"b"), None);
    fixture.acknowledge(0);
    client.expect(&["OK", "OK", "OK", "ACK local"]);
    fixture.stop();
}

/// The stamp of what is under a key now.
fn stamp(fixture: &Fixture, key: &str) -> Stamp {
    fixture.store.entry(key.as_bytes()).unwrap().version().stamp
}

/// The commands of a round, a winner of which has come here before the acks have: what others may
/// have built on is not written again, and nobody is told anything else than before.
#[test]
fn a_write_that_has_lost_is_done_and_is_not_written_again() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 30000"#);
    let mut client = fixture.connect();
    client.send("SET s 1\nPUT u 1\nUPD u 2\nPUT d 1\nDEL d\nINCR n\nINCR n\n");
    fixture.await_waiting();
    let written = fixture.submit.position();
    for (key, value) in [("s", Some("other")), ("u", None), ("d", Some("other")), ("n", Some("10"))] {
        fixture.store.merge(fixture.foreign(key, value), |_| false);
    }
    fixture.acks.acknowledge(0, &ack(written), Duration::ZERO);
    client.expect(&["OK", "OK", "OK", "OK", "OK", "1", "2"]);
    assert_eq!(fixture.submit.position(), written);
    let left = ["s", "u", "d", "n"].map(|key| fixture.store.get(key.as_bytes()).map(|value| String::from_utf8_lossy(&value).into_owned()));
    assert_eq!(left.each_ref().map(Option::as_deref), [Some("other"), None, Some("other"), Some("10")]);
    fixture.stop();
}

/// The acknowledged writes of a round that is not acknowledged in time are done.
#[test]
fn each_write_of_a_round_that_times_out_has_its_own_outcome() {
    let fixture = fixture(2, r#", "ack_timeout_ms": 300"#);
    let mut client = fixture.connect();
    client.send("PUT a 1\nGET a\nPUT b 1\nPUT c 1\nCOUNT\n");
    fixture.await_waiting();
    fixture.acks.acknowledge(0, &ack(stamp(&fixture, "b")), Duration::ZERO);
    client.expect(&["OK", "VALUE 1", "OK", "ERROR TIMEOUT the write is applied on this node and will still spread", "3"]);
    fixture.stop();
}

#[test]
fn many_clients_come_and_go() {
    let fixture = fixture(0, r#", "ack": "local""#);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for writer in 0..4 {
            let (fixture, done) = (&fixture, &done);
            scope.spawn(move || {
                for turn in 0..50 {
                    let mut client = fixture.connect();
                    client.send(format!("SET {writer}/{turn} x\nGET {writer}/{turn}\nQUIT\n"));
                    client.expect(&["OK", "VALUE x", "OK"]);
                    client.socket.shutdown(Shutdown::Both).unwrap();
                    drop(client);
                    done.fetch_add(1, Ordering::Relaxed);
                    until("there is room for the next", || fixture.server.clients_len() <= 4);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 200);
    assert_eq!(fixture.store.counts(0).keys, 200);
    fixture.stop();
}

#[test]
fn a_failing_accept_pauses_and_goes_on() {
    // A listener that does not block fails whenever nobody is there, as one without descriptors
    // does.
    let listener = any_port();
    let switch = listener.try_clone().unwrap();
    switch.set_nonblocking(true).unwrap();
    let fixture = closed_fixture(listener, 0, "");
    let errors = || fixture.server.shared.counters.accept_errors.load(Ordering::Relaxed);
    until("accept fails again and again", || errors() >= 2);
    switch.set_nonblocking(false).unwrap();
    let mut client = fixture.connect();
    client.send("PING\n");
    client.expect(&["PONG"]);
    switch.set_nonblocking(true).unwrap();
    let before = errors();
    drop(fixture.connect());
    until("accept fails again", || errors() > before);
    fixture.stop();
}

#[test]
fn a_client_that_never_stops_sending_does_not_hold_up_the_stop() {
    let fixture = fixture(0, "");
    let mut client = fixture.connect();
    let sending = thread::spawn({
        let mut socket = client.socket.try_clone().unwrap();
        move || while socket.write_all(b"PUT a 1\n").is_ok() {}
    });
    client.expect(&["OK", "OK"]);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Until the stream ends, or is reset because the server did not read all of it.
            let _ = client.replies.read_to_end(&mut Vec::new());
        });
        fixture.stop();
    });
    sending.join().unwrap();
}
