//! Slow links: messages that take longer on their way than any time-out. A peer that sends or takes
//! bytes of them all the time is neither stalled nor gone.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use socket2::SockRef;

use super::*;
use crate::client::Client;
use crate::node::Node;
use crate::wire::dump::{DumpKind, Header, whole_dump};

/// Longest wait of a test for something that should happen soon.
const SOON: Duration = Duration::from_secs(20);

/// A line of a dump took longer than `peer_timeout` on the wire, and was taken for a stall, for
/// ever. Nothing overtakes it, no heartbeat and no echo; so the connections were given up, too.
#[test]
fn a_line_that_takes_longer_than_every_time_out_arrives() {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.put(d, "v1", "1");
    net.reborn(a);
    net.both(a, d);
    let mut under_way = Vec::new();
    let mut arrives = None;
    let mut read = 0;
    for _ in 0..400 {
        net.elapsed += Duration::from_millis(25);
        net.tick_all();
        net.pump(a, d);
        under_way.extend(net.flush(d, a));
        if arrives.is_none() && under_way.iter().any(|message| matches!(message, Message::Lines(_))) {
            // Longer than the 1.2 s after which a connection is given up, and than the 1.5 s of
            // `recovery_wait`.
            arrives = Some(net.elapsed + Duration::from_secs(3));
        }
        match arrives {
            Some(at) if net.elapsed < at => {
                // All of it has left long ago: d learns from a's heartbeats what a has read.
                read += 1000;
                net.replica(a).links().traffic_with(peer_index(a, d)).heard(read, net.elapsed);
                assert!(!net.replica(a).is_open(), "open without the dump that is arriving");
            }
            _ => net.deliver(d, a, std::mem::take(&mut under_way)),
        }
        assert!(
            net.replica(a).links().outbox(peer_index(a, d)).is_open() && net.replica(d).links().outbox(peer_index(d, a)).is_open(),
            "given up at {:?}",
            net.elapsed
        );
        if net.replica(a).vector().covers_all(&net.replica(d).vector()) {
            assert!(arrives.is_some_and(|at| net.elapsed >= at));
            return;
        }
    }
    panic!("after 10 s a has still not caught up; open: {}", net.replica(a).is_open());
}

/// Patience ends: a peer that sends parts of long messages, and never a line, is not waited for
/// without end.
#[test]
fn bytes_without_end_are_not_progress_for_ever() {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.put(d, "v1", "1");
    net.reborn(a);
    net.both(a, d);
    net.pump(a, d);
    net.pump(d, a);
    net.replica(a).peers.table().peers[peer_index(a, d)].catch_up.gap = true;
    net.tick(a);
    let id = net.replica(a).peers.table().transfer().map(|transfer| transfer.id);
    assert!(id.is_some());
    // Faster than the longest message, of 320 MiB, can go on for.
    let mut read = 0;
    let given_up = (0..1000).map(|_| {
        net.elapsed += Duration::from_millis(100);
        read += 1 << 20;
        net.replica(a).links().traffic_with(peer_index(a, d)).heard(read, net.elapsed);
        net.tick(a);
        let dump = net.replica(a).peers.table().transfer().map(|transfer| transfer.id) != id;
        (dump, !net.replica(a).links().outbox(peer_index(a, d)).is_open())
    });
    let given_up: Vec<_> = given_up.collect();
    let first = |which: fn(&(bool, bool)) -> bool| given_up.iter().position(which).map(|tenths| tenths / 10);
    assert_eq!((first(|(dump, _)| *dump), first(|(_, link)| *link)), (Some(32), Some(33)));
}

/// A donor that has not read a request, because the connection broke, may still send much else:
/// that is no sign that a dump will come.
#[test]
fn a_request_that_is_lost_with_its_connection_is_made_anew() {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.both(a, d);
    let taking = |net: &Net| net.replica(a).peers.table().transfer().map(|transfer| transfer.id);
    net.replica(a).peers.table().peers[peer_index(a, d)].catch_up.gap = true;
    net.tick(a);
    let first = taking(&net);
    assert!(first.is_some());
    handshake::hung_up(net.replica(a), peer_index(a, d), net.now(a));
    assert_eq!(taking(&net), None);
    net.connect(a, d);
    net.tick(a);
    assert!(taking(&net).is_some() && taking(&net) != first);
}

