//! The network: links that delay, hold back, break and lose their tail, some of them narrow, and the connections over them.
//!
//! Each connection carries what one process says to another, in order, as TCP does: what is sent arrives after the link's delay, later if packets are swallowed meanwhile, or not at all if the connection
//! breaks. What goes back is the answer to the HELLO, and the word that the other end has closed. What the ends do is what link.rs and listener.rs do, turn by turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::simulation::diagram::{BeforeMerge, StepKind};
use crate::simulation::plan::Plan;
use crate::simulation::{Event, Process, Simulation};
use kvmesh::replication::inbound::{Arrived, Inbound};
use kvmesh::replication::links::outgoing::Speech;
use kvmesh::wire::frame::{HEAD_LEN, Head};
use kvmesh::wire::peer::{HELLO_LEN_MAX, Hello, MESSAGE_LEN_MAX, Message, Protocol, read_message};

/// What is sent over a narrow link arrives in pieces of so many bytes.
const PIECE_LEN: usize = 500;

/// One direction between two machines.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    delay: Duration,
    /// So much slower than usual.
    pub delay_more: Duration,
    /// The longest pause between two pieces of a dump.
    pub dump_pause: Duration,
    /// Packets are swallowed until then.
    pub swallows_until: Duration,
    /// Bytes a second that it carries of each connection, where that is not many.
    rate: Option<u64>,
}

pub struct Connection<'a> {
    pub from: Process,
    pub to: Process,
    /// `None` once the speaking end has closed; before the HELLOs are exchanged it has nothing to say.
    speaker: Option<Speaker<'a>>,
    /// `None` before the HELLO has come.
    listener: Option<Listener>,
    /// What is under way, and when it is there. Empty bytes are the end of the stream.
    segments: VecDeque<(Duration, Vec<u8>)>,
    /// What the listening end has read, and has not made a message of yet.
    received: Vec<u8>,
    /// Bytes that it has read behind the HELLO.
    heard_len: u64,
    /// When the last of it is there.
    last: Duration,
    /// The listening end is gone: what is sent is answered with a reset.
    is_refused: bool,
    /// The speaking end has heard of it.
    is_reset: bool,
    answer: Option<Message>,
    /// What the speaking end speaks behind its HELLO.
    protocol: Protocol,
}

enum Speaker<'a> {
    /// Waits for the answer to its HELLO.
    Dialing(Hello),
    Speaking(Box<Speech<'a>>),
}

enum Listener {
    Listening { inbound: Box<Inbound>, heard: Duration },
    Gone,
}

impl Link {
    pub fn draw(plan: &Plan, random: &mut fastrand::Rng) -> Link {
        let delay = Duration::from_micros(match random.u32(0..4) {
            0 if !plan.are_rivals => random.u64(5_000..40_000),
            _ => random.u64(30..1_500),
        });
        let rate = plan.rate.filter(|_| random.u32(0..3) > 0);
        let mut link = Link { delay, delay_more: Duration::ZERO, dump_pause: Duration::ZERO, swallows_until: Duration::ZERO, rate };
        link.speed_up(plan);
        link
    }

    /// As fast as usual.
    pub fn speed_up(&mut self, plan: &Plan) {
        self.delay_more = Duration::ZERO;
        self.dump_pause = Duration::from_micros(plan.dump_pause_us);
    }
}

impl Connection<'_> {
    /// Whether a message is there as a whole, or what is no message.
    fn has_message(&self) -> bool {
        let head = self.received.first_chunk().map(|head| Head::decode(*head));
        head.is_some_and(|head| head.len > MESSAGE_LEN_MAX || self.received.len() >= HEAD_LEN + head.len)
    }
}

/// The place of a peer in the configuration of another, and back.
pub fn place(of: usize, at: usize) -> usize {
    if of > at { of - 1 } else { of }
}

fn peer(place: usize, at: usize) -> usize {
    if place >= at { place + 1 } else { place }
}

impl<'a> Simulation<'a> {
    /// When something that is sent now is there.
    fn arrival(&mut self, from: usize, to: usize) -> Duration {
        let link = self.links[from][to];
        let delay = link.delay + link.delay_more;
        let jitter = Duration::from_nanos(self.random.u64(0..=delay.as_nanos() as u64 / 2));
        self.now.max(link.swallows_until) + delay + jitter
    }

