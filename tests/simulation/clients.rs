//! The clients: what they ask of which node, in which protocol, and what they make of the replies.
//!
//! Each keeps one connection, waits for the reply of a round before it sends the next, and moves to another node when its own is gone. They stand beside their nodes: what they hear, they
//! hear at once, so that "before" means as much as it can.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::history::{Asked, Outcome};
use crate::simulation::plan::Plan;
use crate::simulation::{Event, Simulation};
use kvmesh::testing::simulated_clients::SimulatedClient;
use kvmesh::wire::ack_level::AckLevel;

pub struct ClientState<'a> {
    /// Where it likes to be.
    home: usize,
    /// Whether it moves about all the same.
    roams: bool,
    level: AckLevel,
    session: Option<(usize, SimulatedClient<'a>)>,
    /// The operation that it waits for, and until when.
    pending: Option<(usize, Duration)>,
}

/// One command of a round.
pub struct Command {
    pub bytes: Vec<u8>,
    pub is_resp: bool,
    pub asked: Asked,
}

impl ClientState<'_> {
    pub fn draw<'a>(number: usize, plan: &Plan, random: &mut fastrand::Rng) -> ClientState<'a> {
        if plan.are_rivals {
            return ClientState { home: number, roams: false, level: AckLevel::Majority, session: None, pending: None };
        }
        let level = [AckLevel::Local, AckLevel::Majority, AckLevel::Majority, AckLevel::Majority, AckLevel::All][random.usize(0..5)];
        ClientState { home: random.usize(0..plan.nodes), roams: random.bool(), level, session: None, pending: None }
    }

    pub fn is_idle(&self) -> bool {
        self.pending.is_none()
    }
}

impl<'a> Simulation<'a> {
    /// A client's turn: it has nothing to wait for.
    pub fn act(&mut self, number: usize) {
        if self.is_healing || self.plan.is_scripted {
            return;
        }
        let at = self.clients[number].session.as_ref().map(|(machine, _)| *machine);
        match at {
            None => self.connect(number),
            Some(machine) if self.machines[machine].paused.is_some() => {}
            Some(_) if self.clients[number].roams && self.one_in(12) => self.clients[number].session = None,
            Some(machine) => {
                self.request(number, machine);
                self.wake(machine);
                return;
            }
        }
        self.think_again(number);
    }

    pub fn give_up_waiting(&mut self, number: usize) {
        let at = self.clients[number].session.as_ref().map(|(machine, _)| *machine);
        if let Some(machine) = at {
            self.wake(machine);
        }
    }

    fn think_again(&mut self, number: usize) {
        let mean = self.plan.think.as_micros() as u64;
        let wait = match self.random.u32(0..8) {
            0 => self.random.u64(0..mean / 50),
            1 => self.random.u64(0..mean * 5),
            _ => self.random.u64(0..mean),
        };
        self.after(Duration::from_micros(wait + 1), Event::Client(number));
    }

    pub fn connect(&mut self, number: usize) {
        let home = self.clients[number].home;
        let machine = if !self.plan.are_rivals && self.one_in(3) { self.random.usize(0..self.plan.nodes) } else { home };
        if self.machines[machine].paused.is_some() {
            return;
        }
        let level = self.clients[number].level;
        let now = self.now_at(machine);
        let Some(life) = self.life(machine).filter(|life| life.is_well()) else { return };
        let mut session = life.ground.server.connect();
        session.send(format!("ACK {level}\n").as_bytes(), now);
        let reply = session.poll(false);
        assert_eq!(reply, Some(&b"OK\n"[..]), "the answer to ACK");
        self.clients[number].session = Some((machine, session));
    }

    fn request(&mut self, number: usize, machine: usize) {
        let count = if !self.plan.are_rivals && self.one_in(6) { self.random.usize(2..=4) } else { 1 };
        let operation = self.history.next_operation();
        let commands: Vec<Command> = (0..count).map(|place| self.command(operation, place, machine)).collect();
        self.submit(number, machine, commands);
    }

