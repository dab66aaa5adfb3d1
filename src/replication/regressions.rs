//! Regressions: interleavings that once broke an invariant, each as small as it could be made. They
//! came out of reading the code against the design. The seeds of the simulator do not reach them,
//! or rarely.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::Config;
use crate::config::live::LiveConfig;
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::fsync::Fsync;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::process::audit::Audit;
use crate::replication::acks::Written;
use crate::replication::heartbeat;
use crate::replication::inbound::Inbound;
use crate::replication::links::handshake;
use crate::replication::replica::Replica;
use crate::replication::replicator::Replicator;
use crate::replication::status;
use crate::replication::sync::serving;
use crate::replication::tombstone_gc::TombstoneGc;
use crate::store::Store;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::testing::simulated_node::{SimulatedNode, config, submit};
use crate::testing::wait::until;
use crate::wal::writer::Writer;
use crate::wire::ack_level::AckLevel;
use crate::wire::peer::*;

const BASE: u64 = 1_700_000_000_000;

/// The configuration of a node, counted from 0.
fn config_of(node: usize, nodes: usize) -> Config {
    let fields = json!({ "key_len_max": 16, "value_len_max": 16, "link_queue_max": 1056, "write_room": 4096, "heartbeat_ms": 100,
        "peer_timeout_ms": 400, "recovery_wait_ms": 1500, "tombstone_age_min_ms": 200 });
    // Queues are short, although writes may be longer than they.
    Config { key_len_max: 1 << 10, value_len_max: 1 << 20, ..config(node as u16 + 1, nodes as u16, &fields) }
}

pub(super) struct TestNode {
    replica: &'static Replica,
    replicator: Arc<Replicator>,
}

pub(super) struct Net {
    nodes: Vec<TestNode>,
    offsets: Vec<u64>,
    links: HashMap<(usize, usize), Inbound>,
    pub elapsed: Duration,
    /// The nonce of the last incarnation; the next one has the next.
    pub nonce: u64,
    /// The protocols that the next incarnation of each node speaks.
    pub protocols: Vec<Protocols>,
    /// How long each machine was suspended.
    pub slept: Vec<Duration>,
}

/// Applies a message, and does what work it leaves.
fn take(inbound: &mut Inbound, replica: &Replica, message: Message, now: Now) -> Result<(), String> {
    let received = inbound.receive(replica, message, now);
    while inbound.has_work() {
        inbound.work(replica, 1, now);
    }
    received
}

fn peer_index(at: usize, of: usize) -> usize {
    if of > at { of - 1 } else { of }
}

impl Net {
    pub fn new(offsets: &[u64]) -> Net {
        let mut net = Net::closed(offsets);
        net.elapsed += Duration::from_secs(2);
        for node in 0..net.offsets.len() {
            net.tick(node);
            assert!(net.replica(node).is_open());
        }
        net
    }

    /// Two nodes of which the second keeps a log. Returns the disk, and the writer of the log.
    fn with_a_log(fsync: Fsync) -> (Net, SimulatedDisk, Writer) {
        let mut net = Net::new(&[0, 0]);
        let disk = SimulatedDisk::default();
        let config = Arc::new(Config { fsync, ..config_of(1, 2) });
        let node = SimulatedNode::start(config, Store::new(), 77, Protocols::OURS, (net.now(1), Instant::now()), &disk).unwrap();
        let SimulatedNode { replica, replicator, writer, .. } = node;
        net.nodes[1] = TestNode { replica: Box::leak(Box::new(replica)), replicator };
        net.both(0, 1);
        (net, disk, writer)
    }

