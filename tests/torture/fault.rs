//! A fault in progress: begun, kept up, ended, and what came of it.
//!
//! An effect is what was observed, not what was asked for: a process that died of the signal, a
//! connection that broke, a frame that did not arrive, a write that was refused. A fault without an
//! effect has tested nothing.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::process::Resource;
use socket2::{Domain, Socket, Type};

use crate::clock_ahead;
use crate::kit::process::limit;
use crate::kit::proxy::{Effects, Mode};
use crate::kit::wait::poll_until;
use crate::nodes::Nodes;
use crate::schedule::{Fault, FaultKind};
use crate::survey;

/// A stopped node does not answer PING in this time. Nor may one that is merely slow, so a node is
/// asked while it is stopped.
const PING_TIMEOUT: Duration = Duration::from_millis(300);
/// Time in which a node has to close a connection that carried a corrupted frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Bytes by which a log may still grow before the disk is full.
const DISK_LEFT: u64 = 2_000;
/// Time in which a write has to meet the full disk.
const FILL_TIMEOUT: Duration = Duration::from_secs(6);
/// Number of dumps whose replies no buffer on the way can hold.
const DUMPS_ASKED: usize = 2_000;
/// How far the clock is pushed ahead. Less than half of `clock_offset_max`, beyond which no node
/// follows, and more than a fault lasts.
const CLOCK_AHEAD: Duration = Duration::from_secs(4);
/// Far above what it takes: a restore waits for the disk, on a machine that may be busy.
const PUSH_TIMEOUT: Duration = Duration::from_secs(30);
const RECEIVE_BUFFER: usize = 4 << 10;
/// Time in which a node has to give up a client that reads nothing, far above its `write_timeout`.
const DEAF_TIMEOUT: Duration = Duration::from_secs(8);

/// The effect of a fault, as it was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    pub count: u64,
    pub noun: &'static str,
}

