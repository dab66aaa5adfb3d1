//! The sender on a real socket, with all the threads that use it at once.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;

use super::*;
use crate::data::clock::{Now, Stamp};
use crate::data::entry::Entry;
use crate::data::version::{NodeId, Origin, Version, VersionVector};
use crate::replication::links::handshake;
use crate::replication::links::outgoing::run_connection;
use crate::store::Store;
use crate::testing::simulated_disk::SimulatedDisk;
use crate::testing::simulated_node::{SimulatedNode, config};
use crate::wire::peer::{MESSAGE_LEN_MAX, Protocols, encode_batch, read_message};

/// Passes only where something is wrong.
const SOON: Duration = Duration::from_secs(20);
/// The sleep of a link's thread that nobody wakes: so long that it hides no lost wake-up.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const OTHER: Origin = Origin { node: NodeId(2), nonce: 9 };

fn stamp(bits: u64) -> Stamp {
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

/// Ends the link's thread, however a test ends.
struct StopAtEnd<'a>(&'a Outbox);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A replicator and a thread that applies a peer's batches send through one link at a time, in
/// bursts; every tenth time a heartbeat is due, too. Sometimes a burst is one batch that the system
/// does not take at once. The peer reads now fast and now slowly. All batches arrive, once and in
/// order; acks never go back; and each burst arrives whole before the next one can push it.
#[test]
fn what_several_threads_send_arrives_whole_in_order_and_at_once() {
    const BURSTS: u64 = 500;
    let config = Arc::new(config(1, 2, &json!({ "link_queue_max": 1 << 30 })));
    let start = (Now { wall_ms: 1_700_000_000_000, elapsed: elapsed() }, Instant::now());
    let node = SimulatedNode::start(config, Store::new(), 7, Protocols::OURS, start, &SimulatedDisk::default()).unwrap();
    let replica = &*node.replica;
    let (links, outbox, own) = (replica.links(), replica.links().outbox(0), replica.origin());
    let (ours, mut theirs) = narrow_pair();
    handshake::dialing(replica, 0);
    outbox.vouch();
    outbox.set_origin(OTHER, Stamp::ZERO);
    let push = |upto: u64, len: usize| {
        let entry = Entry::new(b"k", Some(&vec![b'v'; len]), None, Version { stamp: stamp(upto), origin: own });
        let mut bytes = Vec::new();
        encode_batch(&mut bytes, own, stamp(upto - 1), stamp(upto), &[entry]);
        links.push(&EncodedBatch { bytes: Arc::new(bytes), upto: stamp(upto) });
    };
    let acknowledge = |upto: u64| {
        outbox.received(OTHER, stamp(upto));
        drop(links.durable(OTHER, stamp(upto)));
    };
    let (mut pushed, mut acknowledged) = (0, 0);
    let (mut batch, mut ack, mut passed) = (Stamp::ZERO, Stamp::ZERO, Stamp::ZERO);
    let sent_by_others = AtomicUsize::new(0);
    thread::scope(|scope| {
        let link = scope.spawn(|| run_connection(replica, 0, ours, VersionVector::default(), Protocol::OLDEST, FOR_EVER));
        let stop = StopAtEnd(outbox);
        for burst in 0..BURSTS {
            let (batches, acks, len) = if burst % 5 == 0 { (1, 0, 100_000) } else { (4, 4, 20) };
            let (to_push, to_acknowledge) = (pushed + 1..=pushed + batches, acknowledged + 1..=acknowledged + acks);
            (pushed, acknowledged) = (pushed + batches, acknowledged + acks);
            if burst % 10 == 1 {
                outbox.heartbeat();
            }
            let (push, sent_by_others) = (&push, &sent_by_others);
            scope.spawn(move || {
                to_push.for_each(|upto| push(upto, len));
                sent_by_others.fetch_add(usize::from(outbox.queued().0 == 0), Ordering::Relaxed);
            });
            scope.spawn(|| to_acknowledge.for_each(acknowledge));
            while batch < stamp(pushed) || ack < stamp(acknowledged) {
                let message = read_message(&mut theirs, &mut Vec::new(), MESSAGE_LEN_MAX, Protocol::OLDEST).expect("nothing comes");
                match message.expect("the connection is closed") {
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
    assert!(sent_by_others.into_inner() > 0, "no thread has sent a batch itself: that was no test");
}
