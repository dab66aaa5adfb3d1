//! The network: links that delay, break and lose what was sent last, some of them narrow, and the
//! connections over them.
//!
//! A connection carries what one process sends to another, in order, as TCP does. What is sent
//! arrives after the delay of the link: later if the link is cut meanwhile, and not at all if the
//! connection breaks. Only two things go back: the answer to the HELLO, and the news that the
//! receiving end has closed. The two ends act turn by turn as links/outgoing.rs and
//! links/incoming.rs do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::simulation::diagram::{BeforeMerge, StepKind};
use crate::simulation::plan::RunPlan;
use crate::simulation::{ProcessId, Simulator, SimulatorEvent};
use kvmesh::data::clock::Now;
use kvmesh::replication::inbound::{Inbound, ReceivedMessage};
use kvmesh::replication::links::handshake;
use kvmesh::replication::links::outgoing::LinkWriter;
use kvmesh::replication::links::sender::Unsent;
use kvmesh::replication::replica::Replica;
use kvmesh::wire::frame::{FrameHead, HEAD_LEN};
use kvmesh::wire::peer::{HELLO_LEN_MAX, Hello, MESSAGE_LEN_MAX, Message, Protocol, read_message};

/// Over a narrow link, bytes arrive in pieces of this length.
const PIECE_LEN: usize = 500;

/// One direction between two machines.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedLink {
    delay: Duration,
    /// An extra delay, while the link is slow.
    pub delay_more: Duration,
    /// The longest pause between two pieces of a dump.
    pub dump_pause: Duration,
    /// Until then every packet is lost, and sent again by the sender's system.
    pub cut_until: Duration,
    /// Bytes per second that a narrow link carries of each connection.
    rate: Option<u64>,
}

/// A connection, from the process that dials to the one that it sends to.
pub struct SimulatedConnection<'a> {
    pub from: ProcessId,
    pub to: ProcessId,
    /// The sending end. `None` once it has closed. It sends nothing before the HELLOs are
    /// exchanged.
    sender: Option<SendingEnd<'a>>,
    /// The receiving end. `None` before the HELLO has arrived.
    receiver: Option<ReceivingEnd>,
    /// Bytes on their way, with the time at which they arrive. An empty segment is the end of the
    /// stream.
    segments: VecDeque<(Duration, Vec<u8>)>,
    /// Bytes that the receiving end has read, and that are no whole message yet.
    received: Vec<u8>,
    /// Bytes that the receiving end has read after the HELLO.
    read_len: u64,
    /// When the last segment arrives.
    last: Duration,
    /// The receiving end is gone. Whatever is sent is answered with a reset.
    is_refused: bool,
    /// The sending end knows of the reset.
    is_reset: bool,
    answer: Option<Message>,
    /// The protocol of what is sent after the HELLO.
    protocol: Protocol,
}

enum SendingEnd<'a> {
    /// Waits for the answer to its HELLO.
    Dialing(Hello),
    Open {
        writer: Box<LinkWriter<'a>>,
        unsent: Unsent,
    },
}

enum ReceivingEnd {
    Open { inbound: Box<Inbound>, last_read: Duration },
    Gone,
}

impl SimulatedLink {
    pub fn draw(plan: &RunPlan, random: &mut fastrand::Rng) -> SimulatedLink {
        let delay = Duration::from_micros(match random.u32(0..4) {
            0 if !plan.are_rivals => random.u64(5_000..40_000),
            _ => random.u64(30..1_500),
        });
        let rate = plan.rate.filter(|_| random.u32(0..3) > 0);
        let mut link = SimulatedLink { delay, delay_more: Duration::ZERO, dump_pause: Duration::ZERO, cut_until: Duration::ZERO, rate };
        link.speed_up(plan);
        link
    }

    /// Ends all slowness.
    pub fn speed_up(&mut self, plan: &RunPlan) {
        self.delay_more = Duration::ZERO;
        self.dump_pause = Duration::from_micros(plan.dump_pause_us);
    }
}

impl SimulatedConnection<'_> {
    /// True if the receiving end has work of its own: what a dump has left to be done.
    fn has_work(&self) -> bool {
        matches!(&self.receiver, Some(ReceivingEnd::Open { inbound, .. }) if inbound.has_work())
    }

    /// True if a whole message has been read, or something that is no message.
    fn has_message(&self) -> bool {
        let head = self.received.first_chunk().map(|head| FrameHead::decode(*head));
        head.is_some_and(|head| head.len > MESSAGE_LEN_MAX || self.received.len() >= HEAD_LEN + head.len)
    }
}