    /// Nodes that wait for each other.
    fn closed(offsets: &[u64]) -> Net {
        let offsets_len = offsets.len();
        let (offsets, elapsed, protocols) = (offsets.to_vec(), Duration::from_millis(10), vec![Protocols::OURS; offsets.len()]);
        let mut net = Net {
            nodes: Vec::new(),
            offsets,
            links: HashMap::new(),
            elapsed,
            nonce: 1,
            protocols,
            slept: vec![Duration::ZERO; offsets_len],
        };
        for node in 0..net.offsets.len() {
            let test_node = net.start(node);
            net.nodes.push(test_node);
        }
        net
    }
    fn start(&mut self, node: usize) -> TestNode {
        self.nonce += 1;
        let config = Arc::new(config_of(node, self.offsets.len()));
        let (replica, write_rx) = Replica::new(config, Store::new(), self.nonce, self.now(node), None);
        let replica: &'static Replica = Box::leak(Box::new(replica.speaking(self.protocols[node])));
        TestNode { replica, replicator: Arc::new(Replicator::new(replica.origin(), write_rx)) }
    }
    pub fn reborn(&mut self, node: usize) {
        let test_node = self.start(node);
        self.nodes[node] = test_node;
        self.links.retain(|(from, to), _| *from != node && *to != node);
    }
    pub fn now(&self, node: usize) -> Now {
        Now { wall_ms: BASE + self.elapsed.as_millis() as u64 + self.offsets[node], elapsed: self.elapsed - self.slept[node] }
    }
    pub fn replica(&self, node: usize) -> &'static Replica {
        self.nodes[node].replica
    }
    pub fn connect(&mut self, from: usize, to: usize) {
        let (dialer, listener) = (self.replica(from), self.replica(to));
        handshake::dialing(dialer, peer_index(from, to));
        let hello = handshake::hello(dialer, self.now(from));
        let (peer, protocol) = handshake::check_hello(listener, &hello, self.now(to)).unwrap();
        let answer = handshake::hello(listener, self.now(to));
        handshake::check_hello(dialer, &answer, self.now(from)).unwrap();
        let inbound = Inbound::accept(listener, peer, &hello, protocol, self.now(to));
        handshake::dialed(dialer, peer_index(from, to), &answer, self.now(from));
        self.links.insert((from, to), inbound);
    }
    pub fn both(&mut self, a: usize, b: usize) {
        self.connect(a, b);
        self.connect(b, a);
    }
    pub fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            (0..a).for_each(|b| self.both(a, b));
        }
    }
    /// Returns what a node says to the HELLO of another.
    pub fn knock(&self, from: usize, to: usize) -> Result<(usize, Protocol), String> {
        handshake::check_hello(self.replica(to), &handshake::hello(self.replica(from), self.now(from)), self.now(to))
    }
    /// A connection ends, and its receiver sees it.
    pub fn hang_up(&mut self, from: usize, to: usize) {
        let inbound = self.links.remove(&(from, to)).unwrap();
        inbound.closed(self.replica(to), self.now(to));
    }
    pub fn tick(&self, node: usize) {
        heartbeat::tick(self.replica(node), self.now(node));
    }
    pub fn tick_all(&self) {
        (0..self.nodes.len()).for_each(|node| self.tick(node));
    }
    /// Collects all tombstones that may go, whatever shard they are in.
    pub fn collect(&self, node: usize) -> usize {
        let mut gc = TombstoneGc::default();
        (0..self.replica(node).store().shards_len()).map(|_| gc.step(self.replica(node), self.now(node))).sum()
    }
    /// Drops all tombstones, as if they had been collected.
    fn forget_deletes(&self, node: usize) {
        let store = self.replica(node).store();
        (0..store.shards_len()).for_each(|shard| drop(store.collect(shard, |_| true)));
    }
    /// Returns what the link's thread writes in one turn; a dump that is requested is served whole.
    pub fn flush(&mut self, from: usize, to: usize) -> Vec<Message> {
        let replica = self.replica(from);
        // `None` if there is no connection.
        let Some(batch) = replica.links().outbox(peer_index(from, to)).take() else { return Vec::new() };
        let mut messages = Vec::new();
        let clocks = Some(replica.clock().read(self.now(from).elapsed));
        messages.extend(batch.ack.map(|ack| Message::Ack(Ack { clocks, ..ack })));
        messages.extend(batch.echo.map(|sent| Message::Echo { sent, clocks }));
        messages.extend(batch.request.map(Message::Request));
        for batch in &batch.batches {
            messages.push(read_message(&mut &batch.bytes[..], &mut Vec::new(), MESSAGE_LEN_MAX, Protocol::OLDEST).unwrap().unwrap());
        }
        if let Some(upto) = batch.heartbeat {
            messages.push(Message::Heartbeat(heartbeat::next(
                replica,
                peer_index(from, to),
                upto,
                &mut Default::default(),
                self.now(from),
            )));
        }
        if let Some(request) = batch.serve {
            let mut serving = serving::serve(replica, request);
            let mut lines = Vec::new();
            while serving.write(1000, &mut lines) {}
            messages.push(Message::Lines(lines));
        }
        messages
    }
    pub fn deliver(&mut self, from: usize, to: usize, messages: Vec<Message>) {
        let now = self.now(to);
        let inbound = self.links.get_mut(&(from, to)).unwrap();
        self.nodes[to].replica.links().traffic_with(peer_index(to, from)).heard(0, now.elapsed);
        for message in messages {
            take(inbound, self.nodes[to].replica, message, now).unwrap();
        }
    }
    pub fn pump(&mut self, from: usize, to: usize) {
        let messages = self.flush(from, to);
        self.deliver(from, to, messages);
    }
    pub fn put(&mut self, node: usize, key: &str, value: &str) -> Stamp {
        self.write(node, key, Some(format!("{value:.<600}").as_bytes()))
    }
    fn delete(&mut self, node: usize, key: &str) -> Stamp {
        self.write(node, key, None)
    }
    pub fn write(&mut self, node: usize, key: &str, value: Option<&[u8]>) -> Stamp {
        let stamp = self.submit(node, key, value);
        self.replicate(node);
        stamp
    }
    /// Does the session's part of a write.
    fn submit(&self, node: usize, key: &str, value: Option<&[u8]>) -> Stamp {
        submit(self.replica(node), key, value, self.now(node).elapsed)
    }
    /// Does the replicator's part of writes.
    fn replicate(&mut self, node: usize) {
        let TestNode { replica, replicator } = &self.nodes[node];
        replicator.step(replica);
    }
    pub fn settle(&mut self, rounds: usize, pairs: &[(usize, usize)]) {
        for _ in 0..rounds {
            self.elapsed += Duration::from_millis(20);
            self.tick_all();
            for (a, b) in pairs {
                self.pump(*a, *b);
            }
        }
    }
    fn shard_of(&self, node: usize, key: &str) -> usize {
        let store = self.replica(node).store();
        let version = Version { stamp: Stamp::ZERO, origin: self.replica(node).origin() };
        store.merge(Entry::new(key.as_bytes(), None, None, version), |_| false);
        (0..store.shards_len()).find(|shard| !store.remove(*shard, |entry| *entry.key() == *key.as_bytes()).is_empty()).unwrap()
    }
    /// A key whose shard `fits`: a thread that holds that shard's lock can watch another thread at
    /// work.
    pub fn key_where(&self, node: usize, fits: impl Fn(usize) -> bool) -> String {
        (0..).map(|n| format!("key{n}")).find(|key| fits(self.shard_of(node, key))).unwrap()
    }
    pub fn get(&self, node: usize, key: &str) -> Option<String> {
        self.replica(node).store().get(key.as_bytes()).map(|v| String::from_utf8_lossy(&v).trim_end_matches('.').to_owned())
    }
}