    pub fn dial(&mut self, id: usize, place_of_peer: usize) {
        let to = peer(place_of_peer, id);
        let now = self.now_at(id);
        let Some(life) = self.life_mut(id) else { return };
        if life.speaks[place_of_peer].is_some() {
            return;
        }
        let (from, replica) = (life.process, life.replica());
        let Some(listening) = self.life(to).map(|life| life.process) else {
            if self.machines[to].is_off {
                // Nobody is there to refuse it.
                let patience = self.plan.peer_timeout();
                self.after(patience, Event::Dial(from, place_of_peer));
            } else {
                self.hang_up(id, place_of_peer);
            }
            return;
        };
        replica.dialing(place_of_peer);
        let hello = replica.hello(now);
        let mut bytes = Vec::new();
        Message::Hello(hello.clone()).encode(&mut bytes, Protocol::OLDEST);
        self.connected += 1;
        let number = self.connected;
        let connection = Connection {
            from,
            to: listening,
            speaker: Some(Speaker::Dialing(hello)),
            listener: None,
            segments: VecDeque::new(),
            received: Vec::new(),
            heard_len: 0,
            last: self.now,
            is_refused: false,
            is_reset: false,
            answer: None,
            protocol: Protocol::OLDEST,
        };
        self.connections.insert(number, connection);
        if let Some(life) = self.life_mut(id) {
            life.speaks[place_of_peer] = Some(number);
        }
        self.send(number, bytes);
        let patience = self.plan.peer_timeout();
        self.after(patience, Event::DialTimeout(number));
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
        self.at(at, Event::Arrive(number));
    }

    /// Something is there for the end that listens: one message of it is taken.
    pub fn arrive(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (from, process) = (connection.from, connection.to);
        let Some((at, _)) = connection.segments.front() else { return };
        if *at > self.now {
            return;
        }
        let swallows_until = self.links[from.machine][process.machine].swallows_until;
        if swallows_until > self.now {
            // Sent before the packets began to be swallowed, and swallowed: it is sent again until it gets through.
            let again = self.arrival(from.machine, process.machine);
            let Some(connection) = self.connections.get_mut(&number) else { return };
            connection.segments.iter_mut().for_each(|(at, _)| *at = again.max(*at));
            connection.last = again.max(connection.last);
            let times: Vec<Duration> = connection.segments.iter().map(|(at, _)| *at).collect();
            times.into_iter().for_each(|at| self.at(at, Event::Arrive(number)));
            return;
        }
        if self.machines[process.machine].life.as_ref().is_none_or(|life| life.process != process) {
            connection.segments.clear();
            connection.is_refused = true;
            if !self.machines[process.machine].is_off {
                self.tell_speaker(number);
            }
            self.forget(number);
            return;
        }
        self.with_process(process, Event::Arrive(number), |simulation, id| simulation.receive(number, id));
    }