/// The index of a peer in the configuration of another machine; [`machine_at`] is the inverse.
pub fn index_of_peer(of: usize, at: usize) -> usize {
    if of > at { of - 1 } else { of }
}

fn machine_at(index: usize, at: usize) -> usize {
    if index >= at { index + 1 } else { index }
}

impl<'a> Simulator<'a> {
    /// The time at which something that is sent now arrives.
    fn arrival(&mut self, from: usize, to: usize) -> Duration {
        let link = self.links[from][to];
        let delay = link.delay + link.delay_more;
        let jitter = Duration::from_nanos(self.random.u64(0..=delay.as_nanos() as u64 / 2));
        self.now.max(link.cut_until) + delay + jitter
    }

    pub fn dial(&mut self, id: usize, peer_index: usize) {
        let to = machine_at(peer_index, id);
        let now = self.now_at(id);
        let Some(running) = self.running_mut(id) else { return };
        if running.sends_on[peer_index].is_some() {
            return;
        }
        let (from, replica) = (running.process, running.replica());
        let Some(receiving) = self.running(to).map(|running| running.process) else {
            if self.machines[to].is_off {
                // Without power, no refusal comes back.
                let patience = self.plan.peer_timeout();
                self.after(patience, SimulatorEvent::Dial(from, peer_index));
            } else {
                self.dial_again(id, peer_index);
            }
            return;
        };
        handshake::dialing(replica, peer_index);
        let hello = handshake::hello(replica, now);
        let mut bytes = Vec::new();
        Message::Hello(hello.clone()).encode(&mut bytes, Protocol::OLDEST);
        self.connected += 1;
        let number = self.connected;
        let connection = SimulatedConnection {
            from,
            to: receiving,
            sender: Some(SendingEnd::Dialing(hello)),
            receiver: None,
            segments: VecDeque::new(),
            received: Vec::new(),
            read_len: 0,
            last: self.now,
            is_refused: false,
            is_reset: false,
            answer: None,
            protocol: Protocol::OLDEST,
        };
        self.connections.insert(number, connection);
        if let Some(running) = self.running_mut(id) {
            running.sends_on[peer_index] = Some(number);
        }
        self.send(number, bytes);
        let patience = self.plan.peer_timeout();
        self.after(patience, SimulatorEvent::DialTimeout(number));
        self.count("dials");
    }

    fn send(&mut self, number: u64, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get(&number) else { return };
        let (from, to) = (connection.from.machine, connection.to.machine);
        if let Some(diagram) = &mut self.diagram {
            diagram.sent(self.now, number, (from, to), &bytes, connection.protocol);
        }
        let Some(rate) = self.links[from][to].rate.filter(|_| !bytes.is_empty()) else {
            self.send_piece(number, from, to, bytes, Duration::ZERO);
            return;
        };
        for piece in bytes.chunks(PIECE_LEN) {
            let takes = Duration::from_micros(piece.len() as u64 * 1_000_000 / rate);
            self.send_piece(number, from, to, piece.to_vec(), takes);
        }
    }

    fn send_piece(&mut self, number: u64, from: usize, to: usize, bytes: Vec<u8>, takes: Duration) {
        let arrival = self.arrival(from, to);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let at = arrival.max(connection.last) + takes;
        connection.last = at;
        connection.segments.push_back((at, bytes));
        self.at(at, SimulatorEvent::Arrive(number));
    }