pub struct Ongoing {
    pub fault: Fault,
    began: Instant,
    before: Effects,
    /// Effects that the proxies do not count.
    seen: u64,
    is_cut: bool,
    next_turn: Instant,
    client: Option<TcpStream>,
    refused_before: u64,
    /// Events that must not happen.
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
            (FaultKind::Kill, _) => ongoing.seen = nodes.kill(&fault.victims),
            (FaultKind::Stop, Some(victim)) => nodes.pause(victim)?,
            (FaultKind::Restart, Some(victim)) => {
                match nodes.stop(victim) {
                    Ok(()) => ongoing.seen = 1,
                    Err(how) => ongoing.complaints.push(how),
                }
                if fault.other_way {
                    nodes.start(victim)?;
                }
            }
            // Writes after the cut are on this node's disk alone, and no client may have been
            // promised more.
            (FaultKind::Wipe, Some(_)) if fault.other_way => nodes.set_links(&fault.links, Mode::Cut),
            (FaultKind::Wipe, Some(victim)) => ongoing.lose_disk(nodes, victim)?,
            (FaultKind::ClockAhead, Some(victim)) => {
                nodes.set_links(&fault.links, ongoing.mode());
                // A node takes one dump at a time, and refuses this one while another is on its
                // way.
                let pushed = poll_until(now + PUSH_TIMEOUT, || clock_ahead::push(nodes.handle(victim), CLOCK_AHEAD));
                ongoing.complaints.extend(pushed.err());
                ongoing.seen = survey::status(nodes.handle(victim)).map_or(0, |status| status.number("clock_ahead_ms"));
            }
            (FaultKind::DeafClient, Some(victim)) => ongoing.client = Some(deaf_client(nodes, victim)?),
            (FaultKind::DiskFull, Some(victim)) => {
                ongoing.refused_before = survey::status(nodes.handle(victim)).map_or(0, |status| status.number("writes_refused"));
                limit_files(nodes, victim, Some(log_len(nodes, victim)? + DISK_LEFT))?;
            }
            (FaultKind::CutTwoWay, _) if fault.other_way => nodes.forget_links(&fault.links),
            _ => nodes.set_links(&fault.links, ongoing.mode()),
        }
        Ok(ongoing)
    }

    /// The mode of its links. A flapping link is cut in its first step.
    fn mode(&self) -> Mode {
        match (self.fault.kind, self.fault.other_way) {
            (FaultKind::CutOneWay, false) => Mode::Swallow,
            (FaultKind::CutOneWay, true) | (FaultKind::CutTwoWay | FaultKind::Hub, _) => Mode::Cut,
            (FaultKind::Delay | FaultKind::ClockAhead, _) => Mode::Delay(self.fault.pace),
            (FaultKind::Narrow, _) => Mode::Narrow(self.fault.pace),
            (FaultKind::DeafPeer, false) => Mode::Deaf,
            (FaultKind::DeafPeer, true) => Mode::Stall,
            (FaultKind::Reset, _) => Mode::Reset,
            (FaultKind::Flip, _) => Mode::Flip,
            (FaultKind::Duplicate, false) => Mode::DuplicateFrames,
            (FaultKind::Duplicate, true) => Mode::DuplicateBytes,
            _ => Mode::Pass,
        }
    }

    fn lose_disk(&mut self, nodes: &mut Nodes, victim: u16) -> io::Result<()> {
        nodes.kill(&[victim]);
        self.seen = nodes.lose_disk(victim)?;
        Ok(())
    }

    /// Takes the next step of a fault that has some. To be called every now and then.
    pub fn step(&mut self, nodes: &Nodes) {
        if self.fault.kind == FaultKind::Flap && Instant::now() >= self.next_turn {
            self.is_cut = !self.is_cut;
            nodes.set_links(&self.fault.links, if self.is_cut { Mode::Cut } else { Mode::Pass });
            self.next_turn = Instant::now() + self.fault.pace;
        }
    }

    /// Returns whether the fault has lasted long enough.
    pub fn is_due(&mut self, nodes: &Nodes) -> bool {
        let lasted = self.began.elapsed();
        match (self.fault.kind, self.fault.victims.first()) {
            // A full disk counts from the first refused write.
            (FaultKind::DiskFull, Some(victim)) if lasted < FILL_TIMEOUT => {
                lasted >= self.fault.duration && self.refusals(nodes, *victim).is_ok_and(|refused| refused > 0)
            }
            (FaultKind::DeafClient, _) if lasted < DEAF_TIMEOUT => {
                // The node resets the connection, with requests unread.
                let is_reset = self.client.as_ref().is_some_and(|client| matches!(client.take_error(), Ok(Some(_))));
                self.seen = self.seen.max(is_reset.into());
                lasted >= self.fault.duration && self.seen > 0
            }
            _ => lasted >= self.fault.duration,
        }
    }

    /// Ends the fault. From here on the mesh mends by itself.
    pub fn end(&mut self, nodes: &mut Nodes) -> io::Result<()> {
        let fault = self.fault.clone();
        match (fault.kind, fault.victims.first().copied()) {
            (FaultKind::Wipe, Some(victim)) => {
                if self.seen == 0 {
                    self.lose_disk(nodes, victim)?;
                }
                nodes.set_links(&fault.links, Mode::Pass);
                nodes.start(victim)?;
            }
            (FaultKind::Kill, _) => fault.victims.iter().try_for_each(|victim| nodes.start(*victim))?,
            (FaultKind::Restart, Some(victim)) if !fault.other_way => nodes.start(victim)?,
            (FaultKind::Stop, Some(victim)) => {
                self.seen = u64::from(!survey::answers(nodes.handle(victim), PING_TIMEOUT));
                nodes.resume(victim)?;
            }
            (FaultKind::DeafClient, _) => self.client = None,
            (FaultKind::DiskFull, Some(victim)) => self.free_disk(nodes, victim)?,
            _ => {}
        }
        if matches!(fault.kind, FaultKind::Flip | FaultKind::Duplicate) {
            self.await_closes(nodes);
        }
        nodes.set_links(&fault.links, Mode::Pass);
        Ok(())
    }

    /// The effect of the fault, once it has ended.
    pub fn effect(&self, nodes: &Nodes) -> Observed {
        let effects = nodes.effects(&self.fault.links).since(&self.before);
        let (count, noun) = match (self.fault.kind, self.fault.other_way) {
            (FaultKind::Kill, _) => (self.seen, "processes killed"),
            (FaultKind::Stop, _) => (self.seen, "nodes silent"),
            (FaultKind::Restart, _) => (self.seen, "processes stopped in order"),
            (FaultKind::Wipe, _) => (self.seen, "files lost"),
            (FaultKind::CutOneWay, false) => (effects.frames_dropped, "frames dropped or connections broken"),
            (FaultKind::CutOneWay, true) => (effects.broken + effects.refused, "frames dropped or connections broken"),
            (FaultKind::CutTwoWay, _) => (effects.broken + effects.refused + effects.forgotten, "connections broken, refused or forgotten"),
            (FaultKind::Hub | FaultKind::Flap, _) => (effects.broken + effects.refused, "connections broken or refused"),
            (FaultKind::Delay, _) => (effects.bytes_delayed, "bytes delayed"),
            (FaultKind::Narrow, _) => (effects.bytes_slowed, "bytes slowed down"),
            (FaultKind::ClockAhead, _) => (self.seen, "milliseconds ahead"),
            (FaultKind::DeafPeer, _) => (effects.bytes_held, "bytes held back"),
            (FaultKind::DeafClient, _) => (self.seen, "clients closed by the node"),
            (FaultKind::Reset, _) => (effects.resets, "connections reset in mid-frame"),
            (FaultKind::Flip, _) => (effects.closed_by_node, "connections closed by the node"),
            (FaultKind::Duplicate, _) => (effects.duplicated, "frames or parts of them sent twice"),
            (FaultKind::DiskFull, _) => (self.seen, "writes refused"),
        };
        Observed { count, noun }
    }

    /// Waits until every connection that carried a wrong byte is closed by the node that received
    /// it, or was ended first by the node that dialled. The end of the fault must not do it.
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

    /// Number of writes that the full disk has refused so far. An error means that the log goes on.
    fn refusals(&self, nodes: &Nodes, victim: u16) -> Result<u64, String> {
        let status = survey::status(nodes.handle(victim))?;
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
            let resumed = poll_until(Instant::now() + CLOSE_TIMEOUT, || survey::resume(nodes.handle(victim)));
            self.complaints.extend(resumed.err().map(|why| format!("RESUME with space on the disk: {why}")));
        } else {
            self.complaints.extend(nodes.stop(victim).err());
            nodes.start(victim)?;
        }
        Ok(())
    }
}

/// A client that asks for far more than it takes, and reads nothing.
fn deaf_client(nodes: &Nodes, victim: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect_timeout(&nodes.handle(victim).addr.into(), Duration::from_secs(2))?;
    let mut stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all("DUMP\n".repeat(DUMPS_ASKED).as_bytes())?;
    Ok(stream)
}

/// Length of the log that is being written.
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

/// Limits the files of a node to this length; `None` lifts the limit. To the node it is a full
/// disk.
fn limit_files(nodes: &Nodes, victim: u16, len: Option<u64>) -> io::Result<()> {
    // Without a process id the limit would be this process's.
    let process = nodes.process_id(victim).ok_or_else(|| io::Error::other(format!("n{victim} does not run")))?;
    limit(process, Resource::Fsize, len).map(drop)
}
