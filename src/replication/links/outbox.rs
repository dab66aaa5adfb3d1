//! The outbox of one peer: everything that waits to be sent to it.
//!
//! Owns the bounded queue of batches and, beside it, at most one of everything else: the ack, the
//! echo, the heartbeat, this node's request for a dump, and the peer's request. So a slow or dead
//! peer costs a bounded amount of memory and delays no other thread (**I4**). Putting something in
//! never waits. Only the [`sender`](super::sender) takes it out, under its lock. Never touches a
//! socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::clock::Stamp;
use crate::data::version::Origin;
use crate::sync::{Condvar, Mutex};
use crate::testing::broken_hand_overs::BrokenHandOver;
use crate::wire::peer::{Ack, DumpRequest};

/// Bytes of batches that are taken out at a time: between two such steps acks, heartbeats and dump
/// lines have their turn.
const STEP_LEN: usize = 256 << 10;

/// Bytes of batches that another thread sends than the link's. To wake that costs some 15
/// microseconds, which for more bytes matters little; and the replicator would serve one peer after
/// another meanwhile.
const URGENT_LEN: usize = 16 << 10;

/// A write batch in its frame, encoded once and shared by all links and the log.
#[derive(Clone)]
pub struct EncodedBatch {
    pub bytes: Arc<Vec<u8>>,
    pub upto: Stamp,
}

/// The outbox of one peer.
pub struct Outbox {
    /// Bytes of batches that may wait. Beyond this they are dropped, and the peer, which notices
    /// the gap, catches up by a dump.
    queue_len_max: usize,
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    open: bool,
    stopping: bool,
    redial: bool,
    /// The link's thread is to look, although nothing may wait here.
    is_called: bool,
    /// This node serves clients. Before that it acknowledges nothing.
    vouches: bool,
    batches: VecDeque<EncodedBatch>,
    /// Invariant: the bytes in `batches`.
    batches_len: usize,
    /// Every batch up to this stamp was taken out or dropped.
    passed: Stamp,
    overflows: u64,
    ack: Option<AckState>,
    echo: Option<u64>,
    heartbeat: bool,
    request: Option<DumpRequest>,
    serve: Option<DumpRequest>,
}

/// The writes of the peer's present incarnation that this node can acknowledge.
///
/// Invariant: the peer's writes up to `upto` are here, or what superseded them, and those in (from,
/// upto] came one by one, in batches. durable ≤ upto.
struct AckState {
    origin: Origin,
    from: Stamp,
    upto: Stamp,
    /// The writes that may be acknowledged (**I7**): what is durable here, or all that came where
    /// no session waits for the disk.
    durable: Stamp,
    due: bool,
}

/// Content taken out of an outbox by another thread than the link's: what sessions wait for.
pub struct Urgent {
    pub ack: Option<Ack>,
    pub batches: Vec<EncodedBatch>,
}

/// Content taken out of an outbox. The link's thread writes it in this order.
#[derive(Default)]
pub struct Drained {
    pub ack: Option<Ack>,
    pub echo: Option<u64>,
    pub request: Option<DumpRequest>,
    pub batches: Vec<EncodedBatch>,
    /// A heartbeat, which says that all batches up to here have passed.
    pub heartbeat: Option<Stamp>,
    /// A request for a dump, to be served once the dump that runs has ended.
    pub serve: Option<DumpRequest>,
}

impl Outbox {
    pub fn new(queue_len_max: usize) -> Outbox {
        Outbox { queue_len_max, waiting: Mutex::default(), ready: Condvar::new() }
    }

    /// Begins a connection: batches are queued from now on, and everything that is known is sent
    /// anew.
    pub fn open(&self) {
        let mut waiting = self.waiting.lock();
        let (ack, echo) = (waiting.ack.take(), waiting.echo.take());
        let Waiting { overflows, stopping, passed, vouches, .. } = *waiting;
        *waiting = Waiting { open: true, heartbeat: true, ack, echo, overflows, stopping, passed, vouches, ..Waiting::default() };
        if let Some(ack) = &mut waiting.ack {
            ack.due = true;
        }
    }