    /// Sends one round.
    pub fn submit(&mut self, number: usize, machine: usize, commands: Vec<Command>) {
        let operation = self.history.next_operation();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| command.bytes.iter().copied()).collect();
        self.note_bytes(&bytes);
        let now = self.now_at(machine);
        let level = self.clients[number].level;
        let Some((_, session)) = &mut self.clients[number].session else { return };
        session.send(&bytes, now);
        if let Some(diagram) = &mut self.diagram {
            diagram.asked(self.now, machine, number, &commands);
        }
        self.history.ask(machine, level, self.now, commands);
        self.note_submitted(machine, Some(operation));
        self.check_asked(operation, machine);
        let deadline = self.now + self.plan.ack_timeout();
        self.clients[number].pending = Some((operation, deadline));
        self.at(deadline, Event::Late(number));
        self.count("requests");
    }

    fn command(&mut self, operation: usize, place: usize, machine: usize) -> Command {
        let keys = self.plan.keys;
        let wall_ms = self.machines[machine].wall_ms(self.now);
        let random = &mut self.random;
        let key = |sort: char, random: &mut fastrand::Rng| format!("{sort}{}", random.u32(0..keys));
        let value = format!("v{operation}.{place}");
        let mut long = value.clone();
        if self.plan.rate.is_some() && place == 0 && random.u32(0..4) == 0 {
            let len = random.usize(value.len()..=self.plan.value_len_max);
            long.extend(std::iter::repeat_n('.', len - value.len()));
        }
        let register = key('r', random);
        match random.u32(0..if self.plan.are_rivals { 4 } else { 26 }) {
            0..4 => text(format!("PUT {register} {long}"), Asked::write(&[&register])),
            4..6 => text(format!("SET {register} {long}"), Asked::write(&[&register])),
            6..8 => text(format!("UPD {register} {long}"), Asked::write(&[&register])),
            8..11 => text(format!("DEL {register}"), Asked::write(&[&register])),
            11..14 => text(format!("GET {register}"), Asked::read(&register)),
            14..16 => {
                let counter = key('n', random);
                resp(&["INCR", &counter], Asked::count(&counter))
            }
            16..18 => {
                let list = key('l', random);
                resp(&["APPEND", &list, &format!("{operation}.{place},")], Asked::write(&[&list]))
            }
            18 => {
                let list = key(['l', 'n'][random.usize(0..2)], random);
                resp(&["GETDEL", &list], Asked::write(&[&list]))
            }
            19 => {
                let list = key(['l', 'n', 'e'][random.usize(0..3)], random);
                resp(&["GET", &list], Asked::read(&list))
            }
            20..22 => {
                let expiring = key('e', random);
                match random.u32(0..4) {
                    0 => resp(&["PEXPIREAT", &expiring, &(wall_ms + random.u64(1..5_000)).to_string()], Asked::write(&[&expiring])),
                    1 => resp(&["SET", &expiring, &value], Asked::write(&[&expiring])),
                    2 => resp(&["PSETEX", &expiring, "3600000", &value], Asked::write(&[&expiring])),
                    _ => resp(&["PSETEX", &expiring, &random.u64(1..3_000).to_string(), &value], Asked::write(&[&expiring])),
                }
            }
            22 => {
                let other = key('r', random);
                resp(&["MSET", &register, &value, &other, &value], Asked::write(&[&register, &other]))
            }
            23 => {
                let other = key('r', random);
                resp(&["DEL", &register, &other], Asked::write(&[&register, &other]))
            }
            // A pair, which one machine writes in one step, and others in part.
            _ => {
                let pair = random.u32(0..keys);
                let (one, other) = (format!("p{pair}a"), format!("p{pair}b"));
                if pair as usize % self.plan.nodes == machine {
                    resp(&["MSET", &one, &value, &other, &value], Asked::write(&[&one, &other]))
                } else {
                    text(format!("PUT {one} {value}"), Asked::write(&[&one]))
                }
            }
        }
    }

    /// Who waits at this machine looks whether it is answered.
    pub fn poll_clients(&mut self, machine: usize) {
        for number in 0..self.clients.len() {
            let Some((operation, deadline)) = self.clients[number].pending else { continue };
            let is_late = self.now >= deadline;
            let Some((_, session)) = self.clients[number].session.as_mut().filter(|(at, _)| *at == machine) else { continue };
            let replies = session.poll(is_late).map(<[u8]>::to_vec);
            let Some(replies) = replies else { continue };
            self.clients[number].pending = None;
            self.think_again(number);
            self.note_bytes(&replies);
            self.hear(number, operation, machine, &replies);
        }
    }

    fn hear(&mut self, number: usize, operation: usize, machine: usize, mut replies: &[u8]) {
        let mut outcomes = Vec::new();
        for command in self.history.commands(operation) {
            match take_reply(&mut replies, command) {
                Some(outcome) => outcomes.push(outcome),
                None => {
                    self.violate("replies", format!("operation {operation}: no reply to {:?}", String::from_utf8_lossy(&command.bytes)));
                    return;
                }
            }
        }
        if !replies.is_empty() {
            self.violate("replies", format!("operation {operation}: more than was asked for: {:?}", String::from_utf8_lossy(replies)));
            return;
        }
        for outcome in &outcomes {
            self.count(match outcome {
                Outcome::Done(_) | Outcome::Nothing => "done",
                Outcome::Refused(_) => "refused",
                Outcome::Unknown => "unknown",
            });
        }
        self.check_heard(operation, machine, &outcomes);
        self.history.hear(operation, self.now, outcomes);
        if let Some(diagram) = &mut self.diagram {
            diagram.heard(self.now, number, &self.history.operations[operation]);
        }
    }

    /// The process is gone, and what was waited for there is unknown.
    pub fn disconnect_clients(&mut self, machine: usize) {
        for number in 0..self.clients.len() {
            if self.clients[number].session.as_ref().is_none_or(|(at, _)| *at != machine) {
                continue;
            }
            self.clients[number].session = None;
            if self.clients[number].pending.take().is_some() {
                self.count("cut off");
                self.draw(machine, StepKind::Reply(number), || format!("c{} is cut off: outcome unknown", number + 1));
                self.think_again(number);
            }
        }
    }
}