/// Returns in which tenth of a second a gives up its connection to d. `d_tells`: what d reports at
/// a time of having read. a awaits the answer to a heartbeat at byte 100 000.
fn given_up(d_tells: impl Fn(u64) -> u64) -> Option<u64> {
    let mut net = Net::new(&[0, 0]);
    let (a, d) = (0, 1);
    net.both(a, d);
    handshake::awaits_echo(net.replica(a), peer_index(a, d), 100_000);
    let vector = net.replica(d).vector();
    (0..600).find(|tenths| {
        net.elapsed += Duration::from_millis(100);
        let Message::Heartbeat(beat) = beat_of_a_peer() else { unreachable!() };
        let (sent, wall_ms) = (net.elapsed.as_micros() as u64, net.now(d).wall_ms);
        net.deliver(d, a, vec![Message::Heartbeat(Heartbeat { sent, wall_ms, vector: vector.clone(), taken: d_tells(*tenths), ..beat })]);
        net.tick(a);
        !net.replica(a).links().outbox(peer_index(a, d)).is_open()
    })
}

/// Bytes that have left have not yet arrived. As long as a peer reports that it reads more it is
/// not given up, however long that takes; a peer that reads no more is. Nor is it progress what a
/// peer reads behind a heartbeat that it does not answer.
#[test]
fn a_peer_is_given_up_by_what_it_tells_of_its_reading() {
    assert_eq!(given_up(|tenths| 100 * tenths), None);
    assert_eq!(given_up(|tenths| 1_000 * tenths), Some(112));
    assert_eq!(given_up(|tenths| 1_000 * tenths.min(30)), Some(43));
    // An older build reports nothing.
    assert_eq!(given_up(|_| 0), Some(12));
}

/// Another node, as far as node 1 can tell, on real sockets.
struct Fake {
    node: Option<Node>,
    origin: Origin,
    /// The connection on which it speaks to node 1.
    out: TcpStream,
    /// The connection on which node 1 speaks to it.
    back: TcpStream,
    _dir: tempfile::TempDir,
}

const TIMEOUT: Duration = Duration::from_secs(1);

impl Fake {
    /// Meets node 1. `vector` is the version vector of its HELLO.
    fn meet(vector: VersionVector) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Otherwise the system takes megabytes before the reader has read one.
        SockRef::from(&listener).set_recv_buffer_size(64 << 10).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let peers = json!([{ "id": 2, "addr": listener.local_addr().unwrap().to_string() }]);
        let fields = json!({ "data_dir": dir.path(), "ack": "local", "heartbeat_ms": 100, "peer_timeout_ms": TIMEOUT.as_millis() as u64,
            "recovery_wait_ms": 3000, "peers": peers });
        let config = config(1, 2, &fields);
        let node = Node::start(LiveConfig::fixed(config), Audit::off(), false, || false).unwrap().unwrap();
        let origin = Origin { node: NodeId(2), nonce: 5 };
        let hello = fake_hello("kvmesh", vector);
        let (mut back, _) = listener.accept().unwrap();
        back.set_read_timeout(Some(SOON)).unwrap();
        assert!(matches!(read(&mut back), Message::Hello(_)));
        back.write_all(&hello).unwrap();
        let mut out = TcpStream::connect(node.peer_addr()).unwrap();
        out.set_nodelay(true).unwrap();
        out.write_all(&hello).unwrap();
        assert!(matches!(read(&mut out), Message::Hello(_)));
        Fake { node: Some(node), origin, out, back, _dir: dir }
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes, Protocol::OLDEST);
        self.out.write_all(&bytes).unwrap();
    }

    /// Takes one message and answers as a peer does.
    fn live(&mut self) -> Message {
        let message = read(&mut self.back);
        if let Message::Heartbeat(beat) = &message {
            self.say(&Message::Echo { sent: beat.sent, clocks: None });
            self.say(&beat_of_a_peer());
        }
        message
    }

    /// Sends one command, and returns the first line of its reply.
    fn client(&self, command: &[u8]) -> String {
        let addr = self.node.as_ref().unwrap().client_addr().to_string();
        let mut client = Client::connect(&[addr], SOON).unwrap();
        client.send(command).unwrap();
        String::from_utf8_lossy(client.line().unwrap()).into_owned()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.node.take().into_iter().for_each(|node| node.stop(Instant::now() + Duration::from_secs(1)));
    }
}

