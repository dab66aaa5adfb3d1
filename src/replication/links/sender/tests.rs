//! The sender on a real socket, with all the threads that use it at once.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;

use super::*;
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::links::dialed::Dialed;
use crate::replication::links::handshake;
use crate::replication::links::outgoing::run_connection;
use crate::replication::replica::Replica;
use crate::store::Store;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::testing::simulated_node::{SimulatedNode, config};
use crate::testing::wait::until;
use crate::wire::peer::{MESSAGE_LEN_MAX, Protocols, encode_batch, read_message};

/// Passes only where something is wrong.
const SOON: Duration = Duration::from_secs(20);
/// The sleep of a link's thread that nobody wakes: so long that it hides no lost wake-up.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const OTHER: Origin = Origin { node: NodeId(2), nonce: 9 };

pub(in crate::replication::links) fn stamp(bits: u64) -> Stamp {
    Stamp::from_bits(bits)
}

/// A connection of which the system holds little.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(4 << 10).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    SockRef::from(&ours).set_send_buffer_size(4 << 10).unwrap();
    theirs.set_read_timeout(Some(SOON)).unwrap();
    (ours, theirs)
}

/// A node with one peer, and no thread. Its outbox is open.
pub(in crate::replication::links) fn linked_node(fields: &Value) -> SimulatedNode {
    let config = Arc::new(config(1, 2, fields));
    let start = (Now { wall_ms: 1_700_000_000_000, elapsed: elapsed() }, Instant::now());
    let node = SimulatedNode::start(config, Store::new(), 7, Protocols::OURS, start, &SimulatedDisk::default()).unwrap();
    handshake::dialing(&node.replica, 0);
    let outbox = node.replica.links().outbox(0);
    outbox.vouch();
    outbox.set_origin(OTHER, Stamp::ZERO);
    node
}

/// Such a node whose links are looked at often, and hold much.
fn quick_node() -> SimulatedNode {
    linked_node(&json!({ "link_queue_max": 1 << 30, "heartbeat_ms": 20, "peer_timeout_ms": 200 }))
}

/// Does what the replicator does with a write whose value has so many bytes.
pub(in crate::replication::links) fn push(replica: &Replica, upto: u64, len: usize) {
    let own = replica.origin();
    let entry = Entry::new(b"k", Some(&vec![b'v'; len]), None, Version { stamp: stamp(upto), origin: own });
    let mut bytes = Vec::new();
    encode_batch(&mut bytes, own, stamp(upto - 1), stamp(upto), &[entry]);
    replica.links().push(&EncodedBatch { bytes: Arc::new(bytes), upto: stamp(upto) });
}

/// Does what is done with a peer's write that may be acknowledged.
pub(in crate::replication::links) fn acknowledge(replica: &Replica, upto: u64) {
    replica.links().outbox(0).received(OTHER, stamp(upto));
    drop(replica.links().durable(OTHER, stamp(upto)));
}

fn read(from: &mut TcpStream) -> Message {
    let message = read_message(from, &mut Vec::new(), MESSAGE_LEN_MAX, Protocol::OLDEST).expect("nothing comes");
    message.expect("the connection is closed")
}

/// The link's thread, until it ends.
fn link(replica: &Replica, ours: TcpStream) -> io::Result<()> {
    run_connection(replica, 0, Dialed::plain(ours), VersionVector::default(), Protocol::OLDEST, FOR_EVER)
}

/// Ends the link's thread, however a test ends.
struct StopAtEnd<'a>(&'a Outbox);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// No other thread is there that could have sent.
#[test]
fn a_batch_and_an_ack_leave_with_the_thread_that_brings_them() {
    let node = quick_node();
    let (ours, mut theirs) = narrow_pair();
    ours.set_nonblocking(true).unwrap();
    let sender = node.replica.links().sender(0);
    sender.begin(Arc::new(ours), Protocol::OLDEST);
    push(&node.replica, 1, 20);
    // The ack was due since the HELLO of the peer.
    assert!(matches!(read(&mut theirs), Message::Ack(ack) if ack.upto == Stamp::ZERO));
    assert!(matches!(read(&mut theirs), Message::Writes(batch) if batch.upto == stamp(1)));
    acknowledge(&node.replica, 5);
    assert!(matches!(read(&mut theirs), Message::Ack(ack) if ack.upto == stamp(5)));
    // A larger one is left to the link's thread.
    push(&node.replica, 2, 100_000);
    assert!(node.replica.links().outbox(0).queued().0 > 100_000);
}