/// Every way between three nodes.
pub(super) const ALL: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

const P: usize = 0;
const T: usize = 1;
const D: usize = 2;

/// Returns whether a write that was made just now is acknowledged by a majority.
fn is_acked(net: &Net, node: usize, stamp: Stamp) -> bool {
    net.replica(node).acks().open_round(AckLevel::Majority).is_met(Written::at(stamp, net.now(node).elapsed))
}

/// The lines of a dump among these messages.
fn lines_of(messages: &[Message]) -> Option<&[u8]> {
    messages.iter().find_map(|message| if let Message::Lines(lines) = message { Some(&**lines) } else { None })
}

/// Cuts off the end line of a dump.
fn split_end(lines: &[u8]) -> (&[u8], &[u8]) {
    lines.split_at(lines[..lines.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1)
}

mod builds;
mod clocks;
mod folding;
mod full_dumps;
mod healing;
mod large_stores;
mod proofs;
mod races;
mod recovery;
mod refusals;
mod slow_links;

/// A blank node acknowledged writes before it had caught up.
#[test]
fn a_blank_node_vouches() {
    let mut net = Net::new(&[0, 5000, 5000]);
    net.both(T, D);
    for (a, b) in [(T, D), (D, T)] {
        net.pump(a, b);
    }
    let x = net.put(T, "k", "X");
    net.pump(T, D);
    net.pump(D, T);
    assert!(is_acked(&net, T, x), "X is not acked");
    net.reborn(D);
    net.both(P, D);
    net.pump(P, D);
    net.pump(D, P);
    net.pump(P, D);
    net.pump(D, P);
    assert!(net.replica(P).acks().quorum(AckLevel::Majority).is_err(), "a node that is catching up counts");
    let w = net.put(P, "k", "w");
    net.pump(P, D);
    net.pump(D, P);
    assert!(!net.replica(D).is_open());
    assert!(!is_acked(&net, P, w), "a node that is RECOVERING, blank, vouched");
}

/// The request of a former incarnation was served to the next one.
#[test]
fn a_request_of_a_former_incarnation() {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.both(a, d);
    for (x, y) in [(a, d), (d, a)] {
        net.pump(x, y);
    }
    net.put(d, "v1", "1");
    net.pump(d, a);
    net.put(d, "v2", "2");
    net.put(d, "v3", "3");
    net.pump(d, a); // v2 overflows
    let request = net.flush(a, d);
    assert!(request.iter().any(|m| matches!(m, Message::Request(r) if r.id != 0)), "{request:?}");
    let old_inbound = net.links.remove(&(a, d)).unwrap();
    // a is killed and comes back blank. d's link to it is dialled anew while d still has the last
    // bytes of the old connection to read.
    handshake::hung_up(net.replica(d), 0, net.now(d));
    net.reborn(a);
    net.connect(d, a);
    net.links.insert((a, d), old_inbound);
    net.deliver(a, d, request.into_iter().filter(|m| matches!(m, Message::Request(_))).collect());
    let dump = net.flush(d, a);
    net.connect(a, d);
    assert!(net.replica(a).peers.table().transfer().is_some_and(|t| t.id != 0));
    net.deliver(d, a, dump);
    let (va, vd) = (net.replica(a).vector(), net.replica(d).vector());
    println!("vector of a covers d's: {}, v1 at a: {:?}", va.covers_all(&vd), net.get(a, "v1"));
    assert!(!(va.covers_all(&vd) && net.get(a, "v1").is_none()), "I1: a claims to have v1 and does not");
}

/// A donor that never served a dump kept a node from opening.
#[test]
fn a_donor_that_never_serves_keeps_a_node_recovering() {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.put(d, "v1", "1");
    net.reborn(a);
    net.both(a, d);
    for turn in 0..1200 {
        net.elapsed += Duration::from_millis(50);
        net.tick_all();
        let to_d = net.flush(a, d).into_iter().filter(|m| !matches!(m, Message::Request(_))).collect();
        net.deliver(a, d, to_d);
        net.pump(d, a);
        if net.replica(a).is_open() {
            println!("open after {turn} turns");
            return;
        }
    }
    panic!("still recovering after 60 s; recovery_wait is 1.5 s");
}

/// A peer that could not be dialled hid what others had of its writes.
#[test]
fn third_party_request_is_never_sent() {
    let mut net = Net::new(&[0, 0, 0]);
    net.both(T, D);
    for (a, b) in [(T, D), (D, T)] {
        net.pump(a, b);
    }
    net.put(T, "v1", "1");
    net.pump(T, D);
    net.connect(T, P);
    net.both(P, D); // T reaches P, P cannot dial T
    let mut asked = 0;
    for _ in 0..1200 {
        net.elapsed += Duration::from_millis(50);
        net.tick_all();
        net.pump(T, P);
        net.pump(D, P);
        net.pump(T, D);
        net.pump(D, T);
        let m = net.flush(P, D);
        asked += m.iter().filter(|m| matches!(m, Message::Request(_))).count();
        net.deliver(P, D, m);
    }
    println!("requests {asked}, P has v1: {:?}, open: {}", net.get(P, "v1"), net.replica(P).is_open());
    assert!(net.get(P, "v1").is_some(), "P never asks D for what D has and T cannot give");
}

/// `end_dump` advanced the vector before it noted that what came did not come one by one.
#[test]
fn end_dump_races_with_the_other_peers_thread() {
    let mut violations = 0;
    for round in 0..3000 {
        let mut net = Net::new(&[0, 0, 0]);
        net.both(T, D);
        net.both(P, D);
        net.connect(P, T);
        for (a, b) in [(T, D), (D, T), (P, D), (D, P), (P, T)] {
            net.pump(a, b);
        }
        net.put(T, "y", "1");
        net.put(T, "z", "2");
        net.pump(T, D);
        let request = net.flush(D, T);
        let w = net.put(P, "k", "w");
        net.pump(P, T);
        net.deliver(D, T, request);
        let dump = net.flush(T, D);
        let now = net.now(D);
        let mut from_t = net.links.remove(&(T, D)).unwrap();
        let mut from_p = net.links.remove(&(P, D)).unwrap();
        let replica = net.replica(D);
        let porigin = net.nodes[P].replica.origin();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    from_p
                        .receive(
                            replica,
                            Message::Writes(WriteBatch {
                                origin: porigin,
                                after: Stamp::ZERO,
                                upto: Stamp::ZERO,
                                writes: BatchWrites::of(porigin, &[]),
                            }),
                            now,
                        )
                        .unwrap();
                }
            });
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            for m in dump {
                take(&mut from_t, replica, m, now).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // As after the next heartbeat.
        replica.persistence().durable(porigin, w);
        let ack = replica.links().outbox(peer_index(D, P)).take().unwrap().ack.unwrap();
        if ack.upto >= w && ack.from < w {
            violations += 1;
        }
    }
    println!("{violations} of 3000 acks vouch for what came through another node");
    assert_eq!(violations, 0);
}

