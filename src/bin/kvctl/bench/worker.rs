//! One connection, and the thread that drives it: round after round, in a closed loop or on the schedule of an open one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use kvmesh::client::{self, Client};
use kvmesh::wire::resp::encoding::request;

use crate::Options;
use crate::command_line::BenchProtocol;

use super::measurements::{ErrorCounts, Measurements};
use super::reply_reader::{ReplyReader, ReplyVerdict};
use super::request_rounds::RequestRounds;
use super::schedule::Schedule;
use super::{BenchRun, TimeSpan};

/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Whoever waits until a round is due looks this often whether the run is ended early.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub struct Worker<'a> {
    shared: &'a BenchRun,
    index: usize,
    /// The node that it speaks with as long as it can, and then the others.
    addrs: Vec<String>,
    requests: RequestRounds,
    replies: ReplyReader,
    schedule: Option<Schedule>,
    /// Of the round that is under way; kept so that a round allocates nothing.
    errors: ErrorCounts,
    /// Whoever reports looks into it meanwhile.
    measured: Arc<Mutex<Measurements>>,
}

impl Worker<'_> {
    pub fn new(shared: &BenchRun, index: usize) -> Worker<'_> {
        let mut addrs = shared.options.nodes.clone();
        addrs.rotate_left(index % shared.options.nodes.len());
        Worker {
            shared,
            index,
            addrs,
            requests: RequestRounds::new(&shared.args, index),
            replies: ReplyReader::new(&shared.args),
            schedule: shared.schedule,
            errors: ErrorCounts::default(),
            measured: Arc::clone(&shared.measurements[index]),
        }
    }

    /// Calls `ready` when it could begin, and begins when all can. Fails only if the measuring cannot begin.
    pub fn run(mut self, ready: impl FnOnce()) -> Result<(), client::Error> {
        let client = self.connect_and_fill()?;
        ready();
        let span = *self.shared.span.wait();
        self.measure(client, &span);
        Ok(())
    }

    fn connect(&self) -> Result<Client, client::Error> {
        match self.shared.args.protocol {
            BenchProtocol::Text => self.shared.options.connect(&self.addrs),
            BenchProtocol::Resp => self.shared.options.connect_with(&self.addrs, agree_on_ack),
        }
    }

    fn connect_and_fill(&mut self) -> Result<Client, client::Error> {
        let mut client = self.connect()?;
        let args = &self.shared.args;
        if args.reads.0 > 0 {
            let expected: &[u8] = if args.protocol == BenchProtocol::Text { b"OK" } else { b"+OK" };
            let mut keys = (self.index..args.keys.0).step_by(args.clients.0).map(|key| key as u64).peekable();
            while keys.peek().is_some() {
                let written = self.requests.fill(&mut keys);
                client.send(&self.requests.round)?;
                for _ in 0..written {
                    let said = client.reply()?;
                    if said != expected {
                        return Err(client::unexpected(said, "OK"));
                    }
                }
            }
        }
        Ok(client)
    }

    /// Round after round to the end of the span, or until the run is ended early.
    fn measure(&mut self, client: Client, span: &TimeSpan) {
        if self.schedule.is_some() {
            wake_precisely();
        }
        let mut client = Some(client);
        let mut sent = 0;
        loop {
            let now = Instant::now();
            // In a closed loop a round is due when the one before it is answered.
            let due = self.schedule.map_or(now, |schedule| span.start + schedule.due(self.index, sent));
            if now >= span.end || due >= span.end || self.shared.is_ended() {
                break;
            }
            let Some(connection) = &mut client else {
                client = self.connect().ok();
                if client.is_none() {
                    self.addrs.rotate_left(1);
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                continue;
            };
            if due > now {
                std::thread::sleep((due - now).min(LOOK_PAUSE));
                continue;
            }
            sent += 1;
            self.requests.next_round();
            let answered = self.round(connection);
            self.note(answered, due, now >= span.begin, span);
            if answered.is_err() {
                client = None;
            }
        }
        self.note_unsent(sent, span);
    }

    /// Returns how many operations were done, or, if the connection broke, how many were answered before.
    fn round(&mut self, client: &mut Client) -> Result<u64, u64> {
        client.send(&self.requests.round).map_err(|_| 0u64)?;
        let mut done = 0;
        for (answered, is_read) in self.requests.reads.iter().enumerate() {
            match self.replies.read(client, *is_read, &mut self.errors) {
                Ok(ReplyVerdict::Done) => done += 1,
                Ok(ReplyVerdict::Refused) => {}
                Ok(ReplyVerdict::Astray) => return Err(answered as u64 + 1),
                Err(_) => return Err(answered as u64),
            }
        }
        Ok(done)
    }

    /// `counts`: it was sent when the warm-up was over. It may have been due before: then it is throughput, and its time is that of the warm-up.
    fn note(&mut self, answered: Result<u64, u64>, due: Instant, counts: bool, span: &TimeSpan) {
        let now = Instant::now();
        let mut measured = self.measured.lock();
        if counts {
            measured.errors.join(&self.errors);
        }
        self.errors.forget();
        match answered {
            Ok(done) if counts => {
                if due >= span.begin {
                    measured.record(now - due);
                }
                // A round that is still under way at the end shows in the latency, but is no throughput of the time measured.
                measured.done += if now <= span.end && !self.shared.is_ended() { done } else { 0 };
            }
            Ok(_) => {}
            Err(answered) => measured.errors.count("LOST", self.requests.reads.len() as u64 - answered),
        }
    }

    /// What an open loop had to leave undone, because the rounds before took too long: without it, the longest waits would not be seen.
    fn note_unsent(&mut self, sent: u64, span: &TimeSpan) {
        let Some(schedule) = self.schedule else { return };
        let now = Instant::now();
        let first = sent.max(schedule.due_before(self.index, span.begin - span.start));
        let due = schedule.due_before(self.index, now.min(span.end) - span.start);
        let waited = |round| now - (span.start + schedule.due(self.index, first + round));
        self.measured.lock().record_unsent(due.saturating_sub(first), waited);
    }
}

/// kvmesh's own command, in RESP.
fn agree_on_ack(options: &Options, client: &mut Client) -> Result<(), client::Error> {
    let Some(level) = options.ack else { return Ok(()) };
    let mut asked = Vec::new();
    request(&["ACK", &level.to_string()], &mut asked);
    client.send(&asked)?;
    match client.reply() {
        Ok(b"+OK") => Ok(()),
        Ok(said) => Err(client::unexpected(said, "+OK")),
        Err(client::Error::Refused { code, sentence }) if code == "ERR" => {
            let sentence = format!("{}; --ack is for kvmesh nodes, a redis-server is asked with --wait", sentence.trim_end());
            Err(client::Error::Refused { code, sentence })
        }
        Err(error) => Err(error),
    }
}

/// A sleep may be 50 us longer than asked for, so that wake-ups can be put together, and that would show in every round.
fn wake_precisely() {
    // Where it cannot be had, the rounds are that much late.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_timerslack(1);
}