    /// Ends a connection that is gone, or gives it up: what waits is forgotten, but for the ack.
    pub fn close(&self) {
        self.change(|waiting| {
            waiting.open = false;
            waiting.batches.clear();
            waiting.batches_len = 0;
            waiting.request = None;
            waiting.serve = None;
        });
    }

    pub fn is_open(&self) -> bool {
        self.waiting.lock().open
    }

    /// Ends the link's thread once everything that waits is sent.
    pub fn stop(&self) {
        self.waiting.lock().stopping = true;
        self.ready.notify_all();
    }

    pub fn is_stopping(&self) -> bool {
        self.waiting.lock().stopping
    }

    /// Asks the link's thread to dial at once: the peer has just shown that it is there.
    pub fn redial(&self) {
        self.change(|waiting| waiting.redial = !waiting.open);
    }

    /// Waits before the next dial: at most `pause`, less if [`Outbox::redial`] is called or the
    /// node stops.
    pub fn wait_to_dial(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut waiting = self.waiting.lock();
        while !waiting.redial && !waiting.stopping && !self.ready.wait_until(&mut waiting, deadline).timed_out() {}
        waiting.redial = false;
    }

    /// Queues a batch; an overflow drops what was queued before. Wakes nobody: the caller sends it,
    /// or has it sent.
    pub fn push(&self, batch: &EncodedBatch) {
        let mut waiting = self.waiting.lock();
        if !waiting.open {
            waiting.passed = batch.upto;
            return;
        }
        if waiting.batches_len + batch.bytes.len() > self.queue_len_max {
            waiting.passed = waiting.batches.back().map_or(waiting.passed, |last| last.upto);
            waiting.batches.clear();
            waiting.batches_len = 0;
            waiting.overflows += 1;
        }
        waiting.batches_len += batch.bytes.len();
        waiting.batches.push_back(batch.clone());
    }

    /// Notes the peer's present incarnation, from its HELLO. Its writes up to `covered` are here
    /// already, and came through others.
    pub fn set_origin(&self, origin: Origin, covered: Stamp) {
        self.change(|waiting| {
            // It would answer a heartbeat of an earlier connection.
            waiting.echo = None;
            if waiting.ack.as_ref().is_none_or(|ack| ack.origin != origin) {
                waiting.ack = Some(AckState { origin, from: covered, upto: covered, durable: Stamp::ZERO, due: true });
            }
        });
    }

    /// Begins to acknowledge: this node serves clients from now on. A node that is catching up does
    /// not acknowledge. It may have lost what it had acknowledged before, and a write could then
    /// count as acknowledged that loses to a lost one.
    pub fn vouch(&self) {
        self.change(|waiting| {
            waiting.vouches = true;
            if let Some(ack) = &mut waiting.ack {
                ack.due = true;
            }
        });
    }

    /// Notes that everything of `origin` up to `upto` that is here may be acknowledged. Ignored for
    /// an origin that is not the peer's present one: then it returns false. Wakes nobody: the
    /// caller sends the ack, or has it sent.
    pub fn durable(&self, origin: Origin, upto: Stamp) -> bool {
        self.change_ack(origin, |ack| {
            ack.durable = ack.durable.max(upto.min(ack.upto));
            ack.due = true;
        })
    }

    /// Notes that all writes of `origin` up to `upto` are here. They are acknowledged once they are
    /// [`Outbox::durable`]. Ignored for an origin that is not the peer's present one.
    pub fn received(&self, origin: Origin, upto: Stamp) {
        self.change_ack(origin, |ack| ack.upto = ack.upto.max(upto));
    }

    /// As [`Outbox::received`], for writes that did not come one by one.
    pub fn received_in_dump(&self, origin: Origin, upto: Stamp) {
        self.change_ack(origin, |ack| {
            if upto > ack.upto {
                (ack.from, ack.upto) = (upto, upto);
            }
        });
    }

    /// The peer's present incarnation, as far as it is known.
    pub fn known_origin(&self) -> Option<Origin> {
        self.waiting.lock().ack.as_ref().map(|ack| ack.origin)
    }

    pub fn echo(&self, sent: u64) {
        self.change(|waiting| waiting.echo = Some(sent));
    }