fn fake_hello(cluster: &str, vector: VersionVector) -> Vec<u8> {
    let hello = Hello {
        cluster: cluster.to_owned(),
        protocol: Protocol::OLDEST,
        protocols: None,
        node: NodeId(2),
        origin: Origin { node: NodeId(2), nonce: 5 },
        members: vec![NodeId(1), NodeId(2)],
        wall_ms: crate::data::clock::wall_ms(),
        clocks: None,
        durable: true,
        vector,
        order: None,
        limits: None,
        challenge: None,
    };
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(&mut bytes, Protocol::OLDEST);
    bytes
}

/// `stop` joined threads under the lock that a joined thread needed.
#[test]
fn stop_deadlocks_with_a_hello_under_way() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let peers = json!([{ "id": 2, "addr": "127.0.0.1:9" }]);
    let config = config(1, 2, &json!({ "data_dir": dir.path(), "peers": peers }));
    let cluster = config.cluster.clone();
    let node = crate::node::Node::start(LiveConfig::fixed(config), Audit::off(), false, || false).unwrap().unwrap();
    let mut stream = std::net::TcpStream::connect(node.peer_addr()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let stopping = std::thread::spawn(move || node.stop(Instant::now() + Duration::from_secs(1)));
    std::thread::sleep(Duration::from_millis(700));
    stream.write_all(&fake_hello(&cluster, VersionVector::default())).unwrap();
    std::thread::sleep(Duration::from_secs(10));
    assert!(stopping.is_finished(), "Node::stop hangs 10 s after its deadline of 1 s");
}