    /// Handles what has arrived at the receiving end, at most one message.
    pub fn arrive(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (from, process) = (connection.from, connection.to);
        let has_arrived = connection.segments.front().is_some_and(|(at, _)| *at <= self.now);
        if !has_arrived && !connection.has_work() {
            return;
        }
        let cut_until = self.links[from.machine][process.machine].cut_until;
        if has_arrived && cut_until > self.now {
            // It was sent before the link was cut, and is lost. The system sends it again until it
            // gets through.
            let again = self.arrival(from.machine, process.machine);
            let Some(connection) = self.connections.get_mut(&number) else { return };
            connection.segments.iter_mut().for_each(|(at, _)| *at = again.max(*at));
            connection.last = again.max(connection.last);
            let times: Vec<Duration> = connection.segments.iter().map(|(at, _)| *at).collect();
            times.into_iter().for_each(|at| self.at(at, SimulatorEvent::Arrive(number)));
            return;
        }
        if self.machines[process.machine].running.as_ref().is_none_or(|running| running.process != process) {
            connection.segments.clear();
            connection.is_refused = true;
            if !self.machines[process.machine].is_off {
                self.reset_sender(number);
            }
            self.forget(number);
            return;
        }
        self.with_process(process, SimulatorEvent::Arrive(number), |simulator, id| simulator.receive(number, id));
    }

    fn receive(&mut self, number: u64, id: usize) {
        let now = self.now_at(id);
        let Some(replica) = self.running(id).map(|running| running.replica()) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if matches!(connection.receiver, Some(ReceivingEnd::Gone)) {
            connection.segments.clear();
            self.reset_sender(number);
            return;
        }
        let peer_index = index_of_peer(connection.from.machine, id);
        let has_read = connection.has_message() || connection.segments.front().is_some_and(|(at, _)| *at <= self.now);
        if connection.has_work() && (!has_read || self.random.bool()) {
            self.work(number, replica, now);
            return;
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.has_message() {
            if connection.segments.front().is_none_or(|(at, _)| *at > self.now) {
                return;
            }
            let Some((_, bytes)) = connection.segments.pop_front() else { return };
            let has_ended = bytes.is_empty();
            connection.received.extend_from_slice(&bytes);
            if let Some(ReceivingEnd::Open { last_read, .. }) = &mut connection.receiver {
                *last_read = self.now;
                connection.read_len += bytes.len() as u64;
                replica.links().traffic_with(peer_index).heard(connection.read_len, now.elapsed);
            }
            let from = connection.from;
            let is_partial = !has_ended && !connection.has_message();
            if self.running(from.machine).is_some_and(|running| running.process == from) && self.machines[from.machine].paused.is_none() {
                self.wake_link(from.machine, index_of_peer(id, from.machine));
            }
            if is_partial {
                let wait = self.short_wait();
                self.after(wait, SimulatorEvent::Arrive(number));
                return;
            }
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (mut reader, mut frame) = (&connection.received[..], Vec::new());
        let (len_max, protocol) = match &connection.receiver {
            Some(ReceivingEnd::Open { inbound, .. }) => (MESSAGE_LEN_MAX, inbound.protocol()),
            _ => (HELLO_LEN_MAX, Protocol::OLDEST),
        };
        let read = read_message(&mut reader, &mut frame, len_max, protocol);
        let taken = connection.received.len() - reader.len();
        let fingerprint = rapidhash::v3::rapidhash_v3(&frame);
        let received = match (read, &mut connection.receiver) {
            (Ok(Some(Message::Hello(hello))), None) => {
                connection.received.drain(..taken);
                self.answer_hello(number, id, &hello);
                return;
            }
            (Ok(Some(message)), Some(ReceivingEnd::Open { inbound, .. })) => {
                match replica.persistence().await_permit(frame.len(), Instant::now()) {
                    Ok(permit) => {
                        let before = self.diagram.as_ref().map(|_| BeforeMerge::of(&message, replica));
                        let received = inbound.receive(replica, ReceivedMessage { message, frame, permit }, now);
                        connection.received.drain(..taken);
                        if let (Some(diagram), Some(before)) = (&mut self.diagram, before) {
                            diagram.received(self.now, number, &before, replica.store(), &received);
                        }
                        received
                    }
                    Err(_) => {
                        // The receiving end waits for its write-ahead log, and keeps the message.
                        let wait = self.random_ms(1, 5);
                        self.after(wait, SimulatorEvent::Arrive(number));
                        return;
                    }
                }
            }
            (Ok(_), _) => Err("the end of the stream, or no HELLO".to_owned()),
            (Err(error), _) => Err(error.to_string()),
        };
        self.trace_numbers(&[number, fingerprint, u64::from(received.is_err())]);
        if let Err(reason) = received {
            if reason.contains("checksum") {
                self.count("wrong checksums");
            }
            self.close_receiver(number);
            return;
        }
        if self.one_in(8) {
            self.check_machine(id);
        }
        // One message a turn: other threads have their turns in between.
        let wait = self.short_wait();
        self.after(wait, SimulatorEvent::Arrive(number));
    }

    /// Does a piece of what a dump has left to be done at the receiving end.
    fn work(&mut self, number: u64, replica: &Replica, now: Now) {
        self.count("pieces of work");
        let entries = self.random.usize(1..=3);
        if let Some(ReceivingEnd::Open { inbound, .. }) =
            self.connections.get_mut(&number).and_then(|connection| connection.receiver.as_mut())
        {
            inbound.work(replica, entries, now);
        }
        let wait = self.short_wait();
        self.after(wait, SimulatorEvent::Arrive(number));
    }

    /// Handles a HELLO, and answers it as links/incoming.rs does.
    fn answer_hello(&mut self, number: u64, id: usize, hello: &Hello) {
        let now = self.now_at(id);
        let Some(replica) = self.running(id).map(|running| running.replica()) else { return };
        let answer = match handshake::check_hello(replica, hello, now) {
            Ok((peer, protocol)) => {
                let answer = Message::Hello(handshake::hello(replica, now));
                self.replace_receiver(number, id);
                let inbound = Inbound::accept(replica, peer, hello, protocol, now);
                let last_read = self.now;
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.receiver = Some(ReceivingEnd::Open { inbound: Box::new(inbound), last_read });
                }
                answer
            }
            Err(reason) => {
                self.count("HELLOs refused");
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.receiver = Some(ReceivingEnd::Gone);
                }
                Message::Refused(reason)
            }
        };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.answer = Some(answer);
        let (from, to) = (connection.from.machine, connection.to.machine);
        let arrival = self.arrival(to, from);
        self.at(arrival, SimulatorEvent::HelloAnswer(number));
    }

