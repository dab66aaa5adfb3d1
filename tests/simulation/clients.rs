//! The clients: what each sends to which node, in which protocol, and how it reads the replies.
//!
//! A client keeps one connection. It waits for the replies of a round before it sends the next, and
//! moves to another node when its own is gone. Clients stand beside their nodes: a reply takes no
//! time, so that "before" means as much as it can.

use std::time::Duration;

use crate::simulation::diagram::StepKind;
use crate::simulation::history::{Footprint, ReplyOutcome};
use crate::simulation::plan::RunPlan;
use crate::simulation::{Simulator, SimulatorEvent};
use kvmesh::testing::simulated_clients::SimulatedClient;
use kvmesh::wire::ack_level::AckLevel;

/// A client and its connection.
pub struct ClientState<'a> {
    /// The machine that the client prefers.
    home: usize,
    /// True for a client that changes machines now and then.
    roams: bool,
    level: AckLevel,
    session: Option<(usize, SimulatedClient<'a>)>,
    /// The round that the client waits for, and its deadline.
    pending: Option<(usize, Duration)>,
}

/// One command of a round.
pub struct SimulatedCommand {
    pub bytes: Vec<u8>,
    pub is_resp: bool,
    pub footprint: Footprint,
}

impl ClientState<'_> {
    pub fn draw<'a>(number: usize, plan: &RunPlan, random: &mut fastrand::Rng) -> ClientState<'a> {
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

impl<'a> Simulator<'a> {
    /// Gives a client its turn. It waits for nothing at the moment.
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
        self.after(Duration::from_micros(wait + 1), SimulatorEvent::Client(number));
    }

    pub fn connect(&mut self, number: usize) {
        let home = self.clients[number].home;
        let machine = if !self.plan.are_rivals && self.one_in(3) { self.random.usize(0..self.plan.nodes) } else { home };
        if self.machines[machine].paused.is_some() {
            return;
        }
        let level = self.clients[number].level;
        let now = self.now_at(machine);
        let Some(running) = self.running(machine).filter(|running| running.is_healthy()) else { return };
        let mut session = running.parts.server.connect();
        session.send(format!("ACK {level}\n").as_bytes(), now);
        let reply = session.poll(false);
        assert_eq!(reply, Some(&b"OK\n"[..]), "the answer to ACK");
        self.clients[number].session = Some((machine, session));
    }

    fn request(&mut self, number: usize, machine: usize) {
        let count = if !self.plan.are_rivals && self.one_in(6) { self.random.usize(2..=4) } else { 1 };
        let round = self.history.next_round();
        let commands: Vec<SimulatedCommand> = (0..count).map(|index| self.command(round, index, machine)).collect();
        self.submit(number, machine, commands);
    }

    /// Sends one round.
    pub fn submit(&mut self, number: usize, machine: usize, commands: Vec<SimulatedCommand>) {
        let round = self.history.next_round();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| command.bytes.iter().copied()).collect();
        self.trace_bytes(&bytes);
        let now = self.now_at(machine);
        let level = self.clients[number].level;
        let Some((_, session)) = &mut self.clients[number].session else { return };
        session.send(&bytes, now);
        if let Some(diagram) = &mut self.diagram {
            diagram.asked(self.now, machine, number, &commands);
        }
        self.history.record_round(machine, level, self.now, commands);
        self.note_submitted(machine, Some(round));
        self.check_reads(round, machine);
        let deadline = self.now + self.plan.ack_timeout();
        self.clients[number].pending = Some((round, deadline));
        self.at(deadline, SimulatorEvent::RoundTimeout(number));
        self.count("requests");
    }

    fn command(&mut self, round: usize, index: usize, machine: usize) -> SimulatedCommand {
        let keys = self.plan.keys;
        let wall_ms = self.machines[machine].wall_ms(self.now);
        let random = &mut self.random;
        let key = |sort: char, random: &mut fastrand::Rng| format!("{sort}{}", random.u32(0..keys));
        let value = format!("v{round}.{index}");
        let mut long = value.clone();
        if self.plan.rate.is_some() && index == 0 && random.u32(0..4) == 0 {
            let len = random.usize(value.len()..=self.plan.value_len_max);
            long.extend(std::iter::repeat_n('.', len - value.len()));
        }
        let register = key('r', random);
        match random.u32(0..if self.plan.are_rivals { 4 } else { 26 }) {
            0..4 => text(format!("PUT {register} {long}"), Footprint::write(&[&register])),
            4..6 => text(format!("SET {register} {long}"), Footprint::write(&[&register])),
            6..8 => text(format!("UPD {register} {long}"), Footprint::write(&[&register])),
            8..11 => text(format!("DEL {register}"), Footprint::write(&[&register])),
            11..14 => text(format!("GET {register}"), Footprint::read(&register)),
            14..16 => {
                let counter = key('n', random);
                resp(&["INCR", &counter], Footprint::count(&counter))
            }
            16..18 => {
                let list = key('l', random);
                resp(&["APPEND", &list, &format!("{round}.{index},")], Footprint::write(&[&list]))
            }
            18 => {
                let list = key(['l', 'n'][random.usize(0..2)], random);
                resp(&["GETDEL", &list], Footprint::write(&[&list]))
            }
            19 => {
                let list = key(['l', 'n', 'e'][random.usize(0..3)], random);
                resp(&["GET", &list], Footprint::read(&list))
            }
            20..22 => {
                let expiring = key('e', random);
                match random.u32(0..4) {
                    0 => resp(&["PEXPIREAT", &expiring, &(wall_ms + random.u64(1..5_000)).to_string()], Footprint::write(&[&expiring])),
                    1 => resp(&["SET", &expiring, &value], Footprint::write(&[&expiring])),
                    2 => resp(&["PSETEX", &expiring, "3600000", &value], Footprint::write(&[&expiring])),
                    _ => resp(&["PSETEX", &expiring, &random.u64(1..3_000).to_string(), &value], Footprint::write(&[&expiring])),
                }
            }
            22 => {
                let other = key('r', random);
                resp(&["MSET", &register, &value, &other, &value], Footprint::write(&[&register, &other]))
            }
            23 => {
                let other = key('r', random);
                resp(&["DEL", &register, &other], Footprint::write(&[&register, &other]))
            }
            // A pair of keys: one machine writes both in one step, the others write only the first.
            _ => {
                let pair = random.u32(0..keys);
                let (one, other) = (format!("p{pair}a"), format!("p{pair}b"));
                if pair as usize % self.plan.nodes == machine {
                    resp(&["MSET", &one, &value, &other, &value], Footprint::write(&[&one, &other]))
                } else {
                    text(format!("PUT {one} {value}"), Footprint::write(&[&one]))
                }
            }
        }
    }

    /// Takes the replies of the clients that wait at this machine, where there are any.
    pub fn poll_clients(&mut self, machine: usize) {
        for number in 0..self.clients.len() {
            let Some((round, deadline)) = self.clients[number].pending else { continue };
            let is_late = self.now >= deadline;
            let Some((_, session)) = self.clients[number].session.as_mut().filter(|(at, _)| *at == machine) else { continue };
            let replies = session.poll(is_late).map(<[u8]>::to_vec);
            let Some(replies) = replies else { continue };
            self.clients[number].pending = None;
            self.think_again(number);
            self.trace_bytes(&replies);
            self.take_replies(number, round, machine, &replies);
        }
    }

    fn take_replies(&mut self, number: usize, round: usize, machine: usize, mut replies: &[u8]) {
        let mut outcomes = Vec::new();
        for command in self.history.commands(round) {
            match take_reply(&mut replies, command) {
                Some(outcome) => outcomes.push(outcome),
                None => {
                    self.violate("replies", format!("round {round}: no reply to {:?}", String::from_utf8_lossy(&command.bytes)));
                    return;
                }
            }
        }
        if !replies.is_empty() {
            self.violate("replies", format!("round {round}: more than was asked for: {:?}", String::from_utf8_lossy(replies)));
            return;
        }
        for outcome in &outcomes {
            self.count(match outcome {
                ReplyOutcome::Done(_) | ReplyOutcome::Nothing => "done",
                ReplyOutcome::Refused(_) => "refused",
                ReplyOutcome::Unknown => "unknown",
            });
        }
        self.check_replies(round, machine, &outcomes);
        self.history.record_replies(round, self.now, outcomes);
        if let Some(diagram) = &mut self.diagram {
            diagram.answered(self.now, number, &self.history.rounds[round]);
        }
    }

    /// Breaks the connections to a process that is gone. The outcome of what was waited for is
    /// unknown.
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