    fn receive(&mut self, number: u64, id: usize) {
        let now = self.now_at(id);
        let Some(replica) = self.life(id).map(|life| life.replica()) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if matches!(connection.listener, Some(Listener::Gone)) {
            connection.segments.clear();
            self.tell_speaker(number);
            return;
        }
        let place_of_peer = place(connection.from.machine, id);
        if !connection.has_message() {
            if connection.segments.front().is_none_or(|(at, _)| *at > self.now) {
                return;
            }
            let Some((_, bytes)) = connection.segments.pop_front() else { return };
            let has_ended = bytes.is_empty();
            connection.received.extend_from_slice(&bytes);
            if let Some(Listener::Listening { heard, .. }) = &mut connection.listener {
                *heard = self.now;
                connection.heard_len += bytes.len() as u64;
                replica.links().traffic_with(place_of_peer).heard(connection.heard_len, now.elapsed);
            }
            let from = connection.from;
            let is_partial = !has_ended && !connection.has_message();
            if self.life(from.machine).is_some_and(|life| life.process == from) && self.machines[from.machine].paused.is_none() {
                self.wake_link(from.machine, place(id, from.machine));
            }
            if is_partial {
                let wait = self.short_wait();
                self.after(wait, Event::Arrive(number));
                return;
            }
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (mut reader, mut frame) = (&connection.received[..], Vec::new());
        let (len_max, protocol) = match &connection.listener {
            Some(Listener::Listening { inbound, .. }) => (MESSAGE_LEN_MAX, inbound.protocol()),
            _ => (HELLO_LEN_MAX, Protocol::OLDEST),
        };
        let read = read_message(&mut reader, &mut frame, len_max, protocol);
        let taken = connection.received.len() - reader.len();
        let fingerprint = rapidhash::v3::rapidhash_v3(&frame);
        let received = match (read, &mut connection.listener) {
            (Ok(Some(Message::Hello(hello))), None) => {
                connection.received.drain(..taken);
                self.welcome(number, id, &hello);
                return;
            }
            (Ok(Some(message)), Some(Listener::Listening { inbound, .. })) => {
                match replica.persistence().await_room(frame.len(), Instant::now()) {
                    Ok(room) => {
                        let before = self.diagram.as_ref().map(|_| BeforeMerge::of(&message, replica));
                        let received = replica.receive(inbound, Arrived { message, frame, room }, now);
                        connection.received.drain(..taken);
                        if let (Some(diagram), Some(before)) = (&mut self.diagram, before) {
                            diagram.received(self.now, number, &before, replica.store(), &received);
                        }
                        received
                    }
                    Err(_) => {
                        // It waits for room, with its message in its hands.
                        let wait = self.between(1, 5);
                        self.after(wait, Event::Arrive(number));
                        return;
                    }
                }
            }
            (Ok(_), _) => Err("the end of the stream, or no HELLO".to_owned()),
            (Err(error), _) => Err(error.to_string()),
        };
        self.note(&[number, fingerprint, u64::from(received.is_err())]);
        if let Err(reason) = received {
            if reason.contains("checksum") {
                self.count("checksums that were wrong");
            }
            self.close_listener(number);
            return;
        }
        if self.one_in(8) {
            self.check_machine(id);
        }
        // One message a turn: others have theirs between.
        let wait = self.short_wait();
        self.after(wait, Event::Arrive(number));
    }

    /// A HELLO has come: as listener.rs answers it.
    fn welcome(&mut self, number: u64, id: usize, hello: &Hello) {
        let now = self.now_at(id);
        let Some(replica) = self.life(id).map(|life| life.replica()) else { return };
        let answer = match replica.check_hello(hello, now) {
            Ok((peer, protocol)) => {
                let answer = Message::Hello(replica.hello(now));
                self.replace_listener(number, id);
                let inbound = replica.accept(peer, hello, protocol, now);
                let heard = self.now;
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.listener = Some(Listener::Listening { inbound: Box::new(inbound), heard });
                }
                answer
            }
            Err(reason) => {
                self.count("HELLOs refused");
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.listener = Some(Listener::Gone);
                }
                Message::Refused(reason)
            }
        };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.answer = Some(answer);
        let (from, to) = (connection.from.machine, connection.to.machine);
        let arrival = self.arrival(to, from);
        self.at(arrival, Event::Answer(number));
    }

    /// A newer connection of the same machine replaces an older one.
    fn replace_listener(&mut self, number: u64, id: usize) {
        let Some(from) = self.connections.get(&number).map(|connection| connection.from.machine) else { return };
        let is_older = |other: u64, connection: &Connection<'_>| {
            other != number
                && connection.to.machine == id
                && connection.from.machine == from
                && matches!(connection.listener, Some(Listener::Listening { .. }))
        };
        let older: Vec<u64> =
            self.connections.iter().filter(|(other, connection)| is_older(**other, connection)).map(|(other, _)| *other).collect();
        older.into_iter().for_each(|number| self.close_listener(number));
    }

    /// The listening end closes.
    fn close_listener(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let id = connection.to.machine;
        let listener = connection.listener.replace(Listener::Gone);
        connection.segments.clear();
        connection.is_refused = true;
        if let Some(Listener::Listening { inbound, .. }) = listener {
            let now = self.now_at(id);
            if let Some(life) = self.life(id) {
                life.replica().closed(&inbound, now);
            }
        }
        self.tell_speaker(number);
    }

    fn tell_speaker(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let (from, to) = (connection.from.machine, connection.to.machine);
        let arrival = self.arrival(to, from);
        self.at(arrival, Event::Reset(number));
    }

    pub fn answer(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        self.with_process(connection.from, Event::Answer(number), |simulation, id| simulation.take_answer(number, id));
    }

    fn take_answer(&mut self, number: u64, id: usize) {
        let now = self.now_at(id);
        let Some(replica) = self.life(id).map(|life| life.replica()) else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let place_of_peer = place(connection.to.machine, id);
        let Some(Speaker::Dialing(hello)) = connection.speaker.take() else { return };
        let answer = match connection.answer.take() {
            Some(Message::Hello(answer)) => replica.check_hello(&answer, now).ok().map(|found| (answer, found)),
            _ => None,
        };
        match answer {
            Some((answer, (found, protocol))) if found == place_of_peer => {
                replica.dialed(place_of_peer, &answer, now);
                let speech = Speech::new(replica, place_of_peer, hello.vector, protocol, 120);
                connection.speaker = Some(Speaker::Speaking(Box::new(speech)));
                connection.protocol = protocol;
                self.draw(id, StepKind::Connection, || format!("connected to n{}", peer(place_of_peer, id) + 1));
                self.count("connections");
                if protocol != Protocol::OLDEST {
                    self.count("connections of a later protocol");
                }
            }
            _ => {
                self.count("dials refused");
                self.close_speaker(number, id, place_of_peer);
            }
        }
    }

    pub fn give_up_dial(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        if !matches!(connection.speaker, Some(Speaker::Dialing(_))) {
            return;
        }
        let to = connection.to.machine;
        self.with_process(connection.from, Event::DialTimeout(number), |simulation, id| {
            simulation.count("dials given up");
            simulation.close_speaker(number, id, place(to, id));
        });
    }

    /// A link that has something to say gets a turn.
    pub fn wake_link(&mut self, id: usize, place_of_peer: usize) {
        let Some(life) = self.life(id) else { return };
        let (process, outbox) = (life.process, life.replica().links().outbox(place_of_peer));
        let Some(number) = life.speaks[place_of_peer] else {
            if outbox.takes_redial() {
                let wait = self.short_wait();
                self.after(wait, Event::Dial(process, place_of_peer));
            }
            return;
        };
        if life.is_speaking[place_of_peer] {
            return;
        }
        let Some(connection) = self.connections.get(&number) else { return };
        let Some(Speaker::Speaking(speech)) = &connection.speaker else { return };
        let under_way: usize = connection.segments.iter().map(|(_, bytes)| bytes.len()).sum();
        if under_way > self.plan.window && !connection.is_reset && outbox.is_open() {
            // It waits in its write, until some of that has arrived.
            return;
        }
        let is_dumping = speech.is_dumping();
        if is_dumping || outbox.has_waiting() {
            let pause_us = self.links[id][peer(place_of_peer, id)].dump_pause.as_micros() as u64;
            let pause_us = if is_dumping { self.random.u64(0..=pause_us) } else { 0 };
            let wait = self.short_wait() + Duration::from_micros(pause_us);
            self.after(wait, Event::Speak(process, place_of_peer));
            if let Some(life) = self.life_mut(id) {
                life.is_speaking[place_of_peer] = true;
            }
        }
    }

    pub fn speak(&mut self, id: usize, place_of_peer: usize) {
        let now = self.now_at(id);
        let Some(life) = self.life_mut(id) else { return };
        life.is_speaking[place_of_peer] = false;
        let Some(number) = life.speaks[place_of_peer] else { return };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(Speaker::Speaking(speech)) = &mut connection.speaker else { return };
        let mut bytes = Vec::new();
        let goes_on = speech.next(
            Duration::ZERO,
            || now,
            |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            },
        );
        if connection.is_reset || !goes_on.is_ok_and(|goes_on| goes_on) {
            self.close_speaker(number, id, place_of_peer);
            return;
        }
        if !bytes.is_empty() {
            self.send(number, bytes);
        }
    }

    /// The speaking end closes, and dials again later.
    fn close_speaker(&mut self, number: u64, id: usize, place_of_peer: usize) {
        if let Some(connection) = self.connections.get_mut(&number) {
            if matches!(connection.speaker.take(), Some(Speaker::Speaking(_))) {
                self.draw(id, StepKind::Connection, || format!("gives up the connection to n{}", peer(place_of_peer, id) + 1));
            }
            self.send(number, Vec::new());
        }
        self.hang_up(id, place_of_peer);
        self.forget(number);
    }

    fn hang_up(&mut self, id: usize, place_of_peer: usize) {
        let now = self.now_at(id);
        let Some(life) = self.life_mut(id) else { return };
        life.speaks[place_of_peer] = None;
        let process = life.process;
        life.replica().hung_up(place_of_peer, now);
        let pause_max = life.replica().config().reconnect_pause_max.as_millis() as u64;
        let pause = self.between(20, pause_max);
        self.after(pause, Event::Dial(process, place_of_peer));
    }

    /// Whether the one speaks to the other.
    pub fn is_connected(&self, from: usize, to: usize) -> bool {
        let number = self.life(from).and_then(|life| life.speaks[place(to, from)]);
        let connection = number.and_then(|number| self.connections.get(&number));
        connection.is_some_and(|connection| matches!(connection.speaker, Some(Speaker::Speaking(_))))
    }

    /// The word that the other end has closed is there.
    pub fn reset(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.is_reset = true;
        if matches!(connection.speaker, Some(Speaker::Dialing(_))) {
            let (from, to) = (connection.from, connection.to.machine);
            let hang_up = |simulation: &mut Simulation<'a>, id| simulation.close_speaker(number, id, place(to, id));
            self.with_process(from, Event::Reset(number), hang_up);
        }
        self.forget(number);
    }

    /// A connection of which no end is left.
    fn forget(&mut self, number: u64) {
        let is_over = |connection: &Connection<'_>| {
            connection.speaker.is_none() && (connection.is_refused || matches!(connection.listener, Some(Listener::Gone)))
        };
        if self.connections.get(&number).is_some_and(is_over) {
            self.connections.remove(&number);
        }
    }

    /// Reads that have waited for too long end their connection.
    pub fn drop_silent(&mut self, id: usize) {
        let oldest = self.now.saturating_sub(self.plan.peer_timeout());
        let is_silent = |connection: &Connection<'_>| {
            connection.to.machine == id
                && matches!(&connection.listener, Some(Listener::Listening { heard, .. }) if *heard < oldest)
                && connection.segments.front().is_none_or(|(at, _)| *at > self.now)
        };
        let silent: Vec<u64> = self.connections.iter().filter(|(_, connection)| is_silent(connection)).map(|(number, _)| *number).collect();
        for number in silent {
            self.count("connections that fell silent");
            if let Some(from) = self.connections.get(&number).map(|connection| connection.from.machine) {
                self.draw(id, StepKind::Connection, || format!("closes the connection of n{}, which is silent", from + 1));
            }
            self.close_listener(number);
        }
    }

    /// All connections of a process that is gone. `silently`: its machine tells nobody.
    pub fn disconnect(&mut self, id: usize, silently: bool) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.from.machine == id && connection.speaker.take().is_some() {
                if silently {
                    let lost = self.random.usize(0..=connection.segments.len());
                    connection.segments.truncate(lost);
                } else {
                    self.send(number, Vec::new());
                }
            }
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.to.machine == id {
                connection.listener = Some(Listener::Gone);
                connection.segments.clear();
                connection.is_refused = true;
                if !silently {
                    self.tell_speaker(number);
                }
            }
            self.forget(number);
        }
    }

    /// A connection breaks: what was sent last is lost, from somewhere in a message on.
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
        // The speaking end notices when it next has something to say.
        connection.is_reset = true;
        let (from, to) = (connection.from.machine, connection.to.machine);
        self.draw(from, StepKind::Fault, || format!("the connection to n{} breaks", to + 1));
        self.send(number, Vec::new());
    }

    /// A bit of what is under way is flipped. Whether there was any.
    pub fn flip(&mut self, number: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else { return false };
        let Some((_, bytes)) = connection.segments.iter_mut().find(|(_, bytes)| !bytes.is_empty()) else { return false };
        let (at, bit) = (self.random.usize(0..bytes.len()), self.random.u32(0..8));
        bytes[at] ^= 1 << bit;
        true
    }
}