/// An echo of a former incarnation's heartbeat, sent in the future.
#[test]
fn an_echo_from_the_future() {
    let mut net = Net::new(&[0, 0]);
    net.both(0, 1);
    net.deliver(1, 0, vec![Message::Echo { sent: 3_600_000_000, clocks: None }]);
    for _ in 0..1000 {
        net.elapsed += Duration::from_millis(100);
        net.tick(0);
        net.deliver(1, 0, vec![]); // heard, but nothing echoed
    }
    assert!(!net.replica(0).peers.table().peers[0].is_up(), "up for 100 s without an echo");
}

/// A write that arrives late on another path finds a newer one and has lost to none: the writer of
/// the newer one knew it.
#[test]
fn an_order_of_arrival_is_no_conflict() {
    let conflicts = |net: &Net, node: usize| {
        let status = status::status(net.replica(node), net.now(node));
        status.iter().find(|(name, _)| *name == "conflicts_won").map(|(_, count)| count.clone())
    };
    let write = |net: &mut Net, node: usize, value: &str| net.write(node, "k", Some(value.as_bytes()));
    let mut net = Net::new(&[0, 10, 0]);
    net.connect_all();
    net.settle(4, &ALL);
    // T writes with knowledge of P's write, and D receives T's write first.
    write(&mut net, P, "first");
    net.pump(P, T);
    write(&mut net, T, "then");
    net.pump(T, D);
    net.pump(P, D);
    net.pump(T, P);
    assert_eq!([P, T, D].map(|node| conflicts(&net, node)), ["0", "0", "0"].map(|count| Some(count.to_owned())));
    // Two writes that know nothing of each other: counted once, by the node whose write has won.
    write(&mut net, P, "one");
    write(&mut net, T, "other");
    for (from, to) in [(T, D), (P, D), (P, T), (T, P)] {
        net.pump(from, to);
    }
    assert_eq!([P, T, D].map(|node| net.get(node, "k")), ["other"; 3].map(|value| Some(value.to_owned())));
    assert_eq!([P, T, D].map(|node| conflicts(&net, node)), ["0", "1", "0"].map(|count| Some(count.to_owned())));
}