pub fn text(line: String, asked: Asked) -> Command {
    Command { bytes: (line + "\n").into_bytes(), is_resp: false, asked }
}

fn resp(words: &[&str], asked: Asked) -> Command {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let count = asked_count(&words);
    Command { bytes: format!("*{count}\r\n{words}").into_bytes(), is_resp: true, asked }
}

fn asked_count(words: &str) -> usize {
    words.matches("\r\n").count() / 2
}

/// One reply from the front.
fn take_reply(replies: &mut &[u8], command: &Command) -> Option<Outcome> {
    let line = take_line(replies)?;
    let is_read = !command.asked.may_write;
    if !command.is_resp {
        let line = String::from_utf8_lossy(line);
        return Some(match line.strip_prefix("ERROR ") {
            Some(error) => failed(error),
            None => Outcome::Done(line.strip_prefix("VALUE ").map(|value| value.as_bytes().to_vec())),
        });
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(match line.split_first()? {
        (b'-', error) => failed(&String::from_utf8_lossy(error)),
        (b'$', b"-1") if is_read => Outcome::Done(None),
        (b'$', b"-1") | (b':', b"0") => Outcome::Nothing,
        (b'$', len) => {
            let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
            let (value, rest) = replies.split_at_checked(len + 2)?;
            *replies = rest;
            Outcome::Done(Some(value[..len].to_vec()))
        }
        _ => Outcome::Done(None),
    })
}

fn take_line<'r>(replies: &mut &'r [u8]) -> Option<&'r [u8]> {
    let end = memchr::memchr(b'\n', replies)?;
    let (line, rest) = replies.split_at(end);
    *replies = &rest[1..];
    Some(line)
}

fn failed(error: &str) -> Outcome {
    let code = error.split(' ').next().unwrap_or_default().to_owned();
    if code == "TIMEOUT" { Outcome::Unknown } else { Outcome::Refused(code) }
}