    /// Ends older connections of the same machine: the new one replaces them. What has arrived on
    /// them may still be applied beside it, since links/incoming.rs only shuts their sockets down.
    fn replace_receiver(&mut self, number: u64, id: usize) {
        let Some(from) = self.connections.get(&number).map(|connection| connection.from.machine) else { return };
        let is_older = |other: u64, connection: &SimulatedConnection<'_>| {
            other != number
                && connection.to.machine == id
                && connection.from.machine == from
                && matches!(connection.receiver, Some(ReceivingEnd::Open { .. }))
        };
        let older: Vec<u64> =
            self.connections.iter().filter(|(other, connection)| is_older(**other, connection)).map(|(other, _)| *other).collect();
        for number in older {
            if self.one_in(2) {
                self.close_receiver(number);
            } else {
                self.end_later(number);
            }
        }
    }

    /// Ends a replaced connection some milliseconds from now. What arrives until then is applied
    /// beside the messages of the newer connection, and its end comes after the newer one's HELLO.
    fn end_later(&mut self, number: u64) {
        self.count("connections applied beside newer ones");
        let end = self.now + self.random_ms(0, 20);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let arriving = connection.segments.iter().take_while(|(at, _)| *at <= end).count();
        connection.segments.truncate(arriving);
        // No bytes: the end of the stream.
        connection.segments.push_back((end, Vec::new()));
        connection.last = end;
        self.at(end, SimulatorEvent::Arrive(number));
        self.reset_sender(number);
    }

    /// Closes the receiving end.
    fn close_receiver(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let id = connection.to.machine;
        let receiver = connection.receiver.replace(ReceivingEnd::Gone);
        connection.segments.clear();
        connection.is_refused = true;
        if let Some(ReceivingEnd::Open { inbound, .. }) = receiver {
            let now = self.now_at(id);
            if let Some(running) = self.running(id) {
                inbound.closed(running.replica(), now);
            }
        }
        self.reset_sender(number);
    }

    fn reset_sender(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let (from, to) = (connection.from.machine, connection.to.machine);
        let arrival = self.arrival(to, from);
        self.at(arrival, SimulatorEvent::Reset(number));
    }

    pub fn take_hello_answer(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        self.with_process(connection.from, SimulatorEvent::HelloAnswer(number), |simulator, id| simulator.finish_dial(number, id));
    }

    fn finish_dial(&mut self, number: u64, id: usize) {
        let now = self.now_at(id);
        let Some(replica) = self.running(id).map(|running| running.replica()) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let peer_index = index_of_peer(connection.to.machine, id);
        let Some(SendingEnd::Dialing(hello)) = connection.sender.take() else { return };
        let answer = match connection.answer.take() {
            Some(Message::Hello(answer)) => handshake::check_hello(replica, &answer, now).ok().map(|found| (answer, found)),
            _ => None,
        };
        match answer {
            Some((answer, (found, protocol))) if found == peer_index => {
                handshake::dialed(replica, peer_index, &answer, now);
                let writer = Box::new(LinkWriter::new(replica, peer_index, hello.vector, 120));
                connection.sender = Some(SendingEnd::Open { writer, unsent: Unsent::default() });
                connection.protocol = protocol;
                self.draw(id, StepKind::Connection, || format!("connected to n{}", machine_at(peer_index, id) + 1));
                self.count("connections");
                if protocol != Protocol::OLDEST {
                    self.count("connections of a later protocol");
                }
            }
            _ => {
                self.count("dials refused");
                self.close_sender(number, id, peer_index);
            }
        }
    }

    pub fn give_up_dial(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        if !matches!(connection.sender, Some(SendingEnd::Dialing(_))) {
            return;
        }
        let to = connection.to.machine;
        self.with_process(connection.from, SimulatorEvent::DialTimeout(number), |simulator, id| {
            simulator.count("dials given up");
            simulator.close_sender(number, id, index_of_peer(to, id));
        });
    }

    /// Schedules a turn of a link that has something to send.
    pub fn wake_link(&mut self, id: usize, peer_index: usize) {
        let Some(running) = self.running(id) else { return };
        let (process, outbox) = (running.process, running.replica().links().outbox(peer_index));
        let Some(number) = running.sends_on[peer_index] else {
            if outbox.takes_redial() {
                let wait = self.short_wait();
                self.after(wait, SimulatorEvent::Dial(process, peer_index));
            }
            return;
        };
        if running.is_sending[peer_index] {
            return;
        }
        let Some(connection) = self.connections.get(&number) else { return };
        let Some(SendingEnd::Open { writer, .. }) = &connection.sender else { return };
        let under_way: usize = connection.segments.iter().map(|(_, bytes)| bytes.len()).sum();
        if under_way > self.plan.window && !connection.is_reset && outbox.is_open() {
            // The sending end waits in its write until some of that has arrived.
            return;
        }
        let is_dumping = writer.is_dumping();
        if is_dumping || outbox.has_waiting() {
            let pause_us = self.links[id][machine_at(peer_index, id)].dump_pause.as_micros() as u64;
            let pause_us = if is_dumping { self.random.u64(0..=pause_us) } else { 0 };
            let wait = self.short_wait() + Duration::from_micros(pause_us);
            self.after(wait, SimulatorEvent::SendTurn(process, peer_index));
            if let Some(running) = self.running_mut(id) {
                running.is_sending[peer_index] = true;
            }
        }
    }

    pub fn send_turn(&mut self, id: usize, peer_index: usize) {
        let now = self.now_at(id);
        let Some(running) = self.running_mut(id) else { return };
        running.is_sending[peer_index] = false;
        let Some(number) = running.sends_on[peer_index] else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(SendingEnd::Open { writer, unsent }) = &mut connection.sender else { return };
        let goes_on = writer.next(unsent, connection.protocol, || now);
        let bytes = unsent.drain();
        if connection.is_reset || !goes_on {
            self.close_sender(number, id, peer_index);
            return;
        }
        if !bytes.is_empty() {
            self.send(number, bytes);
        }
    }

    /// Closes the sending end, which dials again later.
    fn close_sender(&mut self, number: u64, id: usize, peer_index: usize) {
        if let Some(connection) = self.connections.get_mut(&number) {
            if matches!(connection.sender.take(), Some(SendingEnd::Open { .. })) {
                self.draw(id, StepKind::Connection, || format!("gives up the connection to n{}", machine_at(peer_index, id) + 1));
            }
            self.send(number, Vec::new());
        }
        self.dial_again(id, peer_index);
        self.forget(number);
    }

    fn dial_again(&mut self, id: usize, peer_index: usize) {
        let now = self.now_at(id);
        let Some(running) = self.running_mut(id) else { return };
        running.sends_on[peer_index] = None;
        let process = running.process;
        handshake::hung_up(running.replica(), peer_index, now);
        let pause_max = running.replica().config().reconnect_pause_max.as_millis() as u64;
        let pause = self.random_ms(20, pause_max);
        self.after(pause, SimulatorEvent::Dial(process, peer_index));
    }

    /// True if one machine has an open connection to the other.
    pub fn is_connected(&self, from: usize, to: usize) -> bool {
        let number = self.running(from).and_then(|running| running.sends_on[index_of_peer(to, from)]);
        let connection = number.and_then(|number| self.connections.get(&number));
        connection.is_some_and(|connection| matches!(connection.sender, Some(SendingEnd::Open { .. })))
    }

    /// Handles the news that the receiving end has closed.
    pub fn reset(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.is_reset = true;
        if matches!(connection.sender, Some(SendingEnd::Dialing(_))) {
            let (from, to) = (connection.from, connection.to.machine);
            let dial_again = |simulator: &mut Simulator<'a>, id| simulator.close_sender(number, id, index_of_peer(to, id));
            self.with_process(from, SimulatorEvent::Reset(number), dial_again);
        }
        self.forget(number);
    }

    /// Removes a connection of which both ends are closed.
    fn forget(&mut self, number: u64) {
        let is_over = |connection: &SimulatedConnection<'_>| {
            connection.sender.is_none() && (connection.is_refused || matches!(connection.receiver, Some(ReceivingEnd::Gone)))
        };
        if self.connections.get(&number).is_some_and(is_over) {
            self.connections.remove(&number);
        }
    }

    /// Closes the connections from which a node has received nothing for too long.
    pub fn drop_silent(&mut self, id: usize) {
        let oldest = self.now.saturating_sub(self.plan.peer_timeout());
        let is_silent = |connection: &SimulatedConnection<'_>| {
            connection.to.machine == id
                && matches!(&connection.receiver, Some(ReceivingEnd::Open { last_read, .. }) if *last_read < oldest)
                && connection.segments.front().is_none_or(|(at, _)| *at > self.now)
        };
        let silent: Vec<u64> = self.connections.iter().filter(|(_, connection)| is_silent(connection)).map(|(number, _)| *number).collect();
        for number in silent {
            self.count("connections silent for too long");
            if let Some(from) = self.connections.get(&number).map(|connection| connection.from.machine) {
                self.draw(id, StepKind::Connection, || format!("closes the connection of n{}, which is silent", from + 1));
            }
            self.close_receiver(number);
        }
    }

    /// Closes all connections of a process that is gone. `silently`: its machine is gone, too, and
    /// sends no reset.
    pub fn disconnect(&mut self, id: usize, silently: bool) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.from.machine == id && connection.sender.take().is_some() {
                if silently {
                    let lost = self.random.usize(0..=connection.segments.len());
                    connection.segments.truncate(lost);
                } else {
                    self.send(number, Vec::new());
                }
            }
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.to.machine == id {
                connection.receiver = Some(ReceivingEnd::Gone);
                connection.segments.clear();
                connection.is_refused = true;
                if !silently {
                    self.reset_sender(number);
                }
            }
            self.forget(number);
        }
    }

    /// Breaks a connection. What was sent last is lost, from somewhere in a message on.
    pub fn break_connection(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let keep = self.random.usize(0..=connection.segments.len());
        connection.segments.truncate(keep + 1);
        if let Some((_, bytes)) = connection.segments.back_mut()
            && !bytes.is_empty()
        {
            let len = self.random.usize(1..=bytes.len());
            bytes.truncate(len);
        }
        // The sending end notices it when it next sends.
        connection.is_reset = true;
        let (from, to) = (connection.from.machine, connection.to.machine);
        self.draw(from, StepKind::Fault, || format!("the connection to n{} breaks", to + 1));
        self.send(number, Vec::new());
    }

    /// Flips a bit of what is on its way. False if nothing is.
    pub fn flip(&mut self, number: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else { return false };
        let Some((_, bytes)) = connection.segments.iter_mut().find(|(_, bytes)| !bytes.is_empty()) else { return false };
        let (at, bit) = (self.random.usize(0..bytes.len()), self.random.u32(0..8));
        bytes[at] ^= 1 << bit;
        true
    }
}