pub fn text(line: String, footprint: Footprint) -> SimulatedCommand {
    SimulatedCommand { bytes: (line + "\n").into_bytes(), is_resp: false, footprint }
}

fn resp(words: &[&str], footprint: Footprint) -> SimulatedCommand {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let count = word_count(&words);
    SimulatedCommand { bytes: format!("*{count}\r\n{words}").into_bytes(), is_resp: true, footprint }
}

fn word_count(words: &str) -> usize {
    words.matches("\r\n").count() / 2
}

/// Takes one reply from the front.
fn take_reply(replies: &mut &[u8], command: &SimulatedCommand) -> Option<ReplyOutcome> {
    let line = take_line(replies)?;
    let is_read = !command.footprint.may_write;
    if !command.is_resp {
        let line = String::from_utf8_lossy(line);
        return Some(match line.strip_prefix("ERROR ") {
            Some(error) => failed(error),
            None => ReplyOutcome::Done(line.strip_prefix("VALUE ").map(|value| value.as_bytes().to_vec())),
        });
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(match line.split_first()? {
        (b'-', error) => failed(&String::from_utf8_lossy(error)),
        (b'$', b"-1") if is_read => ReplyOutcome::Done(None),
        (b'$', b"-1") | (b':', b"0") => ReplyOutcome::Nothing,
        (b'$', len) => {
            let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
            let (value, rest) = replies.split_at_checked(len + 2)?;
            *replies = rest;
            ReplyOutcome::Done(Some(value[..len].to_vec()))
        }
        _ => ReplyOutcome::Done(None),
    })
}

fn take_line<'r>(replies: &mut &'r [u8]) -> Option<&'r [u8]> {
    let end = memchr::memchr(b'\n', replies)?;
    let (line, rest) = replies.split_at(end);
    *replies = &rest[1..];
    Some(line)
}

fn failed(error: &str) -> ReplyOutcome {
    let code = error.split(' ').next().unwrap_or_default().to_owned();
    if code == "TIMEOUT" { ReplyOutcome::Unknown } else { ReplyOutcome::Refused(code) }
}
