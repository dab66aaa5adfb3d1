//! A fault being done: begun, kept up, ended, and what came of it.
//!
//! An effect is what was seen, not what was asked for: a process that died of the signal, a connection that broke, a frame that did not come, a write that
//! was refused. A fault without effect has tested nothing.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};

use crate::clock_ahead;
use crate::kit::proxy::{Effects, Mode};
use crate::kit::wait::poll_until;
use crate::nodes::Nodes;
use crate::schedule::{Fault, Kind};
use crate::survey;

/// A node that a signal has stopped does not answer in this time; neither does one that is merely slow, which is why it is asked while it stands still.
const PING_TIMEOUT: Duration = Duration::from_millis(300);
/// Until a node has closed a connection on which a corrupted frame came.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// What a log may still grow by until the disk is full.
const DISK_LEFT: u64 = 2_000;
/// Until a write has met the full disk.
const FILL_TIMEOUT: Duration = Duration::from_secs(6);
/// Enough dumps that no buffer between holds their replies.
const DUMPS_ASKED: usize = 2_000;
/// How far the clock is pushed ahead: less than half of `clock_offset_max`, beyond which no node goes along, and more than a fault lasts.
const CLOCK_AHEAD: Duration = Duration::from_secs(4);
const PUSH_TIMEOUT: Duration = Duration::from_secs(6);
const RECEIVE_BUFFER: usize = 4 << 10;
/// Until a node has given up on a client that reads nothing, far above its `write_timeout`.
const DEAF_TIMEOUT: Duration = Duration::from_secs(8);

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    pub count: u64,
    pub noun: &'static str,
}

pub struct Ongoing {
    pub fault: Fault,
    began: Instant,
    before: Effects,
    /// What was seen of it so far, where the proxies do not count it.
    seen: u64,
    is_cut: bool,
    next_turn: Instant,
    client: Option<TcpStream>,
    refused_before: u64,
    /// What must not be.
    pub complaints: Vec<String>,
}

impl Ongoing {
    pub fn begin(fault: Fault, nodes: &mut Nodes) -> io::Result<Ongoing> {
        let now = Instant::now();
        let mut ongoing = Ongoing {
            before: nodes.effects(&fault.links),
            began: now,
            seen: 0,
            is_cut: false,
            next_turn: now,
            client: None,
            refused_before: 0,
            complaints: Vec::new(),
            fault,
        };
        let fault = ongoing.fault.clone();
        match (fault.kind, fault.victims.first().copied()) {
            (Kind::Kill, _) => ongoing.seen = nodes.kill(&fault.victims),
            (Kind::Stop, Some(victim)) => nodes.pause(victim)?,
            (Kind::Restart, Some(victim)) => {
                match nodes.stop(victim) {
                    Ok(()) => ongoing.seen = 1,
                    Err(how) => ongoing.complaints.push(how),
                }
                if fault.other_way {
                    nodes.start(victim)?;
                }
            }
            // Writes that it takes after the cut are on its disk alone, and nobody may have been promised more.
            (Kind::Wipe, Some(_)) if fault.other_way => nodes.set_links(&fault.links, Mode::Cut),
            (Kind::Wipe, Some(victim)) => ongoing.lose_disk(nodes, victim)?,
            (Kind::ClockAhead, Some(victim)) => {
                nodes.set_links(&fault.links, ongoing.mode());
                // A node takes one dump at a time, and says so while another one is on its way.
                let pushed = poll_until(now + PUSH_TIMEOUT, || clock_ahead::push(nodes.place(victim), CLOCK_AHEAD));
                ongoing.complaints.extend(pushed.err());
                ongoing.seen = survey::status(nodes.place(victim)).map_or(0, |status| status.number("clock_ahead_ms"));
            }
            (Kind::DeafClient, Some(victim)) => ongoing.client = Some(deaf_client(nodes, victim)?),
            (Kind::DiskFull, Some(victim)) => {
                ongoing.refused_before = survey::status(nodes.place(victim)).map_or(0, |status| status.number("writes_refused"));
                limit_files(nodes, victim, Some(log_len(nodes, victim)? + DISK_LEFT))?;
            }
            (Kind::CutTwoWay, _) if fault.other_way => nodes.forget_links(&fault.links),
            _ => nodes.set_links(&fault.links, ongoing.mode()),
        }
        Ok(ongoing)
    }