    pub fn heartbeat(&self) {
        self.change(|waiting| waiting.heartbeat = true);
    }

    /// Queues a request of this node for a dump of the peer.
    pub fn request(&self, request: DumpRequest) {
        self.change(|waiting| waiting.request = Some(request));
    }

    /// Queues a request of the peer, to be served; the newest one counts.
    pub fn serve(&self, request: DumpRequest) {
        self.change(|waiting| waiting.serve = Some(request));
    }

    /// Returns whether [`Outbox::take`] would return at once.
    #[cfg(feature = "testing")]
    pub fn has_waiting(&self) -> bool {
        let waiting = self.waiting.lock();
        !waiting.open || !waiting.is_idle() || waiting.stopping
    }

    /// Returns whether [`Outbox::redial`] was called since this was called last.
    #[cfg(feature = "testing")]
    pub fn takes_redial(&self) -> bool {
        std::mem::take(&mut self.waiting.lock().redial)
    }

    /// Waits until there is something for the link's thread to do, or until `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let mut waiting = self.waiting.lock();
        if BrokenHandOver::CallForgottenEarly.is_on() {
            waiting.is_called = false;
        }
        if waiting.open && waiting.is_idle() && !waiting.is_called && !waiting.stopping {
            self.ready.wait_for(&mut waiting, timeout);
        }
        waiting.is_called = false;
    }

    /// Takes out what is to be written next. `None` ends the connection: it was closed, or the node
    /// stops and all batches were sent.
    pub fn take(&self) -> Option<Drained> {
        let mut waiting = self.waiting.lock();
        let has_batches = !waiting.batches.is_empty() && !BrokenHandOver::StopLeavesBatches.is_on();
        if !waiting.open || (waiting.stopping && !has_batches) { None } else { Some(waiting.take()) }
    }

    /// Takes out what sessions wait for. `None` if that is for the link's thread to do: where much
    /// waits, where the node stops, and where the connection ends.
    pub fn take_urgent(&self) -> Option<Urgent> {
        let mut waiting = self.waiting.lock();
        if !waiting.open || waiting.stopping || waiting.batches_len > URGENT_LEN {
            return None;
        }
        Some(Urgent { ack: waiting.take_ack(), batches: waiting.take_batches() })
    }

    /// Wakes the link's thread, to send what waits, or was taken out and is not sent.
    pub fn call_thread(&self) {
        self.change(|waiting| waiting.is_called = true);
    }

    /// Bytes of batches that wait, and how often the queue has overflowed.
    pub fn queued(&self) -> (usize, u64) {
        let waiting = self.waiting.lock();
        (waiting.batches_len, waiting.overflows)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock());
        if !BrokenHandOver::OutboxWakesNobody.is_on() {
            self.ready.notify_one();
        }
    }

    /// Returns false for an origin that is not the peer's present one.
    fn change_ack(&self, origin: Origin, change: impl FnOnce(&mut AckState)) -> bool {
        let mut waiting = self.waiting.lock();
        let ack = waiting.ack.as_mut().filter(|ack| ack.origin == origin);
        ack.map(change).is_some()
    }
}

impl Waiting {
    fn is_idle(&self) -> bool {
        let ack_due = self.ack.as_ref().is_some_and(|ack| ack.due);
        self.batches.is_empty() && !ack_due && !self.heartbeat && self.echo.is_none() && self.request.is_none() && self.serve.is_none()
    }

    fn take(&mut self) -> Drained {
        let batches = self.take_batches();
        let ack = self.take_ack();
        let heartbeat = std::mem::take(&mut self.heartbeat).then_some(self.passed);
        Drained { ack, echo: self.echo.take(), request: self.request.take(), batches, heartbeat, serve: self.serve.take() }
    }

    fn take_batches(&mut self) -> Vec<EncodedBatch> {
        let mut batches = Vec::new();
        let mut len = 0;
        while len < STEP_LEN
            && let Some(batch) = self.batches.pop_front()
        {
            len += batch.bytes.len();
            self.passed = batch.upto;
            batches.push(batch);
        }
        self.batches_len -= len;
        batches
    }

