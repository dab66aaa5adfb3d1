//! One connection and its thread: round after round, in a closed loop or on the schedule of an open
//! one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use kvmesh::client::{self, Client};
use kvmesh::wire::resp::encoding::request;

use crate::Options;
use crate::command_line::BenchProtocol;

use super::bench_run::{BenchRun, TimeSpan};
use super::measurements::{ErrorCounts, Measurements};
use super::reply_reader::{ReplyReader, ReplyVerdict};
use super::request_rounds::RequestRounds;
use super::schedule::Schedule;

/// The pause between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A thread that waits until a round is due checks this often whether the run is ended early.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub struct Worker<'a> {
    shared: &'a BenchRun,
    index: usize,
    /// The nodes to connect to: the first as long as it can be reached, then the others.
    addrs: Vec<String>,
    requests: RequestRounds,
    replies: ReplyReader,
    schedule: Option<Schedule>,
    /// The errors of the current round; kept so that a round allocates nothing.
    errors: ErrorCounts,
    /// Shared with the main thread, which shows the progress.
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

    /// Calls `ready` when this connection could begin, and begins when all can. Fails only if the
    /// measuring cannot begin.
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
            BenchProtocol::Resp => self.shared.options.connect_with(&self.addrs, greet),
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
                    let reply = client.reply()?;
                    if reply != expected {
                        return Err(client::unexpected(reply, "OK"));
                    }
                }
            }
        }
        Ok(client)
    }

    /// Sends rounds until the end of the run, or until it is ended early.
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
                    #[expect(clippy::disallowed_methods, reason = "a short pause of a thread that has nothing else to do")]
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                continue;
            };
            if due > now {
                #[expect(clippy::disallowed_methods, reason = "bounded by the pause between two looks at the end of the run")]
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

    /// Sends one round. Returns the operations that were done, or, if the connection broke, the
    /// number that were answered before.
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

    /// Counts a round. `counts`: it was sent after the warm-up. If it was due before, it counts as
    /// throughput, and its time as warm-up.
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
                // A round under way at the end shows in the latency, but is no throughput of the
                // measured time.
                measured.done += if now <= span.end && !self.shared.is_ended() { done } else { 0 };
            }
            Ok(_) => {}
            Err(answered) => measured.errors.count("LOST", self.requests.reads.len() as u64 - answered),
        }
    }

    /// Counts the rounds that an open loop could not send, because the rounds before took too long.
    /// Without them the longest waits would not show.
    fn note_unsent(&mut self, sent: u64, span: &TimeSpan) {
        let Some(schedule) = self.schedule else { return };
        let now = Instant::now();
        let first = sent.max(schedule.due_before(self.index, span.begin - span.start));
        let due = schedule.due_before(self.index, now.min(span.end) - span.start);
        let waited = |round| now - (span.start + schedule.due(self.index, first + round));
        self.measured.lock().record_unsent(due.saturating_sub(first), waited);
    }
}

/// Says who asks, and sets the ack level with kvmesh's own command, both in RESP.
fn greet(options: &Options, client: &mut Client) -> Result<(), client::Error> {
    if let Some(credentials) = &options.credentials {
        credentials.show_in_resp(client)?;
    }
    let Some(level) = options.ack else { return Ok(()) };
    let mut asked = Vec::new();
    request(&["ACK", &level.to_string()], &mut asked);
    client.send(&asked)?;
    match client.reply() {
        Ok(b"+OK") => Ok(()),
        Ok(reply) => Err(client::unexpected(reply, "+OK")),
        Err(client::Error::Refused { code, sentence }) if code == "ERR" => {
            let sentence = format!("{}; --ack is for kvmesh nodes, for a redis-server use --wait", sentence.trim_end());
            Err(client::Error::Refused { code, sentence })
        }
        Err(error) => Err(error),
    }
}

/// Lets this thread wake up precisely. A sleep may take 50 µs longer than asked for, so that the
/// system can combine wake-ups, and that would show in every round.
fn wake_precisely() {
    // If that fails, rounds are so much late.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_timerslack(1);
}