    /// What its links do. A flapping one is cut in its first step.
    fn mode(&self) -> Mode {
        match (self.fault.kind, self.fault.other_way) {
            (Kind::CutOneWay, false) => Mode::Swallow,
            (Kind::CutOneWay, true) | (Kind::CutTwoWay | Kind::Hub, _) => Mode::Cut,
            (Kind::Delay | Kind::ClockAhead, _) => Mode::Delay(self.fault.pace),
            (Kind::Narrow, _) => Mode::Narrow(self.fault.pace),
            (Kind::DeafPeer, false) => Mode::Deaf,
            (Kind::DeafPeer, true) => Mode::Stall,
            (Kind::Reset, _) => Mode::Reset,
            (Kind::Flip, _) => Mode::Flip,
            (Kind::Duplicate, false) => Mode::DuplicateFrames,
            (Kind::Duplicate, true) => Mode::DuplicateBytes,
            _ => Mode::Pass,
        }
    }

    fn lose_disk(&mut self, nodes: &mut Nodes, victim: u16) -> io::Result<()> {
        nodes.kill(&[victim]);
        self.seen = nodes.lose_disk(victim)?;
        Ok(())
    }

    /// To be called every now and then while it lasts.
    pub fn step(&mut self, nodes: &Nodes) {
        if self.fault.kind == Kind::Flap && Instant::now() >= self.next_turn {
            self.is_cut = !self.is_cut;
            nodes.set_links(&self.fault.links, if self.is_cut { Mode::Cut } else { Mode::Pass });
            self.next_turn = Instant::now() + self.fault.pace;
        }
    }

    /// Whether it has lasted long enough.
    pub fn is_due(&mut self, nodes: &Nodes) -> bool {
        let lasted = self.began.elapsed();
        match (self.fault.kind, self.fault.victims.first()) {
            // A full disk counts from when it was met.
            (Kind::DiskFull, Some(victim)) if lasted < FILL_TIMEOUT => {
                lasted >= self.fault.duration && self.refusals(nodes, *victim).is_ok_and(|refused| refused > 0)
            }
            (Kind::DeafClient, _) if lasted < DEAF_TIMEOUT => {
                // The node resets it, with requests unread.
                let is_reset = self.client.as_ref().is_some_and(|client| matches!(client.take_error(), Ok(Some(_))));
                self.seen = self.seen.max(is_reset.into());
                lasted >= self.fault.duration && self.seen > 0
            }
            _ => lasted >= self.fault.duration,
        }
    }

    /// Ends it. What is broken mends by itself from here on.
    pub fn end(&mut self, nodes: &mut Nodes) -> io::Result<()> {
        let fault = self.fault.clone();
        match (fault.kind, fault.victims.first().copied()) {
            (Kind::Wipe, Some(victim)) => {
                if self.seen == 0 {
                    self.lose_disk(nodes, victim)?;
                }
                nodes.set_links(&fault.links, Mode::Pass);
                nodes.start(victim)?;
            }
            (Kind::Kill, _) => fault.victims.iter().try_for_each(|victim| nodes.start(*victim))?,
            (Kind::Restart, Some(victim)) if !fault.other_way => nodes.start(victim)?,
            (Kind::Stop, Some(victim)) => {
                self.seen = u64::from(!survey::answers(nodes.place(victim), PING_TIMEOUT));
                nodes.resume(victim)?;
            }
            (Kind::DeafClient, _) => self.client = None,
            (Kind::DiskFull, Some(victim)) => self.free_disk(nodes, victim)?,
            _ => {}
        }
        if matches!(fault.kind, Kind::Flip | Kind::Duplicate) {
            self.await_closes(nodes);
        }
        nodes.set_links(&fault.links, Mode::Pass);
        Ok(())
    }

