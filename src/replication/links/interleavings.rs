//! The thread of a link and the threads that send beside it, over a socket that takes a few bytes
//! at a time, in many orders of their steps. What runs is a whole node without its other threads.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::outgoing::run_link;
use super::sender::Socket;
use super::sender::tests::{self, acknowledge, stamp};
use super::*;
use crate::data::version::VersionVector;
use crate::replication::replica::Replica;
use crate::sync::{Condvar, Mutex, thread};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::testing::interleavings::{explore, finds};
use crate::testing::simulated_node::SimulatedNode;
use crate::wire::peer::{MESSAGE_LEN_MAX, Message, Protocol, read_message};

const FAR: Duration = Duration::from_secs(3_600);

/// Bytes that a socket holds. A heartbeat has some 200, a batch or an ack less than 60: of what is
/// sent here, a heartbeat fits with one of these, and not with two.
const ROOM: usize = 290;

/// Both ends of a connection that holds few bytes.
#[derive(Default)]
struct NarrowSocket {
    pipe: Mutex<Pipe>,
    moved: Condvar,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    is_broken: bool,
    is_closed: bool,
}

impl NarrowSocket {
    fn break_it(&self) {
        self.pipe.lock().is_broken = true;
        self.moved.notify_all();
    }

    fn close(&self) {
        self.pipe.lock().is_closed = true;
        self.moved.notify_all();
    }

    /// Takes all that is there, and waits for something; nothing once the connection has ended. How
    /// long a message is depends on the time: that must not show in the steps of this.
    fn take(&self) -> Vec<u8> {
        let mut pipe = self.pipe.lock();
        while pipe.bytes.is_empty() && !pipe.is_closed && !pipe.is_broken {
            self.moved.wait_for(&mut pipe, FAR);
        }
        self.moved.notify_all();
        pipe.bytes.drain(..).collect()
    }
}

impl Socket for NarrowSocket {
    fn give(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.pipe.lock();
        let len = bytes.len().min(ROOM - pipe.bytes.len());
        if pipe.is_broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        pipe.bytes.extend(&bytes[..len]);
        self.moved.notify_all();
        Ok(len)
    }

    fn await_room(&self, _timeout: Duration) -> bool {
        let mut pipe = self.pipe.lock();
        while pipe.bytes.len() == ROOM && !pipe.is_broken {
            self.moved.wait_for(&mut pipe, FAR);
        }
        true
    }
}

/// A node with one peer, and no thread, whose time-outs never come.
fn linked_node() -> SimulatedNode {
    tests::linked_node(&json!({ "peer_timeout_ms": 60_000 }))
}

/// Does what the replicator does with a small write.
fn push(replica: &Replica, upto: u64) {
    tests::push(replica, upto, 1);
}

/// The thread of the link, until it ends. Nothing but a wake-up ends its sleep.
fn link(replica: &Replica, socket: &Arc<NarrowSocket>) -> io::Result<()> {
    let ended = run_link(replica, 0, Arc::clone(socket) as Arc<dyn Socket>, VersionVector::default(), Protocol::OLDEST, FAR);
    socket.close();
    ended
}

/// The messages that have come at the other end, in order.
#[derive(Default)]
struct Arrived {
    /// The beginning of a message.
    bytes: Vec<u8>,
    batch: Stamp,
    ack: Stamp,
    heartbeat: Stamp,
}

impl Arrived {
    /// Reads until so much is there, or the connection ends.
    fn read_until(&mut self, socket: &NarrowSocket, batch: u64, ack: u64) {
        while self.batch < stamp(batch) || self.ack < stamp(ack) {
            let more = socket.take();
            if more.is_empty() {
                return;
            }
            self.bytes.extend(more);
            let mut rest = &self.bytes[..];
            while let Ok(Some(message)) = read_message(&mut rest, &mut Vec::new(), MESSAGE_LEN_MAX, Protocol::OLDEST) {
                let read = self.bytes.len() - rest.len();
                self.bytes.drain(..read);
                self.note(message);
                rest = &self.bytes[..];
            }
        }
    }