    fn take_ack(&mut self) -> Option<Ack> {
        let vouches = self.vouches;
        self.ack.as_mut().filter(|ack| ack.due).map(|ack| {
            ack.due = false;
            let upto = if vouches { ack.durable } else { Stamp::ZERO };
            Ack { origin: ack.origin, from: ack.from, upto, received: ack.upto, clocks: None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::version::NodeId;

    fn stamp(bits: u64) -> Stamp {
        Stamp::from_bits(bits)
    }

    fn batch(upto: u64, len: usize) -> EncodedBatch {
        EncodedBatch { bytes: Arc::new(vec![0; len]), upto: stamp(upto) }
    }

    fn origin(nonce: u64) -> Origin {
        Origin { node: NodeId(2), nonce }
    }

    fn take(outbox: &Outbox) -> Drained {
        outbox.take().unwrap()
    }

    #[test]
    fn an_overflow_drops_what_waits_and_the_heartbeat_says_how_far_batches_have_passed() {
        let outbox = Outbox::new(100);
        outbox.open();
        for upto in 1..=3 {
            outbox.push(&batch(upto, 40));
        }
        let batch = take(&outbox);
        assert_eq!(batch.batches.iter().map(|batch| batch.upto).collect::<Vec<_>>(), [stamp(3)]);
        assert_eq!(batch.heartbeat, Some(stamp(3)));
        assert_eq!(outbox.queued(), (0, 1));
    }

    #[test]
    fn a_closed_outbox_queues_nothing() {
        let outbox = Outbox::new(100);
        outbox.push(&batch(1, 40));
        outbox.open();
        assert_eq!(take(&outbox).heartbeat, Some(stamp(1)));
        outbox.push(&batch(2, 40));
        outbox.close();
        outbox.open();
        assert!(take(&outbox).batches.is_empty());
    }

    #[test]
    fn an_ack_says_what_is_here_and_what_of_it_is_durable_on_every_connection() {
        let outbox = Outbox::new(100);
        outbox.vouch();
        outbox.set_origin(origin(1), stamp(5));
        outbox.open();
        outbox.received(origin(1), stamp(8));
        let ack = take(&outbox).ack.unwrap();
        assert_eq!((ack.from, ack.upto, ack.received), (stamp(5), Stamp::ZERO, stamp(8)));
        outbox.received(origin(1), stamp(9));
        assert!(take(&outbox).ack.is_none());
        outbox.durable(origin(1), stamp(9));
        assert_eq!(take(&outbox).ack.unwrap().upto, stamp(9));
        outbox.close();
        outbox.open();
        assert_eq!(take(&outbox).ack.unwrap().upto, stamp(9));
        // An earlier incarnation of the peer.
        outbox.received(origin(2), stamp(30));
        assert!(take(&outbox).ack.is_none());
    }

    #[test]
    fn what_came_in_a_dump_did_not_come_one_by_one() {
        let outbox = Outbox::new(100);
        outbox.vouch();
        outbox.open();
        outbox.set_origin(origin(1), stamp(0));
        outbox.received(origin(1), stamp(3));
        outbox.received_in_dump(origin(1), stamp(3));
        outbox.durable(origin(1), stamp(3));
        assert_eq!(take(&outbox).ack.map(|ack| (ack.from, ack.upto)), Some((stamp(0), stamp(3))));
        outbox.received_in_dump(origin(1), stamp(6));
        outbox.durable(origin(1), stamp(6));
        assert_eq!(take(&outbox).ack.map(|ack| (ack.from, ack.upto)), Some((stamp(6), stamp(6))));
    }

    #[test]
    fn a_node_that_is_catching_up_acknowledges_nothing_and_all_of_it_once_it_is_open() {
        let outbox = Outbox::new(100);
        outbox.open();
        outbox.set_origin(origin(1), stamp(0));
        outbox.received(origin(1), stamp(3));
        outbox.durable(origin(1), stamp(3));
        assert_eq!(take(&outbox).ack.map(|ack| (ack.upto, ack.received)), Some((Stamp::ZERO, stamp(3))));
        outbox.vouch();
        assert_eq!(take(&outbox).ack.map(|ack| ack.upto), Some(stamp(3)));
    }
}