#[test]
fn a_connection_that_breaks_while_another_thread_sends_is_ended_by_its_thread() {
    let node = quick_node();
    let (ours, theirs) = narrow_pair();
    thread::scope(|scope| {
        let link = scope.spawn(|| link(&node.replica, ours));
        let _stop = StopAtEnd(node.replica.links().outbox(0));
        drop(theirs);
        let deadline = Instant::now() + SOON;
        for upto in 1.. {
            if link.is_finished() {
                break;
            }
            assert!(Instant::now() < deadline, "the link's thread goes on");
            push(&node.replica, upto, 20);
            thread::yield_now();
        }
        assert!(link.join().unwrap().is_err());
    });
}

#[test]
fn a_stop_sends_what_a_full_socket_has_not_taken_yet() {
    let node = quick_node();
    let (ours, mut theirs) = narrow_pair();
    thread::scope(|scope| {
        let link = scope.spawn(|| link(&node.replica, ours));
        (1..=500).for_each(|upto| push(&node.replica, upto, 1_000));
        node.replica.links().outbox(0).stop();
        let mut upto = Stamp::ZERO;
        while upto < stamp(500) {
            if let Message::Writes(batch) = read(&mut theirs) {
                upto = batch.upto;
            }
        }
        link.join().unwrap().unwrap();
    });
}

#[test]
fn who_takes_nothing_is_given_up_when_the_outbox_is_closed_or_the_node_stops() {
    for give_up in [Outbox::close, Outbox::stop] {
        let node = quick_node();
        let (ours, _theirs) = narrow_pair();
        thread::scope(|scope| {
            let link = scope.spawn(|| link(&node.replica, ours));
            push(&node.replica, 1, 16 << 20);
            until("the socket is full", || node.replica.links().outbox(0).queued().0 == 0);
            give_up(node.replica.links().outbox(0));
            assert_eq!(link.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        });
    }
}

/// A replicator and a thread that applies a peer's batches send through one link at a time, in
/// bursts; every tenth time a heartbeat is due, too. Sometimes a burst is one batch that the system
/// does not take at once. The peer reads now fast and now slowly. All batches arrive, once and in
/// order; acks never go back; and each burst arrives whole before the next one can push it.
#[test]
fn what_several_threads_send_arrives_whole_in_order_and_at_once() {
    const BURSTS: u64 = 500;
    let node = quick_node();
    let (replica, outbox) = (&*node.replica, node.replica.links().outbox(0));
    let (ours, mut theirs) = narrow_pair();
    let (mut pushed, mut acknowledged) = (0, 0);
    let (mut batch, mut ack, mut passed) = (Stamp::ZERO, Stamp::ZERO, Stamp::ZERO);
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, ours));
        let stop = StopAtEnd(outbox);
        for burst in 0..BURSTS {
            let (batches, acks, len) = if burst % 5 == 0 { (1, 0, 100_000) } else { (4, 4, 20) };
            let (to_push, to_acknowledge) = (pushed + 1..=pushed + batches, acknowledged + 1..=acknowledged + acks);
            (pushed, acknowledged) = (pushed + batches, acknowledged + acks);
            if burst % 10 == 1 {
                outbox.heartbeat();
            }
            scope.spawn(move || to_push.for_each(|upto| push(replica, upto, len)));
            scope.spawn(move || to_acknowledge.for_each(|upto| acknowledge(replica, upto)));
            while batch < stamp(pushed) || ack < stamp(acknowledged) {
                match read(&mut theirs) {
                    Message::Writes(writes) => {
                        assert_eq!(writes.after, batch);
                        batch = writes.upto;
                    }
                    Message::Ack(next) => {
                        assert!(next.upto >= ack, "{:?} after {ack:?}", next.upto);
                        ack = next.upto;
                    }
                    Message::Heartbeat(heartbeat) => {
                        assert!(heartbeat.upto >= passed && heartbeat.upto <= batch, "claims batches that have not been sent");
                        passed = heartbeat.upto;
                    }
                    other => panic!("{other:?}"),
                }
                if burst % 7 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        drop(stop);
        link.join().unwrap().unwrap();
    });
}