    fn note(&mut self, message: Message) {
        match message {
            Message::Writes(writes) => {
                assert_eq!(writes.after, self.batch, "out of order");
                self.batch = writes.upto;
            }
            Message::Ack(next) => {
                assert!(next.upto >= self.ack, "out of order");
                self.ack = next.upto;
            }
            Message::Heartbeat(heartbeat) => {
                let claims_what_came = heartbeat.upto >= self.heartbeat && heartbeat.upto <= self.batch;
                assert!(claims_what_came, "out of order: it claims batches that have not come");
                self.heartbeat = heartbeat.upto;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A replicator and a thread that applies a peer's batches send beside the link's thread, and a
/// heartbeat is due. All of it arrives, with nothing else to wake anybody.
fn several_threads_send() {
    let (node, socket) = (linked_node(), Arc::new(NarrowSocket::default()));
    let replica = &*node.replica;
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, &socket));
        scope.spawn(|| (1..=2).for_each(|upto| push(replica, upto)));
        scope.spawn(|| (1..=2).for_each(|upto| acknowledge(replica, upto)));
        scope.spawn(|| replica.links().heartbeat());
        let mut arrived = Arrived::default();
        arrived.read_until(&socket, 2, 2);
        replica.links().outbox(0).stop();
        arrived.read_until(&socket, 3, 3);
        link.join().unwrap().unwrap();
    });
}

#[test]
fn what_several_threads_send_arrives_in_order_and_none_of_it_is_left() {
    explore(several_threads_send);
    finds(BrokenHandOver::TakenWithoutSender, "out of order", several_threads_send);
}

/// One thread sends beside the link's: only its own call can wake that.
fn one_thread_sends() {
    let (node, socket) = (linked_node(), Arc::new(NarrowSocket::default()));
    let replica = &*node.replica;
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, &socket));
        scope.spawn(|| push(replica, 1));
        let mut arrived = Arrived::default();
        arrived.read_until(&socket, 1, 0);
        replica.links().outbox(0).stop();
        arrived.read_until(&socket, 2, 0);
        link.join().unwrap().unwrap();
    });
}

#[test]
fn a_call_of_the_links_thread_is_not_lost() {
    explore(one_thread_sends);
    finds(BrokenHandOver::RestNotCalled, "deadlock", one_thread_sends);
    finds(BrokenHandOver::CallForgottenEarly, "deadlock", one_thread_sends);
}

/// The node stops, while batches are on their way.
fn the_node_stops() {
    let (node, socket) = (linked_node(), Arc::new(NarrowSocket::default()));
    let replica = &*node.replica;
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, &socket));
        scope.spawn(|| acknowledge(replica, 1));
        scope.spawn(|| {
            (1..=2).for_each(|upto| push(replica, upto));
            replica.links().outbox(0).stop();
        });
        let mut arrived = Arrived::default();
        arrived.read_until(&socket, 3, 3);
        assert_eq!(arrived.batch, stamp(2), "stopped before all batches were sent");
        link.join().unwrap().unwrap();
    });
}

#[test]
fn a_stop_sends_all_batches_first() {
    explore(the_node_stops);
    finds(BrokenHandOver::StopLeavesBatches, "stopped before all batches were sent", the_node_stops);
}

/// The connection breaks while two threads send.
fn the_connection_breaks() {
    let (node, socket) = (linked_node(), Arc::new(NarrowSocket::default()));
    let replica = &*node.replica;
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, &socket));
        scope.spawn(|| acknowledge(replica, 1));
        scope.spawn(|| {
            push(replica, 1);
            socket.break_it();
            push(replica, 2);
        });
        while !socket.take().is_empty() {}
        assert_eq!(link.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(replica.links().sender(0).connection().is_none());
    });
}

#[test]
fn a_connection_that_breaks_under_another_thread_is_ended_by_its_own() {
    explore(the_connection_breaks);
    finds(BrokenHandOver::RestNotCalled, "deadlock", the_connection_breaks);
}

/// The peer is given up, while its link sleeps or has just been called.
fn the_peer_is_given_up() {
    let (node, socket) = (linked_node(), Arc::new(NarrowSocket::default()));
    let replica = &*node.replica;
    thread::scope(|scope| {
        let link = scope.spawn(|| link(replica, &socket));
        scope.spawn(|| push(replica, 1));
        scope.spawn(|| replica.links().outbox(0).close());
        Arrived::default().read_until(&socket, 3, 3);
        link.join().unwrap().unwrap();
    });
}

#[test]
fn a_link_ends_when_its_peer_is_given_up() {
    explore(the_peer_is_given_up);
    finds(BrokenHandOver::OutboxWakesNobody, "deadlock", the_peer_is_given_up);
}