fn beat_of_a_peer() -> Message {
    let (sent, wall_ms) = (0, crate::data::clock::wall_ms());
    Message::Heartbeat(Heartbeat {
        sent,
        wall_ms,
        clocks: None,
        open: true,
        upto: Stamp::ZERO,
        vector: VersionVector::default(),
        settled: None,
        taken: 0,
        mark: 0,
        durable_mark: 0,
        order: None,
    })
}

fn read(mut stream: impl Read) -> Message {
    read_message(&mut stream, &mut Vec::new(), MESSAGE_LEN_MAX, Protocol::OLDEST).unwrap().expect("the connection is given up")
}

/// A long line on a real socket: the listener notes the parts of a message that is not whole yet.
#[test]
fn a_long_line_that_drips_is_taken() {
    let origin = Origin { node: NodeId(2), nonce: 5 };
    let stamp = Stamp::from_bits(crate::data::clock::wall_ms() << 16);
    let vector: VersionVector = [(origin, stamp)].into_iter().collect();
    let mut fake = Fake::meet(vector.clone());
    let request = loop {
        if let Message::Request(request) = fake.live() {
            break request;
        }
    };
    let value: Vec<u8> = vec![b'v'; 1 << 20];
    let entry = Entry::new(b"k", Some(&value), None, Version { stamp, origin });
    let header = Header::new(DumpKind::Full, fake.origin, vector, 1, Some(request.id));
    let lines = whole_dump(&header, [entry], VersionVector::default());
    let mut bytes = Vec::new();
    Message::Lines(lines).encode(&mut bytes, Protocol::OLDEST);
    // Longer than the connections last without an answer, and than recovery_wait.
    let parts = 100;
    for part in bytes.chunks(bytes.len().div_ceil(parts)) {
        fake.out.write_all(part).expect("given up");
        std::thread::sleep(5 * TIMEOUT / parts as u32);
    }
    let deadline = Instant::now() + SOON;
    loop {
        if let Message::Request(again) = fake.live() {
            panic!("asked again: {again:?}");
        }
        if fake.client(b"EXISTS k\n") == "1" {
            return;
        }
        assert!(Instant::now() < deadline, "not taken: {}", fake.client(b"EXISTS k\n"));
    }
}

/// A long message on a real socket: the link notes what leaves of it. A peer that takes it slowly,
/// and can answer nothing before it has all of it, is not given up.
#[test]
fn a_long_message_that_is_read_slowly_is_written_to_its_end() {
    let mut fake = Fake::meet(VersionVector::default());
    let deadline = Instant::now() + SOON;
    while fake.client(b"PING\n") != "PONG" || fake.client(b"COUNT\n") != "0" {
        fake.live();
        assert!(Instant::now() < deadline, "never open");
    }
    let value = vec![b'v'; 8 << 20];
    let mut out = fake.out.try_clone().unwrap();
    // Ends when the test does.
    let (_stop_tx, stop_rx) = crossbeam_channel::bounded::<()>(0);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        beat_of_a_peer().encode(&mut bytes, Protocol::OLDEST);
        while stop_rx.recv_timeout(TIMEOUT / 6) == Err(crossbeam_channel::RecvTimeoutError::Timeout) && out.write_all(&bytes).is_ok() {}
    });
    assert_eq!(fake.client(&[b"PUT k ", &value[..], b"\n"].concat()), "OK");
    // It comes in a batch, is read slowly, and nothing is echoed meanwhile.
    let began = Instant::now();
    while !matches!(read(&mut Slow(&fake.back)), Message::Writes(_)) {}
    assert!(began.elapsed() > 4 * TIMEOUT, "read in {:?}: that was no test", began.elapsed());
    // The connection still exists.
    let mut beats = 0;
    while beats < 5 {
        beats += usize::from(matches!(fake.live(), Message::Heartbeat(_)));
    }
}

/// Takes some five time-outs for 8 MiB.
struct Slow<'a>(&'a TcpStream);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let len_max = into.len().min(64 << 10);
        let len = self.0.read(&mut into[..len_max])?;
        std::thread::sleep(5 * TIMEOUT * len as u32 / (8 << 20));
        Ok(len)
    }
}