    /// What has come of it, once it has ended.
    pub fn effect(&self, nodes: &Nodes) -> Effect {
        let effects = nodes.effects(&self.fault.links).since(&self.before);
        let (count, noun) = match (self.fault.kind, self.fault.other_way) {
            (Kind::Kill, _) => (self.seen, "processes killed"),
            (Kind::Stop, _) => (self.seen, "nodes silent"),
            (Kind::Restart, _) => (self.seen, "processes stopped in order"),
            (Kind::Wipe, _) => (self.seen, "files lost"),
            (Kind::CutOneWay, false) => (effects.frames_dropped, "frames dropped or connections broken"),
            (Kind::CutOneWay, true) => (effects.broken + effects.refused, "frames dropped or connections broken"),
            (Kind::CutTwoWay, _) => (effects.broken + effects.refused + effects.forgotten, "connections broken, refused or forgotten"),
            (Kind::Hub | Kind::Flap, _) => (effects.broken + effects.refused, "connections broken or refused"),
            (Kind::Delay, _) => (effects.bytes_delayed, "bytes delayed"),
            (Kind::Narrow, _) => (effects.bytes_slowed, "bytes slowed down"),
            (Kind::ClockAhead, _) => (self.seen, "milliseconds ahead"),
            (Kind::DeafPeer, _) => (effects.bytes_held, "bytes held back"),
            (Kind::DeafClient, _) => (self.seen, "clients closed by the node"),
            (Kind::Reset, _) => (effects.resets, "connections reset in mid-frame"),
            (Kind::Flip, _) => (effects.closed_by_node, "connections closed by the node"),
            (Kind::Duplicate, _) => (effects.duplicated, "frames or parts of them sent twice"),
            (Kind::DiskFull, _) => (self.seen, "writes refused"),
        };
        Effect { count, noun }
    }

    /// Every connection that carried a wrong byte is closed by who received it, unless who dialled ends it first, and not by the end of the fault.
    fn await_closes(&mut self, nodes: &Nodes) {
        // Nothing more is corrupted from here on.
        nodes.set_links(&self.fault.links, Mode::Pass);
        let all_closed = poll_until(Instant::now() + CLOSE_TIMEOUT, || {
            let effects = nodes.effects(&self.fault.links).since(&self.before);
            let open = effects.corrupted_open();
            if open == 0 { Ok(()) } else { Err(format!("{} left {open} of {} corrupted connections open", self.fault, effects.corrupted)) }
        });
        self.complaints.extend(all_closed.err());
    }

    /// Writes that the full disk has refused so far; an error is a log that goes on.
    fn refusals(&self, nodes: &Nodes, victim: u16) -> Result<u64, String> {
        let status = survey::status(nodes.place(victim))?;
        match status.text("log").starts_with("stopped") {
            true => Ok(status.number("writes_refused").saturating_sub(self.refused_before)),
            false => Err(format!("the log of n{victim} is {}", status.text("log"))),
        }
    }

    fn free_disk(&mut self, nodes: &mut Nodes, victim: u16) -> io::Result<()> {
        match self.refusals(nodes, victim) {
            Ok(refused) => self.seen = refused,
            Err(why) => self.complaints.push(format!("the disk of n{victim} did not get full: {why}")),
        }
        limit_files(nodes, victim, None)?;
        if self.fault.other_way {
            let resumed = poll_until(Instant::now() + CLOSE_TIMEOUT, || survey::resume(nodes.place(victim)));
            self.complaints.extend(resumed.err().map(|why| format!("RESUME with space on the disk: {why}")));
        } else {
            self.complaints.extend(nodes.stop(victim).err());
            nodes.start(victim)?;
        }
        Ok(())
    }
}

/// Asks for far more than it takes, and reads nothing.
fn deaf_client(nodes: &Nodes, victim: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect_timeout(&nodes.place(victim).addr.into(), Duration::from_secs(2))?;
    let mut stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all("DUMP\n".repeat(DUMPS_ASKED).as_bytes())?;
    Ok(stream)
}

/// Bytes of the log that is written now.
fn log_len(nodes: &Nodes, victim: u16) -> io::Result<u64> {
    let mut newest = (String::new(), 0);
    for file in fs::read_dir(nodes.data_dir(victim))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with("log-") && name > newest.0 {
            newest = (name, file.metadata()?.size());
        }
    }
    Ok(newest.1)
}

/// No file of this process grows beyond so many bytes; `None` lifts that. To the process it is a disk that takes no more.
fn limit_files(nodes: &Nodes, victim: u16, len: Option<u64>) -> io::Result<()> {
    let own = getrlimit(Resource::Fsize);
    let limit = Rlimit { current: len.or(own.current), maximum: own.maximum };
    let process = nodes.process_id(victim).and_then(Pid::from_raw);
    // Without a process the limit would be this one's.
    let process = process.ok_or_else(|| io::Error::other(format!("n{victim} does not run")))?;
    prlimit(Some(process), Resource::Fsize, limit)?;
    Ok(())
}
